//! Budgets, receipts, metrics, the interface's own description.

use crate::rig::{AGENT, OPERATOR, Rig};
use serde_json::{Value, json};

#[test]
fn budgets_show_what_is_left() {
    let rig = Rig::start(|_| {});
    let session = rig.session();
    rig.post("/v1/decide", json!({"session": session, "action": "tool.call", "resource": "paid"}));
    let budgets = rig.get("/v1/budgets").json();
    let accounts = budgets["accounts"].as_array().unwrap();
    let account = accounts.iter().find(|account| account["tier"] == "session").unwrap();
    assert_eq!(account["account"], format!("acme/coder/{session}"));
    assert_eq!(account["pending"]["micro_usd"], 10);
    assert_eq!(
        account["limits"],
        json!([{"budget": "money", "kind": "micro_usd", "window": "in total", "limit": 25, "remaining": 15, "forecast_ms": null}])
    );
    assert_eq!(rig.ask(OPERATOR, "GET", "/v1/budgets", None).status, 200);
}

#[test]
fn receipts_are_listed_newest_first_by_session() {
    let rig = Rig::start(|_| {});
    let (one, two) = (rig.session(), rig.session());
    for session in [&one, &two, &one] {
        assert_eq!(rig.execute(session, "print x").json()["status"], "done");
    }
    let list = |query: &str| rig.get(&format!("/v1/receipts{query}")).json()["receipts"].as_array().unwrap().len();
    assert_eq!((list(""), list("?limit=2"), list(&format!("?session={one}")), list("?session=none")), (3, 2, 2, 0));
    for bad in ["?limit=0", "?limit=-1", "?limit=1001", "?limit=x", "?session=a%20b", "?sesion=a", "?limit=1&limit=2"] {
        assert_eq!(rig.get(&format!("/v1/receipts{bad}")).code(), "malformed", "{bad}");
    }
    assert_eq!(rig.get("/v1/receipts/none").code(), "not_found");
}

#[test]
fn metrics_are_well_formed_and_have_bounded_labels() {
    let rig = Rig::start(|_| {});
    let session = rig.session();
    let event = rig.execute(&session, "call paid {}\ncall rm {}").json();
    rig.resume(&event, json!(1));
    rig.post("/v1/decide", json!({"session": session, "action": "tool.call", "resource": "paid"}));
    let reply = rig.get("/metrics");
    assert!(reply.head.contains("application/openmetrics-text"));
    let text = reply.text();
    assert!(text.ends_with("# EOF\n"));
    let samples: Vec<(&str, f64)> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.rsplit_once(' ').map(|(series, value)| (series, value.parse().unwrap())).unwrap())
        .collect();
    let value = |series: &str| samples.iter().find(|(known, _)| *known == series).map(|(_, value)| *value);
    let calls = |action: &str, effect: &str, reason: &str| {
        value(&format!("weir_calls_total{{action=\"{action}\",effect=\"{effect}\",reason=\"{reason}\"}}"))
    };
    assert_eq!(calls("code.run", "allow", "allowed"), Some(1.0));
    assert_eq!(calls("tool.call", "allow", "allowed"), Some(2.0), "a nested one and a decided one");
    assert_eq!(calls("tool.call", "deny", "unknown_tool"), Some(1.0), "{text}");
    assert_eq!(value("weir_line_seconds_count"), Some(4.0));
    assert_eq!(value("weir_sessions"), Some(1.0));
    assert_eq!(value("weir_executions"), Some(0.0));
    assert_eq!(value("weir_open_calls"), Some(1.0));
    assert_eq!(value("weir_journal_ok"), Some(1.0));
    assert_eq!(value("weir_journal_entries"), Some(rig.journal.count() as f64));
    let budget = |what: &str| value(&format!("weir_budget_{what}{{tier=\"session\",kind=\"micro_usd\"}}"));
    assert_eq!((budget("posted"), budget("pending"), budget("limit")), (Some(10.0), Some(10.0), Some(25.0)));
    assert!(!text.contains(&session) && !text.contains("paid"), "no name of a caller is a label");
}

#[test]
fn the_interface_describes_every_route_that_answers() {
    let rig = Rig::start(|_| {});
    let document = rig.get("/openapi.json").json();
    assert_eq!(document["openapi"], "3.1.0");
    let mut routes = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            routes += 1;
            let path = path.replace("{session}", "none").replace("{execution}", "none").replace("{receipt}", "none");
            let path = path.replace("{approval}", "none").replace("{client}", "codex");
            let operator = operation["security"] == json!([{"operator": []}]);
            let token = if operator { OPERATOR } else { AGENT };
            let body = (!operation["requestBody"].is_null()).then(|| json!({"nonsense": 1}));
            if path.starts_with("/approve/") {
                // A page and its form, in a form of their own: `linked.rs` asks for them.
                continue;
            }
            let reply = rig.ask(token, &method.to_ascii_uppercase(), &path, body);
            let status = reply.status.to_string();
            assert!(
                operation["responses"].get(&status).is_some(),
                "{method} {path} gave {status}, which is not described"
            );
            assert!(!reply.text().contains("\"message\":\"no such path") && reply.status != 405, "{method} {path}");
        }
    }
    assert_eq!(routes, 43);
}

#[test]
fn the_page_needs_nothing_from_elsewhere() {
    let rig = Rig::start(|_| {});
    let reply = rig.get("/docs");
    assert!(reply.head.contains("content-security-policy: default-src 'none'") && reply.head.contains("text/html"));
    assert!(reply.head.contains("x-content-type-options: nosniff"));
    assert!(reply.text().contains("/access/v1/evaluation"));
}

#[test]
fn scores_show_three_numbers_per_factor() {
    let rig = Rig::start(|_| {});
    let scores = rig.get("/v1/scores").json();
    let factors: &Vec<Value> = scores["factors"].as_array().unwrap();
    assert_eq!((factors.len(), &scores["policy"]), (10, &json!("test")));
    assert!(factors.iter().all(|factor| factor["status"] == "prior-only" && factor.get("permitted").is_some()));
}
