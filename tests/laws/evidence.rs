//! Law 5: silence is not safety, and a blocked attempt is evidence of intent, not of harm.

use super::*;

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
