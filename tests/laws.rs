//! The laws that hold everywhere, each with a test named after it, against the whole gate.
//!
//! `docs/architecture.md` states them; `tests/simulation.rs` looks for what nobody thought of.

mod support;

use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;
use serde_json::{Value, json};
use support::policy::{budget, busy, empty, rule, tight, tool, unconstrained};
use support::{Break, Host, Line, World, call, key, name, program, step, subject, tool as ask_tool};
use weir::audit::Body;
use weir::model::{
    Action, Amounts, Call, Digest, Effect, EffectClass, Kind, Outcome, ReasonCode, Resource, Status, Subject,
};
use weir::pdp::Compiled;
use weir::pep::port::{Approval, Approver, Executor, Inner};
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

#[test]
fn law_1_default_deny() {
    let world = World::default();
    let (gate, line) = (world.open(busy()), line(&world));
    let package = |id: &str, revision: &str| {
        let mut call = call(id, Action::PackageFetch, "left-pad", json!({}));
        call.resource = Resource { registry: Some(name("python")), revision: Some(name(revision)), ..call.resource };
        call
    };
    let deep = Call {
        subject: Subject { delegation: vec![name("a"), name("b")], ..subject() },
        ..ask_tool("n", "look", json!({}))
    };
    let refused = [
        (ask_tool("a", "rm", json!({})), ReasonCode::UnknownTool),
        (ask_tool("b", "Look", json!({})), ReasonCode::UnknownTool),
        (ask_tool("c", "mail", json!({})), ReasonCode::ApprovalUnavailable),
        (call("d", Action::CodeImport, "os", json!({})), ReasonCode::ImportDenied),
        (call("e", Action::CodeImport, "mathematics", json!({})), ReasonCode::ImportDenied),
        (call("f", Action::CodeRun, "python", json!({"code": 1})), ReasonCode::Malformed),
        (call("g", Action::CodeRun, "python", json!({"code": "", "extra": 1})), ReasonCode::Malformed),
        (call("h", Action::AgentInvoke, "stranger", json!({})), ReasonCode::UnknownPeer),
        (call("i", Action::ModelGenerate, "small", json!({})), ReasonCode::BadArgument),
        (call("j", Action::ModelGenerate, "small", json!({"max_tokens": -1})), ReasonCode::BadArgument),
        (call("k", Action::ModelGenerate, "large", json!({"max_tokens": 1})), ReasonCode::NoRule),
        (package("l", "1.0.1"), ReasonCode::UnpinnedPackage),
        (call("m", Action::PackageFetch, "left-pad", json!({})), ReasonCode::UnpinnedPackage),
        (deep, ReasonCode::DelegationDepth),
    ];
    for (call, code) in refused {
        let id = call.id.clone();
        let answer = line.run(&gate, call);
        denied(&answer, code);
        assert!(answer.outcome.is_none() && answer.receipt.is_some(), "{id}");
    }
    assert_eq!(line.host.count(), 0);
    assert!(line.run(&gate, package("ok", "1.0.0")).ran());

    let (nothing, bare) = (World::default(), support::policy::empty());
    let gate = nothing.open(bare);
    for action in Action::ALL {
        let answer =
            line.run(&gate, call(&format!("nothing-{}", action.word()), action, "look", json!({"max_tokens": 1})));
        assert_eq!(answer.decision.effect, Effect::Deny, "{}", action.word());
    }
}

#[test]
fn law_1_a_rule_that_cannot_be_evaluated_denies() {
    for when in ["context.missing > 1", "context.args.n > 1", "context.args.q > 1", "context.labels == context.nothing"]
    {
        for effect in [Effect::Allow, Effect::Ask, Effect::Deny] {
            let world = World::default();
            let gate = world.open(with_rules(vec![rule("odd", effect, &[Action::ToolCall], &[], Some(when))]));
            denied(&line(&world).run(&gate, ask_tool("a", "look", json!({"q": "x"}))), ReasonCode::RuleError);
        }
    }
}

/// A deny rule that guards with `has` must not be slipped past with a value that Cedar cannot hold.
#[test]
fn law_1_no_value_slips_past_a_guarded_deny() {
    let when = Some("context.args has n && context.args.n > 90");
    let world = World::default();
    let gate = world.open(with_rules(vec![rule("big", Effect::Deny, &[Action::ToolCall], &[], when)]));
    let line = line(&world);
    let hostile =
        [json!(91), json!(95.5), json!(1e300), json!(u64::MAX), json!(91.0), json!(null), json!("91"), json!([91])];
    for (index, n) in hostile.iter().enumerate() {
        let answer = line.run(&gate, ask_tool(&format!("bad{index}"), "look", json!({"n": n})));
        assert_eq!(answer.decision.effect, Effect::Deny, "n = {n}");
    }
    for (index, arguments) in [json!({"n": 90}), json!({"n": 5.0}), json!({}), json!({"m": 91})].into_iter().enumerate()
    {
        assert!(line.run(&gate, ask_tool(&format!("good{index}"), "look", arguments)).ran());
    }
}

#[test]
fn law_1_an_empty_budget_is_seen_by_a_guarded_rule() {
    let when = Some("context.remaining has micro_usd && context.remaining.micro_usd < 50");
    let mut policy = with_rules(vec![rule("poor", Effect::Deny, &[Action::ToolCall], &["look"], when)]);
    policy.budgets = vec![budget("money", Scope::Session, Kind::MicroUsd, 100, Effect::Deny)];
    let world = World::default();
    let (gate, line) = (world.open(policy), line(&world));
    assert!(line.run(&gate, ask_tool("rich", "look", json!({}))).ran());
    assert!(line.run(&gate, ask_tool("all-of-it", "buy", json!({"paid": 100}))).ran());
    denied(&line.run(&gate, ask_tool("poor", "look", json!({}))), ReasonCode::Rule);
}

#[test]
fn law_1_an_unknown_price_denies() {
    let mut policy = with_rules(Vec::new());
    policy.tools.insert("free".into(), tool("free", EffectClass::Spend));
    let world = World::default();
    let (gate, line) = (world.open(policy), line(&world));
    denied(&line.run(&gate, ask_tool("a", "free", json!({}))), ReasonCode::UnknownPrice);
    assert!(line.run(&gate, ask_tool("b", "buy", json!({}))).ran());
}

#[test]
fn law_1_an_argument_that_the_tool_does_not_declare_denies() {
    let mut policy = with_rules(Vec::new());
    let strict = policy.tools.get_mut("look").unwrap();
    strict.extra_args = false;
    strict.args.insert("q".into(), unconstrained());
    let world = World::default();
    let (gate, line) = (world.open(policy), line(&world));
    denied(&line.run(&gate, ask_tool("a", "look", json!({"q": 1, "sudo": true}))), ReasonCode::BadArgument);
    assert!(line.run(&gate, ask_tool("b", "look", json!({"q": 1}))).ran());
}

/// Protected paths in every dress in which a path reaches the host.
#[test]
fn law_1_a_protected_path_is_refused_however_it_is_written() {
    let mut policy = with_rules(Vec::new());
    policy.protected = vec!["/etc/shadow".into(), ".ssh".into()];
    let world = World::default();
    let (gate, line) = (world.open(policy), line(&world));
    let base64 = "L2V0Yy9zaGFkb3c=";
    let hostile = [
        json!("/etc/shadow"),
        json!(["x", {"deep": [".ssh/id"]}]),
        json!({"/etc/shadow": 1}),
        json!({"$": ["path", "/etc/shadow"]}),
        json!({"$": ["bytes", base64]}),
        json!({"$": ["bytearray", base64]}),
        json!({"$": ["str", base64]}),
        json!({"$": ["tuple", [{"$": ["bytes", base64]}]]}),
        json!({"$": ["dict", [[{"$": ["bytes", base64]}, 1]]]}),
    ];
    for (index, value) in hostile.into_iter().enumerate() {
        denied(
            &line.run(&gate, ask_tool(&format!("p{index}"), "look", json!({"q": value}))),
            ReasonCode::ProtectedPath,
        );
    }
    assert!(line.run(&gate, ask_tool("fine", "look", json!({"q": {"$": ["bytes", "aGVsbG8="]}}))).ran());
}

#[test]
fn law_1_a_dead_store_denies_everything_for_good() {
    for how in [Break::Lost, Break::Kept, Break::Hole, Break::Panic] {
        let world = World::default();
        let (gate, line) = (world.open(busy()), line(&world));
        assert!(line.run(&gate, ask_tool("before", "look", json!({}))).ran());
        world.store.break_at(world.store.count(), how);
        let first = line.run(&gate, ask_tool("first", "look", json!({})));
        assert!(first.receipt.is_none() && first.outcome.is_none(), "{how:?}");
        assert_eq!(first.decision.effect, Effect::Deny);
        for attempt in 0..3 {
            let answer = line.run(&gate, ask_tool(&format!("after{attempt}"), "look", json!({})));
            assert_eq!(answer.decision.effect, Effect::Deny, "{how:?}");
            assert!(answer.receipt.is_none());
            assert_eq!(answer.decision.reason.code.row().fault, weir::model::Fault::Gate);
        }
        // Whoever only asks is told the same, and so is whoever wants another policy in force.
        assert_eq!(gate.evaluate(&ask_tool("ask", "look", json!({}))).decision.effect, Effect::Deny, "{how:?}");
        assert!(gate.health().is_some() && gate.facts(&subject()).is_none());
        assert!(gate.reload(Compiled::new(tight()).unwrap()).is_err());
        assert_eq!(line.host.count(), 1);
    }
}

#[test]
fn law_1_a_panic_of_a_port_denies() {
    struct Startled;
    impl Approver for Startled {
        fn ask(&self, _: &Call, _: &str, _: Digest, _: weir::model::Millis) -> Approval {
            panic!("{}: the approver breaks", support::EXPECTED)
        }
    }
    let world = World::default();
    let policy = Compiled::new(busy()).unwrap();
    let ports = (Box::new(world.store.clone()), Box::new(world.clock.clone()), Box::new(Startled));
    let gate = Gate::open(policy, ports.0, ports.1, ports.2, key()).unwrap();
    let line = line(&world);
    denied(&line.run(&gate, ask_tool("a", "mail", json!({}))), ReasonCode::ApprovalUnavailable);
    assert!(line.run(&gate, ask_tool("b", "look", json!({}))).ran(), "the gate goes on");
}

#[test]
fn law_1_evaluate_says_what_admit_would() {
    let world = World::default();
    let (gate, line) = (world.open(tight()), line(&world));
    for round in 0..20 {
        for (index, resource) in ["look", "web", "save", "buy", "nothing"].into_iter().enumerate() {
            let call = ask_tool(&format!("c{round}-{index}"), resource, json!({"paid": 100}));
            let foretold = gate.evaluate(&call).decision.effect;
            let answer = line.run(&gate, call);
            assert_eq!(foretold == Effect::Allow, answer.ran(), "{resource} in round {round}: {:?}", answer.decision);
        }
    }
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

#[test]
fn law_2_nothing_runs_without_a_durable_intent() {
    let whole = World::default();
    whole.person.yes(1);
    let gate = whole.open(busy());
    for call in day() {
        line(&whole).run(&gate, call);
    }
    let entries = whole.store.count();
    assert!(entries > 20, "{entries}");
    let start = 2;
    for at in start..entries {
        for (how, awaited) in [(Break::Lost, false), (Break::Lost, true), (Break::Kept, true), (Break::Hole, false)] {
            let world = World::default();
            world.person.yes(1);
            if awaited {
                world.store.awaited();
            }
            let (gate, line) = (world.open(busy()), line(&world));
            world.store.break_at(at, how);
            let mut after = false;
            for call in day() {
                // `Line` looks for the intent on disk before it acts.
                let answer = line.run(&gate, call);
                if after {
                    denied(&answer, ReasonCode::JournalFailed);
                    assert!(answer.receipt.is_none() && answer.outcome.is_none());
                }
                after |= answer.receipt.is_none();
            }
            assert!(after, "entry {at} broke ({how:?}) and nobody noticed");
            for id in line.host.ids() {
                assert!(world.store.has_intent(&id), "{id} ran without an intent");
            }
        }
    }
}

#[test]
fn law_2_every_call_has_one_answer_and_one_end() {
    let world = World::default();
    world.person.yes(1);
    let (gate, line) = (world.open(busy()), line(&world));
    let mut answers: Vec<Answer> = day().into_iter().map(|call| line.run(&gate, call)).collect();
    answers.extend(line.host.nested.lock().unwrap().iter().cloned());
    let story = world.store.story();
    story.assert_ended();
    assert_eq!(story.ends.len(), answers.len(), "an end for each answer");
    for answer in &answers {
        let receipt = answer.receipt.as_ref().expect("a receipt");
        assert_eq!(receipt.receipt_id, answer.call);
        assert!(receipt.verifies(&key().public()));
        assert_eq!(story.held.contains_key(&answer.call), answer.ran(), "{}", answer.call);
        assert!(story.ends.contains_key(&answer.call), "{}", answer.call);
    }
    let ran = answers.iter().filter(|answer| answer.ran()).count();
    // Two entries for what ran, one for what did not, and the two of the start.
    assert_eq!(world.store.count() as usize, 2 + 2 * ran + (answers.len() - ran));
    let mut ids = line.host.ids();
    ids.sort();
    let runs = ids.len();
    ids.dedup();
    // Nested tools are noted once: the host runs them, not the outer executor.
    assert_eq!(ids.len(), runs, "something ran twice");
}

#[test]
fn law_2_an_id_on_record_gets_no_second_run_and_no_second_end() {
    let world = World::default();
    let (gate, line) = (world.open(busy()), line(&world));
    let open = gate.admit(ask_tool("x", "buy", json!({}))).expect("admitted");
    // While it runs, its id comes again: with a call that would be refused, and with one that would not.
    for (resource, code) in
        [("rm", ReasonCode::DuplicateCall), ("look", ReasonCode::DuplicateCall), ("mail", ReasonCode::DuplicateCall)]
    {
        let answer = line.run(&gate, ask_tool("x", resource, json!({})));
        denied(&answer, code);
        assert_ne!(answer.call, name("x"), "the refusal has an id of its own");
    }
    // A crash now must count the call as spent: no refusal has ended it.
    let later = world.copy();
    let reopened = later.open(busy());
    let posted = |gate: &Gate| gate.balances()[0].posted.of(Kind::MicroUsd);
    assert_eq!(posted(&reopened), 100);
    drop(open);
    // A refused id is used up as well, also after a restart.
    denied(&line.run(&gate, ask_tool("y", "rm", json!({}))), ReasonCode::UnknownTool);
    denied(&line.run(&gate, ask_tool("y", "look", json!({}))), ReasonCode::DuplicateCall);
    drop(gate);
    let gate = world.open(busy());
    for id in ["x", "y"] {
        denied(&line.run(&gate, ask_tool(id, "look", json!({}))), ReasonCode::DuplicateCall);
    }
    world.store.story().assert_ended();
    assert_eq!(line.host.count(), 0);
    assert_eq!(world.person.times_asked(), 0, "nobody is asked about an id on record");
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn law_2_what_was_evaluated_is_what_is_forwarded(arguments in any_args()) {
        let world = World::default();
        let (gate, line) = (world.open(with_rules(vec![
            rule("run", Effect::Allow, &[Action::CodeRun], &[], None),
        ])), line(&world));
        let text = arguments.to_string();
        line.run(&gate, ask_tool("direct", "look", arguments.clone()));
        line.run(&gate, program("code", &[step(Action::ToolCall, "look", &arguments)]));
        let ran = line.host.ran.lock().unwrap().clone();
        let of = |id: &str| ran.iter().find(|ran| ran.id == name(id)).map(|ran| ran.args.clone());
        prop_assert_eq!(of("direct"), Some(text.clone()));
        // A nested call's arguments went through the program's own text once more.
        let again: Value = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(of("code.0"), Some(again.to_string()));
        for entry in world.store.entries().iter() {
            if let Body::Intent { call, args, .. } = &entry.body {
                let ran = ran.iter().find(|ran| ran.id == call.id).expect("it ran");
                prop_assert_eq!(*args, Digest::of(ran.args.as_bytes()), "{}", call.id);
            }
        }
        world.store.story().assert_ended();
    }
}

#[test]
fn law_3_a_cap_of_five_lets_five_of_a_thousand_run() {
    let mut policy = busy();
    policy.budgets = vec![budget("five", Scope::Session, Kind::MicroUsd, 500, Effect::Deny)];
    let world = World::default();
    let gate = world.open(policy);
    let (threads, ran) = (1_000, AtomicUsize::new(0));
    struct Count<'c>(&'c AtomicUsize);
    impl Executor for Count<'_> {
        fn execute(&self, _: &Durable<Reserved>, _: &dyn Inner) -> Outcome {
            self.0.fetch_add(1, Ordering::SeqCst);
            Outcome { usage: Amounts::ZERO.with(Kind::MicroUsd, 100), ..Outcome::of(Status::Done) }
        }
    }
    let (barrier, host) = (Barrier::new(threads), Host::default());
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (gate, barrier, ran, host) = (&gate, &barrier, &ran, &host);
            std::thread::Builder::new()
                .stack_size(512 << 10)
                .spawn_scoped(scope, move || {
                    let call = ask_tool(&format!("t{thread}"), "buy", json!({}));
                    barrier.wait();
                    let answer = gate.handle(call, &Count(ran), host);
                    assert!(answer.ran() || answer.decision.reason.code == ReasonCode::BudgetExhausted);
                })
                .unwrap();
        }
    });
    assert_eq!(ran.load(Ordering::SeqCst), 5);
    let story = world.store.story();
    story.assert_ended();
    assert_eq!((story.held.len(), story.ends.len()), (5, threads));
    let most = gate.balances().into_iter().map(|b| b.posted.of(Kind::MicroUsd) + b.pending.of(Kind::MicroUsd)).max();
    assert_eq!(most, Some(500));
}

#[test]
fn law_3_an_unknown_outcome_of_a_paid_action_is_spent() {
    let spent = |gate: &Gate| gate.balances()[0].posted.of(Kind::MicroUsd);
    let ends = [
        (json!({"end": "unknown"}), 100),
        (json!({"end": "panic"}), 100),
        (json!({}), 100),
        (json!({"end": "failed"}), 100),
        (json!({"end": "exhausted"}), 100),
        (json!({"paid": 30}), 30),
        (json!({"end": "unknown", "paid": 30}), 100),
        (json!({"end": "unknown", "paid": 130}), 130),
        (json!({"end": "broken"}), 0),
    ];
    for (arguments, posted) in ends {
        let world = World::default();
        let (gate, line) = (world.open(busy()), line(&world));
        line.run(&gate, ask_tool("a", "buy", arguments.clone()));
        assert_eq!(spent(&gate), posted, "{arguments}");
        assert_eq!(gate.balances()[0].pending, Amounts::ZERO);
        drop(gate);
        assert_eq!(spent(&world.open(busy())), posted, "{arguments} after a restart");
    }
    // The process dies between intent and outcome.
    let world = World::default();
    let gate = world.open(busy());
    drop(gate.admit(ask_tool("a", "buy", json!({}))).expect("admitted"));
    assert_eq!((spent(&gate), gate.balances()[0].pending.of(Kind::MicroUsd)), (0, 100));
    drop(gate);
    let gate = world.open(busy());
    assert_eq!((spent(&gate), gate.balances()[0].pending.of(Kind::MicroUsd)), (100, 0));
    assert_eq!(world.store.story().expired, [name("a")]);
}

#[test]
fn law_3_a_person_raises_a_cap_by_tranches_and_each_once() {
    let mut policy = busy();
    policy.budgets = vec![
        budget("two", Scope::Run, Kind::ToolCalls, 2, Effect::Ask),
        budget("three", Scope::Session, Kind::Calls, 3, Effect::Ask),
    ];
    let world = World::default();
    let (gate, line) = (world.open(policy.clone()), line(&world));
    let go = |gate: &Gate, id: &str| line.run(gate, ask_tool(id, "look", json!({}))).ran();
    assert!(go(&gate, "a") && go(&gate, "b"));
    assert!(!go(&gate, "c"), "nobody is there");
    world.person.yes(1);
    assert!(go(&gate, "d"), "one more tranche of two");
    world.person.yes(1);
    assert!(go(&gate, "e"), "one more tranche of three");
    // Five calls against 2 + 2: both budgets may need a person for the same call.
    world.person.yes(1);
    assert!(go(&gate, "f") && go(&gate, "g"));
    world.person.yes(2);
    assert!(go(&gate, "h"), "two budgets at their cap, two answers");
    let asked = world.person.times_asked();
    drop(gate);
    let gate = world.open(policy);
    assert!(go(&gate, "i"), "tranches outlive a restart");
    assert_eq!(world.person.times_asked(), asked);
}

#[test]
fn law_4_authority_only_shrinks() {
    let world = World::default();
    let (gate, line) = (world.open(busy()), line(&world));
    let outer = Call {
        subject: Subject { delegation: vec![name("boss")], ..subject() },
        ..program(
            "outer",
            &[
                step(Action::ToolCall, "look", &json!({"q": 1})),
                step(Action::ToolCall, "mail", &json!({})),
                step(Action::CodeImport, "os", &json!({})),
                step(Action::AgentInvoke, "helper", &json!({})),
                step(Action::CodeRun, "python", &json!({"code": "[]"})),
                step(Action::ModelGenerate, "small", &json!({"max_tokens": 5})),
                step(Action::PackageFetch, "left-pad", &json!({})),
                step(Action::ToolCall, "", &json!({})),
                step(Action::ToolCall, "look\u{0}", &json!({})),
            ],
        )
    };
    let wanted = outer.subject.clone();
    line.run(&gate, outer);
    let nested = line.host.nested.lock().unwrap().clone();
    assert_eq!(nested.len(), 9);
    let done = |answer: &Answer| answer.outcome.as_ref().is_some_and(|outcome| outcome.status == Status::Done);
    let ended: Vec<bool> = nested.iter().map(done).collect();
    // Only the tool: delegation is one deep already, so that the agent is out of reach, and what does
    // not nest is not executed even where a rule allows it.
    assert_eq!(ended, [true, false, false, false, false, false, false, false, false]);
    for answer in &nested {
        let action = &answer.receipt.as_ref().expect("nested calls have receipts").action;
        let context = &action.requester_context;
        assert_eq!((&context.organisation, &context.agent), (&wanted.org, &wanted.agent));
        assert_eq!((&context.session, &context.scope), (&wanted.session, &wanted.run));
        assert_eq!(context.delegation_chain, wanted.delegation);
        assert_eq!(action.parent, Some(name("outer")));
    }
    world.store.story().assert_ended();
}

/// Whatever a nested call gets, the direct call would have got: same facts, same rules.
#[test]
fn law_4_a_nested_call_gets_no_more_than_the_direct_one() {
    let steps: Vec<(Action, &str, Value)> = vec![
        (Action::ToolCall, "look", json!({"q": 1})),
        (Action::ToolCall, "web", json!({})),
        (Action::ToolCall, "save", json!({})),
        (Action::ToolCall, "mail", json!({})),
        (Action::ToolCall, "buy", json!({})),
        (Action::ToolCall, "rm", json!({})),
        (Action::CodeImport, "math", json!({})),
        (Action::CodeImport, "os", json!({})),
        (Action::AgentInvoke, "helper", json!({})),
        (Action::AgentInvoke, "stranger", json!({})),
        (Action::ModelGenerate, "small", json!({"max_tokens": 501})),
        (Action::PackageFetch, "left-pad", json!({})),
    ];
    for (action, resource, arguments) in steps {
        let (direct, nested) = (World::default(), World::default());
        let (gate, own) = (direct.open(tight()), line(&direct));
        own.run(&gate, program("first", &[]));
        let plain = own.run(&gate, call("x", action, resource, arguments.clone()));
        let (gate, within) = (nested.open(tight()), line(&nested));
        within.run(&gate, program("first", &[step(action, resource, &arguments)]));
        let inner = within.host.nested.lock().unwrap()[0].clone();
        assert!(inner.decision.effect >= plain.decision.effect, "{} {resource}", action.word());
    }
}

#[test]
fn law_4_an_approval_is_for_one_call_under_one_policy() {
    struct Turncoat<'p>(&'p std::sync::OnceLock<Gate>, &'p AtomicUsize);
    impl Approver for Turncoat<'static> {
        fn ask(&self, _: &Call, _: &str, _: Digest, _: weir::model::Millis) -> Approval {
            let round = self.1.fetch_add(1, Ordering::SeqCst);
            if round > 0 {
                return Approval::Refused;
            }
            // While the person thinks, the operator puts a stricter policy into force.
            let mut next = busy();
            next.digest = Digest::of(b"next");
            next.rules.iter_mut().find(|rule| rule.id == "mail").unwrap().reason = "now a different question".into();
            self.0.get().unwrap().reload(Compiled::new(next).unwrap()).unwrap();
            Approval::Granted("yes".into())
        }
    }
    static GATE: std::sync::OnceLock<Gate> = std::sync::OnceLock::new();
    static ROUNDS: AtomicUsize = AtomicUsize::new(0);
    let world = World::default();
    let ports = (Box::new(world.store.clone()), Box::new(world.clock.clone()), Box::new(Turncoat(&GATE, &ROUNDS)));
    GATE.set(Gate::open(Compiled::new(busy()).unwrap(), ports.0, ports.1, ports.2, key()).unwrap()).unwrap();
    let line = line(&world);
    let answer = line.run(GATE.get().unwrap(), ask_tool("a", "mail", json!({})));
    denied(&answer, ReasonCode::ApprovalRefused);
    assert_eq!(ROUNDS.load(Ordering::SeqCst), 2, "the person is asked anew");
    assert_eq!(line.host.count(), 0);
}

#[test]
fn law_5_a_blocked_attempt_is_evidence_of_intent_and_not_of_harm() {
    let world = World::default();
    let (gate, line) = (world.open(busy()), line(&world));
    let before = gate.scores();
    for index in 0..100 {
        let session = Subject { session: name(&format!("s{index}")), ..subject() };
        let call = Call { subject: session, ..ask_tool(&format!("a{index}"), "rm", json!({})) };
        assert!(!line.run(&gate, call).ran());
    }
    let after = gate.scores();
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(before.observed, after.observed, "{:?}", before.factor);
        assert_eq!(before.interval, after.interval, "{:?}", before.factor);
        assert_eq!(before.n, after.n, "{:?}", before.factor);
    }
    let attempts = |scores: &[weir::risk::FactorScore]| scores.iter().map(|score| score.attempted).sum::<u64>();
    assert!(attempts(&after) > attempts(&before), "the attempts are counted");
}

#[test]
fn law_5_what_a_limit_stopped_is_evidence_of_what_ran() {
    let scores = |end: &str| {
        let world = World::default();
        let (gate, line) = (world.open(busy()), line(&world));
        for index in 0..10 {
            let session = Subject { session: name(&format!("s{index}")), ..subject() };
            let call = Call { subject: session, ..ask_tool(&format!("a{index}"), "web", json!({"end": end})) };
            assert!(line.run(&gate, call).ran());
        }
        serde_json::to_string(&gate.scores()).unwrap()
    };
    assert_eq!(scores("exhausted"), scores("done"));
}

/// What can be seen of a gate, as text.
fn seen(gate: &Gate) -> String {
    let facts = gate.facts(&subject()).map(|facts| format!("{facts:?}"));
    let receipts = serde_json::to_string(&gate.receipts(None, 1_000)).unwrap();
    let scores = serde_json::to_string(&gate.scores()).unwrap();
    let balances = serde_json::to_string(&gate.balances()).unwrap();
    format!("{balances}\n{facts:?}\n{scores}\n{receipts}\n{}", gate.entries())
}

#[test]
fn law_6_replay_is_the_state() {
    let world = World::default();
    world.person.yes(1);
    let (gate, line) = (world.open(busy()), line(&world));
    for call in day() {
        line.run(&gate, call);
    }
    let copy = world.copy();
    let (again, other) = (copy.open(busy()), line_of(&copy));
    assert_eq!(copy.store.texts(), world.store.texts(), "a clean restart writes nothing");
    assert_eq!(seen(&gate), seen(&again));
    // What cannot be seen from outside shows in what is written next, byte for byte.
    for index in 0..3 {
        for call in day() {
            let call = Call { id: name(&format!("{}-{index}", call.id)), ..call };
            line.run(&gate, call.clone());
            other.run(&again, call);
        }
    }
    assert_eq!(copy.store.texts(), world.store.texts());
    assert_eq!(seen(&gate), seen(&again));
}

fn line_of(world: &World) -> Line {
    line(world)
}

#[test]
fn law_6_a_journal_that_lost_its_entries_or_was_changed_stays_shut() {
    let world = World::default();
    let (gate, line) = (world.open(busy()), line(&world));
    line.run(&gate, ask_tool("a", "look", json!({})));
    drop(gate);
    let lost = world.copy();
    lost.store.lose_entries();
    assert!(lost.try_open(busy()).is_err(), "a head without entries is no new journal");
    let headless = world.copy();
    headless.store.lose_head();
    assert!(headless.try_open(busy()).is_ok(), "without a head every receipt is checked instead");
    assert!(world.try_open(busy()).is_ok());
}

#[test]
fn law_6_policies_count_in_the_order_of_the_journal() {
    let world = World::default();
    let gate = world.open(busy());
    let mut closed = empty();
    closed.digest = Digest::of(b"closed");
    let policies = [Compiled::new(busy()).unwrap(), Compiled::new(closed).unwrap()];
    let next = AtomicUsize::new(0);
    let host = Host::default();
    let line = Line { store: world.store.clone(), host };
    std::thread::scope(|scope| {
        for reloader in 0..2 {
            let (gate, policies) = (&gate, &policies);
            scope.spawn(move || {
                for round in 0..40 {
                    gate.reload(policies[(round + reloader) % 2].clone()).unwrap();
                }
            });
        }
        for _ in 0..2 {
            let (gate, next, line) = (&gate, &next, &line);
            scope.spawn(move || {
                for _ in 0..100 {
                    let id = next.fetch_add(1, Ordering::SeqCst);
                    gate.handle(ask_tool(&format!("c{id}"), "look", json!({})), line, &line.host);
                }
            });
        }
    });
    let mut force = None;
    for entry in world.store.entries().iter() {
        match &entry.body {
            Body::Policy { digest, before, .. } => {
                assert_eq!(*before, force);
                force = Some(*digest);
            }
            Body::Intent { policy, call, .. } => assert_eq!(Some(*policy), force, "{} under a policy gone by", call.id),
            _ => {}
        }
    }
    assert_eq!(force, Some(gate.policy().policy().digest), "what is in force is what was recorded last");
    world.store.story().assert_ended();
}

/// A call in flight keeps its decision, and its receipt the name of the policy that made it.
#[test]
fn law_6_a_receipt_names_the_policy_that_decided() {
    let world = World::default();
    let gate = world.open(busy());
    let work = gate.admit(ask_tool("a", "look", json!({}))).expect("admitted");
    gate.reload(Compiled::new(tight()).unwrap()).unwrap();
    let receipt = gate.complete(work, Outcome::of(Status::Done)).receipt.expect("a receipt");
    let (named, before) = (receipt.decision.policy, busy());
    assert_eq!((named.policy_id, named.hash), (before.id, before.digest));
    let after = line(&world).run(&gate, ask_tool("b", "look", json!({}))).receipt.expect("a receipt");
    assert_eq!(after.decision.policy.policy_id, tight().id);
    world.store.story().assert_ended();
}

#[test]
fn law_7_identity_scope_approval_and_price_are_not_taken_from_arguments() {
    let forged = json!({
        "subject": {"org": "root", "agent": "root", "session": "root", "run": "root"},
        "org": "root", "agent": "admin", "session": "other", "run": "other", "id": "forged", "parent": "forged",
        "approval": "granted", "approved": true, "cost": {"micro_usd": 0}, "micro_usd": 0, "effect": "allow",
        "policy": "none", "labels": [], "delegation": [],
    });
    let world = World::default();
    let (gate, line) = (world.open(busy()), line(&world));
    denied(&line.run(&gate, ask_tool("mail", "mail", forged.clone())), ReasonCode::ApprovalUnavailable);
    let answer = line.run(&gate, ask_tool("buy", "buy", forged.clone()));
    line.run(&gate, program("code", &[step(Action::ToolCall, "buy", &forged)]));
    assert_eq!(answer.call, name("buy"));
    let receipts = gate.receipts(None, 10);
    assert_eq!(receipts.len(), 4);
    for receipt in receipts {
        let context = &receipt.action.requester_context;
        let said = (&context.organisation, &context.agent, &context.session, &context.scope);
        let Subject { org, agent, session, run, delegation } = subject();
        assert_eq!(said, (&org, &agent, &session, &run));
        assert_eq!(context.delegation_chain, delegation);
        assert!(receipt.approval.is_none());
    }
    assert_eq!(gate.balances()[0].posted.of(Kind::MicroUsd), 200);
}

/// Two agents may use one name for a session: neither gets the other's consent or labels.
#[test]
fn law_7_a_session_belongs_to_its_agent() {
    let world = World::default();
    let (gate, line) = (world.open(busy()), line(&world));
    let other = Subject { agent: name("other"), ..subject() };
    assert!(line.run(&gate, ask_tool("a", "web", json!({}))).ran());
    denied(&line.run(&gate, ask_tool("b", "save", json!({}))), ReasonCode::Rule);
    let foreign = Call { subject: other.clone(), ..ask_tool("c", "save", json!({})) };
    assert!(line.run(&gate, foreign).ran(), "untainted");
    let before = gate.facts(&subject()).unwrap().since_person;
    world.person.yes(1);
    assert!(line.run(&gate, Call { subject: other.clone(), ..ask_tool("d", "mail", json!({})) }).ran());
    assert_eq!(gate.facts(&subject()).unwrap().since_person, before, "another agent's person approved");
    assert_eq!(gate.facts(&other).unwrap().since_person, 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// `admit` has an answer for whatever a caller can build.
    #[test]
    fn law_1_admit_never_panics(
        id in "[A-Za-z0-9._:/@-]{1,128}",
        resource in "[A-Za-z0-9._:/@-]{1,128}",
        action in proptest::sample::select(Action::ALL.to_vec()),
        arguments in any_args(),
        registry in proptest::option::of("[a-z]{1,8}"),
        delegation in proptest::collection::vec("[a-z]{1,4}", 0..20),
        known in any::<bool>(),
        depth in prop_oneof![Just(0_usize), 60..70_usize, Just(800)],
    ) {
        let world = World::default();
        world.person.yes(3);
        let (gate, line) = (world.open(tight()), line(&world));
        let mut call = call(&id, action, if known { "look" } else { &resource }, arguments);
        call.resource.registry = registry.map(|text| name(&text));
        call.subject.delegation = delegation.iter().map(|text| name(text)).collect();
        if depth > 0 {
            let deep = (1..depth).fold(json!(0), |inner, _| Value::Array(vec![inner]));
            call.args.insert("deep".into(), deep);
        }
        let answer = line.run(&gate, call.clone());
        prop_assert!(answer.receipt.is_some());
        prop_assert!(depth <= 64 || answer.decision.reason.code == ReasonCode::Malformed);
        prop_assert!(answer.denial.is_none_or(|text| text.len() <= weir::model::Limits::DENIAL_BYTES));
        // The same again has the same id, and is therefore refused.
        prop_assert_eq!(line.run(&gate, call).decision.effect, Effect::Deny);
        world.store.story().assert_ended();
    }
}

#[test]
fn law_1_huge_arguments_are_refused_before_anything_reads_them() {
    let world = World::default();
    let (gate, line) = (world.open(busy()), line(&world));
    let wide = Value::Array(vec![json!(0); 600_000]);
    let long = Value::String("x".repeat(9 << 20));
    let deep = (0..2_000).fold(json!(0), |inner, _| Value::Array(vec![inner]));
    for (index, value) in [wide, long, deep].into_iter().enumerate() {
        let mut call = ask_tool(&format!("h{index}"), "look", json!({}));
        call.args.insert("q".into(), value);
        denied(&line.run(&gate, call), ReasonCode::Malformed);
    }
    let size: usize = world.store.texts().iter().map(String::len).sum();
    assert!(size < 20_000, "{size} bytes were written");
}
