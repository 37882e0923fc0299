//! A forwarded call on the gate's line: admitted before anything leaves, completed exactly once.
//!
//! The gate waits for its journal, so both halves run on threads that may wait. Whatever happens to the
//! one who forwards (the client goes, a bug, the end of the proxies), the call ends: as one that used
//! nothing while nothing was sent, as unknown from then on.

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::model::{Call, Name, Outcome, Reason, ReasonCode, Status};
use crate::pep::{Answer, Durable, Gate, Reserved};

/// How many calls are open.
#[derive(Clone)]
pub(crate) struct Open(watch::Sender<usize>);

impl Open {
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(0))
    }

    fn enter(&self) -> Entered {
        self.0.send_modify(|open| *open += 1);
        Entered(self.0.clone())
    }

    /// Waits until none is.
    pub(super) async fn none(&self) {
        drop(self.0.subscribe().wait_for(|open| *open == 0).await);
    }
}

struct Entered(watch::Sender<usize>);

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.send_modify(|open| *open = open.saturating_sub(1));
    }
}

/// Why a call was not admitted.
#[derive(Clone, Debug)]
pub(crate) struct Denial {
    /// The code.
    pub code: ReasonCode,
    /// The text for the agent.
    pub text: String,
}

impl Denial {
    fn of(answer: Answer, what: &str) -> Self {
        let reason = answer.decision.reason;
        Self { code: reason.code, text: answer.denial.unwrap_or_else(|| reason.denial(what)) }
    }
}

/// A call that was admitted and is not completed.
pub(crate) struct Held {
    gate: Arc<Gate>,
    work: Option<Durable<Reserved>>,
    sent: bool,
    entered: Entered,
}

/// Admits `call`: when this returns a [`Held`], its amounts are held and its intent is durable.
pub(crate) async fn admit(gate: &Arc<Gate>, open: &Open, call: Call) -> Result<Held, Denial> {
    let (gate, entered, what) = (gate.clone(), open.enter(), format!("{} {}", call.action.word(), call.resource.name));
    let shown = what.clone();
    let admitted = tokio::task::spawn_blocking(move || match gate.admit(call) {
        Ok(work) => Ok(Held { gate, work: Some(work), sent: false, entered }),
        Err(answer) => Err(Denial::of(*answer, &shown)),
    });
    admitted.await.unwrap_or_else(|_| {
        let reason = Reason::new(ReasonCode::Internal, "the gate is stopping");
        Err(Denial { code: reason.code, text: reason.denial(&what) })
    })
}

impl Held {
    /// The call as it was admitted.
    pub(crate) fn call(&self) -> Option<&Call> {
        self.work.as_ref().map(Durable::call)
    }

    /// From now on it may have happened.
    pub(crate) const fn sent(&mut self) {
        self.sent = true;
    }

    /// Completes it and answers what the gate made of it; `None` only when the proxies end meanwhile.
    pub(crate) async fn complete(mut self, outcome: Outcome) -> Option<Answer> {
        let work = self.work.take()?;
        let gate = self.gate.clone();
        let completed = tokio::task::spawn_blocking(move || gate.complete(work, outcome)).await;
        completed.ok()
    }

    /// Takes the call out of here: it goes on elsewhere when the proxies end, and somebody else completes it.
    pub(crate) fn keep(mut self) -> Option<Durable<Reserved>> {
        self.work.take()
    }

    /// Whether an account of its subject was revoked since.
    pub(crate) fn is_revoked(&self) -> bool {
        self.call().is_some_and(|call| self.gate.is_revoked(&call.subject))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let Some(work) = self.work.take() else { return };
        let status = if self.sent { Status::Unknown } else { Status::Broken };
        let (gate, entered) = (self.gate.clone(), Entered(self.entered.0.clone()));
        entered.0.send_modify(|open| *open += 1);
        let complete = move || {
            let answer = gate.complete(work, Outcome::of(status));
            tracing::warn!(call = %answer.call, ?status, "a forwarded call was left; it is settled by what was held");
            drop(entered);
        };
        match Handle::try_current() {
            Ok(handle) => drop(handle.spawn_blocking(complete)),
            Err(_) => complete(),
        }
    }
}

/// A fresh id for a call.
pub(crate) fn fresh() -> Option<Name> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).ok()?;
    Some(Name::digits(&hex::encode(bytes)))
}
