//! Multi-agent interactions: how many other agents take part, and how deep is the delegation?

use super::Signal;
use crate::{
    model::{Action, Factor, Level},
    risk::SessionFacts,
};

pub(super) const SIGNAL: Signal = Signal {
    factor: Factor::MultiAgent,
    level,
    attempt: |evidence| matches!(evidence.action, Action::AgentInvoke),
    levels: "full: three or more peers, or delegation of depth 2 or more; partial: one or two peers, or depth 1; \
             none: alone; no vote: no call",
    attempts: "refused calls of another agent",
    source: "AIVSS v0.8 table 2, row 9 (Multi-Agent Interactions)",
};

fn level(facts: &SessionFacts) -> Option<Level> {
    match (facts.peers.len(), facts.delegation) {
        _ if facts.calls == 0 => None,
        (3.., _) | (_, 2..) => Some(Level::FULL),
        (1.., _) | (_, 1) => Some(Level::PARTIAL),
        (0, 0) => Some(Level::NONE),
    }
}
