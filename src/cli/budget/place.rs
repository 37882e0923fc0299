//! Where the budgets are: a running gate, or a store that no gate uses.
//!
//! Looking at a store changes nothing and holds no lock. A change opens the gate of the store for a moment, under the
//! policy that was last in force there and no other: raising a cap must not put another policy into force.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hyper::Method;
use serde_json::{Value, json};

use crate::cli::client;
use crate::cli::compose::{self, SystemClock};
use crate::journal::{Questions, Reader, public_key};
use crate::ledger::AccountId;
use crate::model::{Amounts, Name};
use crate::pdp::Compiled;
use crate::pep::port::{Clock as _, Nobody, Order};
use crate::pep::{AnswerFault, Gate, GateFault, Replay, Reply, Statement};
use crate::surface::{Answered, Desk};

/// Who did it, for the record.
const BY: &str = "operator, at the store";

/// A gate, or a store without one.
pub(super) enum Place {
    Gate(client::Gate),
    Store(Store),
}

/// A store and the policy that it was used with.
pub(super) struct Store {
    folder: PathBuf,
    policy: Arc<Compiled>,
}

impl Place {
    pub(super) fn gate(url: &str, token: &Path) -> Result<Self, String> {
        client::Gate::new(url, token).map(Self::Gate)
    }

    pub(super) fn store(folder: PathBuf, policy: Option<&Path>) -> Result<Self, String> {
        let policy = policy.ok_or(
            "where no gate runs, --policy FILE names the policy that the store was last used with; \
             a running gate is asked with --url URL --token-file FILE",
        )?;
        Ok(Self::Store(Store { folder, policy: compose::policy(policy)? }))
    }

    /// Every account, as `GET /v1/budgets` tells it.
    pub(super) fn statement(&self) -> Result<Value, String> {
        match self {
            Self::Gate(gate) => gate.ask(Method::GET, "/v1/budgets", None),
            Self::Store(store) => Ok(json!(store.statement()?)),
        }
    }

    /// What clients report, as `GET /v1/reconciliation` tells it: only a gate that runs knows.
    pub(super) fn reconciliation(&self) -> Result<Value, String> {
        match self {
            Self::Gate(gate) => gate.ask(Method::GET, "/v1/reconciliation", None),
            Self::Store(_) => {
                Err("what clients report is known to a running gate only; give --url and --token-file".into())
            }
        }
    }

    /// What waits for a person, as `GET /v1/approvals` tells it.
    pub(super) fn approvals(&self) -> Result<Vec<Value>, String> {
        match self {
            Self::Gate(gate) => match gate.ask(Method::GET, "/v1/approvals", None)?["approvals"].take() {
                Value::Array(mut cards) => {
                    cards.iter_mut().for_each(|card| card["link"] = linked(gate, &card["link"]));
                    Ok(cards)
                }
                _ => Err("the gate's answer has no list of questions: it may be of another version".into()),
            },
            Self::Store(store) => {
                let Statement { at, questions, .. } = store.statement()?;
                Ok(store.desk().cards(&questions, at).iter().map(|card| json!(card)).collect())
            }
        }
    }

    /// Does what `POST /v1/budgets/{what}` does.
    pub(super) fn change(&self, what: &str, body: &Value) -> Result<Value, String> {
        match self {
            Self::Gate(gate) => gate.ask(Method::POST, &format!("/v1/budgets/{what}"), Some(body)),
            Self::Store(store) => store.change(what, body),
        }
    }

    /// Answers a question.
    pub(super) fn answer(&self, id: &Value, approve: bool, add: Option<u64>) -> Result<Value, String> {
        let id = compose::name("question", id.as_str().unwrap_or_default())?;
        let body = add.map_or_else(|| json!({"approve": approve}), |add| json!({"approve": approve, "add": add}));
        match self {
            Self::Gate(gate) => gate.ask(Method::POST, &format!("/v1/approvals/{}", client::part(&id)), Some(&body)),
            Self::Store(store) => store.answer(&id, approve, add),
        }
    }
}

impl Store {
    fn desk(&self) -> Desk {
        Desk::keeping(Box::new(Questions::of(&self.folder)))
    }

    /// Every entry, verified and folded.
    fn statement(&self) -> Result<Statement, String> {
        // First of all whether there is one: a folder without a journal has no key either.
        let reader = Reader::open(&self.folder).map_err(|fault| fault.to_string())?;
        let key = public_key(&self.folder)?;
        let mut replay = Replay::auditing(&key);
        let head = reader.replay(&mut |text| drop(replay.add(text))).map_err(|fault| fault.to_string())?;
        replay
            .statement(head.as_ref(), self.policy.clone(), SystemClock.now())
            .map_err(|bad| format!("the journal does not verify: {bad}\nRun `weir audit verify` on it."))
    }

    /// The gate of the store, for one change.
    fn open(&self) -> Result<Gate, String> {
        let before = self.statement()?.policy;
        if before.is_some_and(|digest| digest != self.policy.policy().digest) {
            return Err("the store was last used with another policy: give that one with --policy. Putting a new \
                policy into force is for `weir serve`"
                .to_owned());
        }
        compose::gate(self.policy.clone(), &self.folder, Box::new(Nobody))
            .map_err(|fault| format!("{fault}\nIf a gate runs here, ask it instead: --url URL --token-file FILE"))
    }

    fn change(&self, what: &str, body: &Value) -> Result<Value, String> {
        let gate = self.open()?;
        let text = |key: &str| body[key].as_str().unwrap_or_default();
        let account = || AccountId::parse(text("account")).map_err(|fault| fault.to_string());
        let done = |result: Result<(), GateFault>| result.map(|()| json!({})).map_err(|fault| fault.to_string());
        match what {
            "raise" => {
                let by = body["by"].as_u64().unwrap_or_default();
                done(gate.raise_budget(text("budget"), &account()?, by, BY))
            }
            _ if let Some(order) = Order::from_word(what) => {
                // The gates that share budgets with this one have stores of their own, and do not hear of it.
                let shares = self.policy.policy().budgets.iter().any(|budget| budget.shared.is_some());
                let reach = if shares { "store" } else { "gate" };
                let done = gate.follow(order, &account()?, BY);
                done.map(|()| json!({"reach": reach})).map_err(|fault| fault.to_string())
            }
            _ => {
                let used: Amounts = serde_json::from_value(body["used"].clone()).map_err(|error| error.to_string())?;
                let posted = gate.reconcile(&compose::name("call", text("call"))?, used, BY);
                posted.map(|posted| json!({"posted": posted})).map_err(|fault| fault.to_string())
            }
        }
    }

    fn answer(&self, id: &Name, approve: bool, add: Option<u64>) -> Result<Value, String> {
        let gate = self.open()?;
        let reply = match (approve, add) {
            (false, _) => Reply::No,
            (true, None) => Reply::Yes,
            (true, Some(add)) => Reply::YesBy(add),
        };
        match self.desk().answer(&gate, id, reply, &format!("{BY}, approval {id}")) {
            Answered::Taken => Ok(json!({})),
            Answered::Gone => Err(AnswerFault::Gone.to_string()),
            Answered::NotApprovable => Err("this call cannot be shown whole, so it can only be refused".to_owned()),
            Answered::Failed(fault) => Err(fault.to_string()),
        }
    }
}

/// The whole link of a question, where a browser can reach the gate.
fn linked(gate: &client::Gate, link: &Value) -> Value {
    gate.web().zip(link.as_str()).map(|(base, link)| format!("{base}{link}")).into()
}
