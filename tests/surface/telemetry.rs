//! Telemetry of coding agents over a real socket: what real clients sent, what hostile ones may send, and what the gate
//! makes of it beside its own decisions and its own meter.

use serde_json::{Map, Value, json};
use weir::model::{Action, Amounts, Call, Kind, Name, Outcome, Resource, Status, Subject};

use weir::surface::hook::Client;

use crate::hooks::{after, before, ls, ready};
use crate::rig::{AGENT, Entries, OPERATOR, Reply, Rig, Setup, name, request};

/// The sessions of the recordings.
const CLAUDE: &str = "0d9fc8a2-7a52-4f0b-9f0c-0a3c2f1f7c11";
const CODEX: &str = "01a200b9-c619-7080-8342-b8ceb82575aa";
/// What Claude Code 2.1.329 and Codex CLI 0.169.0 sent, with a scripted model on loopback and ids taken out.
const CLAUDE_LOGS: &str = include_str!("otlp/claude-logs.json");
const CLAUDE_METRICS: &str = include_str!("otlp/claude-metrics.json");
/// The same with prompts and arguments switched on.
const CLAUDE_DETAILS: &str = include_str!("otlp/claude-details.json");
const CODEX_LOGS: &str = include_str!("otlp/codex-logs.json");

/// Hooks' policy and a model.
fn models(setup: &mut Setup) {
    ready(setup);
    let more = "[[model]]\nname = \"m\"\n[model.price]\ntokens_in = 5_000_000\ntokens_out = 25_000_000\n\
        source = \"the test\"\nas_of = \"2026-11-01\"\n\
        [[rule]]\nid = \"models\"\neffect = \"allow\"\nactions = [\"model.generate\"]\nanswers = []\nreason = \"models\"\n";
    let text = format!("{}\n{more}", include_str!("hooks.toml"));
    let approvals = setup.policy.approvals.timeout;
    setup.policy = weir::policy::parse(text.as_bytes(), "models.toml").unwrap_or_else(|faults| panic!("{faults}"));
    setup.policy.approvals.timeout = approvals;
    setup.config.metered = vec![Client::ClaudeCode];
}

fn rig() -> Rig {
    Rig::start(ready)
}

fn send(rig: &Rig, client: &str, signal: &str, body: &str) -> Reply {
    rig.unix().send(&request("POST", &format!("/otlp/{client}/v1/{signal}"), AGENT, body.as_bytes()))
}

fn attribute(key: &str, value: &Value) -> Value {
    let value = match value {
        Value::Number(_) => json!({"intValue": value}),
        _ => json!({"stringValue": value}),
    };
    json!({"key": key, "value": value})
}

fn record(time: u64, attributes: &Value) -> Value {
    let attributes: Vec<Value> =
        attributes.as_object().unwrap().iter().map(|(key, value)| attribute(key, value)).collect();
    json!({"timeUnixNano": time.to_string(), "body": {"stringValue": "x"}, "attributes": attributes})
}

fn body(records: &[Value]) -> String {
    json!({"resourceLogs": [{"resource": {"attributes": []}, "scopeLogs": [{"logRecords": records}]}]}).to_string()
}

/// A result of a tool as Claude Code tells it.
fn result(session: &str, id: &str, tool: &str) -> Value {
    record(
        1,
        &json!({"event.name": "tool_result", "session.id": session, "tool_use_id": id, "tool_name": tool, "success": "true"}),
    )
}

/// Sends what must be taken whole.
fn tell(rig: &Rig, client: &str, records: &[Value]) {
    let reply = send(rig, client, "logs", &body(records));
    assert_eq!((reply.status, reply.text().as_str()), (200, "{}"));
}

fn reconciliation(rig: &Rig, session: &str) -> Value {
    let all = rig.get("/v1/reconciliation").json();
    let found = all["sessions"].as_array().unwrap().iter().find(|line| line["session"] == session).cloned();
    found.unwrap_or_else(|| panic!("{session} is not in {all}"))
}

fn metric(rig: &Rig, line: &str) -> Option<u64> {
    rig.get("/metrics").text().lines().find_map(|text| text.strip_prefix(line)?.trim().parse().ok())
}

/// Whether the session takes nothing new.
fn is_closed(rig: &Rig, session: &str) -> bool {
    let (decision, why) = before(rig, session, &format!("probe-{}", rig.journal.count()), "Bash", ls());
    assert!(decision == "allow" || why.contains("revoked") || why.contains("frozen"), "{why}");
    decision != "allow"
}

fn entries(rig: &Rig, kind: &str) -> usize {
    rig.journal.text().matches(&format!("\"kind\":\"{kind}\"")).count()
}

fn scores(rig: &Rig) -> Vec<Value> {
    rig.get("/v1/scores").json()["factors"].as_array().unwrap().clone()
}

/// The session that the gate itself meters, as a proxy does.
fn generate(rig: &Rig, session: &str, surface: &str, used: (u64, u64), status: Status) {
    let (org, agent) = (name("acme"), name("coder"));
    let subject = Subject { org, project: None, agent, session: name(session), run: name(session), delegation: vec![] };
    let mut args = Map::new();
    for (key, value) in [("max_input_tokens", 10_000), ("max_output_tokens", 10_000), ("max_tokens", 20_000)] {
        args.insert(key.to_owned(), json!(value));
    }
    let id = Name::new(format!("gen-{}", rig.journal.count())).unwrap();
    let (action, resource, surface) = (Action::ModelGenerate, Resource::named(name("m")), name(surface));
    let work = rig.gate.admit(Call { id, subject, action, resource, args, parent: None, surface });
    let usage = Amounts::ZERO.with(Kind::TokensIn, used.0).with(Kind::TokensOut, used.1);
    let work = work.unwrap_or_else(|answer| panic!("{:?}", answer.denial));
    drop(rig.gate.complete(work, Outcome { usage, ..Outcome::of(status) }));
}

/// A generation as Claude Code tells it.
fn request_of(session: &str, n: u64, used: (u64, u64), micro: u64) -> Value {
    record(
        n,
        &json!({"event.name": "api_request", "session.id": session, "event.sequence": n, "model": "m",
            "input_tokens": used.0, "output_tokens": used.1, "cache_read_tokens": 0, "cost_usd_micros": micro}),
    )
}

#[test]
fn what_claude_code_really_sends_agrees_with_its_hooks() {
    let rig = rig();
    for (id, tool) in [("toolu_0000", "Bash"), ("toolu_0001", "Bash"), ("toolu_0002", "Write"), ("toolu_0003", "Read")]
    {
        let input = if tool == "Bash" { ls() } else { json!({"file_path": "/srv/project/a.txt"}) };
        assert_eq!(before(&rig, CLAUDE, id, tool, input).0, "allow");
    }
    for (signal, body) in [("logs", CLAUDE_LOGS), ("metrics", CLAUDE_METRICS)] {
        let reply = send(&rig, "claude-code", signal, body);
        assert_eq!((reply.status, reply.text().as_str()), (200, "{}"), "{signal}");
    }
    let line = reconciliation(&rig, CLAUDE);
    let usage = json!({"requests": 5, "tokens_in": 500, "tokens_out": 250, "micro_usd": 7_000, "unpriced": 0});
    assert_eq!(line["reported"], usage, "by logs and by metrics the same");
    assert_eq!(line["tools"], json!({"results": 4, "unhooked": 0, "unproven": 0, "bypasses": 0}));
    assert_eq!((&line["state"], &line["closed"]), (&json!("not_metered"), &Value::Null));
    assert_eq!((entries(&rig, "bypass"), entries(&rig, "revoke")), (0, 0));
    assert!(!is_closed(&rig, CLAUDE));
}

#[test]
fn what_claude_code_really_sends_without_its_hooks_is_the_alarm() {
    let rig = rig();
    let reply = send(&rig, "claude-code", "logs", CLAUDE_LOGS);
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert!(is_closed(&rig, CLAUDE));
    assert_eq!((entries(&rig, "revoke"), entries(&rig, "bypass")), (1, 1), "one alarm closes it, the rest is known");
    assert_eq!(metric(&rig, "weir_hook_bypasses_total{kind=\"telemetry\"} "), Some(4));
    let line = reconciliation(&rig, CLAUDE);
    assert_eq!(
        (&line["state"], &line["closed"], &line["tools"]["bypasses"]),
        (&json!("bypassed"), &json!("revoked"), &json!(4))
    );
    let text = rig.journal.text();
    assert!(
        text.contains("bypass: Bash has run without a decision of the gate, as the telemetry of claude-code tells")
    );
}

#[test]
fn what_codex_really_sends_is_matched_by_its_ids() {
    let rig = rig();
    let hook = |id: &str| {
        let event = json!({"session_id": CODEX, "hook_event_name": "PreToolUse", "tool_name": "Bash", "tool_use_id": id,
            "tool_input": {"command": "ls"}});
        assert_eq!(rig.post("/v1/hooks/codex", event).json(), json!({}), "allowed");
    };
    hook("call_0");
    hook("call_1");
    let reply = send(&rig, "codex", "logs", CODEX_LOGS);
    assert_eq!((reply.status, reply.text().as_str()), (200, "{}"));
    let line = reconciliation(&rig, CODEX);
    let usage = json!({"requests": 3, "tokens_in": 300, "tokens_out": 150, "micro_usd": 0, "unpriced": 3});
    assert_eq!((&line["reported"], &line["tools"]["results"], &line["client"]), (&usage, &json!(2), &json!("codex")));
    assert_eq!(entries(&rig, "bypass"), 0);
    let bare = Rig::start(ready);
    assert_eq!(send(&bare, "codex", "logs", CODEX_LOGS).status, 200);
    assert_eq!(reconciliation(&bare, CODEX)["closed"], "revoked");
}

#[test]
fn a_tool_of_codex_that_never_ran_is_no_bypass() {
    let rig = rig();
    let of = |id: &str, tool: &str, success: &str, time: u64| {
        record(
            time,
            &json!({"event.name": "codex.tool_result", "conversation.id": "c", "call_id": id, "tool_name": tool, "success": success}),
        )
    };
    tell(
        &rig,
        "codex",
        &[of("a", "exec_command", "false", 1), of("b", "nonexistent", "false", 2), of("c", "write_stdin", "true", 3)],
    );
    let line = reconciliation(&rig, "c");
    assert_eq!(line["tools"], json!({"results": 3, "unhooked": 1, "unproven": 2, "bypasses": 0}));
    let approved = record(
        4,
        &json!({"event.name": "codex.tool_decision", "conversation.id": "c", "call_id": "d", "decision": "approved"}),
    );
    tell(&rig, "codex", &[approved, of("d", "exec_command", "false", 5)]);
    assert_eq!(reconciliation(&rig, "c")["closed"], "revoked", "it was approved, so it ran and failed");
}

#[test]
fn a_result_after_a_denial_is_a_bypass_and_so_is_one_told_by_no_hook() {
    let rig = rig();
    assert_eq!(before(&rig, "s1", "t1", "Bash", json!({"command": "rm x"})).0, "deny");
    tell(&rig, "claude-code", &[result("s1", "t1", "Bash")]);
    assert!(rig.journal.text().contains("although the gate had not allowed it"), "{}", rig.journal.text());
    assert!(is_closed(&rig, "s1"));
    assert_eq!(before(&rig, "s2", "t1", "Bash", ls()).0, "allow", "another session is another");
    tell(&rig, "claude-code", &[result("s2", "t1", "Bash")]);
    assert!(!is_closed(&rig, "s2"));
    tell(&rig, "claude-code", &[result("s3", "t1", "mcp__a__b")]);
    assert!(is_closed(&rig, "s3"));
}

#[test]
fn results_without_an_id_are_counted_by_name() {
    let rig = rig();
    let nameless = |tool: &str, time: u64| {
        record(time, &json!({"event.name": "claude_code.tool_result", "session.id": "s1", "tool_name": tool}))
    };
    assert_eq!(before(&rig, "s1", "t1", "Bash", ls()).0, "allow");
    let now =
        u64::try_from(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos()).unwrap();
    assert_eq!(before(&rig, "s1", "t2", "Bash", ls()).0, "allow");
    assert_eq!(before(&rig, "s1", "t3", "Bash", json!({"command": "rm x"})).0, "deny");
    tell(&rig, "claude-code", &[nameless("Bash", now + 2), nameless("Bash", now + 1)]);
    tell(&rig, "claude-code", &[nameless("Bash", 5)]);
    assert_eq!(reconciliation(&rig, "s1")["tools"]["unproven"], 1, "of before this process: nobody can tell");
    assert!(!is_closed(&rig, "s1"));
    // The probe above was one more.
    tell(&rig, "claude-code", &[nameless("Bash", now + 3)]);
    assert!(!is_closed(&rig, "s1"));
    tell(&rig, "claude-code", &[nameless("Bash", now + 4), nameless("Bash", now + 5)]);
    assert!(is_closed(&rig, "s1"));
}

#[test]
fn a_claim_settles_refunds_and_lowers_nothing() {
    let rig = Rig::start(models);
    generate(&rig, "s1", "anthropic", (900, 90), Status::Done);
    assert_eq!(before(&rig, "s1", "t1", "Bash", ls()).0, "allow");
    let (scored, balances) = (scores(&rig), rig.gate.balances());
    let entries = rig.journal.count();
    tell(&rig, "claude-code", &[result("s1", "t1", "Bash"), request_of("s1", 1, (900, 90), 0)]);
    assert!(metric(&rig, "weir_open_calls ") == Some(1), "only the hook completes a use");
    assert_eq!((rig.journal.count(), rig.gate.balances()), (entries, balances));
    assert_eq!(scores(&rig), scored);
    assert_eq!(after(&rig, "s1", "t1", "Bash", ls()), json!({}));
    assert_eq!(metric(&rig, "weir_open_calls "), Some(0));
}

#[test]
fn a_bypass_raises_opacity_and_no_other_score_moves() {
    let rig = rig();
    assert_eq!(before(&rig, "s0", "t0", "Bash", ls()).0, "allow");
    assert_eq!(after(&rig, "s0", "t0", "Bash", ls()), json!({}));
    let old = scores(&rig);
    for n in 0..8 {
        tell(&rig, "claude-code", &[result(&format!("s{n}"), "unheard", "Bash")]);
    }
    let new = scores(&rig);
    let number = |factor: &Value| factor["n"].as_f64().unwrap();
    for (old, new) in old.iter().zip(&new) {
        if old["factor"] == "opacity" {
            assert!(number(new) > number(old), "{old} {new}");
            assert!(new["observed"].as_f64() > old["observed"].as_f64(), "{old} {new}");
        } else {
            assert_eq!(old, new);
        }
    }
}

#[test]
fn a_record_that_comes_twice_counts_once() {
    let rig = Rig::start(models);
    for _ in 0..3 {
        for (signal, body) in [("logs", CLAUDE_LOGS), ("metrics", CLAUDE_METRICS)] {
            assert_eq!(send(&rig, "claude-code", signal, body).status, 200);
        }
    }
    let line = reconciliation(&rig, CLAUDE);
    assert_eq!((&line["reported"]["requests"], &line["reported"]["micro_usd"]), (&json!(5), &json!(7_000)));
    assert_eq!((&line["tools"]["results"], &line["tools"]["bypasses"]), (&json!(4), &json!(4)));
}

#[test]
fn generations_agree_to_the_token_or_are_missing_or_went_past_the_gate() {
    let rig = Rig::start(models);
    generate(&rig, "s1", "anthropic", (900, 90), Status::Done);
    tell(&rig, "claude-code", &[request_of("s1", 1, (900, 90), 6_750)]);
    let line = reconciliation(&rig, "s1");
    assert_eq!(line["state"], "agrees", "{line}");
    assert_eq!(line["metered"]["micro_usd"], 900 * 5 + 90 * 25);
    assert_eq!(line["reported"]["micro_usd"], line["metered"]["micro_usd"], "to the micro-dollar");
    generate(&rig, "s1", "anthropic", (100, 10), Status::Done);
    let line = reconciliation(&rig, "s1");
    assert_eq!(
        (&line["state"], &line["missing"]),
        (&json!("differs"), &json!({"requests": 1, "tokens_in": 100, "tokens_out": 10}))
    );
    assert!(!is_closed(&rig, "s1"), "what a client keeps to itself is a gap and no alarm");
    tell(&rig, "claude-code", &[request_of("s1", 2, (100, 10), 1), request_of("s1", 3, (1, 1), 1)]);
    let line = reconciliation(&rig, "s1");
    assert_eq!((&line["state"], &line["closed"]), (&json!("past_the_gate"), &json!("frozen")));
    assert_eq!(line["excess"]["requests"], 1);
    assert_eq!((entries(&rig, "freeze"), entries(&rig, "bypass")), (1, 1));
    assert_eq!(metric(&rig, "weir_hook_bypasses_total{kind=\"model\"} "), Some(1));
    generate(&rig, "quiet", "anthropic", (7, 7), Status::Unknown);
    let untold = rig.get("/v1/reconciliation").json()["untold"].clone();
    assert_eq!((&untold["sessions"], &untold["requests"]), (&json!(1), &json!(1)));
}

#[test]
fn a_session_that_an_operator_lets_go_on_is_frozen_again_for_more_only() {
    let rig = Rig::start(models);
    tell(&rig, "claude-code", &[request_of("s1", 1, (10, 1), 1)]);
    let thaw = || {
        let reply = rig.ask(OPERATOR, "POST", "/v1/budgets/thaw", Some(json!({"account": "acme/coder/s1"})));
        assert_eq!(reply.status, 200, "{}", reply.text());
    };
    assert!(is_closed(&rig, "s1"));
    thaw();
    tell(&rig, "claude-code", &[request_of("s1", 1, (10, 1), 1)]);
    assert!(!is_closed(&rig, "s1"), "the same again is nothing new");
    tell(&rig, "claude-code", &[request_of("s1", 2, (10, 1), 1)]);
    assert!(is_closed(&rig, "s1"));
}

#[test]
fn without_a_meter_of_its_own_the_gate_compares_nothing() {
    let rig = rig();
    tell(&rig, "claude-code", &[request_of("s1", 1, (1_000_000, 1), 1)]);
    assert_eq!(reconciliation(&rig, "s1")["state"], "not_metered");
    assert!(!is_closed(&rig, "s1"));
}

#[test]
fn what_a_host_reports_of_its_generations_is_no_meter() {
    let rig = Rig::start(models);
    for surface in ["http", "hook"] {
        generate(&rig, "s1", surface, (900, 90), Status::Done);
    }
    tell(&rig, "claude-code", &[request_of("s1", 1, (900, 90), 1)]);
    let line = reconciliation(&rig, "s1");
    assert_eq!((&line["state"], &line["metered"]["requests"]), (&json!("past_the_gate"), &json!(0)));
}

#[test]
fn meters_and_bypasses_outlive_the_gate_and_reports_do_not() {
    let journal = Entries::default();
    let start = || {
        Rig::start(|setup| {
            models(setup);
            setup.journal = journal.clone();
        })
    };
    let first = start();
    generate(&first, "s1", "anthropic", (900, 90), Status::Done);
    assert_eq!(before(&first, "s1", "kept", "Bash", ls()).0, "allow");
    assert_eq!(before(&first, "s4", "refused", "Bash", json!({"command": "rm x"})).0, "deny");
    tell(&first, "claude-code", &[request_of("s1", 1, (900, 90), 1), result("s2", "unheard", "Bash")]);
    drop(first);
    let second = start();
    assert_eq!(scores(&second)[9]["high_water"], 1.0, "opacity is a fold over the journal");
    assert!(is_closed(&second, "s2"));
    assert_eq!(second.get("/v1/reconciliation").json()["sessions"], json!([]));
    tell(&second, "claude-code", &[request_of("s1", 2, (1, 1), 1), result("s1", "kept", "Bash")]);
    let line = reconciliation(&second, "s1");
    assert_eq!((&line["metered"]["tokens_in"], &line["state"]), (&json!(900), &json!("differs")));
    assert!(!is_closed(&second, "s1"), "what was decided before a restart is no bypass");
    tell(&second, "claude-code", &[result("s4", "refused", "Bash")]);
    assert!(is_closed(&second, "s4"), "what was denied before a restart is one");
}

#[test]
fn prompts_and_contents_are_kept_nowhere() {
    let rig = Rig::start(models);
    assert!(CLAUDE_DETAILS.contains("please go now") && CLAUDE_DETAILS.contains("ls nowhere"));
    assert_eq!(send(&rig, "claude-code", "logs", CLAUDE_DETAILS).status, 200);
    assert_eq!(send(&rig, "codex", "logs", CODEX_LOGS).status, 200);
    assert!(entries(&rig, "bypass") > 0);
    let all = [rig.journal.text(), rig.get("/v1/reconciliation").text(), rig.get("/metrics").text()].concat();
    for content in ["please go", "nowhere", "hello", "a.txt", "redacted", "Chunk ID"] {
        assert!(!all.contains(content), "{content}");
    }
}

#[test]
fn other_encodings_are_told_which_setting_to_change() {
    let rig = rig();
    let with = |headers: &str| {
        let head = format!(
            "POST /otlp/claude-code/v1/logs HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {AGENT}\r\n{headers}Content-Length: 2\r\n\r\n{{}}"
        );
        rig.unix().send(head.as_bytes())
    };
    for (headers, says) in [
        ("Content-Type: application/x-protobuf\r\n", "OTEL_EXPORTER_OTLP_PROTOCOL=http/json"),
        ("", "OTEL_EXPORTER_OTLP_PROTOCOL=http/json"),
        ("Content-Type: application/json\r\nContent-Encoding: gzip\r\n", "OTEL_EXPORTER_OTLP_COMPRESSION"),
        ("Content-Type: application/json\r\nContent-Type: text/plain\r\n", "http/json"),
    ] {
        let reply = with(headers);
        assert_eq!((reply.status, reply.code().as_str()), (415, "media_type"), "{headers}");
        assert!(reply.text().contains(says), "{}", reply.text());
    }
    assert_eq!(with("Content-Type: application/json; charset=utf-8\r\n").text(), "{}");
    assert_eq!(send(&rig, "codex", "traces", "{}").code(), "not_found");
    assert_eq!(send(&rig, "gemini", "logs", "{}").code(), "not_found");
    let path = "/otlp/claude-code/v1/logs";
    assert_eq!(rig.ask(OPERATOR, "POST", path, Some(json!({}))).status, 403);
    assert_eq!(rig.ask("somebody-else-0123", "POST", path, Some(json!({}))).status, 401);
}

#[test]
fn hostile_bodies_are_refused_whole_and_change_nothing() {
    let rig = rig();
    let entries = rig.journal.count();
    let deep = format!("{{\"resourceLogs\":{}{}}}", "[".repeat(80), "]".repeat(80));
    let record = r#"{"timeUnixNano":"1","attributes":[]}"#;
    let bodies = [
        "".to_owned(),
        "[]".into(),
        "null".into(),
        "{\"resourceLogs\":{}}".into(),
        "{\"resourceLogs\":[7]}".into(),
        "{\"resourceLogs\":[],\"resourceLogs\":[]}".into(),
        "{\"resourceLogs\":[{\"scopeLogs\":\"x\"}]}".into(),
        format!("{{\"resourceLogs\":[{{\"scopeLogs\":[{{\"logRecords\":[{record},3]}}]}}]}}"),
        "{\"resourceLogs\":[{\"scopeLogs\":[{\"logRecords\":[{\"timeUnixNano\":-1}]}]}]}".into(),
        "{\"resourceLogs\":[{\"scopeLogs\":[{\"logRecords\":[{\"timeUnixNano\":\"1e9\"}]}]}]}".into(),
        "{\"resourceLogs\":[{\"scopeLogs\":[{\"logRecords\":[{\"timeUnixNano\":\"99999999999999999999999\"}]}]}]}"
            .into(),
        deep,
        "{} {}".into(),
        "{\"a\":1e999}".into(),
    ];
    for body in &bodies {
        let reply = send(&rig, "claude-code", "logs", body);
        assert_eq!(reply.status, if body.is_empty() { 415 } else { 400 }, "{body}: {}", reply.text());
    }
    let mut torn = b"{\"resourceLogs\":[\xff]}".to_vec();
    assert_eq!(rig.unix().send(&request("POST", "/otlp/codex/v1/logs", AGENT, &torn)).status, 400);
    torn.resize((4 << 20) + 1, b' ');
    assert_eq!(rig.unix().send(&request("POST", "/otlp/codex/v1/logs", AGENT, &torn)).status, 413);
    for whole in [
        "{}",
        "{\"resourceLogs\":null}",
        "{\"unknown\":[{}]}",
        "{\"resourceLogs\":[{\"new\":1,\"scopeLogs\":[{\"logRecords\":[{\"x\":{}}]}]}]}",
    ] {
        assert_eq!(
            send(&rig, "claude-code", "logs", whole).text(),
            "{}",
            "unknown fields are passed over, as the protocol demands"
        );
    }
    assert_eq!(rig.journal.count(), entries);
}

#[test]
fn records_that_lack_what_they_need_are_rejected_one_by_one() {
    let rig = rig();
    let long = "x".repeat(300);
    let of = |attributes: Value| record(1, &attributes);
    let mut twice = result("s1", "t1", "Bash");
    twice["attributes"].as_array_mut().unwrap().push(attribute("session.id", &json!("s2")));
    let mut many = result("s1", "t1", "Bash");
    many["attributes"] = (0..129).map(|n| attribute(&n.to_string(), &json!("x"))).collect();
    let bad = [
        of(json!({"event.name": "tool_result", "tool_use_id": "t1", "tool_name": "Bash"})),
        of(json!({"event.name": "tool_result", "session.id": "", "tool_use_id": "t1"})),
        of(json!({"event.name": "tool_result", "session.id": long})),
        of(json!({"event.name": "tool_result", "session.id": "s1", "tool_use_id": long})),
        of(json!({"event.name": "tool_result", "session.id": 7})),
        of(json!({"event.name": "api_request", "session.id": "s1", "input_tokens": -1})),
        of(json!({"event.name": "api_request", "session.id": "s1", "input_tokens": "1.5"})),
        of(json!({"event.name": "api_request", "session.id": "s1", "input_tokens": 2_000_000_000_u64})),
        of(json!({"event.name": "api_request", "session.id": "s1", "cost_usd": "NaN"})),
        of(json!({"event.name": "api_request", "session.id": "s1", "cost_usd_micros": u64::MAX})),
        twice,
        many,
    ];
    let reply = send(&rig, "claude-code", "logs", &body(&bad)).json();
    assert_eq!(reply["partialSuccess"]["rejectedLogRecords"], bad.len().to_string(), "{reply}");
    assert!(!reply["partialSuccess"]["errorMessage"].as_str().unwrap().is_empty());
    assert_eq!(rig.get("/v1/reconciliation").json()["sessions"], json!([]));
    assert_eq!(
        metric(&rig, "weir_telemetry_records_total{client=\"claude-code\",signal=\"log\",taken=\"no\"} "),
        Some(bad.len() as u64)
    );
    let cumulative = CLAUDE_METRICS.replace("\"aggregationTemporality\":1", "\"aggregationTemporality\":2");
    let reply = send(&rig, "claude-code", "metrics", &cumulative).json();
    assert!(
        reply["partialSuccess"]["errorMessage"].as_str().unwrap().contains("TEMPORALITY_PREFERENCE=delta"),
        "{reply}"
    );
    assert_eq!(reply["partialSuccess"]["rejectedDataPoints"], "5");
}

#[test]
fn a_flood_of_sessions_alarms_and_reports_is_bounded() {
    let rig = rig();
    let sessions: Vec<Value> = (0..300).map(|n| request_of(&format!("s{n}"), 1, (1, 1), 1)).collect();
    let reply = send(&rig, "claude-code", "logs", &body(&sessions)).json();
    assert_eq!(reply["partialSuccess"]["rejectedLogRecords"], "44");
    // A bypass is looked at even where there is no room to remember its session.
    assert_eq!(send(&rig, "claude-code", "logs", &body(&[result("unseen", "t1", "Bash")])).status, 200);
    assert!(rig.journal.text().contains("acme/coder/unseen"));
    let alarms: Vec<Value> = (0..100).map(|n| result(&format!("s{n}"), "t1", "Bash")).collect();
    let reply = send(&rig, "claude-code", "logs", &body(&alarms));
    assert_eq!((reply.status, reply.code().as_str()), (429, "busy"));
    let revoked = entries(&rig, "revoke");
    assert!((2..40).contains(&revoked), "{revoked}");
    assert_eq!(reconciliation(&rig, "s90")["tools"]["bypasses"], 0, "it was not taken, and comes again");
    let refused = (0..5_000).any(|_| send(&rig, "claude-code", "logs", "{}").status == 429);
    assert!(refused, "reports come no faster than they may");
}
