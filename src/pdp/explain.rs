//! The trace of a decision, for people and JSON: every rule that could speak of the call, whether it
//! held, the one that decided, and what would be allowed.
//!
//! It decides by the same function as the line and only adds to it; it must never decide by itself.

use cedar_policy::PolicySet;
use serde::Serialize;

use super::command::Seen;
use super::decide::judged;
use super::{Compiled, Facts, cedar, decide};
use crate::model::{Call, Decision, Effect, ThreatId};

/// One rule tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
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
    /// Rules that speak of this action, in file order.
    pub steps: Vec<Step>,
    /// The decision.
    pub decision: Decision,
    /// What would be allowed instead; empty for an allowed call.
    pub allowed: String,
}

/// Decides `call` and says how.
#[must_use]
pub fn explain(policy: &Compiled, facts: &Facts, call: &Call) -> Trace {
    let decision = decide(policy, facts, call);
    let steps = judged(policy, call).map_or_else(
        |_| Vec::new(),
        |seen| {
            let rules = policy.slice(call, seen.class).map(|slice| slice.rules.clone()).unwrap_or_default();
            rules.into_iter().filter_map(|index| step(policy, facts, call, &seen, index)).collect()
        },
    );
    let allowed = match decision.effect {
        Effect::Allow => String::new(),
        Effect::Ask => "the same call, once a person has approved it".to_owned(),
        Effect::Deny => decision.reason.instead.clone(),
    };
    Trace { steps, decision, allowed }
}

fn step(policy: &Compiled, facts: &Facts, call: &Call, seen: &Seen, index: usize) -> Option<Step> {
    let rule = policy.policy().rules.get(index)?;
    let mut alone = PolicySet::new();
    cedar::add(&mut alone, index, rule).ok()?;
    let verdict = cedar::evaluate(&alone, &cedar::Reads::All, facts, call, seen);
    let held = if verdict.failed.is_empty() { Some(!verdict.held.is_empty()) } else { None };
    Some(Step { rule: rule.id.clone(), effect: rule.effect, held, answers: rule.answers.clone() })
}
