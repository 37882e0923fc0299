//! The desk: where a person answers what the policy asks about.
//!
//! It is the gate's approver and the operator's list at once. An entry is built from the parsed call,
//! shown escaped and whole or not at all approvable, answered once, and gone when its time is over.
//! The desk answers only while a surface with an operator's token serves it; the agent cannot reach it.

use std::collections::{HashMap, VecDeque};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::Value;

use super::{lock, visible};
use crate::model::{Call, CallId, Digest, Millis, Name};
use crate::pep::port::{Approval, Approver};

/// Entries that wait at the same time.
const PENDING: usize = 64;
/// Questions of one session within [`WINDOW`]; more is a flood meant to tire the person out.
const PER_SESSION: usize = 10;
/// The time over which questions of a session are counted.
const WINDOW: Duration = Duration::from_secs(60);
/// Bytes of arguments that are shown; a call with more cannot be approved, only refused.
const SHOWN_ARGS: usize = 16 << 10;
/// Bytes of every other text shown.
const SHOWN_TEXT: usize = 400;

/// A desk; clones are the same desk.
#[derive(Clone, Default)]
pub struct Desk(Arc<Mutex<Table>>);

#[derive(Default)]
struct Table {
    open: bool,
    next: u64,
    waiting: HashMap<String, Waiting>,
    asked: HashMap<Name, VecDeque<Instant>>,
}

struct Waiting {
    number: u64,
    entry: Asked,
    call: CallId,
    parent: Option<CallId>,
    until: Instant,
    reply: Sender<Approval>,
}

/// One question, as the operator sees it. Every text is escaped and bounded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Asked {
    /// The id to answer with: 128 random bits, used once.
    pub id: String,
    /// The agent.
    pub agent: Name,
    /// The session.
    pub session: Name,
    /// The action.
    pub action: &'static str,
    /// The tool, module, peer, model or package.
    pub resource: Name,
    /// The arguments as indented JSON.
    pub args: String,
    /// Why the policy asks.
    pub why: String,
    /// Digest of the call and the policy that an approval is for.
    pub digest: Digest,
    /// False when the arguments are too long to be shown whole: it can only be refused.
    pub approvable: bool,
    /// Things a reader should know: characters outside ASCII, arguments cut.
    pub notes: Vec<&'static str>,
    /// Milliseconds until it counts as not answered.
    pub expires_in_ms: u64,
}

/// What became of an operator's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answered {
    /// It reached the gate.
    Taken,
    /// Nothing with this id waits: unknown, already answered, or expired.
    Gone,
    /// It cannot be approved because it cannot be shown whole; it still waits.
    NotApprovable,
}

impl Desk {
    /// Lets the desk take questions.
    pub(crate) fn open(&self) {
        lock(&self.0).open = true;
    }

    /// Ends every question as unavailable and takes no more.
    pub(crate) fn shut(&self) {
        let mut table = lock(&self.0);
        table.open = false;
        table.waiting.drain().for_each(|(_, waiting)| drop(waiting.reply.send(Approval::Unavailable)));
    }

    /// What waits for an answer, oldest first.
    #[must_use]
    pub fn list(&self) -> Vec<Asked> {
        let now = Instant::now();
        let table = lock(&self.0);
        let mut waiting: Vec<&Waiting> = table.waiting.values().filter(|waiting| waiting.until > now).collect();
        waiting.sort_by_key(|waiting| waiting.number);
        let left = |waiting: &Waiting| u64::try_from((waiting.until - now).as_millis()).unwrap_or(u64::MAX);
        waiting.into_iter().map(|w| Asked { expires_in_ms: left(w), ..w.entry.clone() }).collect()
    }

    /// Answers the question `id`, once.
    #[must_use]
    pub fn answer(&self, id: &str, approve: bool) -> Answered {
        let mut table = lock(&self.0);
        let Some(waiting) = table.waiting.get(id).filter(|waiting| waiting.until > Instant::now()) else {
            return Answered::Gone;
        };
        if approve && !waiting.entry.approvable {
            return Answered::NotApprovable;
        }
        let approval = if approve { Approval::Granted(format!("operator, approval {id}")) } else { Approval::Refused };
        match table.waiting.remove(id).map(|waiting| waiting.reply.send(approval)) {
            Some(Ok(())) => Answered::Taken,
            _ => Answered::Gone,
        }
    }

    /// Takes back the questions of a call and of the calls made inside it: whoever asked is gone.
    pub(crate) fn withdraw(&self, call: &CallId) {
        let of = |waiting: &Waiting| waiting.call == *call || waiting.parent.as_ref() == Some(call);
        let mut table = lock(&self.0);
        let gone = table.waiting.extract_if(|_, waiting| of(waiting));
        gone.for_each(|(_, waiting)| drop(waiting.reply.send(Approval::Unavailable)));
    }

    /// Puts a question on the desk.
    fn put(&self, call: &Call, why: &str, bound: Digest, timeout: Duration) -> Option<(String, Receiver<Approval>)> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).ok()?;
        let entry = Asked::of(hex::encode(bytes), call, why, bound);
        let mut table = lock(&self.0);
        if !table.open || table.waiting.len() >= PENDING || !table.within_rate(&call.subject.session) {
            return None;
        }
        let (reply, answer) = channel();
        let id = entry.id.clone();
        table.next += 1;
        let (call, parent, number) = (call.id.clone(), call.parent.clone(), table.next);
        let until = Instant::now() + timeout;
        table.waiting.insert(id.clone(), Waiting { number, entry, call, parent, until, reply });
        Some((id, answer))
    }
}

impl Approver for Desk {
    fn ask(&self, call: &Call, why: &str, bound: Digest, timeout: Millis) -> Approval {
        let timeout = Duration::from_millis(timeout.0.min(24 * 3_600_000));
        let Some((id, answer)) = self.put(call, why, bound, timeout) else {
            return Approval::Unavailable;
        };
        tracing::info!(approval = %id, resource = %call.resource.name, "a person is asked");
        let said = super::http::outside(|| answer.recv_timeout(timeout));
        if let Ok(approval) = said {
            return approval;
        }
        // An answer that came in the last moment is taken out together with the entry: it either
        // counted (it is in the channel) or the operator is told that nothing waits.
        lock(&self.0).waiting.remove(&id);
        match answer.try_recv() {
            Ok(approval) => approval,
            Err(_) if said == Err(RecvTimeoutError::Timeout) => Approval::Expired,
            Err(_) => Approval::Unavailable,
        }
    }
}

impl Table {
    /// Counts a question of `session`; false when it has asked too often of late.
    fn within_rate(&mut self, session: &Name) -> bool {
        let now = Instant::now();
        self.asked.retain(|_, times| {
            times.retain(|time| now.duration_since(*time) < WINDOW);
            !times.is_empty()
        });
        let times = self.asked.entry(session.clone()).or_default();
        let within = times.len() < PER_SESSION;
        if within {
            times.push_back(now);
        }
        within
    }
}

impl Asked {
    fn of(id: String, call: &Call, why: &str, digest: Digest) -> Self {
        let pretty = serde_json::to_string_pretty(&Value::Object(call.args.clone())).unwrap_or_default();
        // Line feeds of the indentation stay; those inside strings are already `\n` in JSON.
        let lines: Vec<String> = pretty.lines().map(|line| visible(line, SHOWN_ARGS)).collect();
        let mut args = lines.join("\n");
        let mut notes = Vec::new();
        let approvable = args.len() <= SHOWN_ARGS;
        if !approvable {
            let end = (0..=SHOWN_ARGS).rev().find(|at| args.is_char_boundary(*at)).unwrap_or(0);
            args.truncate(end);
            args.push('…');
            notes.push("the arguments are too long to be shown whole: this can only be refused");
        }
        if !pretty.is_ascii() {
            notes.push("the arguments have characters outside ASCII, which may look like others");
        }
        Self {
            id,
            agent: call.subject.agent.clone(),
            session: call.subject.session.clone(),
            action: call.action.word(),
            resource: call.resource.name.clone(),
            args,
            why: visible(why, SHOWN_TEXT),
            digest,
            approvable,
            notes,
            expires_in_ms: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Action, Resource, Subject};
    use serde_json::json;

    fn call(session: &str, id: &str, text: &str) -> Call {
        let name = |text: &str| Name::new(text).unwrap();
        let subject = Subject {
            org: name("org"),
            agent: name("agent"),
            session: name(session),
            run: name("run"),
            delegation: Vec::new(),
            project: None,
        };
        let args = json!({"command": text}).as_object().unwrap().clone();
        let resource = Resource::named(name("shell"));
        Call { id: name(id), subject, action: Action::ToolCall, resource, args, parent: None, surface: name("http") }
    }

    fn ask(desk: &Desk, call: Call, ms: u64) -> std::thread::JoinHandle<Approval> {
        let before = desk.list().len();
        let asked = desk.clone();
        let thread = std::thread::spawn(move || asked.ask(&call, "rule x asks", Digest::ZERO, Millis(ms)));
        while desk.list().len() == before && !thread.is_finished() {
            std::thread::yield_now();
        }
        thread
    }

    #[test]
    fn a_question_is_answered_once_and_expires_to_no() {
        let desk = Desk::default();
        assert_eq!(desk.ask(&call("s", "a", "ls"), "", Digest::ZERO, Millis(1000)), Approval::Unavailable);
        desk.open();
        let thread = ask(&desk, call("s", "a", "ls"), 60_000);
        let id = desk.list()[0].id.clone();
        assert_eq!(desk.answer(&id, true), Answered::Taken);
        assert_eq!(desk.answer(&id, true), Answered::Gone, "an approval is used once");
        assert!(matches!(thread.join().unwrap(), Approval::Granted(text) if text.contains(&id)));
        assert_eq!(desk.ask(&call("s", "b", "ls"), "", Digest::ZERO, Millis(10)), Approval::Expired);
        assert!(desk.list().is_empty());
        let thread = ask(&desk, call("s", "c", "ls"), 60_000);
        desk.withdraw(&Name::new("c").unwrap());
        assert_eq!(thread.join().unwrap(), Approval::Unavailable);
    }

    #[test]
    fn what_is_shown_cannot_lie() {
        let padded =
            Asked::of("i".into(), &call("s", "a", "ls\u{202e}\u{1b}[2J\n\u{200b}rm"), "w\u{7}hy", Digest::ZERO);
        assert!(padded.args.is_ascii() && padded.args.contains("\\u{202e}") && padded.args.contains("\\u001b[2J\\n"));
        assert_eq!(padded.why, "w\\u{7}hy");
        assert!(padded.approvable && padded.notes.len() == 1);
        let long = Asked::of("i".into(), &call("s", "a", &"x".repeat(SHOWN_ARGS)), "", Digest::ZERO);
        assert!(!long.approvable && long.args.len() < SHOWN_ARGS + 8);
        let desk = Desk::default();
        desk.open();
        let thread = ask(&desk, call("s", "a", &" ".repeat(SHOWN_ARGS)), 60_000);
        let id = desk.list()[0].id.clone();
        assert_eq!(desk.answer(&id, true), Answered::NotApprovable);
        assert_eq!(desk.answer(&id, false), Answered::Taken);
        assert_eq!(thread.join().unwrap(), Approval::Refused);
    }

    #[test]
    fn a_flood_of_questions_is_not_put_before_the_person() {
        let desk = Desk::default();
        desk.open();
        let asks: Vec<_> = (0..PER_SESSION).map(|n| ask(&desk, call("s", &format!("c{n}"), "ls"), 60_000)).collect();
        assert_eq!(desk.ask(&call("s", "more", "ls"), "", Digest::ZERO, Millis(60_000)), Approval::Unavailable);
        let other = ask(&desk, call("t", "other", "ls"), 60_000);
        assert_eq!(desk.list().len(), PER_SESSION + 1);
        desk.shut();
        assert!(asks.into_iter().all(|thread| thread.join().unwrap() == Approval::Unavailable));
        assert_eq!(other.join().unwrap(), Approval::Unavailable);
    }
}
