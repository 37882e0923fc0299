//! Law 2: nothing runs without a durable intent, and nothing ends without a recorded outcome.

use super::*;

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
    // Two entries for what ran, one for what did not, two for each question, and the two of the start.
    let asked = 2 * world.person.times_asked();
    assert_eq!(world.store.count() as usize, 2 + asked + 2 * ran + (answers.len() - ran));
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
