//! The escape drill: what an intruder would try first, tried natively inside a worker, as if a guest had broken out.
//!
//! Each attempt does the real thing and tells how far it came. Without the lock they succeed, which is what makes
//! them worth trying; under it, each ends in an error of the kernel or in the end of the process. Harmless where they
//! succeed: signals that nobody minds, files of the drill's own. Nothing here may weaken the lock to try more.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixStream};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use rustix::fs::{AtFlags, CWD, MemfdFlags, Mode, OFlags, linkat, memfd_create, openat, renameat, symlinkat, unlinkat};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, Signal};
use rustix::process::{kill_process, pidfd_getfd, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

/// What stands around the worker: everything here can be reached by a process that is not locked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Scene {
    /// The process that started the worker.
    pub gate: i32,
    /// Another process of the same user, which holds descriptor 0.
    pub neighbour: i32,
    /// A file outside every grant, with something in it.
    pub canary: PathBuf,
    /// A folder with a link `out` to the canary's folder, which is its sibling; granted or not.
    pub folder: PathBuf,
    /// Listeners of the drill.
    pub tcp: SocketAddr,
    pub udp: SocketAddr,
    pub socket: PathBuf,
    pub abstract_socket: String,
    /// The limits of the cell.
    pub memory_bytes: u64,
    pub open_files: u64,
    pub file_bytes: u64,
}

/// How an attempt ended, if it came back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Verdict {
    /// The kernel's error number.
    Contained(i32),
    /// What was reached.
    Escaped(String),
}

/// One way out.
pub(crate) struct Attempt {
    /// Its name, as shown.
    pub name: &'static str,
    run: fn(&Scene) -> io::Result<String>,
}

impl Attempt {
    /// Tries it. An attempt that the lock answers with the end of the process does not come back.
    pub(crate) fn run(&self, scene: &Scene) -> Verdict {
        match (self.run)(scene) {
            Ok(reached) => Verdict::Escaped(reached),
            // An error that is not the kernel's is no proof of anything.
            Err(error) => error.raw_os_error().map_or_else(|| Verdict::Escaped(error.to_string()), Verdict::Contained),
        }
    }
}

macro_rules! attempts {
    ($($name:literal => $run:expr,)*) => { &[$(Attempt { name: $name, run: $run }),*] };
}

/// Every attempt that safe code can make.
pub(crate) const ATTEMPTS: &[Attempt] = attempts! {
    "open /etc/passwd" => |_| read("/etc/passwd"),
    "list /" => |_| list("/"),
    "open the canary" => |scene| read(&scene.canary),
    "look up the canary's size" => |scene| fs::metadata(&scene.canary).map(|found| format!("{} bytes", found.len())),
    "open own memory" => |_| File::open("/proc/self/mem").map(|_| "opened".into()),
    "open the gate's memory" => |scene| File::open(of(scene.gate, "mem")).map(|_| "opened".into()),
    "read own environment" => |_| read("/proc/self/environ"),
    "read the gate's environment" => |scene| read(of(scene.gate, "environ")),
    "list a neighbour's descriptors" => |scene| list(of(scene.neighbour, "fd")),
    "open a neighbour's descriptor" => |scene| File::open(of(scene.neighbour, "fd/0")).map(|_| "opened".into()),
    "take a neighbour's descriptor" => taken,
    "create a file outside" => |scene| created(scene.canary.with_file_name("created")),
    "change the canary" => |scene| OpenOptions::new().append(true).open(&scene.canary).map(|_| "opened to write".into()),
    "rename the canary" => renamed,
    "link the canary into the folder" => linked,
    "set the canary's permissions" => |scene| {
        fs::set_permissions(&scene.canary, fs::metadata(&scene.canary)?.permissions()).map(|()| "set".into())
    },
    "leave the folder by .." => |scene| read(scene.folder.join("../outside/canary")),
    "leave an open folder by .." => up,
    "leave the folder by a link" => |scene| read(scene.folder.join("out/canary")),
    "leave the folder by a new link" => by_new_link,
    "connect by TCP" => |scene| TcpStream::connect(scene.tcp).map(|_| "connected".into()),
    "send by UDP" => |scene| UdpSocket::bind("127.0.0.1:0")?.send_to(b"out", scene.udp).map(|_| "sent".into()),
    "connect to a socket's path" => |scene| UnixStream::connect(&scene.socket).map(|_| "connected".into()),
    "connect to an abstract socket" => |scene| {
        UnixStream::connect_addr(&UnixAddr::from_abstract_name(&scene.abstract_socket)?).map(|_| "connected".into())
    },
    "signal the gate" => |scene| Ok(kill_process(pid(scene.gate)?, Signal::URG).map(|()| "signalled".into())?),
    "signal a neighbour" => |scene| Ok(kill_process(pid(scene.neighbour)?, Signal::URG).map(|()| "signalled".into())?),
    "signal the gate by descriptor" => |scene| {
        let gate = pidfd_open(pid(scene.gate)?, PidfdFlags::empty())?;
        Ok(pidfd_send_signal(gate, Signal::URG).map(|()| "signalled".into())?)
    },
    "start a process" => |_| Command::new("/bin/true").status().map(|_| "ran".into()),
    "become a shell" => |_| Err(Command::new("/bin/sh").args(["-c", r#"echo '{"Escaped":"a shell"}'"#]).exec()),
    "make an anonymous file" => |_| Ok(memfd_create("drill", MemfdFlags::empty()).map(|_| "made".into())?),
    "allocate beyond the memory limit" => allocated,
    "open too many files" => hoarded,
    "fill the disk" => filled,
};

fn pid(number: i32) -> io::Result<Pid> {
    Pid::from_raw(number).ok_or_else(|| io::Error::other("no process"))
}

fn of(process: i32, what: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{process}/{what}"))
}

fn read(path: impl Into<PathBuf>) -> io::Result<String> {
    let mut text = Vec::new();
    File::open(path.into())?.take(64).read_to_end(&mut text)?;
    Ok(format!("read {} bytes", text.len()))
}

fn list(path: impl Into<PathBuf>) -> io::Result<String> {
    Ok(format!("{} names", fs::read_dir(path.into())?.count()))
}

fn created(path: PathBuf) -> io::Result<String> {
    File::create(&path)?;
    Ok(unlinkat(CWD, path, AtFlags::empty()).map(|()| "created".into())?)
}

fn taken(scene: &Scene) -> io::Result<String> {
    let neighbour = pidfd_open(pid(scene.neighbour)?, PidfdFlags::empty())?;
    Ok(pidfd_getfd(neighbour, 0, PidfdGetfdFlags::empty()).map(|_| "taken".into())?)
}

fn renamed(scene: &Scene) -> io::Result<String> {
    let aside = scene.folder.join("renamed");
    renameat(CWD, &scene.canary, CWD, &aside)?;
    Ok(renameat(CWD, aside, CWD, &scene.canary).map(|()| "renamed".into())?)
}

fn linked(scene: &Scene) -> io::Result<String> {
    let name = scene.folder.join("linked");
    linkat(CWD, &scene.canary, CWD, &name, AtFlags::empty())?;
    Ok(unlinkat(CWD, name, AtFlags::empty()).map(|()| "linked".into())?)
}

fn up(scene: &Scene) -> io::Result<String> {
    let folder = File::open(&scene.folder)?;
    let mut found = File::from(openat(&folder, "../outside/canary", OFlags::RDONLY, Mode::empty())?);
    let mut text = String::new();
    found.read_to_string(&mut text).map(|bytes| format!("read {bytes} bytes"))
}

fn by_new_link(scene: &Scene) -> io::Result<String> {
    let name = scene.folder.join("new");
    symlinkat(&scene.canary, CWD, &name)?;
    let reached = read(&name);
    unlinkat(CWD, name, AtFlags::empty())?;
    reached
}

fn allocated(scene: &Scene) -> io::Result<String> {
    let bytes = usize::try_from(scene.memory_bytes).map_err(io::Error::other)?;
    let mut space: Vec<u8> = Vec::new();
    space.try_reserve_exact(bytes).map_err(|_| io::Error::from_raw_os_error(libc::ENOMEM))?;
    space.extend_from_slice(b"used");
    Ok(format!("{} bytes", space.capacity()))
}

fn hoarded(scene: &Scene) -> io::Result<String> {
    let mut held = Vec::new();
    for _ in 0..scene.open_files {
        held.push(rustix::io::fcntl_dupfd_cloexec(io::stdin(), 0)?);
    }
    Ok(format!("{} more descriptors", held.len()))
}

fn filled(scene: &Scene) -> io::Result<String> {
    let path = scene.folder.join("filled");
    let mut file = File::create(&path)?;
    let (block, mut written) = (vec![7; 1 << 16], 0);
    while written <= scene.file_bytes {
        match file.write(&block) {
            Ok(bytes) => written += bytes as u64,
            Err(error) => {
                unlinkat(CWD, &path, AtFlags::empty())?;
                return Err(error);
            }
        }
    }
    Ok(unlinkat(CWD, path, AtFlags::empty()).map(|()| format!("{written} bytes"))?)
}
