//! What an operator does to budgets over HTTP, and what agents see of it.

use serde_json::{Value, json};
use weir::model::{Action, Amounts, Kind};
use weir::policy::Cost;

use crate::rig::{AGENT, Entries, OPERATOR, Reply, Rig, eventually};
use std::sync::atomic::Ordering;

fn operate(rig: &Rig, what: &str, body: Value) -> Reply {
    rig.ask(OPERATOR, "POST", &format!("/v1/budgets/{what}"), Some(body))
}

fn decide(rig: &Rig, session: &str) -> Value {
    rig.post("/v1/decide", json!({"session": session, "action": Action::ToolCall, "resource": "paid"})).json()
}

fn account(rig: &Rig, id: &str) -> Value {
    let statement = rig.get("/v1/budgets").json();
    let lines = statement["accounts"].as_array().unwrap();
    lines.iter().find(|line| line["account"] == id).unwrap_or_else(|| panic!("no {id}")).clone()
}

#[test]
fn an_operator_raises_a_budget_of_one_account_and_an_agent_does_not() {
    let rig = Rig::start(|_| {});
    let (one, two) = (rig.session(), rig.session());
    for session in [&one, &two] {
        assert_eq!(decide(&rig, session)["effect"], "allow");
        assert_eq!(decide(&rig, session)["effect"], "allow");
        assert_eq!(decide(&rig, session)["reason"], "budget_exhausted", "25 micro-USD are two calls of 10");
    }
    let raise = json!({"budget": "money", "account": format!("acme/coder/{one}"), "by": 5});
    assert_eq!(rig.post("/v1/budgets/raise", raise.clone()).code(), "forbidden");
    assert_eq!(operate(&rig, "raise", raise).json(), json!({}));
    assert_eq!(account(&rig, &format!("acme/coder/{one}"))["limits"][0]["limit"], 30);
    assert_eq!(decide(&rig, &one)["effect"], "allow");
    assert_eq!(decide(&rig, &two)["reason"], "budget_exhausted", "another account has what it had");
    for (body, code) in [
        (json!({"budget": "none", "account": "acme", "by": 5}), "conflict"),
        (json!({"budget": "money", "account": "acme/coder", "by": 5}), "conflict"),
        (json!({"budget": "money", "account": format!("acme/coder/{one}"), "by": 0}), "conflict"),
        (json!({"budget": "money", "account": "acme//x", "by": 5}), "malformed"),
        (json!({"budget": "money", "account": "acme", "by": -5}), "malformed"),
        (json!({"budget": "money", "account": "acme"}), "malformed"),
    ] {
        assert_eq!(operate(&rig, "raise", body.clone()).code(), code, "{body}");
    }
}

#[test]
fn a_frozen_account_takes_nothing_new_and_a_revoked_one_never_again() {
    let rig = Rig::start(|_| {});
    let (one, two) = (rig.session(), rig.session());
    let of = |session: &str| json!({"account": format!("acme/coder/{session}")});
    for what in ["freeze", "thaw", "revoke"] {
        assert_eq!(rig.ask(AGENT, "POST", &format!("/v1/budgets/{what}"), Some(of(&one))).code(), "forbidden");
    }
    assert_eq!(operate(&rig, "freeze", of(&one)).json(), json!({"reach": "gate"}));
    let denied = decide(&rig, &one);
    assert_eq!(denied["reason"], "account_frozen", "{denied}");
    assert_eq!(decide(&rig, &two)["effect"], "allow");
    let line = account(&rig, &format!("acme/coder/{one}"));
    assert_eq!((&line["closed"]["revoked"], &line["closed"]["by"]), (&json!(false), &json!("operator")));
    assert_eq!(operate(&rig, "thaw", of(&one)).json(), json!({"reach": "gate"}));
    assert_eq!(operate(&rig, "thaw", of(&one)).code(), "conflict", "it is not frozen");
    assert_eq!(decide(&rig, &one)["effect"], "allow");

    // What runs on a revoked account is told to stop.
    let spinning = std::thread::scope(|scope| {
        let spinning = scope.spawn(|| rig.execute(&one, "spin").json());
        eventually("started", || rig.script.started.load(Ordering::SeqCst) == 1);
        assert_eq!(operate(&rig, "revoke", json!({"account": "acme/coder"})).json(), json!({"reach": "gate"}));
        spinning.join().unwrap()
    });
    assert_eq!((&spinning["status"], rig.script.stopped.load(Ordering::SeqCst)), (&json!("broken"), 1));
    for session in [&one, &two] {
        assert_eq!(decide(&rig, session)["reason"], "account_revoked");
    }
    assert_eq!(operate(&rig, "thaw", json!({"account": "acme/coder"})).code(), "conflict");
    assert_eq!(rig.execute(&two, "print x").json()["reason"], "account_revoked");
}

#[test]
fn every_subagent_has_a_line_of_its_own_and_a_forecast_says_when_the_cap_comes() {
    let rig = Rig::start(|setup| {
        setup.policy.peers.max_depth = 1;
        setup.policy.tools.get_mut("paid").unwrap().cost = Cost(Amounts::ZERO.with(Kind::MicroUsd, 5));
    });
    let session = rig.session();
    let body = json!({"tools": [{"name": "paid"}], "parent": session, "name": "researcher"});
    let below = rig.post("/v1/sessions", body).json()["session"].as_str().unwrap().to_owned();
    for who in [&session, &below, &below] {
        let call = decide(&rig, who)["call"].clone();
        let report = json!({"call": call, "status": "done", "usage": {"micro_usd": 5}});
        assert_eq!(rig.post("/v1/outcome", report).status, 200);
    }
    let own = account(&rig, &format!("acme/coder/{session}"));
    assert_eq!(own["posted"]["micro_usd"], 15, "what a subagent spends counts above it");
    let researcher = account(&rig, &format!("acme/coder/{session}/~researcher"));
    assert_eq!((&researcher["tier"], &researcher["posted"]["micro_usd"]), (&json!("subagent"), &json!(10)));
    // 15 in these five minutes, 10 left: 200 s, and a little more where the five minutes have just ended.
    let forecast = own["limits"][0]["forecast_ms"].as_u64().unwrap();
    assert!((200_000..210_000).contains(&forecast), "{forecast} ms");
}

#[test]
fn an_unknown_outcome_is_reconciled_once_and_survives_a_restart() {
    let journal = Entries::default();
    let (session, call) = {
        let rig = Rig::start(|setup| setup.journal = journal.clone());
        let session = rig.session();
        let call = decide(&rig, &session)["call"].clone();
        assert_eq!(operate(&rig, "reconcile", json!({"call": call, "used": {}})).code(), "conflict", "it still runs");
        rig.post("/v1/outcome", json!({"call": call, "status": "unknown"}));
        assert_eq!(rig.get("/v1/budgets").json()["doubts"][0]["posted"]["micro_usd"], 10);
        (session, call)
    };
    let rig = Rig::start(|setup| setup.journal = journal.clone());
    let name = format!("acme/coder/{session}");
    assert_eq!(account(&rig, &name)["posted"]["micro_usd"], 10, "unknown is spent");
    let used = json!({"call": call, "used": {"micro_usd": 3}});
    assert_eq!(rig.post("/v1/budgets/reconcile", used.clone()).code(), "forbidden");
    assert_eq!(operate(&rig, "reconcile", used.clone()).json()["posted"]["micro_usd"], 3);
    assert_eq!(account(&rig, &name)["posted"]["micro_usd"], 3);
    assert_eq!(operate(&rig, "reconcile", used).code(), "conflict", "once");
    assert_eq!(rig.get("/v1/budgets").json()["doubts"], json!([]));
}
