//! What this gate has drawn of budgets that several gates share: their limits, as far as this ledger is concerned.
//!
//! A gate may spend of a shared budget what it has drawn and not given back. The database sees to it that all gates
//! together draw no more than the limit, so the ledger's own invariant, posted + pending <= limit, adds up.

use super::{Ledger, Limit};
use crate::model::{Pot, Timestamp, Window};

impl Limit {
    /// The pot that this limit draws from for `account` at `now`.
    #[must_use]
    pub fn pot(&self, account: &str, now: Timestamp) -> Pot {
        let opens = match self.window {
            Window::Every(period) if period.0 > 0 => Timestamp(now.0 - now.0 % period.0),
            Window::Every(_) | Window::Total | Window::Rolling(_) | Window::Refill(_) => Timestamp(0),
        };
        Pot { budget: self.id.clone(), account: account.to_owned(), kind: self.kind, opens }
    }
}

/// What a gate has of a pot, and what of it is in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allowance {
    /// Drawn and not given back.
    pub held: u64,
    /// Posted or pending. More than `held` only after an over-run.
    pub used: u64,
    /// Tranches that people granted here.
    pub raised: u64,
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
    pub fn allowance(&self, limit: &Limit, account: &str, now: Timestamp) -> Allowance {
        let now = self.clamped(now);
        let held = self.allowances.get(&limit.pot(account, now)).copied().unwrap_or_default();
        // Counted against the largest limit that there is, what is left says what is used.
        let boundless = Limit { limit: u64::MAX, shared: false, ..limit.clone() };
        let left = self.left(account, self.find(account), &boundless, now);
        let used = u64::MAX.saturating_sub(left);
        // Under a limit of exactly what is used, what is left was granted beyond it.
        let exact = Limit { limit: used, ..boundless };
        let raised = self.left(account, self.find(account), &exact, now);
        Allowance { held, used, raised }
    }

    /// Every pot of which something is held, in order.
    pub fn allowances(&self) -> impl Iterator<Item = (&Pot, u64)> {
        self.allowances.iter().map(|(pot, held)| (pot, *held))
    }
}

/// Pots as a list of pairs: no key of a JSON object has parts.
pub(super) mod listed {
    use std::collections::BTreeMap;

    use serde::{Deserialize as _, Deserializer, Serializer};

    use super::Pot;

    pub(in super::super) fn serialize<S: Serializer>(pots: &BTreeMap<Pot, u64>, to: S) -> Result<S::Ok, S::Error> {
        // As text: every digit survives, whoever reads it.
        to.collect_seq(pots.iter().map(|(pot, held)| (pot, held.to_string())))
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<Pot, u64>, D::Error> {
        let pairs = Vec::<(Pot, String)>::deserialize(from)?;
        let read = |(pot, held): (Pot, String)| held.parse().map(|held| (pot, held)).map_err(serde::de::Error::custom);
        pairs.into_iter().map(read).collect()
    }
}
