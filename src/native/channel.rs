//! One message, and descriptors with it, between the processes that put up the walls, and between the gate and whoever
//! asks it to run a program.
//!
//! Every message is bounded and comes whole or not at all. The program that runs behind the walls never has an
//! end of a channel: each is closed when a program is executed.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::clock::{Watch, spec};

/// Bytes of one message at most.
pub(super) const MESSAGE: usize = 160 << 10;
/// Descriptors with one message at most.
pub(super) const FILES: usize = 40;
/// How long one waits for room before a message is tried again.
const ROOM_MS: u64 = 5;

/// One end.
#[derive(Debug)]
pub(super) struct Channel(OwnedFd);

impl Channel {
    /// Two ends that belong together.
    pub(super) fn pair() -> io::Result<(Self, OwnedFd)> {
        let (near, far) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Self(near), far))
    }

    /// The end that is `socket`, which carries whole messages.
    pub(super) const fn of(socket: OwnedFd) -> Self {
        Self(socket)
    }

    /// The end that whoever started this process put on its standard input.
    pub(super) fn of_stdin() -> io::Result<Self> {
        Ok(Self(io::stdin().as_fd().try_clone_to_owned()?))
    }

    /// Another handle of the same end.
    pub(super) fn copy(&self) -> io::Result<OwnedFd> {
        self.0.try_clone()
    }

    /// The descriptor.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Sends one message.
    pub(super) fn send<T: Serialize>(&self, message: &T, files: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.put(message, files, SendFlags::NOSIGNAL)
    }

    /// Sends one message unless that means to wait: the other end may stand still. False once it is gone.
    pub(super) fn offer<T: Serialize>(&self, message: &T) -> bool {
        match self.put(message, &[], SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
            Ok(()) => true,
        }
    }

    fn put<T: Serialize>(&self, message: &T, files: &[BorrowedFd<'_>], flags: SendFlags) -> io::Result<()> {
        let text = serde_json::to_vec(message)?;
        if text.len() > MESSAGE || files.len() > FILES {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "more than one message may hold"));
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !files.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(files)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let parts = [IoSlice::new(&text)];
        rustix::io::retry_on_intr(|| sendmsg(&self.0, &parts, &mut ancillary, flags))?;
        Ok(())
    }

    /// Sends one message within `millis`, should the other end take its time; false when it could not be sent.
    pub(super) fn deliver<T: Serialize>(&self, message: &T, millis: u64) -> bool {
        let began = Watch::start();
        loop {
            match self.put(message, &[], SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(()) => return true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && began.millis() < millis => {
                    // Room for a small message may be none for this one, so that this may not wait at all.
                    let _ = poll(&mut [PollFd::new(&self.0, PollFlags::OUT)], Some(&spec(ROOM_MS)));
                    std::thread::sleep(std::time::Duration::from_millis(ROOM_MS));
                }
                Err(_) => return false,
            }
        }
    }

    /// The next message; `None` once the other end is gone.
    pub(super) fn receive<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let Some((text, files)) = self.receive_text()? else { return Ok(None) };
        Ok(Some((serde_json::from_slice(&text)?, files)))
    }

    /// The next message as it came; `None` once the other end is gone. One that is longer than a message may be, or has
    /// more descriptors, is an error.
    pub(super) fn receive_text(&self) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
        let mut text = vec![0; MESSAGE];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut hear = || {
            let mut parts = [IoSliceMut::new(&mut text)];
            rustix::io::retry_on_intr(|| recvmsg(&self.0, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC))
        };
        let heard = match hear() {
            // The other end left without hearing everything; what it said before that is still to come.
            Err(rustix::io::Errno::CONNRESET) => hear(),
            heard => heard,
        };
        let heard = match heard {
            Err(rustix::io::Errno::CONNRESET) => return Ok(None),
            heard => heard?,
        };
        // Whatever came is taken out first, so that it is closed whatever follows.
        let mut files = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(came) = message {
                files.extend(came);
            }
        }
        if heard.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "more than one message may hold"));
        }
        if heard.bytes == 0 {
            return Ok(None);
        }
        text.truncate(heard.bytes);
        Ok(Some((text, files)))
    }

    /// Waits at most `millis` for a message or for the end of the other side; true when there is one.
    pub(super) fn ready(&self, millis: u64) -> io::Result<bool> {
        let mut polled = [PollFd::new(&self.0, PollFlags::IN)];
        match poll(&mut polled, Some(&spec(millis))) {
            Ok(count) => Ok(count > 0),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}
