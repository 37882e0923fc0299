//! Where the sidecar listens: a Unix socket that only its owner can reach, loopback TCP, or both.
//!
//! Nothing but loopback is ever bound. A socket file that another gate still answers on is left
//! alone; a lock beside it keeps two gates from racing for a stale one.

use std::fs::{DirBuilder, File, Metadata, OpenOptions, Permissions};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{
    DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Why the sidecar cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeFault {
    /// Neither a socket nor an address was given.
    #[error("nowhere to listen: name a Unix socket, a loopback address, or both")]
    Nowhere,
    /// An address that others could reach.
    #[error("{0} is not a loopback address; the gate listens on this machine only (127.0.0.1 or [::1])")]
    NotLoopback(SocketAddr),
    /// An origin that is not a loopback page.
    #[error("origin `{0}` is not a loopback origin such as http://127.0.0.1:8000")]
    Origin(String),
    /// Both tokens are the same, so that the agent could approve its own calls.
    #[error("the operator's token must differ from the agent's, or the agent could approve its own calls")]
    SameToken,
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
    /// The operating system gave no random bytes, or a thread could not be started.
    #[error("the gate could not be started: {0}")]
    Start(String),
}

/// Where a sidecar listens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// The Unix socket.
    pub unix: Option<PathBuf>,
    /// The TCP address with the port that it got.
    pub tcp: Option<SocketAddr>,
}

/// A bound Unix socket; dropping it removes the file, if it is still ours.
pub(super) struct Socket {
    pub(super) listener: UnixListener,
    path: PathBuf,
    identity: (u64, u64),
    _lock: File,
}

impl Drop for Socket {
    fn drop(&mut self) {
        let ours = std::fs::symlink_metadata(&self.path).is_ok_and(|found| identity(&found) == self.identity);
        if ours && let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(%error, "the socket file could not be removed");
        }
    }
}

/// Binds `address`, which must be loopback.
pub(super) fn bind_tcp(address: SocketAddr) -> Result<TcpListener, ServeFault> {
    if !address.ip().is_loopback() {
        return Err(ServeFault::NotLoopback(address));
    }
    let listener = TcpListener::bind(address).map_err(io_fault(format!("listen on {address}")))?;
    listener.set_nonblocking(true).map_err(io_fault(format!("listen on {address}")))?;
    Ok(listener)
}

/// Binds the Unix socket `path`, mode 0600, in a folder that only its owner can enter.
pub(super) fn bind_unix(path: &Path) -> Result<Socket, ServeFault> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700).create(folder).map_err(io_fault("create the socket's folder"))?;
    let private = std::fs::metadata(folder).map_err(io_fault("look at the socket's folder"))?;
    if private.mode() & 0o077 != 0 {
        return Err(ServeFault::Folder(path.to_owned()));
    }
    let lock = lock_beside(path)?;
    // A lock file made just now is ours, so its owner is this user.
    let user = lock.metadata().map_err(io_fault("look at the socket's lock"))?.uid();
    if private.uid() != user {
        return Err(ServeFault::Folder(path.to_owned()));
    }
    clear_stale(path)?;
    let what = || io_fault(format!("listen on `{}`", path.display()));
    let listener = UnixListener::bind(path).map_err(what())?;
    std::fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(what())?;
    listener.set_nonblocking(true).map_err(what())?;
    let identity = identity(&std::fs::symlink_metadata(path).map_err(what())?);
    Ok(Socket { listener, path: path.to_owned(), identity, _lock: lock })
}

/// Locks `<path>.lock`; the lock goes with the process, however it ends.
fn lock_beside(path: &Path) -> Result<File, ServeFault> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true).mode(0o600);
    let file = options.open(PathBuf::from(name)).map_err(io_fault("open the socket's lock"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(ServeFault::InUse(path.to_owned())),
        Err(std::fs::TryLockError::Error(source)) => Err(io_fault("lock the socket")(source)),
    }
}

/// Removes a socket file on which nobody answers.
fn clear_stale(path: &Path) -> Result<(), ServeFault> {
    let found = match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found.map_err(io_fault("look at the socket's place"))?,
    };
    if !found.file_type().is_socket() {
        return Err(ServeFault::NotASocket(path.to_owned()));
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(io_fault("remove the stale socket"))
        }
        // It answers, or nobody can tell: it stays.
        _ => Err(ServeFault::InUse(path.to_owned())),
    }
}

fn identity(found: &Metadata) -> (u64, u64) {
    (found.dev(), found.ino())
}

pub(super) fn io_fault(what: impl Into<String>) -> impl FnOnce(io::Error) -> ServeFault {
    let what = what.into();
    move |source| ServeFault::Io { what, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_private_and_only_a_stale_one_is_replaced() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("run/gate.sock");
        let mode = |path: &Path| std::fs::symlink_metadata(path).unwrap().mode() & 0o777;
        let first = bind_unix(&path).unwrap();
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        assert!(matches!(bind_unix(&path), Err(ServeFault::InUse(_))));
        drop(first);
        assert!(!path.exists(), "a socket is removed with its listener");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "what a killed gate leaves behind");
        drop(bind_unix(&path).unwrap());
        let foreign = UnixListener::bind(&path).unwrap();
        assert!(matches!(bind_unix(&path), Err(ServeFault::InUse(_))), "somebody answers");
        drop(foreign);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "data").unwrap();
        assert!(matches!(bind_unix(&path), Err(ServeFault::NotASocket(_))));
        assert_eq!(std::fs::read(&path).unwrap(), b"data");
        std::fs::set_permissions(path.parent().unwrap(), Permissions::from_mode(0o755)).unwrap();
        assert!(matches!(bind_unix(&path), Err(ServeFault::Folder(_))));
    }

    #[test]
    fn only_loopback_is_bound() {
        for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0", "[::ffff:127.0.0.1]:0"] {
            assert!(matches!(bind_tcp(address.parse().unwrap()), Err(ServeFault::NotLoopback(_))), "{address}");
        }
        assert!(bind_tcp("127.0.0.1:0".parse().unwrap()).is_ok());
    }
}
