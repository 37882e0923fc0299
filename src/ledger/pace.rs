//! How fast an account spends a kind: enough for a forecast, and a few bytes for each account.
//!
//! Two neighbouring spans are kept; the rate is that of the last whole span, with the older one taken in
//! the part that still lies within it, as if it had been spent evenly.

use serde::{Deserialize, Serialize};

use crate::model::{Kind, Millis, Timestamp, exact};

/// The span over which a rate is measured.
pub(super) const SPAN: Millis = Millis(5 * 60_000);

/// What was posted of one kind in this span and in the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pace {
    pub(super) kind: Kind,
    #[serde(with = "exact")]
    span: u64,
    #[serde(with = "exact")]
    now: u64,
    #[serde(with = "exact")]
    before: u64,
}

impl Pace {
    pub(super) const fn new(kind: Kind, amount: u64, at: Timestamp) -> Self {
        Self { kind, span: at.0 / SPAN.0, now: amount, before: 0 }
    }

    pub(super) fn add(&mut self, amount: u64, at: Timestamp) {
        *self = self.moved(at);
        self.now = self.now.saturating_add(amount);
    }

    /// When `left` more will have been posted if it goes on like this; `None` when nothing was posted lately.
    pub(super) fn until(&self, left: u64, at: Timestamp) -> Option<Millis> {
        let pace = self.moved(at);
        let within = SPAN.0 - at.0 % SPAN.0;
        // Scaled by the span, so that nothing is rounded away before the division.
        let spent = u128::from(pace.now) * u128::from(SPAN.0) + u128::from(pace.before) * u128::from(within);
        let span = u128::from(SPAN.0);
        let wait = u128::from(left).saturating_mul(span * span).checked_div(spent)?;
        Some(Millis(u64::try_from(wait).unwrap_or(u64::MAX)))
    }

    /// The same as seen at `at`.
    fn moved(&self, at: Timestamp) -> Self {
        let span = at.0 / SPAN.0;
        match span.saturating_sub(self.span) {
            0 => *self,
            1 => Self { span, now: 0, before: self.now, ..*self },
            _ => Self { span, now: 0, before: 0, ..*self },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_rate_is_told_exactly_and_silence_tells_nothing() {
        let minute = |minutes: u64| Timestamp(1_700_000_100_000 / SPAN.0 * SPAN.0 + minutes * 60_000);
        let mut pace = Pace::new(Kind::MicroUsd, 10, minute(0));
        for number in 1..10 {
            pace.add(10, minute(number));
        }
        // Ten each minute: 100 more take ten minutes, at the border of a span and inside of it.
        assert_eq!(pace.until(100, minute(10)), Some(Millis(600_000)));
        pace.add(10, minute(10));
        pace.add(10, minute(11));
        assert_eq!(pace.until(0, minute(11)), Some(Millis(0)));
        assert!(pace.until(100, minute(12)).is_some_and(|wait| wait.0.abs_diff(600_000) < 1_000));
        assert_eq!(pace.until(100, minute(30)), None);
    }
}
