//! Budgets as accounts: reserve before, post or void after, expire on a crash.
//!
//! Two-phase transfers after TigerBeetle's pending/post/void. The ledger is a value that is folded
//! over journal entries; it has no store, no clock and no policy of its own: limits arrive with
//! each reservation.
//!
//! INVARIANT: posted + pending <= limit, for the account and all its ancestors, at all times.

mod account;
mod reservation;

pub use account::{Account, AccountId, Balance, Tier};
pub use reservation::{Limit, Reservation, Settled, Shortfall};

use std::collections::{BTreeMap, HashMap};

use crate::model::{Amounts, CallId, Subject};

/// Every account and every pending reservation.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    accounts: HashMap<AccountId, Account>,
    pending: BTreeMap<CallId, Reservation>,
}

impl Ledger {
    /// Holds `want` on the accounts of `subject` (organisation, agent, session, run), all or none.
    ///
    /// # Errors
    /// The first limit that would be exceeded, with what is left; or that the id already holds.
    pub fn reserve(
        &mut self,
        id: &CallId,
        subject: &Subject,
        want: Amounts,
        limits: &[Limit],
    ) -> Result<Reservation, Shortfall> {
        let _ = (id, subject, want, limits);
        todo!()
    }

    /// Posts `used` (never more than was held for a limited kind is taken from the limit; an
    /// over-run is posted in full and reported) and releases the rest.
    pub fn settle(&mut self, id: &CallId, used: Amounts) -> Option<Settled> {
        let _ = (id, used);
        todo!()
    }

    /// Ends a reservation whose outcome is unknown: kinds whose row says `Spent` are posted in
    /// full, the others are released.
    pub fn expire(&mut self, id: &CallId) -> Option<Settled> {
        let _ = id;
        todo!()
    }

    /// What the subject has left of each kind under `limits`: the minimum over its accounts;
    /// `u64::MAX` where nothing limits a kind.
    #[must_use]
    pub fn remaining(&self, subject: &Subject, limits: &[Limit]) -> Amounts {
        let _ = (subject, limits);
        todo!()
    }

    /// Ids of reservations that have no outcome yet, oldest id first.
    pub fn open(&self) -> impl Iterator<Item = &CallId> {
        self.pending.keys()
    }

    /// Every account with what it has posted and pending, in order of id.
    #[must_use]
    pub fn balances(&self) -> Vec<Balance> {
        todo!()
    }

    pub fn replay_intent(&mut self, id: &CallId, subject: &Subject, held: Amounts) { let _ = (id, subject, held); todo!() }
    pub fn replay_outcome(&mut self, id: &CallId, posted: Amounts) { let _ = (id, posted); todo!() }
}
