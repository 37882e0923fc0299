//! What operators do besides policies: raise a cap, freeze, thaw, revoke, reconcile, and look.
//!
//! Each is durable when it returns and counts from the moment it was written: the same critical section
//! decides calls. Who may ask is the surface's question.

use std::sync::atomic::Ordering;

use super::gate::Locked;
use super::port::{JournalFault, Order, Round, Ticket, TreasuryFault};
use super::{Durable, Gate, GateFault, Reserved};
use crate::audit::Body;
use crate::ledger::{AccountId, Bar, Standing};
use crate::model::{
    Action, Amounts, CallId, Digest, Evidence, Giver, Happened, Lifts, Name, Reason, ReasonCode, Subject, Timestamp,
};
use crate::pip::Meter;
use crate::policy::Budget;

/// How far an order of an operator went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reach {
    /// This gate, which shares nothing with others.
    Gate,
    /// Every gate that shares its budgets.
    Gates,
}

impl Gate {
    /// Does what an operator orders about an account, here and at every gate with which this one shares budgets. A stop is
    /// in force here before the others hear of it. What goes on where budgets are shared is what this gate has stopped for
    /// itself and, if the database permits it, what orders have stopped that went round.
    ///
    /// # Errors
    /// [`GateFault::Refused`] when it cannot be done, as [`Gate::freeze`], [`Gate::thaw`] and [`Gate::revoke`] say, or when
    /// another gate or the office of the database has stopped what is to go on; [`GateFault::Alone`] when the others
    /// may not have heard of it: to be given again; [`GateFault::Journal`] when it could not be recorded.
    pub fn order(&self, order: Order, account: &AccountId, by: &str) -> Result<Reach, GateFault> {
        let Some(treasury) = &self.pots.treasury else { return self.follow(order, account, by).map(|()| Reach::Gate) };
        let reached = |fault: TreasuryFault| match fault {
            TreasuryFault::Refused(why) => refused(why),
            fault => GateFault::Alone(alone(order, account, &fault)),
        };
        if order == Order::Thaw {
            let round = treasury.circulate(order, account, by).map_err(reached)?;
            // Only its own: what went round was lifted by following, and what was ordered since then stays.
            let lifted = self.lift(account, by, &Giver::Here, Lifts::Own)?;
            return match (lifted, round) {
                (true, _) | (false, Round::Done) => Ok(Reach::Gates),
                (false, Round::Needless) => Err(self.unlifted(account)),
            };
        }
        self.follow(order, account, by)?;
        treasury.circulate(order, account, by).map(|_| Reach::Gates).map_err(reached)
    }

    /// Does what an order says at this gate alone.
    ///
    /// # Errors
    /// Those of [`Gate::freeze`], [`Gate::thaw`] and [`Gate::revoke`].
    pub fn follow(&self, order: Order, account: &AccountId, by: &str) -> Result<(), GateFault> {
        self.heed(order, account, by, &Giver::Here)
    }

    /// Does what an order of `from` says. What this gate has stopped for itself is lifted by no order of another gate, nor
    /// by one that comes back as this gate's own: whoever speaks to the database may have said so.
    ///
    /// # Errors
    /// Those of [`Gate::freeze`], [`Gate::thaw`] and [`Gate::revoke`].
    pub fn heed(&self, order: Order, account: &AccountId, by: &str, from: &Giver) -> Result<(), GateFault> {
        match order {
            Order::Freeze | Order::Revoke => self.stop(order, account, by, from),
            Order::Thaw if self.lift(account, by, from, from.lifts())? => Ok(()),
            Order::Thaw => Err(self.unlifted(account)),
        }
    }

    /// Lets nothing new run on `account` or below it, until [`Gate::thaw`]. What runs goes on.
    ///
    /// # Errors
    /// [`GateFault::Refused`] when it is revoked already; [`GateFault::Journal`] when it could not be recorded.
    pub fn freeze(&self, account: &AccountId, by: &str) -> Result<(), GateFault> {
        self.follow(Order::Freeze, account, by)
    }

    /// Lets a frozen account go on.
    ///
    /// # Errors
    /// [`GateFault::Refused`] when it is not frozen, or is revoked; [`GateFault::Journal`] when it could not be
    /// recorded.
    pub fn thaw(&self, account: &AccountId, by: &str) -> Result<(), GateFault> {
        self.follow(Order::Thaw, account, by)
    }

    /// Lets nothing new run on `account` or below it any more, and tells what runs there to stop.
    ///
    /// # Errors
    /// [`GateFault::Journal`] when it could not be recorded.
    pub fn revoke(&self, account: &AccountId, by: &str) -> Result<(), GateFault> {
        self.follow(Order::Revoke, account, by)
    }

    /// Freezes or revokes, durably. What was stopped by an order that went round is stopped once more by the gate itself
    /// and the other way round: either can be lifted alone.
    fn stop(&self, order: Order, account: &AccountId, by: &str, from: &Giver) -> Result<(), GateFault> {
        let mut locked = self.lock().map_err(|reason| JournalFault(reason.detail))?;
        let revoke = order == Order::Revoke;
        if !revoke && locked.state.ledger.barred(account).is_some_and(|bar| bar.revoked) {
            return Err(for_good(account));
        }
        let at = self.now(&locked);
        if !locked.state.ledger.bar(account, revoke, by, from, at) {
            return Ok(());
        }
        let (account, by, from) = (account.to_string(), by.to_owned(), from.clone());
        if revoke {
            self.revocations.fetch_add(1, Ordering::SeqCst);
            return self.put(locked, at, Body::Revoke { account, by, from });
        }
        self.put(locked, at, Body::Freeze { account, by, from })
    }

    /// Lifts what stops an account, durably; false when there was nothing to lift.
    fn lift(&self, account: &AccountId, by: &str, from: &Giver, lifts: Lifts) -> Result<bool, GateFault> {
        let mut locked = self.lock().map_err(|reason| JournalFault(reason.detail))?;
        if locked.state.ledger.barred(account).is_some_and(|bar| bar.revoked) {
            return Err(for_good(account));
        }
        if !locked.state.ledger.thaw(account, lifts) {
            return Ok(false);
        }
        let (at, account) = (self.now(&locked), account.to_string());
        let (by, from) = (by.to_owned(), from.clone());
        self.put(locked, at, Body::Thaw { account, by, from, lifts }).map(|()| true)
    }

    /// Why nothing was lifted.
    fn unlifted(&self, account: &AccountId) -> GateFault {
        let bar = self.lock().ok().and_then(|locked| locked.state.ledger.barred(account).cloned());
        refused(match bar {
            None => format!("`{account}` is not frozen"),
            Some(bar) if bar.from.is_here() => format!(
                "`{account}` was stopped by this gate for itself, and only its own operator or the office lets it go on: \
                 order it at this gate, or `weir store thaw`"
            ),
            Some(_) => {
                format!("`{account}` is stopped by an order that went round all gates: try again, or `weir store thaw`")
            }
        })
    }

    /// Records that `what` has run past the gate in the session of `subject`, as `by` tells: evidence that raises
    /// scores, lowers none and settles nothing.
    ///
    /// # Errors
    /// [`GateFault::Journal`] when it could not be recorded.
    pub fn bypassed(&self, subject: &Subject, action: Action, what: &Name, by: &str) -> Result<(), GateFault> {
        let mut locked = self.lock().map_err(|reason| JournalFault(reason.detail))?;
        let (at, account) = (self.now(&locked), AccountId::session(subject));
        let evidence = Evidence {
            session: subject.session.clone(),
            at,
            action,
            effect: None,
            resource: what.clone(),
            happened: Happened::Reported,
            labels: Vec::new(),
            action_digest: Digest::ZERO,
            input_digest: Digest::ZERO,
            delegation: 0,
            protected_path: false,
            earlier_state: false,
            traceable: false,
        };
        locked.state.reported(account.clone(), &evidence);
        let body = Body::Bypass { account: account.to_string(), by: by.to_owned(), evidence };
        let (_, ticket) = self.write(&mut locked, at, body);
        drop(locked);
        self.wait(Some(ticket))
    }

    /// What the gate's own proxies have metered of generations, for every session that has any, in order of account.
    #[must_use]
    pub fn metered(&self) -> Vec<(AccountId, Meter)> {
        let Ok(locked) = self.lock() else { return Vec::new() };
        let all = locked.state.sessions.iter().filter(|(_, session)| !session.models.is_empty());
        all.map(|(account, session)| (account.clone(), session.models)).collect()
    }

    /// The same of the session of `subject`.
    #[must_use]
    pub fn meter(&self, subject: &Subject) -> Meter {
        let Ok(locked) = self.lock() else { return Meter::default() };
        locked.state.session(subject).map(|session| session.models).unwrap_or_default()
    }

    /// Adds `by` to a budget of one account: for good where it counts in total, else in the window of now.
    ///
    /// # Errors
    /// [`GateFault::Refused`] when the policy has no such budget or it limits other accounts;
    /// [`GateFault::Journal`] when it could not be recorded.
    pub fn raise_budget(&self, budget: &str, account: &AccountId, by: u64, approval: &str) -> Result<(), GateFault> {
        let mut locked = self.lock().map_err(|reason| JournalFault(reason.detail))?;
        let policy = self.policy();
        let Some(known) = policy.policy().budgets.iter().find(|known| known.id == budget) else {
            return Err(refused(format!("the policy has no budget `{budget}`")));
        };
        if known.scope != account.tier() {
            let (scope, tier) = (known.scope.word(), account.tier().word());
            return Err(refused(format!("`{budget}` limits each {scope}, and `{account}` is of the tier {tier}")));
        }
        if by == 0 {
            return Err(refused("raise by an amount above zero".to_owned()));
        }
        let by = Amounts::ZERO.with(known.kind, by);
        let ticket = self.grant(&mut locked, known, account, by, approval);
        drop(locked);
        self.wait(Some(ticket))?;
        self.tell_of_raise(budget, account);
        Ok(())
    }

    /// Replaces what was posted for a call with an unknown outcome by what it really used, once. Only amounts
    /// that nobody can take back (money, tokens, bytes sent, GPU time) are corrected; gives what counts now.
    ///
    /// # Errors
    /// [`GateFault::Refused`] when the call still runs or is not in doubt; [`GateFault::Journal`] when it could
    /// not be recorded.
    pub fn reconcile(&self, call: &CallId, used: Amounts, by: &str) -> Result<Amounts, GateFault> {
        let mut locked = self.lock().map_err(|reason| JournalFault(reason.detail))?;
        let posted = locked.state.ledger.reconciled(call, used).map_err(|fault| refused(fault.to_string()))?;
        let at = self.now(&locked);
        locked.state.ledger.reconcile(call, posted, at).map_err(|fault| refused(fault.to_string()))?;
        let body = Body::Reconcile { call: call.clone(), posted, by: by.to_owned() };
        self.put(locked, at, body)?;
        Ok(posted)
    }

    /// Posts a part of what a call that still runs has used, and keeps the rest held. Parts count from 1; one
    /// that was posted before counts once, so that whoever reports may try again.
    ///
    /// # Errors
    /// [`GateFault::Refused`] when the call has ended or a part is missing; [`GateFault::Journal`] when it
    /// could not be recorded.
    pub fn post_part(&self, work: &Durable<Reserved>, part: u64, used: Amounts) -> Result<(), GateFault> {
        let mut locked = self.lock().map_err(|reason| JournalFault(reason.detail))?;
        let (call, at) = (work.call().id.clone(), self.now(&locked));
        let posted = locked.state.ledger.post_part(&call, part, used, at);
        let Some(settled) = posted.map_err(|fault| refused(fault.to_string()))? else { return Ok(()) };
        self.put(locked, at, Body::Part { call, part, posted: settled.posted })
    }

    /// True when a call with this id was ever admitted or refused. A closed gate knows every call.
    #[must_use]
    pub fn knows(&self, call: &CallId) -> bool {
        self.lock().map_or(true, |locked| locked.state.ledger.is_used(call))
    }

    /// Accounts that are frozen or revoked, in order of id.
    #[must_use]
    pub fn bars(&self) -> Vec<(AccountId, Bar)> {
        let copied = |(account, bar): (&AccountId, &Bar)| (account.clone(), bar.clone());
        self.lock().map(|locked| locked.state.ledger.bars().map(copied).collect()).unwrap_or_default()
    }

    /// How every account stands under every budget that limits it, with a forecast.
    #[must_use]
    pub fn standings(&self) -> Vec<Standing> {
        let Ok(locked) = self.lock() else { return Vec::new() };
        let now = self.now(&locked);
        locked.state.ledger.standings(&self.force().limits, now)
    }

    /// Calls that ended with an unknown outcome and were not reconciled, with what was posted for them.
    #[must_use]
    pub fn doubts(&self) -> Vec<(CallId, Amounts)> {
        let copied = |(call, posted): (&CallId, Amounts)| (call.clone(), posted);
        self.lock().map(|locked| locked.state.ledger.doubts().map(copied).collect()).unwrap_or_default()
    }

    /// Whether an account of `subject` was revoked. A closed gate counts as one that revoked everything.
    #[must_use]
    pub fn is_revoked(&self, subject: &Subject) -> bool {
        if self.revocations.load(Ordering::SeqCst) == 0 {
            return false;
        }
        self.lock().map_or(true, |locked| locked.state.ledger.closed(subject).is_some_and(|(_, bar)| bar.revoked))
    }

    /// Records and applies a tranche.
    pub(super) fn grant(
        &self,
        locked: &mut Locked<'_>,
        budget: &Budget,
        account: &AccountId,
        by: Amounts,
        approval: &str,
    ) -> Ticket {
        let (at, window) = (self.now(locked), budget.window);
        locked.state.ledger.raise(&budget.id, account, by, window, at);
        let (budget, account) = (budget.id.clone(), account.to_string());
        self.write(
            locked,
            at,
            Body::Raise { budget, account, by, window, approval: approval.to_owned(), question: None },
        )
        .1
    }

    /// Writes an entry about what was just done under the lock at `at`, and waits until it is durable. The state has that
    /// very time: a later one in the entry would make another state of it after a restart.
    fn put(&self, mut locked: Locked<'_>, at: Timestamp, body: Body) -> Result<(), GateFault> {
        let (_, ticket) = self.write(&mut locked, at, body);
        drop(locked);
        self.wait(Some(ticket))
    }
}

fn for_good(account: &AccountId) -> GateFault {
    refused(format!("`{account}` is revoked for good"))
}

fn refused(why: String) -> GateFault {
    GateFault::Refused(why)
}

/// What is known when an order could not be given to every gate.
fn alone(order: Order, account: &AccountId, fault: &TreasuryFault) -> String {
    let known = if order == Order::Thaw {
        "may go on at some gates and not at others"
    } else {
        "is stopped at this gate; the others of its shared budgets may not know"
    };
    let word = order.word();
    format!("`{account}` {known}: {fault}. Give the order again, or `weir store {word}` where the database is reached")
}

/// Why nothing runs on an account.
pub(super) fn shut(account: &AccountId, revoked: bool) -> Reason {
    let (code, detail) = if revoked {
        (ReasonCode::AccountRevoked, "an operator has revoked it for good")
    } else {
        (ReasonCode::AccountFrozen, "an operator has frozen it until further notice")
    };
    Reason::new(code, format!("the account `{account}` takes nothing new: {detail}"))
}
