//! How a reservation ends: settled, voided, expired, in parts before that, and reconciled afterwards.

use serde::{Deserialize, Serialize};

use super::Ledger;
use super::node::flows;
use super::operator::Watched;
use super::reservation::{PartFault, ReconcileFault, ReplayFault, Reservation, Settled};
use crate::model::{Amounts, CallId, Excess, Nature, Timestamp, exact};

/// What an open reservation holds, and where.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Held {
    /// What is held now: less with each part that was posted.
    amounts: Amounts,
    /// What was held at first.
    reserved: Amounts,
    made: Made,
    /// Parts posted so far, and their sum.
    #[serde(with = "exact")]
    parts: u64,
    posted: Amounts,
}

/// Where and when a reservation was made: its amounts belong there.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Made {
    nodes: Vec<usize>,
    /// Its number among all holds.
    number: u64,
    at: Timestamp,
}

/// A call that ended with an unknown outcome.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Doubt {
    made: Made,
    /// What it was taken to have used.
    posted: Amounts,
    /// What of it counts in the windows in which it was reserved; the rest was an over-run.
    counted: Amounts,
}

impl Held {
    pub(super) const fn new(amounts: Amounts, nodes: Vec<usize>, number: u64, at: Timestamp) -> Self {
        Self { amounts, reserved: amounts, made: Made { nodes, number, at }, parts: 0, posted: Amounts::ZERO }
    }
}

impl Ledger {
    /// Posts what was used in all, less the parts posted before, and releases the rest; `None` for an id that
    /// holds nothing. What is used beyond the hold is posted in full or clamped, as the kind's row says, and
    /// reported either way.
    pub fn settle(&mut self, id: &CallId, used: Amounts, now: Timestamp) -> Option<Settled> {
        let held = self.pending.remove(id)?;
        let rest = flows(&held.posted)
            .fold(used, |rest, (kind, before)| rest.with(kind, used.of(kind).saturating_sub(before)));
        let end = Settled::of(held.amounts, rest);
        self.finish(&held, end.posted, now);
        Some(end)
    }

    /// As [`Ledger::settle`], for a call of which nobody knows how it ended: it may be reconciled later.
    pub fn settle_unknown(&mut self, id: &CallId, used: Amounts, now: Timestamp) -> Option<Settled> {
        let held = self.pending.get(id).cloned()?;
        let end = self.settle(id, used, now)?;
        self.doubt(id, held, end.posted);
        Some(end)
    }

    /// Ends a reservation before anything ran: everything is released, nothing is posted.
    pub fn void(&mut self, id: &CallId, now: Timestamp) -> Option<Settled> {
        self.settle(id, Amounts::ZERO, now)
    }

    /// Ends a reservation whose outcome is unknown: kinds whose row says `Spent` are posted in
    /// full, the others are released. It may be reconciled later.
    pub fn expire(&mut self, id: &CallId, now: Timestamp) -> Option<Settled> {
        let held = self.pending.remove(id)?;
        let end = Settled::unknown(held.amounts);
        self.finish(&held, end.posted, now);
        self.doubt(id, held, end.posted);
        Some(end)
    }

    /// The reservation of a call of an earlier life, the parts posted of it and their sum.
    pub(crate) fn take_up(&self, id: &CallId) -> Option<(Reservation, u64, Amounts)> {
        let held = self.pending.get(id)?;
        Some((Reservation { id: id.clone(), held: held.reserved }, held.parts, held.posted))
    }

    /// Posts a part of what a call that still runs has used, and keeps the rest held. `part` counts from 1.
    /// `None` when that part was posted before: it counts once.
    ///
    /// # Errors
    /// The call holds nothing, or a part before this one is missing.
    pub fn post_part(
        &mut self,
        id: &CallId,
        part: u64,
        used: Amounts,
        now: Timestamp,
    ) -> Result<Option<Settled>, PartFault> {
        let held = self.pending.get(id).ok_or(PartFault::NotHeld)?;
        let next = held.parts.saturating_add(1);
        if part < next {
            return Ok(None);
        }
        if part > next {
            return Err(PartFault::Order { next });
        }
        // Peaks and levels have no parts: they are held until the end.
        let end = Settled::of(only_flows(held.amounts), only_flows(used));
        self.part(id, end.posted, now);
        Ok(Some(end))
    }

    /// Folds a recorded part.
    ///
    /// # Errors
    /// A part of a call that holds nothing, or out of order.
    pub fn replay_part(&mut self, id: &CallId, part: u64, posted: Amounts, at: Timestamp) -> Result<(), ReplayFault> {
        let held = self.pending.get(id).ok_or(ReplayFault::NotHeld)?;
        if part != held.parts.saturating_add(1) {
            return Err(ReplayFault::Part);
        }
        self.part(id, posted, at);
        Ok(())
    }

    /// Folds a recorded outcome: releases the hold and posts what the entry says. An outcome without a hold is
    /// a refusal: it marks the id.
    ///
    /// # Errors
    /// Amounts posted for a call that holds nothing, or a second end of one call.
    pub fn replay_outcome(&mut self, id: &CallId, posted: Amounts, at: Timestamp) -> Result<(), ReplayFault> {
        match self.pending.remove(id) {
            Some(held) => self.finish(&held, posted, at),
            None if self.is_used(id) => return Err(ReplayFault::Duplicate),
            None if posted.is_zero() => self.refuse(id),
            None => return Err(ReplayFault::NotHeld),
        }
        Ok(())
    }

    /// Folds a recorded expiry, or an outcome that nobody knows: as [`Ledger::replay_outcome`], and the call
    /// may be reconciled later.
    ///
    /// # Errors
    /// As for an outcome.
    pub fn replay_unknown(&mut self, id: &CallId, posted: Amounts, at: Timestamp) -> Result<(), ReplayFault> {
        let held = self.pending.get(id).cloned();
        self.replay_outcome(id, posted, at)?;
        if let Some(held) = held {
            self.doubt(id, held, posted);
        }
        Ok(())
    }

    /// What a reconciliation of `id` to `used` would post in all. Only kinds that are posted whatever happens
    /// can be corrected: the others were measured or released.
    ///
    /// # Errors
    /// The call is not in doubt.
    pub fn reconciled(&self, id: &CallId, used: Amounts) -> Result<Amounts, ReconcileFault> {
        if self.pending.contains_key(id) {
            return Err(ReconcileFault::Running);
        }
        let doubt = self.doubts.get(id).ok_or(ReconcileFault::NotInDoubt)?;
        Ok(correctable(used).fold(doubt.posted, |all, (kind, amount)| all.with(kind, amount)))
    }

    /// Replaces what was posted for a call in doubt by `posted`, once.
    ///
    /// # Errors
    /// The call is not in doubt.
    pub fn reconcile(&mut self, id: &CallId, posted: Amounts, at: Timestamp) -> Result<(), ReplayFault> {
        let doubt = self.doubts.remove(id).ok_or(ReplayFault::NotInDoubt)?;
        let at = self.tick(at);
        let (mut less, mut more, mut back) = (Amounts::ZERO, Amounts::ZERO, Amounts::ZERO);
        for (kind, amount) in correctable(posted) {
            less.set(kind, doubt.posted.of(kind).saturating_sub(amount));
            more.set(kind, amount.saturating_sub(doubt.posted.of(kind)));
            // An over-run stays where it was counted: what is given back is less than was reserved.
            back.set(kind, doubt.counted.of(kind).saturating_sub(amount));
        }
        for index in &doubt.made.nodes {
            let Some(node) = self.nodes.get_mut(*index) else { continue };
            node.unpost(less);
            node.post(more, at);
        }
        self.remeter(&doubt.made, back, more, at);
        Ok(())
    }

    /// Calls that ended with an unknown outcome and were not reconciled, with what was posted for them.
    pub fn doubts(&self) -> impl Iterator<Item = (&CallId, Amounts)> {
        self.doubts.iter().map(|(id, doubt)| (id, doubt.posted))
    }

    fn doubt(&mut self, id: &CallId, held: Held, posted: Amounts) {
        let (mut all, mut counted) = (posted, held.reserved);
        for (kind, before) in flows(&held.posted) {
            all.set(kind, all.of(kind).saturating_add(before));
        }
        for (kind, rest) in flows(&held.amounts) {
            let unused = rest.saturating_sub(posted.of(kind));
            counted.set(kind, counted.of(kind).saturating_sub(unused));
        }
        self.doubts.insert(id.clone(), Doubt { made: held.made, posted: all, counted });
    }

    fn part(&mut self, id: &CallId, posted: Amounts, now: Timestamp) {
        let at = self.tick(now);
        let Some(held) = self.pending.get_mut(id) else { return };
        let mut taken = Amounts::ZERO;
        let mut over = Amounts::ZERO;
        for (kind, amount) in flows(&posted) {
            let within = amount.min(held.amounts.of(kind));
            taken.set(kind, within);
            over.set(kind, amount - within);
            held.amounts.set(kind, held.amounts.of(kind) - within);
            held.posted.set(kind, held.posted.of(kind).saturating_add(amount));
        }
        held.parts = held.parts.saturating_add(1);
        let made = held.made.clone();
        for index in &made.nodes {
            if let Some(node) = self.nodes.get_mut(*index) {
                node.release(taken);
                node.post(posted, at);
            }
        }
        self.remeter(&made, Amounts::ZERO, over, at);
    }

    fn finish(&mut self, held: &Held, posted: Amounts, now: Timestamp) {
        let at = self.tick(now);
        for index in &held.made.nodes {
            if let Some(node) = self.nodes.get_mut(*index) {
                node.release(held.amounts);
                node.post(posted, at);
            }
        }
        let (mut less, mut more) = (Amounts::ZERO, Amounts::ZERO);
        for Watched { watch, .. } in &self.watched {
            let (held, posted) = (held.amounts.of(watch.kind), posted.of(watch.kind));
            less.set(watch.kind, held.saturating_sub(posted));
            more.set(watch.kind, posted.saturating_sub(held));
        }
        self.remeter(&held.made, less, more, at);
    }

    /// Gives `less` back to the windows in which it was reserved, and counts `more` in those of `at`.
    fn remeter(&mut self, made: &Made, less: Amounts, more: Amounts, at: Timestamp) {
        if self.watched.is_empty() {
            return;
        }
        for index in &made.nodes {
            let Some(node) = self.nodes.get_mut(*index) else { continue };
            let tier = node.tier;
            for Watched { watch, from, .. } in self.watched.iter().filter(|watched| watched.watch.tier == tier) {
                let (less, more) = (less.of(watch.kind), more.of(watch.kind));
                if less == 0 && more == 0 {
                    continue;
                }
                let Some(meter) = node.meter(watch) else { continue };
                if made.number > *from {
                    meter.give(less, watch, made.at, at);
                }
                meter.take(more, watch, at);
            }
        }
    }
}

fn only_flows(amounts: Amounts) -> Amounts {
    flows(&amounts).fold(Amounts::ZERO, |all, (kind, amount)| all.with(kind, amount))
}

/// The amounts of kinds that a reconciliation may correct, zero ones included.
fn correctable(amounts: Amounts) -> impl Iterator<Item = (crate::model::Kind, u64)> {
    crate::model::KINDS
        .iter()
        .filter(|row| row.nature == Nature::Flow && row.excess == Excess::Posted)
        .map(move |row| (row.kind, amounts.of(row.kind)))
}
