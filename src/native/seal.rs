//! The last process before the program: it locks itself and becomes the program.
//!
//! Limits first, then Landlock, then the filter of system calls, then the program's file. There is no way back, and
//! no half lock: what cannot be put in force is said, and unless it was waived nothing runs.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, NetPort, PathBeneath, PathFd, Ruleset, RulesetAttr as _,
    RulesetCreated, RulesetCreatedAttr as _, RulesetError, RulesetStatus, Scope, make_bitflags,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::channel::Channel;
use super::filter;
use super::plan::{Order, Plan, Said, Wall};
use super::root::{NODES, system};

/// The newest version whose rights are known here; the kernel's own is used where it is older.
const KNOWN: ABI = ABI::V9;
/// Descriptors of one process at once.
const OPEN_FILES: u64 = 65_536;

/// The whole life of this process, up to the program's.
pub(super) fn main() -> ExitCode {
    let Ok(first) = Channel::of_stdin() else { return ExitCode::FAILURE };
    let said = match life(&first) {
        Ok(error) => error,
        Err(said) => said,
    };
    let _ = first.send(&said, &[]);
    ExitCode::FAILURE
}

fn life(first: &Channel) -> Result<Said, Said> {
    let failed = |error: io::Error| Said::Failed(error.to_string());
    let Some((Order::Prepare(plan), streams)) = first.receive().map_err(failed)? else {
        return Err(Said::Failed("no plan came".into()));
    };
    let lacks = |wall, why: String| {
        let said = Said::Missing(wall, why);
        if !plan.waived.contains(&wall) { Err(said) } else { first.send(&said, &[]).map_err(failed) }
    };
    rustix::process::chdir(&plan.cwd)
        .map_err(|error| Said::Absent(126, format!("its folder {} cannot be entered: {error}", plan.cwd.display())))?;
    limit(&plan).map_err(|error| Said::Failed(format!("the limits of a process: {error}")))?;
    rustix::thread::set_no_new_privs(true).map_err(|error| failed(error.into()))?;
    if plan.wants(Wall::Landlock)
        && let Err(why) = fence(&plan)
    {
        lacks(Wall::Landlock, why)?;
    }
    if plan.wants(Wall::Seccomp)
        && let Err(why) = mute(&plan)
    {
        lacks(Wall::Seccomp, why)?;
    }
    hearing().map_err(failed)?;
    Ok(become_program(&plan, streams))
}

/// Has the program hear every signal that means something to it, even where whoever started the gate ignores it, as a
/// shell does for what it runs in the background: what is ignored stays so in a program, what is caught does not.
fn hearing() -> io::Result<()> {
    let heard = [
        libc::SIGHUP,
        libc::SIGINT,
        libc::SIGQUIT,
        libc::SIGUSR1,
        libc::SIGUSR2,
        libc::SIGTERM,
        libc::SIGCHLD,
        libc::SIGTSTP,
    ];
    heard.into_iter().try_for_each(|signal| signal_hook::flag::register(signal, Arc::default()).map(drop))
}

fn limit(plan: &Plan) -> rustix::io::Result<()> {
    for (resource, most) in [
        (Resource::Core, Some(0)),
        (Resource::Nofile, Some(OPEN_FILES)),
        (Resource::Fsize, Some(plan.file_bytes)),
        (Resource::Cpu, Some(plan.cpu_s)),
        (Resource::Msgqueue, Some(0)),
        (Resource::Data, plan.data_bytes),
        (Resource::Nproc, plan.processes),
    ] {
        let Some(most) = most else { continue };
        let most = getrlimit(resource).maximum.map_or(most, |ceiling| ceiling.min(most));
        setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })?;
    }
    Ok(())
}

/// Landlock: every right there is, denied everywhere but beneath what is granted.
fn fence(plan: &Plan) -> Result<(), String> {
    let told = |error: RulesetError| error.to_string();
    let mut rules = Ruleset::default()
        .handle_access(AccessFs::from_all(KNOWN))
        .and_then(|rules| rules.scope(Scope::from_all(KNOWN)))
        .map_err(told)?;
    if !plan.wants(Wall::Network) {
        // Without a network of its own at least no TCP but to the gate.
        rules = rules.handle_access(AccessNet::from_all(KNOWN)).map_err(told)?;
    }
    let mut rules = rules.create().map_err(told)?;
    if !plan.wants(Wall::Network) {
        for port in &plan.doors {
            rules = rules.add_rule(NetPort::new(*port, AccessNet::ConnectTcp)).map_err(told)?;
        }
    }
    let private = ["/tmp", "/dev/shm"].map(PathBuf::from);
    let nodes = NODES.iter().map(PathBuf::from).chain(plan.devices.iter().cloned());
    let seen = system(plan).into_iter().chain(["/proc".into(), "/dev".into()]).chain(plan.read.iter().cloned());
    rules = seen.into_iter().try_fold(rules, |rules, path| allow(rules, &path, reading()))?;
    rules = nodes.into_iter().try_fold(rules, |rules, path| allow(rules, &path, device()))?;
    rules = private.iter().chain(&plan.write).try_fold(rules, |rules, path| allow(rules, path, writing()))?;
    let status = rules.restrict_self().map_err(told)?;
    if status.ruleset == RulesetStatus::NotEnforced {
        return Err(format!("{:?}", status.landlock));
    }
    Ok(())
}

/// Rights of a folder, or of a file those that a file can have.
fn allow(rules: RulesetCreated, path: &Path, rights: BitFlags<AccessFs>) -> Result<RulesetCreated, String> {
    let Ok(opened) = PathFd::new(path) else { return Ok(rules) };
    let rights = if path.is_dir() { rights } else { rights & AccessFs::from_file(KNOWN) };
    rules.add_rule(PathBeneath::new(opened, rights)).map_err(|error| error.to_string())
}

fn reading() -> BitFlags<AccessFs> {
    make_bitflags!(AccessFs::{Execute | ReadFile | ReadDir})
}

fn device() -> BitFlags<AccessFs> {
    make_bitflags!(AccessFs::{ReadFile | WriteFile | IoctlDev})
}

/// Everything but to make devices and to talk to them.
fn writing() -> BitFlags<AccessFs> {
    AccessFs::from_all(KNOWN) & !make_bitflags!(AccessFs::{MakeChar | MakeBlock | IoctlDev})
}

fn mute(plan: &Plan) -> Result<(), String> {
    // Libraries that join several GPUs ask the kernel for the list of interfaces.
    let routes = plan.gpus > 1;
    for program in filter::filters(routes).map_err(|error| error.to_string())? {
        seccompiler::apply_filter(&program).map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// Becomes the program, or says why not with the code that a shell has for it.
fn become_program(plan: &Plan, streams: Vec<OwnedFd>) -> Said {
    let mut streams = streams.into_iter().map(Stdio::from);
    let mut next = || streams.next().unwrap_or_else(Stdio::null);
    let mut command = Command::new(&plan.program);
    if let Some((name, rest)) = plan.argv.split_first() {
        command.arg0(name).args(rest);
    }
    command.env_clear().envs(plan.env.iter().map(|(name, value)| (name, value)));
    let error = command.stdin(next()).stdout(next()).stderr(next()).exec();
    let code = if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 };
    Said::Absent(code, error.to_string())
}
