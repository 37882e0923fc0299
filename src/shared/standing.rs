//! Until when a gate may spend what it has drawn.
//!
//! Counted from before the renewal was sent, so that the gate always stops before the database believes that it did.
//! Two clocks, and the stricter one wins: the monotonic one cannot be set but stands still while the machine sleeps; the
//! one on the wall does not.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// One moment, by both clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    steady: Instant,
    wall: SystemTime,
}

impl Moment {
    pub(super) fn now() -> Self {
        Self { steady: Instant::now(), wall: SystemTime::now() }
    }

    /// How long ago it was at most; a wall clock that was set back says nothing.
    fn elapsed(&self) -> Duration {
        self.steady.elapsed().max(self.wall.elapsed().unwrap_or_default())
    }
}

/// The standing of a gate: none until the first renewal.
#[derive(Debug, Default)]
pub(super) struct Standing(Mutex<Option<(Moment, Duration)>>);

impl Standing {
    /// It holds for `span` from `asked`.
    pub(super) fn renew(&self, asked: Moment, span: Duration) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((asked, span));
    }

    pub(super) fn end(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    pub(super) fn live(&self) -> bool {
        let held = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.is_some_and(|(asked, span)| asked.elapsed() < span)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standing_counts_from_before_it_was_asked_for() {
        let standing = Standing::default();
        assert!(!standing.live(), "none at first");
        standing.renew(Moment::now(), Duration::from_secs(60));
        assert!(standing.live());
        standing.end();
        assert!(!standing.live());
    }

    #[test]
    fn a_machine_that_slept_has_no_standing() {
        let standing = Standing::default();
        let asked = Moment { steady: Instant::now(), wall: SystemTime::now() - Duration::from_secs(120) };
        standing.renew(asked, Duration::from_secs(60));
        assert!(!standing.live(), "the clock on the wall went on");
        let asked = Moment { steady: Instant::now(), wall: SystemTime::now() + Duration::from_secs(120) };
        standing.renew(asked, Duration::from_secs(60));
        assert!(standing.live(), "a clock that was set back says nothing");
    }
}
