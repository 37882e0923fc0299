//! The laws that hold everywhere, each with a test named after it, against the whole gate.
//!
//! `docs/architecture.md` states them; `tests/simulation.rs` looks for what nobody thought of.

#[path = "../support/mod.rs"]
mod support;

mod authority;
mod budget;
mod deny;
mod evidence;
mod identity;
mod intent;
mod operator;
mod replay;

use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use proptest::prelude::*;
use serde_json::{Value, json};
use support::policy::{budget, busy, empty, rule, tight, tool, unconstrained};
use support::{Break, Host, Line, World, call, key, name, program, step, subject, tool as ask_tool};
use weir::audit::Body;
use weir::model::{
    Action, Amounts, Call, Digest, Effect, EffectClass, Kind, Outcome, ReasonCode, Resource, Status, Subject, Timestamp,
};
use weir::pdp::Compiled;
use weir::pep::port::{Approval, Approver, Clock, Executor, Inner, Question};
use weir::pep::{Answer, Durable, Gate, Reserved};
use weir::policy::{Policy, Scope};

fn line(world: &World) -> Line {
    Line { store: world.store.clone(), host: Host::default() }
}

#[track_caller]
fn denied(answer: &Answer, code: ReasonCode) {
    assert_eq!(answer.decision.effect, Effect::Deny, "{:?}", answer.decision);
    assert_eq!(answer.decision.reason.code, code, "{:?}", answer.decision.reason);
    assert!(answer.denial.as_ref().is_some_and(|text| text.starts_with("[weir] denied")), "{:?}", answer.denial);
}

/// A policy of two tools, one allow rule over both, and whatever `rules` add.
fn with_rules(rules: Vec<weir::policy::Rule>) -> Policy {
    let mut policy = busy();
    policy.rules = vec![rule("all", Effect::Allow, &[Action::ToolCall], &[], None)];
    policy.rules.extend(rules);
    policy
}

/// A day of work, small enough to be broken at every entry.
fn day() -> Vec<Call> {
    let nested = [
        step(Action::CodeImport, "math", &json!({})),
        step(Action::CodeImport, "socket", &json!({})),
        step(Action::ToolCall, "web", &json!({"q": 1})),
        step(Action::ToolCall, "save", &json!({"q": 2})),
        step(Action::ToolCall, "rm -rf /", &json!({})),
        step(Action::AgentInvoke, "helper", &json!({"task": "sum"})),
    ];
    vec![
        ask_tool("look", "look", json!({"q": "a"})),
        ask_tool("no", "rm", json!({})),
        ask_tool("buy", "buy", json!({"paid": 40})),
        program("code", &nested),
        ask_tool("mail", "mail", json!({"to": "b"})),
        ask_tool("mail2", "mail", json!({"to": "c"})),
        ask_tool("lost", "buy", json!({"end": "unknown"})),
        ask_tool("boom", "buy", json!({"end": "panic"})),
    ]
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(|f| serde_json::Number::from_f64(f).map_or(Value::Null, Value::Number)),
        "\\PC{0,12}".prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(any::<String>(), inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn any_args() -> impl Strategy<Value = Value> {
    proptest::collection::btree_map("[a-z]{1,6}", any_json(), 0..5).prop_map(|map| {
        // The fake tools read these two; any value of another sort would end the tool, not the test.
        let known = ["end", "paid"];
        Value::Object(map.into_iter().filter(|(key, _)| !known.contains(&key.as_str())).collect())
    })
}
