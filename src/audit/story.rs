//! What entries say together: every intent once, every end once, every receipt about its intent.
//!
//! The chain proves that nothing was changed; the story proves that a gate wrote what a gate may
//! write. It knows no bytes and no store.

use std::collections::HashMap;

use super::entry::checkpoint_holds;
use super::{About, Asked, Body, Entry, OutcomeEntry, PublicKey, Question, Ruling, Verdict, Verified};
use crate::model::{Call, CallId, Digest, Happened, Name};

/// What is known of the calls so far.
pub(super) struct Story<'k> {
    pub(super) key: &'k PublicKey,
    signatures: Signatures,
    calls: HashMap<CallId, State>,
    /// Questions without an answer, and those whose yes no call has used.
    questions: HashMap<Name, Put>,
    pub(super) told: Verified,
}

/// Whether receipts' signatures are checked one by one. The signed head covers them all through
/// the chain; an auditor checks each, a gate that reads its own store back need not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signatures {
    /// Check each.
    Each,
    /// Trust the chain and its signed head.
    ByHead,
}

enum State {
    /// An intent without an end.
    Open(Box<Pending>),
    /// The same, from before the point at which a reading was resumed: the signed head vouches for it.
    Earlier,
    /// Ended, or refused.
    Ended,
    /// Ended, and nobody knows how.
    Unknown,
    /// Ended, and what it used was found out afterwards.
    Reconciled,
}

/// A question that waits, or whose yes waits to be used.
struct Put {
    question: Box<Question>,
    granted: bool,
}

struct Pending {
    intent: Digest,
    policy: Digest,
    asked: Asked,
    approval: Option<String>,
}

type Checked = Result<(), String>;

impl<'k> Story<'k> {
    pub(super) fn new(key: &'k PublicKey, signatures: Signatures) -> Self {
        Self { key, signatures, calls: HashMap::new(), questions: HashMap::new(), told: Verified::default() }
    }

    /// The story after `entries` that were verified before, with the calls that are open there or of which
    /// nobody knows how they ended, and the questions that wait (false) or whose yes waits (true).
    pub(super) fn resuming<'c>(
        key: &'k PublicKey,
        entries: u64,
        open: impl Iterator<Item = &'c CallId>,
        unknown: impl Iterator<Item = &'c CallId>,
        questions: impl Iterator<Item = (&'c Question, bool)>,
    ) -> Self {
        let mut calls: HashMap<CallId, State> = open.map(|id| (id.clone(), State::Earlier)).collect();
        let told = Verified { entries, open: calls.len() as u64, ..Verified::default() };
        calls.extend(unknown.map(|id| (id.clone(), State::Unknown)));
        let put = |(question, granted): (&Question, bool)| {
            (question.id.clone(), Put { question: Box::new(question.clone()), granted })
        };
        Self { key, signatures: Signatures::ByHead, calls, questions: questions.map(put).collect(), told }
    }

    /// Adds an entry whose place in the chain holds; `hash` is its own.
    pub(super) fn add(&mut self, entry: &Entry, hash: Digest) -> Checked {
        let first = self.told.entries == 0;
        require(!first || matches!(entry.body, Body::Open { .. }), "the first entry does not open the store")?;
        match &entry.body {
            Body::Open { key, .. } => require(*key == self.key.hex(), "the store was opened with another key")?,
            Body::Policy { .. }
            | Body::Fork { .. }
            | Body::Allowance { .. }
            | Body::Join { .. }
            | Body::Freeze { .. }
            | Body::Thaw { .. }
            | Body::Revoke { .. } => {}
            Body::Bypass { evidence, .. } => {
                require(evidence.happened == Happened::Reported, "a bypass counts as more than somebody's word")?;
            }
            Body::Part { call, .. } => {
                let open = matches!(self.calls.get(call), Some(State::Open(_) | State::Earlier));
                require(open, "a part is posted for a call that holds nothing")?;
            }
            Body::Reconcile { call, .. } => {
                let before = self.calls.insert(call.clone(), State::Reconciled);
                require(matches!(before, Some(State::Unknown)), "a call is reconciled that is not in doubt")?;
            }
            Body::Ask { question } => self.ask(question)?,
            Body::Answer { question, verdict, .. } => {
                let put = self.answer(question)?;
                let by_rule = matches!(put.question.about, About::Rule { .. });
                require(*verdict != Verdict::Granted || by_rule, "a yes at a budget's cap is no raise")?;
                if *verdict == Verdict::Granted {
                    self.questions.insert(question.clone(), Put { granted: true, ..put });
                }
            }
            Body::Raise { question: None, .. } => {}
            Body::Raise { budget, account, question: Some(question), .. } => {
                let asked = self.answer(question)?.question.about;
                let same = matches!(&asked, About::Budget { budget: b, account: a, .. } if (b, a) == (budget, account));
                require(same, "the raise is of another budget or account than the question")?;
            }
            Body::Intent { call, args, policy, approval, question, .. } => {
                require(call.args.is_empty(), "the intent holds arguments in the clear")?;
                if let Some(question) = question {
                    let put = self.questions.remove(question);
                    let put =
                        put.ok_or("the intent uses the answer to a question that nobody asked, or used before")?;
                    used(&put, call, *args, *policy)?;
                }
                let asked = Asked::of(call, *args);
                let pending = Pending { intent: hash, policy: *policy, asked, approval: approval.clone() };
                let before = self.calls.insert(call.id.clone(), State::Open(Box::new(pending)));
                require(before.is_none(), "the call's id was used before")?;
                self.told.open += 1;
            }
            Body::Outcome(outcome) => self.outcome(outcome)?,
            Body::Expire { call, .. } => {
                let before = self.calls.insert(call.clone(), State::Unknown);
                let open = matches!(before, Some(State::Open(_) | State::Earlier));
                require(open, "it expires a call that holds nothing")?;
                self.told.open -= 1;
            }
            Body::Checkpoint { count, signature } => {
                let holds = checkpoint_holds(entry.seq, entry.prev, *count, signature, self.key);
                require(holds, "the checkpoint's signature or count does not hold")?;
            }
        }
        self.told.entries += 1;
        Ok(())
    }

    fn ask(&mut self, question: &Question) -> Checked {
        require(question.call.args.is_empty(), "the question holds arguments in the clear")?;
        let put = Put { question: Box::new(question.clone()), granted: false };
        let before = self.questions.insert(question.id.clone(), put);
        require(before.is_none(), "the question's id was used before")
    }

    /// Takes the question `id`, which must wait for an answer.
    fn answer(&mut self, id: &Name) -> Result<Put, String> {
        let put = self.questions.remove(id).filter(|put| !put.granted);
        put.ok_or_else(|| "it answers a question that nobody asked, or that has its answer".to_owned())
    }

    fn outcome(&mut self, outcome: &OutcomeEntry) -> Checked {
        let receipt = &outcome.receipt;
        require(receipt.receipt_id == outcome.call, "the receipt is another call's")?;
        let end = if receipt.is_unknown() { State::Unknown } else { State::Ended };
        match self.calls.insert(outcome.call.clone(), end) {
            Some(State::Ended | State::Unknown | State::Reconciled) => return Err("the call has ended before".into()),
            Some(State::Open(pending)) => {
                self.told.open -= 1;
                executed(outcome, &pending)?;
            }
            Some(State::Earlier) => self.told.open -= 1,
            None => refused(outcome)?,
        }
        let checked = self.signatures == Signatures::ByHead || receipt.verifies(self.key);
        require(checked, "the receipt's signature does not hold")?;
        self.told.receipts += 1;
        self.told.denials += u64::from(receipt.decision.result != Ruling::Allow);
        Ok(())
    }
}

/// A receipt for a call that ran must be about the intent on record.
fn executed(outcome: &OutcomeEntry, pending: &Pending) -> Checked {
    let receipt = &outcome.receipt;
    require(receipt.context.context_hash == Some(pending.intent), "the receipt's context is not the call's intent")?;
    require(receipt.action == pending.asked, "the receipt speaks of another action than the intent")?;
    require(receipt.decision.policy.hash == pending.policy, "the receipt names another policy than the intent")?;
    require(receipt.approval == pending.approval, "the receipt names another approval than the intent")?;
    require(receipt.decision.result == Ruling::Allow, "a call that was not allowed has an intent")?;
    require(receipt.execution.is_some(), "the receipt does not say how the call ended")
}

/// A yes is for the call that was asked about, under the policy that asked.
fn used(put: &Put, call: &Call, args: Digest, policy: Digest) -> Checked {
    let Put { question, granted } = put;
    require(*granted, "the intent uses a question that has no yes")?;
    let who = |call: &Call| {
        let subject = call.subject.clone();
        (
            call.action,
            call.resource.clone(),
            subject.org,
            subject.project,
            subject.agent,
            subject.session,
            subject.delegation,
        )
    };
    let same = who(&question.call) == who(call) && (question.args, question.about.policy()) == (args, policy);
    require(same, "the intent uses a yes that was given to another call or under another policy")
}

/// Without an intent nothing may have run.
fn refused(outcome: &OutcomeEntry) -> Checked {
    let receipt = &outcome.receipt;
    let ran = receipt.decision.result == Ruling::Allow
        || receipt.execution.is_some()
        || receipt.context.context_hash.is_some()
        || !outcome.posted.is_zero();
    require(!ran, "the call ran without an intent on record")
}

fn require(holds: bool, otherwise: &str) -> Checked {
    if holds { Ok(()) } else { Err(otherwise.to_owned()) }
}
