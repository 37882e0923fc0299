//! Time as the meters use it: whole milliseconds of a clock that never goes back.

use std::time::Instant;

use rustix::event::Timespec;

/// Since when something is measured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Watch(Instant);

impl Watch {
    /// From now.
    pub(super) fn start() -> Self {
        Self(Instant::now())
    }

    /// Milliseconds since.
    pub(super) fn millis(&self) -> u64 {
        u64::try_from(self.0.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// `millis` as the kernel takes it.
pub(super) fn spec(millis: u64) -> Timespec {
    let millis = i64::try_from(millis).unwrap_or(i64::MAX);
    Timespec { tv_sec: millis / 1_000, tv_nsec: (millis % 1_000) * 1_000_000 }
}
