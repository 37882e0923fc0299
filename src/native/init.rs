//! The first process of the namespace: it builds the place, starts the program in it, and collects whoever ends.
//!
//! Its end is the end of every process of the namespace: the kernel sees to that. It keeps no capability once the
//! place is built, and no process of the namespace can signal, trace or read it.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::thread;

use caps::{CapSet, Capability};
use rustix::process::{
    DumpableBehavior, Pid, PidfdFlags, Signal, WaitOptions, kill_process, pidfd_open, pidfd_send_signal,
    set_dumpable_behavior, set_parent_process_death_signal, wait,
};

use super::channel::Channel;
use super::meter::text;
use super::plan::{Lacking, Order, Plan, Said, Wall};
use super::{SEAL, loopback, outer, root};

/// How long the launcher may be silent.
const SILENCE_MS: u64 = 15_000;

/// The number of the first process of every namespace.
const FIRST: i32 = 1;

/// The whole life of this process.
pub(super) fn main() -> ExitCode {
    let Ok(launcher) = Channel::of_stdin() else { return ExitCode::FAILURE };
    let launcher = Arc::new(launcher);
    match life(&launcher) {
        Ok(()) => ExitCode::SUCCESS,
        Err(said) => {
            let _ = launcher.send(&said, &[]);
            ExitCode::FAILURE
        }
    }
}

fn life(launcher: &Arc<Channel>) -> Result<(), Said> {
    let failed = |error: io::Error| Said::Failed(error.to_string());
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(|error| failed(error.into()))?;
    // The launcher looks after whoever started this process: only if that still lives does the plan come.
    launcher.send(&Said::Tied, &[]).map_err(failed)?;
    let Some((Order::Prepare(plan), streams)) = launcher.receive().map_err(failed)? else { return Ok(()) };
    let doors = network(&plan)?;
    let views = root::replace(&plan).map_err(Said::Failed)?;
    renounce()?;
    let (program, lacking) = start(&plan, streams)?;
    let handle = pidfd_open(program, PidfdFlags::empty()).map_err(|error| failed(error.into()))?;
    let files: Vec<BorrowedFd<'_>> =
        [&views.processes].into_iter().chain(&views.scratch).chain(&doors).map(|file| file.as_fd()).collect();
    launcher.send(&Said::Started(lacking), &files).map_err(failed)?;
    drop((views, doors));
    let ears = Arc::clone(launcher);
    let heard = thread::Builder::new().spawn(move || obey(&ears, &handle));
    heard.map_err(failed)?;
    let (code, signal) = collect(program).map_err(|error| failed(error.into()))?;
    launcher.send(&Said::Ended(code, signal), &[]).map_err(failed)?;
    // Until the launcher has looked at the meters; it says when, or is gone.
    loop {
        thread::park();
    }
}

fn network(plan: &Plan) -> Result<Vec<OwnedFd>, Said> {
    if !plan.wants(Wall::Network) {
        return Ok(Vec::new());
    }
    let on = loopback::switch_on();
    on.map_err(|error| Said::Missing(Wall::Network, format!("loopback cannot be switched on: {error}")))?;
    loopback::listen(&plan.doors).map_err(|error| Said::Failed(format!("a door to the gate: {error}")))
}

/// Every capability, for this process and for whatever it starts, root's included.
fn renounce() -> Result<(), Said> {
    let failed = |why: String| Said::Failed(format!("giving up capabilities: {why}"));
    let last = fs::read_to_string("/proc/sys/kernel/cap_last_cap").ok().and_then(|text| text.trim().parse::<u8>().ok());
    for capability in caps::all().into_iter().filter(|known| last.is_none_or(|last| known.index() <= last)) {
        caps::drop(None, CapSet::Bounding, capability).map_err(|error| failed(error.to_string()))?;
    }
    if last.is_some_and(|last| last > Capability::CAP_CHECKPOINT_RESTORE.index()) {
        return Err(failed("this kernel has capabilities that are not known here".into()));
    }
    for set in [CapSet::Ambient, CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
        caps::clear(None, set).map_err(|error| failed(error.to_string()))?;
    }
    rustix::thread::set_no_new_privs(true).map_err(|error| failed(error.to_string()))?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(|error| failed(error.to_string()))
}

/// Starts the program by way of a process that locks itself first; gives the walls that are lacking.
fn start(plan: &Plan, streams: Vec<OwnedFd>) -> Result<(Pid, Lacking), Said> {
    let failed = |error: io::Error| Said::Failed(error.to_string());
    let (near, far) = Channel::pair().map_err(failed)?;
    let mut command: Command = outer::again(SEAL);
    let command = command.stdin(far).stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn().map_err(failed)?;
    let program = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let program = program.ok_or_else(|| Said::Failed("the program has no number".into()))?;
    // The command holds the other end too; its end must be heard.
    command.stdin(Stdio::null());
    let files: Vec<BorrowedFd<'_>> = streams.iter().map(|file| file.as_fd()).collect();
    near.send(&Order::Prepare(Box::new(plan.clone())), &files).map_err(failed)?;
    let mut lacking = Vec::new();
    // Silence is success: the end is closed when the program takes over.
    while let Some((said, _)) = near.receive::<Said>().map_err(failed)? {
        match said {
            Said::Missing(wall, why) if plan.waived.contains(&wall) => lacking.push((wall, why)),
            other => return Err(other),
        }
    }
    Ok((program, lacking))
}

/// Waits for everybody, and gives how the program ended.
fn collect(program: Pid) -> rustix::io::Result<(Option<i32>, Option<i32>)> {
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((ended, status))) if ended == program => {
                return Ok((status.exit_status(), status.terminating_signal()));
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Does what the launcher orders; ends everything once the launcher is gone, or says nothing any more: one that was
/// stopped keeps no limit.
fn obey(launcher: &Channel, program: &OwnedFd) {
    while launcher.ready(SILENCE_MS).unwrap_or(false)
        && let Ok(Some((order, _))) = launcher.receive::<Order>()
    {
        let sent = match order {
            Order::Beat | Order::Prepare(_) => continue,
            Order::Leave => break,
            Order::Signal(number) => {
                Signal::from_named_raw(number).map_or(0, |signal| u64::from(pidfd_send_signal(program, signal).is_ok()))
            }
            Order::Checkpoint => signal_all(Signal::USR1, true),
            Order::Terminate => signal_all(Signal::TERM, false),
        };
        if !launcher.offer(&Said::Sent(sent)) {
            break;
        }
    }
    std::process::exit(0);
}

/// Signals every other process, or those that have a handler for it; gives how many.
fn signal_all(signal: Signal, caught: bool) -> u64 {
    let numbers = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let told = numbers.filter(|number| *number != FIRST && (!caught || catches(*number, signal)));
    let sent = told.filter_map(Pid::from_raw).filter(|process| kill_process(*process, signal).is_ok());
    u64::try_from(sent.count()).unwrap_or(u64::MAX)
}

fn catches(number: i32, signal: Signal) -> bool {
    let status = text(Path::new(&format!("/proc/{number}/status")));
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default();
    mask & (1 << (signal.as_raw() - 1)) != 0
}
