//! Decide, reserve, record the intent: one critical section, so that what was decided is what was
//! reserved, under any number of callers. A person is asked outside of it, and the call decided anew.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::gate::{InForce, Locked};
use super::operate::shut;
use super::port::Approval;
use super::stage::{Intended, Ruled};
use super::{Answer, Durable, Gate, Reserved};
use crate::audit::Body;
use crate::ledger::{AccountId, Shortfall};
use crate::model::{
    Amounts, Call, Decision, Digest, Effect, GuestError, Outcome, Reason, ReasonCode, Status, Timestamp,
};
use crate::pdp::{Permit, decide};
use crate::pip;
use crate::policy::Budget;

/// What a person has said about this call so far.
///
/// A yes holds for what was asked about and nothing else: a rule of one policy, or one budget. When
/// the policy or the session has changed meanwhile and another rule asks, the person is asked anew.
#[derive(Debug, Default)]
struct Consent {
    rules: Vec<(Digest, Option<String>)>,
    budgets: Vec<(String, AccountId)>,
    /// Text of the latest approval.
    text: Option<String>,
}

/// What came of one attempt to admit.
enum Attempt {
    Intended(Box<Intended>),
    Refused(Box<Ruled>),
    Ask(Box<Ruled>, Question),
}

/// What a person is asked.
enum Question {
    Rule,
    Budget(Budget, AccountId),
}

impl Gate {
    /// Decides and reserves; asks a person where the policy wants one.
    pub(super) fn decide_and_reserve(&self, call: &Arc<Call>) -> Result<Intended, Box<Answer>> {
        let mut consent = Consent::default();
        loop {
            let attempt = match self.lock() {
                Ok(mut locked) => self.attempt(&mut locked, call, &consent),
                Err(reason) => return Err(self.unrecorded(call, reason)),
            };
            match attempt {
                Attempt::Intended(intended) => return Ok(*intended),
                Attempt::Refused(ruled) => return Err(self.refuse(call, &ruled, consent.text.as_deref())),
                Attempt::Ask(mut ruled, question) => match self.ask(call, &ruled, &question) {
                    Ok(text) => consent.give(&ruled.decision, question, text),
                    Err(reason) => {
                        ruled.decision = Decision { effect: Effect::Deny, reason, ..ruled.decision };
                        return Err(self.refuse(call, &ruled, consent.text.as_deref()));
                    }
                },
            }
        }
    }

    fn attempt(&self, locked: &mut Locked<'_>, call: &Arc<Call>, consent: &Consent) -> Attempt {
        // One reading of the policy for the whole attempt: what decides also limits.
        let force = self.force();
        let ruled = |decision| Box::new(Ruled { decision, force: force.clone() });
        // Before anything else: the id of a call on record must not get a second entry.
        if locked.state.ledger.is_used(&call.id) {
            return Attempt::Refused(Box::new(Ruled::deny(duplicate(), force)));
        }
        if let Some((account, bar)) = locked.state.ledger.closed(&call.subject) {
            return Attempt::Refused(Box::new(Ruled::deny(shut(&account, bar.revoked), force)));
        }
        let now = self.now(locked);
        let session = locked.state.session(&call.subject);
        let facts = pip::gather(&locked.state.ledger, session, &force.limits, &call.subject, now);
        let input = session.and_then(|session| session.last).unwrap_or(Digest::ZERO);

        let decision = decide(&force.policy, &facts, call);
        let permit = match decision.effect {
            Effect::Ask if consent.covers(&decision) => Permit::approved(decision),
            Effect::Ask => return Attempt::Ask(ruled(decision), Question::Rule),
            Effect::Allow | Effect::Deny => Permit::of(decision),
        };
        let permit = match permit {
            Ok(permit) => permit,
            Err(decision) => return Attempt::Refused(ruled(decision)),
        };
        match locked.state.ledger.reserve(&call.id, &call.subject, permit.decision().reserve, &force.limits, now) {
            Ok(reservation) => {
                let (call, approval) = (call.clone(), consent.text.clone());
                let reserved = Reserved { call, permit, reservation, approval, input, force };
                Attempt::Intended(Box::new(self.intend(locked, now, reserved)))
            }
            Err(shortfall) => short(&shortfall, permit.decision(), &force, consent),
        }
    }

    /// Hands the intent to the journal while the section is still held, so that order is kept.
    fn intend(&self, locked: &mut Locked<'_>, now: Timestamp, reserved: Reserved) -> Intended {
        let body = Body::intent(
            &reserved.call,
            reserved.permit.decision().policy,
            reserved.reservation.held(),
            reserved.approval.clone(),
        );
        locked.state.admitted(&reserved.call, reserved.approval.is_some());
        let (intent, ticket) = self.write(locked, now, body);
        // Read under the lock: whoever revokes does so under it, too.
        let revocations = self.revocations.load(Ordering::SeqCst);
        Intended { reserved, intent, ticket, revocations }
    }

    /// Ends a call at once whose account was revoked while its intent became durable.
    fn still_allowed(&self, work: Durable<Reserved>, seen: u64) -> Result<Durable<Reserved>, Box<Answer>> {
        if self.revocations.load(Ordering::SeqCst) == seen {
            return Ok(work);
        }
        let closed = self.lock().ok().and_then(|locked| locked.state.ledger.closed(&work.call().subject));
        let Some((account, _)) = closed.filter(|(_, bar)| bar.revoked) else { return Ok(work) };
        let reason = shut(&account, true);
        let error = GuestError { kind: "Revoked".into(), message: reason.detail.clone(), traceback: String::new() };
        let stopped = Some(ReasonCode::AccountRevoked);
        let mut answer = self.complete(work, Outcome { error: Some(error), stopped, ..Outcome::of(Status::Broken) });
        answer.decision = Decision { effect: Effect::Deny, reason, ..answer.decision };
        answer.outcome = None;
        Err(Box::new(answer))
    }

    /// Waits until the intent is durable.
    pub(super) fn durable(&self, intended: Intended) -> Result<Durable<Reserved>, Box<Answer>> {
        let Intended { reserved, intent, ticket, revocations } = intended;
        match ticket.wait() {
            Ok(()) => self.still_allowed(Durable { inner: reserved, intent }, revocations),
            Err(fault) => {
                let reason = self.fail(&fault);
                Err(self.unrecorded(&reserved.call, reason))
            }
        }
    }

    /// Asks a person; the answer is bound to the call's bytes and the policy.
    fn ask(&self, call: &Call, ruled: &Ruled, question: &Question) -> Result<String, Reason> {
        let decision = &ruled.decision;
        let bound = Digest::of(format!("{} {}", call.digest(), decision.policy).as_bytes());
        let timeout = ruled.force.policy.policy().approvals.timeout;
        let asked = |code, detail: &str| {
            let rule = decision.reason.rule.clone().unwrap_or_else(|| decision.reason.code.row().name.to_owned());
            Reason::new(code, detail).by(rule, &decision.reason.answers).instead(decision.reason.instead.clone())
        };
        let why = decision.reason.to_string();
        // An approver that panics has not said yes.
        let said = catch_unwind(AssertUnwindSafe(|| self.ports.approver.ask(call, &why, bound, timeout)));
        match said.unwrap_or(Approval::Unavailable) {
            Approval::Granted(text) => {
                if let Question::Budget(budget, account) = question {
                    self.raise(budget, account, &text)?;
                }
                Ok(text)
            }
            Approval::Refused => Err(asked(ReasonCode::ApprovalRefused, "a person was asked and refused")),
            Approval::Expired => {
                Err(asked(ReasonCode::ApprovalExpired, "a person was asked and did not answer in time"))
            }
            Approval::Unavailable => {
                let detail = format!("{}; nobody can be asked here", decision.reason.detail);
                Err(asked(ReasonCode::ApprovalUnavailable, &detail))
            }
        }
    }

    /// Records and applies a further tranche of `budget` for the account that had too little left.
    fn raise(&self, budget: &Budget, account: &AccountId, approval: &str) -> Result<(), Reason> {
        let mut locked = self.lock()?;
        let by = Amounts::ZERO.with(budget.kind, budget.limit);
        let ticket = self.grant(&mut locked, budget, account, by, approval);
        drop(locked);
        ticket.wait().map_err(|fault| self.fail(&fault))
    }
}

/// A budget has too little left: a person may grant a further tranche where the policy says so.
fn short(shortfall: &Shortfall, decision: &Decision, force: &Arc<InForce>, consent: &Consent) -> Attempt {
    let ruled = |effect, reason| {
        Box::new(Ruled { decision: Decision { effect, reason, ..decision.clone() }, force: force.clone() })
    };
    let (budget, account, wanted, left, kind) = match shortfall {
        Shortfall::Limit { budget, account, wanted, left, kind } => (budget, account, wanted, left, kind),
        Shortfall::Closed { account, revoked } => {
            return Attempt::Refused(ruled(Effect::Deny, shut(account, *revoked)));
        }
        Shortfall::Duplicate => return Attempt::Refused(ruled(Effect::Deny, duplicate())),
    };
    let known = force.policy.policy().budgets.iter().find(|known| known.id == *budget);
    let over = known.map(|known| known.window).filter(|window| !window.is_total());
    let over = over.map_or_else(String::new, |window| format!(" ({window})"));
    let detail = format!("budget `{budget}`{over} has {left} {} left and this needs {wanted}", kind.row().unit);
    let reason = Reason::new(ReasonCode::BudgetExhausted, detail);
    // A limit without a budget of the policy is the ledger's own: its counters are full.
    let Some(known) = known else {
        return Attempt::Refused(ruled(Effect::Deny, reason));
    };
    let reason = reason.by(format!("budget {budget}"), &known.answers);
    let asked = |(id, whose): &(String, AccountId)| id == budget && whose == account;
    if known.at_cap == Effect::Ask && !consent.budgets.iter().any(asked) {
        return Attempt::Ask(ruled(Effect::Ask, reason), Question::Budget(known.clone(), account.clone()));
    }
    Attempt::Refused(ruled(Effect::Deny, reason))
}

fn duplicate() -> Reason {
    Reason::new(ReasonCode::DuplicateCall, "a call with this id is already on record")
}

impl Consent {
    fn give(&mut self, asked: &Decision, question: Question, text: String) {
        match question {
            Question::Rule => self.rules.push((asked.policy, asked.reason.rule.clone())),
            Question::Budget(budget, account) => self.budgets.push((budget.id, account)),
        }
        self.text = Some(text);
    }

    /// Whether a person has said yes to exactly what `decision` asks.
    fn covers(&self, decision: &Decision) -> bool {
        self.rules.iter().any(|(policy, rule)| *policy == decision.policy && *rule == decision.reason.rule)
    }
}
