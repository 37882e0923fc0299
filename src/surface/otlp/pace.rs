//! A rate: so many at once, and one more after every step.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::surface::lock;

/// A bucket that fills by one for every step of time.
pub(crate) struct Pace {
    most: u32,
    step: Duration,
    now: Mutex<(u32, Instant)>,
}

impl Pace {
    /// A full one: `most` at once, one more every `step`.
    pub fn new(most: u32, step: Duration) -> Self {
        Self { most, step, now: Mutex::new((most, Instant::now())) }
    }

    /// Takes one; false when there is none.
    pub fn take(&self) -> bool {
        let mut state = lock(&self.now);
        let steps = state.1.elapsed().as_millis() / self.step.as_millis().max(1);
        if steps > 0 {
            *state = (self.most.min(state.0.saturating_add(u32::try_from(steps).unwrap_or(u32::MAX))), Instant::now());
        }
        let left = state.0.checked_sub(1);
        state.0 = left.unwrap_or(0);
        left.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_comes_back_one_by_one() {
        let pace = Pace::new(3, Duration::from_secs(3_600));
        assert_eq!([(); 5].map(|()| pace.take()), [true, true, true, false, false]);
        let quick = Pace::new(1, Duration::from_millis(1));
        assert!(quick.take());
        std::thread::sleep(Duration::from_millis(5));
        assert!(quick.take());
    }
}
