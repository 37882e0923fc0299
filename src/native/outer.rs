//! The process between the launcher and the namespace: it makes the namespaces, starts their first process, and waits.
//!
//! It ends with the launcher, and the first process ends with it: so a launcher that is killed leaves nothing behind.
//! It runs nobody's code but this program's.

use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode, Stdio};
use std::{env, fs};

use caps::{CapSet, Capability};
use rustix::net::sockopt::socket_peercred;
use rustix::process::{
    DumpableBehavior, Pid, PidfdFlags, Signal, getppid, pidfd_open, set_dumpable_behavior,
    set_parent_process_death_signal, setsid,
};
use rustix::thread::UnshareFlags;

use super::INIT;
use super::channel::Channel;
use super::plan::{Order, Plan, Said, Wall};

/// The whole life of this process.
pub(super) fn main() -> ExitCode {
    let Ok(launcher) = Channel::of_stdin() else { return ExitCode::FAILURE };
    match life(&launcher) {
        Ok(()) => ExitCode::SUCCESS,
        Err(said) => {
            let _ = launcher.send(&said, &[]);
            ExitCode::FAILURE
        }
    }
}

fn life(launcher: &Channel) -> Result<(), Said> {
    // Whatever the launcher left open by accident goes no further.
    close_fds::set_fds_cloexec(3, &[]);
    let failed = |error: io::Error| Said::Failed(error.to_string());
    let Some((Order::Prepare(plan), _)) = launcher.receive().map_err(failed)? else {
        return Err(Said::Failed("the launcher said nothing".into()));
    };
    // In a session of its own the terminal's keys go to the launcher alone, which hands them on.
    setsid().map_err(|error| Said::Failed(error.to_string()))?;
    separate(&plan)?;
    tie(launcher)?;
    let mut first = again(INIT);
    let first = first.stdin(launcher.copy().map_err(failed)?).stdout(Stdio::null()).stderr(Stdio::null());
    let mut first = first.spawn().map_err(failed)?;
    let number = i32::try_from(first.id()).ok().and_then(Pid::from_raw);
    let number = number.ok_or_else(|| Said::Failed("the first process has no number".into()))?;
    let handle = pidfd_open(number, PidfdFlags::empty()).map_err(|error| Said::Failed(error.to_string()))?;
    launcher.send(&Said::Made, &[handle.as_fd()]).map_err(failed)?;
    drop(handle);
    first.wait().map(drop).map_err(failed)
}

/// This program in another role: the same words with the last one changed.
pub(super) fn again(role: &str) -> Command {
    let mut words: Vec<_> = env::args_os().skip(1).collect();
    words.pop();
    let mut command = Command::new("/proc/self/exe");
    command.arg0(role).args(words).arg(role).env_clear();
    command
}

fn separate(plan: &Plan) -> Result<(), Said> {
    if let Some((user, group)) = plan.as_user {
        apart(UnshareFlags::NEWUSER).map_err(|error| refused("a user namespace", &error))?;
        let written = fs::write("/proc/self/setgroups", "deny")
            .and_then(|()| fs::write("/proc/self/uid_map", format!("{user} {user} 1")))
            .and_then(|()| fs::write("/proc/self/gid_map", format!("{group} {group} 1")));
        written.map_err(|error| refused("a user namespace", &error))?;
        hand_on().map_err(|error| refused("capabilities in a user namespace", &error))?;
    }
    let spaces = UnshareFlags::NEWPID | UnshareFlags::NEWNS | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS;
    apart(spaces).map_err(|error| refused("namespaces of processes and mounts", &error))?;
    if plan.wants(Wall::Network) {
        let made = apart(UnshareFlags::NEWNET);
        made.map_err(|error| Said::Missing(Wall::Network, format!("the kernel made no network namespace: {error}")))?;
    }
    Ok(())
}

/// What the first process needs to build the place: within a user namespace only what is ambient lasts.
fn hand_on() -> io::Result<()> {
    for capability in [Capability::CAP_SYS_ADMIN, Capability::CAP_NET_ADMIN, Capability::CAP_SETPCAP] {
        for set in [CapSet::Inheritable, CapSet::Ambient] {
            caps::raise(None, set, capability).map_err(io::Error::other)?;
        }
    }
    Ok(())
}

#[expect(
    deprecated,
    reason = "unsound only with CLONE_FILES, which no caller here names, and this process has one thread"
)]
fn apart(flags: UnshareFlags) -> io::Result<()> {
    Ok(rustix::thread::unshare(flags)?)
}

fn refused(what: &str, error: &io::Error) -> Said {
    Said::Failed(format!(
        "this machine gives no {what} ({error}), and without them nothing ends a tree of processes for certain; run as \
         root, or have user namespaces switched on (sysctl user.max_user_namespaces, \
         kernel.apparmor_restrict_unprivileged_userns=0); in a container, permit unshare and mount"
    ))
}

/// Ends with the launcher, however that ends.
fn tie(launcher: &Channel) -> Result<(), Said> {
    let failed = |error: rustix::io::Errno| Said::Failed(error.to_string());
    let gate = socket_peercred(launcher.fd()).map_err(failed)?;
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(failed)?;
    // A launcher that died before the line above sends no signal; then somebody else is the parent by now.
    if getppid() != Some(gate.pid) {
        return Err(Said::Failed("the launcher is gone".into()));
    }
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(failed)
}
