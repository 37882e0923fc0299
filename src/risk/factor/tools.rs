//! Dynamic tool use: how privileged is what the agent really used?

use super::{Signal, changes};
use crate::{
    model::{Action, Evidence, Factor, Level},
    risk::SessionFacts,
};

pub(super) const SIGNAL: Signal = Signal {
    factor: Factor::Tools,
    level,
    attempt,
    levels: "full: a tool of class exec, network, spend or of unknown effect was used; partial: class write, \
             sandboxed code or a pinned package; none: class read only; no vote: no tool, code, package or peer",
    attempts: "refused tools other than read, code, imports, packages and peers",
    source: "AIVSS v0.8 table 2, row 2 (External Tool Control Surface)",
};

const fn level(facts: &SessionFacts) -> Option<Level> {
    facts.reach
}

fn attempt(evidence: &Evidence) -> bool {
    evidence.action == Action::CodeImport || changes(evidence)
}
