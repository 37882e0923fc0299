//! The worker's end of a lane: what a running program says to the gate, and what it hears.

use std::io::{self, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
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

/// One lane. Only the thread that serves it reads from it.
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
        if heard.buffer().is_empty() {
            eager::look(&self.stream);
        }
        receive(&mut *heard)
    }

    /// Says something to the gate, after everything that was printed.
    ///
    /// # Errors
    /// The gate has gone.
    pub(crate) fn say(&self, report: &Report) -> io::Result<()> {
        let text = std::mem::take(&mut *self.printed.lock().unwrap_or_else(PoisonError::into_inner));
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

    /// How long the program has waited for replies.
    pub(crate) fn waited(&self) -> Duration {
        Duration::from_nanos(self.waited.load(Ordering::Relaxed))
    }

    /// True when the gate has ended the program; looks without waiting.
    pub(crate) fn is_stopped(&self) -> bool {
        if self.stopped.load(Ordering::Relaxed) {
            return true;
        }
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let readable = !heard.buffer().is_empty()
            || poll(&mut [PollFd::new(&self.stream, PollFlags::IN)], Some(&now)).is_ok_and(|ready| ready > 0);
        // Nothing but an end comes while a program runs and asks for nothing.
        if readable {
            let _: io::Result<Order> = receive(&mut *heard);
            self.stopped.store(true, Ordering::Relaxed);
        }
        readable
    }

    /// Takes printed text.
    ///
    /// # Errors
    /// The gate has gone.
    pub(crate) fn print(&self, text: &str) -> io::Result<()> {
        let mut printed = self.printed.lock().unwrap_or_else(PoisonError::into_inner);
        printed.push_str(text);
        if printed.len() < GATHERED {
            return Ok(());
        }
        let text = std::mem::take(&mut *printed);
        drop(printed);
        self.tell(text)
    }

    /// Sends what was printed.
    ///
    /// # Errors
    /// The gate has gone.
    pub(crate) fn flush(&self) -> io::Result<()> {
        let text = std::mem::take(&mut *self.printed.lock().unwrap_or_else(PoisonError::into_inner));
        if text.is_empty() { Ok(()) } else { self.tell(text) }
    }

    fn tell(&self, text: String) -> io::Result<()> {
        send(&mut &self.stream, &Report::Printed(text))
    }

    /// Asks the gate and waits for its reply.
    ///
    /// # Errors
    /// [`Stopped`], or the gate has gone.
    pub(crate) fn call(&self, request: Request) -> wasmtime::Result<String> {
        let since = Instant::now();
        self.say(&Report::Call(request))?;
        let reply = self.order();
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
}
