//! The second wall: what a worker gives up before it runs anybody's code.
//!
//! Should a guest ever break out of WebAssembly, it finds a process without files, network, children, capabilities
//! or new code, under limits of the kernel. [`shed`] comes first of all, [`lock`] last before the guest runs. There
//! is no way back, and no half lock: whatever cannot be put in force is a [`JailFault`], and the worker must end.

use std::io::{self, IsTerminal as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::{env, fs, process};

use caps::{CapSet, Capability, CapsHashSet};
use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, LandlockStatus, PathBeneath, PathFd, RestrictionStatus, Ruleset,
    RulesetAttr as _, RulesetCreatedAttr as _, RulesetStatus, Scope, make_bitflags,
};
use rustix::net::sockopt::socket_peercred;
use rustix::process::{DumpableBehavior, Resource, Rlimit, Signal};
use rustix::process::{getppid, getrlimit, set_dumpable_behavior, set_parent_process_death_signal, setrlimit};
use serde::{Deserialize, Serialize};

use super::filter::{self, Paths};
use crate::model::Access;

/// What a worker keeps; everything else is gone after [`lock`].
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Cell {
    /// The only folders of the file system that can be opened.
    pub folders: Vec<(PathBuf, Access)>,
    /// Private writable memory in bytes, of the whole process: what is mapped, not what is touched. Address space
    /// that is only reserved is free; a thread's or a guest's stack counts in full.
    pub memory_bytes: u64,
    /// Descriptors at once.
    pub open_files: u64,
    /// Size that any one file can be made to have, in bytes.
    pub file_bytes: u64,
}

/// What is in force, as far as the kernel told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Locked {
    /// The kernel's version of Landlock, as far as it is known here; all rights of it are handled.
    pub landlock: i32,
    /// Whether Landlock denies TCP as well.
    pub network: bool,
    /// Whether Landlock denies abstract sockets and signals out of the worker as well.
    pub scopes: bool,
    /// System calls that are permitted.
    pub calls: usize,
    /// System calls that end the process.
    pub deadly_calls: usize,
    /// The limits, as asked for.
    pub memory_bytes: u64,
    pub open_files: u64,
    pub file_bytes: u64,
}

/// Why a worker cannot be locked, and what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JailFault {
    #[error(
        "this kernel has no Landlock in force ({0}), so generated code would have one wall only; use Linux 5.13 or \
         later with `landlock` among its security modules (boot parameter lsm=); in a container, permit the \
         landlock_* system calls"
    )]
    Landlock(String),
    #[error(
        "system calls cannot be filtered here ({0}), so generated code would have one wall only; use a kernel with \
         CONFIG_SECCOMP_FILTER on x86_64 or aarch64; in a container, permit the seccomp system call"
    )]
    Seccomp(String),
    #[error("a worker must be locked while it has one thread, and it has {0}: threads started before stay outside")]
    Threads(usize),
    #[error("a worker must start with an empty environment, and this one holds {0} variables: clear it when spawning")]
    Environment(usize),
    #[error("descriptor {0} of the worker leads somewhere it must not: give it what the gate made, and no terminal")]
    Descriptor(u32),
    #[error("the gate that started this worker is gone, or standard input is not its socket")]
    Orphan,
    #[error("the worker maps {used} bytes of memory before its guest starts, and may have {limit}: raise the limit")]
    Memory { used: u64, limit: u64 },
    #[error("a granted folder cannot be opened: {0}; create it, or take it out of the policy")]
    Folder(String),
    #[error("{0} cannot be put in force: {1}; run the gate as a user who may lower its own limits, with /proc mounted")]
    Process(&'static str, String),
}

/// Descriptors 0, 1 and 2: the gate's socket, and where output goes to nobody.
const OWN: u32 = 3;
/// The name under which a worker that had inherited descriptors starts itself again.
const BARE: &str = "weir-bare";
/// The newest version whose rights are known here; the kernel's own is used where it is older.
const KNOWN: ABI = ABI::V9;
/// The most stack of the first thread: it does not count as memory.
const STACK: u64 = 8 << 20;

/// Gets rid of inherited descriptors other than 0, 1, 2 and those of `keep`: the first act of a worker, before it
/// opens anything. Where there are any, the program starts itself anew without them and does not come back here.
///
/// # Errors
/// They cannot be listed, or are there again.
pub(crate) fn shed(keep: &[i32]) -> Result<(), JailFault> {
    let Some(foreign) = inherited(keep)?.first().copied() else { return Ok(()) };
    let mut arguments = env::args_os();
    if arguments.next().is_some_and(|name| name == BARE) {
        return Err(JailFault::Descriptor(foreign));
    }
    close_fds::set_fds_cloexec(3, keep);
    let failed = Command::new("/proc/self/exe").arg0(BARE).args(arguments).exec();
    Err(JailFault::Process("starting without inherited descriptors", failed.to_string()))
}

fn inherited(keep: &[i32]) -> Result<Vec<u32>, JailFault> {
    let listed = numbers("/proc/self/fd")?;
    let kept = |number: &u32| *number < OWN || keep.iter().any(|kept| u32::try_from(*kept) == Ok(*number));
    // The listing's own descriptor is among those listed, and gone by now.
    let open = |number: &u32| fs::symlink_metadata(format!("/proc/self/fd/{number}")).is_ok();
    Ok(listed.into_iter().filter(|number| !kept(number) && open(number)).collect())
}

fn numbers(folder: &str) -> Result<Vec<u32>, JailFault> {
    let told = |error: io::Error| JailFault::Process("a look at the own process", error.to_string());
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(told)? {
        found.extend(entry.map_err(told)?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()));
    }
    Ok(found)
}

/// Locks this process for good: the threads it starts from now on are locked too.
///
/// # Errors
/// See [`JailFault`]; the process is then partly locked and must end.
pub(crate) fn lock(cell: &Cell) -> Result<Locked, JailFault> {
    examine(cell)?;
    renounce(cell)?;
    tie_to_gate()?;
    limit(cell)?;
    let fenced = fence(cell)?;
    let (calls, deadly_calls) = mute(cell)?;
    Ok(Locked {
        landlock: fenced as i32,
        network: !AccessNet::from_all(fenced).is_empty(),
        scopes: !Scope::from_all(fenced).is_empty(),
        calls,
        deadly_calls,
        memory_bytes: cell.memory_bytes,
        open_files: cell.open_files,
        file_bytes: cell.file_bytes,
    })
}

/// What must hold before: asked here, because the other side might have forgotten it.
fn examine(cell: &Cell) -> Result<(), JailFault> {
    match env::vars_os().count() {
        0 => {}
        some => return Err(JailFault::Environment(some)),
    }
    match numbers("/proc/self/task")?.len() {
        1 => {}
        more => return Err(JailFault::Threads(more)),
    }
    for (number, terminal) in [(1, io::stdout().is_terminal()), (2, io::stderr().is_terminal())] {
        if terminal {
            return Err(JailFault::Descriptor(number));
        }
    }
    let used = mapped()?;
    if used >= cell.memory_bytes {
        return Err(JailFault::Memory { used, limit: cell.memory_bytes });
    }
    Ok(())
}

/// Private writable memory of this process in bytes, as the limit counts it.
pub(crate) fn mapped() -> Result<u64, JailFault> {
    let told = |why: String| JailFault::Process("the memory limit", why);
    let status = fs::read_to_string("/proc/self/status").map_err(|error| told(error.to_string()))?;
    let row = status.lines().find_map(|line| line.strip_prefix("VmData:"));
    let kib = row.and_then(|row| row.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.map(|kib| kib << 10).ok_or_else(|| told("the kernel does not tell how much there is".into()))
}

/// Drops every capability. One is kept where a folder is granted: a gate run as root may grant other users' folders.
fn renounce(cell: &Cell) -> Result<(), JailFault> {
    let told = |error: caps::errors::CapsError| JailFault::Process("giving up capabilities", error.to_string());
    let mut kept = CapsHashSet::new();
    if !cell.folders.is_empty() && caps::has_cap(None, CapSet::Permitted, Capability::CAP_DAC_OVERRIDE).map_err(told)? {
        kept.insert(Capability::CAP_DAC_OVERRIDE);
    }
    caps::clear(None, CapSet::Inheritable).map_err(told)?;
    caps::set(None, CapSet::Effective, &kept).map_err(told)?;
    caps::set(None, CapSet::Permitted, &kept).map_err(told)
}

/// Dies with the gate, and shows nothing of itself to other processes of the same user.
fn tie_to_gate() -> Result<(), JailFault> {
    let told = |error: rustix::io::Errno| JailFault::Process("dying with the gate", error.to_string());
    let gate = socket_peercred(io::stdin()).map_err(|_| JailFault::Orphan)?;
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(told)?;
    // A gate that died before the line above sends no signal; then somebody else is the parent by now.
    if getppid() != Some(gate.pid) {
        return Err(JailFault::Orphan);
    }
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(told)
}

fn limit(cell: &Cell) -> Result<(), JailFault> {
    // With a handler of its own, too large a file is an error of the call and not the end of the process.
    let too_large = signal_hook::flag::register(libc::SIGXFSZ, Arc::default());
    too_large.map_err(|error| JailFault::Process("the limit of file size", error.to_string()))?;
    for (what, resource, most) in [
        ("the limit of memory", Resource::Data, cell.memory_bytes),
        ("the limit of open files", Resource::Nofile, cell.open_files),
        ("the limit of file size", Resource::Fsize, cell.file_bytes),
        ("the limit of the stack", Resource::Stack, STACK),
        ("no core files", Resource::Core, 0),
        ("no locked memory", Resource::Memlock, 0),
        ("no message queues", Resource::Msgqueue, 0),
    ] {
        let most = getrlimit(resource).maximum.map_or(most, |ceiling| ceiling.min(most));
        let both = Rlimit { current: Some(most), maximum: Some(most) };
        setrlimit(resource, both).map_err(|error| JailFault::Process(what, error.to_string()))?;
    }
    Ok(())
}

/// Landlock: every right there is, denied everywhere but beneath the granted folders. Also no new privileges.
///
/// # Errors
/// The kernel has none, or a folder cannot be opened.
pub(crate) fn fence(cell: &Cell) -> Result<ABI, JailFault> {
    let told = |error: landlock::RulesetError| JailFault::Landlock(error.to_string());
    let mut rules = Ruleset::default()
        .handle_access(AccessFs::from_all(KNOWN))
        .and_then(|rules| rules.handle_access(AccessNet::from_all(KNOWN)))
        .and_then(|rules| rules.scope(Scope::from_all(KNOWN)))
        .and_then(Ruleset::create)
        .map_err(told)?;
    for (folder, access) in &cell.folders {
        rules = rules.add_rule(PathBeneath::new(opened(folder)?, rights(*access))).map_err(told)?;
    }
    let RestrictionStatus { ruleset, no_new_privs, landlock, .. } = rules.restrict_self().map_err(told)?;
    match landlock {
        LandlockStatus::NotEnabled => Err(JailFault::Landlock("it is built in but not enabled".into())),
        LandlockStatus::NotImplemented => Err(JailFault::Landlock("its calls are missing or blocked".into())),
        _ if ruleset == RulesetStatus::NotEnforced || !no_new_privs => {
            Err(JailFault::Landlock("it was asked for and did not take hold".into()))
        }
        LandlockStatus::Available { effective_abi, .. } => Ok(effective_abi),
    }
}

fn opened(folder: &Path) -> Result<PathFd, JailFault> {
    PathFd::new(folder).map_err(|error| JailFault::Folder(error.to_string()))
}

/// Never to run a file, to make a device, a pipe or a socket, or to talk to a device.
fn rights(access: Access) -> BitFlags<AccessFs> {
    match access {
        Access::Read => make_bitflags!(AccessFs::{ReadFile | ReadDir}),
        Access::Write => make_bitflags!(AccessFs::{
            ReadFile | ReadDir | WriteFile | Truncate | MakeReg | MakeDir | MakeSym | RemoveFile | RemoveDir | Refer
        }),
    }
}

/// Seccomp, last: it also takes away the calls that the steps before needed.
fn mute(cell: &Cell) -> Result<(usize, usize), JailFault> {
    let paths = cell.folders.iter().map(|(_, access)| match access {
        Access::Read => Paths::Read,
        Access::Write => Paths::Write,
    });
    let (paths, own) = (paths.max().unwrap_or(Paths::None), process::id());
    let told = |error: seccompiler::BackendError| JailFault::Seccomp(error.to_string());
    let counts = filter::counts(paths, own).map_err(told)?;
    for program in filter::filters(paths, own).map_err(told)? {
        let put_on = seccompiler::apply_filter_all_threads(&program);
        put_on.map_err(|error| JailFault::Seccomp(error.to_string()))?;
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_say_what_to_do_in_few_words() {
        for fault in [
            JailFault::Landlock("it is built in but not enabled".into()),
            JailFault::Seccomp("x".into()),
            JailFault::Environment(3),
            JailFault::Memory { used: 1, limit: 1 },
            JailFault::Folder("missing".into()),
            JailFault::Process("the limit of memory", "not permitted".into()),
        ] {
            assert!((40..400).contains(&fault.to_string().len()), "{fault}");
        }
    }

    #[test]
    fn no_right_to_run_a_file_is_ever_given() {
        assert!(
            !rights(Access::Write).contains(AccessFs::Execute) && !rights(Access::Read).contains(AccessFs::WriteFile)
        );
        assert!(rights(Access::Write).contains(rights(Access::Read)));
    }
}
