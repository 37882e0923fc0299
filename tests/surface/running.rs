//! Sessions, executions, events.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::rig::{AGENT, Rig, eventually, request};
use serde_json::{Value, json};
use weir::model::{Millis, Status};

#[test]
fn a_session_says_what_it_may_do() {
    let rig = Rig::start(|_| {});
    let reply = rig.post("/v1/sessions", json!({"tools": [{"name": "echo"}]}));
    let session = reply.json();
    assert_eq!(reply.status, 201);
    assert_eq!(session["session"].as_str().unwrap().len(), 32);
    assert_eq!((&session["agent"], &session["imports"]), (&json!("coder"), &json!(["math"])));
    assert_eq!(session["limits"]["tool_ms"], 10_000);
    assert!(session["policy"].as_str().unwrap().starts_with("sha256:"));
    let id = session["session"].as_str().unwrap();
    for bad in [json!({"tools": [{"name": "a.b"}]}), json!({"tools": [{"name": "a"}, {"name": "a"}]}), json!({})] {
        assert_eq!(rig.ask(AGENT, "PUT", &format!("/v1/sessions/{id}/tools"), Some(bad)).status, 400);
    }
    let tools = json!({"tools": [{"name": "paid", "params": [{"name": "x", "required": true}]}]});
    assert_eq!(rig.ask(AGENT, "PUT", &format!("/v1/sessions/{id}/tools"), Some(tools)).json(), json!({}));
    let run = rig.post(&format!("/v1/sessions/{id}/runs"), json!({}));
    assert_eq!(run.status, 201);
    assert_ne!(run.json()["run"], session["run"]);
    for path in [
        "/v1/sessions/00000000000000000000000000000000",
        "/v1/sessions/%00",
        "/v1/sessions/..%2f..",
        "/v1/executions/x",
    ] {
        let reply = rig.ask(AGENT, "DELETE", path, None);
        assert_eq!((reply.status, reply.code().as_str()), (404, "not_found"), "{path}");
    }
    assert_eq!(rig.execute("11111111111111111111111111111111", "print x").status, 404);
}

#[test]
fn a_program_runs_and_its_tools_are_called_on_the_host() {
    let rig = Rig::start(|_| {});
    let session = rig.session();
    let code = "print hello\ncall echo {\"x\":[1,{\"$\":[\"int\",\"99999999999999999999\"]}]}\nimport math\nimport socket\ncall rm {}\ncall echo {}";
    let event = rig.execute(&session, code).json();
    assert_eq!((&event["event"], &event["tool"]), (&json!("tool"), &json!("echo")));
    assert_eq!(event["args"], json!({"x": [1, {"$": ["int", "99999999999999999999"]}]}), "exactly as it was decided");
    let second = rig.resume(&event, json!(null)).json();
    assert_eq!((&second["event"], &second["args"]), (&json!("tool"), &json!({})));
    let path = format!("/v1/executions/{}/resume", second["execution"].as_str().unwrap());
    let error = json!({"call": second["call"], "error": {"type": "ValueError", "message": "no\u{7}"}});
    let done = rig.post(&path, error).json();
    assert_eq!((&done["event"], &done["status"], &done["logs"]), (&json!("done"), &json!("done"), &json!("hello")));
    let results = done["output"].as_array().unwrap();
    assert_eq!((&results[0], &results[1]), (&Value::Null, &Value::Null), "a null result, an allowed import");
    assert!(results[2].as_str().unwrap().contains("[weir] denied import socket"), "{}", results[2]);
    assert!(results[3]["denied"].as_str().unwrap().contains("[weir] denied tool rm"), "{}", results[3]);
    assert_eq!(results[4]["raised"], "ValueError");
    assert_eq!(done["receipt"], done["execution"]);
    assert_eq!(done["denial"], Value::Null);
    let receipt = rig.get(&format!("/v1/receipts/{}", done["receipt"].as_str().unwrap()));
    assert_eq!(receipt.json()["receipt_id"], done["receipt"]);
}

#[test]
fn an_answer_counts_once_and_nothing_runs_twice() {
    let rig = Rig::start(|_| {});
    let session = rig.session();
    let event = rig.execute(&session, "call echo {}").json();
    let again = rig.get(&format!("/v1/sessions/{session}/event")).json();
    assert_eq!(event, again, "a lost event can be fetched again: it is the same call");
    assert_eq!(rig.execute(&session, "print second").code(), "conflict", "one execution at a time");
    assert_eq!(rig.post(&format!("/v1/sessions/{session}/runs"), json!({})).code(), "conflict");
    let mut other = event.clone();
    other["call"] = json!("0123456789abcdef0123456789abcdef.0");
    assert_eq!(rig.resume(&other, json!(1)).code(), "conflict", "a wrong call id");
    let path = format!("/v1/executions/{}/resume", event["execution"].as_str().unwrap());
    for wrong in [
        json!({"call": event["call"]}),
        json!({"call": event["call"], "value": 1, "error": {"type": "E", "message": ""}}),
        json!({"call": event["call"], "value": {"$": ["repr", "T", "r"]}}),
    ] {
        assert_eq!(rig.post(&path, wrong).code(), "malformed", "and the call still waits");
    }
    let done = rig.resume(&event, json!(1)).json();
    assert_eq!(done["output"], json!([1]));
    assert_eq!(rig.resume(&event, json!(2)).code(), "conflict", "a second answer");
    assert_eq!(rig.get(&format!("/v1/sessions/{session}/event")).json(), done, "a lost end can be fetched again");
    assert_eq!(rig.script.started.load(Ordering::SeqCst), 1);
    assert_eq!(rig.execute(&session, "print x").json()["status"], "done");
    assert_eq!(rig.resume(&event, json!(2)).code(), "not_found", "of an earlier execution");
}

#[test]
fn two_answers_at_once_count_once() {
    let rig = Rig::start(|_| {});
    let session = rig.session();
    for _ in 0..5 {
        rig.post(&format!("/v1/sessions/{session}/runs"), json!({}));
        let event = rig.execute(&session, "call echo {}\nprint x").json();
        let statuses: Vec<u16> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|n| {
                    scope.spawn({
                        let (rig, event) = (&rig, &event);
                        move || rig.resume(event, json!(n)).status
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{statuses:?}");
        assert_eq!(statuses.iter().filter(|status| **status == 409).count(), 7, "{statuses:?}");
    }
    assert_eq!(*rig.script.tools.lock().unwrap(), vec![Status::Done; 5]);
}

#[test]
fn an_execution_that_nobody_waits_for_is_cancelled() {
    let rig = Rig::start(|setup| setup.config.lost_after = Duration::from_millis(300));
    let session = rig.session();
    let body = json!({"code": "spin"}).to_string();
    let mut wire = rig.unix();
    wire.write(&request("POST", &format!("/v1/sessions/{session}/execute"), AGENT, body.as_bytes()));
    eventually("started", || rig.script.started.load(Ordering::SeqCst) == 1);
    std::thread::sleep(Duration::from_millis(600));
    assert_eq!(rig.script.stopped.load(Ordering::SeqCst), 0, "somebody waits");
    drop(wire);
    eventually("cancelled", || rig.script.stopped.load(Ordering::SeqCst) == 1);
    let event = rig.get(&format!("/v1/sessions/{session}/event")).json();
    assert_eq!((&event["event"], &event["status"]), (&json!("done"), &json!("broken")));
    assert_eq!(rig.execute(&session, "print x").json()["status"], "done", "the session goes on");
}

#[test]
fn a_client_that_comes_back_in_time_goes_on() {
    let rig = Rig::start(|setup| setup.config.lost_after = Duration::from_secs(3));
    let session = rig.session();
    let body = json!({"code": "spin\ncall echo {}"}).to_string();
    let mut wire = rig.unix();
    wire.write(&request("POST", &format!("/v1/sessions/{session}/execute"), AGENT, body.as_bytes()));
    eventually("started", || rig.script.started.load(Ordering::SeqCst) == 1);
    drop(wire);
    std::thread::sleep(Duration::from_millis(300));
    rig.script.release.store(true, Ordering::SeqCst);
    let event = rig.get(&format!("/v1/sessions/{session}/event")).json();
    assert_eq!(event["event"], "tool");
    assert_eq!(rig.resume(&event, json!("ok")).json()["output"], json!(["ok"]));
    assert_eq!((rig.script.started.load(Ordering::SeqCst), rig.script.stopped.load(Ordering::SeqCst)), (1, 0));
}

#[test]
fn a_cancelled_execution_stops() {
    let rig = Rig::start(|_| {});
    let session = rig.session();
    let event = rig.execute(&session, "call echo {}\nspin").json();
    std::thread::scope(|scope| {
        let path = format!("/v1/executions/{}", event["execution"].as_str().unwrap());
        let resumed = scope.spawn(|| rig.resume(&event, json!(1)).json());
        eventually("resumed", || rig.script.tools.lock().unwrap().len() == 1);
        assert_eq!(rig.ask(AGENT, "DELETE", &path, None).json(), json!({}));
        assert_eq!(resumed.join().unwrap()["status"], "broken");
        assert_eq!(rig.ask(AGENT, "DELETE", &path, None).status, 200, "a second time changes nothing");
    });
    let parked = rig.execute(&session, "call echo {}\nprint on").json();
    let path = format!("/v1/executions/{}", parked["execution"].as_str().unwrap());
    assert_eq!(rig.ask(AGENT, "DELETE", &path, None).status, 200);
    assert_eq!(rig.resume(&parked, json!(1)).code(), "conflict");
    assert_eq!(rig.script.tools.lock().unwrap().last(), Some(&Status::Unknown), "the host may have run it");
}

#[test]
fn a_host_that_does_not_answer_in_time_leaves_an_unknown_outcome() {
    let rig = Rig::start(|setup| {
        setup.policy.code.as_mut().unwrap().limits.tool_ms = Millis(200);
        setup.config.lost_after = Duration::from_secs(5);
    });
    let session = rig.session();
    let event = rig.execute(&session, "call paid {}\ncall echo {}").json();
    let start = Instant::now();
    let next = rig.get(&format!("/v1/sessions/{session}/event")).json();
    assert_eq!(next["call"], event["call"], "still the same call");
    eventually("over", || rig.script.tools.lock().unwrap().as_slice() == [Status::Unknown]);
    assert!(start.elapsed() < Duration::from_secs(3));
    assert_eq!(rig.resume(&event, json!(1)).code(), "conflict", "too late");
    let money = |rig: &Rig| {
        let accounts = rig.get("/v1/budgets").json();
        let ours = accounts["accounts"].as_array().unwrap().iter().find(|a| a["tier"] == "session").unwrap().clone();
        ours["posted"]["micro_usd"].as_u64()
    };
    assert_eq!(money(&rig), Some(10), "what may have been paid counts as paid");
}

#[test]
fn a_panic_inside_is_an_answer() {
    let rig = Rig::start(|_| {});
    let session = rig.session();
    let reply = rig.execute(&session, "panic");
    assert_eq!((reply.status, &reply.json()["status"]), (200, &json!("broken")));
    assert!(!reply.text().contains("secret"));
    assert_eq!(rig.execute(&session, "print x").json()["status"], "done");
}

#[test]
fn a_budget_that_is_used_up_is_said() {
    let rig = Rig::start(|setup| setup.policy.budgets[0].limit = 10);
    let session = rig.session();
    let event = rig.execute(&session, "call paid {}\ncall paid {}").json();
    let done = rig.resume(&event, json!(1)).json();
    assert!(done["output"][1]["denied"].as_str().unwrap().contains("money"), "{done}");
    let steps = (0..9).map(|_| "import math").collect::<Vec<_>>().join("\n");
    assert_eq!(rig.execute(&session, &steps).json()["status"], "done", "imports are not tool calls");
}

#[test]
fn an_agent_below_another_shares_the_accounts_of_the_session_above() {
    let rig = Rig::start(|setup| {
        setup.policy.budgets[0].limit = 10;
        setup.policy.peers.max_depth = 1;
    });
    let root = rig.session();
    let open = |parent: &str, name: &str| {
        let tools = json!([{"name": "paid", "params": [{"name": "x", "required": false}]}]);
        rig.post("/v1/sessions", json!({"tools": tools, "parent": parent, "name": name}))
    };
    let child = open(&root, "helper");
    assert_eq!(child.status, 201, "{}", child.json());
    let child = child.json()["session"].as_str().unwrap().to_owned();
    assert_ne!(child, root);
    assert_eq!(open(&root, "helper").status, 409, "a name works for a session once at a time");
    assert_eq!(open("00000000000000000000000000000000", "helper").status, 404);
    let alone = rig.post("/v1/sessions", json!({"tools": [], "parent": root}));
    assert_eq!(alone.status, 400, "`parent` and `name` stand together");
    assert_eq!(rig.post(&format!("/v1/sessions/{child}/runs"), json!({})).status, 409);

    // The child spends what the session above has left, and nothing of its own.
    let event = rig.execute(&child, "call paid {}").json();
    assert_eq!(rig.resume(&event, json!(1)).json()["status"], "done");
    let denied = rig.execute(&root, "call paid {}").json();
    assert!(denied["output"][0]["denied"].as_str().unwrap().contains("money"), "{denied}");

    // Below the permitted depth nothing runs; closing the session above closes both.
    let grandchild = open(&child, "deeper").json()["session"].as_str().unwrap().to_owned();
    let too_deep = rig.execute(&grandchild, "print x").json();
    assert_eq!((&too_deep["status"], &too_deep["reason"]), (&json!("denied"), &json!("delegation_depth")));
    assert_eq!(rig.ask(AGENT, "DELETE", &format!("/v1/sessions/{root}"), None).status, 200);
    for gone in [&root, &child, &grandchild] {
        assert_eq!(rig.execute(gone, "print x").status, 404);
    }
}

#[test]
fn a_program_runs_in_the_language_that_it_names_and_an_unknown_one_is_told() {
    let rig = Rig::start(|_| {});
    let session = rig.session();
    let path = format!("/v1/sessions/{session}/execute");
    let done = rig.post(&path, json!({"code": "print x", "language": "python"})).json();
    assert_eq!((&done["status"], &done["logs"]), (&json!("done"), &json!("x")));
    let done = rig.post(&path, json!({"code": "guest", "language": "javascript"})).json();
    assert_eq!(done["output"], json!(["javascript"]), "the call's resource");
    assert_eq!(rig.post(&path, json!({"code": "guest"})).json()["output"], json!(["python"]), "the usual one");
    for wrong in ["perl", "Python", "python ", "", "../python"] {
        let reply = rig.post(&path, json!({"code": "print x", "language": wrong}));
        assert_eq!((reply.status, reply.code().as_str()), (400, "malformed"), "{wrong:?}");
        assert!(reply.text().contains("python, javascript"), "{}", reply.text());
    }
    assert_eq!(rig.post(&path, json!({"code": "print x", "language": 1})).status, 400);
    assert_eq!(rig.script.started.load(Ordering::SeqCst), 3);
}

#[test]
fn a_language_that_no_rule_allows_is_denied_with_those_that_are() {
    let rig = Rig::start(|setup| {
        setup.policy.rules.iter_mut().filter(|rule| rule.id == "code").for_each(|rule| {
            rule.resources = vec!["python".into()];
            rule.actions.retain(|action| *action == weir::model::Action::CodeRun);
        });
    });
    let session = rig.session();
    let path = format!("/v1/sessions/{session}/execute");
    let done = rig.post(&path, json!({"code": "print x", "language": "javascript"})).json();
    assert_eq!((&done["status"], &done["reason"]), (&json!("denied"), &json!("no_rule")));
    let denial = done["denial"].as_str().unwrap();
    assert!(denial.contains("code.run in javascript") && denial.contains("languages python"), "{denial}");
    assert_eq!(rig.script.started.load(Ordering::SeqCst), 0);
    assert_eq!(rig.execute(&session, "print x").json()["status"], "done");
}

const DRAWN: &str = "00112233445566778899aabbccddeeff";

#[test]
fn an_execution_is_cancelled_by_the_id_that_its_client_drew() {
    let rig = Rig::start(|_| {});
    let session = rig.session();
    let path = format!("/v1/sessions/{session}/execute");
    let cancel = format!("/v1/executions/{DRAWN}");
    assert_eq!(rig.ask(AGENT, "DELETE", &cancel, None).status, 404, "it has not begun");
    std::thread::scope(|scope| {
        let spinning = scope.spawn(|| rig.post(&path, json!({"code": "spin", "execution": DRAWN})).json());
        eventually("started", || rig.script.started.load(Ordering::SeqCst) == 1);
        assert_eq!(rig.ask(AGENT, "DELETE", &cancel, None).status, 200, "before its first event");
        let done = spinning.join().unwrap();
        assert_eq!((&done["status"], &done["execution"]), (&json!("broken"), &json!(DRAWN)));
        assert_eq!(done["receipt"], json!(DRAWN));
    });
    assert!(rig.script.closed.lock().unwrap().is_empty(), "the session stays");
    assert_eq!(rig.execute(&session, "print x").json()["status"], "done");
}

#[test]
fn an_id_that_a_client_drew_is_taken_once() {
    let rig = Rig::start(|_| {});
    let (one, other) = (rig.session(), rig.session());
    let run = |session: &str, id: &str| {
        rig.post(&format!("/v1/sessions/{session}/execute"), json!({"code": "print x", "execution": id}))
    };
    assert_eq!(run(&one, DRAWN).json()["status"], "done");
    for session in [&one, &other] {
        assert_eq!(run(session, DRAWN).code(), "conflict", "it has begun already");
    }
    assert_eq!(rig.execute(&one, "print x").json()["status"], "done");
    for session in [&one, &other] {
        let again = run(session, DRAWN).json();
        assert_eq!((&again["status"], &again["reason"]), (&json!("denied"), &json!("duplicate_call")));
        assert_ne!(again["receipt"], json!(DRAWN), "the refusal has a receipt of its own");
        assert_eq!(rig.execute(session, "print x").json()["status"], "done");
    }
    assert_eq!(rig.script.started.load(Ordering::SeqCst), 4);
    for wrong in ["", "x", "00112233445566778899AABBCCDDEEFF", "00112233445566778899aabbccddeeff.0", &"0".repeat(33)] {
        assert_eq!(run(&one, wrong).code(), "malformed", "{wrong:?}");
    }
}
