//! Law 1: default deny. What is unknown, broken, unbounded or unpriced is refused, with a reason.

use super::*;

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
        fn ask(&self, _: &Call, _: &str, _: &Question, _: weir::model::Millis) -> Approval {
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
