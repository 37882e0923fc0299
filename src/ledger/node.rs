//! One account at work: its sums, the peaks that must fall again, and the meters of its windows.

use serde::{Deserialize, Serialize};

use super::account::{Account, AccountId};
use super::meter::Meter;
use super::pace::Pace;
use crate::model::{Amounts, KINDS, Kind, Nature, Tier, Timestamp, Watch, Window};

/// An account with everything that changes with it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Node {
    pub(super) id: AccountId,
    pub(super) tier: Tier,
    pub(super) account: Account,
    /// Amounts of peak kinds held now and by how many reservations; few distinct ones, so no map.
    peaks: Vec<Peak>,
    meters: Vec<Metered>,
    paces: Vec<Pace>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Peak {
    kind: Kind,
    #[serde(with = "crate::model::exact")]
    amount: u64,
    holders: u32,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Metered {
    kind: Kind,
    window: Window,
    meter: Meter,
}

impl Node {
    pub(super) const fn new(id: AccountId, tier: Tier) -> Self {
        let account = Account { posted: Amounts::ZERO, pending: Amounts::ZERO };
        Self { id, tier, account, peaks: Vec::new(), meters: Vec::new(), paces: Vec::new() }
    }

    /// Holds `amounts`; the caller has checked that sums fit into an integer.
    pub(super) fn hold(&mut self, amounts: Amounts) {
        for (kind, amount) in amounts.iter() {
            match kind.row().nature {
                Nature::Flow | Nature::Level => {
                    self.set_pending(kind, self.account.pending.of(kind).saturating_add(amount));
                }
                Nature::Peak => self.hold_peak(kind, amount),
            }
        }
    }

    /// Undoes [`Node::hold`] with the same amounts.
    pub(super) fn release(&mut self, amounts: Amounts) {
        for (kind, amount) in amounts.iter() {
            match kind.row().nature {
                Nature::Flow | Nature::Level => {
                    self.set_pending(kind, self.account.pending.of(kind).saturating_sub(amount));
                }
                Nature::Peak => self.release_peak(kind, amount),
            }
        }
    }

    /// Counts `amounts` as spent. Ends at `u64::MAX`, from where on nothing more is granted.
    pub(super) fn post(&mut self, amounts: Amounts, at: Timestamp) {
        for (kind, amount) in amounts.iter() {
            let before = self.account.posted.of(kind);
            let after = match kind.row().nature {
                Nature::Flow => before.saturating_add(amount),
                Nature::Peak => before.max(amount),
                Nature::Level => before,
            };
            self.account.posted.set(kind, after);
            if kind.row().nature == Nature::Flow {
                self.pace(kind, amount, at);
            }
        }
    }

    /// Takes back `amounts` of flows that were posted and, as is known now, not used.
    pub(super) fn unpost(&mut self, amounts: Amounts) {
        for (kind, amount) in amounts.iter() {
            self.account.posted.set(kind, self.account.posted.of(kind).saturating_sub(amount));
        }
    }

    /// What the window of `watch` has left for a reservation at `now` under `limit`.
    pub(super) fn window_left(&self, watch: &Watch, limit: u64, now: Timestamp) -> u64 {
        let meter = self.meters.iter().find(|metered| metered.is(watch)).map(|metered| &metered.meter);
        meter.map_or(limit, |meter| meter.left(limit, watch, now))
    }

    /// The meter of `watch`, which begins to count when it is first asked for.
    pub(super) fn meter(&mut self, watch: &Watch) -> Option<&mut Meter> {
        if let Some(at) = self.meters.iter().position(|metered| metered.is(watch)) {
            return self.meters.get_mut(at).map(|metered| &mut metered.meter);
        }
        let meter = Meter::new(watch.window)?;
        self.meters.push(Metered { kind: watch.kind, window: watch.window, meter });
        self.meters.last_mut().map(|metered| &mut metered.meter)
    }

    /// Brings the bucket of `watch`, if there is one, up to date before its limit changes.
    pub(super) fn close_rate(&mut self, watch: &Watch, at: Timestamp) {
        if let Some(metered) = self.meters.iter_mut().find(|metered| metered.is(watch)) {
            metered.meter.close_rate(watch, at);
        }
    }

    /// Forgets the meters that no watch of `watched` speaks of any more.
    pub(super) fn keep<'w>(&mut self, watched: impl Iterator<Item = &'w Watch> + Clone) {
        let tier = self.tier;
        let known = |metered: &Metered| watched.clone().any(|watch| watch.tier == tier && metered.is(watch));
        self.meters.retain(known);
    }

    /// How fast `kind` was posted lately.
    pub(super) fn pace_of(&self, kind: Kind) -> Option<&Pace> {
        self.paces.iter().find(|pace| pace.kind == kind)
    }

    fn pace(&mut self, kind: Kind, amount: u64, at: Timestamp) {
        match self.paces.iter_mut().find(|pace| pace.kind == kind) {
            Some(pace) => pace.add(amount, at),
            None => self.paces.push(Pace::new(kind, amount, at)),
        }
    }

    const fn set_pending(&mut self, kind: Kind, amount: u64) {
        self.account.pending.set(kind, amount);
    }

    fn hold_peak(&mut self, kind: Kind, amount: u64) {
        match self.peaks.iter_mut().find(|peak| peak.kind == kind && peak.amount == amount) {
            Some(peak) => peak.holders += 1,
            None => self.peaks.push(Peak { kind, amount, holders: 1 }),
        }
        self.set_pending(kind, self.account.pending.of(kind).max(amount));
    }

    fn release_peak(&mut self, kind: Kind, amount: u64) {
        let Some(at) = self.peaks.iter().position(|peak| peak.kind == kind && peak.amount == amount) else { return };
        if let Some(peak) = self.peaks.get_mut(at) {
            peak.holders -= 1;
            if peak.holders > 0 {
                return;
            }
        }
        self.peaks.swap_remove(at);
        let highest = self.peaks.iter().filter(|peak| peak.kind == kind).map(|peak| peak.amount).max();
        self.set_pending(kind, highest.unwrap_or(0));
    }
}

impl Metered {
    fn is(&self, watch: &Watch) -> bool {
        self.kind == watch.kind && self.window == watch.window
    }
}

/// Every amount above zero whose kind adds up, held or posted.
pub(super) fn sums(amounts: &Amounts) -> impl Iterator<Item = (Kind, u64)> + '_ {
    of_nature(amounts, |nature| nature != Nature::Peak)
}

/// Every amount above zero whose kind is a flow.
pub(super) fn flows(amounts: &Amounts) -> impl Iterator<Item = (Kind, u64)> + '_ {
    of_nature(amounts, |nature| nature == Nature::Flow)
}

fn of_nature(amounts: &Amounts, wanted: impl Fn(Nature) -> bool) -> impl Iterator<Item = (Kind, u64)> {
    KINDS
        .iter()
        .filter(move |row| wanted(row.nature))
        .map(|row| (row.kind, amounts.of(row.kind)))
        .filter(|(_, amount)| *amount > 0)
}
