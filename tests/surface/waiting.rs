//! Questions that outlive the gate that put them: the person answers later, and the same call, tried again, goes on.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use weir::model::{Effect, Millis, Name};
use weir::pep::port::{Drawer, JournalFault};
use weir::surface::Desk;

use crate::rig::{Entries, OPERATOR, Reply, Rig, eventually};

/// A drawer that a second gate finds as the first one left it.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<BTreeMap<Name, String>>>);

impl Drawer for Shared {
    fn put(&self, id: &Name, text: &str) -> Result<(), JournalFault> {
        self.0.lock().unwrap().insert(id.clone(), text.to_owned());
        Ok(())
    }

    fn get(&self, id: &Name) -> Option<String> {
        self.0.lock().unwrap().get(id).cloned()
    }

    fn keep_only(&self, these: &[Name]) {
        self.0.lock().unwrap().retain(|id, _| these.contains(id));
    }

    fn remove(&self, id: &Name) {
        self.0.lock().unwrap().remove(id);
    }
}

/// What outlives a gate.
#[derive(Clone, Default)]
struct Store {
    journal: Entries,
    drawer: Shared,
}

impl Store {
    fn start(&self) -> Rig {
        self.start_later(0)
    }

    /// A gate that starts so many milliseconds from now.
    fn start_later(&self, later: u64) -> Rig {
        Rig::start(|setup| {
            setup.later = later;
            setup.journal = self.journal.clone();
            setup.config.desk = Desk::keeping(Box::new(self.drawer.clone()));
            setup.policy.approvals.timeout = Millis(60_000);
            setup.policy.budgets.iter_mut().filter(|b| b.id == "money").for_each(|b| b.at_cap = Effect::Ask);
        })
    }

    fn kept(&self) -> usize {
        self.drawer.0.lock().unwrap().len()
    }
}

fn waiting(rig: &Rig) -> Vec<Value> {
    rig.ask(OPERATOR, "GET", "/v1/approvals", None).json()["approvals"].as_array().unwrap().clone()
}

fn answer(rig: &Rig, id: &Value, body: Value) -> Reply {
    rig.ask(OPERATOR, "POST", &format!("/v1/approvals/{}", id.as_str().unwrap()), Some(body))
}

fn decide(rig: &Rig, session: &str, tool: &str, secret: &str) -> Value {
    let body = json!({"session": session, "action": "tool.call", "resource": tool, "args": {"word": secret}});
    rig.post("/v1/decide", body).json()
}

/// Asks, and stops the gate while the question waits.
fn interrupted(store: &Store, tool: &str, calls_before: usize) -> String {
    let mut rig = store.start();
    let session = rig.session();
    for _ in 0..calls_before {
        assert_eq!(decide(&rig, &session, tool, "swordfish")["effect"], "allow");
    }
    let denied = std::thread::scope(|scope| {
        let asking = scope.spawn(|| decide(&rig, &session, tool, "swordfish"));
        eventually("asked", || waiting(&rig).len() == 1);
        assert_eq!(waiting(&rig)[0]["attended"], true);
        rig.stop();
        asking.join().unwrap()
    });
    assert_eq!((&denied["effect"], &denied["reason"]), (&json!("deny"), &json!("approval_pending")), "{denied}");
    rig.ended();
    session
}

fn resume(rig: &Rig, session: &str) -> Reply {
    rig.post("/v1/sessions", json!({"tools": [{"name": "risky"}, {"name": "paid"}], "resume": session}))
}

#[test]
fn an_approval_given_after_a_restart_is_for_the_same_call_and_for_one() {
    let store = Store::default();
    let session = interrupted(&store, "risky", 0);
    let rig = store.start();
    let card = &waiting(&rig)[0];
    assert_eq!((&card["attended"], &card["approvable"]), (&json!(false), &json!(true)));
    assert_eq!(card["args"], "{\n  \"word\": \"swordfish\"\n}", "shown as it was asked");
    assert!(card["why"].as_str().unwrap().contains("person") && card["expires_in_ms"].as_u64().unwrap() <= 60_000);
    assert!(!store.journal.text().contains("swordfish"), "no argument in the journal");
    assert_eq!(resume(&rig, &session).status, 201, "a session about which a person was asked comes back");
    assert_eq!(answer(&rig, &card["id"], json!({"approve": true})).json(), json!({}));
    assert_eq!((waiting(&rig).len(), store.kept()), (0, 0));

    // Another call is another question; this one goes on, once.
    std::thread::scope(|scope| {
        let other = scope.spawn(|| decide(&rig, &session, "risky", "sesame"));
        eventually("asked", || waiting(&rig).len() == 1);
        assert_eq!(decide(&rig, &session, "risky", "swordfish")["effect"], "allow", "nobody is asked again");
        answer(&rig, &waiting(&rig)[0]["id"], json!({"approve": false}));
        assert_eq!(other.join().unwrap()["reason"], "approval_refused");
        let again = scope.spawn(|| decide(&rig, &session, "risky", "swordfish"));
        eventually("asked again", || waiting(&rig).len() == 1);
        answer(&rig, &waiting(&rig)[0]["id"], json!({"approve": false}));
        assert_eq!(again.join().unwrap()["reason"], "approval_refused", "a yes is used once");
    });
    assert_eq!(decide(&rig, &session, "risky", "swordfish")["reason"], "approval_refused", "a no stands for its time");
    assert!(waiting(&rig).is_empty());
}

#[test]
fn a_call_that_comes_back_first_takes_its_question_over() {
    let store = Store::default();
    let session = interrupted(&store, "risky", 0);
    let rig = store.start();
    let before = waiting(&rig)[0]["id"].clone();
    resume(&rig, &session);
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| decide(&rig, &session, "risky", "swordfish"));
        eventually("taken over", || waiting(&rig).first().is_some_and(|card| card["attended"] == true));
        assert_eq!((waiting(&rig).len(), &waiting(&rig)[0]["id"]), (1, &before), "one question, not two");
        answer(&rig, &before, json!({"approve": true}));
        assert_eq!(asking.join().unwrap()["effect"], "allow");
    });
}

#[test]
fn a_question_at_the_cap_survives_and_its_yes_raises_the_budget() {
    let store = Store::default();
    let session = interrupted(&store, "paid", 2);
    let rig = store.start();
    let card = &waiting(&rig)[0];
    let account = format!("acme/coder/{session}");
    assert_eq!(card["raise"], json!({"budget": "money", "account": account, "by": {"micro_usd": 25}}));
    assert_eq!(answer(&rig, &card["id"], json!({"approve": true, "add": 0})).code(), "conflict");
    assert_eq!(answer(&rig, &card["id"], json!({"approve": false, "add": 5})).code(), "malformed");
    assert_eq!(answer(&rig, &card["id"], json!({"approve": true, "add": 5})).json(), json!({}));
    resume(&rig, &session);
    assert_eq!(decide(&rig, &session, "paid", "swordfish")["effect"], "allow", "25 + 5 micro-USD pay for three");
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| decide(&rig, &session, "paid", "swordfish"));
        eventually("asked", || waiting(&rig).len() == 1);
        answer(&rig, &waiting(&rig)[0]["id"], json!({"approve": false}));
        assert_eq!(asking.join().unwrap()["reason"], "approval_refused");
    });
}

#[test]
fn a_question_that_the_call_needs_no_more_is_taken_back() {
    let store = Store::default();
    let session = interrupted(&store, "paid", 2);
    let rig = store.start();
    let raise = json!({"budget": "money", "account": format!("acme/coder/{session}"), "by": 5});
    assert_eq!(rig.ask(OPERATOR, "POST", "/v1/budgets/raise", Some(raise)).json(), json!({}));
    assert_eq!(waiting(&rig).len(), 1, "a raise answers nothing that was asked");
    resume(&rig, &session);
    assert_eq!(decide(&rig, &session, "paid", "swordfish")["effect"], "allow");
    assert!(waiting(&rig).is_empty(), "a late yes would raise the cap for nothing");
}

#[test]
fn what_cannot_be_shown_after_a_restart_can_only_be_refused() {
    let store = Store::default();
    interrupted(&store, "risky", 0);
    let kept: Vec<Name> = store.drawer.0.lock().unwrap().keys().cloned().collect();
    let text = store.drawer.get(&kept[0]).unwrap().replace("swordfish", "harmless");
    store.drawer.put(&kept[0], &text).unwrap();
    let rig = store.start();
    let card = &waiting(&rig)[0];
    assert_eq!((&card["approvable"], &card["args"]), (&json!(false), &json!("")), "changed is as good as gone");
    assert_eq!(answer(&rig, &card["id"], json!({"approve": true})).code(), "conflict");
    assert_eq!(answer(&rig, &card["id"], json!({"approve": false})).json(), json!({}));
    assert_eq!(answer(&rig, &card["id"], json!({"approve": false})).code(), "not_found");
}

#[test]
fn a_question_expires_while_nobody_runs() {
    let store = Store::default();
    let session = interrupted(&store, "risky", 0);
    let rig = store.start_later(60_000);
    assert!(waiting(&rig).is_empty(), "it has expired to a no");
    assert_eq!(store.kept(), 0, "and nothing is kept of it");
    assert_eq!(resume(&rig, &session).status, 404, "nothing is kept of the session either");
}
