//! Settle, record the outcome with its receipt, score: the second half of the line, and the record
//! of a refusal.

use std::borrow::Cow;

use super::gate::{InForce, Locked};
use super::port::{JournalFault, Ticket};
use super::stage::{Ruled, Settled, denied};
use super::{Answer, Durable, Gate, Reserved};
use crate::audit::{Body, OutcomeEntry, Receipt, ReceiptParts};
use crate::model::{
    Access, Action, Amounts, Call, CodeGrant, Decision, Digest, Evidence, Happened, KINDS, Kind, Limits, Obligation,
    OnCrash, Outcome, Reason, ReasonCode, Status, Timestamp, memory_ms,
};
use crate::pdp::within_bounds;

impl Gate {
    /// Settles the reservation and hands the outcome to the journal.
    pub(super) fn settle(&self, work: Durable<Reserved>, outcome: &Outcome) -> Settled {
        let Durable { inner, intent } = work;
        let used = used(&inner, outcome);
        let now = self.ports.clock.now();
        let decision = inner.permit.decision();
        let parts = ReceiptParts {
            call: &inner.call,
            args: inner.args,
            decision,
            policy: &inner.force.policy.policy().id,
            intent: Some(intent),
            approval: inner.approval.as_deref(),
            status: Some(outcome.status),
            usage: used,
            result: outcome.result.or_else(|| Some(Digest::of(outcome.output.to_string().as_bytes()))),
            files: &outcome.files,
            tape: outcome.tape,
            at: now,
        };
        // Signed outside the critical section: the receipt does not depend on its place in the chain.
        let receipt = Receipt::sign(&parts, &self.ports.key);
        let (ticket, place) = self.end(&inner, used, outcome, &receipt);
        Settled { decision: inner.permit.into_decision(), call: inner.call, receipt, ticket, place }
    }

    /// Posts what was used and writes the outcome, in one critical section.
    fn end(&self, work: &Reserved, used: Amounts, outcome: &Outcome, receipt: &Receipt) -> (Ticket, u64) {
        let mut locked = match self.lock() {
            Ok(locked) => locked,
            Err(reason) => return (Ticket::Ready(Err(JournalFault(reason.detail))), 0),
        };
        let (now, id) = (self.now(&locked), work.reservation.id());
        let ledger = &mut locked.state.ledger;
        let settled = match outcome.status {
            Status::Unknown => ledger.settle_unknown(id, used, now),
            _ => ledger.settle(id, used, now),
        };
        let Some(settled) = settled else {
            // Work of another gate: an outcome without an intent would make this journal unreadable.
            return (Ticket::Ready(Err(JournalFault("this gate holds nothing for the call".into()))), 0);
        };
        let labels = labels(work.permit.decision(), outcome);
        let happened = happened(outcome.status, work.approval.is_some());
        let seen = Seen { decision: work.permit.decision(), force: &work.force, happened, input: work.input, now };
        let evidence = evidence(&locked, &work.call, &seen);
        let (call, posted, receipt) = (work.call.id.clone(), settled.posted, receipt.clone());
        let entry = OutcomeEntry { call, posted, labels, evidence, receipt };
        locked.state.ended(&entry);
        self.watched.end(id);
        let (_, ticket) = self.write(&mut locked, now, Body::Outcome(Box::new(entry)));
        (ticket, locked.state.chain.count())
    }

    /// Waits until the outcome is durable and answers.
    pub(super) fn record(&self, settled: Settled, outcome: Outcome) -> Answer {
        let Settled { call, decision, receipt, ticket, place } = settled;
        match ticket.wait() {
            Ok(()) => {
                self.pots.is_durable(place);
                self.give_back(&self.force(), &call.subject, &decision.reserve);
                let denial = stopped(&call, &decision, &outcome);
                Answer { call: call.id.clone(), decision, outcome: Some(outcome), receipt: Some(receipt), denial }
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
    pub(super) fn refuse(&self, call: &Call, ruled: &Ruled, approval: Option<&str>) -> Box<Answer> {
        let mut call = recordable(call);
        if ruled.decision.reason.code == ReasonCode::DuplicateCall {
            // The id belongs to the call that is already on record; this refusal gets one of its own.
            call.to_mut().id = self.fresh_id(&call.id);
        }
        loop {
            match self.try_refuse(&call, ruled, approval) {
                Ok(answer) => return answer,
                Err(Taken) => call.to_mut().id = self.fresh_id(&call.id),
            }
        }
    }

    /// Records a refusal unless another call has taken the id since it was decided: an entry under
    /// its id would end that call's reservation when the journal is read back.
    fn try_refuse(&self, call: &Call, ruled: &Ruled, approval: Option<&str>) -> Result<Box<Answer>, Taken> {
        let Ruled { decision, force } = ruled;
        let now = self.ports.clock.now();
        let parts = ReceiptParts {
            call,
            args: None,
            decision,
            policy: &force.policy.policy().id,
            intent: None,
            approval,
            status: None,
            usage: Amounts::ZERO,
            result: None,
            files: &[],
            tape: None,
            at: now,
        };
        let receipt = Receipt::sign(&parts, &self.ports.key);
        let ticket = match self.lock() {
            Err(reason) => return Ok(self.unrecorded(call, reason)),
            Ok(locked) if locked.state.ledger.is_used(&call.id) => return Err(Taken),
            Ok(mut locked) => {
                locked.state.ledger.refuse(&call.id);
                let exhausted = decision.reason.code == ReasonCode::BudgetExhausted;
                let happened = if exhausted { Happened::Exhausted } else { Happened::Denied };
                let input = locked.state.session(&call.subject).and_then(|session| session.last);
                let input = input.unwrap_or(Digest::ZERO);
                let evidence = evidence(&locked, call, &Seen { decision, force, happened, input, now });
                let (id, posted, labels) = (call.id.clone(), Amounts::ZERO, Vec::new());
                let entry = OutcomeEntry { call: id, posted, labels, evidence, receipt: receipt.clone() };
                locked.state.ended(&entry);
                let at = self.now(&locked);
                self.write(&mut locked, at, Body::Outcome(Box::new(entry))).1
            }
        };
        Ok(match ticket.wait() {
            Ok(()) => {
                let denial = Some(decision.reason.denial(&what(call)));
                let (call, decision) = (call.id.clone(), decision.clone());
                Box::new(Answer { call, decision, outcome: None, receipt: Some(receipt), denial })
            }
            Err(fault) => {
                let reason = self.fail(&fault);
                self.unrecorded(call, reason)
            }
        })
    }

    /// The answer when even the refusal cannot be recorded: deny, without a receipt.
    pub(super) fn unrecorded(&self, call: &Call, reason: Reason) -> Box<Answer> {
        let denial = Some(reason.denial(&what(call)));
        let decision = denied(reason, self.policy().policy().digest);
        Box::new(Answer { call: call.id.clone(), decision, outcome: None, receipt: None, denial })
    }
}

/// Another call has the id.
struct Taken;

/// What evidence says besides the call.
struct Seen<'a> {
    decision: &'a Decision,
    force: &'a InForce,
    happened: Happened,
    input: Digest,
    now: Timestamp,
}

fn evidence(locked: &Locked<'_>, call: &Call, seen: &Seen<'_>) -> Evidence {
    let session = locked.state.session(&call.subject);
    let writes = |grant: &CodeGrant| grant.files.iter().any(|file| file.access == Access::Write);
    let classed = matches!(call.action, Action::ToolCall | Action::CodeRun);
    Evidence {
        session: call.subject.session.clone(),
        at: seen.now,
        action: call.action,
        effect: classed.then(|| seen.force.policy.effect_class(call)),
        resource: call.resource.name.clone(),
        happened: seen.happened,
        labels: session.map(|session| session.labels.iter().cloned().collect()).unwrap_or_default(),
        action_digest: call.deed(),
        input_digest: seen.input,
        delegation: u8::try_from(call.subject.delegation.len()).unwrap_or(u8::MAX),
        protected_path: seen.decision.reason.code == ReasonCode::ProtectedPath,
        earlier_state: seen.decision.grant.as_ref().is_some_and(writes),
        traceable: seen.happened != Happened::Unknown,
    }
}

/// `call` as it can be written down: arguments beyond every bound are left out of a refusal, so that
/// their digest cannot exhaust the stack.
fn recordable(call: &Call) -> Cow<'_, Call> {
    if within_bounds(&call.args) {
        return Cow::Borrowed(call);
    }
    Cow::Owned(call.bare())
}

/// What to post: what was reported, except where only the gate can know or nobody does.
fn used(work: &Reserved, outcome: &Outcome) -> Amounts {
    let (held, told) = (work.reservation.held(), Told::of(work, outcome));
    let mut used = Amounts::ZERO;
    for row in &KINDS {
        let reported = told.amounts.of(row.kind);
        let amount = match (row.kind, row.on_crash, outcome.status) {
            // Calls are counted by the gate and happened, whatever the host says of them.
            (Kind::Calls | Kind::ToolCalls, ..) => held.of(row.kind),
            (_, OnCrash::Spent, Status::Unknown) => held.of(row.kind).max(reported),
            // It never started, so that nothing was paid unless it says so.
            (_, _, Status::Broken) => reported,
            // A paid amount that nobody reported is taken at the worst case, however it ended.
            (_, OnCrash::Spent, _) if reported == 0 && !told.knows(row.kind) => held.of(row.kind),
            _ => reported,
        };
        used.set(row.kind, amount);
    }
    used
}

/// The sorts of tokens that are told apart.
const SORTS: [Kind; 5] =
    [Kind::TokensIn, Kind::TokensOut, Kind::TokensCached, Kind::TokensCacheWrite, Kind::TokensCacheWriteLong];

/// What was reported, with what follows from it: memory times time, bytes of files, all tokens, and their
/// price by the policy that admitted the call. What a host says that a generation cost does not count then.
struct Told {
    amounts: Amounts,
    /// Tokens read and written were told apart, so that a sort of them that is missing is none.
    apart: bool,
    priced: bool,
    /// Every amount is as the gate found it.
    metered: bool,
}

impl Told {
    fn of(work: &Reserved, outcome: &Outcome) -> Self {
        let mut told = Self { amounts: outcome.usage, apart: false, priced: false, metered: false };
        match work.call.action {
            Action::CodeRun => told.measure(outcome),
            Action::ModelGenerate => told.price(work),
            // Measured by the gate itself or told by who sends the bill: what is missing is nothing.
            Action::PackagePublish | Action::JobLaunch | Action::ProcessRun => told.metered = true,
            Action::ToolCall | Action::CodeImport | Action::AgentInvoke | Action::PackageFetch => {}
        }
        told
    }

    fn knows(&self, kind: Kind) -> bool {
        match kind {
            Kind::Tokens
            | Kind::TokensIn
            | Kind::TokensOut
            | Kind::TokensCached
            | Kind::TokensCacheWrite
            | Kind::TokensCacheWriteLong => self.apart,
            Kind::MicroUsd if !self.metered => self.apart && self.priced,
            _ => self.metered,
        }
    }

    fn measure(&mut self, outcome: &Outcome) {
        let (memory, wall) = (self.amounts.of(Kind::MemoryBytes), self.amounts.of(Kind::WallMs));
        self.amounts.set(Kind::MemoryMs, memory_ms(memory, wall));
        let made = outcome.files.iter().filter(|file| file.digest.is_some());
        self.amounts.set(Kind::DiskBytes, made.fold(0_u64, |sum, file| sum.saturating_add(file.bytes)));
    }

    fn price(&mut self, work: &Reserved) {
        let sorts = [Kind::TokensIn, Kind::TokensOut];
        let sum = sorts.iter().fold(0_u64, |sum, kind| sum.saturating_add(self.amounts.of(*kind)));
        let tokens = self.amounts.of(Kind::Tokens).max(sum);
        self.apart = sum > 0;
        self.amounts.set(Kind::Tokens, tokens);
        let model = work.force.policy.policy().models.get(work.call.resource.name.as_str());
        let price = model.and_then(|model| model.price.as_ref());
        self.priced = price.is_some();
        if let Some(price) = price {
            let cost = if self.apart { price.of(&self.amounts) } else { price.at_most(tokens) };
            self.amounts.set(Kind::MicroUsd, cost);
        }
        if !self.apart {
            // Each sort may have been all of them.
            let held = work.reservation.held();
            for kind in SORTS {
                self.amounts.set(kind, tokens.min(held.of(kind)));
            }
        }
    }
}

/// What a call that ran shows. One that a limit stopped has run, too: counted as refused, whatever an
/// agent does in programs that it lets run into a limit would never be seen.
const fn happened(status: Status, approved: bool) -> Happened {
    match status {
        Status::Unknown => Happened::Unknown,
        Status::Done | Status::Failed | Status::Denied | Status::Broken | Status::Exhausted if approved => {
            Happened::Approved
        }
        Status::Done | Status::Failed | Status::Denied | Status::Broken | Status::Exhausted => Happened::Executed,
    }
}

fn labels(decision: &Decision, outcome: &Outcome) -> Vec<String> {
    if outcome.status == Status::Broken {
        return Vec::new();
    }
    decision.obligations.iter().map(|Obligation::AddLabel(label)| label.clone()).collect()
}

/// How the text of every denial begins.
const MARK: &str = "[weir] denied ";

/// Whether `text` could be a denial of the gate's: the guest hands it on, and may have written it.
fn is_denial(text: &str) -> bool {
    let tame = |c: char| c == '\n' || !c.is_control();
    text.starts_with(MARK) && text.len() <= Limits::DENIAL_BYTES && text.chars().all(tame)
}

/// The denial text of an execution that the gate itself stopped.
fn stopped(call: &Call, decision: &Decision, outcome: &Outcome) -> Option<String> {
    let code = outcome.stopped?;
    if let Some(own) = outcome.error.as_ref().map(|error| &error.message).filter(|text| is_denial(text)) {
        // A call inside was denied: its text says more than this one could.
        return Some(own.clone());
    }
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
        Action::PackageFetch | Action::PackagePublish => format!("package {name}"),
        Action::JobLaunch => format!("job on {name}"),
        Action::ProcessRun => format!("program {name}"),
    }
}
