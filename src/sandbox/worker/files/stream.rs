//! What a guest writes through a stream: at once, within its volume's allowance.
//!
//! Nothing is written behind the guest's back later on: a write that waits could land after the space that it was
//! granted has been measured away. A write into the page cache is short; the guest's wall limit counts it.

use std::fs::File;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use wasmtime_wasi::async_trait;
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError, StreamResult};

use super::volume::{At, Volume};

/// Bytes of one write.
const AT_ONCE: usize = 64 << 10;

/// The end of a file into which a guest writes.
pub(super) struct Written {
    volume: Arc<Volume>,
    file: Arc<File>,
    at: At,
    state: State,
}

enum State {
    Open,
    /// The last write failed, which is told once.
    Failed(io::Error),
    Closed,
}

impl Written {
    /// A stream into `file`, which lies in `volume`.
    pub(super) fn new(volume: &Arc<Volume>, file: &Arc<File>, at: At) -> Self {
        Self { volume: Arc::clone(volume), file: Arc::clone(file), at, state: State::Open }
    }

    fn put(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = self.volume.write(&self.file, bytes, self.at)?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            if let At::Offset(offset) = &mut self.at {
                *offset += written as u64;
            }
            bytes = bytes.get(written..).unwrap_or_default();
        }
        Ok(())
    }

    /// Tells a failure, once.
    fn told(&mut self) -> StreamResult<()> {
        match std::mem::replace(&mut self.state, State::Closed) {
            State::Open => {
                self.state = State::Open;
                Ok(())
            }
            State::Failed(error) => Err(StreamError::LastOperationFailed(error.into())),
            State::Closed => Err(StreamError::Closed),
        }
    }
}

#[async_trait]
impl OutputStream for Written {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        if !matches!(self.state, State::Open) {
            return Err(StreamError::trap("a write without a check before it"));
        }
        if let Err(error) = self.put(&bytes) {
            self.state = State::Failed(error);
        }
        Ok(())
    }

    async fn blocking_write_and_flush(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.told()?;
        self.write(bytes)?;
        self.told()
    }

    fn flush(&mut self) -> StreamResult<()> {
        self.told()
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        self.told().map(|()| AT_ONCE)
    }
}

#[async_trait]
impl Pollable for Written {
    async fn ready(&mut self) {}
}
