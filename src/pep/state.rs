//! The gate's state: a fold over the journal, whether read back or just written.
//!
//! `admitted` and `ended` are the only ways in which it changes; the live line and the replay at
//! start both go through them, so that replay is the state.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::docket::Docket;
use super::lasting::Lasting;
use super::snapshot::Taken;
use crate::audit::{Body, Chain, Entry, OutcomeEntry, Receipt};
use crate::ledger::{AccountId, Ledger, ReplayFault, named};
use crate::model::{Action, Amounts, Call, CallId, Digest, Evidence, Name, Subject, Timestamp};
use crate::pip::Session;
use crate::risk::Posterior;

/// Receipts that are kept at hand; older ones are in the journal.
const RECENT: usize = 1_000;

/// Surfaces on which a host says itself what its calls used.
const HOSTED: [&str; 2] = ["http", "hook"];

/// Everything that the gate knows. Its serialised form leaves out the ids used so far: see [`Ledger`].
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    pub chain: Chain,
    pub ledger: Ledger,
    pub posterior: Posterior,
    /// By account, so that two agents which use one name for a session share neither labels nor consent.
    pub sessions: BTreeMap<AccountId, Session>,
    /// What people were asked, and what they said that no call has used yet.
    pub docket: Docket,
    /// Calls with an intent and no outcome yet, without their arguments.
    pub open: BTreeMap<CallId, Call>,
    /// Those of them that go on elsewhere when the gate stops.
    pub lasting: BTreeMap<CallId, Lasting>,
    pub recent: VecDeque<Receipt>,
    pub policy: Option<Digest>,
    /// Set for good once the journal has failed: nothing runs without a durable record.
    #[serde(skip)]
    pub failed: Option<String>,
    /// What the newest snapshot stands for.
    #[serde(skip)]
    pub taken: Taken,
}

impl State {
    /// Folds one entry that was read back.
    ///
    /// # Errors
    /// The ledger cannot take it: it holds an id twice, or ends what nothing holds.
    pub fn replay(&mut self, entry: &Entry) -> Result<(), ReplayFault> {
        let at = entry.at;
        match &entry.body {
            Body::Open { .. } | Body::Checkpoint { .. } => {}
            Body::Policy { digest, windows, .. } => {
                self.policy = Some(*digest);
                self.ledger.watch(windows, at);
            }
            Body::Intent { call, held, approval, question, .. } => {
                self.ledger.replay_intent(&call.id, &call.subject, *held, at)?;
                self.admitted(call, approval.is_some(), question.as_ref());
                self.lasts(&entry.body);
            }
            Body::Ask { .. } | Body::Answer { .. } | Body::Raise { .. } => self.asked(at, &entry.body)?,
            Body::Freeze { account, by, from } => drop(self.ledger.bar(&named(account)?, false, by, from, at)),
            Body::Revoke { account, by, from } => drop(self.ledger.bar(&named(account)?, true, by, from, at)),
            Body::Bypass { account, evidence, .. } => self.reported(named(account)?, evidence),
            Body::Thaw { account, lifts, .. } => drop(self.ledger.thaw(&named(account)?, *lifts)),
            Body::Part { call, part, posted } => self.ledger.replay_part(call, *part, *posted, at)?,
            Body::Reconcile { call, posted, .. } => self.ledger.reconcile(call, *posted, at)?,
            Body::Allowance { pot, held } => self.ledger.allow(pot, held.of(pot.kind)),
            Body::Join { .. } => {}
            Body::Fork { subject, from } => self.forked(subject, from),
            Body::Outcome(outcome) => {
                if outcome.receipt.is_unknown() {
                    self.ledger.replay_unknown(&outcome.call, outcome.posted, at)?;
                } else {
                    self.ledger.replay_outcome(&outcome.call, outcome.posted, at)?;
                }
                self.ended(outcome);
            }
            Body::Expire { call, posted, evidence } => {
                self.ledger.replay_unknown(call, *posted, at)?;
                self.expired(call, posted, evidence);
            }
        }
        Ok(())
    }

    /// Notes that the session of `subject` began as a copy of `from`: variables carry what labels forbid to
    /// pass on, so labels go where variables go.
    pub fn forked(&mut self, subject: &Subject, from: &Name) {
        let source = session_of(&Subject { session: from.clone(), ..subject.clone() });
        let inherited = self.sessions.get(&source).cloned().unwrap_or_default();
        self.sessions.entry(session_of(subject)).or_default().inherit(inherited);
    }

    /// Folds what was asked and what was said, at the time `at`.
    ///
    /// # Errors
    /// A raise of something that is no account.
    pub fn asked(&mut self, at: Timestamp, body: &Body) -> Result<(), ReplayFault> {
        match body {
            Body::Ask { question } => self.docket.ask(at, (**question).clone()),
            Body::Answer { question, verdict, by, until } => self.docket.answer(question, *verdict, by, *until),
            Body::Raise { budget, account, by, window, approval, question } => {
                self.ledger.raise(budget, &named(account)?, *by, *window, at);
                if let Some(question) = question {
                    self.docket.raised(question, approval);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Notes that a call was admitted; its amounts are held already. A yes that it `used` is used up.
    pub fn admitted(&mut self, call: &Call, approved: bool, used: Option<&Name>) {
        if let Some(question) = used {
            self.docket.close(question);
        }
        self.sessions.entry(session_of(&call.subject)).or_default().admit(approved);
        self.open.insert(call.id.clone(), call.bare());
    }

    /// Notes an intent, which was the entry before, of a call that goes on elsewhere when the gate stops.
    pub fn lasts(&mut self, intent: &Body) {
        self.lasting.extend(Lasting::of(intent, self.chain.head()));
    }

    /// Notes that a call ended with an unknown outcome; its amounts are posted already.
    pub fn expired(&mut self, call: &CallId, posted: &Amounts, evidence: &Evidence) {
        self.lasting.remove(call);
        if let Some(call) = self.open.remove(call) {
            if is_metered(call.action, &call.surface) {
                self.sessions.entry(session_of(&call.subject)).or_default().models.add(posted, true);
            }
            self.observe(session_of(&call.subject), evidence, &[]);
        }
    }

    /// Notes that a call has ended; its amounts are settled already.
    pub fn ended(&mut self, outcome: &OutcomeEntry) {
        self.open.remove(&outcome.call);
        self.lasting.remove(&outcome.call);
        let asked = &outcome.receipt.action.requester_context;
        let subject = Subject {
            org: asked.organisation.clone(),
            project: asked.project.clone(),
            agent: asked.agent.clone(),
            session: asked.session.clone(),
            run: asked.scope.clone(),
            delegation: Vec::new(),
        };
        let account = session_of(&subject);
        if outcome.receipt.execution.is_some() && is_metered(outcome.receipt.action.operation, &asked.service) {
            let meter = &mut self.sessions.entry(account.clone()).or_default().models;
            meter.add(&outcome.posted, outcome.receipt.is_unknown());
        }
        self.observe(account, &outcome.evidence, &outcome.labels);
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(outcome.receipt.clone());
    }

    /// Notes what ran past the gate in a session, as a client tells.
    pub fn reported(&mut self, session: AccountId, evidence: &Evidence) {
        self.observe(session, evidence, &[]);
    }

    /// Adds what a call showed to its session and to the scores.
    fn observe(&mut self, session: AccountId, evidence: &Evidence, labels: &[String]) {
        self.sessions.entry(session).or_default().observe(evidence, labels);
        self.posterior.observe(evidence);
    }

    /// What is remembered of the session of `subject`.
    pub fn session(&self, subject: &Subject) -> Option<&Session> {
        self.sessions.get(&session_of(subject))
    }
}

/// Whether what a call used is what the gate itself has seen: a generation, and not one that a host reports.
fn is_metered(action: Action, surface: &Name) -> bool {
    action == Action::ModelGenerate && !HOSTED.contains(&surface.as_str())
}

/// The account of the session of `subject`.
fn session_of(subject: &Subject) -> AccountId {
    AccountId::session(subject)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Giver, Happened, Kind, Lifts, Millis, Resource, Tier, Watch, Window};

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    fn call(id: &str) -> Call {
        let (org, agent, session, run) = (name("o"), name("a"), name("s"), name("r"));
        Call {
            id: name(id),
            subject: Subject { org, project: None, agent, session, run, delegation: vec![name("helper")] },
            action: Action::ToolCall,
            resource: Resource::named(name("look")),
            args: serde_json::Map::new(),
            parent: None,
            surface: name("test"),
        }
    }

    fn evidence(at: Timestamp) -> Evidence {
        Evidence {
            session: name("s"),
            at,
            action: Action::ToolCall,
            effect: None,
            resource: name("look"),
            happened: Happened::Unknown,
            labels: vec!["seen".into()],
            action_digest: Digest::of(b"deed"),
            input_digest: Digest::of(b"input"),
            delegation: 1,
            protected_path: false,
            earlier_state: false,
            traceable: false,
        }
    }

    fn held(usd: u64) -> Amounts {
        Amounts::ZERO.with(Kind::MicroUsd, usd).with(Kind::MemoryBytes, u64::MAX)
    }

    fn life() -> Vec<Body> {
        let watch = |window| Watch { tier: Tier::Session, kind: Kind::MicroUsd, window, limit: u64::MAX };
        let span = Millis(60_000);
        let windows = [Window::Every(span), Window::Rolling(span), Window::Refill(span)].map(watch).to_vec();
        let intent = |id: &str, usd| Body::intent(&call(id), Digest::ZERO, held(usd), None);
        let (account, by) = ("o/a/s/~helper".to_owned(), "operator".to_owned());
        let reported = Evidence { happened: Happened::Reported, ..evidence(Timestamp(10)) };
        let raise = |budget: &str, window: Window| {
            let by = Amounts::ZERO.with(Kind::MicroUsd, 1 << 60);
            let text = serde_json::json!({
                "kind": "raise", "budget": budget, "account": "o/a/s", "by": by, "window": window, "approval": "yes",
            });
            serde_json::from_value(text).unwrap()
        };
        vec![
            Body::Policy { id: name("p"), digest: Digest::ZERO, before: None, windows },
            intent("one", 70),
            intent("two", 7),
            raise("total", Window::Total),
            raise("each", Window::Every(span)),
            raise("bucket", Window::Refill(span)),
            Body::Part { call: name("one"), part: 1, posted: Amounts::ZERO.with(Kind::MicroUsd, 30) },
            Body::Expire { call: name("two"), posted: held(7), evidence: evidence(Timestamp(9)) },
            Body::Bypass { account: "o/a/s".to_owned(), by: by.clone(), evidence: reported },
            Body::Freeze { account: account.clone(), by: by.clone(), from: Giver::Here },
            Body::Freeze { account: account.clone(), by: by.clone(), from: Giver::Gate("g".into()) },
            Body::Thaw { account: account.clone(), by: by.clone(), from: Giver::Gate("g".into()), lifts: Lifts::Round },
            Body::Freeze { account: "o".into(), by: by.clone(), from: Giver::Office },
            Body::Revoke { account: "o".into(), by, from: Giver::Here },
        ]
    }

    fn folded(state: &mut State, bodies: &[Body], from: u64) {
        for (seq, body) in (from..).zip(bodies) {
            let entry = Entry { seq, prev: Digest::ZERO, at: Timestamp(1_000_000 + seq * 700), body: body.clone() };
            state.replay(&entry).unwrap();
        }
    }

    #[test]
    fn a_state_that_was_written_down_goes_on_alike() {
        let text = |state: &State| serde_json::to_string(state).unwrap();
        let bodies = life();
        for at in 0..=bodies.len() {
            let (first, rest) = bodies.split_at(at);
            let mut whole = State::default();
            folded(&mut whole, first, 0);
            let mut read: State = serde_json::from_str(&text(&whole)).unwrap();
            assert_eq!(text(&read), text(&whole));
            whole.ledger.prints().for_each(|print| read.ledger.mark(print));
            folded(&mut whole, rest, at as u64);
            folded(&mut read, rest, at as u64);
            assert_eq!(text(&read), text(&whole), "written down before entry {at}");
        }
    }
}
