//! What this gate has drawn of budgets that several gates share: their limits, as far as this ledger is concerned.
//!
//! A gate may spend of a shared budget what it has drawn and not given back. The database sees to it that all gates
//! together draw no more than the limit, so the ledger's own invariant, posted + pending <= limit, adds up.

use serde::{Deserialize, Serialize};

use super::{AccountId, Ledger, Limit};
use crate::model::{Kind, Timestamp, Window};

/// One budget of one account in one window: what gates share.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pot {
    /// The budget's id in the policies of all its gates.
    pub budget: String,
    /// The account.
    pub account: AccountId,
    /// What is counted.
    pub kind: Kind,
    /// When the window began; 0 for a budget that counts in total.
    pub opens: Timestamp,
}

impl Pot {
    /// The pot that `limit` draws from for `account` at `now`.
    #[must_use]
    pub fn of(limit: &Limit, account: AccountId, now: Timestamp) -> Self {
        let opens = match limit.window {
            Window::Every(period) if period.0 > 0 => Timestamp(now.0 - now.0 % period.0),
            Window::Every(_) | Window::Total | Window::Rolling(_) | Window::Refill(_) => Timestamp(0),
        };
        Self { budget: limit.id.clone(), account, kind: limit.kind, opens }
    }
}

/// What a gate has of a pot, and what of it is in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allowance {
    /// Drawn and not given back.
    pub held: u64,
    /// Posted or pending. More than `held` only after an over-run.
    pub used: u64,
}

impl Allowance {
    /// What a new reservation may still hold.
    #[must_use]
    pub const fn unused(&self) -> u64 {
        self.held.saturating_sub(self.used)
    }

    /// What the database has to count for this gate at least.
    #[must_use]
    pub const fn known(&self) -> u64 {
        if self.used > self.held { self.used } else { self.held }
    }
}

impl Ledger {
    /// What is held of `pot` from now on, drawn or given back.
    pub fn allow(&mut self, pot: &Pot, held: u64) {
        if held == 0 {
            self.allowances.remove(pot);
        } else {
            self.allowances.insert(pot.clone(), held);
        }
    }

    /// How this ledger stands with the pot of `limit` and `account`.
    #[must_use]
    pub fn allowance(&self, limit: &Limit, account: &AccountId, now: Timestamp) -> Allowance {
        let now = self.clamped(now);
        let held = self.allowances.get(&Pot::of(limit, account.clone(), now)).copied().unwrap_or_default();
        // Counted against the largest limit that there is, what is left says what is used.
        let boundless = Limit { limit: u64::MAX, shared: false, ..limit.clone() };
        let left = self.left(account.as_str(), self.find(account.as_str()), &boundless, now);
        Allowance { held, used: u64::MAX.saturating_sub(left) }
    }

    /// Every pot of which something is held, in order.
    pub fn allowances(&self) -> impl Iterator<Item = (&Pot, u64)> {
        self.allowances.iter().map(|(pot, held)| (pot, *held))
    }
}
