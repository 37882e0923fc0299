//! One run: started, looked at every fifth of a second, warned, told to save its state, ended.
//!
//! Time is looked at more often than the meters. At the limit of wall time, or shortly before that of processor time,
//! the program is told to save its state and has the grace to do so; at every other limit it is ended at once.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::Ordering;

use super::cgroup::{Cgroup, PREFIX, Wanted};
use super::clock::Watch;
use super::disk::{self, Disk};
use super::door::Doors;
use super::gpu::Held;
use super::meter::{Meter, Sample};
use super::place::{self, Ground, OWN_PROCESSES, Request, StartFault};
use super::plan::{Lacking, Order, Plan, Said, Wall};
use super::report::{self, End, Progress, Stop};
use super::tree::{Begun, Tree};
use super::{Asks, Launcher};
use crate::model::{Amounts, ExecGrant, ExecLimits, Kind, Outcome};

/// How often time and orders are looked at, the meters are, and what is used is posted.
const BEAT_MS: u64 = 25;
const LOOK_MS: u64 = 200;
const POST_MS: u64 = 10_000;

/// Runs `request` within `grant`.
pub(super) fn launch(
    launcher: &Launcher,
    request: &Request,
    grant: &ExecGrant,
    asks: &dyn Asks,
    name: &str,
) -> Outcome {
    match Run::start(launcher, request, grant, asks, name) {
        Ok(run) => run.finish(),
        Err(fault) => report::not_started(&fault),
    }
}

/// A request to save, and when it was made.
struct Saving {
    kind: Kind,
    at: u64,
    terminated: bool,
}

struct Run<'a> {
    launcher: &'a Launcher,
    asks: &'a dyn Asks,
    limits: ExecLimits,
    held: Held,
    // In the order in which they must go: the group last, when nobody is in it.
    tree: Tree,
    disk: Disk,
    meter: Meter,
    _doors: Doors,
    group: Cgroup,
    lacking: Lacking,
    began: Watch,
    sample: Sample,
    /// Wall and processor time of the look before.
    before: (u64, u64),
    saving: Option<Saving>,
    signals: u32,
    parts: u64,
    posted: Amounts,
}

impl<'a> Run<'a> {
    fn start(
        launcher: &'a Launcher,
        request: &Request,
        grant: &ExecGrant,
        asks: &'a dyn Asks,
        name: &str,
    ) -> Result<Self, StartFault> {
        let failed = |what: &str, error: io::Error| StartFault::Failed(format!("{what}: {error}"));
        let held = Held::take(&*launcher.board, grant.gpus).map_err(StartFault::Failed)?;
        let (walls, mut lacking) = ground(launcher)?;
        let ground = Ground {
            doors: &launcher.doors,
            environment: &launcher.environment,
            walls,
            waived: launcher.without.clone(),
        };
        let mut plan = place::plan(grant, request, &ground, &held)?;
        let group = bounded(launcher, grant, &mut plan, &mut lacking, name)?;
        let folders: Vec<PathBuf> = topmost(&plan.write);
        let blind = |error| failed("a folder in `write` of [exec] cannot be looked through", error);
        let before = disk::lying(&folders).map_err(blind)?;
        let (mut again, streams) = (Command::new(&launcher.again.0), Streams::of(launcher));
        again.args(&launcher.again.1);
        // GPUs are held from here on; that walls cost time is not the budget's loss.
        let began = Watch::start();
        let (tree, begun) = begin(&mut again, &mut plan, &group, streams.each(), &mut lacking)?;
        lacking.extend(begun.lacking);
        let mut doors = Doors::default();
        for (listener, port) in begun.doors.into_iter().zip(&plan.doors) {
            let Some(door) = launcher.doors.iter().find(|door| door.port == *port) else { continue };
            doors.open(listener, door.way.clone()).map_err(|error| failed("a door to the gate", error))?;
        }
        let meter = Meter::new(begun.processes, begun.scratch);
        let disk = Disk::watch(folders, before, meter.folder()).map_err(blind)?;
        Ok(Self {
            launcher,
            asks,
            limits: grant.limits,
            held,
            tree,
            disk,
            meter,
            _doors: doors,
            group,
            lacking,
            began,
            sample: Sample::default(),
            before: (0, 0),
            saving: None,
            signals: 0,
            parts: 0,
            posted: Amounts::ZERO,
        })
    }

    /// Runs to the end and says what came of it.
    fn finish(mut self) -> Outcome {
        let end = self.watch();
        if matches!(end, End::Stopped(_)) {
            // Nobody does anything between the last look and the end.
            self.group.freeze();
            self.sample = self.meter.look(&self.group);
            self.tree.end(&self.group);
        } else {
            self.sample = self.meter.look(&self.group);
            self.tree.order(&Order::Leave);
        }
        let gone = self.tree.wait() || self.tree.end(&self.group);
        // The kernel's own count still stands when nobody is left.
        self.sample.cpu_ms = self.sample.cpu_ms.max(self.group.cpu_ms().unwrap_or(0));
        self.sample.processes = 0;
        self.tell();
        report::outcome(end, self.spent(), &self.lacking, self.group.starved(), gone)
    }

    fn watch(&mut self) -> End {
        let (mut looked, mut posted) = (0, 0);
        loop {
            match self.tree.next(BEAT_MS) {
                Ok(Some(Said::Ended(code, signal))) => return self.own(code, signal),
                Ok(Some(Said::Sent(0))) if self.saving.is_some() => self.terminate(),
                Ok(_) => {}
                Err(()) => return End::Stopped(Stop::Lost),
            }
            let now = self.began.millis();
            if now >= looked + LOOK_MS || looked == 0 {
                looked = now;
                self.look(now);
            }
            if now >= posted + POST_MS {
                posted = now;
                if !self.post() {
                    return End::Stopped(Stop::Unrecorded);
                }
            }
            if let Some(stop) = self.heard().or_else(|| self.over(now)) {
                return End::Stopped(stop);
            }
            self.save(now);
        }
    }

    /// A program that was told to save its state and did so in time has reached its limit all the same.
    fn own(&self, code: Option<i32>, signal: Option<i32>) -> End {
        let saved = self.saving.as_ref();
        saved.map_or(End::Own(code, signal), |saving| End::Saved(saving.kind, code))
    }

    fn look(&mut self, now: u64) {
        self.tree.order(&Order::Beat);
        self.before = (now, self.sample.cpu_ms);
        self.sample = self.meter.look(&self.group);
        self.tell();
    }

    fn tell(&self) {
        let load = |uuid: &String| self.launcher.board.load(uuid);
        let loads: Vec<u32> = self.held.uuids.iter().filter_map(load).collect();
        let gpu_load = (!loads.is_empty()).then(|| loads.iter().sum());
        (self.launcher.watch)(&Progress {
            spent: self.spent(),
            limits: report::limits(&self.limits, self.gpus()),
            processes: self.sample.processes,
            gpu_load,
            saving: self.saving.as_ref().map(|saving| saving.kind),
        });
    }

    fn gpus(&self) -> u32 {
        u32::try_from(self.held.uuids.len()).unwrap_or(u32::MAX)
    }

    fn spent(&self) -> Amounts {
        let wall = self.began.millis();
        Amounts::ZERO
            .with(Kind::WallMs, wall)
            .with(Kind::CpuMs, self.sample.cpu_ms)
            .with(Kind::MemoryBytes, self.sample.memory_bytes)
            .with(Kind::DiskBytes, self.disk.grown())
            .with(Kind::GpuMs, wall.saturating_mul(u64::from(self.gpus())))
    }

    /// What has been used since the last part.
    fn post(&mut self) -> bool {
        let spent = self.spent();
        let flows = [Kind::WallMs, Kind::CpuMs, Kind::GpuMs];
        let since = |sum: Amounts, kind: &Kind| sum.with(*kind, spent.of(*kind).saturating_sub(self.posted.of(*kind)));
        let part = flows.iter().fold(Amounts::ZERO, since);
        self.posted = spent;
        self.parts += 1;
        self.asks.post(self.parts, part)
    }

    /// What the run's user and its account say.
    fn heard(&mut self) -> Option<Stop> {
        if self.asks.cancelled() {
            return Some(Stop::Cancelled);
        }
        let number =
            i32::try_from(self.launcher.signal.swap(0, Ordering::AcqRel)).ok().filter(|number| *number != 0)?;
        self.signals += 1;
        if self.signals > 1 {
            return Some(Stop::Interrupted(number));
        }
        self.tree.order(&Order::Signal(number));
        None
    }

    /// The limit that is reached, if one is.
    fn over(&self, now: u64) -> Option<Stop> {
        let (limits, sample) = (&self.limits, &self.sample);
        let end = limits.wall_ms.0.saturating_add(limits.grace_ms.0);
        let saved = self.saving.as_ref().filter(|saving| now >= saving.at.saturating_add(limits.grace_ms.0));
        match () {
            () if now >= end => Some(Stop::Limit(Kind::WallMs)),
            () if sample.cpu_ms >= limits.cpu_ms.0 => Some(Stop::Limit(Kind::CpuMs)),
            () if sample.starved || sample.memory_bytes > limits.memory_bytes => Some(Stop::Limit(Kind::MemoryBytes)),
            () if sample.processes > limits.processes => Some(Stop::Processes),
            () if self.disk.grown() > limits.disk_bytes => Some(Stop::Limit(Kind::DiskBytes)),
            () if self.disk.is_blind() => Some(Stop::Blind),
            () => saved.map(|saving| Stop::Limit(saving.kind)),
        }
    }

    /// Tells the program to save its state when it is time, and to end when half of its grace has gone.
    fn save(&mut self, now: u64) {
        let half = self.limits.grace_ms.0 / 2;
        match &self.saving {
            None => {
                if let Some(kind) = self.due(now) {
                    self.saving = Some(Saving { kind, at: now, terminated: false });
                    self.tree.order(&Order::Checkpoint);
                }
            }
            Some(saving) if !saving.terminated && now >= saving.at.saturating_add(half) => self.terminate(),
            Some(_) => {}
        }
    }

    /// The kind whose limit comes within the grace: wall time has its grace after the limit, processor time before.
    fn due(&self, now: u64) -> Option<Kind> {
        if now >= self.limits.wall_ms.0 {
            return Some(Kind::WallMs);
        }
        let (wall, cpu) = self.before;
        let passed = now.saturating_sub(wall).max(1);
        let rate = u128::from(self.sample.cpu_ms.saturating_sub(cpu)) * u128::from(self.limits.grace_ms.0);
        let soon = u128::from(self.sample.cpu_ms) + rate / u128::from(passed.max(LOOK_MS));
        (cpu > 0 && soon >= u128::from(self.limits.cpu_ms.0)).then_some(Kind::CpuMs)
    }

    fn terminate(&mut self) {
        if let Some(saving) = self.saving.as_mut().filter(|saving| !saving.terminated) {
            saving.terminated = true;
            self.tree.order(&Order::Terminate);
        }
    }
}

/// The program's standard streams.
enum Streams<'a> {
    Given(&'a [std::os::fd::OwnedFd; 3]),
    Own(io::Stdin, io::Stdout, io::Stderr),
}

impl<'a> Streams<'a> {
    fn of(launcher: &'a Launcher) -> Self {
        launcher.streams.as_ref().map_or_else(|| Self::Own(io::stdin(), io::stdout(), io::stderr()), Self::Given)
    }

    fn each(&self) -> [BorrowedFd<'_>; 3] {
        match self {
            Self::Given(files) => files.each_ref().map(|file| file.as_fd()),
            Self::Own(input, output, error) => [input.as_fd(), output.as_fd(), error.as_fd()],
        }
    }
}

/// The walls to put up from inside, and those that are avoided and may be.
fn ground(launcher: &Launcher) -> Result<(BTreeSet<Wall>, Lacking), StartFault> {
    let inside = BTreeSet::from([Wall::Network, Wall::Landlock, Wall::Seccomp]);
    let mut lacking = Vec::new();
    for wall in inside.intersection(&launcher.avoid) {
        lack(launcher, *wall, "this machine is said not to have it".into(), &mut lacking)?;
    }
    Ok((inside.difference(&launcher.avoid).copied().collect(), lacking))
}

fn lack(launcher: &Launcher, wall: Wall, why: String, lacking: &mut Lacking) -> Result<(), StartFault> {
    if !launcher.without.contains(&wall) {
        return Err(StartFault::Missing(wall, why));
    }
    lacking.push((wall, why));
    Ok(())
}

/// The control group, and limits of each process where it does not limit all of them together.
fn bounded(
    launcher: &Launcher,
    grant: &ExecGrant,
    plan: &mut Plan,
    lacking: &mut Lacking,
    name: &str,
) -> Result<Cgroup, StartFault> {
    let (limits, may) = (&grant.limits, |wall| !launcher.avoid.contains(&wall));
    let wanted = Wanted {
        memory_bytes: may(Wall::Memory).then_some(limits.memory_bytes),
        processes: may(Wall::Processes).then(|| limits.processes.saturating_add(OWN_PROCESSES)),
        cpu: may(Wall::Cpu),
    };
    let name = format!("{PREFIX}{}-{name}", std::process::id());
    let group = Cgroup::make(&name.replace(['/', ':'], "-"), launcher.cgroup.as_deref(), &wanted);
    let none = || "no control group could be made for it".to_owned();
    if !group.bounds_memory() {
        lack(launcher, Wall::Memory, none(), lacking)?;
        // Of each process at least; a GPU's libraries reserve far more than they use.
        plan.data_bytes = (grant.gpus == 0).then_some(limits.memory_bytes);
    }
    // The kernel counts the processes of an ordinary user in a namespace of its own; root's it does not.
    let counted = plan.as_user.is_some_and(|(user, _)| user != 0) && may(Wall::Processes);
    if !counted {
        plan.processes = None;
    }
    if !group.bounds_processes() && !counted {
        lack(launcher, Wall::Processes, none(), lacking)?;
    }
    if !group.counts_cpu() {
        lack(launcher, Wall::Cpu, none(), lacking)?;
    }
    Ok(group)
}

/// Starts; a wall that turns out to be missing and may be is left out at a second try.
fn begin(
    again: &mut Command,
    plan: &mut Plan,
    group: &Cgroup,
    streams: [BorrowedFd<'_>; 3],
    lacking: &mut Lacking,
) -> Result<(Tree, Begun), StartFault> {
    let mut words = Command::new(again.get_program());
    words.args(again.get_args());
    match Tree::start(again, plan, group, streams) {
        Err(StartFault::Missing(wall, why)) if plan.waived.contains(&wall) && plan.walls.remove(&wall) => {
            lacking.push((wall, why));
            begin(&mut words, plan, group, streams, lacking)
        }
        started => started,
    }
}

/// Folders that lie in none of the others: what lies in one counts once.
fn topmost(folders: &[PathBuf]) -> Vec<PathBuf> {
    let real: BTreeSet<PathBuf> = folders.iter().filter_map(|folder| folder.canonicalize().ok()).collect();
    let within = |folder: &PathBuf| real.iter().any(|other| other != folder && folder.starts_with(other));
    real.iter().filter(|folder| !within(folder)).cloned().collect()
}
