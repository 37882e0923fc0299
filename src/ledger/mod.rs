//! Budgets as accounts: reserve before, post or void after, expire on a crash.
//!
//! Two-phase transfers after TigerBeetle's pending/post/void. The ledger is a value that is folded
//! over journal entries; it has no store, no clock and no policy of its own: limits and times arrive with
//! each operation. `docs/budgets.md` states its properties, each with its test.
//!
//! INVARIANT: posted + pending <= limit, for the account and all its ancestors, at all times; only
//! an over-run, posted in full and reported, passes it.

mod account;
mod allowance;
mod bar;
mod meter;
mod node;
mod operator;
mod pace;
mod reservation;
mod settle;
mod used;

pub use crate::model::Tier;
pub use account::{Account, AccountId, Balance, NoAccount};
pub use allowance::Allowance;
pub use bar::Bar;
pub(crate) use operator::named;
pub use reservation::{Limit, PartFault, ReconcileFault, ReplayFault, Reservation, Settled, Shortfall, Standing};
pub use used::Print;

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use crate::model::{Amounts, CallId, KINDS, Kind, Pot, Subject, Timestamp, Watch};
use account::Path;
use bar::Bars;
use node::{Node, sums};
use operator::Watched;
use settle::{Doubt, Held};
use used::UsedIds;

/// Every account and every pending reservation.
///
/// Its serialised form is exact and in a fixed order, and leaves out the used ids, which only grow and are
/// one print for each call: whoever stores it keeps them beside it and gives them back with [`Ledger::mark`].
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(from = "Stored")]
pub struct Ledger {
    #[serde(skip)]
    index: HashMap<AccountId, usize>,
    /// Accounts in the order of their first hold; they are never removed.
    nodes: Vec<Node>,
    pending: BTreeMap<CallId, Held>,
    /// Calls that ended with an unknown outcome and may be reconciled once.
    doubts: BTreeMap<CallId, Doubt>,
    watched: Vec<Watched>,
    /// Tranches that a person granted for good: by budget and account.
    tranches: BTreeMap<String, BTreeMap<AccountId, Amounts>>,
    bars: BTreeMap<AccountId, Bars>,
    /// What was drawn of budgets that several gates share.
    #[serde(with = "allowance::listed")]
    allowances: BTreeMap<Pot, u64>,
    /// The latest time seen; time never goes back.
    last: Timestamp,
    /// Holds so far: windows that came into force later have not counted them.
    holds: u64,
    #[serde(skip)]
    used: UsedIds,
}

/// A ledger as it is read back.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    nodes: Vec<Node>,
    pending: BTreeMap<CallId, Held>,
    doubts: BTreeMap<CallId, Doubt>,
    watched: Vec<Watched>,
    tranches: BTreeMap<String, BTreeMap<AccountId, Amounts>>,
    bars: BTreeMap<AccountId, Bars>,
    #[serde(with = "allowance::listed")]
    allowances: BTreeMap<Pot, u64>,
    last: Timestamp,
    holds: u64,
}

impl From<Stored> for Ledger {
    fn from(stored: Stored) -> Self {
        let Stored { nodes, pending, doubts, watched, tranches, bars, allowances, last, holds } = stored;
        let index = nodes.iter().enumerate().map(|(at, node)| (node.id.clone(), at)).collect();
        Self {
            index,
            nodes,
            pending,
            doubts,
            watched,
            tranches,
            bars,
            allowances,
            last,
            holds,
            used: UsedIds::default(),
        }
    }
}

impl Ledger {
    /// Holds `want` on every account of `subject`, all or none. A refusal leaves no trace.
    ///
    /// # Errors
    /// The first limit that would be exceeded, with what is left; that an account is closed; or that the id
    /// is already used.
    pub fn reserve(
        &mut self,
        id: &CallId,
        subject: &Subject,
        want: Amounts,
        limits: &[Limit],
        now: Timestamp,
    ) -> Result<Reservation, Shortfall> {
        let (print, now) = (Print::of(id), self.clamped(now));
        if self.used.has(print) {
            return Err(Shortfall::Duplicate);
        }
        if let Some((account, bar)) = self.closed(subject) {
            return Err(Shortfall::Closed { account, revoked: bar.revoked });
        }
        let path = Path::of(subject);
        for (tier, account) in path.steps() {
            let node = self.find(account);
            for limit in limits.iter().filter(|limit| limit.tier == tier) {
                let (kind, wanted) = (limit.kind, want.of(limit.kind));
                let left = self.left(account, node, limit, now);
                if wanted > left {
                    let account = AccountId::of(account);
                    return Err(Shortfall::Limit { budget: limit.id.clone(), account, kind, wanted, left });
                }
            }
        }
        if let Some((kind, wanted, left)) = self.overflow(&path, want) {
            let account = AccountId::of(path.steps().next().map_or("", |(_, root)| root));
            return Err(Shortfall::Limit { budget: Shortfall::COUNTER.into(), account, kind, wanted, left });
        }
        self.hold(id, print, &path, want, now);
        Ok(Reservation { id: id.clone(), held: want })
    }

    /// Folds a recorded intent: the hold was granted when it was made, so no limit is asked.
    ///
    /// # Errors
    /// An id that was used before, or a hold that no ledger could have granted.
    pub fn replay_intent(
        &mut self,
        id: &CallId,
        subject: &Subject,
        held: Amounts,
        at: Timestamp,
    ) -> Result<(), ReplayFault> {
        let (print, at) = (Print::of(id), self.clamped(at));
        if self.used.has(print) {
            return Err(ReplayFault::Duplicate);
        }
        let path = Path::of(subject);
        if self.overflow(&path, held).is_some() {
            return Err(ReplayFault::Overflow);
        }
        self.hold(id, print, &path, held, at);
        Ok(())
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

    /// Marks an id of which only the print is at hand.
    pub fn mark(&mut self, print: Print) {
        self.used.add(print);
    }

    /// Marks ids whose prints were stored before; they are not among [`Ledger::fresh`].
    pub fn mark_stored(&mut self, prints: &[[u8; 16]]) {
        self.used.add_stored(prints);
    }

    /// The prints of all used ids, in no order.
    pub fn prints(&self) -> impl Iterator<Item = Print> + '_ {
        self.used.prints()
    }

    /// The prints of ids used since [`Ledger::forget_fresh`], in the order of their use.
    #[must_use]
    pub fn fresh(&self) -> &[Print] {
        self.used.fresh()
    }

    /// Empties that list, once what stands in it is stored; the ids stay used.
    pub fn forget_fresh(&mut self) {
        self.used.forget_fresh();
    }

    /// What the subject has left of each kind under `limits`: the minimum over its accounts;
    /// `u64::MAX` where nothing limits a kind.
    #[must_use]
    pub fn remaining(&self, subject: &Subject, limits: &[Limit], now: Timestamp) -> Amounts {
        let (path, now) = (Path::of(subject), self.clamped(now));
        let mut remaining = KINDS.iter().fold(Amounts::ZERO, |all, row| all.with(row.kind, u64::MAX));
        for (tier, account) in path.steps() {
            let node = self.find(account);
            for limit in limits.iter().filter(|limit| limit.tier == tier) {
                let left = self.left(account, node, limit, now);
                remaining.set(limit.kind, remaining.of(limit.kind).min(left));
            }
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
        let balance = |node: &Node| {
            let Account { posted, pending } = node.account;
            Balance { account: node.id.clone(), tier: node.tier, posted, pending }
        };
        let mut all: Vec<Balance> = self.nodes.iter().map(balance).collect();
        all.sort_by(|a, b| a.account.cmp(&b.account));
        all
    }

    /// `now`, or the latest time seen where the clock stepped back.
    fn clamped(&self, now: Timestamp) -> Timestamp {
        now.max(self.last)
    }

    /// The time of a change: from now on none is earlier.
    fn tick(&mut self, now: Timestamp) -> Timestamp {
        self.last = self.clamped(now);
        self.last
    }

    fn find(&self, account: &str) -> Option<&Node> {
        self.index.get(account).and_then(|at| self.nodes.get(*at))
    }

    /// What `limit` leaves of an account. A window that nobody counts leaves nothing.
    fn left(&self, account: &str, node: Option<&Node>, limit: &Limit, now: Timestamp) -> u64 {
        if limit.shared {
            return self.allowance(limit, account, now).unused();
        }
        let Some(wanted) = limit.watch() else {
            let sums = node.map_or_else(Account::default, |node| node.account);
            return sums.left(limit.kind, self.cap(limit, account));
        };
        let counted =
            |watch: &&Watch| (watch.tier, watch.kind, watch.window) == (wanted.tier, wanted.kind, wanted.window);
        match self.watches().find(counted) {
            Some(watch) => node.map_or(limit.limit, |node| node.window_left(watch, limit.limit, now)),
            None => 0,
        }
    }

    fn hold(&mut self, id: &CallId, print: Print, path: &Path, amounts: Amounts, at: Timestamp) {
        self.last = at;
        let nodes: Vec<usize> = path.steps().map(|(tier, account)| self.node(account, tier)).collect();
        for index in &nodes {
            let Some(node) = self.nodes.get_mut(*index) else { continue };
            node.hold(amounts);
            let tier = node.tier;
            for Watched { watch, .. } in self.watched.iter().filter(|watched| watched.watch.tier == tier) {
                let amount = amounts.of(watch.kind);
                if amount > 0
                    && let Some(meter) = node.meter(watch)
                {
                    meter.take(amount, watch, at);
                }
            }
        }
        self.used.add(print);
        self.holds = self.holds.saturating_add(1);
        self.pending.insert(id.clone(), Held::new(amounts, nodes, self.holds, at));
    }

    fn node(&mut self, account: &str, tier: Tier) -> usize {
        if let Some(at) = self.index.get(account) {
            return *at;
        }
        let (at, id) = (self.nodes.len(), AccountId::of(account));
        self.nodes.push(Node::new(id.clone(), tier));
        self.index.insert(id, at);
        at
    }

    /// The first sum that does not fit beside what the root account counts already. Every sum of
    /// every account is part of the root's, so what fits there fits everywhere.
    fn overflow(&self, path: &Path, want: Amounts) -> Option<(Kind, u64, u64)> {
        let root = path.steps().next().and_then(|(_, account)| self.find(account));
        let root = root.map_or_else(Account::default, |node| node.account);
        sums(&want)
            .map(|(kind, wanted)| (kind, wanted, root.left(kind, u64::MAX)))
            .find(|(_, wanted, left)| wanted > left)
    }
}
