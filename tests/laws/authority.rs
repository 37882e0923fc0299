//! Law 4: authority is a value that is passed; it only ever shrinks.

use super::*;

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
        fn ask(&self, _: &Call, _: &str, _: &Question, _: weir::model::Millis) -> Approval {
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
fn law_4_a_call_whose_answers_are_always_over_is_refused_in_the_end() {
    /// Ten minutes pass whenever somebody looks.
    struct Hurry(AtomicU64);
    impl Clock for Hurry {
        fn now(&self) -> Timestamp {
            Timestamp(1_700_000_000_000 + 600_000 * self.0.fetch_add(1, Ordering::SeqCst))
        }
    }
    let world = World::default();
    world.person.yes(1_000);
    let ports = (Box::new(world.store.clone()), Box::new(Hurry(AtomicU64::new(0))), Box::new(world.person.clone()));
    let gate = Gate::open(Compiled::new(busy()).unwrap(), ports.0, ports.1, ports.2, key()).unwrap();
    let line = line(&world);
    denied(&line.run(&gate, ask_tool("a", "mail", json!({}))), ReasonCode::ApprovalExpired);
    assert!((2..=32).contains(&world.person.times_asked()), "{} times", world.person.times_asked());
    assert_eq!(line.host.count(), 0);
}
