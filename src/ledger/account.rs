//! One account: what is posted and what is pending, per kind.

use std::fmt;

use serde::Serialize;

use crate::model::{Amounts, Subject};

/// Where an account stands in the hierarchy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// The organisation: the root.
    Org,
    /// An agent.
    Agent,
    /// A session.
    Session,
    /// A run.
    Run,
}

/// The name of an account, `org`, `org/agent`, `org/agent/session` or `org/agent/session/run`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct AccountId(String);

impl AccountId {
    /// The four accounts of `subject`, root first.
    #[must_use]
    pub fn path(subject: &Subject) -> [Self; 4] {
        let _ = subject;
        todo!()
    }
}

impl fmt::Display for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What one account has posted and holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Spent.
    pub posted: Amounts,
    /// Held by reservations without an outcome.
    pub pending: Amounts,
}

/// One account, for people and JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Balance {
    /// Which account.
    pub account: AccountId,
    /// Its place in the hierarchy.
    pub tier: Tier,
    /// Spent.
    pub posted: Amounts,
    /// Held.
    pub pending: Amounts,
}
