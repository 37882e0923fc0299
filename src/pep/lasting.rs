//! Calls without an outcome at a start of the gate: those that ended with it, and jobs on rented machines, which go on.
//!
//! The former end as unknown. The holds of jobs stay, so that neither the money nor the place that a
//! running job takes is free meanwhile. Whoever watches such jobs takes them up again, each once in a gate's life.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::gate::{GateFault, Locked};
use super::port::Ticket;
use super::stage::permitted;
use super::{Durable, Gate, Reserved};
use crate::audit::Body;
use crate::model::{Action, Amounts, Call, CallId, Digest, Evidence, Happened, Outcome, Status, Timestamp};
use crate::pdp::Compiled;

/// What its receipt will need of a call whose arguments are gone.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Lasting {
    /// Digest of the argument text that was forwarded.
    pub args: Digest,
    /// Hash of its intent.
    pub intent: Digest,
    /// The policy that allowed it.
    pub policy: Digest,
    /// The approval, when a person was asked.
    pub approval: Option<String>,
}

/// Calls that somebody in this process watches.
#[derive(Debug, Default)]
pub(super) struct Watched(Mutex<BTreeSet<CallId>>);

impl Watched {
    /// Notes that `call` is watched; false when it was already.
    pub fn begin(&self, call: &CallId) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(call.clone())
    }

    /// Notes that `call` has ended.
    pub fn end(&self, call: &CallId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(call);
    }

    fn has(&self, call: &CallId) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(call)
    }
}

/// A call of an earlier life that was taken up again.
#[derive(Debug)]
pub struct Resumed {
    /// The work; its call has no arguments.
    pub work: Durable<Reserved>,
    /// Parts posted so far: the next one has the number after this.
    pub parts: u64,
    /// What they posted.
    pub posted: Amounts,
}

impl Gate {
    /// Calls of an earlier life that nobody has taken up yet, without their arguments, in order of id.
    #[must_use]
    pub fn lasting(&self) -> Vec<Call> {
        let Ok(locked) = self.lock() else { return Vec::new() };
        let adrift = locked.state.lasting.keys().filter(|id| !self.watched.has(id));
        adrift.filter_map(|id| locked.state.open.get(id).cloned()).collect()
    }

    /// Takes up a call of an earlier life, once; `None` when there is none of this id, or it is watched already.
    #[must_use]
    pub fn resume(&self, call: &CallId) -> Option<Resumed> {
        let locked = self.lock().ok()?;
        let lasting = locked.state.lasting.get(call)?.clone();
        let bare = locked.state.open.get(call)?.clone();
        let (reservation, parts, posted) = locked.state.ledger.take_up(call)?;
        if !self.watched.begin(call) {
            return None;
        }
        let Lasting { args, intent, policy, approval } = lasting;
        let permit = permitted(reservation.held(), policy);
        let (question, input, force) = (None, Digest::ZERO, self.force());
        let call = Arc::new(bare);
        let inner = Reserved { call, permit, reservation, approval, question, input, force, args: Some(args) };
        Some(Resumed { work: Durable { inner, intent }, parts, posted })
    }

    /// Ends a call of an earlier life that nobody has taken up: its outcome is unknown, and what it held counts as spent
    /// until somebody reconciles it.
    ///
    /// # Errors
    /// [`GateFault::Refused`] when there is none of this id, or somebody watches it.
    pub fn give_up(&self, call: &CallId) -> Result<(), GateFault> {
        let resumed = self.resume(call).ok_or_else(|| {
            GateFault::Refused(format!("`{call}` is no job of an earlier life, or somebody watches it already"))
        })?;
        drop(self.complete(resumed.work, Outcome::of(Status::Unknown)));
        Ok(())
    }

    /// Ends every reservation that has no outcome, except of what goes on elsewhere: paid kinds count as spent.
    pub(super) fn expire_open(&self, locked: &mut Locked<'_>) -> Vec<Ticket> {
        let ended = |call: &&Call| !call.action.outlives();
        let open: Vec<_> = locked.state.open.values().filter(ended).cloned().collect();
        let mut tickets = Vec::new();
        for call in open {
            let at = self.now(locked);
            let Some(settled) = locked.state.ledger.expire(&call.id, at) else { continue };
            let evidence = unknown(&call, &self.policy(), at);
            locked.state.expired(&call.id, &settled.posted, &evidence);
            let body = Body::Expire { call: call.id, posted: settled.posted, evidence };
            tickets.push(self.write(locked, at, body).1);
        }
        tickets
    }
}

impl Lasting {
    /// What is kept of the intent in `body`, whose hash is `intent`; `None` for what ends with the gate.
    pub fn of(body: &Body, intent: Digest) -> Option<(CallId, Self)> {
        let Body::Intent { call, args, policy, approval, .. } = body else { return None };
        let (args, policy, approval) = (*args, *policy, approval.clone());
        call.action.outlives().then(|| (call.id.clone(), Self { args, intent, policy, approval }))
    }
}

/// What a call showed whose outcome nobody knows.
fn unknown(call: &Call, policy: &Compiled, at: Timestamp) -> Evidence {
    Evidence {
        session: call.subject.session.clone(),
        at,
        action: call.action,
        effect: matches!(call.action, Action::ToolCall | Action::CodeRun).then(|| policy.effect_class(call)),
        resource: call.resource.name.clone(),
        happened: Happened::Unknown,
        labels: Vec::new(),
        action_digest: call.deed(),
        input_digest: Digest::ZERO,
        delegation: u8::try_from(call.subject.delegation.len()).unwrap_or(u8::MAX),
        protected_path: false,
        earlier_state: false,
        traceable: false,
    }
}
