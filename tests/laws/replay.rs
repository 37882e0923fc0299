//! Law 6: replay is the state.

use super::*;

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
    let (again, other) = (copy.open(busy()), super::line(&copy));
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
