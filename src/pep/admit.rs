//! Decide, reserve, record the intent: one critical section, so that what was decided is what was
//! reserved, under any number of callers. A person is asked outside of it, and the call decided anew.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::docket::Said;
use super::gate::Locked;
use super::operate::shut;
use super::pots::Need;
use super::stage::{Intended, Ruled};
use super::{Answer, Durable, Gate, Reserved};
use crate::audit::{About, Body, Question};
use crate::ledger::{AccountId, Shortfall};
use crate::model::{
    Amounts, Call, Decision, Digest, Effect, GuestError, Name, Outcome, Pot, Reason, ReasonCode, Status, Timestamp,
};
use crate::pdp::{Permit, decide};
use crate::pip;
use crate::policy::Budget;

/// What a person was asked about this call so far.
///
/// A yes holds for what was asked about and nothing else: a rule of one policy, or one budget. When
/// the policy or the session has changed meanwhile and another rule asks, the person is asked anew.
#[derive(Debug, Default)]
struct Consent {
    /// Questions that this call put or took over.
    asked: Vec<Name>,
    /// Budgets that a person raised for this call, and whose.
    budgets: Vec<(String, String)>,
    /// Text of the latest approval at a cap.
    text: Option<String>,
    /// Pots that had too little left when this call drew on them, and what.
    dry: Vec<(Pot, u64)>,
    draws: u32,
}

/// How often a call draws at most: others may take what it drew before it comes to reserve.
const DRAWS: u32 = 64;

/// What came of one attempt to admit.
enum Attempt {
    Intended(Box<Intended>),
    Refused(Box<Ruled>),
    Ask(Box<Ruled>, Box<About>),
    /// A budget that several gates share has more, perhaps, than this gate has drawn.
    Draw(Box<Ruled>, Box<Need>),
}

/// The questions of one call, which nobody else may use as long as it is being decided.
struct Attending<'g> {
    gate: &'g Gate,
    consent: Consent,
}

impl Drop for Attending<'_> {
    fn drop(&mut self) {
        self.gate.attended.leave(&self.consent.asked);
    }
}

impl Gate {
    /// Decides and reserves; asks a person where the policy wants one.
    pub(super) fn decide_and_reserve(&self, call: &Arc<Call>) -> Result<Intended, Box<Answer>> {
        let mut attending = Attending { gate: self, consent: Consent::default() };
        let consent = &mut attending.consent;
        loop {
            let attempt = match self.lock() {
                Ok(mut locked) => self.attempt(&mut locked, call, consent),
                Err(reason) => return Err(self.unrecorded(call, reason)),
            };
            let refused = match attempt {
                Attempt::Intended(intended) => return Ok(*intended),
                Attempt::Refused(ruled) => ruled,
                Attempt::Draw(ruled, need) => match self.draw(&need) {
                    Ok(left) => {
                        consent.drew(&need.pot, left);
                        continue;
                    }
                    Err(reason) => ruled.but(Effect::Deny, reason),
                },
                Attempt::Ask(ruled, about) => {
                    let budget = budget_of(&about);
                    match self.ask(call, &ruled, *about, &mut consent.asked) {
                        Ok(by) => {
                            consent.give(budget, by);
                            continue;
                        }
                        Err(reason) => ruled.but(Effect::Deny, reason),
                    }
                }
            };
            if consent.draws > 0 {
                // Whatever ended it: what was drawn for this call is not used by it.
                self.give_back(&refused.force, &call.subject, &refused.decision.reserve);
            }
            return Err(self.refuse(call, &refused, consent.text.as_deref()));
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
        let limits = self.hinted(locked, &force, &call.subject, now);
        let facts = pip::gather(&locked.state.ledger, session, &limits, &call.subject, now);
        let input = session.and_then(|session| session.last).unwrap_or(Digest::ZERO);

        let decision = decide(&force.policy, &facts, call);
        let mut used = None;
        let permit = match decision.effect {
            Effect::Ask => {
                let about = About::Rule { policy: decision.policy, rule: decision.reason.rule.clone() };
                match self.standing(locked, call, &about, consent) {
                    Some((id, said)) if said.granted => used = Some((id, said.by)),
                    Some(_) => return Attempt::Refused(refused(ruled(decision))),
                    None => return Attempt::Ask(ruled(decision), Box::new(about)),
                }
                Permit::approved(decision)
            }
            Effect::Allow | Effect::Deny => Permit::of(decision),
        };
        let permit = match permit {
            Ok(permit) => permit,
            Err(decision) => return Attempt::Refused(ruled(decision)),
        };
        if let Some(reason) = self.unusable(&force, &permit.decision().reserve) {
            return Attempt::Refused(Box::new(Ruled::of(permit, force)).but(Effect::Deny, reason));
        }
        match locked.state.ledger.reserve(&call.id, &call.subject, permit.decision().reserve, &force.limits, now) {
            Ok(reservation) => {
                let (question, text) = used.unzip();
                let (call, approval) = (call.clone(), text.or_else(|| consent.text.clone()));
                let args = None;
                let reserved = Reserved { call, permit, reservation, approval, question, input, force, args };
                Attempt::Intended(Box::new(self.intend(locked, now, reserved)))
            }
            Err(shortfall) => {
                let ruled = Box::new(Ruled::of(permit, force));
                match self.need(&ruled.force, &shortfall, now).filter(|need| consent.may_draw(&need.pot)) {
                    Some(need) => Attempt::Draw(ruled, Box::new(need)),
                    None => self.short(locked, call, &shortfall, ruled, consent),
                }
            }
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
        let body = body.using(reserved.question.clone());
        self.take_back(locked, &reserved.call, reserved.permit.decision().policy);
        locked.state.admitted(&reserved.call, reserved.approval.is_some(), reserved.question.as_ref());
        let lasts = reserved.call.action.outlives().then(|| body.clone());
        let (intent, ticket) = self.write(locked, now, body);
        if let Some(body) = lasts {
            locked.state.lasts(&body);
            self.watched.begin(&reserved.call.id);
        }
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

    /// What a person has said to a question `about` this call that it may use, or that stands against it.
    fn standing(&self, locked: &Locked<'_>, call: &Call, about: &About, consent: &Consent) -> Option<(Name, Said)> {
        let bound = Question::bound(call, about.policy());
        // What another call waits for is that call's; what nobody waits for is for whoever comes first.
        let usable = |id: &Name| consent.asked.contains(id) || !self.attended.has(id);
        let found = locked.state.docket.standing(bound, about, self.now(locked), usable);
        found.map(|(id, said)| (id.clone(), said.clone()))
    }

    /// A budget has too little left: a person may grant a further tranche where the policy says so.
    fn short(
        &self,
        locked: &Locked<'_>,
        call: &Call,
        shortfall: &Shortfall,
        ruled: Box<Ruled>,
        consent: &Consent,
    ) -> Attempt {
        let (budget, account, wanted, left, kind) = match shortfall {
            Shortfall::Limit { budget, account, wanted, left, kind } => (budget, account, wanted, left, kind),
            Shortfall::Closed { account, revoked } => {
                return Attempt::Refused(ruled.but(Effect::Deny, shut(account, *revoked)));
            }
            Shortfall::Duplicate => return Attempt::Refused(ruled.but(Effect::Deny, duplicate())),
        };
        let policy = ruled.force.policy.clone();
        let known = policy.policy().budgets.iter().find(|known| known.id == *budget);
        let over = known.map(|known| known.window).filter(|window| !window.is_total());
        let over = over.map_or_else(String::new, |window| format!(" ({window})"));
        // What there is at all, of which this gate alone may know less.
        let left = consent.left(budget, account).unwrap_or(*left);
        let detail = format!("budget `{budget}`{over} has {left} {} left and this needs {wanted}", kind.row().unit);
        let reason = Reason::new(ReasonCode::BudgetExhausted, detail);
        // A limit without a budget of the policy is the ledger's own: its counters are full.
        let Some(known) = known else {
            return Attempt::Refused(ruled.but(Effect::Deny, reason));
        };
        let reason = reason.by(format!("budget {budget}"), &known.answers);
        let raised = |(id, whose): &(String, String)| id == budget && whose == account.as_str();
        if known.at_cap != Effect::Ask || consent.budgets.iter().any(raised) {
            return Attempt::Refused(ruled.but(Effect::Deny, reason));
        }
        let ruled = ruled.but(Effect::Ask, reason);
        let about = at_cap(known, account, ruled.decision.policy);
        match self.standing(locked, call, &about, consent) {
            Some((_, said)) if !said.granted => Attempt::Refused(refused(ruled)),
            _ => Attempt::Ask(ruled, Box::new(about)),
        }
    }
}

/// The question at the cap of `budget`: a further tranche for the account that has too little left.
fn at_cap(budget: &Budget, account: &AccountId, policy: Digest) -> About {
    let (by, account) = (Amounts::ZERO.with(budget.kind, budget.limit), account.to_string());
    About::Budget { policy, budget: budget.id.clone(), account, by, window: budget.window }
}

fn budget_of(about: &About) -> Option<(String, String)> {
    match about {
        About::Budget { budget, account, .. } => Some((budget.clone(), account.clone())),
        About::Rule { .. } => None,
    }
}

/// A refusal because a person said no to the same call and that still counts.
fn refused(ruled: Box<Ruled>) -> Box<Ruled> {
    let reason = super::asking::refused(&ruled);
    ruled.but(Effect::Deny, reason)
}

fn duplicate() -> Reason {
    Reason::new(ReasonCode::DuplicateCall, "a call with this id is already on record")
}

impl Consent {
    /// Notes what came of a draw: `left` where that was too little.
    fn drew(&mut self, pot: &Pot, left: Option<u64>) {
        self.draws += 1;
        self.dry.extend(left.map(|left| (pot.clone(), left)));
    }

    fn may_draw(&self, pot: &Pot) -> bool {
        self.draws < DRAWS && !self.dry.iter().any(|(dry, _)| dry == pot)
    }

    fn left(&self, budget: &str, account: &AccountId) -> Option<u64> {
        let own = |(pot, _): &&(Pot, u64)| pot.budget == budget && pot.account == account.as_str();
        self.dry.iter().find(own).map(|(_, left)| *left)
    }

    /// Notes a yes; at a cap it is used up by the raise that it was.
    fn give(&mut self, budget: Option<(String, String)>, by: String) {
        if let Some(budget) = budget {
            self.dry.retain(|(pot, _)| pot.budget != budget.0);
            self.budgets.push(budget);
            self.text = Some(by);
        }
    }
}
