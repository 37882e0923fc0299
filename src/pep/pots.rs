//! Budgets that several gates share: drawing allowance when it runs short, giving back what is not needed.
//!
//! A draw is journalled before it can be spent, a return before the database hears of it: what the database holds for a
//! gate is never less than what the gate's journal counts on. Everything that waits stands outside the critical section;
//! for each pot one statement is under way at a time, and whoever needs the same pot meanwhile is drawn for along with it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Gate;
use super::gate::{InForce, Locked};
use super::port::{Claim, Holding, JournalFault, Opening, Pot, Ticket, Treasury, TreasuryFault};
use super::share::excess;
use crate::audit::Body;
use crate::ledger::{AccountId, Allowance, Limit, Shortfall};
use crate::model::{Amounts, Reason, ReasonCode, Subject, Tier, Timestamp, Window};
use crate::policy::{Budget, Policy};

/// What a gate knows of its pots besides the journal: whose turn it is, and what was last heard.
#[derive(Default)]
pub(super) struct Pots {
    pub(super) treasury: Option<Arc<dyn Treasury>>,
    pub(super) turns: Mutex<BTreeMap<Pot, Arc<Turn>>>,
    pub(super) opening: Mutex<Option<Opening>>,
    /// Entries up to here are durable for certain.
    firm: AtomicU64,
}

/// One statement at a time for each pot.
pub(super) struct Turn {
    pub(super) one: Mutex<()>,
    /// What all that wait for their turn need, together.
    wanted: AtomicU64,
    /// What was left in the pot when the database last spoke of it.
    room: AtomicU64,
    /// What was in use when the keeper last looked, and since when it is so.
    pub(super) rest: Mutex<(u64, Timestamp)>,
    /// A statement was lost: the database may hold more for this gate than the journal counts on.
    pub(super) owed: Mutex<bool>,
    /// The tranches that the database was last told of.
    pub(super) raised: AtomicU64,
}

/// A budget that several gates share, as the policy in force has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shared {
    /// Its place among the limits.
    pub at: usize,
    /// What a draw takes beyond the need, and what may lie unused.
    pub lease: u64,
}

impl Shared {
    /// Those budgets of `policy`, by their place, that several gates share.
    pub(super) fn all(policy: &Policy) -> Vec<Self> {
        let shared = |(at, budget): (usize, &Budget)| budget.shared.map(|lease| Self { at, lease: lease.0 });
        policy.budgets.iter().enumerate().filter_map(shared).collect()
    }
}

/// What one call lacks of one pot.
#[derive(Clone, Debug)]
pub(super) struct Need {
    pub pot: Pot,
    pub limit: Limit,
    pub lease: u64,
    pub wanted: u64,
}

/// Adds to what is wanted of a pot for as long as it lives.
struct Waiting<'a>(&'a AtomicU64, u64);

impl<'a> Waiting<'a> {
    fn new(all: &'a AtomicU64, own: u64) -> Self {
        all.fetch_add(own, Ordering::SeqCst);
        Self(all, own)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(self.1, Ordering::SeqCst);
    }
}

pub(super) fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pots {
    pub(super) fn turn(&self, pot: &Pot) -> Arc<Turn> {
        let fresh = || {
            let (one, wanted, room) = (Mutex::new(()), AtomicU64::new(0), AtomicU64::new(u64::MAX));
            Arc::new(Turn {
                one,
                wanted,
                room,
                rest: Mutex::new((u64::MAX, Timestamp(0))),
                owed: Mutex::new(false),
                raised: AtomicU64::new(0),
            })
        };
        held(&self.turns).entry(pot.clone()).or_insert_with(fresh).clone()
    }

    /// Notes that the journal is durable up to an entry.
    pub(super) fn is_durable(&self, place: u64) {
        self.firm.fetch_max(place, Ordering::SeqCst);
    }

    pub(super) fn firm(&self) -> u64 {
        self.firm.load(Ordering::SeqCst)
    }

    /// What was last heard to be left in a pot; `None` when nothing was.
    fn room(&self, pot: &Pot) -> Option<u64> {
        let room = held(&self.turns).get(pot)?.room.load(Ordering::SeqCst);
        (room < u64::MAX).then_some(room)
    }
}

impl Gate {
    /// The same gate with a database for the budgets that it shares with others. Without one such budgets grant nothing.
    #[must_use]
    pub fn with_treasury(mut self, treasury: Arc<dyn Treasury>) -> Self {
        self.pots.treasury = Some(treasury);
        self
    }

    /// Gives back what a call that ended, or was refused after all, leaves beyond a lease, and tells of an over-run.
    pub(super) fn give_back(&self, force: &InForce, subject: &Subject, amounts: &Amounts) {
        let Some(treasury) = &self.pots.treasury else { return };
        for (pot, limit, lease) in self.pots_of(force, subject, amounts) {
            let is_over = |stands: &Allowance| stands.used > stands.held || excess(stands.unused(), lease) > 0;
            if !self.stands(&pot, &limit).is_ok_and(|stands| is_over(&stands)) {
                continue;
            }
            let turn = self.pots.turn(&pot);
            let _one = held(&turn.one);
            let Ok(stands) = self.stands(&pot, &limit) else { return };
            // What others wait for is theirs before it is anybody's.
            let spare = stands.unused().saturating_sub(turn.wanted.load(Ordering::SeqCst));
            let back = excess(spare, lease);
            let told = match (back, stands.used > stands.held) {
                (0, false) => Ok(()),
                (0, true) => self.tell(&**treasury, &pot, &turn, stands, limit.limit),
                (back, _) => self.give(&**treasury, &pot, &limit, &turn, stands.held.saturating_sub(back)),
            };
            if let Err(fault) = told {
                tracing::warn!(fault = %fault, "allowance goes back later");
            }
        }
    }

    /// Draws what a call lacks: `None` when it is worth trying again, else what is left for it.
    pub(super) fn draw(&self, need: &Need) -> Result<Option<u64>, Reason> {
        let Some(treasury) = &self.pots.treasury else { return Err(without_treasury(&need.limit.id)) };
        let turn = self.pots.turn(&need.pot);
        let _waiting = Waiting::new(&turn.wanted, need.wanted);
        let _one = held(&turn.one);
        let stands = self.stands(&need.pot, &need.limit)?;
        if stands.unused() >= need.wanted {
            return Ok(None);
        }
        let least = need.wanted - stands.unused();
        let waiting = turn.wanted.load(Ordering::SeqCst).saturating_sub(stands.unused());
        let most = need.lease.max(waiting).max(least);
        let claim = Claim {
            pot: &need.pot,
            known: stands.known(),
            raised: stands.raised,
            least,
            most,
            limit: need.limit.limit,
        };
        let holding =
            self.state_and_ask(&**treasury, &claim, &turn).map_err(|fault| unreachable(&need.limit.id, &fault))?;
        if holding.held != stands.held {
            self.allow(&need.pot, holding.held)?;
        }
        let more = holding.held > stands.known();
        // What ended while this was asked for may cover what others wait for.
        let now = self.stands(&need.pot, &need.limit)?;
        let back = excess(now.unused().saturating_sub(turn.wanted.load(Ordering::SeqCst)), need.lease);
        if back > 0
            && let Err(fault) = self.give(&**treasury, &need.pot, &need.limit, &turn, now.held.saturating_sub(back))
        {
            tracing::warn!(fault = %fault, "allowance goes back later");
        }
        Ok((!more).then(|| holding.room.saturating_add(stands.unused())))
    }

    /// Lets every gate know at once that a person raised `budget` for `account`; otherwise the next statement does.
    pub(super) fn tell_of_raise(&self, budget: &str, account: &AccountId) {
        let (Some(treasury), Ok(now)) = (&self.pots.treasury, self.lock().map(|locked| self.now(&locked))) else {
            return;
        };
        let force = self.force();
        let Some(limit) = force.limits.iter().find(|limit| limit.shared && limit.id == budget) else { return };
        let pot = limit.pot(account.as_str(), now);
        let turn = self.pots.turn(&pot);
        let _one = held(&turn.one);
        let told = self.stands(&pot, limit).map(|stands| self.tell(&**treasury, &pot, &turn, stands, limit.limit));
        if let Ok(Err(fault)) = told {
            tracing::warn!(fault = %fault, "other gates learn of the raise later");
        }
    }

    /// Why no shared budget that `amounts` draw on can be used now, if so.
    pub(super) fn unusable(&self, force: &InForce, amounts: &Amounts) -> Option<Reason> {
        let drawn = |shared: &&Shared| force.limits.get(shared.at).is_some_and(|limit| amounts.of(limit.kind) > 0);
        let budget = force.shared.iter().find(drawn).and_then(|shared| force.limits.get(shared.at))?;
        match &self.pots.treasury {
            None => Some(without_treasury(&budget.id)),
            Some(treasury) if treasury.live() => None,
            Some(_) => Some(unreachable(&budget.id, &"this gate has no standing with it at the moment")),
        }
    }

    /// The limits that a decision reads: of a shared budget what this gate has and what was last heard to be left.
    pub(super) fn hinted(&self, locked: &Locked<'_>, force: &InForce, subject: &Subject, now: Timestamp) -> Vec<Limit> {
        let mut limits = force.limits.to_vec();
        if force.shared.is_empty() {
            return limits;
        }
        let path = AccountId::path(subject);
        for limit in limits.iter_mut().filter(|limit| limit.shared) {
            let known = |account: &AccountId| {
                let stands = locked.state.ledger.allowance(limit, account.as_str(), now);
                let room = self.pots.room(&limit.pot(account.as_str(), now));
                room.map_or(limit.limit, |room| stands.known().saturating_add(room))
            };
            let known = path.iter().filter(|account| account.tier() == limit.tier).map(known).min();
            let known = known.unwrap_or(limit.limit);
            *limit = Limit { shared: false, limit: known, ..limit.clone() };
        }
        limits
    }

    /// What to draw so that `shortfall` is none; `None` where it is not of a shared budget.
    pub(super) fn need(&self, force: &InForce, shortfall: &Shortfall, now: Timestamp) -> Option<Need> {
        let Shortfall::Limit { budget, account, wanted, .. } = shortfall else { return None };
        let of_it = |shared: &&Shared| force.limits.get(shared.at).is_some_and(|limit| limit.id == *budget);
        let shared = force.shared.iter().find(of_it)?;
        let limit = force.limits.get(shared.at)?.clone();
        Some(Need { pot: limit.pot(account.as_str(), now), limit, lease: shared.lease, wanted: *wanted })
    }

    /// The pots from which `amounts` of `subject` are drawn.
    fn pots_of(&self, force: &InForce, subject: &Subject, amounts: &Amounts) -> Vec<(Pot, Limit, u64)> {
        if force.shared.is_empty() {
            return Vec::new();
        }
        let Ok(now) = self.lock().map(|locked| self.now(&locked)) else { return Vec::new() };
        let path = AccountId::path(subject);
        let drawn = |shared: &Shared| {
            let limit = force.limits.get(shared.at).filter(|limit| amounts.of(limit.kind) > 0)?;
            Some((limit, shared.lease))
        };
        let pots = |(limit, lease): (&Limit, u64)| {
            let own = path.iter().filter(|account| account.tier() == limit.tier);
            own.map(|account| (limit.pot(account.as_str(), now), limit.clone(), lease)).collect::<Vec<_>>()
        };
        force.shared.iter().filter_map(drawn).flat_map(pots).collect()
    }

    /// The limit that speaks of `pot` now; for one that no policy names any more and that counts in total, one of zero.
    pub(super) fn limit_of(&self, pot: &Pot) -> Option<Limit> {
        let (force, now) = (self.force(), self.lock().ok().map(|locked| self.now(&locked))?);
        let speaks = |limit: &&Limit| limit.shared && limit.pot(&pot.account, now) == *pot;
        let gone = || Limit {
            id: pot.budget.clone(),
            tier: AccountId::parse(&pot.account).map_or(Tier::Org, |account| account.tier()),
            kind: pot.kind,
            limit: 0,
            window: Window::Total,
            shared: true,
        };
        force.limits.iter().find(speaks).cloned().or_else(|| (pot.opens.0 == 0).then(gone))
    }

    pub(super) fn stands(&self, pot: &Pot, limit: &Limit) -> Result<Allowance, Reason> {
        let locked = self.lock()?;
        let now = self.now(&locked);
        // A window that has passed since counts for nobody any more.
        let current = limit.pot(&pot.account, now) == *pot;
        Ok(if current { locked.state.ledger.allowance(limit, &pot.account, now) } else { Allowance::default() })
    }

    /// Lowers what the journal counts on to `keep`, durably, and then tells the database.
    pub(super) fn give(
        &self,
        treasury: &dyn Treasury,
        pot: &Pot,
        limit: &Limit,
        turn: &Turn,
        keep: u64,
    ) -> Result<(), TreasuryFault> {
        let shut = |fault: Reason| TreasuryFault::Unreachable(fault.detail);
        let ticket = {
            let mut locked = self.lock().map_err(shut)?;
            let now = self.now(&locked);
            // Looked at again under the lock: a call may have taken of it meanwhile.
            let stands = locked.state.ledger.allowance(limit, &pot.account, now);
            self.put_allowance(&mut locked, pot, keep.max(stands.used).min(stands.held))
        };
        ticket.wait().map_err(|fault| TreasuryFault::Unreachable(self.fail(&fault).detail))?;
        let stands = self.stands(pot, limit).map_err(shut)?;
        self.tell(treasury, pot, turn, stands, limit.limit)
    }

    /// States what the journal counts on and wants nothing more.
    pub(super) fn tell(
        &self,
        treasury: &dyn Treasury,
        pot: &Pot,
        turn: &Turn,
        stands: Allowance,
        limit: u64,
    ) -> Result<(), TreasuryFault> {
        let claim = Claim { pot, known: stands.known(), raised: stands.raised, least: 0, most: 0, limit };
        let holding = self.state_and_ask(treasury, &claim, turn)?;
        if holding.held != stands.held {
            self.allow(pot, holding.held).map_err(|reason| TreasuryFault::Unreachable(reason.detail))?;
        }
        Ok(())
    }

    fn state_and_ask(&self, treasury: &dyn Treasury, claim: &Claim<'_>, turn: &Turn) -> Result<Holding, TreasuryFault> {
        let answer = treasury.claim(claim);
        *held(&turn.owed) = answer.is_err();
        if let Ok(holding) = &answer {
            turn.raised.store(claim.raised, Ordering::SeqCst);
            turn.room.store(holding.room.min(u64::MAX - 1), Ordering::SeqCst);
        }
        answer
    }

    /// Journals what is held of a pot from now on. Later entries stand behind it, so nobody has to wait for it.
    fn allow(&self, pot: &Pot, held: u64) -> Result<(), Reason> {
        let mut locked = self.lock()?;
        match self.put_allowance(&mut locked, pot, held) {
            Ticket::Ready(Err(fault)) => Err(self.closed(locked, &fault)),
            Ticket::Ready(Ok(())) | Ticket::Awaited(_) => Ok(()),
        }
    }

    fn closed(&self, locked: Locked<'_>, fault: &JournalFault) -> Reason {
        drop(locked);
        self.fail(fault)
    }

    fn put_allowance(&self, locked: &mut Locked<'_>, pot: &Pot, held: u64) -> Ticket {
        let at = self.now(locked);
        locked.state.ledger.allow(pot, held);
        let body = Body::Allowance { pot: pot.clone(), held: Amounts::ZERO.with(pot.kind, held) };
        self.write(locked, at, body).1
    }
}

fn without_treasury(budget: &str) -> Reason {
    let detail = format!("budget `{budget}` is shared between gates and this gate has no database for it");
    Reason::new(ReasonCode::BudgetUnreachable, detail).by(format!("budget {budget}"), &[])
}

fn unreachable(budget: &str, fault: &dyn std::fmt::Display) -> Reason {
    let detail = format!("budget `{budget}` is shared between gates and its database gives nothing now: {fault}");
    Reason::new(ReasonCode::BudgetUnreachable, detail).by(format!("budget {budget}"), &[])
}
