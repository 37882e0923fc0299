//! The laws of scoring, on evidence made by hand: silence is not safety, a blocked attempt is not
//! harm, replay is the state, and a score cannot be gamed by more calls.

use proptest::prelude::*;
use weir::{
    model::{Action, Digest, EffectClass, Evidence, FACTORS, Factor, Factors, Happened, Level, Name, Timestamp},
    risk::{FACTOR_SIGNALS, FactorScore, Posterior, RING_SESSIONS, Sufficiency},
};

const OPEN: [Option<Level>; 10] = [None; 10];

fn evidence(session: usize, action: Action, effect: Option<EffectClass>) -> Evidence {
    Evidence {
        session: Name::new(format!("s{session}")).unwrap(),
        at: Timestamp(0),
        action,
        effect,
        resource: Name::new("thing").unwrap(),
        happened: Happened::Executed,
        labels: Vec::new(),
        action_digest: Digest::of(b"action"),
        input_digest: Digest::ZERO,
        delegation: 0,
        protected_path: false,
        earlier_state: false,
        traceable: true,
    }
}

fn tool(session: usize, effect: EffectClass) -> Evidence {
    evidence(session, Action::ToolCall, Some(effect))
}

fn read(session: usize) -> Evidence {
    tool(session, EffectClass::Read)
}

/// A call that puts every factor but planning and non-determinism at its highest level.
fn bad(session: usize) -> Evidence {
    Evidence {
        labels: ["a", "b", "c"].map(String::from).to_vec(),
        delegation: 2,
        protected_path: true,
        earlier_state: true,
        traceable: false,
        ..tool(session, EffectClass::Exec)
    }
}

fn refused(evidence: Evidence) -> Evidence {
    Evidence { happened: Happened::Denied, ..evidence }
}

fn fold<'a>(evidence: impl IntoIterator<Item = &'a Evidence>) -> Posterior {
    let mut posterior = Posterior::default();
    evidence.into_iter().for_each(|e| posterior.observe(e));
    posterior
}

fn declared(hundredths: u8) -> Factors {
    let mut factors = Factors::default();
    for row in FACTORS {
        factors.set(row.factor, Level::from_hundredths(hundredths).unwrap());
    }
    factors
}

fn scores(posterior: &Posterior) -> Vec<FactorScore> {
    posterior.scores(Some(&declared(70)), &OPEN)
}

fn score(posterior: &Posterior, factor: Factor) -> FactorScore {
    scores(posterior).into_iter().find(|score| score.factor == factor).unwrap()
}

fn width(score: &FactorScore) -> f64 {
    score.interval.1 - score.interval.0
}

/// A score without its counter of attempts.
fn without_attempts(posterior: &Posterior) -> Vec<FactorScore> {
    scores(posterior).into_iter().map(|score| FactorScore { attempted: 0, ..score }).collect()
}

#[test]
fn law_5_silence_is_not_safety() {
    for hundredths in 0..=100 {
        let silent = Posterior::default().scores(Some(&declared(hundredths)), &OPEN);
        for score in silent {
            assert_eq!(score.observed, score.declared, "the declared value stands");
            assert_eq!(score.counted, score.declared);
            assert_eq!((score.status, score.conflict), (Sufficiency::PriorOnly, false));
            assert!(width(&score) > 0.30, "wider than anything that may be called evidenced: {}", width(&score));
        }
    }
    for score in Posterior::default().scores(None, &OPEN) {
        assert_eq!((score.observed, score.counted), (None, None), "unknown, not safe");
        assert!(width(&score) > 0.99);
    }
}

#[test]
fn law_5_more_evidence_of_one_kind_narrows_the_interval() {
    for effect in [EffectClass::Read, EffectClass::Write, EffectClass::Exec] {
        let mut posterior = Posterior::default();
        let mut last = f64::INFINITY;
        for session in 0..200 {
            posterior.observe(&tool(session, effect));
            let now = width(&score(&posterior, Factor::Tools));
            assert!(now < last || session < 3, "session {session}: {now} after {last}");
            last = now;
        }
        assert_eq!(score(&posterior, Factor::Tools).status, Sufficiency::Evidenced, "{effect:?}");
    }
}

#[test]
fn law_5_a_blocked_attempt_is_intent_and_not_harm() {
    let calls: Vec<Evidence> = (0..40).map(read).collect();
    let calm = fold(&calls);
    let mut pressed = calm.clone();
    for session in 0..3000 {
        pressed.observe(&refused(bad(session)));
        pressed.observe(&Evidence { happened: Happened::Exhausted, ..evidence(session, Action::CodeRun, None) });
    }
    assert_eq!(without_attempts(&pressed), without_attempts(&calm), "neither raised nor lowered");
    assert_eq!(score(&pressed, Factor::Tools).attempted, 6000);
    assert_eq!(score(&pressed, Factor::Planning).attempted, 3000, "only what a budget stopped");
    assert_eq!(score(&pressed, Factor::NonDeterminism).attempted, 0);
    assert_eq!(score(&calm, Factor::Tools).attempted, 0);
}

#[test]
fn gaming_a_flood_of_harmless_calls_does_not_thin_out_a_bad_session() {
    let once = fold(&[bad(0)]);
    let mut flooded = once.clone();
    for _ in 0..10_000 {
        flooded.observe(&read(0));
        flooded.observe(&Evidence { happened: Happened::Approved, ..tool(0, EffectClass::Write) });
    }
    for (before, after) in scores(&once).iter().zip(scores(&flooded)) {
        assert!(after.high_water >= before.high_water, "{:?}", after.factor);
        if before.n > 0.0 {
            assert_eq!(after.n, before.n, "still one vote");
            assert!(after.observed >= before.observed && after.interval.0 >= before.interval.0, "{:?}", after.factor);
        }
    }
}

#[test]
fn gaming_idle_sessions_have_no_vote_where_nothing_could_be_shown() {
    let mut posterior = Posterior::default();
    (0..40).for_each(|session| posterior.observe(&tool(session, EffectClass::Spend)));
    let before = score(&posterior, Factor::Autonomy);
    (100..600).for_each(|session| posterior.observe(&read(session)));
    assert_eq!(score(&posterior, Factor::Autonomy), before, "reading is no occasion to commit");
}

#[test]
fn gaming_what_happened_once_stays_on_record() {
    let mut posterior = fold(&[bad(0)]);
    (1..3 * RING_SESSIONS).for_each(|session| posterior.observe(&read(session)));
    for factor in [Factor::Tools, Factor::SelfModification, Factor::Persistence, Factor::Identity] {
        let score = score(&posterior, factor);
        assert_eq!(score.high_water, Some(1.0), "{factor:?}");
        assert!(score.observed < Some(0.05), "the rate itself is low: {:?}", score.observed);
        assert!(score.observed > Some(0.0) && score.interval.1 > 0.0, "and never zero");
    }
}

#[test]
fn gaming_the_empty_trace_scores_like_the_declaration() {
    let refused_only = fold(&(0..50).map(|session| refused(bad(session))).collect::<Vec<_>>());
    assert_eq!(without_attempts(&refused_only), without_attempts(&Posterior::default()));
    assert_eq!((refused_only.sessions(), refused_only.calls()), (0, 50));
}

#[test]
fn old_votes_weigh_half_after_a_half_life_and_sums_survive_leaving_the_ring() {
    let mut posterior = Posterior::default();
    (0..5 * RING_SESSIONS).for_each(|session| posterior.observe(&tool(session, EffectClass::Exec)));
    let score = score(&posterior, Factor::Tools);
    let unbounded = 1.0 / (1.0 - 0.5_f64.powf(0.01));
    assert!((score.n - unbounded).abs() < 1e-6, "{} is not {unbounded}", score.n);
    assert_eq!(score.sessions, 5 * RING_SESSIONS as u64);

    let mut change = Posterior::default();
    (0..100).for_each(|session| change.observe(&tool(session, EffectClass::Exec)));
    (100..200).for_each(|session| change.observe(&read(session)));
    let tools = self::score(&change, Factor::Tools);
    // The older hundred weighs half the newer one: a third of the whole.
    let prior = 4.0 * 0.7 + 0.5;
    let expected = (prior + tools.n / 3.0) / (5.0 + tools.n);
    assert!((tools.observed.unwrap() - expected).abs() < 1e-9, "{tools:?}");
}

#[test]
fn an_unknown_outcome_counts_as_happened_and_as_untraced() {
    let posterior = fold(&[Evidence { happened: Happened::Unknown, ..tool(0, EffectClass::Spend) }]);
    assert_eq!(score(&posterior, Factor::Tools).high_water, Some(1.0));
    assert_eq!(score(&posterior, Factor::Opacity).high_water, Some(0.5));
}

#[test]
fn every_factor_reaches_each_level_of_its_rubric() {
    let code = |session| evidence(session, Action::CodeRun, Some(EffectClass::Exec));
    let approved = |e: Evidence| Evidence { happened: Happened::Approved, ..e };
    let labelled = |n: usize, e: Evidence| Evidence { labels: (0..n).map(|i| format!("l{i}")).collect(), ..e };
    let peer = |name: &str| Evidence { resource: Name::new(name).unwrap(), ..evidence(0, Action::AgentInvoke, None) };
    let under = |delegation| Evidence { delegation, ..read(0) };
    let untraced = || Evidence { traceable: false, ..read(0) };
    let write = || tool(0, EffectClass::Write);
    let cases: Vec<(Factor, Vec<Evidence>, f64)> = vec![
        (Factor::Autonomy, vec![approved(tool(0, EffectClass::Spend))], 0.0),
        (Factor::Autonomy, vec![approved(tool(0, EffectClass::Spend)), code(0)], 0.5),
        (Factor::Autonomy, vec![tool(0, EffectClass::Network)], 1.0),
        (Factor::Planning, vec![approved(read(0)), read(0)], 0.0),
        (Factor::Planning, vec![read(0); 9], 0.5),
        (Factor::Planning, vec![read(0); 10], 1.0),
        (Factor::SelfModification, vec![write()], 0.0),
        (Factor::SelfModification, vec![evidence(0, Action::PackageFetch, None)], 0.5),
        (Factor::SelfModification, vec![code(0)], 1.0),
        (Factor::Tools, vec![read(0)], 0.0),
        (Factor::Tools, vec![write()], 0.5),
        (Factor::Tools, vec![code(0)], 0.5),
        (Factor::Tools, vec![evidence(0, Action::ToolCall, None)], 1.0),
        (Factor::Persistence, vec![code(0)], 0.0),
        (Factor::Persistence, vec![code(0), code(0)], 0.5),
        (Factor::Persistence, vec![Evidence { earlier_state: true, ..read(0) }], 1.0),
        (Factor::Context, vec![write()], 0.0),
        (Factor::Context, vec![labelled(3, read(0))], 0.5),
        (Factor::Context, vec![labelled(3, write())], 1.0),
        (Factor::Context, vec![read(0), tool(0, EffectClass::Network), peer("a")], 1.0),
        (Factor::Identity, vec![under(0)], 0.0),
        (Factor::Identity, vec![under(1)], 0.5),
        (Factor::Identity, vec![under(2)], 1.0),
        (Factor::MultiAgent, vec![read(0)], 0.0),
        (Factor::MultiAgent, vec![peer("a"), peer("b"), peer("a")], 0.5),
        (Factor::MultiAgent, vec![peer("a"), peer("b"), peer("c")], 1.0),
        (Factor::Opacity, vec![read(0)], 0.0),
        (Factor::Opacity, vec![untraced()], 0.5),
        (Factor::Opacity, vec![untraced(), untraced()], 1.0),
    ];
    for (factor, calls, level) in cases {
        assert_eq!(score(&fold(&calls), factor).high_water, Some(level), "{factor:?} {calls:?}");
    }
}

#[test]
fn non_determinism_is_seen_only_where_an_input_comes_again() {
    let step = |session, effect, input: &[u8], action: &[u8]| Evidence {
        input_digest: Digest::of(input),
        action_digest: Digest::of(action),
        ..tool(session, effect)
    };
    let first = step(0, EffectClass::Read, b"in", b"a");
    let seen = |second: Evidence| score(&fold(&[first.clone(), second]), Factor::NonDeterminism).high_water;
    assert_eq!(seen(step(1, EffectClass::Read, b"other", b"b")), None, "no repeat, no vote");
    assert_eq!(seen(step(0, EffectClass::Read, b"in", b"b")), None, "the same session");
    assert_eq!(seen(step(1, EffectClass::Read, b"in", b"a")), Some(0.0));
    assert_eq!(seen(step(1, EffectClass::Read, b"in", b"b")), Some(0.5));
    assert_eq!(seen(step(1, EffectClass::Spend, b"in", b"b")), Some(1.0));
    assert_eq!(seen(refused(step(1, EffectClass::Spend, b"in", b"b"))), None, "a refused call is not compared");
}

#[test]
fn the_table_of_signals_in_the_docs_is_the_one_in_the_code() {
    let docs = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/scoring.md")).unwrap();
    let from = docs.lines().skip_while(|line| !line.starts_with("| factor | level of a session"));
    let written: Vec<&str> = from.take_while(|line| line.starts_with('|')).skip(2).collect();
    let rows: Vec<String> = FACTOR_SIGNALS
        .iter()
        .map(|row| format!("| `{}` | {} | {} | {} |", row.factor.row().key, row.levels, row.attempts, row.source))
        .collect();
    assert_eq!(written, rows, "docs/scoring.md, table of signals");
}

prop_compose! {
    fn any_evidence()(
        session in 0..6_usize, action in 0..6_usize, effect in 0..6_usize, happened in 0..5_usize,
        (labels, delegation, peer) in (0..4_usize, 0..3_u8, 0..5_u8),
        (protected_path, earlier_state, traceable) in any::<(bool, bool, bool)>(),
        (input, chosen) in (0..3_u8, 0..3_u8),
    ) -> Evidence {
        Evidence {
            happened: [Happened::Executed, Happened::Approved, Happened::Denied, Happened::Exhausted,
                Happened::Unknown][happened],
            resource: Name::new(format!("r{peer}")).unwrap(),
            labels: (0..labels).map(|i| format!("l{i}")).collect(),
            input_digest: Digest::of(&[input]),
            action_digest: Digest::of(&[chosen]),
            delegation, protected_path, earlier_state, traceable,
            ..evidence(session, Action::ALL[action], EffectClass::ALL.get(effect).copied())
        }
    }
}

proptest! {
    #[test]
    fn law_6_replay_gives_the_same_posterior_bit_for_bit(calls in prop::collection::vec(any_evidence(), 0..60)) {
        let (first, second) = (fold(&calls), fold(&calls));
        let bits = |p: &Posterior| scores(p).iter().map(|s| (s.observed.map(f64::to_bits), s.n.to_bits(),
            s.interval.0.to_bits(), s.interval.1.to_bits())).collect::<Vec<_>>();
        prop_assert_eq!(bits(&first), bits(&second));
        prop_assert_eq!(first, second);
    }

    #[test]
    fn the_order_of_calls_inside_a_session_does_not_matter(
        (calls, shuffled) in prop::collection::vec(any_evidence(), 0..40)
            .prop_flat_map(|calls| (Just(calls.clone()), Just(calls).prop_shuffle()))
    ) {
        // Sessions one after the other, in the same order; only the calls inside them are shuffled.
        let sorted = |mut calls: Vec<Evidence>| { calls.sort_by(|a, b| a.session.cmp(&b.session)); calls };
        prop_assert_eq!(scores(&fold(&sorted(calls))), scores(&fold(&sorted(shuffled))));
    }

    #[test]
    fn one_more_call_in_a_session_never_lowers_what_it_showed(
        calls in prop::collection::vec(any_evidence(), 1..30), more in any_evidence(),
    ) {
        // All in one session: its vote can only rise.
        let same = |e: &Evidence| Evidence { session: Name::new("s").unwrap(), ..e.clone() };
        let before = fold(&calls.iter().map(same).collect::<Vec<_>>());
        let mut after = before.clone();
        after.observe(&same(&more));
        for (before, after) in scores(&before).iter().zip(scores(&after)) {
            prop_assert!(after.high_water >= before.high_water);
            prop_assert!(before.n == 0.0 || after.interval.0 >= before.interval.0, "{:?}", after.factor);
        }
    }

    #[test]
    fn law_5_a_refused_call_changes_nothing_but_the_count_of_attempts(
        calls in prop::collection::vec(any_evidence(), 0..40), at in any::<prop::sample::Index>(), more in any_evidence(),
    ) {
        let mut with = calls.clone();
        with.insert(at.index(calls.len() + 1), refused(more));
        let (with, without) = (fold(&with), fold(&calls));
        prop_assert_eq!(without_attempts(&with), without_attempts(&without));
        for (with, without) in scores(&with).iter().zip(scores(&without)) {
            prop_assert!(with.attempted >= without.attempted);
        }
    }

    #[test]
    fn numbers_stay_in_their_ranges(calls in prop::collection::vec(any_evidence(), 0..80), d in 0..=100_u8) {
        for score in fold(&calls).scores(Some(&declared(d)), &OPEN) {
            let (low, high) = score.interval;
            prop_assert!(0.0 <= low && low < high && high <= 1.0);
            prop_assert!(score.observed.is_some_and(|o| (0.0..=1.0).contains(&o)));
            prop_assert!(score.counted >= score.declared || score.status == Sufficiency::Evidenced);
        }
    }
}
