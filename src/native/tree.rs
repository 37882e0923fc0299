//! The tree of processes as the launcher holds it: started in steps, asked, and ended as one.
//!
//! What is held is a handle of the namespace's first process: its end is the end of all, and is seen when it has come.
//! Dropping a tree ends it.

use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Signal, pidfd_send_signal};

use super::OUTER;
use super::cgroup::Cgroup;
use super::channel::Channel;
use super::clock::spec;
use super::place::StartFault;
use super::plan::{Lacking, Order, Plan, Said};

/// How long the kernel may take to end everybody: memory of a large program is not given back at once.
const END_MS: u64 = 10_000;
/// How long the processes that put up the walls may take for one step.
const STEP_MS: u64 = 20_000;
/// How long, and how often, one waits for the process in between.
const WAITS: u32 = 200;
const WAIT: Duration = Duration::from_millis(5);

/// A started tree.
#[derive(Debug)]
pub(super) struct Tree {
    outer: Child,
    channel: Channel,
    first: Option<OwnedFd>,
    gone: bool,
}

/// What came with the start.
#[derive(Debug)]
pub(super) struct Begun {
    pub lacking: Lacking,
    pub processes: OwnedFd,
    pub scratch: Vec<OwnedFd>,
    pub doors: Vec<TcpListener>,
}

impl Tree {
    /// Starts `plan` with `again`, the words by which this program takes on another role, in `group`.
    ///
    /// # Errors
    /// Whatever kept the program from being started; nothing of it is left then.
    pub(super) fn start(
        again: &mut Command,
        plan: &Plan,
        group: &Cgroup,
        streams: [BorrowedFd<'_>; 3],
    ) -> Result<(Self, Begun), StartFault> {
        let failed = |error: io::Error| StartFault::Failed(format!("the walls cannot be put up: {error}"));
        let (channel, far) = Channel::pair().map_err(failed)?;
        let again = again.arg0(OUTER).arg(OUTER).env_clear().stdin(far).stdout(Stdio::null()).stderr(Stdio::null());
        let outer = again.spawn().map_err(failed)?;
        // The command holds the far end too, and its end must be heard.
        again.stdin(Stdio::null());
        let mut tree = Self { outer, channel, first: None, gone: false };
        group.take(tree.outer.id()).map_err(failed)?;
        let plan = Order::Prepare(Box::new(plan.clone()));
        tree.channel.send(&plan, &[]).map_err(failed)?;
        // Two processes speak, in any order: the one that made the first, and the first itself.
        let mut tied = false;
        while tree.first.is_none() || !tied {
            match tree.hear()? {
                (Said::Made, mut files) => tree.first = files.pop(),
                (Said::Tied, _) => tied = true,
                (said, _) => return Err(fault(said)),
            }
        }
        // The first process goes with the one that made it, from now on; before, it might have missed its end.
        if !matches!(tree.outer.try_wait(), Ok(None)) {
            return Err(StartFault::Failed("the process that puts up the walls is gone".into()));
        }
        tree.channel.send(&plan, &streams).map_err(failed)?;
        match tree.hear()? {
            (Said::Started(lacking), files) => Ok((tree, begun(lacking, files)?)),
            (said, _) => Err(fault(said)),
        }
    }

    fn hear(&self) -> Result<(Said, Vec<OwnedFd>), StartFault> {
        let failed = |error: io::Error| StartFault::Failed(format!("the walls cannot be put up: {error}"));
        if !self.channel.ready(STEP_MS).map_err(failed)? {
            return Err(StartFault::Failed("the walls are not put up in time".into()));
        }
        let silent = || StartFault::Failed("the process that puts up the walls ended without a word".into());
        self.channel.receive().map_err(failed)?.ok_or_else(silent)
    }

    /// What is said within `millis`, if anything; `Err` once nobody is there.
    pub(super) fn next(&self, millis: u64) -> Result<Option<Said>, ()> {
        match self.channel.ready(millis) {
            Ok(false) => Ok(None),
            Ok(true) => self.channel.receive().ok().flatten().map(|(said, _)| Some(said)).ok_or(()),
            Err(_) => Err(()),
        }
    }

    /// Orders something, if that can be said at once: a first process that was stopped must not stop the launcher.
    pub(super) fn order(&self, order: &Order) {
        let _ = self.channel.offer(order);
    }

    /// Ends everybody and waits for that; false when the kernel did not do it in time.
    pub(super) fn end(&mut self, group: &Cgroup) -> bool {
        if let Some(first) = &self.first {
            let _ = pidfd_send_signal(first, Signal::KILL);
        }
        group.end();
        self.wait()
    }

    /// Waits until the last process is gone; false when that takes too long.
    pub(super) fn wait(&mut self) -> bool {
        if !self.gone {
            self.gone = self.first.as_ref().is_none_or(|first| ended(first, END_MS)) && self.reap();
        }
        self.gone
    }

    fn reap(&mut self) -> bool {
        if self.first.is_none() {
            let _ = self.outer.kill();
        }
        (0..WAITS).any(|_| {
            let ended = !matches!(self.outer.try_wait(), Ok(None));
            if !ended {
                thread::sleep(WAIT);
            }
            ended
        })
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        if self.gone {
            return;
        }
        if let Some(first) = &self.first {
            let _ = pidfd_send_signal(first, Signal::KILL);
        }
        if !self.wait() {
            let _ = self.outer.kill();
            let _ = self.outer.try_wait();
        }
    }
}

fn ended(first: &OwnedFd, millis: u64) -> bool {
    let mut polled = [PollFd::from_borrowed_fd(first.as_fd(), PollFlags::IN)];
    rustix::io::retry_on_intr(|| poll(&mut polled, Some(&spec(millis)))).is_ok_and(|count| count > 0)
}

fn begun(lacking: Lacking, files: Vec<OwnedFd>) -> Result<Begun, StartFault> {
    let mut files = files.into_iter();
    let processes = files.next().ok_or_else(|| StartFault::Failed("no view of the processes came".into()))?;
    let scratch = files.by_ref().take(2).collect();
    Ok(Begun { lacking, processes, scratch, doors: files.map(TcpListener::from).collect() })
}

fn fault(said: Said) -> StartFault {
    match said {
        Said::Missing(wall, why) => StartFault::Missing(wall, why),
        Said::Absent(code, why) => StartFault::Absent(code, format!("the program cannot be run: {why}")),
        Said::Failed(why) => StartFault::Failed(why),
        _ => StartFault::Failed("the process that puts up the walls said something unexpected".into()),
    }
}
