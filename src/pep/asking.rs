//! Asking people: a question is on record before anybody sees it, and its answer before anything follows from it.
//!
//! Everything here waits, so all of it stands outside the critical section. A question that the gate could not see to its
//! end (it stopped, it was killed) stays on the docket; the same call, tried again, takes it over or uses its answer.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Gate;
use super::docket::Said;
use super::gate::Locked;
use super::port::{Approval, JournalFault, Ticket};
use super::stage::Ruled;
use crate::audit::{About, Body, Question, Verdict};
use crate::model::{Amounts, Call, Digest, Millis, Name, Reason, ReasonCode, Subject, Timestamp};

/// Questions that one call may put to a person: one for a rule and one for each of its budgets, and as often again as
/// answers are over before they can be used.
const ROUNDS: usize = 32;

/// Questions for whose answer a call of this process waits; no other call may have it.
#[derive(Debug, Default)]
pub(super) struct Attended(Mutex<BTreeSet<Name>>);

impl Attended {
    pub fn has(&self, id: &Name) -> bool {
        self.set().contains(id)
    }

    pub fn add(&self, id: &Name) {
        self.set().insert(id.clone());
    }

    pub fn leave(&self, ids: &[Name]) {
        let mut set = self.set();
        set.retain(|id| !ids.contains(id));
    }

    /// Every operation is one of the set's own, so that a panic elsewhere leaves it whole.
    fn set(&self) -> MutexGuard<'_, BTreeSet<Name>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why an answer was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerFault {
    /// Nothing with this id waits.
    #[error("nothing with this id waits for an answer: it was answered, taken back, or has expired")]
    Gone,
    /// A yes of this form does not fit the question.
    #[error("{0}")]
    Unfit(&'static str),
    /// The journal could not record it.
    #[error("the journal cannot be written; the answer does not count")]
    Unrecorded,
}

/// What a person says to a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Yes; at a budget's cap the tranche that the question names.
    Yes,
    /// Yes at a budget's cap, with a tranche of this many of the budget's unit.
    YesBy(u64),
    /// No.
    No,
}

impl Gate {
    /// Every question that waits for a person, oldest first where their times tell.
    #[must_use]
    pub fn questions(&self) -> Vec<Question> {
        let waiting = |locked: Locked<'_>| {
            let now = self.now(&locked);
            locked.state.docket.all_waiting(now).cloned().collect()
        };
        let mut all: Vec<Question> = self.lock().map(waiting).unwrap_or_default();
        all.sort_by(|a, b| (a.until, &a.id).cmp(&(b.until, &b.id)));
        all
    }

    /// Whether a call of this process waits for the answer to question `id`; otherwise the answer waits for the call.
    #[must_use]
    pub fn is_attended(&self, id: &Name) -> bool {
        self.attended.has(id)
    }

    /// True when a question of the session of `subject` waits, or an answer waits to be used there.
    #[must_use]
    pub fn has_matter(&self, subject: &Subject) -> bool {
        self.lock().is_ok_and(|locked| {
            let now = self.now(&locked);
            locked.state.docket.concerns(subject, now)
        })
    }

    /// The gate's time: its clock's, and never before the last entry.
    #[must_use]
    pub fn time(&self) -> Timestamp {
        self.lock().map_or_else(|_| self.ports.clock.now(), |locked| self.now(&locked))
    }

    /// Answers the question `id`, once; `by` says who and how, for the record. Durable when it returns.
    ///
    /// # Errors
    /// [`AnswerFault`]; the question waits on, except where it was gone.
    pub fn answer(&self, id: &Name, reply: Reply, by: &str) -> Result<Question, AnswerFault> {
        let mut locked = self.lock().map_err(|_| AnswerFault::Unrecorded)?;
        let now = self.now(&locked);
        let question = locked.state.docket.waiting(id, now).cloned().ok_or(AnswerFault::Gone)?;
        let body = answered(&question, reply, by, now.plus(self.patience()))?;
        let ticket = self.enter(&mut locked, body);
        drop(locked);
        match ticket.wait() {
            Ok(()) => Ok(question),
            Err(fault) => {
                self.fail(&fault);
                Err(AnswerFault::Unrecorded)
            }
        }
    }

    /// Asks a person about `call`: who said yes and how, once that is on record. Notes the question in `asked`.
    pub(super) fn ask(
        &self,
        call: &Call,
        ruled: &Ruled,
        about: About,
        asked: &mut Vec<Name>,
    ) -> Result<String, Reason> {
        let said = |code, detail: &str| of(ruled, code, detail);
        if !self.ports.approver.can_ask(call) {
            return Err(nobody(ruled));
        }
        if asked.len() >= ROUNDS {
            let text = format!(
                "a person was asked {ROUNDS} times about this call, and each answer was over before it could run"
            );
            return Err(said(ReasonCode::ApprovalExpired, &text));
        }
        let (question, left) = self.place(call, about, asked)?;
        let why = ruled.decision.reason.to_string();
        // An approver that panics has not said yes.
        let heard = catch_unwind(AssertUnwindSafe(|| self.ports.approver.ask(call, &why, &question, left)));
        match self.heard(&question, heard.unwrap_or(Approval::Unavailable))? {
            Heard::Granted(by) => Ok(by),
            Heard::Refused => Err(said(ReasonCode::ApprovalRefused, "a person was asked and refused")),
            Heard::Expired => Err(said(ReasonCode::ApprovalExpired, "a person was asked and did not answer in time")),
            Heard::Deferred => {
                let text = "a person was asked and has not answered; the question stays open while the gate restarts";
                let instead = "the same call in the same session, once the gate runs again";
                Err(said(ReasonCode::ApprovalPending, text).instead(instead))
            }
            Heard::Nobody => Err(nobody(ruled)),
        }
    }

    /// Puts a question on record, or takes over one that waits; with the time that is left for an answer.
    fn place(&self, call: &Call, about: About, asked: &mut Vec<Name>) -> Result<(Question, Millis), Reason> {
        let mut locked = self.lock()?;
        let now = self.now(&locked);
        let bound = Question::bound(call, about.policy());
        let orphan = |id: &Name| !self.attended.has(id);
        if let Some(question) = locked.state.docket.adoptable(bound, &about, now, orphan).cloned() {
            self.attend(&question.id, asked);
            let left = question.until.since(now);
            return Ok((question, left));
        }
        let patience = self.patience();
        let (seq, prev) = (locked.state.chain.count(), locked.state.chain.head());
        let question = Question::new(call, about, now.plus(patience), seq, prev);
        self.attend(&question.id, asked);
        let ticket = self.enter(&mut locked, Body::Ask { question: Box::new(question.clone()) });
        drop(locked);
        ticket.wait().map_err(|fault| self.fail(&fault))?;
        Ok((question, patience))
    }

    fn attend(&self, id: &Name, asked: &mut Vec<Name>) {
        self.attended.add(id);
        asked.push(id.clone());
    }

    /// What came of a question: what is on record, or else what the approver says, which is recorded now.
    fn heard(&self, question: &Question, said: Approval) -> Result<Heard, Reason> {
        let of = |said: &Said| if said.granted { Heard::Granted(said.by.clone()) } else { Heard::Refused };
        let mut locked = self.lock()?;
        let until = self.now(&locked).plus(self.patience());
        if !locked.state.docket.is_open(&question.id) {
            // An answer that came in the last moment counts; a question that fell off with its time has none.
            return Ok(locked.state.docket.said(&question.id).map_or(Heard::Expired, of));
        }
        let ended = |verdict| Body::Answer { question: question.id.clone(), verdict, by: String::new(), until };
        let (body, heard) = match said {
            Approval::Granted(by) => (answered(question, Reply::Yes, &by, until).ok(), Heard::Granted(by)),
            Approval::Refused => (Some(ended(Verdict::Refused)), Heard::Refused),
            Approval::Expired | Approval::Recorded => (Some(ended(Verdict::Expired)), Heard::Expired),
            Approval::Withdrawn | Approval::Unavailable => (Some(ended(Verdict::Withdrawn)), Heard::Nobody),
            Approval::Deferred => (None, Heard::Deferred),
        };
        let ticket = body.map_or(Ticket::Ready(Ok(())), |body| self.enter(&mut locked, body));
        drop(locked);
        ticket.wait().map_err(|fault| self.fail(&fault))?;
        Ok(heard)
    }

    /// Takes back what an earlier try of `call` asked and nobody waits for: it goes on without the answer, and a yes that
    /// came later would raise a cap for nothing.
    pub(super) fn take_back(&self, locked: &mut Locked<'_>, call: &Call, policy: Digest) {
        if locked.state.docket.is_empty() {
            return;
        }
        let (now, bound) = (self.now(locked), Question::bound(call, policy));
        let moot = |question: &&Question| question.bound == bound && !self.attended.has(&question.id);
        let waiting = locked.state.docket.all_waiting(now);
        let moot: Vec<Name> = waiting.filter(moot).map(|question| question.id.clone()).collect();
        for question in moot {
            let body = Body::Answer { question, verdict: Verdict::Withdrawn, by: String::new(), until: now };
            // Durable before the intent that follows it, or the intent is not either.
            drop(self.enter(locked, body));
        }
    }

    /// Folds an entry of this file into the state and hands it to the journal.
    fn enter(&self, locked: &mut Locked<'_>, body: Body) -> Ticket {
        let at = self.now(locked);
        match locked.state.asked(at, &body) {
            Ok(()) => self.write(locked, at, body).1,
            Err(fault) => Ticket::Ready(Err(JournalFault(fault.to_string()))),
        }
    }

    /// How long an answer is awaited, and how long a yes waits to be used.
    fn patience(&self) -> Millis {
        self.policy().policy().approvals.timeout
    }
}

/// What came of asking.
enum Heard {
    Granted(String),
    Refused,
    Expired,
    Deferred,
    Nobody,
}

/// The entry that answers `question`: a yes at a budget's cap is a raise.
fn answered(question: &Question, reply: Reply, by: &str, until: Timestamp) -> Result<Body, AnswerFault> {
    let verdict = |verdict| Body::Answer { question: question.id.clone(), verdict, by: by.to_owned(), until };
    let About::Budget { budget, account, by: tranche, window, .. } = &question.about else {
        return match reply {
            Reply::No => Ok(verdict(Verdict::Refused)),
            Reply::Yes => Ok(verdict(Verdict::Granted)),
            Reply::YesBy(_) => Err(AnswerFault::Unfit("a rule asks here and not a budget: there is no amount to add")),
        };
    };
    let tranche = match reply {
        Reply::No => return Ok(verdict(Verdict::Refused)),
        Reply::Yes => *tranche,
        Reply::YesBy(0) => {
            return Err(AnswerFault::Unfit("the amount to add is above zero; refuse the question to add nothing"));
        }
        Reply::YesBy(more) => tranche.iter().fold(Amounts::ZERO, |sum, (kind, _)| sum.with(kind, more)),
    };
    let (budget, account, question) = (budget.clone(), account.clone(), Some(question.id.clone()));
    Ok(Body::Raise { budget, account, by: tranche, window: *window, approval: by.to_owned(), question })
}

/// A refusal because of what came of asking about what `ruled` wanted asked.
fn of(ruled: &Ruled, code: ReasonCode, detail: &str) -> Reason {
    let reason = &ruled.decision.reason;
    let rule = reason.rule.clone().unwrap_or_else(|| reason.code.row().name.to_owned());
    Reason::new(code, detail).by(rule, &reason.answers).instead(reason.instead.clone())
}

fn nobody(ruled: &Ruled) -> Reason {
    let detail = format!("{}; nobody can be asked here", ruled.decision.reason.detail);
    of(ruled, ReasonCode::ApprovalUnavailable, &detail)
}

/// What a person said earlier, when it stands against the call.
pub(super) fn refused(ruled: &Ruled) -> Reason {
    of(ruled, ReasonCode::ApprovalRefused, "a person refused this call a moment ago")
}
