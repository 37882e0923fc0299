//! What the gate remembers of one session besides its balances; a fold over journal entries.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::model::{Digest, Evidence, Happened};

/// Labels and counters of one session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Session {
    /// Labels that results have put on it; they are never removed.
    pub labels: BTreeSet<String>,
    /// Calls admitted since a person last approved one.
    pub since_person: u64,
    /// Digest over every action that ran, in order: what the agent had seen before the next.
    pub last: Option<Digest>,
}

impl Session {
    /// Notes that a call of this session was admitted, with or without a person's approval.
    pub const fn admit(&mut self, approved: bool) {
        self.since_person = if approved { 0 } else { self.since_person.saturating_add(1) };
    }

    /// Adds what the session had seen of which this one is a copy.
    pub fn inherit(&mut self, from: Self) {
        self.labels.extend(from.labels);
        self.since_person = self.since_person.max(from.since_person);
        self.last = from.last.or(self.last);
    }

    /// Adds what one call showed. Only `labels` of calls that ran may be given.
    pub fn observe(&mut self, evidence: &Evidence, labels: &[String]) {
        if !matches!(evidence.happened, Happened::Denied | Happened::Exhausted) {
            let before = self.last.unwrap_or(Digest::ZERO);
            self.last = Some(Digest::of(&[before.0, evidence.action_digest.0].concat()));
        }
        // Never dropped for want of room: a missing label would allow what it forbids. A policy bounds
        // how many there are.
        self.labels.extend(labels.iter().cloned());
    }
}
