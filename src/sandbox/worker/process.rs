//! A worker as a process: one socket to the gate on standard input, and nothing else of the world.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use super::Worker;
use super::jail::{self, Cell};
use crate::sandbox::wire::{Report, Terms, receive, send};

/// What the gate says on the first socket, one byte and the number of a seat: a lane comes with it.
pub(crate) const LANE: u8 = 1;
/// The same: the seat is to be forgotten.
pub(crate) const FORGET: u8 = 2;
/// Bytes of what the gate says there.
pub(crate) const WORD: usize = 9;

/// Descriptors that one worker may have at once: lanes, and the files of its guests.
const OPEN_FILES: u64 = 16_384;

/// The whole life of a worker process.
#[must_use]
pub(crate) fn main() -> ExitCode {
    match life() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn life() -> io::Result<()> {
    // First of all: what this process inherited by accident must not be there when a guest runs.
    let shed = jail::shed(&[]);
    let mut gate = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    if let Err(fault) = shed {
        return send(&mut gate, &Report::Unfit(fault.to_string()));
    }
    let terms: Terms = receive(&mut gate)?;
    let mut held = String::new();
    let opened = Worker::open(&terms, || {
        if terms.locked {
            held = lock(&terms)?;
        }
        Ok(())
    });
    let worker = match opened {
        Ok(worker) => Arc::new(worker),
        Err(why) => return send(&mut gate, &Report::Unfit(why)),
    };
    send(&mut gate, &Report::Ready(held))?;
    while let Some((word, lane)) = listen(&gate)? {
        let [kind, seat @ ..] = word;
        match (kind, lane) {
            (LANE, Some(lane)) => {
                let worker = Arc::clone(&worker);
                let stream = UnixStream::from(lane);
                thread::Builder::new().name("weir-lane".into()).spawn(move || worker.serve(stream))?;
            }
            (FORGET, None) => worker.forget(u64::from_le_bytes(seat)),
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
    Ok(())
}

/// The second wall. Threads are made after it only.
fn lock(terms: &Terms) -> Result<String, String> {
    let cell = Cell {
        folders: terms.folders.iter().map(|(path, access)| (PathBuf::from(path), *access)).collect(),
        memory_bytes: terms.memory_bytes,
        open_files: OPEN_FILES,
        file_bytes: terms.file_bytes,
    };
    jail::lock(&cell).map(|locked| format!("{locked:?}")).map_err(|fault| fault.to_string())
}

/// The gate's next word and what came with it; `None` once the gate has gone.
fn listen(gate: &UnixStream) -> io::Result<Option<([u8; WORD], Option<OwnedFd>)>> {
    let mut word = [0; WORD];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut word)];
    let heard = rustix::io::retry_on_intr(|| {
        recvmsg(gate, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC | RecvFlags::WAITALL)
    })?;
    let came = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut files) => files.next(),
        _ => None,
    });
    match heard.bytes {
        0 => Ok(None),
        WORD => Ok(Some((word, came))),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}
