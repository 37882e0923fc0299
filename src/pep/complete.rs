//! Settle, record the outcome with its receipt, score: the second half of the line, and the record
//! of a refusal.

use super::gate::Locked;
use super::port::Ticket;
use super::stage::Settled;
use super::{Answer, Durable, Gate, Reserved};
use crate::audit::{Body, OutcomeEntry, Receipt, ReceiptParts};
use crate::model::{
    Access, Action, Amounts, Call, Decision, Digest, Evidence, Happened, KINDS, Kind, Obligation, OnCrash, Outcome,
    Reason, ReasonCode, Status, Timestamp,
};

impl Gate {
    /// Settles the reservation and hands the outcome to the journal.
    pub(super) fn settle(&self, work: Durable<Reserved>, outcome: &Outcome) -> Settled {
        let Durable { inner, intent } = work;
        let decision = inner.permit.decision().clone();
        let used = used(inner.reservation.held(), outcome);
        let now = self.ports.clock.now();
        let policy = self.policy();
        let parts = ReceiptParts {
            call: &inner.call,
            decision: &decision,
            policy: &policy.policy().id,
            intent: Some(intent),
            approval: inner.approval.as_deref(),
            status: Some(outcome.status),
            usage: used,
            result: outcome.result.or_else(|| Some(Digest::of(outcome.output.to_string().as_bytes()))),
            at: now,
        };
        // Signed outside the critical section: the receipt does not depend on its place in the chain.
        let receipt = Receipt::sign(&parts, &self.ports.key);
        let ticket = match self.lock() {
            Err(reason) => Ticket::Ready(Err(super::port::JournalFault(reason.detail))),
            Ok(mut locked) => {
                let posted =
                    locked.state.ledger.settle(inner.reservation.id(), used).map_or(used, |settled| settled.posted);
                let labels = labels(&decision, outcome);
                let happened = happened(outcome.status, inner.approval.is_some());
                let evidence = self.evidence(&locked, &inner.call, &decision, happened, inner.input, now);
                let call = inner.call.id.clone();
                let entry = OutcomeEntry { call, posted, labels, evidence, receipt: receipt.clone() };
                locked.state.ended(&entry);
                self.write(&mut locked, Body::Outcome(Box::new(entry))).1
            }
        };
        Settled { call: inner.call, decision, receipt, ticket }
    }

    /// Waits until the outcome is durable and answers.
    pub(super) fn record(&self, settled: Settled, outcome: Outcome) -> Answer {
        let Settled { call, decision, receipt, ticket } = settled;
        match ticket.wait() {
            Ok(()) => {
                let denial = stopped(&call, &decision, &outcome);
                Answer { call: call.id, decision, outcome: Some(outcome), receipt: Some(receipt), denial }
            }
            Err(fault) => {
                let reason = self.fail(&fault);
                let mut answer = self.unrecorded(&call, reason);
                answer.outcome = Some(Outcome::of(Status::Unknown));
                *answer
            }
        }
    }

    /// Records a refusal and answers it.
    pub(super) fn refuse(&self, mut call: Call, decision: Decision, approval: Option<String>) -> Box<Answer> {
        let now = self.ports.clock.now();
        if decision.reason.code == ReasonCode::DuplicateCall {
            // The id belongs to the call that is already on record; this refusal gets one of its own.
            call.id = self.fresh_id(&call.id);
        }
        let policy = self.policy();
        let parts = ReceiptParts {
            call: &call,
            decision: &decision,
            policy: &policy.policy().id,
            intent: None,
            approval: approval.as_deref(),
            status: None,
            usage: Amounts::ZERO,
            result: None,
            at: now,
        };
        let receipt = Receipt::sign(&parts, &self.ports.key);
        let ticket = match self.lock() {
            Err(reason) => return self.unrecorded(&call, reason),
            Ok(mut locked) => {
                let exhausted = decision.reason.code == ReasonCode::BudgetExhausted;
                let happened = if exhausted { Happened::Exhausted } else { Happened::Denied };
                let input = locked.state.sessions.get(&call.subject.session).and_then(|session| session.last);
                let input = input.unwrap_or(Digest::ZERO);
                let evidence = self.evidence(&locked, &call, &decision, happened, input, now);
                let id = call.id.clone();
                let (posted, labels) = (Amounts::ZERO, Vec::new());
                let entry = OutcomeEntry { call: id, posted, labels, evidence, receipt: receipt.clone() };
                locked.state.ended(&entry);
                self.write(&mut locked, Body::Outcome(Box::new(entry))).1
            }
        };
        match ticket.wait() {
            Ok(()) => {
                let denial = Some(decision.reason.denial(&what(&call)));
                Box::new(Answer { call: call.id, decision, outcome: None, receipt: Some(receipt), denial })
            }
            Err(fault) => {
                let reason = self.fail(&fault);
                self.unrecorded(&call, reason)
            }
        }
    }

    /// The answer when even the refusal cannot be recorded: deny, without a receipt.
    pub(super) fn unrecorded(&self, call: &Call, reason: Reason) -> Box<Answer> {
        let denial = Some(reason.denial(&what(call)));
        let decision = Decision {
            effect: crate::model::Effect::Deny,
            reason,
            obligations: Vec::new(),
            reserve: Amounts::ZERO,
            grant: None,
            policy: self.policy().policy().digest,
        };
        Box::new(Answer { call: call.id.clone(), decision, outcome: None, receipt: None, denial })
    }

    fn evidence(
        &self,
        locked: &Locked<'_>,
        call: &Call,
        decision: &Decision,
        happened: Happened,
        input_digest: Digest,
        at: Timestamp,
    ) -> Evidence {
        let session = locked.state.sessions.get(&call.subject.session);
        let writes = |grant: &crate::model::CodeGrant| grant.files.iter().any(|file| file.access == Access::Write);
        Evidence {
            session: call.subject.session.clone(),
            at,
            action: call.action,
            effect: matches!(call.action, Action::ToolCall | Action::CodeRun).then(|| self.policy().effect_class(call)),
            resource: call.resource.name.clone(),
            happened,
            labels: session.map(|session| session.labels.iter().cloned().collect()).unwrap_or_default(),
            action_digest: call.digest(),
            input_digest,
            delegation: u8::try_from(call.subject.delegation.len()).unwrap_or(u8::MAX),
            protected_path: decision.reason.code == ReasonCode::ProtectedPath,
            earlier_state: decision.grant.as_ref().is_some_and(writes),
            traceable: happened != Happened::Unknown,
        }
    }
}

/// What to post: what was reported, except where only the gate can know or nobody does.
fn used(held: Amounts, outcome: &Outcome) -> Amounts {
    let mut used = Amounts::ZERO;
    for row in &KINDS {
        let reported = outcome.usage.of(row.kind);
        let amount = match (row.kind, row.on_crash, outcome.status) {
            // Calls are counted by the gate and happened, whatever the host says of them.
            (Kind::Calls | Kind::ToolCalls, ..) => held.of(row.kind),
            (_, OnCrash::Spent, Status::Unknown) => held.of(row.kind).max(reported),
            // A paid amount that nobody reported is taken at the worst case.
            (_, OnCrash::Spent, Status::Done | Status::Failed) if reported == 0 => held.of(row.kind),
            _ => reported,
        };
        used.set(row.kind, amount);
    }
    used
}

const fn happened(status: Status, approved: bool) -> Happened {
    match status {
        Status::Exhausted => Happened::Exhausted,
        Status::Unknown => Happened::Unknown,
        Status::Done | Status::Failed | Status::Denied | Status::Broken if approved => Happened::Approved,
        Status::Done | Status::Failed | Status::Denied | Status::Broken => Happened::Executed,
    }
}

fn labels(decision: &Decision, outcome: &Outcome) -> Vec<String> {
    if outcome.status == Status::Broken {
        return Vec::new();
    }
    decision.obligations.iter().map(|Obligation::AddLabel(label)| label.clone()).collect()
}

/// The denial text of an execution that the gate itself stopped.
fn stopped(call: &Call, decision: &Decision, outcome: &Outcome) -> Option<String> {
    let code = outcome.stopped?;
    let detail = outcome.error.as_ref().map_or_else(String::new, |error| error.message.clone());
    let reason = Reason { rule: None, answers: decision.reason.answers.clone(), ..Reason::new(code, detail) };
    Some(reason.denial(&what(call)))
}

/// What a denial calls the thing that was asked for.
fn what(call: &Call) -> String {
    let name = &call.resource.name;
    match call.action {
        Action::ToolCall => format!("tool {name}"),
        Action::CodeRun => "code".to_owned(),
        Action::CodeImport => format!("import {name}"),
        Action::AgentInvoke => format!("agent {name}"),
        Action::ModelGenerate => format!("model {name}"),
        Action::PackageFetch => format!("package {name}"),
    }
}
