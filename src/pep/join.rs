//! A gate and its treasury, as their keeper sees them: joining, giving back what lies idle, how far the journal has come.
//!
//! Called from outside the line, by whoever keeps the gate's standing. Nothing here decides on calls.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Gate;
use super::port::{JournalFault, Opening, Pot, Treasury, TreasuryFault};
use super::pots::{Turn, held};
use crate::audit::Body;
use crate::ledger::Limit;
use crate::model::{Millis, Timestamp};

impl Gate {
    /// Introduces the gate to the treasury and gives back what the treasury holds for it and its journal does not know
    /// of. To be called until it succeeds once; it does nothing where there is no treasury.
    ///
    /// # Errors
    /// [`TreasuryFault`]; that the journal cannot be written counts as unreachable.
    pub fn join(&self) -> Result<(), TreasuryFault> {
        let Some(treasury) = &self.pots.treasury else { return Ok(()) };
        let shut = |fault: JournalFault| TreasuryFault::Unreachable(fault.0);
        let opening = self.opening().map_err(shut)?;
        let mut shown: BTreeMap<Pot, u64> = treasury.join(opening)?.into_iter().collect();
        let known: Vec<Pot> = {
            let locked = self.lock().map_err(|reason| TreasuryFault::Unreachable(reason.detail))?;
            locked.state.ledger.allowances().map(|(pot, _)| pot.clone()).collect()
        };
        for pot in known {
            shown.entry(pot).or_default();
        }
        for (pot, there) in shown {
            let (turn, Some(limit)) = (self.pots.turn(&pot), self.limit_of(&pot)) else { continue };
            let _one = held(&turn.one);
            let stands = self.stands(&pot, &limit).map_err(|reason| TreasuryFault::Unreachable(reason.detail))?;
            if stands.known() != there || stands.raised > 0 {
                self.tell(&**treasury, &pot, &turn, stands, limit.limit)?;
            }
        }
        Ok(())
    }

    /// Gives back what lies unused and has not been touched for `idle`, and tells again what was lost on the way.
    ///
    /// # Errors
    /// The first fault; the other pots were tried all the same.
    pub fn rest(&self, idle: Millis) -> Result<(), TreasuryFault> {
        let Some(treasury) = &self.pots.treasury else { return Ok(()) };
        let (pots, now): (Vec<Pot>, Timestamp) = {
            let locked = self.lock().map_err(|reason| TreasuryFault::Unreachable(reason.detail))?;
            (locked.state.ledger.allowances().map(|(pot, _)| pot.clone()).collect(), self.now(&locked))
        };
        let mut all: BTreeSet<Pot> = pots.into_iter().collect();
        let owing = |(pot, turn): (&Pot, &Arc<Turn>)| (*held(&turn.owed)).then(|| pot.clone());
        all.extend(held(&self.pots.turns).iter().filter_map(owing));
        let mut first = Ok(());
        for pot in all {
            let Some(limit) = self.limit_of(&pot) else { continue };
            let turn = self.pots.turn(&pot);
            let done = self.rest_one(&**treasury, &pot, &limit, &turn, (now, idle));
            first = first.and(done);
        }
        let locked = self.lock().map_err(|reason| TreasuryFault::Unreachable(reason.detail))?;
        let in_use: BTreeSet<&Pot> = locked.state.ledger.allowances().map(|(pot, _)| pot).collect();
        let needed =
            |pot: &Pot, turn: &Arc<Turn>| in_use.contains(pot) || Arc::strong_count(turn) > 1 || *held(&turn.owed);
        held(&self.pots.turns).retain(|pot, turn| needed(pot, turn));
        first
    }

    fn rest_one(
        &self,
        treasury: &dyn Treasury,
        pot: &Pot,
        limit: &Limit,
        turn: &Turn,
        (now, idle): (Timestamp, Millis),
    ) -> Result<(), TreasuryFault> {
        // A pot that is being drawn from is not idle, and a heartbeat must not wait for it.
        let _one = match turn.one.try_lock() {
            Ok(one) => one,
            Err(_) if idle.0 > 0 => return Ok(()),
            Err(_) => held(&turn.one),
        };
        let stands = self.stands(pot, limit).map_err(|reason| TreasuryFault::Unreachable(reason.detail))?;
        let long = {
            let mut rest = held(&turn.rest);
            if rest.0 != stands.used {
                *rest = (stands.used, now);
            }
            now.since(rest.1) >= idle
        };
        let owed = *held(&turn.owed);
        if stands.unused() > 0 && long {
            return self.give(treasury, pot, limit, turn, stands.used);
        }
        if owed || stands.used > stands.held || stands.raised != turn.raised.load(Ordering::SeqCst) {
            return self.tell(treasury, pot, turn, stands, limit.limit);
        }
        Ok(())
    }

    /// How many entries of the journal are durable at least: what the treasury remembers against an older copy of it.
    #[must_use]
    pub fn position(&self) -> u64 {
        let opening = held(&self.pots.opening).map_or(0, |opening| opening.epoch);
        self.pots.firm().max(opening)
    }

    /// The place of this opening in the journal: one entry, written at the first call.
    fn opening(&self) -> Result<Opening, JournalFault> {
        let mut known = held(&self.pots.opening);
        if let Some(opening) = *known {
            return Ok(opening);
        }
        let mut locked = self.lock().map_err(|reason| JournalFault(reason.detail))?;
        let at = self.now(&locked);
        let (token, ticket) = self.write(&mut locked, at, Body::Join { weir: env!("CARGO_PKG_VERSION").to_owned() });
        let opening = Opening { epoch: locked.state.chain.count(), token };
        drop(locked);
        ticket.wait().inspect_err(|fault| drop(self.fail(fault)))?;
        *known = Some(opening);
        Ok(opening)
    }
}
