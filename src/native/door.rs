//! Doors: ports of loopback inside a program's network that lead to the gate and nowhere else.
//!
//! The socket listens inside the namespace and is served from outside, so that no cable joins the two networks. A door
//! carries bytes and looks at none: who may do what is decided where it leads.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};

use super::clock::spec;

/// Connections through one door at once; further ones are closed.
const CONNECTIONS: usize = 64;
/// How often a door that nobody comes to looks whether it is over.
const PAUSE_MS: u64 = 100;
/// How long the other side may take to answer a connection.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where a door leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// To a port of this machine.
    Tcp(SocketAddr),
    /// To a Unix socket.
    Unix(PathBuf),
}

/// One port inside, and where it leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Door {
    /// The port of 127.0.0.1 that the program sees.
    pub port: u16,
    /// Where it leads.
    pub way: Way,
}

/// Doors while they are open.
#[derive(Debug, Default)]
pub(super) struct Doors {
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Doors {
    /// Serves one more.
    ///
    /// # Errors
    /// No thread can be had.
    pub(super) fn open(&mut self, listener: TcpListener, way: Way) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        let (over, busy) = (Arc::clone(&self.over), Arc::new(AtomicUsize::new(0)));
        let served = move || {
            while !over.load(Ordering::Acquire) {
                let mut polled = [PollFd::new(&listener, PollFlags::IN)];
                let _ = poll(&mut polled, Some(&spec(PAUSE_MS)));
                if let Ok((near, _)) = listener.accept() {
                    admit(near, &way, &busy);
                }
            }
        };
        self.threads.push(thread::Builder::new().name("weir-door".into()).spawn(served)?);
        Ok(())
    }
}

impl Drop for Doors {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn admit(near: TcpStream, way: &Way, busy: &Arc<AtomicUsize>) {
    if busy.fetch_add(1, Ordering::AcqRel) >= CONNECTIONS {
        busy.fetch_sub(1, Ordering::AcqRel);
        return;
    }
    let (way, held) = (way.clone(), Arc::clone(busy));
    let carried = move || {
        // Whatever goes wrong, the program sees a closed connection.
        let _ = carry(&near, &way);
        held.fetch_sub(1, Ordering::AcqRel);
    };
    if thread::Builder::new().name("weir-door".into()).spawn(carried).is_err() {
        busy.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A connection whose halves can be closed apart.
trait Stream: Send + Sync + 'static {
    fn close(&self, how: Shutdown);
    fn copy_to(&self, other: &dyn Stream) -> io::Result<()>;
    fn put(&self, bytes: &[u8]) -> io::Result<()>;
}

macro_rules! stream {
    ($kind:ty) => {
        impl Stream for $kind {
            fn close(&self, how: Shutdown) {
                let _ = self.shutdown(how);
            }

            fn copy_to(&self, other: &dyn Stream) -> io::Result<()> {
                let mut bytes = vec![0; 64 << 10];
                loop {
                    match io::Read::read(&mut &*self, &mut bytes)? {
                        0 => return Ok(()),
                        some => other.put(bytes.get(..some).unwrap_or_default())?,
                    }
                }
            }

            fn put(&self, bytes: &[u8]) -> io::Result<()> {
                io::Write::write_all(&mut &*self, bytes)
            }
        }
    };
}

stream!(TcpStream);
stream!(UnixStream);

fn carry(near: &TcpStream, way: &Way) -> io::Result<()> {
    near.set_nonblocking(false)?;
    let far: Arc<dyn Stream> = match way {
        Way::Tcp(address) => Arc::new(TcpStream::connect_timeout(address, PATIENCE)?),
        Way::Unix(path) => Arc::new(UnixStream::connect(path)?),
    };
    let (back, into) = (near.try_clone()?, Arc::clone(&far));
    let answers = thread::Builder::new().name("weir-door".into()).spawn(move || {
        let _ = into.copy_to(&back);
        // The far side has said everything, or the near side takes no more.
        Stream::close(&back, Shutdown::Write);
    })?;
    let said = near.copy_to(&*far);
    far.close(if said.is_ok() { Shutdown::Write } else { Shutdown::Both });
    let _ = answers.join();
    far.close(Shutdown::Both);
    said
}
