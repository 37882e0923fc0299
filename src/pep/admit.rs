//! Decide, reserve, record the intent: one critical section, so that what was decided is what was
//! reserved, under any number of callers. A person is asked outside of it, and the call decided anew.

use super::gate::Locked;
use super::port::Approval;
use super::stage::Intended;
use super::{Answer, Durable, Gate, Reserved};
use crate::audit::Body;
use crate::ledger::{AccountId, Shortfall};
use crate::model::{Call, Decision, Digest, Effect, Reason, ReasonCode};
use crate::pdp::{Permit, decide};
use crate::pip;
use crate::policy::Budget;

/// What a person has said about this call so far.
#[derive(Debug, Default)]
struct Consent {
    /// Text of the approval that lifts an ask of the rules.
    rule: Option<String>,
    /// Text of the approval that raised a budget.
    budget: Option<String>,
}

/// What came of one attempt to admit.
enum Attempt {
    Intended(Box<Intended>),
    Refused(Box<Decision>),
    Ask(Box<Decision>, Question),
}

/// What a person is asked.
enum Question {
    Rule,
    Budget(Budget),
}

impl Gate {
    /// Decides and reserves; asks a person where the policy wants one.
    pub(super) fn decide_and_reserve(&self, call: Call) -> Result<Intended, Box<Answer>> {
        let mut consent = Consent::default();
        loop {
            let attempt = match self.lock() {
                Ok(mut locked) => self.attempt(&mut locked, &call, &consent),
                Err(reason) => return Err(self.unrecorded(&call, reason)),
            };
            match attempt {
                Attempt::Intended(intended) => return Ok(*intended),
                Attempt::Refused(decision) => return Err(self.refuse(call, *decision, consent.text())),
                Attempt::Ask(decision, question) => match self.ask(&call, &decision, &question) {
                    Ok(text) => consent.give(question, text),
                    Err(reason) => {
                        let decision = Decision { effect: Effect::Deny, reason, ..*decision };
                        return Err(self.refuse(call, decision, consent.text()));
                    }
                },
            }
        }
    }

    fn attempt(&self, locked: &mut Locked<'_>, call: &Call, consent: &Consent) -> Attempt {
        let policy = self.policy();
        let path = AccountId::path(&call.subject);
        let in_force = self.limits();
        let limits = locked.state.raised(&in_force, &path);
        let session = locked.state.sessions.get(&call.subject.session);
        let facts = pip::gather(&locked.state.ledger, session, &limits, call);
        let input = session.and_then(|session| session.last).unwrap_or(Digest::ZERO);

        let decision = decide(&policy, &facts, call);
        let permit = match (decision.effect, &consent.rule) {
            (Effect::Ask, None) => return Attempt::Ask(Box::new(decision), Question::Rule),
            (Effect::Ask, Some(_)) => Permit::approved(decision),
            (Effect::Allow | Effect::Deny, _) => Permit::of(decision),
        };
        let permit = match permit {
            Ok(permit) => permit,
            Err(decision) => return Attempt::Refused(Box::new(decision)),
        };
        match locked.state.ledger.reserve(&call.id, &call.subject, permit.decision().reserve, &limits) {
            Ok(reservation) => {
                let approval = consent.text();
                let reserved = Reserved { call: call.clone(), permit, reservation, approval, input };
                Attempt::Intended(Box::new(self.intend(locked, reserved)))
            }
            Err(shortfall) => self.short(&shortfall, permit.decision().clone(), consent),
        }
    }

    /// Hands the intent to the journal while the section is still held, so that order is kept.
    fn intend(&self, locked: &mut Locked<'_>, reserved: Reserved) -> Intended {
        let body = Body::intent(
            &reserved.call,
            reserved.permit.decision().policy,
            reserved.reservation.held(),
            reserved.approval.clone(),
        );
        locked.state.admitted(&reserved.call, reserved.approval.is_some());
        let (intent, ticket) = self.write(locked, body);
        Intended { reserved, intent, ticket }
    }

    /// Waits until the intent is durable.
    pub(super) fn durable(&self, intended: Intended) -> Result<Durable<Reserved>, Box<Answer>> {
        let Intended { reserved, intent, ticket } = intended;
        match ticket.wait() {
            Ok(()) => Ok(Durable { inner: reserved, intent }),
            Err(fault) => {
                let reason = self.fail(&fault);
                Err(self.unrecorded(&reserved.call, reason))
            }
        }
    }

    /// A budget has too little left: a person may grant a further tranche where the policy says so.
    fn short(&self, shortfall: &Shortfall, decision: Decision, consent: &Consent) -> Attempt {
        let refused =
            |reason| Attempt::Refused(Box::new(Decision { effect: Effect::Deny, reason, ..decision.clone() }));
        let Shortfall::Limit { budget, wanted, left, kind, .. } = shortfall else {
            return refused(Reason::new(ReasonCode::DuplicateCall, "a call with this id is already on record"));
        };
        let policy = self.policy();
        let Some(known) = policy.policy().budgets.iter().find(|known| known.id == *budget) else {
            return refused(Reason::new(ReasonCode::Internal, "a limit without a budget"));
        };
        let detail = format!("budget `{budget}` has {left} {} left and this needs {wanted}", kind.row().unit);
        let reason = Reason::new(ReasonCode::BudgetExhausted, detail).by(format!("budget {budget}"), &known.answers);
        if known.at_cap == Effect::Ask && consent.budget.is_none() {
            return Attempt::Ask(Box::new(Decision { reason, ..decision }), Question::Budget(known.clone()));
        }
        refused(reason)
    }

    /// Asks a person; the answer is bound to the call's bytes and the policy.
    fn ask(&self, call: &Call, decision: &Decision, question: &Question) -> Result<String, Reason> {
        let bound = Digest::of(format!("{} {}", call.digest(), decision.policy).as_bytes());
        let timeout = self.policy().policy().approvals.timeout;
        let asked = |code, detail: &str| {
            let rule = decision.reason.rule.clone().unwrap_or_else(|| decision.reason.code.row().name.to_owned());
            Reason::new(code, detail).by(rule, &decision.reason.answers).instead(decision.reason.instead.clone())
        };
        match self.ports.approver.ask(call, &decision.reason.to_string(), bound, timeout) {
            Approval::Granted(text) => {
                if let Question::Budget(budget) = question {
                    self.raise(call, budget, &text)?;
                }
                Ok(text)
            }
            Approval::Refused => Err(asked(ReasonCode::ApprovalRefused, "a person was asked and refused")),
            Approval::Expired => {
                Err(asked(ReasonCode::ApprovalExpired, "a person was asked and did not answer in time"))
            }
            Approval::Unavailable => {
                let detail = format!("a person must approve this and nobody can be asked ({})", decision.reason);
                Err(asked(ReasonCode::ApprovalUnavailable, &detail))
            }
        }
    }

    /// Records and applies a further tranche of `budget` for the account that the call drew on.
    fn raise(&self, call: &Call, budget: &Budget, approval: &str) -> Result<(), Reason> {
        let path = AccountId::path(&call.subject);
        let account = path.get(super::gate::tier(budget.scope) as usize).map(ToString::to_string).unwrap_or_default();
        let mut locked = self.lock()?;
        locked.state.raise(&budget.id, &account, budget.limit);
        let body = Body::Raise { budget: budget.id.clone(), account, by: budget.limit, approval: approval.to_owned() };
        let (_, ticket) = self.write(&mut locked, body);
        drop(locked);
        ticket.wait().map_err(|fault| self.fail(&fault))
    }
}

impl Consent {
    fn give(&mut self, question: Question, text: String) {
        match question {
            Question::Rule => self.rule = Some(text),
            Question::Budget(_) => self.budget = Some(text),
        }
    }

    fn text(&self) -> Option<String> {
        self.rule.clone().or_else(|| self.budget.clone())
    }
}
