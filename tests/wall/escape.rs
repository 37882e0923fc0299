//! Attacks: what a native payload can do in the open, and what of it is left under the lock.

use std::fs;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::drill::{ATTEMPTS, Verdict};
use crate::jail::Cell;
use crate::model::Access;
use crate::place::{MEMORY, Place, ended, myself};

/// What only a raw system call can try; see payload.c. With the reason why one may fail without the lock as well.
const NATIVE: &[(&str, &str)] = &[
    ("ptrace a neighbour", "a kernel may permit it to parents alone"),
    ("read a neighbour's memory", "as before"),
    ("write a neighbour's memory", "as before"),
    ("signal a neighbour's thread", ""),
    ("signal a thread by number", ""),
    ("queue a signal", ""),
    ("fork", ""),
    ("fork by clone3", "containers may hide it"),
    #[cfg(target_arch = "x86_64")]
    ("fork by fork", ""),
    ("clone into a namespace", "a system may have no namespaces of users"),
    ("execveat", ""),
    ("io_uring", "often switched off"),
    ("unshare a user namespace", "only a process with one thread can, and the attempt has two"),
    ("mount", "only root can"),
    ("chroot", "only root can"),
    ("bpf", "only root can"),
    ("keyctl", "containers may hide it"),
    ("add a key", "containers may hide it"),
    ("userfaultfd", "not built into every kernel"),
    ("perf events", "often switched off"),
    ("open a file by handle", "only root can, and not on every file system"),
    ("make memory executable", ""),
    ("map executable memory", ""),
    ("map shared memory beyond the limit", ""),
    ("map a growing stack", ""),
    ("make a reservation beyond the limit writable", ""),
    ("share memory", "containers may hide it"),
    ("a filter of its own", ""),
    ("be dumpable again", ""),
    ("outlive the gate", ""),
    ("set a limit anew", ""),
    ("set a neighbour's limit", ""),
    ("system calls of 32-bit programs", "not built into every kernel"),
    ("system calls by other numbers", "not built into every kernel"),
    ("change the personality", "containers may forbid it"),
    ("make a pair of sockets", ""),
    ("push input to a terminal", "switched off in newer kernels"),
];

/// Safe attempts that may fail without the lock.
const HARD: &[(&str, &str)] = &[
    ("list a neighbour's descriptors", "a kernel may permit it to parents alone"),
    ("open a neighbour's descriptor", "as before"),
    ("take a neighbour's descriptor", "as before"),
    ("open the gate's memory", "as before"),
];

/// Answered with the end of the process, in every cell: the gate is to see it.
const DEADLY: &[&str] = &[
    "connect by TCP",
    "send by UDP",
    "connect to a socket's path",
    "connect to an abstract socket",
    "signal the gate",
    "signal a neighbour",
    "signal the gate by descriptor",
    "take a neighbour's descriptor",
    "start a process",
    "become a shell",
    "make an anonymous file",
    "ptrace a neighbour",
    "read a neighbour's memory",
    "write a neighbour's memory",
    "signal a neighbour's thread",
    "signal a thread by number",
    "queue a signal",
    "fork",
    "fork by fork",
    "clone into a namespace",
    "execveat",
    "io_uring",
    "unshare a user namespace",
    "mount",
    "chroot",
    "bpf",
    "keyctl",
    "add a key",
    "userfaultfd",
    "perf events",
    "open a file by handle",
    "share memory",
    "system calls of 32-bit programs",
    "change the personality",
    "make a pair of sockets",
];

/// What the kernel cannot deny once a folder is granted: Landlock does not guard names, sizes and times.
const KNOWN: &str = "look up the canary's size";

/// The errors of limits, by attempt: another error would mean that another rule happened to catch it.
const LIMITS: &[(&str, i32)] = &[
    ("allocate beyond the memory limit", libc::ENOMEM),
    ("make a reservation beyond the limit writable", libc::ENOMEM),
    ("open too many files", libc::EMFILE),
    ("fork by clone3", libc::ENOSYS),
];

#[derive(Debug, PartialEq, Eq)]
enum Ending {
    Came(Verdict),
    Killed(i32),
}

impl Ending {
    fn shown(&self) -> String {
        match self {
            Self::Came(Verdict::Escaped(what)) => format!("ESCAPED: {what}"),
            Self::Came(Verdict::Contained(error)) => {
                std::io::Error::from_raw_os_error(*error).to_string().split(" (os").next().unwrap().to_lowercase()
            }
            Self::Killed(libc::SIGSYS) => "killed (SIGSYS)".into(),
            Self::Killed(signal) => format!("killed by {signal}"),
        }
    }
}

/// Which of the lock's layers are on.
#[derive(Clone, Copy)]
enum Lock<'c> {
    Open,
    Landlock(&'c Cell),
    All(&'c Cell),
}

fn tried(place: &Place, name: &str, lock: Lock<'_>) -> Ending {
    let scene = &place.scene;
    let mut command = myself("attempt");
    command.args([name, &scene.gate.to_string(), &scene.neighbour.to_string()]).arg(&scene.folder);
    command.arg(MEMORY.to_string());
    command.arg(match lock {
        Lock::Open => "open".into(),
        Lock::Landlock(cell) => format!("fence:{}", serde_json::to_string(cell).unwrap()),
        Lock::All(cell) => serde_json::to_string(cell).unwrap(),
    });
    command.arg(serde_json::to_string(scene).unwrap());
    if NATIVE.iter().any(|(native, _)| *native == name) {
        command.env("LD_PRELOAD", &place.payload);
    } else if matches!(lock, Lock::Open) {
        // In the open there is something in the environment to be read.
        command.env("SECRET", "told");
    }
    let end = ended(command);
    match end.signal() {
        Some(signal) => Ending::Killed(signal),
        None => Ending::Came(serde_json::from_str(&end.said).unwrap_or_else(|_| panic!("{name}: {end:?}"))),
    }
}

pub fn every_attempt_succeeds_in_the_open_and_is_contained_by_the_lock() {
    let place = Place::make();
    let cells = [None, Some(Access::Read), Some(Access::Write)].map(|access| place.cell(access));
    let names: Vec<&str> = ATTEMPTS.iter().map(|attempt| attempt.name).chain(NATIVE.iter().map(|row| row.0)).collect();
    let (mut faults, mut proven) = (Vec::new(), 0);
    for name in &names {
        let open = tried(&place, name, Lock::Open);
        let escaped = matches!(open, Ending::Came(Verdict::Escaped(_)));
        proven += usize::from(escaped);
        let excused = NATIVE.iter().chain(HARD).any(|(hard, why)| hard == name && !why.is_empty());
        if !escaped && !excused {
            faults.push(format!("{name}: in the open: {}", open.shown()));
        }
        let ends = cells.each_ref().map(|cell| tried(&place, name, Lock::All(cell)));
        for (number, end) in ends.iter().enumerate() {
            if let Some(fault) = fault(name, number, end) {
                faults.push(fault);
            }
        }
        let [none, read, write] = ends.map(|end| end.shown());
        let locked = if none == read && read == write { none } else { format!("{none} | {read} | {write}") };
        println!("    {name}: open: {}; locked: {locked}", open.shown());
    }
    println!("    {} attempts in 3 cells, {proven} of them proven to succeed without the lock", names.len());
    assert_eq!(fs::read_to_string(&place.scene.canary).unwrap(), "sings");
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

/// The layers are on their own what they are together: a hole in the list of system calls is not yet a way out.
pub fn landlock_alone_keeps_files_connections_and_signals() {
    let place = Place::make();
    let cell = place.cell(Some(Access::Read));
    for (name, error, since) in [
        ("open /etc/passwd", libc::EACCES, 1),
        ("create a file outside", libc::EACCES, 1),
        ("leave an open folder by ..", libc::EACCES, 1),
        ("open own memory", libc::EACCES, 1),
        ("become a shell", libc::EACCES, 1),
        ("connect by TCP", libc::EACCES, 4),
        ("connect to an abstract socket", libc::EPERM, 6),
        ("signal the gate", libc::EPERM, 6),
        ("signal the gate by descriptor", libc::EPERM, 6),
        ("ptrace a neighbour", libc::EPERM, 1),
        ("read a neighbour's memory", libc::EPERM, 1),
    ] {
        if landlock() < since {
            println!("    {name}: this kernel's Landlock does not cover it");
            continue;
        }
        assert_eq!(tried(&place, name, Lock::Landlock(&cell)), Ending::Came(Verdict::Contained(error)), "{name}");
    }
}

/// The version of the kernel's Landlock, as a locked worker tells it.
fn landlock() -> i32 {
    let cell = Cell { folders: Vec::new(), memory_bytes: MEMORY, open_files: 60, file_bytes: 0 };
    let said = crate::place::worked("cost", &cell, &[]);
    serde_json::from_str::<crate::jail::Locked>(said.lines().nth(1).unwrap()).unwrap().landlock
}

/// What is wrong with an ending in cell number 0 (no folder), 1 (to read) or 2 (to write).
fn fault(name: &str, cell: usize, end: &Ending) -> Option<String> {
    let right = match end {
        Ending::Came(Verdict::Escaped(_)) => name == KNOWN && cell > 0,
        Ending::Killed(signal) => *signal == libc::SIGSYS && DEADLY.contains(&name),
        Ending::Came(Verdict::Contained(error)) => {
            let limit = LIMITS.iter().find(|(limit, _)| *limit == name).map(|(_, error)| *error);
            let limit = limit.or((name == "fill the disk" && cell == 2).then_some(libc::EFBIG));
            !DEADLY.contains(&name) && limit.is_none_or(|expected| expected == *error)
        }
    };
    (!right).then(|| format!("{name}: cell {cell}: {}", end.shown()))
}

pub fn a_granted_folder_is_open_and_nothing_beside_it() {
    let place = Place::make();
    for (access, expected) in [
        (None, "read: 1, list: 1, write: 1, remove: 1"),
        (Some(Access::Read), "read: ok, list: ok, write: 13, remove: 1"),
        (Some(Access::Write), "read: ok, list: ok, write: ok, remove: ok"),
    ] {
        let folder = place.scene.folder.to_str().unwrap();
        assert_eq!(crate::place::worked("folder", &place.cell(access), &[folder]).trim(), expected, "{access:?}");
    }
}

pub fn the_end_of_the_gate_is_the_end_of_the_worker() {
    let cell = Cell { folders: Vec::new(), memory_bytes: MEMORY, open_files: 60, file_bytes: 0 };
    let mut gate = myself("gate");
    let said = gate.arg(serde_json::to_string(&cell).unwrap()).stdin(Stdio::null()).output().unwrap();
    let worker: u32 = String::from_utf8(said.stdout).unwrap().trim().parse().expect("a worker that was locked");
    let started = Instant::now();
    // It would sleep for a minute. Where nobody collects the dead, a dead one stays listed, as such.
    let lives = || fs::read_to_string(format!("/proc/{worker}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
    while lives() {
        assert!(started.elapsed() < Duration::from_secs(5), "the worker outlived its gate");
        thread::sleep(Duration::from_millis(5));
    }
}

pub fn a_worker_that_cannot_be_locked_is_told_why() {
    let told = |how: &str, change: fn(&mut Command)| {
        let mut command = myself("faulty");
        command.arg(how);
        change(&mut command);
        ended(command).said
    };
    assert_eq!(told("nothing", |_| ()).trim(), "locked");
    assert!(
        told("environment", |command| {
            command.env("LEFT", "over");
        })
        .contains("empty environment")
    );
    assert!(told("threads", |_| ()).contains("one thread, and it has 2"));
    assert!(told("memory", |_| ()).contains("may have 4096"));
    let folder = told("folder", |_| ());
    assert!(folder.contains("granted folder") && folder.contains("take it out"), "{folder}");
    let mut orphan = myself("faulty");
    let said = orphan.arg("orphan").stdin(Stdio::null()).output().unwrap().stdout;
    assert!(String::from_utf8(said).unwrap().contains("not its socket"));
}

pub fn inherited_descriptors_are_gone() {
    // A shell opens descriptors that its child inherits; the child lists its own (and the listing's).
    let itself = std::env::current_exe().unwrap();
    for (opened, expected) in [("", "0 1 2 3"), ("exec 7</etc/passwd 9>&1;", "0 1 2 3")] {
        let script = format!("{opened} exec \"$0\" role:bare");
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", &script]).arg(&itself).env_clear().stderr(Stdio::null());
        let said = ended(shell).said;
        let mut left: Vec<&str> = said.split_whitespace().collect();
        left.sort_unstable();
        assert_eq!(left.join(" "), expected, "{opened}");
    }
}
