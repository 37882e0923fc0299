//! Budgets as accounts: reserve before, post or void after, expire on a crash.
//!
//! Two-phase transfers after TigerBeetle's pending/post/void. The ledger is a value that is folded
//! over journal entries; it has no store, no clock and no policy of its own: limits arrive with
//! each reservation. `docs/budgets.md` states its properties, each with its test.
//!
//! INVARIANT: posted + pending <= limit, for the account and all its ancestors, at all times; only
//! an over-run, posted in full and reported, passes it.

mod account;
mod reservation;
mod used;

pub use account::{Account, AccountId, Balance, Tier};
pub use reservation::{Limit, ReplayFault, Reservation, Settled, Shortfall};

use std::collections::{BTreeMap, HashMap};

use crate::model::{Amounts, CallId, KINDS, Subject};
use account::{Node, Path, flows};
use used::{Print, UsedIds};

/// Every account and every pending reservation.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    index: HashMap<AccountId, usize>,
    /// Accounts in the order of their first hold; they are never removed.
    nodes: Vec<Node>,
    pending: BTreeMap<CallId, Held>,
    used: UsedIds,
}

/// What an open reservation holds, and where.
#[derive(Clone, Copy, Debug)]
struct Held {
    amounts: Amounts,
    nodes: [usize; 4],
}

impl Ledger {
    /// Holds `want` on the accounts of `subject` (organisation, agent, session, run), all or none.
    /// A refusal leaves no trace.
    ///
    /// # Errors
    /// The first limit that would be exceeded, with what is left; or that the id is already used.
    pub fn reserve(
        &mut self,
        id: &CallId,
        subject: &Subject,
        want: Amounts,
        limits: &[Limit],
    ) -> Result<Reservation, Shortfall> {
        let print = Print::of(id);
        if self.used.has(print) {
            return Err(Shortfall::Duplicate);
        }
        let path = Path::of(subject);
        let accounts = self.accounts(&path);
        for limit in limits {
            let (kind, wanted) = (limit.kind, want.of(limit.kind));
            let left = accounts[limit.tier as usize].left(kind, limit.limit);
            if wanted > left {
                return Err(Shortfall::Limit { budget: limit.id.clone(), tier: limit.tier, kind, wanted, left });
            }
        }
        if let Some((kind, wanted, left)) = overflow(&accounts[0], want) {
            return Err(Shortfall::Limit { budget: Shortfall::COUNTER.into(), tier: Tier::Org, kind, wanted, left });
        }
        self.hold(id, print, &path, want);
        Ok(Reservation { id: id.clone(), held: want })
    }

    /// Posts `used` and releases the rest; `None` for an id that holds nothing. What is used beyond
    /// the hold is posted in full or clamped, as the kind's row says, and reported either way.
    pub fn settle(&mut self, id: &CallId, used: Amounts) -> Option<Settled> {
        let held = self.pending.remove(id)?;
        let end = Settled::of(held.amounts, used);
        self.finish(held, end.posted);
        Some(end)
    }

    /// Ends a reservation before anything ran: everything is released, nothing is posted.
    pub fn void(&mut self, id: &CallId) -> Option<Settled> {
        self.settle(id, Amounts::ZERO)
    }

    /// Ends a reservation whose outcome is unknown: kinds whose row says `Spent` are posted in
    /// full, the others are released.
    pub fn expire(&mut self, id: &CallId) -> Option<Settled> {
        let held = self.pending.remove(id)?;
        let end = Settled::unknown(held.amounts);
        self.finish(held, end.posted);
        Some(end)
    }

    /// True when the id holds, has held, or was refused for good by [`Ledger::refuse`].
    #[must_use]
    pub fn is_used(&self, id: &CallId) -> bool {
        self.used.has(Print::of(id))
    }

    /// Marks the id of a call that was refused before it held anything, so that it is not used again.
    pub fn refuse(&mut self, id: &CallId) {
        self.used.add(Print::of(id));
    }

    /// Folds a recorded intent: the hold was granted when it was made, so no limit is asked.
    ///
    /// # Errors
    /// An id that was used before, or a hold that no ledger could have granted.
    pub fn replay_intent(&mut self, id: &CallId, subject: &Subject, held: Amounts) -> Result<(), ReplayFault> {
        let print = Print::of(id);
        if self.used.has(print) {
            return Err(ReplayFault::Duplicate);
        }
        let path = Path::of(subject);
        if overflow(&self.accounts(&path)[0], held).is_some() {
            return Err(ReplayFault::Overflow);
        }
        self.hold(id, print, &path, held);
        Ok(())
    }

    /// Folds a recorded outcome or expiry: releases the hold and posts what the entry says. An
    /// outcome without a hold is a refusal: it marks the id.
    ///
    /// # Errors
    /// Amounts posted for a call that holds nothing, or a second end of one call.
    pub fn replay_outcome(&mut self, id: &CallId, posted: Amounts) -> Result<(), ReplayFault> {
        match self.pending.remove(id) {
            Some(held) => self.finish(held, posted),
            None if self.is_used(id) => return Err(ReplayFault::Duplicate),
            None if posted.is_zero() => self.refuse(id),
            None => return Err(ReplayFault::NotHeld),
        }
        Ok(())
    }

    /// What the subject has left of each kind under `limits`: the minimum over its accounts;
    /// `u64::MAX` where nothing limits a kind.
    #[must_use]
    pub fn remaining(&self, subject: &Subject, limits: &[Limit]) -> Amounts {
        let accounts = self.accounts(&Path::of(subject));
        let mut remaining = KINDS.iter().fold(Amounts::ZERO, |all, row| all.with(row.kind, u64::MAX));
        for limit in limits {
            let left = accounts[limit.tier as usize].left(limit.kind, limit.limit);
            remaining.set(limit.kind, remaining.of(limit.kind).min(left));
        }
        remaining
    }

    /// Ids of reservations that have no outcome yet, lowest id first.
    pub fn open(&self) -> impl Iterator<Item = &CallId> {
        self.pending.keys()
    }

    /// Every account with what it has posted and pending, in order of id.
    #[must_use]
    pub fn balances(&self) -> Vec<Balance> {
        let balance = |(id, at): (&AccountId, &usize)| {
            let node = self.nodes.get(*at)?;
            let Account { posted, pending } = node.account;
            Some(Balance { account: id.clone(), tier: node.tier, posted, pending })
        };
        let mut all: Vec<Balance> = self.index.iter().filter_map(balance).collect();
        all.sort_by(|a, b| a.account.cmp(&b.account));
        all
    }

    fn accounts(&self, path: &Path) -> [Account; 4] {
        Tier::ALL.map(|tier| {
            let node = self.index.get(path.to(tier)).and_then(|at| self.nodes.get(*at));
            node.map_or_else(Account::default, |node| node.account)
        })
    }

    fn hold(&mut self, id: &CallId, print: Print, path: &Path, amounts: Amounts) {
        let nodes = Tier::ALL.map(|tier| self.node(path, tier));
        for at in nodes {
            if let Some(node) = self.nodes.get_mut(at) {
                node.hold(amounts);
            }
        }
        self.used.add(print);
        self.pending.insert(id.clone(), Held { amounts, nodes });
    }

    fn node(&mut self, path: &Path, tier: Tier) -> usize {
        if let Some(at) = self.index.get(path.to(tier)) {
            return *at;
        }
        let at = self.nodes.len();
        self.nodes.push(Node::new(tier));
        self.index.insert(path.id(tier), at);
        at
    }

    fn finish(&mut self, held: Held, posted: Amounts) {
        for at in held.nodes {
            if let Some(node) = self.nodes.get_mut(at) {
                node.release(held.amounts);
                node.post(posted);
            }
        }
    }
}

/// The first flow that does not fit beside what the root account counts already. Every flow of
/// every account is part of the root's, so what fits there fits everywhere.
fn overflow(root: &Account, want: Amounts) -> Option<(crate::model::Kind, u64, u64)> {
    flows(&want).map(|(kind, wanted)| (kind, wanted, root.left(kind, u64::MAX))).find(|(_, wanted, left)| wanted > left)
}
