//! Opacity: are there actions that cannot be traced?
//!
//! This is about actions. Why a model chose one is not on any record, and no level here says it is.
//! A count, not a share: a flood of well-recorded calls must not hide one that is not.

use super::Signal;
use crate::{
    model::{Factor, Level},
    risk::SessionFacts,
};

pub(super) const SIGNAL: Signal = Signal {
    factor: Factor::Opacity,
    level,
    attempt: |evidence| !evidence.traceable,
    levels: "full: two or more calls without a complete record or known outcome, or anything that ran past the gate; \
             partial: one call; none: every call is on record; no vote: no call",
    attempts: "refused calls without a complete record",
    source: "AIVSS v0.8 table 2, row 6 (Opacity & Reflexivity); counts of this project",
};

const fn level(facts: &SessionFacts) -> Option<Level> {
    match facts.untraceable {
        _ if facts.bypasses > 0 => Some(Level::FULL),
        _ if facts.calls == 0 => None,
        0 => Some(Level::NONE),
        1 => Some(Level::PARTIAL),
        _ => Some(Level::FULL),
    }
}
