//! The gate's end of a lane: orders out, reports in, and no waiting for a worker that dawdles.
//!
//! A frame that has begun must end in time, however slowly its bytes come. What the frames mean is not known here.

use std::io::{self, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::eager;
use super::wire::{Order, Report, receive, send};

/// How long a worker may take to finish a frame that it has begun, or to take one; a byte now and then does not help it.
pub(super) const STALL: Duration = Duration::from_secs(10);

/// The gate's end of a lane.
pub(crate) struct Lane {
    stream: Paced,
    heard: BufReader<Paced>,
}

/// A stream on which one frame has a time to be over, however its bytes come.
struct Paced {
    stream: UnixStream,
    until: Instant,
}

impl Paced {
    fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_read_timeout(Some(STALL))?;
        stream.set_write_timeout(Some(STALL))?;
        Ok(Self { stream, until: Instant::now() })
    }

    /// A frame begins.
    fn begin(&mut self) {
        self.until = Instant::now() + STALL;
    }

    /// The stream, while there is time.
    fn timely(&mut self) -> io::Result<&mut UnixStream> {
        if Instant::now() < self.until { Ok(&mut self.stream) } else { Err(io::ErrorKind::WouldBlock.into()) }
    }
}

impl Read for Paced {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.timely()?.read(into)
    }
}

impl Write for Paced {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.timely()?.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Lane {
    /// The gate's end of `stream`.
    pub(crate) fn new(stream: UnixStream) -> io::Result<Self> {
        let heard = BufReader::with_capacity(16 << 10, Paced::new(stream.try_clone()?)?);
        Ok(Self { stream: Paced::new(stream)?, heard })
    }

    /// Tells the worker something.
    ///
    /// # Errors
    /// It has gone or does not listen.
    pub(crate) fn order(&mut self, order: &Order) -> io::Result<()> {
        self.stream.begin();
        send(&mut self.stream, order)
    }

    /// What the worker says next; `None` when it has said nothing within `patience`.
    ///
    /// # Errors
    /// It has gone, stopped within a frame, or said what is no report.
    pub(crate) fn report(&mut self, patience: Duration) -> io::Result<Option<Report>> {
        if self.heard.buffer().is_empty() && !self.readable(patience)? {
            return Ok(None);
        }
        self.heard.get_mut().begin();
        receive(&mut self.heard).map(Some)
    }

    fn readable(&self, patience: Duration) -> io::Result<bool> {
        let until = Instant::now() + patience;
        eager::look(&self.stream.stream);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let wait = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
            match poll(&mut [PollFd::new(&self.stream.stream, PollFlags::IN)], Some(&wait)) {
                Ok(ready) => return Ok(ready > 0),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
