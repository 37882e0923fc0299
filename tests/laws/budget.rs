//! Law 3: posted + pending <= limit, whatever races, crashes or goes unanswered.

use super::*;

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
