//! The signal of every factor: one file and one row each.
//!
//! A row says which level a session shows (after OWASP AIVSS v0.8, section 2.3, table 2, where that
//! has the factor), and which refused calls count as an attempt at more. A session that had no
//! occasion to show a factor has no vote on it: no level is ever made out of silence. Thresholds
//! that the standard leaves open are this project's, and say so.

mod autonomy;
mod context;
mod identity;
mod multi_agent;
mod non_determinism;
mod opacity;
mod persistence;
mod planning;
mod self_modification;
mod tools;

use super::SessionFacts;
use crate::model::{Action, EffectClass, Evidence, Factor, Level};

/// How evidence becomes a factor's level.
#[derive(Clone, Copy, Debug)]
pub struct Signal {
    /// The factor.
    pub factor: Factor,
    /// The level that a session has shown; `None` when it had no occasion to show any.
    pub level: fn(&SessionFacts) -> Option<Level>,
    /// Whether a refused or exhausted call was an attempt at more of this factor.
    pub attempt: fn(&Evidence) -> bool,
    /// What gives full, partial and none, in one line for the docs.
    pub levels: &'static str,
    /// What counts as an attempt, in a few words for the docs.
    pub attempts: &'static str,
    /// Where the rubric comes from.
    pub source: &'static str,
}

/// Every factor's signal, in the order of [`Factor`].
pub const FACTOR_SIGNALS: [Signal; 10] = [
    autonomy::SIGNAL,
    planning::SIGNAL,
    self_modification::SIGNAL,
    tools::SIGNAL,
    persistence::SIGNAL,
    context::SIGNAL,
    identity::SIGNAL,
    multi_agent::SIGNAL,
    non_determinism::SIGNAL,
    opacity::SIGNAL,
];

/// How far a call reaches: none for a read, partial for changes on this machine, for sandboxed code
/// and pinned packages, full for commands and programs, other machines, money, and tools of unknown effect.
/// `None` where reach is not the question (imports, model calls).
#[must_use]
pub const fn grade(action: Action, effect: Option<EffectClass>) -> Option<Level> {
    match (action, effect) {
        (Action::CodeImport | Action::ModelGenerate, _) => None,
        (Action::CodeRun | Action::PackageFetch, _) | (Action::AgentInvoke, None) => Some(Level::PARTIAL),
        (Action::ToolCall | Action::AgentInvoke, Some(EffectClass::Read)) => Some(Level::NONE),
        (Action::ToolCall | Action::AgentInvoke, Some(EffectClass::Write)) => Some(Level::PARTIAL),
        (Action::ToolCall | Action::AgentInvoke, _)
        | (Action::PackagePublish | Action::JobLaunch | Action::ProcessRun, _) => Some(Level::FULL),
    }
}

/// True when a call would have changed something.
fn changes(evidence: &Evidence) -> bool {
    grade(evidence.action, evidence.effect).is_some_and(|level| level > Level::NONE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::FACTORS;

    #[test]
    fn rows_stand_in_the_order_of_the_factors() {
        for (row, signal) in FACTORS.iter().zip(FACTOR_SIGNALS) {
            assert_eq!(row.factor, signal.factor, "{}", row.key);
        }
    }

    #[test]
    fn a_session_without_a_call_votes_on_nothing() {
        for signal in FACTOR_SIGNALS {
            assert_eq!((signal.level)(&SessionFacts::default()), None, "{:?}", signal.factor);
        }
    }
}
