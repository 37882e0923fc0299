//! A reservation, the limits that it was checked against, and how it ends.

use serde::{Deserialize, Serialize};

use super::AccountId;
use crate::model::{Amounts, CallId, Excess, KINDS, Kind, Millis, Nature, OnCrash, Tier, Watch, Window};

/// A limit that a reservation must respect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// The budget's id, for messages.
    pub id: String,
    /// Whose account it limits.
    pub tier: Tier,
    /// What it counts.
    pub kind: Kind,
    /// The most that posted + pending may reach, or what is reserved in the window.
    pub limit: u64,
    /// Over which time it counts.
    pub window: Window,
}

impl Limit {
    /// What the ledger must count for this limit; `None` where the account's own sums are enough.
    #[must_use]
    pub const fn watch(&self) -> Option<Watch> {
        let Self { tier, kind, limit, window, .. } = *self;
        match window {
            Window::Total => None,
            Window::Every(_) | Window::Rolling(_) | Window::Refill(_) => Some(Watch { tier, kind, window, limit }),
        }
    }
}

/// How one account stands under one limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Standing {
    /// The account.
    pub account: AccountId,
    /// Its place in the hierarchy.
    pub tier: Tier,
    /// The budget's id.
    pub budget: String,
    /// What is counted.
    pub kind: Kind,
    /// Over which time.
    pub window: Window,
    /// The limit; for one that counts in total with the tranches that were granted.
    pub limit: u64,
    /// What the account has spent of the kind in all its time.
    pub posted: u64,
    /// What it holds of the kind.
    pub pending: u64,
    /// What a new reservation may still hold.
    pub left: u64,
    /// At the rate of the last minutes, how long until nothing is left; `None` when nothing was spent lately.
    pub forecast: Option<Millis>,
}

/// Proof that amounts are held: made only by `Ledger::reserve`, and never copied.
#[derive(Debug, PartialEq, Eq)]
pub struct Reservation {
    pub(super) id: CallId,
    pub(super) held: Amounts,
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
        /// The budget's id; [`Shortfall::COUNTER`] when the account's integer itself is full.
        budget: String,
        /// The account that has too little left.
        account: AccountId,
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
    /// An account above is frozen or revoked.
    #[error("the account `{account}` is {}", if *.revoked { "revoked" } else { "frozen" })]
    Closed {
        /// The account.
        account: AccountId,
        /// True when it is so for good.
        revoked: bool,
    },
}

impl Shortfall {
    /// The budget named when nothing limits a kind and its counter would pass `u64::MAX`.
    pub const COUNTER: &'static str = "counter";
}

/// Why a journal entry does not fold into the balances.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplayFault {
    /// The id holds or has held before.
    #[error("the call id was used before")]
    Duplicate,
    /// An account's counter would pass `u64::MAX`: no gate granted this.
    #[error("the hold does not fit into the account")]
    Overflow,
    /// Amounts were posted for a call that holds nothing.
    #[error("amounts are posted for a call that holds nothing")]
    NotHeld,
    /// A part of a call that does not follow from the part before.
    #[error("a part is posted out of order")]
    Part,
    /// A call was reconciled whose outcome is known.
    #[error("a call is reconciled whose outcome is not in doubt")]
    NotInDoubt,
    /// What an operator did names no account.
    #[error("it names no account")]
    NoAccount,
}

/// Why a part was not posted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PartFault {
    /// The call holds nothing: it never did, or has ended.
    #[error("the call holds nothing")]
    NotHeld,
    /// Parts are numbered from 1 without gaps.
    #[error("the next part of the call is number {next}")]
    Order {
        /// The number that is expected.
        next: u64,
    },
}

/// Why a call could not be reconciled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReconcileFault {
    /// It still runs.
    #[error("the call still runs; it is settled by what it reports at its end")]
    Running,
    /// Its outcome is known, it never ran, or it was reconciled before.
    #[error("the call is not in doubt: it never ran, its outcome is known, or it was reconciled before")]
    NotInDoubt,
}

/// How a reservation ended. For every flow, `held = posted - overrun + released`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settled {
    /// Posted.
    pub posted: Amounts,
    /// Released.
    pub released: Amounts,
    /// Used beyond what was held, and posted all the same (kinds with [`Excess::Posted`]).
    pub overrun: Amounts,
    /// Claimed beyond what was held, and not counted (kinds with [`Excess::Clamped`]).
    pub clamped: Amounts,
}

impl Settled {
    /// The end of a hold of which `used` was used.
    pub(super) fn of(held: Amounts, used: Amounts) -> Self {
        let mut end = Self::default();
        for row in &KINDS {
            let (held, used) = (held.of(row.kind), used.of(row.kind));
            if row.nature == Nature::Level {
                end.released.set(row.kind, held);
                continue;
            }
            let excess = used.saturating_sub(held);
            end.released.set(row.kind, held.saturating_sub(used));
            match row.excess {
                Excess::Posted => {
                    end.posted.set(row.kind, used);
                    end.overrun.set(row.kind, excess);
                }
                Excess::Clamped => {
                    end.posted.set(row.kind, used.min(held));
                    end.clamped.set(row.kind, excess);
                }
            }
        }
        end
    }

    /// The end of a hold whose outcome nobody knows.
    pub(super) fn unknown(held: Amounts) -> Self {
        let spent = KINDS
            .iter()
            .filter(|row| row.on_crash == OnCrash::Spent)
            .fold(Amounts::ZERO, |spent, row| spent.with(row.kind, held.of(row.kind)));
        Self::of(held, spent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_over_run_is_posted_in_full_where_the_gate_cannot_stop_it() {
        let end = Settled::of(Amounts::ZERO.with(Kind::MicroUsd, 10), Amounts::ZERO.with(Kind::MicroUsd, 25));
        assert_eq!((end.posted.of(Kind::MicroUsd), end.overrun.of(Kind::MicroUsd)), (25, 15));
        assert!(end.released.is_zero() && end.clamped.is_zero());
    }

    #[test]
    fn a_claim_beyond_what_the_sandbox_permits_is_not_counted() {
        let end = Settled::of(Amounts::ZERO.with(Kind::Fuel, 10), Amounts::ZERO.with(Kind::Fuel, 25));
        assert_eq!((end.posted.of(Kind::Fuel), end.clamped.of(Kind::Fuel)), (10, 15));
        assert!(end.released.is_zero() && end.overrun.is_zero());
    }

    #[test]
    fn an_unknown_outcome_costs_what_the_table_says() {
        let held = KINDS.iter().fold(Amounts::ZERO, |held, row| held.with(row.kind, 7));
        let end = Settled::unknown(held);
        for row in &KINDS {
            let posted = if row.on_crash == OnCrash::Spent { 7 } else { 0 };
            assert_eq!((end.posted.of(row.kind), end.released.of(row.kind)), (posted, 7 - posted), "{}", row.name);
        }
    }
}
