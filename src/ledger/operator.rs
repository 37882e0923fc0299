//! What operators do to accounts: raise a cap, freeze, thaw, revoke, watch windows.
//!
//! Each is folded from its own journal entry, live and at replay alike.

use serde::{Deserialize, Serialize};

use super::account::{AccountId, Path};
use super::bar::Bar;
use super::reservation::{Limit, Standing};
use super::{Ledger, ReplayFault};
use crate::model::{Amounts, Giver, Lifts, Subject, Timestamp, Watch, Window};

/// A window that is counted.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Watched {
    pub(super) watch: Watch,
    /// Holds that were made before it began to count.
    pub(super) from: u64,
    /// When the policy in force stopped naming it; it is counted for one more period, so that going back to
    /// the policy before does not begin anew.
    left: Option<Timestamp>,
}

impl Ledger {
    /// Adds a tranche to a budget of an account: for good where the budget counts in total, else for as long
    /// as what is reserved at `at` counts.
    pub fn raise(&mut self, budget: &str, account: &AccountId, by: Amounts, window: Window, at: Timestamp) {
        let at = self.tick(at);
        if window.is_total() {
            let sum = self.tranches.entry(budget.to_owned()).or_default().entry(account.clone()).or_default();
            for (kind, amount) in by.iter() {
                sum.set(kind, sum.of(kind).saturating_add(amount));
            }
            return;
        }
        let tier = account.tier();
        let wanted = |watch: &Watch| watch.tier == tier && watch.window == window && by.of(watch.kind) > 0;
        let watches: Vec<Watch> = self.watches().copied().filter(wanted).collect();
        let node = self.node(account.as_str(), tier);
        let Some(node) = self.nodes.get_mut(node) else { return };
        for watch in watches {
            if let Some(meter) = node.meter(&watch) {
                meter.grant(by.of(watch.kind), &watch, at);
            }
        }
    }

    /// Counts from `at` on what `watches`, the windows of the policy that comes into force, speak of.
    pub fn watch(&mut self, watches: &[Watch], at: Timestamp) {
        let at = self.tick(at);
        for old in &mut self.watched {
            let (tier, kind, window) = (old.watch.tier, old.watch.kind, old.watch.window);
            let same = |new: &&Watch| new.tier == tier && new.kind == kind && new.window == window;
            let Some(new) = watches.iter().find(same) else {
                old.left = old.left.or(Some(at));
                continue;
            };
            if new.limit != old.watch.limit {
                self.nodes.iter_mut().filter(|node| node.tier == tier).for_each(|node| {
                    node.close_rate(&old.watch, at);
                });
            }
            (old.watch, old.left) = (*new, None);
        }
        let over = |watched: &Watched| {
            let (Some(left), Some(period)) = (watched.left, watched.watch.window.period()) else { return false };
            left.plus(period) <= at
        };
        let before = self.watched.len();
        self.watched.retain(|watched| !over(watched));
        if self.watched.len() < before {
            let watched = &self.watched;
            self.nodes.iter_mut().for_each(|node| node.keep(watched.iter().map(|watched| &watched.watch)));
        }
        for new in watches.iter().filter(|new| !new.window.is_total()) {
            let same = |old: &Watched| {
                old.watch.tier == new.tier && old.watch.kind == new.kind && old.watch.window == new.window
            };
            if !self.watched.iter().any(same) {
                self.watched.push(Watched { watch: *new, from: self.holds, left: None });
            }
        }
    }

    /// Lets nothing new below `account`, until what `from` has stopped is lifted or, when `revoked`, for good; false when
    /// it is so already. What is revoked stays so.
    pub fn bar(&mut self, account: &AccountId, revoked: bool, by: &str, from: &Giver, at: Timestamp) -> bool {
        if self.bars.get(account).is_some_and(|bars| !bars.lacks(revoked, from)) {
            return false;
        }
        let bar = Bar { revoked, by: by.to_owned(), since: self.tick(at), from: from.clone() };
        self.bars.entry(account.clone()).or_default().add(bar);
        true
    }

    /// Lifts what stops `account`, which goes on when nothing else does; false when there was nothing to lift, or it is
    /// revoked.
    pub fn thaw(&mut self, account: &AccountId, lifts: Lifts) -> bool {
        let Some(bars) = self.bars.get_mut(account) else { return false };
        let lifted = bars.lift(lifts);
        if bars.is_empty() {
            self.bars.remove(account);
        }
        lifted
    }

    /// Accounts that are frozen or revoked, in order of id.
    pub fn bars(&self) -> impl Iterator<Item = (&AccountId, &Bar)> {
        self.bars.iter().filter_map(|(account, bars)| Some((account, bars.first()?)))
    }

    /// That `account` itself is frozen or revoked.
    #[must_use]
    pub fn barred(&self, account: &AccountId) -> Option<&Bar> {
        self.bars.get(account)?.first()
    }

    /// The first account of `subject` that takes nothing new, a revoked one before a frozen one.
    #[must_use]
    pub fn closed(&self, subject: &Subject) -> Option<(AccountId, Bar)> {
        if self.bars.is_empty() {
            return None;
        }
        let path = Path::of(subject);
        let barred = path.steps().filter_map(|(_, text)| {
            let (account, bars) = self.bars.get_key_value(text)?;
            Some((account, bars.first()?))
        });
        let (account, bar) =
            barred.reduce(|first, next| if next.1.revoked && !first.1.revoked { next } else { first })?;
        Some((account.clone(), bar.clone()))
    }

    /// How every account stands under every limit that speaks of it, in order of account.
    #[must_use]
    pub fn standings(&self, limits: &[Limit], now: Timestamp) -> Vec<Standing> {
        let now = self.clamped(now);
        let mut all = Vec::new();
        for node in &self.nodes {
            for limit in limits.iter().filter(|limit| limit.tier == node.tier) {
                let left = self.left(node.id.as_str(), Some(node), limit, now);
                let posted = node.account.posted.of(limit.kind);
                let pending = node.account.pending.of(limit.kind);
                let cap = match limit.window {
                    Window::Total => self.cap(limit, node.id.as_str()),
                    Window::Every(_) | Window::Rolling(_) | Window::Refill(_) => limit.limit,
                };
                let forecast = node.pace_of(limit.kind).and_then(|pace| pace.until(left, now));
                all.push(Standing {
                    account: node.id.clone(),
                    tier: node.tier,
                    budget: limit.id.clone(),
                    kind: limit.kind,
                    window: limit.window,
                    limit: cap,
                    posted,
                    pending,
                    left,
                    forecast,
                });
            }
        }
        all.sort_by(|a, b| (&a.account, &a.budget).cmp(&(&b.account, &b.budget)));
        all
    }

    pub(super) fn watches(&self) -> impl Iterator<Item = &Watch> + Clone {
        self.watched.iter().map(|watched| &watched.watch)
    }

    /// The limit of an account with the tranches that it was granted for good.
    pub(super) fn cap(&self, limit: &Limit, account: &str) -> u64 {
        let granted = self.tranches.get(&limit.id).and_then(|accounts| accounts.get(account));
        limit.limit.saturating_add(granted.map_or(0, |granted| granted.of(limit.kind)))
    }
}

/// The account that a journal entry names.
///
/// # Errors
/// The text names none.
pub(crate) fn named(account: &str) -> Result<AccountId, ReplayFault> {
    AccountId::parse(account).map_err(|_| ReplayFault::NoAccount)
}
