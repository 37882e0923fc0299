//! The values between the steps of the line. Each is made in one place only, so that a skipped step
//! does not compile.

use std::sync::Arc;

use super::gate::InForce;
use super::port::Ticket;
use crate::audit::Receipt;
use crate::ledger::Reservation;
use crate::model::{Amounts, Call, CodeGrant, Decision, Digest, Effect, ExecGrant, Name, Reason};
use crate::pdp::Permit;

/// A call that was allowed and whose amounts are held.
#[derive(Debug)]
pub struct Reserved {
    pub(super) call: Arc<Call>,
    pub(super) permit: Permit,
    pub(super) reservation: Reservation,
    pub(super) approval: Option<String>,
    /// The question whose yes the intent uses up.
    pub(super) question: Option<Name>,
    pub(super) input: Digest,
    /// The policy that decided, which another may have replaced since.
    pub(super) force: Arc<InForce>,
    /// Digest of the arguments, where they themselves are gone.
    pub(super) args: Option<Digest>,
}

/// A decision together with the policy that made it.
#[derive(Debug)]
pub(super) struct Ruled {
    pub decision: Decision,
    pub force: Arc<InForce>,
}

impl Ruled {
    /// A refusal by the gate itself under the policy `force`.
    pub fn deny(reason: Reason, force: Arc<InForce>) -> Self {
        Self { decision: denied(reason, force.policy.policy().digest), force }
    }

    /// The decision behind `permit`.
    pub fn of(permit: Permit, force: Arc<InForce>) -> Self {
        Self { decision: permit.into_decision(), force }
    }

    /// The same decision with another effect, for another reason.
    pub fn but(mut self: Box<Self>, effect: Effect, reason: Reason) -> Box<Self> {
        (self.decision.effect, self.decision.reason) = (effect, reason);
        self
    }
}

/// A decision that only denies.
pub(super) const fn denied(reason: Reason, policy: Digest) -> Decision {
    let (effect, reserve) = (Effect::Deny, Amounts::ZERO);
    Decision { effect, reason, obligations: Vec::new(), reserve, grant: None, exec: None, policy }
}

/// The permit of a call that was allowed in an earlier life of the gate, under the policy `policy`.
pub(super) fn permitted(reserve: Amounts, policy: Digest) -> Permit {
    Permit::recorded(reserve, policy)
}

/// A reserved call whose intent has been handed to the journal and is not yet durable.
#[derive(Debug)]
pub(super) struct Intended {
    pub reserved: Reserved,
    pub intent: Digest,
    pub ticket: Ticket,
    /// Revocations that it was decided after.
    pub revocations: u64,
}

/// Something whose intent is durable in the journal. Made only by the line, after the journal said so.
#[derive(Debug)]
pub struct Durable<T> {
    pub(super) inner: T,
    pub(super) intent: Digest,
}

/// A call whose amounts are settled and whose outcome has been handed to the journal.
#[derive(Debug)]
pub(super) struct Settled {
    pub call: Arc<Call>,
    pub decision: Decision,
    pub receipt: Receipt,
    pub ticket: Ticket,
    /// Entries of the journal with the outcome's.
    pub place: u64,
}

impl Durable<Reserved> {
    /// The call, exactly as it was decided.
    #[must_use]
    pub fn call(&self) -> &Call {
        &self.inner.call
    }

    /// The decision that permits it.
    #[must_use]
    pub const fn decision(&self) -> &Decision {
        self.inner.permit.decision()
    }

    /// What generated code is granted; `None` for any other action.
    #[must_use]
    pub const fn grant(&self) -> Option<&CodeGrant> {
        self.decision().grant.as_ref()
    }

    /// What a program of this machine is granted; `None` for any other action.
    #[must_use]
    pub const fn exec(&self) -> Option<&ExecGrant> {
        self.decision().exec.as_ref()
    }

    /// What is held.
    #[must_use]
    pub const fn reservation(&self) -> &Reservation {
        &self.inner.reservation
    }

    /// The text of the approval, when a person was asked.
    #[must_use]
    pub fn approval(&self) -> Option<&str> {
        self.inner.approval.as_deref()
    }
}
