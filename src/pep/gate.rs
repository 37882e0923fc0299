//! The gate: the state, the ports, and what surfaces may ask of it besides the line itself.
//!
//! One lock guards the state. Under it stand only decisions, arithmetic and hashing; waiting for the
//! journal, for people and for executors happens outside.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};

use super::asking::Attended;
use super::lasting::Watched;
use super::operate::shut;
use super::port::{Approver, Clock, Journal, JournalFault, Moment, Ticket};
use super::pots::{Pots, Shared};
use super::replay::replayed;
use super::stage::denied;
use super::state::State;
use crate::audit::{Bad, Body, Key, Receipt};
use crate::ledger::{Balance, Limit};
use crate::model::{
    Call, CallId, Decision, Digest, Effect, Millis, Name, Reason, ReasonCode, Subject, Timestamp, Watch,
};
use crate::pdp::{Compiled, Facts, Trace, explain};
use crate::pip;
use crate::risk::FactorScore;

/// Why a gate could not be opened, or a policy not be put into force.
#[derive(Debug, thiserror::Error)]
pub enum GateFault {
    /// The journal could not be read or written.
    #[error("the journal failed: {0}")]
    Journal(#[from] JournalFault),
    /// The journal does not verify.
    #[error("the journal does not verify: {0}")]
    Tampered(#[from] Bad),
    /// What an operator asked for cannot be done; nothing was changed.
    #[error("{0}")]
    Refused(String),
    /// Whether every gate of the shared budgets has followed an order is not known; a stop is in force here.
    #[error("{0}")]
    Alone(String),
}

/// What the edges plug in.
pub(super) struct Ports {
    pub journal: Box<dyn Journal>,
    pub clock: Box<dyn Clock>,
    pub approver: Box<dyn Approver>,
    pub key: Key,
}

/// The policy in force with the limits that it sets. Changed only inside the critical section, so
/// that the journal's order of policies and intents is the order in which they counted.
#[derive(Debug)]
pub(super) struct InForce {
    pub policy: Arc<Compiled>,
    pub limits: Arc<Vec<Limit>>,
    /// What the ledger counts for those limits that have a window.
    pub watches: Vec<Watch>,
    /// Those limits that several gates share.
    pub shared: Vec<Shared>,
}

/// What every caller is told once the journal has failed.
const CLOSED: &str = "the journal cannot be written, and nothing runs without a durable record";

/// The gate. Share it by reference; every operation may be called from any thread.
pub struct Gate {
    state: Mutex<State>,
    force: RwLock<Arc<InForce>>,
    pub(super) ports: Ports,
    pub(super) attended: Attended,
    refusals: AtomicU64,
    /// How often an account was revoked: whoever runs looks again only when it has changed.
    pub(super) revocations: AtomicU64,
    pub(super) pots: Pots,
    pub(super) watched: Watched,
}

/// The critical section.
pub(super) struct Locked<'a> {
    pub state: MutexGuard<'a, State>,
}

impl Gate {
    /// Opens a gate: verifies and replays the journal, ends reservations that a crash left open, and
    /// records the policy.
    ///
    /// # Errors
    /// [`GateFault`] when the journal cannot be read, does not verify, or cannot be written.
    pub fn open(
        policy: Arc<Compiled>,
        journal: Box<dyn Journal>,
        clock: Box<dyn Clock>,
        approver: Box<dyn Approver>,
        key: Key,
    ) -> Result<Self, GateFault> {
        let ports = Ports { journal, clock, approver, key };
        let state = replayed(&ports)?;
        let force = RwLock::new(Arc::new(in_force(policy)));
        let revoked = state.ledger.bars().filter(|(_, bar)| bar.revoked).count() as u64;
        let (refusals, revocations) = (AtomicU64::new(0), AtomicU64::new(revoked));
        let attended = Attended::default();
        let (state, pots, watched) = (Mutex::new(state), Pots::default(), Watched::default());
        let gate = Self { state, force, ports, attended, refusals, revocations, pots, watched };
        gate.begin()?;
        Ok(gate)
    }

    /// Evaluates without holding, recording or running anything: what [`Gate::admit`] would say now,
    /// except that a person is not asked and the id is not looked at.
    #[must_use]
    pub fn evaluate(&self, call: &Call) -> Trace {
        let (force, facts, closed) = match self.lock() {
            Ok(locked) => {
                (self.force(), self.gathered(&locked, &call.subject), locked.state.ledger.closed(&call.subject))
            }
            Err(reason) => {
                // A closed gate denies everything, and says so to whoever only asks.
                let decision = denied(reason, self.policy().policy().digest);
                return Trace { steps: Vec::new(), decision, allowed: String::new() };
            }
        };
        let mut trace = explain(&force.policy, &facts, call);
        if let Some((account, bar)) = closed {
            let decision = denied(shut(&account, bar.revoked), trace.decision.policy);
            return Trace { decision, allowed: String::new(), ..trace };
        }
        if let Some(reason) = beyond(&trace.decision, &facts) {
            trace.decision = Decision { effect: Effect::Deny, reason, ..trace.decision };
        }
        trace
    }

    /// What a decision on a call of `subject` would read now: its session's labels, what is left of
    /// its budgets, how many calls ran since a person approved one. `None` when the gate is closed.
    #[must_use]
    pub fn facts(&self, subject: &Subject) -> Option<Facts> {
        self.lock().ok().map(|locked| self.gathered(&locked, subject))
    }

    fn gathered(&self, locked: &Locked<'_>, subject: &Subject) -> Facts {
        let (force, now) = (self.force(), self.now(locked));
        let limits = self.hinted(locked, &force, subject, now);
        pip::gather(&locked.state.ledger, locked.state.session(subject), &limits, subject, now)
    }

    /// Records that the session of `subject` begins as a copy of the session `from` of the same agent, so that
    /// its labels and what a person last consented to go along. Durable when it returns.
    ///
    /// # Errors
    /// The journal could not record it; the gate is closed then and denies everything.
    pub fn fork(&self, subject: &Subject, from: &Name) -> Result<(), GateFault> {
        let mut locked = self.lock().map_err(|reason| JournalFault(reason.detail))?;
        let body = Body::Fork { subject: subject.clone(), from: from.clone() };
        let at = self.now(&locked);
        let (_, ticket) = self.write(&mut locked, at, body);
        locked.state.forked(subject, from);
        drop(locked);
        self.wait(Some(ticket))
    }

    /// Every account with what it has posted and pending.
    #[must_use]
    pub fn balances(&self) -> Vec<Balance> {
        self.lock().map(|locked| locked.state.ledger.balances()).unwrap_or_default()
    }

    /// The limits of the policy in force; tranches that a person granted come on top.
    #[must_use]
    pub fn limits(&self) -> Arc<Vec<Limit>> {
        self.force().limits.clone()
    }

    /// The factors' scores under the policy in force.
    #[must_use]
    pub fn scores(&self) -> Vec<FactorScore> {
        let policy = self.policy();
        let permitted = pip::permitted(policy.policy());
        let declared = policy.policy().provenance.as_ref().map(|provenance| &provenance.declared);
        self.lock().map(|locked| locked.state.posterior.scores(declared, &permitted)).unwrap_or_default()
    }

    /// The policy in force.
    #[must_use]
    pub fn policy(&self) -> Arc<Compiled> {
        self.force().policy.clone()
    }

    /// Puts another policy into force. Calls in flight keep the decision that they have.
    ///
    /// # Errors
    /// The journal could not record it; the gate is closed then and denies everything.
    pub fn reload(&self, policy: Arc<Compiled>) -> Result<(), GateFault> {
        let next = Arc::new(in_force(policy));
        let mut locked = self.lock().map_err(|reason| JournalFault(reason.detail))?;
        let ticket = self.announce(&mut locked, &next);
        *self.force.write().unwrap_or_else(std::sync::PoisonError::into_inner) = next;
        drop(locked);
        self.wait(ticket)
    }

    /// Journal entries so far.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.lock().map(|locked| locked.state.chain.count()).unwrap_or_default()
    }

    /// Whether the journal still takes entries; the reason when it does not.
    #[must_use]
    pub fn health(&self) -> Option<Reason> {
        self.lock().err()
    }

    /// The newest receipts, newest first: at most `limit`, and of the last 1,000 of all sessions.
    #[must_use]
    pub fn receipts(&self, session: Option<&Name>, limit: usize) -> Vec<Receipt> {
        let Ok(locked) = self.lock() else { return Vec::new() };
        let of_session = |receipt: &&Receipt| session.is_none_or(|session| receipt.session() == session);
        locked.state.recent.iter().rev().filter(of_session).take(limit).cloned().collect()
    }

    /// The receipt of `call`, where it is among the last 1,000 of all sessions.
    #[must_use]
    pub fn receipt(&self, call: &CallId) -> Option<Receipt> {
        let locked = self.lock().ok()?;
        locked.state.recent.iter().rev().find(|receipt| receipt.receipt_id == *call).cloned()
    }

    /// Enters the critical section. What stands in the state then is what the entries so far give, so this is
    /// where a snapshot is taken.
    ///
    /// # Errors
    /// The gate is closed: the journal failed, or a bug poisoned the state.
    pub(super) fn lock(&self) -> Result<Locked<'_>, Reason> {
        let Ok(state) = self.state.lock() else {
            return Err(Reason::new(ReasonCode::Internal, "the gate failed earlier and stays closed"));
        };
        match &state.failed {
            Some(fault) => Err(Reason::new(ReasonCode::JournalFailed, fault.clone())),
            None => {
                let mut locked = Locked { state };
                self.remember(&mut locked, Moment::Running);
                Ok(locked)
            }
        }
    }

    /// Gives the store a snapshot when it wants one.
    fn remember(&self, locked: &mut Locked<'_>, moment: Moment) {
        let since = locked.state.since_snapshot();
        if self.ports.journal.wants_snapshot(since, moment)
            && let Some(snapshot) = locked.state.snapshot(&self.ports.key)
        {
            self.ports.journal.keep(snapshot);
        }
    }

    /// The time of what is done now: never before an entry's, so that what is decided at it is what a fold
    /// of the entries decides.
    pub(super) fn now(&self, locked: &Locked<'_>) -> Timestamp {
        self.ports.clock.now().max(locked.state.chain.last())
    }

    /// Hands an entry of the time `at` to the journal, in the order of the chain. After a failure that is known at once
    /// nothing more is handed over: no entry may follow a gap.
    pub(super) fn write(&self, locked: &mut Locked<'_>, at: Timestamp, body: Body) -> (Digest, Ticket) {
        if locked.state.failed.is_some() {
            return (Digest::ZERO, Ticket::Ready(Err(JournalFault(CLOSED.to_owned()))));
        }
        let sealed = locked.state.chain.append(at, body);
        let hash = sealed.hash;
        let ticket = self.ports.journal.append(sealed);
        if let Ticket::Ready(Err(_)) = &ticket {
            locked.state.failed = Some(CLOSED.to_owned());
        }
        (hash, ticket)
    }

    /// Closes the gate for good: the journal has failed.
    pub(super) fn fail(&self, fault: &JournalFault) -> Reason {
        tracing::error!(fault = %fault, "the journal failed; every call is denied from now on");
        if let Ok(mut state) = self.state.lock() {
            state.failed = Some(CLOSED.to_owned());
        }
        Reason::new(ReasonCode::JournalFailed, CLOSED)
    }

    /// An id for a refusal whose call's own id is taken.
    pub(super) fn fresh_id(&self, id: &CallId) -> CallId {
        let number = self.refusals.fetch_add(1, Ordering::Relaxed);
        let start: String = id.as_str().chars().take(64).collect();
        let at = self.ports.clock.now().0;
        Name::new(format!("{start}.again.{at}.{number}")).unwrap_or_else(|_| id.clone())
    }

    /// How long one host tool may take.
    pub(super) fn tool_deadline(&self) -> Millis {
        self.policy().policy().code.as_ref().map_or(Millis(60_000), |code| code.limits.tool_ms)
    }

    pub(super) fn force(&self) -> Arc<InForce> {
        self.force.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// Records the start: the key of a new journal, reservations that a crash left open, the policy.
    fn begin(&self) -> Result<(), GateFault> {
        let mut locked = self.lock().map_err(|reason| JournalFault(reason.detail))?;
        let mut tickets = Vec::new();
        if locked.state.chain.count() == 0 {
            let key = self.ports.key.public().hex();
            let body = Body::Open { weir: env!("CARGO_PKG_VERSION").to_owned(), key };
            let at = self.now(&locked);
            tickets.push(self.write(&mut locked, at, body).1);
        }
        tickets.extend(self.expire_open(&mut locked));
        tickets.extend(self.announce(&mut locked, &self.force()));
        drop(locked);
        tickets.into_iter().try_for_each(|ticket| self.wait(Some(ticket)))
    }

    /// Records that a policy comes into force, unless it already is.
    fn announce(&self, locked: &mut Locked<'_>, next: &InForce) -> Option<Ticket> {
        let (id, digest) = (next.policy.policy().id.clone(), next.policy.policy().digest);
        let before = locked.state.policy.replace(digest);
        if before == Some(digest) {
            return None;
        }
        let (at, windows) = (self.now(locked), next.watches.clone());
        locked.state.ledger.watch(&windows, at);
        Some(self.write(locked, at, Body::Policy { id, digest, before, windows }).1)
    }

    pub(super) fn wait(&self, ticket: Option<Ticket>) -> Result<(), GateFault> {
        let Some(ticket) = ticket else { return Ok(()) };
        ticket.wait().map_err(|fault| {
            self.fail(&fault);
            fault.into()
        })
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        if let Ok(mut locked) = self.lock() {
            self.remember(&mut locked, Moment::Closing);
        }
    }
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gate").field("policy", &self.policy().policy().id).finish_non_exhaustive()
    }
}

pub(super) fn in_force(policy: Arc<Compiled>) -> InForce {
    let limits = policy.policy().budgets.iter().map(|budget| Limit {
        id: budget.id.clone(),
        tier: budget.scope,
        kind: budget.kind,
        limit: budget.limit,
        window: budget.window,
        shared: budget.shared.is_some(),
    });
    let limits: Vec<Limit> = limits.collect();
    let watches = limits.iter().filter_map(Limit::watch).collect();
    let shared = Shared::all(policy.policy());
    InForce { limits: Arc::new(limits), watches, shared, policy }
}

/// Why the budgets cannot hold what `decision` would reserve, when they cannot.
fn beyond(decision: &Decision, facts: &Facts) -> Option<Reason> {
    let (kind, wanted) = decision.reserve.iter().find(|(kind, wanted)| *wanted > facts.left(*kind))?;
    let (left, row) = (facts.left(kind), kind.row());
    let detail = format!("the budgets of {} have {left} {} left and this needs {wanted}", row.name, row.unit);
    Some(Reason::new(ReasonCode::BudgetExhausted, detail))
}
