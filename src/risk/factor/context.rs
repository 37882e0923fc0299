//! Contextual awareness: from how many kinds of places does the agent read before it acts?
//!
//! Kinds of sources and labels on the session are two views of the same thing; the larger counts.
//! That a source really drove the change is not provable from outside: presence stands for it.

use super::Signal;
use crate::{
    model::{Factor, Level},
    risk::SessionFacts,
};

/// Fewest kinds of sources that are a broad environment.
const BROAD: usize = 3;

pub(super) const SIGNAL: Signal = Signal {
    factor: Factor::Context,
    level,
    attempt: |evidence| !evidence.labels.is_empty(),
    levels: "full: three or more kinds of sources (or labels) in a session that changed something; partial: at \
             least one; none: none; no vote: no call",
    attempts: "refused calls of a session that carries a label",
    source: "AIVSS v0.8 table 2, row 4 (Contextual Awareness); threshold of this project",
};

fn level(facts: &SessionFacts) -> Option<Level> {
    let kinds = facts.sources.len().max(facts.labels);
    match kinds {
        _ if facts.calls == 0 => None,
        0 => Some(Level::NONE),
        BROAD.. if facts.reach > Some(Level::NONE) => Some(Level::FULL),
        _ => Some(Level::PARTIAL),
    }
}
