//! One factor's numbers: declared, permitted, observed, and how far each may be relied on.

use serde::Serialize;

use super::{Beta, PRIOR_STRENGTH};
use crate::model::{Factor, Level};

/// Fewest effective sessions that say anything.
const FEW: f64 = 5.0;
/// Fewest effective sessions that are enough (the number of AIVSS' 2.0 candidate).
const ENOUGH: f64 = 30.0;
/// Widest interval that is enough.
const NARROW: f64 = 0.30;

/// Whether there is enough evidence to speak of an observed value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sufficiency {
    /// Fewer than 5 effective sessions: the declared value stands.
    PriorOnly,
    /// Fewer than 30, or an interval wider than 0.30.
    Insufficient,
    /// Enough.
    Evidenced,
}

impl Sufficiency {
    /// The status of `n` effective sessions and an interval of this width.
    #[must_use]
    pub fn of(n: f64, width: f64) -> Self {
        if n < FEW {
            Self::PriorOnly
        } else if n < ENOUGH || width > NARROW {
            Self::Insufficient
        } else {
            Self::Evidenced
        }
    }

    /// The word used in tables and JSON.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::PriorOnly => "prior-only",
            Self::Insufficient => "insufficient",
            Self::Evidenced => "evidenced",
        }
    }
}

/// One factor's three numbers, and what stands behind them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FactorScore {
    /// The factor.
    pub factor: Factor,
    /// As the profile declares it.
    pub declared: Option<f64>,
    /// The most that the policy permits; `None` where a policy cannot say.
    pub permitted: Option<f64>,
    /// Posterior mean; the declared value while `status` is prior-only.
    pub observed: Option<f64>,
    /// 95 % equal-tailed interval.
    pub interval: (f64, f64),
    /// What enters the factor sum: `observed` once evidenced; before that never less than declared.
    pub counted: Option<f64>,
    /// Effective number of sessions: votes, older ones weighing less.
    pub n: f64,
    /// Sessions that had a vote, ever.
    pub sessions: u64,
    /// Refused attempts at more, in calls.
    pub attempted: u64,
    /// The highest level that any session ever reached; it is never discounted.
    pub high_water: Option<f64>,
    /// True when there is evidence and the declared value lies outside the interval.
    pub conflict: bool,
    /// Whether `observed` may be relied on.
    pub status: Sufficiency,
    /// The posterior itself, before any rule about what to show.
    pub posterior: Beta,
}

/// What a fold knows of one factor.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    /// Discounted sum of levels.
    pub present: f64,
    /// Discounted sum of what is missing to full.
    pub absent: f64,
    /// Votes ever.
    pub sessions: u64,
    /// Refused attempts, in calls.
    pub attempted: u64,
    /// Highest level ever.
    pub high_water: Option<Level>,
}

impl FactorScore {
    /// The score of `factor` out of what was seen, declared and permitted.
    pub(super) fn of(factor: Factor, tally: Tally, declared: Option<Level>, permitted: Option<Level>) -> Self {
        let prior = Beta::prior(declared, PRIOR_STRENGTH);
        let beta = prior.after(tally.present, tally.absent);
        let interval = beta.interval();
        let n = tally.present + tally.absent;
        let status = Sufficiency::of(n, interval.1 - interval.0);
        let declared = declared.map(Level::fraction);
        let mean = beta.mean();
        let outside = |d: f64| d < interval.0 || d > interval.1;
        Self {
            factor,
            declared,
            permitted: permitted.map(Level::fraction),
            observed: if status == Sufficiency::PriorOnly { declared } else { Some(mean) },
            interval,
            counted: counted(status, declared, mean, prior.mean()),
            n,
            sessions: tally.sessions,
            attempted: tally.attempted,
            high_water: tally.high_water.map(Level::fraction),
            conflict: status != Sufficiency::PriorOnly && declared.is_some_and(outside),
            status,
            posterior: beta,
        }
    }
}

/// Evidence raises at once and lowers only when there is enough of it. A mean that merely stands
/// above a low declared value because of the prior's half counts does not raise.
fn counted(status: Sufficiency, declared: Option<f64>, mean: f64, prior_mean: f64) -> Option<f64> {
    match (status, declared) {
        (Sufficiency::Evidenced, _) => Some(mean),
        (_, Some(declared)) if mean > prior_mean => Some(declared.max(mean)),
        (_, Some(declared)) => Some(declared),
        (Sufficiency::Insufficient, None) => Some(mean),
        (Sufficiency::PriorOnly, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(declared: u8, present: f64, absent: f64) -> FactorScore {
        let tally = Tally { present, absent, ..Tally::default() };
        FactorScore::of(Factor::Tools, tally, Level::from_hundredths(declared), None)
    }

    #[test]
    fn status_follows_sessions_and_width() {
        assert_eq!(Sufficiency::of(4.99, 0.01), Sufficiency::PriorOnly);
        assert_eq!(Sufficiency::of(5.0, 0.01), Sufficiency::Insufficient);
        assert_eq!(Sufficiency::of(29.9, 0.01), Sufficiency::Insufficient);
        assert_eq!(Sufficiency::of(30.0, 0.31), Sufficiency::Insufficient);
        assert_eq!(Sufficiency::of(30.0, 0.30), Sufficiency::Evidenced);
    }

    #[test]
    fn a_declared_value_outside_the_interval_is_a_conflict_once_there_is_evidence() {
        assert!(score(70, 0.0, 40.0).conflict, "far below");
        assert!(score(20, 40.0, 0.0).conflict, "far above");
        assert!(!score(70, 28.0, 12.0).conflict, "as declared");
        assert!(!score(0, 0.0, 0.0).conflict, "no evidence, no conflict, though 0 is outside every interval");
    }

    #[test]
    fn what_counts_is_raised_at_once_and_lowered_only_by_enough_evidence() {
        assert_eq!(score(70, 0.0, 20.0).counted, Some(0.7), "twenty good sessions are not enough");
        assert!(score(70, 0.0, 40.0).counted < Some(0.2), "forty are");
        assert!(score(20, 4.0, 0.0).counted > Some(0.5), "four bad ones are enough to raise");
        assert_eq!(score(0, 0.0, 1.0).counted, Some(0.0), "a good session never raises");
        assert!(score(0, 0.0, 40.0).counted > Some(0.0), "an evidenced value is never exactly zero");
    }
}
