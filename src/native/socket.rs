//! The Unix socket on which a gate is asked to run programs: whole messages, in a folder that only its owner can enter.
//!
//! A socket file on which somebody answers is left alone, a stale one is replaced, anything that is not a socket is never
//! touched; a lock beside it keeps two gates from racing for a stale one. Who may ask is looked at here by the user that
//! the kernel names, and never by what is said.

use std::fs::{DirBuilder, File, Metadata, OpenOptions, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{
    DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::sockopt::socket_peercred;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind as bind_to, connect as connect_to,
    listen, socket_with,
};
use rustix::process::geteuid;

use super::channel::Channel;
use super::clock::spec;

/// Connections that wait to be accepted.
const QUEUE: i32 = 128;
/// The number of the user who may do everything anyway.
const ROOT: u32 = 0;

/// Why a gate cannot be asked to run programs.
#[derive(Debug, thiserror::Error)]
pub enum ServiceFault {
    /// Others can reach the socket's folder.
    #[error("the folder of socket `{0}` must belong to this user alone (mode 0700)")]
    Folder(PathBuf),
    /// Something else stands where the socket should be.
    #[error("`{0}` exists and is not a socket; nothing was changed")]
    NotASocket(PathBuf),
    /// Another gate serves there.
    #[error("another gate is serving on `{0}`")]
    InUse(PathBuf),
    /// The operating system refused.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
}

/// A bound socket; dropping it removes the file, if it is still ours.
#[derive(Debug)]
pub(super) struct Socket {
    listener: OwnedFd,
    path: PathBuf,
    identity: (u64, u64),
    _lock: File,
}

impl Socket {
    /// Binds `path`, mode 0600, in a folder that only its owner can enter.
    ///
    /// # Errors
    /// [`ServiceFault`]; nothing is left behind but the folder and the lock.
    pub(super) fn bind(path: &Path) -> Result<Self, ServiceFault> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700).create(folder).map_err(fault("create the socket's folder"))?;
        let private = std::fs::metadata(folder).map_err(fault("look at the socket's folder"))?;
        if private.mode() & 0o077 != 0 || private.uid() != geteuid().as_raw() {
            return Err(ServiceFault::Folder(path.to_owned()));
        }
        let lock = lock_beside(path)?;
        clear_stale(path)?;
        let what = || fault(format!("listen on `{}`", path.display()));
        let listener = messages().map_err(what())?;
        let address = SocketAddrUnix::new(path).map_err(|error| what()(error.into()))?;
        bind_to(&listener, &address).map_err(|error| what()(error.into()))?;
        std::fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(what())?;
        listen(&listener, QUEUE).map_err(|error| what()(error.into()))?;
        let identity = identity(&std::fs::symlink_metadata(path).map_err(what())?);
        Ok(Self { listener, path: path.to_owned(), identity, _lock: lock })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whoever connects within `millis`, if anybody does.
    ///
    /// # Errors
    /// The kernel has no descriptor left, or the like.
    pub(super) fn accept(&self, millis: u64) -> io::Result<Option<OwnedFd>> {
        match poll(&mut [PollFd::new(&self.listener, PollFlags::IN)], Some(&spec(millis))) {
            Ok(0) | Err(rustix::io::Errno::INTR) => Ok(None),
            Ok(_) => Ok(Some(accept_with(&self.listener, SocketFlags::CLOEXEC)?)),
            Err(error) => Err(error.into()),
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let ours = std::fs::symlink_metadata(&self.path).is_ok_and(|found| identity(&found) == self.identity);
        if ours && let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(%error, "the socket file could not be removed");
        }
    }
}

/// The other end of the socket at `path`.
///
/// # Errors
/// Nobody listens there.
pub(super) fn connect(path: &Path) -> io::Result<Channel> {
    let near = messages()?;
    connect_to(&near, &SocketAddrUnix::new(path)?)?;
    Ok(Channel::of(near))
}

/// Whether the user at the other end may ask at all: the gate's own, and root. A program that the gate starts has the
/// gate's user, so that for anybody else it would be a way to become that user.
pub(super) fn is_own(peer: &OwnedFd) -> bool {
    socket_peercred(peer).is_ok_and(|peer| may_ask(geteuid().as_raw(), peer.uid.as_raw()))
}

const fn may_ask(own: u32, peer: u32) -> bool {
    peer == own || peer == ROOT
}

fn messages() -> io::Result<OwnedFd> {
    Ok(socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Locks `<path>.lock`; the lock goes with the process, however it ends.
fn lock_beside(path: &Path) -> Result<File, ServiceFault> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true).mode(0o600);
    let file = options.open(PathBuf::from(name)).map_err(fault("open the socket's lock"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(ServiceFault::InUse(path.to_owned())),
        Err(std::fs::TryLockError::Error(source)) => Err(fault("lock the socket")(source)),
    }
}

/// Removes a socket file on which nobody answers.
fn clear_stale(path: &Path) -> Result<(), ServiceFault> {
    let found = match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found.map_err(fault("look at the socket's place"))?,
    };
    if !found.file_type().is_socket() {
        return Err(ServiceFault::NotASocket(path.to_owned()));
    }
    match connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(fault("remove the stale socket"))
        }
        // It answers, or nobody can tell, or its messages are of another kind: it stays.
        _ => Err(ServiceFault::InUse(path.to_owned())),
    }
}

fn identity(found: &Metadata) -> (u64, u64) {
    (found.dev(), found.ino())
}

fn fault(what: impl Into<String>) -> impl FnOnce(io::Error) -> ServiceFault {
    let what = what.into();
    move |source| ServiceFault::Io { what, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_of_programs_is_private_and_only_a_stale_one_is_replaced() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("run/exec.sock");
        let mode = |path: &Path| std::fs::symlink_metadata(path).unwrap().mode() & 0o777;
        let first = Socket::bind(&path).unwrap();
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        assert!(matches!(Socket::bind(&path), Err(ServiceFault::InUse(_))));
        drop(first);
        assert!(!path.exists(), "a socket is removed with its listener");
        let killed = messages().unwrap();
        bind_to(&killed, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        drop(killed);
        assert!(path.exists(), "what a killed gate leaves behind");
        drop(Socket::bind(&path).unwrap());
        // Somebody else answers there, with bytes instead of messages.
        let foreign = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert!(matches!(Socket::bind(&path), Err(ServiceFault::InUse(_))));
        drop(foreign);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "data").unwrap();
        assert!(matches!(Socket::bind(&path), Err(ServiceFault::NotASocket(_))));
        assert_eq!(std::fs::read(&path).unwrap(), b"data");
        std::fs::set_permissions(path.parent().unwrap(), Permissions::from_mode(0o755)).unwrap();
        assert!(matches!(Socket::bind(&path), Err(ServiceFault::Folder(_))));
    }

    #[test]
    fn only_the_gates_own_user_and_root_may_ask() {
        assert!(may_ask(1_000, 1_000) && may_ask(1_000, 0) && may_ask(0, 0));
        assert!(!may_ask(1_000, 1_001) && !may_ask(0, 1_000));
    }
}
