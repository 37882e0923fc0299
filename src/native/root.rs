//! The file system that a program sees: system folders and granted folders, and nothing else by any name.
//!
//! Built in a mount namespace of its own from an empty one, so that a socket or a device that nobody granted does not
//! exist there. What may only be read is mounted so: not even its owner changes a mode or a date. This file must not
//! know what is granted for which reason.

use std::ffi::{CStr, CString};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::symlink;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags, open};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind_recursive, mount_change, mount_remount, unmount,
};
use rustix::process::{chdir, pivot_root};

use super::plan::Plan;

/// What every program needs of the system: code, libraries, certificates, names. Nothing in them is secret.
pub(super) const SYSTEM: &[&str] = &[
    "/bin",
    "/etc/alternatives",
    "/etc/ca-certificates",
    "/etc/group",
    "/etc/hosts",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    "/etc/mime.types",
    "/etc/nsswitch.conf",
    "/etc/passwd",
    "/etc/pki/tls/certs",
    "/etc/protocols",
    "/etc/services",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/lib",
    "/lib32",
    "/lib64",
    "/sbin",
    "/sys/devices/system",
    "/usr",
];
/// Where GPU libraries look for the cards of this machine.
const CARDS: &[&str] = &["/sys/bus/pci", "/sys/devices", "/sys/module/nvidia", "/sys/module/nvidia_uvm"];
/// Devices without a secret.
pub(super) const NODES: &[&str] = &["/dev/full", "/dev/null", "/dev/random", "/dev/urandom", "/dev/zero"];
/// Where the new file system is put together; the first that exists.
const STAGES: &[&str] = &["/tmp", "/mnt", "/var", "/run"];
/// Where nothing can be granted: these are made anew.
const OWN: &[&str] = &["/dev", "/proc", "/sys"];

/// What of the new file system the meters look at: its processes, and its private folders.
#[derive(Debug)]
pub(super) struct Views {
    pub processes: OwnedFd,
    pub scratch: [OwnedFd; 2],
}

/// A piece of the machine and where it is seen.
struct Piece {
    at: PathBuf,
    source: Source,
    writable: bool,
}

enum Source {
    Bound(OwnedFd, bool),
    Link(PathBuf),
}

/// The system's files that exist here, as rules need them too.
pub(super) fn system(plan: &Plan) -> Vec<PathBuf> {
    let cards = if plan.devices.is_empty() { &[] } else { CARDS };
    SYSTEM.iter().chain(cards).map(PathBuf::from).filter(|path| path.symlink_metadata().is_ok()).collect()
}

/// Whether a folder could be granted at all.
///
/// # Errors
/// What is wrong with it.
pub(super) fn grantable(path: &Path) -> Result<(), String> {
    if path.parent().is_none() || OWN.iter().any(|own| path.starts_with(own)) {
        return Err("the root, /dev, /proc and /sys are made anew for every program and cannot be granted".into());
    }
    let plain =
        path.is_absolute() && path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if plain { Ok(()) } else { Err("a granted path is absolute and has no `..` in it".into()) }
}

/// Replaces the file system of this process and of those it starts.
///
/// # Errors
/// What could not be done.
pub(super) fn replace(plan: &Plan) -> Result<Views, String> {
    let pieces = pieces(plan)?;
    let stage = STAGES.iter().map(Path::new).find(|path| path.is_dir()).ok_or("no folder to build in")?;
    let done = |what: &'static str| move |error: rustix::io::Errno| format!("{what}: {error}");
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).map_err(done("mounts of its own"))?;
    memory(stage, "mode=0755,size=4m").map_err(|error| format!("an empty file system: {error}"))?;
    furnish(stage, plan).map_err(|error| format!("the private folders: {error}"))?;
    for piece in &pieces {
        place(stage, piece).map_err(|error| format!("{}: {error}", piece.at.display()))?;
    }
    protect(stage, &pieces)?;
    chdir(stage).map_err(done("the new file system"))?;
    pivot_root(".", ".").map_err(done("the change to the new file system"))?;
    unmount(".", UnmountFlags::DETACH).map_err(done("the end of the old file system"))?;
    chdir("/").map_err(done("the new file system"))?;
    let look = |path| open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let view = |path| look(path).map_err(done("a look at the new file system"));
    Ok(Views { processes: view("/proc")?, scratch: [view("/tmp")?, view("/dev/shm")?] })
}

/// Everything that is to be seen, opened while it can be: parents before what lies in them.
fn pieces(plan: &Plan) -> Result<Vec<Piece>, String> {
    let nodes = NODES.iter().map(PathBuf::from).chain(plan.devices.iter().cloned());
    let mut found = Vec::new();
    for (paths, must, writable) in [
        (system(plan), false, false),
        (nodes.collect(), true, true),
        (plan.read.clone(), true, false),
        (plan.write.clone(), true, true),
    ] {
        for at in paths {
            match opened(&at, must) {
                Ok(source) => found.push(Piece { at, source, writable }),
                Err(error) if must => return Err(format!("{}: {error}", at.display())),
                Err(_) => {}
            }
        }
    }
    found.sort_by(|one, other| one.at.cmp(&other.at).then(one.writable.cmp(&other.writable)));
    Ok(found)
}

fn opened(path: &Path, follow: bool) -> io::Result<Source> {
    if !follow && path.symlink_metadata()?.is_symlink() {
        return Ok(Source::Link(fs::read_link(path)?));
    }
    let source = open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    Ok(Source::Bound(source, path.metadata()?.is_dir()))
}

fn memory(at: &Path, options: &str) -> io::Result<()> {
    let options = CString::new(options)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    Ok(mount(c"tmpfs", at, c"tmpfs", flags, options.as_c_str())?)
}

/// The folders that belong to nobody else: temporary files, shared memory, devices, processes.
fn furnish(stage: &Path, plan: &Plan) -> io::Result<()> {
    let size = format!("mode=1777,size={}", plan.scratch_bytes);
    for (folder, options) in [("tmp", size.as_str()), ("dev", "mode=0755,size=1m"), ("dev/shm", size.as_str())] {
        fs::create_dir(stage.join(folder))?;
        memory(&stage.join(folder), options)?;
    }
    for (number, name) in ["stdin", "stdout", "stderr"].iter().enumerate() {
        symlink(format!("/proc/self/fd/{number}"), stage.join("dev").join(name))?;
    }
    symlink("/proc/self/fd", stage.join("dev/fd"))?;
    fs::create_dir(stage.join("proc"))?;
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    Ok(mount(c"proc", stage.join("proc"), c"proc", flags, None::<&CStr>)?)
}

fn place(stage: &Path, piece: &Piece) -> io::Result<()> {
    let at = stage.join(piece.at.strip_prefix("/").unwrap_or(&piece.at));
    if let Some(parent) = at.parent() {
        fs::create_dir_all(parent)?;
    }
    match &piece.source {
        Source::Link(target) => symlink(target, &at),
        Source::Bound(source, folder) => {
            match (at.symlink_metadata().is_ok(), folder) {
                (true, _) => {}
                (false, true) => fs::create_dir(&at)?,
                (false, false) => drop(fs::File::create(&at)?),
            }
            Ok(mount_bind_recursive(format!("/proc/self/fd/{}", source.as_raw_fd()), &at)?)
        }
    }
}

/// No mount of the new file system honours set-user-id files, none but the device files is a device, and what is not
/// granted to be written cannot be.
fn protect(stage: &Path, pieces: &[Piece]) -> Result<(), String> {
    let table = fs::read("/proc/self/mountinfo").map_err(|error| format!("the list of mounts: {error}"))?;
    for line in table.split(|byte| *byte == b'\n') {
        let Some((at, options)) = row(line) else { continue };
        let Ok(inside) = at.strip_prefix(stage) else { continue };
        let seen = Path::new("/").join(inside);
        let own =
            seen.parent().is_none() || ["/tmp", "/dev", "/dev/shm", "/proc"].iter().any(|own| seen == Path::new(own));
        let piece =
            pieces.iter().filter(|piece| seen.starts_with(&piece.at)).max_by_key(|piece| piece.at.as_os_str().len());
        let readable = match piece {
            Some(piece) => !piece.writable,
            None => own && (seen.parent().is_none() || seen == Path::new("/dev") || seen == Path::new("/proc")),
        };
        let mut flags = kept(&options) | MountFlags::BIND | MountFlags::NOSUID;
        flags.set(MountFlags::RDONLY, readable || flags.contains(MountFlags::RDONLY));
        flags.set(MountFlags::NODEV, !seen.starts_with("/dev") || own || flags.contains(MountFlags::NODEV));
        mount_remount(&at, flags, c"").map_err(|error| format!("{}, to be read only: {error}", seen.display()))?;
    }
    Ok(())
}

/// Where a mount is, and its options.
fn row(line: &[u8]) -> Option<(PathBuf, String)> {
    let mut words = line.split(|byte| *byte == b' ');
    let at = words.nth(4)?;
    let options = String::from_utf8(words.next()?.to_vec()).ok()?;
    Some((PathBuf::from(std::ffi::OsString::from_vec(plain(at))), options))
}

/// Undoes the kernel's way of writing spaces, tabs, line ends and backslashes: three octal digits.
fn plain(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let digits =
            (*first == b'\\').then(|| after.get(..3)).flatten().and_then(|three| std::str::from_utf8(three).ok());
        match digits.and_then(|three| u8::from_str_radix(three, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    bytes
}

/// What a mount says of itself must stay: a user of a namespace may add to it and take nothing away.
fn kept(options: &str) -> MountFlags {
    options.split(',').fold(MountFlags::empty(), |flags, word| {
        flags
            | match word {
                "ro" => MountFlags::RDONLY,
                "nosuid" => MountFlags::NOSUID,
                "nodev" => MountFlags::NODEV,
                "noexec" => MountFlags::NOEXEC,
                "noatime" => MountFlags::NOATIME,
                "nodiratime" => MountFlags::NODIRATIME,
                "relatime" => MountFlags::RELATIME,
                "nosymfollow" => MountFlags::NOSYMFOLLOW,
                _ => MountFlags::empty(),
            }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_mount_table_is_read_with_its_escapes() {
        let line = br"36 35 98:0 /mnt1 /a\040b/c\134d rw,nosuid,noatime master:1 - ext3 /dev/root rw,errors=continue";
        let (at, options) = row(line).unwrap();
        assert_eq!(at, Path::new(r"/a b/c\d"));
        assert_eq!(kept(&options), MountFlags::NOSUID | MountFlags::NOATIME);
        assert_eq!(row(b"36 35"), None);
    }

    #[test]
    fn what_is_made_anew_cannot_be_granted() {
        for path in ["/", "/dev", "/proc/1", "/sys/fs", "relative", "/a/../dev"] {
            assert!(grantable(Path::new(path)).is_err(), "{path}");
        }
        assert!(grantable(Path::new("/srv/data")).is_ok());
    }
}
