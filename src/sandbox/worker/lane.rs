//! The worker's end of a lane: what a running program says to the gate, and what it hears.
//!
//! Two threads use it while a program runs: the program's own, and the watchman's. Whoever asks the gate holds
//! `heard` from before the question until after the reply, so that the watchman never takes a reply for an end.

use std::io::{self, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::sandbox::eager;
use crate::sandbox::wire::{Order, Report, Request, pack, receive, send};

/// Printed bytes that are gathered before they are sent.
const GATHERED: usize = 8 << 10;

/// Why a program does not go on after a call.
#[derive(Debug, thiserror::Error)]
#[error("the gate ended the program")]
pub(crate) struct Stopped;

/// What a look at a program's lane shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// The program waits for the gate.
    Waits,
    /// It runs, and has waited so long in all.
    Runs {
        /// The sum of its waits.
        waited: Duration,
    },
    /// The gate has ended it.
    Ended,
}

/// One lane. Only the thread that serves it takes orders from it.
pub(crate) struct Lane {
    stream: UnixStream,
    heard: Mutex<BufReader<UnixStream>>,
    printed: Mutex<String>,
    /// Nanoseconds that the program spent waiting for replies.
    waited: AtomicU64,
    stopped: AtomicBool,
}

impl Lane {
    /// On `stream`.
    ///
    /// # Errors
    /// The stream cannot be cloned.
    pub(crate) fn new(stream: UnixStream) -> io::Result<Self> {
        let heard = Mutex::new(BufReader::new(stream.try_clone()?));
        let (printed, waited, stopped) = (Mutex::default(), AtomicU64::new(0), AtomicBool::new(false));
        Ok(Self { stream, heard, printed, waited, stopped })
    }

    /// The next order.
    ///
    /// # Errors
    /// The gate has gone, or sent what is no order.
    pub(crate) fn order(&self) -> io::Result<Order> {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        self.next(&mut heard)
    }

    /// Says something to the gate, after everything that was printed.
    ///
    /// # Errors
    /// The gate has gone.
    pub(crate) fn say(&self, report: &Report) -> io::Result<()> {
        // Held while it is sent: no other thread's words come in between.
        let mut printed = self.printed.lock().unwrap_or_else(PoisonError::into_inner);
        let text = std::mem::take(&mut *printed);
        let mut bytes = Vec::new();
        if !text.is_empty() {
            pack(&mut bytes, &Report::Printed(text))?;
        }
        pack(&mut bytes, report)?;
        (&self.stream).write_all(&bytes)
    }

    /// A new program begins.
    pub(crate) fn begin(&self) {
        self.waited.store(0, Ordering::Relaxed);
        self.stopped.store(false, Ordering::Relaxed);
    }

    /// The program is not to ask anything more.
    pub(crate) fn halt(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// Looks at the program without waiting.
    pub(crate) fn look(&self) -> Look {
        let mut heard = match self.heard.try_lock() {
            Ok(heard) => heard,
            Err(TryLockError::Poisoned(error)) => error.into_inner(),
            Err(TryLockError::WouldBlock) => return Look::Waits,
        };
        if self.stopped.load(Ordering::Relaxed) {
            return Look::Ended;
        }
        // Nothing but an end comes while a program runs and asks for nothing.
        if !heard.buffer().is_empty() || self.ready(PollFlags::IN) {
            let _: io::Result<Order> = receive(&mut *heard);
            self.stopped.store(true, Ordering::Relaxed);
            return Look::Ended;
        }
        Look::Runs { waited: Duration::from_nanos(self.waited.load(Ordering::Relaxed)) }
    }

    fn ready(&self, how: PollFlags) -> bool {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut [PollFd::new(&self.stream, how)], Some(&now)).is_ok_and(|ready| ready > 0)
    }

    /// Takes printed text.
    ///
    /// # Errors
    /// The gate has gone.
    pub(crate) fn print(&self, text: &str) -> io::Result<()> {
        let mut printed = self.printed.lock().unwrap_or_else(PoisonError::into_inner);
        printed.push_str(text);
        if printed.len() < GATHERED { Ok(()) } else { self.tell(&mut printed) }
    }

    /// Sends what was printed, where that does not have to wait for the gate to read.
    ///
    /// # Errors
    /// The gate has gone.
    pub(crate) fn flush_some(&self) -> io::Result<()> {
        // Somebody else who holds it sends it.
        let Ok(mut printed) = self.printed.try_lock() else { return Ok(()) };
        if printed.is_empty() || !self.ready(PollFlags::OUT) { Ok(()) } else { self.tell(&mut printed) }
    }

    fn tell(&self, printed: &mut String) -> io::Result<()> {
        send(&mut &self.stream, &Report::Printed(std::mem::take(printed)))
    }

    /// Asks the gate and waits for its reply.
    ///
    /// # Errors
    /// [`Stopped`], or the gate has gone.
    pub(crate) fn call(&self, request: Request) -> wasmtime::Result<String> {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        if self.stopped.load(Ordering::Relaxed) {
            return Err(Stopped.into());
        }
        let since = Instant::now();
        self.say(&Report::Call(request))?;
        let reply = self.next(&mut heard);
        let waited = u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.waited.fetch_add(waited, Ordering::Relaxed);
        match reply? {
            Order::Answer(text) => Ok(text),
            _ => {
                self.stopped.store(true, Ordering::Relaxed);
                Err(Stopped.into())
            }
        }
    }

    fn next(&self, heard: &mut BufReader<UnixStream>) -> io::Result<Order> {
        if heard.buffer().is_empty() {
            eager::look(&self.stream);
        }
        receive(heard)
    }
}
