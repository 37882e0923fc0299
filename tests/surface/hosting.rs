//! Calls that the host runs itself, questions to a person, evaluations.

use std::time::{Duration, Instant};

use crate::rig::{AGENT, OPERATOR, Reply, Rig, eventually, request};
use serde_json::{Value, json};
use weir::model::Millis;

fn decide(rig: &Rig, session: &str, tool: &str) -> Value {
    rig.post("/v1/decide", json!({"session": session, "action": "tool.call", "resource": tool, "args": {"x": 1}}))
        .json()
}

/// Posted and pending micro-USD of the session.
fn money(rig: &Rig) -> (u64, u64) {
    let budgets = rig.get("/v1/budgets").json();
    let account =
        budgets["accounts"].as_array().unwrap().iter().find(|account| account["tier"] == "session").unwrap().clone();
    let of = |side: &str| account[side]["micro_usd"].as_u64().unwrap_or(0);
    (of("posted"), of("pending"))
}

#[test]
fn a_decided_call_holds_until_its_outcome_and_takes_one() {
    let rig = Rig::start(|_| {});
    let session = rig.session();
    let allowed = decide(&rig, &session, "paid");
    assert_eq!((&allowed["effect"], &allowed["denial"]), (&json!("allow"), &Value::Null));
    assert_eq!(money(&rig), (0, 10));
    let report = json!({"call": allowed["call"], "status": "done", "usage": {"micro_usd": 7},
        "result_digest": format!("sha256:{}", "ab".repeat(32))});
    let recorded = rig.post("/v1/outcome", report.clone());
    assert_eq!(recorded.json()["receipt"], allowed["call"]);
    assert_eq!(money(&rig), (7, 0));
    let receipt = rig.get(&format!("/v1/receipts/{}", allowed["call"].as_str().unwrap())).json();
    assert_eq!(receipt["execution"]["result"], format!("sha256:{}", "ab".repeat(32)));
    assert_eq!(rig.post("/v1/outcome", report).code(), "not_found", "an outcome is reported once");
    let denied = decide(&rig, &session, "rm");
    assert_eq!(denied["effect"], "deny");
    assert!(denied["denial"].as_str().unwrap().starts_with("[weir] denied tool rm"), "{denied}");
    assert_eq!(denied["receipt"], denied["call"]);
    assert_eq!(rig.post("/v1/outcome", json!({"call": denied["call"], "status": "done"})).status, 404);
    let third = decide(&rig, &session, "paid");
    for wrong in [json!({"usage": {"gold": 1}}), json!({"usage": {"micro_usd": -1}}), json!({"status": "great"})] {
        let mut report = json!({"call": third["call"], "status": "done"});
        report.as_object_mut().unwrap().extend(wrong.as_object().unwrap().clone());
        assert_eq!(rig.post("/v1/outcome", report).status, 400);
    }
    assert_eq!(money(&rig), (7, 10), "a malformed report ends nothing");
    let silent = rig.post("/v1/outcome", json!({"call": third["call"], "status": "failed"}));
    assert_eq!(silent.status, 200);
    assert_eq!(money(&rig), (17, 0), "unreported cost is taken at the worst");
    assert_eq!(decide(&rig, &session, "paid")["effect"], "deny", "the cap holds");
}

#[test]
fn a_call_without_an_outcome_ends_as_unknown() {
    let rig = Rig::start(|setup| setup.config.outcome_within = Duration::from_millis(300));
    let session = rig.session();
    let allowed = decide(&rig, &session, "paid");
    assert_eq!(money(&rig), (0, 10));
    eventually("ended", || money(&rig) == (10, 0));
    assert_eq!(rig.post("/v1/outcome", json!({"call": allowed["call"], "status": "done"})).status, 404);
    let receipt = rig.get(&format!("/v1/receipts/{}", allowed["call"].as_str().unwrap())).json();
    assert_eq!(receipt["execution"]["status"], "unknown");
}

/// What waits for the operator.
fn waiting(rig: &Rig) -> Vec<Value> {
    rig.ask(OPERATOR, "GET", "/v1/approvals", None).json()["approvals"].as_array().unwrap().clone()
}

fn verdict(rig: &Rig, token: &str, id: &Value, approve: bool) -> Reply {
    rig.ask(token, "POST", &format!("/v1/approvals/{}", id.as_str().unwrap()), Some(json!({"approve": approve})))
}

#[test]
fn only_the_operator_approves_and_only_once() {
    let rig = Rig::start(|_| {});
    let session = rig.session();
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| decide(&rig, &session, "risky"));
        eventually("asked", || waiting(&rig).len() == 1);
        let entry = &waiting(&rig)[0];
        assert_eq!((&entry["resource"], &entry["action"]), (&json!("risky"), &json!("tool.call")));
        assert_eq!(entry["args"], "{\n  \"x\": 1\n}");
        assert!(
            entry["digest"].as_str().unwrap().starts_with("sha256:")
                && entry["why"].as_str().unwrap().contains("person")
        );
        let id = &entry["id"];
        assert_eq!(rig.get("/v1/approvals").status, 403);
        assert_eq!(verdict(&rig, AGENT, id, true).status, 403, "the agent cannot approve its own call");
        assert_eq!(verdict(&rig, "", id, true).status, 401);
        assert_eq!(verdict(&rig, OPERATOR, &json!("00"), true).status, 404);
        assert!(!asking.is_finished());
        assert_eq!(verdict(&rig, OPERATOR, id, true).json(), json!({}));
        let allowed = asking.join().unwrap();
        assert_eq!(allowed["effect"], "allow");
        assert_eq!(verdict(&rig, OPERATOR, id, true).status, 404, "a replayed approval");
        rig.post("/v1/outcome", json!({"call": allowed["call"], "status": "done"}));

        let asking = scope.spawn(|| decide(&rig, &session, "risky"));
        eventually("asked", || waiting(&rig).len() == 1);
        assert_ne!(&waiting(&rig)[0]["id"], id, "every question has its own id");
        verdict(&rig, OPERATOR, &waiting(&rig)[0]["id"], false);
        let denied = asking.join().unwrap();
        assert_eq!(denied["effect"], "deny");
        assert!(denied["denial"].as_str().unwrap().contains("refused"), "{denied}");
    });
}

#[test]
fn a_question_inside_an_execution_is_asked_too() {
    let rig = Rig::start(|_| {});
    let session = rig.session();
    std::thread::scope(|scope| {
        let running = scope.spawn(|| rig.execute(&session, "call risky {}").json());
        eventually("asked", || waiting(&rig).len() == 1);
        verdict(&rig, OPERATOR, &waiting(&rig)[0]["id"], true);
        let event = running.join().unwrap();
        assert_eq!(event["tool"], "risky");
        assert_eq!(rig.resume(&event, json!("ran")).json()["output"], json!(["ran"]));
    });
}

#[test]
fn no_answer_and_nobody_to_ask_are_denials() {
    let rig = Rig::start(|setup| setup.policy.approvals.timeout = Millis(200));
    let session = rig.session();
    let start = Instant::now();
    let denied = decide(&rig, &session, "risky");
    assert!(denied["denial"].as_str().unwrap().contains("did not answer in time"), "{denied}");
    assert!(start.elapsed() >= Duration::from_millis(200) && waiting(&rig).is_empty());
    let rig = Rig::start(|setup| setup.config.operator_token = None);
    let session = rig.session();
    let denied = decide(&rig, &session, "risky");
    assert!(denied["denial"].as_str().unwrap().contains("nobody can be asked"), "{denied}");
    assert_eq!(rig.ask(OPERATOR, "GET", "/v1/approvals", None).status, 401);
    assert_eq!(rig.get("/v1/approvals").status, 403);
}

#[test]
fn a_question_of_a_client_that_has_gone_is_taken_back() {
    let rig = Rig::start(|_| {});
    let session = rig.session();
    let body = json!({"session": session, "action": "tool.call", "resource": "risky"}).to_string();
    let mut wire = rig.unix();
    wire.write(&request("POST", "/v1/decide", AGENT, body.as_bytes()));
    eventually("asked", || waiting(&rig).len() == 1);
    drop(wire);
    eventually("taken back", || waiting(&rig).is_empty());
    let held = |rig: &Rig| {
        let metrics = rig.get("/metrics").text();
        metrics.lines().find(|line| line.starts_with("weir_open_calls ")).map(str::to_owned)
    };
    assert_eq!(held(&rig), Some("weir_open_calls 0".to_owned()));
}

#[test]
fn an_evaluation_says_what_would_be_decided_and_holds_nothing() {
    let rig = Rig::start(|_| {});
    let session = rig.session();
    let ask = |subject: &str, action: &str, kind: &str, id: &str| {
        rig.post(
            "/access/v1/evaluation",
            json!({
                "subject": {"type": "agent", "id": subject}, "action": {"name": action},
                "resource": {"type": kind, "id": id}, "context": {"args": {"x": 1}, "session": session},
            }),
        )
    };
    let entries = rig.journal.count();
    let allowed = ask("coder", "tool.call", "tool", "paid").json();
    assert_eq!((&allowed["decision"], &allowed["context"]["effect"]), (&json!(true), &json!("allow")));
    assert_eq!(allowed["context"]["reserve"]["micro_usd"], 10);
    let denied = ask("coder", "tool.call", "tool", "rm").json();
    assert_eq!((&denied["decision"], &denied["context"]["effect"]), (&json!(false), &json!("deny")));
    let asked = ask("coder", "tool.call", "tool", "risky").json();
    assert_eq!((&asked["decision"], &asked["context"]["effect"]), (&json!(false), &json!("ask")));
    assert_eq!(asked["context"]["rule"], "person");
    for (subject, action, kind, id) in [
        ("other", "tool.call", "tool", "echo"),
        ("coder", "can_read", "tool", "echo"),
        ("coder", "tool.call", "account", "echo"),
        ("coder", "tool.call", "tool", "ec ho"),
    ] {
        let refused = ask(subject, action, kind, id);
        assert_eq!(
            (refused.status, &refused.json()["decision"]),
            (200, &json!(false)),
            "{subject} {action} {kind} {id}"
        );
        assert_eq!(refused.json()["context"]["reason"], "malformed");
    }
    let malformed = json!({"subject": {"type": "agent", "id": "coder"}, "action": {"name": "tool.call"}});
    assert_eq!(rig.post("/access/v1/evaluation", malformed).status, 400);
    assert_eq!(rig.journal.count(), entries, "nothing was recorded or held");
    let body = json!({"subject": {"type": "agent", "id": "coder"}, "action": {"name": "tool.call"}, "resource": {"type": "tool", "id": "echo"}}).to_string();
    let head = format!(
        "POST /access/v1/evaluation HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {AGENT}\r\nX-Request-ID: abc-1\r\n"
    );
    let reply = rig.tcp().send(
        format!("{head}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len()).as_bytes(),
    );
    assert!(reply.head.contains("x-request-id: abc-1") && reply.json()["decision"] == json!(true), "{}", reply.head);
}
