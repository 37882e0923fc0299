//! That an account takes nothing new: who said so, and what lets it go on.
//!
//! What a gate has stopped for itself and what an order that went round has stopped stand side by side, so that letting
//! go of one leaves the other. Nothing here knows a clock or a policy.

use serde::{Deserialize, Serialize};

use crate::model::{Giver, Lifts, Timestamp};

/// That an account takes nothing new, and since when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bar {
    /// True when it is for good; false when it can be thawed.
    pub revoked: bool,
    /// Who did it, and how.
    pub by: String,
    /// When.
    pub since: Timestamp,
    /// At which gate, or from the office.
    #[serde(default, skip_serializing_if = "Giver::is_here")]
    pub from: Giver,
}

/// All that stops one account: the first order of each side, or the one that revoked it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Bars {
    own: Option<Bar>,
    round: Option<Bar>,
}

impl Bars {
    /// Whether an order of `from` would change anything: what is revoked stays so, and who was the first to freeze is who
    /// did.
    pub(super) fn lacks(&self, revoked: bool, from: &Giver) -> bool {
        let side = if from.is_here() { &self.own } else { &self.round };
        !self.is_revoked() && (revoked || side.is_none())
    }

    pub(super) fn add(&mut self, bar: Bar) {
        let side = if bar.from.is_here() { &mut self.own } else { &mut self.round };
        *side = Some(bar);
    }

    /// Lifts what is not for good; false when that was nothing.
    pub(super) fn lift(&mut self, lifts: Lifts) -> bool {
        if self.is_revoked() {
            return false;
        }
        let own = lifts != Lifts::Round && self.own.take().is_some();
        let round = lifts != Lifts::Own && self.round.take().is_some();
        own || round
    }

    pub(super) fn is_empty(&self) -> bool {
        self.own.is_none() && self.round.is_none()
    }

    /// The one that is told of: a revocation, or else the gate's own.
    pub(super) fn first(&self) -> Option<&Bar> {
        let revoked = self.round.as_ref().filter(|bar| bar.revoked);
        revoked.or(self.own.as_ref()).or(self.round.as_ref())
    }

    fn is_revoked(&self) -> bool {
        self.first().is_some_and(|bar| bar.revoked)
    }
}
