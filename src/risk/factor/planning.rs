//! Goal-driven planning: how many steps does the agent take on its own?
//!
//! AIVSS v0.8 has no such factor; listings do (v0.5). The scale of v0.5 is none, limited,
//! unconstrained; the numbers of steps are this project's.

use super::Signal;
use crate::{
    model::{Factor, Happened, Level},
    risk::SessionFacts,
};

/// Fewest steps alone that are a plan.
const PLAN: u64 = 2;
/// Fewest steps alone that are a plan without bounds.
const LONG_PLAN: u64 = 10;

pub(super) const SIGNAL: Signal = Signal {
    factor: Factor::Planning,
    level,
    attempt: |evidence| evidence.happened == Happened::Exhausted,
    levels: "full: 10 or more steps in the session without approval; partial: 2 to 9; none: at most one; no vote: \
             no call",
    attempts: "any call that a budget refused",
    source: "AIVSS v0.5 section 3.2 (Goal-Driven Planning); thresholds of this project",
};

const fn level(facts: &SessionFacts) -> Option<Level> {
    match facts.steps_alone {
        _ if facts.calls == 0 => None,
        LONG_PLAN.. => Some(Level::FULL),
        PLAN.. => Some(Level::PARTIAL),
        _ => Some(Level::NONE),
    }
}
