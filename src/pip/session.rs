//! What the gate remembers of one session besides its balances; a fold over journal entries.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::model::{Amounts, Digest, Evidence, Happened, Kind};

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
    /// What its generations used, as the gate's own proxies metered them.
    #[serde(default, skip_serializing_if = "Meter::is_empty")]
    pub models: Meter,
}

/// Generations that the gate metered itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Meter {
    /// Generations that were sent, whatever became of them.
    pub requests: u64,
    /// Of them, those of which nobody knows how they ended: what they held counts as used.
    pub unknown: u64,
    /// Tokens read, caches included.
    pub tokens_in: u64,
    /// Tokens written.
    pub tokens_out: u64,
    /// What was posted for them, micro-USD.
    pub micro_usd: u64,
}

impl Meter {
    /// True when nothing was metered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds a generation that has ended.
    pub fn add(&mut self, posted: &Amounts, is_unknown: bool) {
        self.requests = self.requests.saturating_add(1);
        self.unknown = self.unknown.saturating_add(u64::from(is_unknown));
        self.tokens_in = self.tokens_in.saturating_add(posted.of(Kind::TokensIn));
        self.tokens_out = self.tokens_out.saturating_add(posted.of(Kind::TokensOut));
        self.micro_usd = self.micro_usd.saturating_add(posted.of(Kind::MicroUsd));
    }
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
        if !matches!(evidence.happened, Happened::Denied | Happened::Exhausted | Happened::Reported) {
            let before = self.last.unwrap_or(Digest::ZERO);
            self.last = Some(Digest::of(&[before.0, evidence.action_digest.0].concat()));
        }
        // Never dropped for want of room: a missing label would allow what it forbids. A policy bounds
        // how many there are.
        self.labels.extend(labels.iter().cloned());
    }
}
