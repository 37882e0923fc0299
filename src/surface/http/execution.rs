//! One execution of generated code: a thread that walks the gate's line, and the requests that wait
//! for what it needs next.
//!
//! The thread parks inside a tool call until the host resumes it, the tool's time is over, or the
//! execution is cancelled. At most one request waits at a time (the newest), and an answer to a tool
//! call is taken once: a lost connection can fetch the event again, but nothing runs twice.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use super::error::{Fault, Refusal};
use super::metrics::outside;
use crate::model::{CallId, Limits, Millis, Outcome, Seat, Status};
use crate::pep::port::{Executor, ToolHost, ToolSpec};
use crate::surface::lock;

/// One execution.
pub(super) struct Execution {
    id: CallId,
    cancelled: AtomicBool,
    state: Mutex<State>,
    /// Wakes the parked thread.
    resumed: Condvar,
    /// Wakes the waiting requests.
    changed: watch::Sender<()>,
}

struct State {
    phase: Phase,
    /// The newest request that waited; older ones are told to go.
    ticket: u64,
    waiting: bool,
    /// Since when nobody waits although the host owes nothing.
    alone: Option<Instant>,
    /// How the executor is to part with the session once this has ended.
    close: Option<Parting>,
}

/// How a session ends here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parting {
    /// For good: nothing of it is kept.
    Forget,
    /// For now: what is kept of it may be gone on with later.
    Rest,
}

impl Parting {
    /// Makes `executor` part with `seat`.
    pub(super) fn tell(self, executor: &dyn Executor, seat: &Seat) {
        match self {
            Self::Forget => executor.close(seat),
            Self::Rest => executor.rest(seat),
        }
    }
}

enum Phase {
    Running,
    Tool { call: CallId, event: Bytes, fetched: bool, reply: Option<Box<Outcome>> },
    Ended { event: Bytes },
}

/// What [`Execution::event`] sees.
enum Seen {
    Event(Bytes),
    Superseded,
    Nothing,
}

impl Execution {
    /// An execution that is about to start and whose starter is about to wait.
    pub(super) fn new(id: CallId) -> Arc<Self> {
        let state = State { phase: Phase::Running, ticket: 0, waiting: false, alone: None, close: None };
        Arc::new(Self {
            id,
            cancelled: AtomicBool::new(false),
            state: Mutex::new(state),
            resumed: Condvar::new(),
            changed: watch::channel(()).0,
        })
    }

    /// Its id, which is that of its call and of its receipt.
    pub(super) const fn id(&self) -> &CallId {
        &self.id
    }

    /// True once its thread has given the last event.
    pub(super) fn has_ended(&self) -> bool {
        matches!(lock(&self.state).phase, Phase::Ended { .. })
    }

    /// Stops it at the next chance.
    pub(super) fn cancel(&self) {
        self.cancelled.store(true, Ordering::SeqCst);
        // The lock orders this against a thread that is about to park.
        drop(lock(&self.state));
        self.resumed.notify_all();
    }

    /// True when nobody has waited for it for `lost_after`.
    pub(super) fn is_abandoned(&self, lost_after: Duration) -> bool {
        let state = lock(&self.state);
        !matches!(state.phase, Phase::Ended { .. }) && state.alone.is_some_and(|since| since.elapsed() >= lost_after)
    }

    /// Ends it with its last event; says how the executor shall part with the session now, if it shall.
    pub(super) fn end(&self, event: Bytes) -> Option<Parting> {
        let mut state = lock(&self.state);
        state.phase = Phase::Ended { event };
        let close = state.close;
        drop(state);
        self.changed.send_replace(());
        close
    }

    /// True when it has ended, so that the executor can part with the session now; otherwise its end does that.
    pub(super) fn close_at_end(&self, parting: Parting) -> bool {
        let mut state = lock(&self.state);
        state.close = Some(parting);
        matches!(state.phase, Phase::Ended { .. })
    }

    /// Waits for its end, at most `span`.
    pub(super) async fn ended_within(&self, span: Duration) -> bool {
        let mut changed = self.changed.subscribe();
        let ended = async {
            while !self.has_ended() {
                if changed.changed().await.is_err() {
                    break;
                }
            }
        };
        tokio::time::timeout(span, ended).await.is_ok()
    }

    /// Takes the host's answer to the tool call `call`, once.
    ///
    /// # Errors
    /// A conflict, and nothing changed, when this call does not wait for an answer.
    pub(super) fn resume(&self, call: &CallId, outcome: Outcome) -> Result<(), Refusal> {
        let mut state = lock(&self.state);
        match &mut state.phase {
            Phase::Tool { call: open, fetched: true, reply: reply @ None, .. } if open == call => {
                *reply = Some(Box::new(outcome));
            }
            Phase::Tool { reply: Some(_), .. } => return Err(conflict("this tool call has been answered already")),
            Phase::Tool { .. } => return Err(conflict("another tool call waits for an answer, not this one")),
            Phase::Running => {
                return Err(conflict("no tool call waits for an answer: it was answered, or its time is over"));
            }
            Phase::Ended { .. } => return Err(conflict("the execution has ended")),
        }
        drop(state);
        self.resumed.notify_all();
        Ok(())
    }

    /// Waits for the next event, or gives the one that is there again.
    ///
    /// # Errors
    /// A conflict when a newer request waits instead.
    pub(super) async fn event(self: &Arc<Self>) -> Result<Bytes, Refusal> {
        let mut changed = self.changed.subscribe();
        let waiter = Waiter::new(self);
        loop {
            match self.look(waiter.ticket) {
                Seen::Event(event) => return Ok(event),
                Seen::Superseded => return Err(conflict("a newer request waits for this execution's events")),
                Seen::Nothing if changed.changed().await.is_err() => return Err(Refusal::internal()),
                Seen::Nothing => {}
            }
        }
    }

    fn look(&self, ticket: u64) -> Seen {
        let mut state = lock(&self.state);
        if state.ticket != ticket {
            return Seen::Superseded;
        }
        match &mut state.phase {
            Phase::Tool { event, fetched, reply: None, .. } => {
                *fetched = true;
                Seen::Event(event.clone())
            }
            Phase::Ended { event } => Seen::Event(event.clone()),
            Phase::Tool { .. } | Phase::Running => Seen::Nothing,
        }
    }

    /// Hands a tool call to the host and parks until it is answered.
    fn offer(&self, call: &CallId, event: Bytes, deadline: Millis) -> Outcome {
        let until = Instant::now().checked_add(Duration::from_millis(deadline.0));
        let mut state = lock(&self.state);
        state.phase = Phase::Tool { call: call.clone(), event, fetched: false, reply: None };
        self.changed.send_replace(());
        loop {
            if let Phase::Tool { reply: reply @ Some(_), .. } = &mut state.phase
                && let Some(outcome) = reply.take()
            {
                state.phase = Phase::Running;
                return *outcome;
            }
            let now = Instant::now();
            let left = until.map_or(Duration::from_secs(3600), |until| until.saturating_duration_since(now));
            if left.is_zero() || self.cancelled.load(Ordering::SeqCst) {
                return state.unanswered(now);
            }
            state = self.resumed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl State {
    /// Ends a tool call that got no answer. What nobody fetched cannot have run.
    fn unanswered(&mut self, now: Instant) -> Outcome {
        let fetched = matches!(self.phase, Phase::Tool { fetched: true, .. });
        self.phase = Phase::Running;
        if !self.waiting {
            self.alone = Some(now);
        }
        Outcome::of(if fetched { Status::Unknown } else { Status::Broken })
    }
}

/// A request that waits; when it goes without an event, the execution is alone.
struct Waiter<'e> {
    execution: &'e Execution,
    ticket: u64,
}

impl<'e> Waiter<'e> {
    fn new(execution: &'e Execution) -> Self {
        let mut state = lock(&execution.state);
        state.ticket += 1;
        state.waiting = true;
        state.alone = None;
        let ticket = state.ticket;
        drop(state);
        // An older waiter wakes, sees the newer ticket and goes.
        execution.changed.send_replace(());
        Self { execution, ticket }
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.execution.state);
        if state.ticket == self.ticket {
            state.waiting = false;
            let host_owes = matches!(state.phase, Phase::Tool { fetched: true, reply: None, .. });
            state.alone = (!host_owes).then(Instant::now);
        }
    }
}

/// The host of an execution's tools, as the gate sees it.
pub(super) struct Hosted {
    pub(super) execution: Arc<Execution>,
    pub(super) tools: Arc<[ToolSpec]>,
}

impl ToolHost for Hosted {
    fn tools(&self) -> Vec<ToolSpec> {
        self.tools.to_vec()
    }

    fn call(&self, id: &CallId, tool: &str, args: &Map<String, Value>, deadline: Millis) -> Outcome {
        if self.cancelled() {
            return Outcome::of(Status::Broken);
        }
        let event = json!({"event": "tool", "execution": self.execution.id, "call": id, "tool": tool, "args": args});
        let event = event.to_string();
        if event.len() > Limits::JSON_BYTES {
            return Outcome::of(Status::Broken);
        }
        outside(|| self.execution.offer(id, Bytes::from(event), deadline))
    }

    fn cancelled(&self) -> bool {
        self.execution.cancelled.load(Ordering::SeqCst)
    }
}

fn conflict(message: &str) -> Refusal {
    Refusal::new(Fault::Conflict, message)
}

/// Unknown execution: never was, or its session is closed or has begun another.
pub(super) fn no_execution() -> Refusal {
    Refusal::new(Fault::NotFound, "no such execution is known; a session keeps its last one only")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Name;

    fn id(text: &str) -> CallId {
        Name::new(text).unwrap()
    }

    fn done(value: i64) -> Outcome {
        Outcome { output: value.into(), ..Outcome::of(Status::Done) }
    }

    /// Offers tool call `call` on a thread of its own, as the gate does.
    fn offer(execution: &Arc<Execution>, call: &str, ms: u64) -> std::thread::JoinHandle<Outcome> {
        let (hosted, call) = (Hosted { execution: execution.clone(), tools: Arc::new([]) }, id(call));
        std::thread::spawn(move || hosted.call(&call, "t", &Map::new(), Millis(ms)))
    }

    #[tokio::test]
    async fn an_answer_is_taken_once_and_only_for_the_call_that_waits() {
        let execution = Execution::new(id("e"));
        assert_eq!(execution.resume(&id("c"), done(1)).unwrap_err().fault, Fault::Conflict);
        let thread = offer(&execution, "c", 60_000);
        let event = execution.event().await.unwrap();
        assert_eq!(event, execution.event().await.unwrap(), "an event can be fetched again");
        assert_eq!(execution.resume(&id("other"), done(1)).unwrap_err().fault, Fault::Conflict);
        execution.resume(&id("c"), done(2)).unwrap();
        assert_eq!(execution.resume(&id("c"), done(3)).unwrap_err().fault, Fault::Conflict);
        assert_eq!(thread.join().unwrap().output, Value::from(2));
        assert!(execution.end(Bytes::from_static(b"{}")).is_none());
        assert_eq!(execution.resume(&id("c"), done(4)).unwrap_err().fault, Fault::Conflict);
    }

    #[tokio::test]
    async fn what_nobody_fetched_did_not_run_and_what_was_fetched_may_have() {
        let execution = Execution::new(id("e"));
        assert_eq!(offer(&execution, "a", 20).join().unwrap().status, Status::Broken);
        let thread = offer(&execution, "b", 300);
        execution.event().await.unwrap();
        assert_eq!(thread.join().unwrap().status, Status::Unknown);
        assert_eq!(execution.resume(&id("b"), done(1)).unwrap_err().fault, Fault::Conflict);
        let thread = offer(&execution, "c", 60_000);
        execution.event().await.unwrap();
        execution.cancel();
        assert_eq!(thread.join().unwrap().status, Status::Unknown);
        assert_eq!(offer(&execution, "d", 60_000).join().unwrap().status, Status::Broken);
    }

    #[tokio::test]
    async fn an_execution_is_abandoned_only_while_nobody_waits_and_the_host_owes_nothing() {
        let soon = Duration::from_millis(30);
        let execution = Execution::new(id("e"));
        assert!(tokio::time::timeout(soon, execution.event()).await.is_err());
        assert!(!execution.is_abandoned(soon));
        tokio::time::sleep(soon).await;
        assert!(execution.is_abandoned(soon));
        let thread = offer(&execution, "a", 60_000);
        execution.event().await.unwrap();
        tokio::time::sleep(soon).await;
        assert!(!execution.is_abandoned(soon), "the host has a tool call to answer");
        execution.resume(&id("a"), done(1)).unwrap();
        thread.join().unwrap();
        execution.end(Bytes::from_static(b"{}"));
        tokio::time::sleep(soon).await;
        assert!(!execution.is_abandoned(soon));
    }

    #[tokio::test]
    async fn the_newest_request_waits_and_the_older_one_goes() {
        let execution = Execution::new(id("e"));
        let older = tokio::spawn({
            let execution = execution.clone();
            async move { execution.event().await }
        });
        tokio::time::sleep(Duration::from_millis(20)).await;
        let newer = tokio::spawn({
            let execution = execution.clone();
            async move { execution.event().await }
        });
        assert_eq!(older.await.unwrap().unwrap_err().fault, Fault::Conflict);
        execution.end(Bytes::from_static(b"{}"));
        assert!(newer.await.unwrap().is_ok());
    }

    #[test]
    fn the_session_is_forgotten_exactly_once() {
        let (before, after) = (Execution::new(id("a")), Execution::new(id("b")));
        assert!(!before.close_at_end(Parting::Rest) && before.end(Bytes::new()) == Some(Parting::Rest));
        assert!(after.end(Bytes::new()).is_none() && after.close_at_end(Parting::Forget));
    }
}
