//! Scores: declared, permitted and observed values of the ten factors, and AIVSS arithmetic.
//!
//! A posterior is a fold over evidence. No evidence widens an interval; it never lowers a score.
//! A blocked attempt is evidence of intent, not of harm (OWASP AIVSS v0.8; statistics in
//! `docs/scoring.md`).

use serde::Serialize;

use crate::model::{Evidence, Factor, Factors, Level};

/// What evidence has shown so far; a fold over [`Evidence`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Posterior {}

impl Posterior {
    /// Adds what one call showed.
    pub fn observe(&mut self, evidence: &Evidence) {
        let _ = evidence;
        todo!()
    }

    /// The score of every factor, beside what was declared and what the policy permits.
    #[must_use]
    pub fn scores(&self, declared: Option<&Factors>, permitted: &[Option<Level>; 10]) -> Vec<FactorScore> {
        let _ = (declared, permitted);
        todo!()
    }
}

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

/// One factor's three numbers.
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
    /// Effective number of sessions.
    pub n: f64,
    /// Refused attempts at more, in calls.
    pub attempted: u64,
    /// Whether `observed` may be relied on.
    pub status: Sufficiency,
}
