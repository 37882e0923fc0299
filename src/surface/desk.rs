//! The desk: where a person answers what the policy asks about.
//!
//! It is the gate's approver and the operator's list at once. A question is on the gate's docket before it comes here,
//! and its answer before whoever waits is told; what must be shown and may not be on record lies in the drawer. The desk
//! answers only while a surface with an operator's token serves it; the agent cannot reach it.

use std::collections::{HashMap, VecDeque};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::card::{Asked, Sheet};
use super::lock;
use crate::model::{Call, CallId, Millis, Name, Timestamp};
use crate::pep::port::{Approval, Approver, Drawer, Question};
use crate::pep::{AnswerFault, Gate, Reply};

/// Questions for which calls wait at the same time.
const PENDING: usize = 64;
/// Questions of one session within [`WINDOW`]; more is a flood meant to tire the person out.
const PER_SESSION: usize = 10;
/// The time over which questions of a session are counted.
const WINDOW: Duration = Duration::from_secs(60);
/// The longest that a call waits.
const LONGEST: u64 = 24 * 3_600_000;

/// A desk; clones are the same desk.
#[derive(Clone, Default)]
pub struct Desk(Arc<Inner>);

#[derive(Default)]
struct Inner {
    table: Mutex<Table>,
    drawer: Option<Box<dyn Drawer>>,
}

#[derive(Default)]
struct Table {
    open: bool,
    waiting: HashMap<Name, Waiting>,
    asked: HashMap<Name, VecDeque<Instant>>,
}

/// A call that waits.
struct Waiting {
    sheet: Sheet,
    call: CallId,
    parent: Option<CallId>,
    reply: Sender<Approval>,
}

/// What became of an operator's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answered {
    /// It is on record.
    Taken,
    /// Nothing with this id waits: unknown, already answered, or expired.
    Gone,
    /// It cannot be approved because it cannot be shown whole; it still waits.
    NotApprovable,
    /// The answer does not fit the question, which still waits; or it could not be recorded.
    Failed(AnswerFault),
}

impl Desk {
    /// A desk whose questions can be shown after a restart: what they need for that is kept in `drawer`.
    #[must_use]
    pub fn keeping(drawer: Box<dyn Drawer>) -> Self {
        Self(Arc::new(Inner { table: Mutex::default(), drawer: Some(drawer) }))
    }

    /// Lets the desk take questions. What the drawer keeps of others than the gate's is forgotten.
    pub(crate) fn open(&self, gate: &Gate) {
        if let Some(drawer) = &self.0.drawer {
            let waiting: Vec<Name> = gate.questions().into_iter().map(|question| question.id).collect();
            drawer.keep_only(&waiting);
        }
        lock(&self.0.table).open = true;
    }

    /// Lets go of every call that waits and takes no more; the questions stay on the docket.
    pub(crate) fn shut(&self) {
        let mut table = lock(&self.0.table);
        table.open = false;
        table.waiting.drain().for_each(|(_, waiting)| drop(waiting.reply.send(Approval::Deferred)));
    }

    /// What waits for an answer at `gate`: what ends first stands first.
    #[must_use]
    pub fn list(&self, gate: &Gate) -> Vec<Asked> {
        let now = gate.time();
        let card = |question: Question| {
            let expires_in_ms = question.until.since(now).0;
            self.card(gate, &question).map(|card| Asked { expires_in_ms, ..card })
        };
        gate.questions().into_iter().filter_map(card).collect()
    }

    /// The cards of `questions` for which no call waits, at the time `now`: those of a store that no gate uses.
    #[must_use]
    pub fn cards(&self, questions: &[Question], now: Timestamp) -> Vec<Asked> {
        let card = |question: &Question| Asked { expires_in_ms: question.until.since(now).0, ..self.kept(question) };
        questions.iter().map(card).collect()
    }

    /// Answers the question `id` of `gate`, once; `by` says who, for the record.
    #[must_use]
    pub fn answer(&self, gate: &Gate, id: &Name, reply: Reply, by: &str) -> Answered {
        let question = gate.questions().into_iter().find(|question| question.id == *id);
        match question.and_then(|question| self.card(gate, &question)) {
            None => return Answered::Gone,
            Some(card) if reply != Reply::No && !card.approvable => return Answered::NotApprovable,
            Some(_) => {}
        }
        match gate.answer(id, reply, by) {
            Ok(_) => {
                if let Some(waiting) = lock(&self.0.table).waiting.remove(id) {
                    drop(waiting.reply.send(Approval::Recorded));
                }
                self.forget(id);
                Answered::Taken
            }
            Err(AnswerFault::Gone) => Answered::Gone,
            Err(fault) => Answered::Failed(fault),
        }
    }

    /// Lets go of what waits about a call and of the calls made inside it; the questions stay on the docket and wait
    /// for the same call.
    pub(crate) fn defer(&self, call: &CallId) {
        let of = |waiting: &Waiting| waiting.call == *call || waiting.parent.as_ref() == Some(call);
        let mut table = lock(&self.0.table);
        let gone = table.waiting.extract_if(|_, waiting| of(waiting));
        gone.for_each(|(_, waiting)| drop(waiting.reply.send(Approval::Deferred)));
    }

    /// Takes back the questions of a call and of the calls made inside it: whoever asked is gone.
    pub(crate) fn withdraw(&self, call: &CallId) {
        let of = |waiting: &Waiting| waiting.call == *call || waiting.parent.as_ref() == Some(call);
        let mut table = lock(&self.0.table);
        let gone = table.waiting.extract_if(|_, waiting| of(waiting));
        gone.for_each(|(_, waiting)| drop(waiting.reply.send(Approval::Withdrawn)));
    }

    /// The card of a question; `None` for one that is being put, or taken away, at this moment.
    fn card(&self, gate: &Gate, question: &Question) -> Option<Asked> {
        if let Some(waiting) = lock(&self.0.table).waiting.get(&question.id) {
            return Some(Asked { attended: true, ..Asked::of(question, Some(&waiting.sheet)) });
        }
        if gate.is_attended(&question.id) {
            return None;
        }
        Some(self.kept(question))
    }

    fn kept(&self, question: &Question) -> Asked {
        let kept = self.0.drawer.as_ref().and_then(|drawer| drawer.get(&question.id));
        Asked::of(question, kept.and_then(|text| Sheet::read(&text, question)).as_ref())
    }

    fn forget(&self, id: &Name) {
        if let Some(drawer) = &self.0.drawer {
            drawer.remove(id);
        }
    }

    /// Puts a question on the desk.
    fn put(&self, call: &Call, why: &str, question: &Question) -> Option<Receiver<Approval>> {
        let sheet = Sheet::of(call, why);
        if let Some(drawer) = &self.0.drawer
            && let Err(fault) = drawer.put(&question.id, &sheet.text())
        {
            tracing::error!(%fault, "what a person must see cannot be kept, so that nobody is asked");
            return None;
        }
        let mut table = lock(&self.0.table);
        if !table.has_room(&call.subject.session) {
            return None;
        }
        table.count(&call.subject.session);
        let (reply, answer) = channel();
        let (id, call, parent) = (question.id.clone(), call.id.clone(), call.parent.clone());
        table.waiting.insert(id, Waiting { sheet, call, parent, reply });
        Some(answer)
    }
}

impl Approver for Desk {
    fn can_ask(&self, call: &Call) -> bool {
        lock(&self.0.table).has_room(&call.subject.session)
    }

    fn ask(&self, call: &Call, why: &str, question: &Question, timeout: Millis) -> Approval {
        let Some(answer) = self.put(call, why, question) else {
            self.forget(&question.id);
            return Approval::Unavailable;
        };
        let id = &question.id;
        tracing::info!(approval = %id, resource = %call.resource.name, "a person is asked");
        let timeout = Duration::from_millis(timeout.0.min(LONGEST));
        let said = super::http::outside(|| answer.recv_timeout(timeout));
        // An answer that came in the last moment is taken out together with the entry: it either
        // counted (it is in the channel) or the operator is told that nothing waits.
        lock(&self.0.table).waiting.remove(id);
        let said = match (said, answer.try_recv()) {
            (Ok(approval), _) | (_, Ok(approval)) => approval,
            (Err(RecvTimeoutError::Timeout), _) => Approval::Expired,
            (Err(RecvTimeoutError::Disconnected), _) => Approval::Unavailable,
        };
        if said != Approval::Deferred {
            self.forget(id);
        }
        said
    }
}

impl Table {
    /// Whether a question of `session` may be put.
    fn has_room(&mut self, session: &Name) -> bool {
        let now = Instant::now();
        self.asked.retain(|_, times| {
            times.retain(|time| now.duration_since(*time) < WINDOW);
            !times.is_empty()
        });
        let of_session = self.asked.get(session).map_or(0, VecDeque::len);
        self.open && self.waiting.len() < PENDING && of_session < PER_SESSION
    }

    /// Counts a question of `session`.
    fn count(&mut self, session: &Name) {
        self.asked.entry(session.clone()).or_default().push_back(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Action, Digest, Resource, Subject};
    use crate::pep::port::About;

    fn call(session: &str, id: &str) -> Call {
        let name = |text: &str| Name::new(text).unwrap();
        let (org, agent, session, run) = (name("org"), name("agent"), name(session), name("run"));
        let subject = Subject { org, agent, session, run, delegation: Vec::new(), project: None };
        let resource = Resource::named(name("shell"));
        let args = serde_json::Map::new();
        Call { id: name(id), subject, action: Action::ToolCall, resource, args, parent: None, surface: name("http") }
    }

    fn opened() -> Desk {
        let desk = Desk::default();
        lock(&desk.0.table).open = true;
        desk
    }

    fn said(desk: &Desk, call: &Call, ms: u64) -> Approval {
        let about = About::Rule { policy: Digest::ZERO, rule: None };
        let seq = u64::from(call.id.as_str().as_bytes()[0]);
        let question = Question::new(call, about, Timestamp(ms), seq, Digest::of(call.id.as_str().as_bytes()));
        desk.ask(call, "rule x asks", &question, Millis(ms))
    }

    fn ask(desk: &Desk, call: Call) -> std::thread::JoinHandle<Approval> {
        let waiting = |desk: &Desk| lock(&desk.0.table).waiting.len();
        let (before, asked) = (waiting(desk), desk.clone());
        let thread = std::thread::spawn(move || said(&asked, &call, 60_000));
        while waiting(desk) == before && !thread.is_finished() {
            std::thread::yield_now();
        }
        thread
    }

    #[test]
    fn a_question_expires_to_no_and_is_taken_back_with_its_call() {
        assert_eq!(said(&Desk::default(), &call("s", "a"), 1000), Approval::Unavailable, "nobody serves it");
        let desk = opened();
        assert_eq!(said(&desk, &call("s", "b"), 10), Approval::Expired);
        let thread = ask(&desk, call("s", "c"));
        desk.withdraw(&Name::new("c").unwrap());
        assert_eq!(thread.join().unwrap(), Approval::Withdrawn);
        assert!(lock(&desk.0.table).waiting.is_empty());
    }

    #[test]
    fn a_flood_of_questions_is_not_put_before_the_person() {
        let desk = opened();
        let asks: Vec<_> = (0..PER_SESSION).map(|n| ask(&desk, call("s", &format!("c{n}")))).collect();
        assert!(!desk.can_ask(&call("s", "more")) && desk.can_ask(&call("t", "other")));
        assert_eq!(said(&desk, &call("s", "more"), 60_000), Approval::Unavailable);
        let other = ask(&desk, call("t", "other"));
        desk.shut();
        assert!(asks.into_iter().all(|thread| thread.join().unwrap() == Approval::Deferred), "the gate stops");
        assert_eq!(other.join().unwrap(), Approval::Deferred);
        assert!(!desk.can_ask(&call("u", "late")));
    }
}
