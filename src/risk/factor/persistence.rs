//! Persistent memory: does anything reach from one session into the next?
//!
//! Whether variables lived between two programs is not in the evidence; two programs in one session
//! count as if they had.

use super::Signal;
use crate::{
    model::{Factor, Level},
    risk::SessionFacts,
};

pub(super) const SIGNAL: Signal = Signal {
    factor: Factor::Persistence,
    level,
    attempt: |evidence| evidence.earlier_state,
    levels: "full: state of an earlier session was used; partial: two or more programs in one session; none: \
             neither; no vote: no call",
    attempts: "refused calls that used state of an earlier session",
    source: "AIVSS v0.8 table 2, row 7 (Persistent State Retention)",
};

const fn level(facts: &SessionFacts) -> Option<Level> {
    if facts.earlier_state {
        Some(Level::FULL)
    } else if facts.programs > 1 {
        Some(Level::PARTIAL)
    } else if facts.calls > 0 {
        Some(Level::NONE)
    } else {
        None
    }
}
