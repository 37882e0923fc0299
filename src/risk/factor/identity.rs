//! Dynamic identity: does the agent act under roles that others handed to it?
//!
//! The gate fixes the subject of a session, so the only change that it can see is delegation.

use super::Signal;
use crate::{
    model::{Factor, Level},
    risk::SessionFacts,
};

pub(super) const SIGNAL: Signal = Signal {
    factor: Factor::Identity,
    level,
    attempt: |evidence| evidence.delegation > 0,
    levels: "full: delegation of depth 2 or more; partial: depth 1; none: the agent's own fixed identity; no vote: \
             no call",
    attempts: "refused calls under delegation",
    source: "AIVSS v0.8 table 2, row 8 (Dynamic Identity); depths of this project",
};

const fn level(facts: &SessionFacts) -> Option<Level> {
    match facts.delegation {
        _ if facts.calls == 0 => None,
        0 => Some(Level::NONE),
        1 => Some(Level::PARTIAL),
        _ => Some(Level::FULL),
    }
}
