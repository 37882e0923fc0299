//! The start of worker processes, until each is behind its lock.
//!
//! All of them are started by one thread, because the kernel ends a worker together with the thread that started it.
//! Nothing is inherited but the socket: no variables, no files, no folder, no group.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::SandboxFault;
use super::lane::STALL;
use super::wire::{Report, Terms, receive, send};
use super::workers::Wall;

/// How long a worker may take to start: the first one reads its guest from disk.
const START: Duration = Duration::from_secs(60);

type Started = io::Result<(Child, UnixStream)>;

/// The thread that starts the processes.
pub(crate) struct Forge {
    /// `None` where there are no processes.
    starts: Option<Mutex<Sender<Sender<Started>>>>,
}

impl Forge {
    /// One that starts what `wall` says.
    pub(crate) fn open(wall: Wall) -> Self {
        let Wall::Process { program, arguments } = wall else { return Self { starts: None } };
        let (starts, asked) = channel::<Sender<Started>>();
        let work = move || {
            while let Ok(reply) = asked.recv() {
                // Nobody who waits any more is no reason to stop: the process ends with its socket.
                let _ = reply.send(start(&program, &arguments));
            }
        };
        // Without the thread every start is answered by a closed channel.
        let _ = thread::Builder::new().name("weir-forge".into()).spawn(work);
        Self { starts: Some(Mutex::new(starts)) }
    }

    /// True where workers are processes.
    pub(crate) const fn is_used(&self) -> bool {
        self.starts.is_some()
    }

    /// Starts a process under `terms` and waits until it is behind its lock.
    ///
    /// # Errors
    /// [`SandboxFault::Worker`]; the process has ended then.
    pub(crate) fn worker(&self, terms: &Terms) -> Result<(Child, UnixStream), SandboxFault> {
        let told = |what: &str| SandboxFault::Worker(what.to_owned());
        let started = self.start().map_err(|error| told(&format!("its process does not start: {error}")));
        let (mut child, mut control) = started?;
        let ready = send(&mut control, terms).and_then(|()| {
            control.set_read_timeout(Some(START))?;
            let report = receive::<Report>(&mut control)?;
            control.set_write_timeout(Some(STALL))?;
            Ok(report)
        });
        let fault = match ready {
            Ok(Report::Ready(held)) => {
                tracing::debug!("a worker is ready: {held}");
                return Ok((child, control));
            }
            Ok(Report::Unfit(why)) => SandboxFault::Worker(why.chars().take(300).collect()),
            Ok(_) => told("it said something else than that it is ready"),
            Err(error) => told(&format!("it ended before it was ready ({error})")),
        };
        let _ = child.kill();
        let _ = child.wait();
        Err(fault)
    }

    fn start(&self) -> Started {
        let gone = || io::Error::other("the thread that starts workers has gone");
        let (reply, started) = channel();
        let starts = self.starts.as_ref().ok_or_else(gone)?;
        starts.lock().unwrap_or_else(PoisonError::into_inner).send(reply).map_err(|_| gone())?;
        started.recv().map_err(|_| gone())?
    }
}

fn start(program: &PathBuf, arguments: &[String]) -> Started {
    let (control, theirs) = UnixStream::pair()?;
    let mut command = Command::new(program);
    command.args(arguments).env_clear().current_dir("/").stdout(Stdio::null()).stderr(Stdio::null());
    // A group of its own: Ctrl-C is for the gate, which has sessions to put on disk first.
    command.stdin(OwnedFd::from(theirs)).process_group(0);
    Ok((command.spawn()?, control))
}
