//! A short look for what the other side is about to say, before a thread lies down to wait for it.
//!
//! Waking a sleeping thread on another processor costs more than most steps and calls take. Both ends of a lane look for
//! a moment first, and give way to every other thread meanwhile.

use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// How long a thread looks before it lies down.
const LOOK: Duration = Duration::from_micros(150);

/// Looks until there is something to read at `stream`, or it is time to lie down.
pub(crate) fn look(stream: &impl AsFd) {
    let until = Instant::now() + LOOK;
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    while poll(&mut [PollFd::new(stream, PollFlags::IN)], Some(&now)) == Ok(0) && Instant::now() < until {
        thread::yield_now();
    }
}
