//! The values between the steps of the line. Each is made in one place only, so that a skipped step
//! does not compile.

use crate::ledger::Reservation;
use crate::model::{Call, CodeGrant, Decision, Digest};
use crate::pdp::Permit;

/// A call that was allowed and whose amounts are held.
#[derive(Debug)]
pub struct Reserved {
    pub(super) call: Call,
    pub(super) permit: Permit,
    pub(super) reservation: Reservation,
    pub(super) approval: Option<String>,
}

/// Something whose intent is durable in the journal. Made only by the line, after the journal said so.
#[derive(Debug)]
pub struct Durable<T> {
    pub(super) inner: T,
    pub(super) intent: Digest,
}

impl Durable<Reserved> {
    /// The call, exactly as it was decided.
    #[must_use]
    pub const fn call(&self) -> &Call {
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

    /// What is held.
    #[must_use]
    pub const fn reservation(&self) -> &Reservation {
        &self.inner.reservation
    }
}
