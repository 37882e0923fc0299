//! What one session has shown, as facts that only ever grow.
//!
//! Every fact is a maximum, a count, a set or a flag over the calls that happened. So the order of
//! calls inside a session cannot matter, and no later call can take an earlier one back: a session's
//! level is its worst moment. Refused calls never come here.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{factor::grade, repeats::Repeat};
use crate::model::{Action, EffectClass, Evidence, Happened, Level, Name};

/// Peers kept by name; from three on there are "many", and more names would say nothing new.
const MANY_PEERS: usize = 3;

/// A kind of place that an agent took information from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Tools that read on this machine.
    Read,
    /// Tools that run commands.
    Command,
    /// Tools that reach another machine, and tools of unknown effect.
    Network,
    /// Other agents.
    Peer,
    /// Registries.
    Package,
    /// State that an earlier session left.
    Earlier,
}

impl Source {
    /// The source that a call of this action and effect class reads from.
    #[must_use]
    pub const fn of(action: Action, effect: Option<EffectClass>) -> Option<Self> {
        match (action, effect) {
            (Action::ToolCall, Some(EffectClass::Read)) => Some(Self::Read),
            (Action::ToolCall, Some(EffectClass::Exec)) | (Action::ProcessRun, _) => Some(Self::Command),
            (Action::ToolCall, Some(EffectClass::Network | EffectClass::Spend) | None) => Some(Self::Network),
            (Action::AgentInvoke, _) => Some(Self::Peer),
            (Action::PackageFetch, _) => Some(Self::Package),
            _ => None,
        }
    }
}

/// What one session has shown so far.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionFacts {
    /// Calls that happened, imports included.
    pub calls: u64,
    /// Calls that happened without a person's approval, imports not counted.
    pub steps_alone: u64,
    /// Highest grade of a call that changed something; approved calls enter as none.
    pub commits_alone: Option<Level>,
    /// Highest grade of any call that has one.
    pub reach: Option<Level>,
    /// Programs run in the sandbox.
    pub programs: u64,
    /// Something ran outside the sandbox: a tool of class `exec`, or of unknown effect.
    pub commands: bool,
    /// A package, model or tool came from a registry.
    pub fetched: bool,
    /// A protected path was touched.
    pub protected_path: bool,
    /// State of an earlier session was used.
    pub earlier_state: bool,
    /// Where information came from.
    pub sources: BTreeSet<Source>,
    /// Most labels on the session at one call.
    pub labels: usize,
    /// Deepest delegation.
    pub delegation: u8,
    /// Peers called, the first three by name.
    pub peers: BTreeSet<Name>,
    /// Worst comparison with an earlier session that had seen the same input.
    pub variance: Option<Level>,
    /// Calls without a complete record.
    pub untraceable: u64,
    /// What ran past the gate, as a client told. No call: it gives no vote on anything but opacity.
    #[serde(default, skip_serializing_if = "is_none")]
    pub bypasses: u64,
}

/// True for a count of nothing, which is not written down.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_none(count: &u64) -> bool {
    *count == 0
}

impl SessionFacts {
    /// Adds a call that happened; `repeat` compares it with an earlier session's answer to the same
    /// input, where there was one.
    pub(super) fn add(&mut self, evidence: &Evidence, repeat: Option<Repeat>) {
        let approved = evidence.happened == Happened::Approved;
        let graded = grade(evidence.action, evidence.effect);
        self.calls = self.calls.saturating_add(1);
        if !approved && evidence.action != Action::CodeImport {
            self.steps_alone = self.steps_alone.saturating_add(1);
        }
        self.reach = self.reach.max(graded);
        if graded.is_some_and(|level| level > Level::NONE) {
            self.commits_alone = self.commits_alone.max(if approved { Some(Level::NONE) } else { graded });
        }
        self.add_work(evidence);
        self.add_surroundings(evidence);
        self.variance = self.variance.max(repeat.map(|repeat| repeat.level(graded)));
        if !evidence.traceable || evidence.happened == Happened::Unknown {
            self.untraceable = self.untraceable.saturating_add(1);
        }
    }

    /// Adds what ran past the gate. Whatever else it was is the word of a client, and a word must not lower anything.
    pub(super) const fn add_bypass(&mut self) {
        self.bypasses = self.bypasses.saturating_add(1);
    }

    /// What was run, fetched or touched.
    fn add_work(&mut self, evidence: &Evidence) {
        match (evidence.action, evidence.effect) {
            (Action::CodeRun, _) => self.programs = self.programs.saturating_add(1),
            (Action::ToolCall, Some(EffectClass::Exec) | None) | (Action::ProcessRun, _) => self.commands = true,
            (Action::PackageFetch, _) => self.fetched = true,
            _ => {}
        }
        self.protected_path |= evidence.protected_path;
        self.earlier_state |= evidence.earlier_state;
    }

    /// Where information came from, and with whom the agent worked.
    fn add_surroundings(&mut self, evidence: &Evidence) {
        self.sources.extend(Source::of(evidence.action, evidence.effect));
        if evidence.earlier_state {
            self.sources.insert(Source::Earlier);
        }
        let labels: BTreeSet<&String> = evidence.labels.iter().collect();
        self.labels = self.labels.max(labels.len());
        self.delegation = self.delegation.max(evidence.delegation);
        if evidence.action == Action::AgentInvoke {
            self.peers.insert(evidence.resource.clone());
            if self.peers.len() > MANY_PEERS {
                self.peers.pop_last();
            }
        }
    }
}
