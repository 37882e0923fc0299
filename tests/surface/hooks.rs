//! Hooks of coding agents over a real socket: decisions in the client's form, the calls behind them, and bypasses.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use weir::model::{Millis, Name};
use weir::pep::port::{Drawer, JournalFault};
use weir::surface::Desk;
use weir::surface::hook::{Carrier, Client, carry};

use crate::rig::{AGENT, Entries, OPERATOR, Reply, Rig, Setup, eventually};

/// A drawer for what a person is shown.
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

pub fn ready(setup: &mut Setup) {
    setup.policy = weir::policy::parse(include_bytes!("hooks.toml"), "hooks.toml").unwrap_or_else(|f| panic!("{f}"));
    setup.policy.approvals.timeout = Millis(60_000);
    setup.config.desk = Desk::keeping(Box::new(Shared::default()));
    setup.config.grace = Duration::from_millis(50);
}

fn rig() -> Rig {
    Rig::start(ready)
}

fn event(name: &str, session: &str, id: &str, tool: &str, input: &Value) -> Value {
    json!({"session_id": session, "transcript_path": "t.jsonl", "cwd": "/work", "permission_mode": "default",
        "hook_event_name": name, "tool_name": tool, "tool_use_id": id, "tool_input": input,
        "tool_response": {"stdout": "", "interrupted": false}})
}

fn tell(rig: &Rig, client: &str, query: &str, event: Value) -> Reply {
    rig.post(&format!("/v1/hooks/{client}{query}"), event)
}

/// What Claude Code is told before a tool: the decision and the reason.
pub fn before(rig: &Rig, session: &str, id: &str, tool: &str, input: Value) -> (String, String) {
    let reply = tell(rig, "claude-code", "?wait_ms=0", event("PreToolUse", session, id, tool, &input));
    assert_eq!(reply.status, 200, "{}", reply.text());
    decision(&reply.json())
}

fn decision(answer: &Value) -> (String, String) {
    let output = &answer["hookSpecificOutput"];
    assert_eq!(output["hookEventName"], "PreToolUse", "{answer}");
    let text = |key: &str| output[key].as_str().unwrap_or_default().to_owned();
    (text("permissionDecision"), text("permissionDecisionReason"))
}

pub fn after(rig: &Rig, session: &str, id: &str, tool: &str, input: Value) -> Value {
    let reply = tell(rig, "claude-code", "", event("PostToolUse", session, id, tool, &input));
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

pub fn ls() -> Value {
    json!({"command": "ls src", "description": "look"})
}

fn receipts(rig: &Rig, session: &str) -> Vec<Value> {
    rig.get(&format!("/v1/receipts?session={session}")).json()["receipts"].as_array().unwrap().clone()
}

fn approve(rig: &Rig) {
    let waiting = rig.ask(OPERATOR, "GET", "/v1/approvals", None).json()["approvals"].as_array().unwrap().clone();
    assert_eq!(waiting.len(), 1, "{waiting:?}");
    let path = format!("/v1/approvals/{}", waiting[0]["id"].as_str().unwrap());
    let reply = rig.ask(OPERATOR, "POST", &path, Some(json!({"approve": true})));
    assert_eq!(reply.status, 200, "{}", reply.text());
}

#[test]
fn a_tool_is_decided_before_and_completed_after() {
    let rig = rig();
    assert_eq!(before(&rig, "s1", "t1", "Bash", ls()).0, "allow");
    let metrics = rig.get("/metrics").text();
    assert!(metrics.contains("weir_open_calls 1"), "{metrics}");
    assert!(metrics.contains("weir_budget_pending{tier=\"session\",kind=\"tool_calls\"} 1"), "{metrics}");
    assert_eq!(after(&rig, "s1", "t1", "Bash", ls()), json!({}));
    let receipts = receipts(&rig, "s1");
    assert_eq!(receipts.len(), 1);
    assert_eq!(receipts[0]["execution"]["status"], "done", "{}", receipts[0]);
    assert!(receipts[0]["execution"]["result"].as_str().unwrap().starts_with("sha256:"));
    let failed = event("PostToolUseFailure", "s1", "t2", "Read", &json!({"file_path": "/srv/project/a"}));
    assert_eq!(before(&rig, "s1", "t2", "Read", json!({"file_path": "/srv/project/a"})).0, "allow");
    assert_eq!(tell(&rig, "claude-code", "", failed).json(), json!({}));
    let metrics = rig.get("/metrics").text();
    assert!(metrics.contains("weir_open_calls 0"), "{metrics}");
    assert!(
        metrics.contains("weir_hook_events_total{client=\"claude-code\",event=\"PostToolUseFailure\"} 1"),
        "{metrics}"
    );
}

#[test]
fn what_the_policy_does_not_have_is_denied_with_what_it_has() {
    let rig = rig();
    for (tool, input, says) in [
        ("Bash", json!({"command": "ls; rm -rf x"}), "`rm`"),
        ("Bash", json!({"command": "eval x"}), "`eval`"),
        ("Bash", json!({"command": "ls", "run_in_background": true}), "run_in_background"),
        ("CronCreate", json!({"cron": "* * * * *"}), "no tool `CronCreate`"),
        ("mcp__files__read", json!({}), "no tool `mcp__files__read`"),
        ("Edit", json!({"file_path": "/srv/project/.claude/settings.local.json", "new_string": "{}"}), "protected"),
        ("Write", json!({"file_path": "/srv/project/.git/hooks/pre-commit", "content": ""}), "protected"),
        ("NotebookEdit", json!({"notebook_path": "/srv/project/runs/ledger.jsonl", "new_source": ""}), "protected"),
        ("Bash", json!({"command": "ls > .mcp.json"}), "protected"),
        ("Bash", json!({"command": "ls > ~/.bash''rc"}), "protected"),
    ] {
        let (decision, why) = before(&rig, "s1", tool, tool, input.clone());
        assert_eq!(decision, "deny", "{tool} {input}");
        assert!(why.contains(says) && why.len() < 400, "{tool} {input}: {why}");
    }
}

#[test]
fn codex_is_answered_in_the_fields_that_it_knows() {
    let rig = rig();
    let ask = |tool: &str, input: Value| {
        tell(&rig, "codex", "?wait_ms=0&defer=true", event("PreToolUse", "s1", &input.to_string(), tool, &input)).json()
    };
    assert_eq!(ask("exec_command", json!({"cmd": "ls"})), json!({}));
    for (tool, input) in [
        ("exec_command", json!({"cmd": "ls", "tty": true})),
        ("exec_command", json!({"cmd": "bash --norc", "tty": false})),
        ("exec_command", json!({"cmd": "bash --norc"})),
        ("write_stdin", json!({"session_id": 1, "chars": "rm -rf x\n"})),
        ("exec_command", json!({"cmd": "cargo test"})),
    ] {
        let answer = ask(tool, input.clone());
        assert_eq!(decision(&answer).0, "deny", "{tool} {input}: a deferral is not one of its words");
        assert_eq!(answer.as_object().unwrap().len(), 1);
        assert_eq!(answer["hookSpecificOutput"].as_object().unwrap().len(), 3);
    }
}

#[test]
fn a_person_is_asked_and_the_same_call_finds_the_answer() {
    let rig = rig();
    let test = json!({"command": "cargo test"});
    let ask = |query: &str| {
        decision(&tell(&rig, "claude-code", query, event("PreToolUse", "s1", "t1", "Bash", &test)).json())
    };
    let (decision, why) = ask("?wait_ms=0&defer=true");
    assert_eq!(decision, "defer", "{why}");
    assert_eq!(ask("?wait_ms=0").0, "deny", "an interactive client is told to come again");
    approve(&rig);
    assert_eq!(ask("?wait_ms=0&defer=true").0, "allow");
    assert_eq!(after(&rig, "s1", "t1", "Bash", test.clone()), json!({}));
    let other = before(&rig, "s1", "t2", "Bash", json!({"command": "cargo test --all"}));
    assert_eq!(other.0, "deny", "a yes is for one call: {}", other.1);
}

#[test]
fn a_client_may_wait_for_the_answer() {
    let rig = rig();
    let body = event("PreToolUse", "s1", "t1", "Bash", &json!({"command": "cargo test"}));
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| tell(&rig, "claude-code", "?wait_ms=20000", body));
        eventually("asked", || {
            !rig.ask(OPERATOR, "GET", "/v1/approvals", None).json()["approvals"].as_array().unwrap().is_empty()
        });
        approve(&rig);
        assert_eq!(decision(&asked.join().unwrap().json()).0, "allow");
    });
}

#[test]
fn a_tool_that_ran_without_a_decision_ends_the_session() {
    let rig = rig();
    assert_eq!(before(&rig, "s2", "t0", "Bash", ls()).0, "allow");
    let halted = after(&rig, "s1", "t1", "Bash", ls());
    assert_eq!(halted["continue"], false, "{halted}");
    assert!(halted["stopReason"].as_str().unwrap().contains("without a decision"), "{halted}");
    let (decision, why) = before(&rig, "s1", "t2", "Bash", ls());
    assert_eq!(decision, "deny");
    assert!(why.contains("revoked"), "{why}");
    assert_eq!(before(&rig, "s2", "t3", "Bash", ls()).0, "allow", "another session goes on");
    assert!(rig.journal.text().contains("bypass: Bash has run"), "it is on record");
    assert!(rig.journal.text().contains("\"kind\":\"bypass\""), "and it is evidence");
    let opacity = rig.get("/v1/scores").json()["factors"][9].clone();
    assert_eq!((&opacity["factor"], &opacity["high_water"]), (&json!("opacity"), &json!(1.0)));
    assert!(rig.get("/metrics").text().contains("weir_hook_bypasses_total{kind=\"claude-code\"} 1"));
    // What was decided and ran is no bypass, however often it is told.
    assert_eq!(after(&rig, "s2", "t0", "Bash", ls()), json!({}));
    assert_eq!(after(&rig, "s2", "t0", "Bash", ls()), json!({}));
}

#[test]
fn a_tool_that_ran_although_it_was_denied_ends_the_session() {
    let rig = rig();
    assert_eq!(before(&rig, "s1", "t1", "Bash", json!({"command": "rm x"})).0, "deny");
    assert_eq!(after(&rig, "s1", "t1", "Bash", json!({"command": "rm x"}))["continue"], false);
    assert_eq!(before(&rig, "s1", "t2", "Bash", ls()).0, "deny");
}

#[test]
fn one_use_is_decided_once_and_for_what_it_was_told() {
    let rig = rig();
    assert_eq!(before(&rig, "s1", "t1", "Bash", ls()).0, "allow");
    let entries = rig.journal.count();
    assert_eq!(before(&rig, "s1", "t1", "Bash", ls()).0, "allow", "two hooks of one client");
    assert_eq!(rig.journal.count(), entries);
    let (decision, why) = before(&rig, "s1", "t1", "Bash", json!({"command": "ls /"}));
    assert!(decision == "deny" && why.contains("other arguments"), "{why}");
    assert_eq!(after(&rig, "s1", "t1", "Bash", json!({"command": "ls /"})), json!({}));
    assert_eq!(receipts(&rig, "s1")[0]["execution"]["status"], "unknown", "what ran is not what was decided");
    assert!(rig.get("/metrics").text().contains("weir_hook_bypasses_total{kind=\"changed\"} 1"));
}

#[test]
fn what_was_decided_before_a_restart_is_no_bypass() {
    let journal = Entries::default();
    let start = || {
        Rig::start(|setup| {
            ready(setup);
            setup.journal = journal.clone();
        })
    };
    let first = start();
    assert_eq!(before(&first, "s1", "t1", "Bash", ls()).0, "allow");
    drop(first);
    let second = start();
    assert_eq!(after(&second, "s1", "t1", "Bash", ls()), json!({}));
    assert_eq!(before(&second, "s1", "t2", "Bash", ls()).0, "allow");
    assert_eq!(before(&second, "s1", "t1", "Bash", ls()).0, "allow", "the client's id of a use may come again");
}

#[test]
fn budgets_are_the_sessions_and_a_subagent_is_one_of_it() {
    let rig = rig();
    let use_one = |n: usize, agent: Option<&str>| {
        let mut event = event("PreToolUse", "s1", &format!("t{n}"), "Bash", &ls());
        if let Some(agent) = agent {
            event["agent_id"] = json!(agent);
        }
        decision(&tell(&rig, "claude-code", "?wait_ms=0", event).json())
    };
    for n in 0..40 {
        let (decision, why) = use_one(n, (n % 2 == 0).then_some("researcher"));
        assert_eq!(decision, "allow", "{n}: {why}");
    }
    let (decision, why) = use_one(40, Some("another"));
    assert!(decision == "deny" && why.contains("budget"), "a new subagent has no new budget: {why}");
    let mut deep = rig_depth();
    deep["agent_id"] = json!("worker");
    let shallow = Rig::start(|setup| {
        ready(setup);
        setup.policy.peers.max_depth = 0;
    });
    let why = self::decision(&tell(&shallow, "claude-code", "?wait_ms=0", deep).json()).1;
    assert!(why.contains("delegation"), "{why}");
}

fn rig_depth() -> Value {
    event("PreToolUse", "s9", "t1", "Bash", &ls())
}

#[test]
fn what_is_not_one_event_is_refused() {
    let rig = rig();
    let good = event("PreToolUse", "s1", "t1", "Bash", &ls());
    assert_eq!(tell(&rig, "emacs", "", good.clone()).status, 404);
    assert_eq!(rig.ask(OPERATOR, "POST", "/v1/hooks/codex", Some(good.clone())).status, 403);
    assert_eq!(tell(&rig, "codex", "?wait_ms=x", good.clone()).status, 400);
    assert_eq!(tell(&rig, "codex", "?defer=yes", good.clone()).status, 400);
    for (field, value) in [("session_id", json!("")), ("tool_use_id", Value::Null), ("tool_input", json!({"$": 1}))] {
        let mut event = good.clone();
        event[field] = value;
        assert_eq!(tell(&rig, "claude-code", "", event).code(), "malformed", "{field}");
    }
    for name in ["SessionStart", "SessionEnd", "Stop", "PermissionRequest", "SomethingNew"] {
        let mut event = good.clone();
        event["hook_event_name"] = json!(name);
        event["unknown"] = json!({"fields": "are passed over"});
        assert_eq!(tell(&rig, "claude-code", "", event).json(), json!({}), "{name}");
    }
    let metrics = rig.get("/metrics").text();
    assert!(metrics.contains("event=\"unknown\"} 1") && !metrics.contains("SomethingNew"), "{metrics}");
}

#[test]
fn conversations_are_bounded_and_end() {
    let rig = rig();
    let start =
        |n: usize, name: &str| tell(&rig, "codex", "", json!({"session_id": format!("s{n}"), "hook_event_name": name}));
    for n in 0..256 {
        assert_eq!(start(n, "SessionStart").status, 200);
    }
    assert_eq!(start(256, "SessionStart").code(), "session_limit");
    assert_eq!(start(3, "SessionEnd").status, 200);
    assert_eq!(start(256, "SessionStart").status, 200);
}

#[test]
fn the_shim_carries_to_a_real_gate_and_blocks_without_one() {
    let mut rig = rig();
    let home = tempfile::tempdir().unwrap();
    let token_file = home.path().join("token");
    std::fs::write(&token_file, AGENT).unwrap();
    let carrier =
        Carrier { client: Client::ClaudeCode, socket: rig.unix.clone(), token_file, wait: Duration::ZERO, defer: true };
    let told =
        |command: &str, id: &str| event("PreToolUse", "s1", id, "Bash", &json!({"command": command})).to_string();
    let exit = carry(&carrier, told("ls", "t1").as_bytes());
    assert_eq!((exit.code, decision(&serde_json::from_str(&exit.stdout).unwrap()).0.as_str()), (0, "allow"));
    let exit = carry(&carrier, told("rm x", "t2").as_bytes());
    assert_eq!((exit.code, decision(&serde_json::from_str(&exit.stdout).unwrap()).0.as_str()), (0, "deny"));
    let exit = carry(&carrier, told("cargo test", "t3").as_bytes());
    assert_eq!((exit.code, decision(&serde_json::from_str(&exit.stdout).unwrap()).0.as_str()), (0, "defer"));
    let exit = carry(&carrier, told("ls", "").as_bytes());
    assert!(exit.code == 2 && exit.stderr.contains("tool_use_id"), "{exit:?}");
    rig.stop();
    rig.ended();
    let exit = carry(&carrier, told("ls", "t4").as_bytes());
    assert!(exit.code == 2 && exit.stdout.is_empty() && exit.stderr.contains("no gate listens"), "{exit:?}");
}
