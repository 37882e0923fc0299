//! A reservation, the limits that it was checked against, and how it ends.

use serde::{Deserialize, Serialize};

use super::Tier;
use crate::model::{Amounts, CallId, Kind, Subject};

/// A limit that a reservation must respect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// The budget's id, for messages.
    pub id: String,
    /// Whose account it limits.
    pub tier: Tier,
    /// What it counts.
    pub kind: Kind,
    /// The most that posted + pending may reach.
    pub limit: u64,
}

/// Proof that amounts are held: made only by `Ledger::reserve`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reservation {
    id: CallId,
    subject: Subject,
    held: Amounts,
}

impl Reservation {
    /// The call that holds it.
    #[must_use]
    pub const fn id(&self) -> &CallId {
        &self.id
    }

    /// What is held.
    #[must_use]
    pub const fn held(&self) -> Amounts {
        self.held
    }
}

/// Why a reservation was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Shortfall {
    /// A limit would be exceeded.
    #[error("budget `{budget}`: {wanted} {} wanted, {left} left", kind.row().unit)]
    Limit {
        /// The budget's id.
        budget: String,
        /// Whose account.
        tier: Tier,
        /// The kind.
        kind: Kind,
        /// What the call needs.
        wanted: u64,
        /// What is left.
        left: u64,
    },
    /// The id already holds or has held.
    #[error("call id already used")]
    Duplicate,
}

/// How a reservation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settled {
    /// Posted.
    pub posted: Amounts,
    /// Released.
    pub released: Amounts,
    /// Used beyond what was held, posted all the same.
    pub overrun: Amounts,
}
