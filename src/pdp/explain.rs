//! The trace of a decision, for people and JSON.
use super::{Compiled, Facts};
use crate::model::{Call, Decision, Effect, ThreatId};
use serde::Serialize;
/// One rule tried.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    /// Rule id.
    pub rule: String,
    /// Its effect.
    pub effect: Effect,
    /// Whether it held; `None` when its condition could not be evaluated.
    pub held: Option<bool>,
    /// Threats answered.
    pub answers: Vec<ThreatId>,
}
/// How a decision came about.
#[derive(Clone, Debug, Serialize)]
pub struct Trace {
    /// Checks and rules in the order tried.
    pub steps: Vec<Step>,
    /// The decision.
    pub decision: Decision,
    /// What would be allowed instead.
    pub allowed: Vec<String>,
}
/// Decides and says how.
#[must_use]
pub fn explain(policy: &Compiled, facts: &Facts, call: &Call) -> Trace {
    let _ = (policy, facts, call);
    todo!()
}
