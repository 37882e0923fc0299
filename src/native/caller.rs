//! One caller of a gate's service as the gate sees it: who asks, what for, whether it is still there.
//!
//! Everything that comes from it is hostile. It is looked at between two beats of the run, so that no thread waits for it,
//! and what it does not take is not waited for either. Its descriptors become the program's streams: only such as carry
//! bytes and lead nowhere else.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::IsTerminal as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::fs::{OFlags, fcntl_getfl, major, minor};
use rustix::process::Signal;

use super::channel::Channel;
use super::clock::Watch;
use super::report::Progress;
use super::talk::{Event, Wanted, Word, read};
use crate::model::{CallId, Millis, Outcome, Status};
use crate::pep::port::{ToolHost, ToolSpec};
use serde_json::{Map, Value};

/// How long a caller may take to say what it wants, and its environment.
const PATIENCE_MS: u64 = 5_000;
/// How long the last word of a run may take to arrive.
const LAST_MS: u64 = 5_000;
/// Bytes of a fault in what a caller said, as it is told of it.
const FAULT: usize = 200;
/// Signals that a caller may hand on.
const SIGNALS: [Signal; 3] = [Signal::HUP, Signal::INT, Signal::TERM];
/// The kernel's devices without a secret: null, zero, full, random, urandom.
const MEMORY: u32 = 1;
const HARMLESS: [u32; 5] = [3, 5, 7, 8, 9];

/// That the service ends, since when, and how long programs may take to end by themselves.
#[derive(Debug)]
pub(super) struct Closing {
    pub since: OnceLock<Watch>,
    pub grace: Millis,
}

/// A caller.
#[derive(Debug)]
pub(super) struct Caller {
    channel: Channel,
    /// A signal that the run has not handed on yet.
    pub signal: Arc<AtomicUsize>,
    gone: AtomicBool,
    asked_to_end: AtomicBool,
    started: AtomicBool,
    closing: Arc<Closing>,
}

impl Caller {
    /// Whoever is at the other end of `socket`.
    pub(super) fn new(socket: OwnedFd, closing: Arc<Closing>) -> Self {
        Self {
            channel: Channel::of(socket),
            signal: Arc::default(),
            gone: AtomicBool::new(false),
            asked_to_end: AtomicBool::new(false),
            started: AtomicBool::new(false),
            closing,
        }
    }

    /// What it wants, and the streams of the program.
    ///
    /// # Errors
    /// What is wrong with that, for the caller; nothing where it has gone.
    pub(super) fn wanted(&self) -> Result<(Wanted, [OwnedFd; 3]), String> {
        let (text, files) = self.next(PATIENCE_MS)?;
        let wanted = read(&text).map_err(|fault| format!("the request is not one: {}", cut(&fault)))?;
        let count = files.len();
        let files = <[OwnedFd; 3]>::try_from(files);
        let files =
            files.map_err(|_| format!("standard input, output and error come with a request, not {count} files"))?;
        match files.iter().all(carries_bytes) {
            true => Ok((wanted, files)),
            false => Err("a program's streams are files, pipes, terminals or /dev/null; folders, sockets and \
                          other descriptors are not handed on"
                .into()),
        }
    }

    /// The granted variables as the caller has them.
    pub(super) fn environment(&self, names: &[String]) -> Result<BTreeMap<String, String>, String> {
        if !self.channel.deliver(&Event::Granted { env: names.to_vec() }, LAST_MS) {
            return Err(GONE.into());
        }
        let (text, _) = self.next(PATIENCE_MS)?;
        match read(&text).map_err(|fault| format!("the environment is not one: {}", cut(&fault)))? {
            Word::Env(given) if given.keys().all(|name| names.contains(name)) => Ok(given),
            Word::Env(_) => Err("a variable came that the policy does not grant".into()),
            Word::Signal(_) => Err("it was called off before it started".into()),
        }
    }

    fn next(&self, millis: u64) -> Result<(Vec<u8>, Vec<OwnedFd>), String> {
        let came =
            self.channel.ready(millis).and_then(|ready| if ready { self.channel.receive_text() } else { Ok(None) });
        came.map_err(|fault| fault.to_string())?.ok_or_else(|| GONE.to_owned())
    }

    /// Says that nothing runs, and why.
    pub(super) fn refuse(&self, denial: String) {
        // It has heard nothing yet that could fill its ear.
        let _ = self.channel.offer(&Event::Refused { denial });
    }

    /// Says something that has to arrive.
    pub(super) fn say(&self, event: &Event) {
        if !self.channel.deliver(event, LAST_MS) {
            self.gone.store(true, Ordering::Release);
        }
    }

    /// Says what is spent, unless the caller is slow: the next such word says it, too.
    pub(super) fn tell(&self, progress: &Progress) {
        if !self.started.swap(true, Ordering::AcqRel) {
            self.say(&Event::Started);
        }
        if !self.channel.offer(&Event::Progress(Box::new(progress.clone()))) {
            self.gone.store(true, Ordering::Release);
        }
    }

    /// Whether the service ended the run, or was about to.
    pub(super) fn is_closing(&self) -> bool {
        self.closing.since.get().is_some()
    }

    /// Whether the run must end: the caller has gone, says what is not understood, or the service ends.
    fn left(&self) -> bool {
        if let Some(since) = self.closing.since.get() {
            if !self.asked_to_end.swap(true, Ordering::AcqRel) {
                self.hand_on(Signal::TERM);
            }
            if since.millis() >= self.closing.grace.0 {
                return true;
            }
        }
        // One word at a time, so that two signals are two.
        if self.signal.load(Ordering::Acquire) == 0 && !self.gone.load(Ordering::Acquire) {
            let heard = match self.channel.ready(0) {
                Ok(false) => true,
                Ok(true) => self.hear().is_some(),
                Err(_) => false,
            };
            self.gone.store(!heard, Ordering::Release);
        }
        self.gone.load(Ordering::Acquire)
    }

    fn hear(&self) -> Option<()> {
        let (text, _) = self.channel.receive_text().ok()??;
        let Ok(Word::Signal(number)) = read(&text) else { return None };
        self.hand_on(SIGNALS.into_iter().find(|signal| signal.as_raw() == number)?);
        Some(())
    }

    fn hand_on(&self, signal: Signal) {
        self.signal.store(usize::try_from(signal.as_raw()).unwrap_or_default(), Ordering::Release);
    }
}

/// What is said where nobody listens any more, and stands on record.
const GONE: &str = "whoever asked for it has gone or said nothing in time";

impl ToolHost for Caller {
    fn tools(&self) -> Vec<ToolSpec> {
        Vec::new()
    }

    fn call(&self, _: &CallId, _: &str, _: &Map<String, Value>, _: Millis) -> Outcome {
        Outcome::of(Status::Broken)
    }

    fn cancelled(&self) -> bool {
        self.left()
    }
}

/// Whether a descriptor carries bytes and leads nowhere: a folder would lead to every file below it, a socket to a network
/// or to further descriptors, and a bare path to what its holder may not open.
fn carries_bytes(file: &OwnedFd) -> bool {
    let path_only = fcntl_getfl(file).map_or(true, |flags| flags.contains(OFlags::PATH));
    let Ok(known) = file.try_clone().map(File::from).and_then(|file| file.metadata()) else { return false };
    let (kind, device) = (known.file_type(), known.rdev());
    let harmless = || major(device) == MEMORY && HARMLESS.contains(&minor(device));
    !path_only
        && (kind.is_file() || kind.is_fifo() || kind.is_char_device() && (harmless() || file.as_fd().is_terminal()))
}

/// A fault short enough to be told.
fn cut(fault: &str) -> String {
    fault.chars().filter(|c| !c.is_control()).take(FAULT).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::OpenOptionsExt as _;

    use super::*;

    #[test]
    fn only_what_carries_bytes_becomes_a_stream() {
        let pipe = std::io::pipe().unwrap();
        let sockets = std::os::unix::net::UnixStream::pair().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let folder = File::open("/").unwrap();
        let path = std::fs::OpenOptions::new().read(true).custom_flags(0o10_000_000).open("/dev/null").unwrap();
        let of = |file: OwnedFd| carries_bytes(&file);
        assert!(of(pipe.0.into()) && of(pipe.1.into()) && of(tempfile::tempfile().unwrap().into()));
        assert!(of(File::open("/dev/null").unwrap().into()) && of(File::open("/dev/urandom").unwrap().into()));
        if let Ok(terminal) = File::options().read(true).write(true).open("/dev/ptmx") {
            assert!(of(terminal.into()));
        }
        assert!(!of(sockets.0.into()) && !of(listener.into()) && !of(folder.into()) && !of(path.into()));
    }
}
