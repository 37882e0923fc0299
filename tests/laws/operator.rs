//! Law 3, by hand: what operators do to accounts counts at once, survives a restart, and is on record.

use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, Sender, channel};

use weir::audit::Key;
use weir::ledger::AccountId;
use weir::model::{Millis, Timestamp, Window};
use weir::pep::GateFault;
use weir::pep::port::{Journal, JournalFault, Nobody, Sealed, Ticket};
use weir::policy::{Budget, Model, Price};

use super::*;

fn session() -> AccountId {
    AccountId::session(&subject())
}

fn usd(amount: u64) -> Amounts {
    Amounts::ZERO.with(Kind::MicroUsd, amount)
}

fn spent(gate: &Gate) -> u64 {
    gate.balances()[0].posted.of(Kind::MicroUsd)
}

#[track_caller]
fn refused(done: Result<(), GateFault>, words: &str) {
    assert!(matches!(&done, Err(GateFault::Refused(why)) if why.contains(words)), "{done:?}");
}

#[test]
fn law_3_a_frozen_account_takes_nothing_new_until_it_is_thawed() {
    let world = World::default();
    let (gate, line) = (world.open(busy()), line(&world));
    let running = gate.admit(ask_tool("a", "buy", json!({}))).expect("admitted");
    gate.freeze(&session(), "operator: looks odd").unwrap();
    denied(&line.run(&gate, ask_tool("b", "look", json!({}))), ReasonCode::AccountFrozen);
    assert_eq!(gate.evaluate(&ask_tool("b", "look", json!({}))).decision.reason.code, ReasonCode::AccountFrozen);
    let other = Call { subject: Subject { session: name("s2"), ..subject() }, ..ask_tool("c", "look", json!({})) };
    assert!(line.run(&gate, other).ran(), "another session goes on");
    assert!(gate.complete(running, Outcome::of(Status::Done)).ran(), "what runs goes on");
    drop(gate);
    let gate = world.open(busy());
    assert_eq!(gate.bars().len(), 1);
    denied(&line.run(&gate, ask_tool("d", "look", json!({}))), ReasonCode::AccountFrozen);
    gate.thaw(&session(), "operator").unwrap();
    refused(gate.thaw(&session(), "operator"), "not frozen");
    assert!(line.run(&gate, ask_tool("e", "look", json!({}))).ran());
    world.store.story().assert_ended();
}

#[test]
fn law_3_a_revocation_stops_what_runs_and_is_for_good() {
    /// Looks, revokes itself, and looks again.
    struct Doomed<'g>(&'g Gate, Mutex<Vec<bool>>);
    impl Executor for Doomed<'_> {
        fn execute(&self, _: &Durable<Reserved>, inner: &dyn Inner) -> Outcome {
            let before = inner.cancelled();
            self.0.revoke(&session(), "operator").unwrap();
            self.1.lock().unwrap().extend([before, inner.cancelled()]);
            Outcome::of(Status::Done)
        }
    }
    let world = World::default();
    let (gate, line) = (world.open(busy()), line(&world));
    let doomed = Doomed(&gate, Mutex::default());
    assert!(gate.handle(ask_tool("a", "buy", json!({})), &doomed, &line.host).ran());
    assert_eq!(*doomed.1.lock().unwrap(), [false, true]);
    denied(&line.run(&gate, ask_tool("b", "look", json!({}))), ReasonCode::AccountRevoked);
    refused(gate.thaw(&session(), "operator"), "for good");
    refused(gate.freeze(&session(), "operator"), "for good");
    drop(doomed);
    drop(gate);
    denied(&line.run(&world.open(busy()), ask_tool("c", "look", json!({}))), ReasonCode::AccountRevoked);
}

#[test]
fn law_3_no_call_is_accepted_that_begins_after_a_revocation_returned() {
    for round in 0..5 {
        let world = World::default();
        world.store.awaited();
        let (gate, returned, late) = (world.open(busy()), AtomicBool::new(false), AtomicUsize::new(0));
        let accepted = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for worker in 0..4 {
                let (gate, returned, late, accepted) = (&gate, &returned, &late, &accepted);
                scope.spawn(move || {
                    // Until fifty calls were tried after it returned.
                    let mut tried = 0;
                    for number in 0..100_000 {
                        let after = returned.load(Ordering::SeqCst);
                        if let Ok(work) = gate.admit(ask_tool(&format!("{worker}-{number}"), "save", json!({}))) {
                            accepted.fetch_add(1, Ordering::SeqCst);
                            late.fetch_add(usize::from(after), Ordering::SeqCst);
                            drop(gate.complete(work, Outcome::of(Status::Done)));
                        }
                        tried += usize::from(after);
                        if tried == 50 {
                            return;
                        }
                    }
                });
            }
            // At any moment of their work, and not for ever if it does not begin.
            for _ in 0..10_000_000 {
                if accepted.load(Ordering::SeqCst) >= 10 * round {
                    break;
                }
                std::thread::yield_now();
            }
            gate.revoke(&session(), "operator").unwrap();
            returned.store(true, Ordering::SeqCst);
        });
        assert_eq!(late.load(Ordering::SeqCst), 0);
        world.store.story().assert_ended();
    }
}

/// A journal that confirms intents when it is told to.
struct Patient {
    store: support::Store,
    waiting: Sender<Sender<Result<(), JournalFault>>>,
}

impl Journal for Patient {
    fn append(&self, entry: Sealed) -> Ticket {
        let intent = entry.text.contains("\"kind\":\"intent\"");
        let ticket = self.store.append(entry);
        if !intent {
            return ticket;
        }
        let (sender, receiver) = channel();
        self.waiting.send(sender).unwrap();
        Ticket::Awaited(receiver)
    }

    fn replay(&self, each: &mut dyn FnMut(String)) -> Result<Option<weir::audit::Head>, JournalFault> {
        self.store.replay(each)
    }
}

#[test]
fn law_3_what_a_revocation_overtakes_does_not_run() {
    let world = World::default();
    let (waiting, intents): (_, Receiver<Sender<_>>) = channel();
    let journal = Patient { store: world.store.clone(), waiting };
    let (policy, clock) = (Compiled::new(busy()).unwrap(), Box::new(world.clock.clone()));
    let seed: Key = key();
    let gate = Gate::open(policy, Box::new(journal), clock, Box::new(Nobody), seed).unwrap();
    std::thread::scope(|scope| {
        let admitted = scope.spawn(|| gate.admit(ask_tool("a", "buy", json!({}))));
        let confirm = intents.recv().unwrap();
        gate.revoke(&session(), "operator").unwrap();
        confirm.send(Ok(())).unwrap();
        let answer = admitted.join().unwrap().expect_err("it was overtaken");
        denied(&answer, ReasonCode::AccountRevoked);
        assert!(!answer.ran());
    });
    assert_eq!((spent(&gate), gate.balances()[0].pending), (0, Amounts::ZERO), "it never started");
    world.store.story().assert_ended();
}

#[test]
fn law_3_an_operator_raises_a_budget_of_one_account() {
    let mut policy = busy();
    policy.budgets = vec![budget("money", Scope::Session, Kind::MicroUsd, 100, Effect::Deny)];
    let world = World::default();
    let (gate, line) = (world.open(policy.clone()), line(&world));
    assert!(line.run(&gate, ask_tool("a", "buy", json!({}))).ran());
    denied(&line.run(&gate, ask_tool("b", "buy", json!({}))), ReasonCode::BudgetExhausted);
    refused(gate.raise_budget("coffee", &session(), 100, "operator"), "no budget `coffee`");
    refused(gate.raise_budget("money", &AccountId::parse("acme").unwrap(), 100, "operator"), "limits each session");
    refused(gate.raise_budget("money", &session(), 0, "operator"), "above zero");
    gate.raise_budget("money", &session(), 100, "operator: one more").unwrap();
    let standing = gate.standings().into_iter().find(|standing| standing.budget == "money").unwrap();
    assert_eq!((standing.limit, standing.posted, standing.left), (200, 100, 100));
    drop(gate);
    let gate = world.open(policy);
    assert!(line.run(&gate, ask_tool("c", "buy", json!({}))).ran());
    denied(&line.run(&gate, ask_tool("d", "buy", json!({}))), ReasonCode::BudgetExhausted);
}

#[test]
fn law_3_what_is_in_doubt_is_spent_until_it_is_reconciled() {
    let world = World::default();
    let (gate, line) = (world.open(busy()), line(&world));
    line.run(&gate, ask_tool("lost", "buy", json!({"end": "unknown"})));
    drop(gate.admit(ask_tool("crashed", "buy", json!({}))).expect("admitted"));
    assert!(gate.reconcile(&name("crashed"), usd(1), "operator").is_err(), "it still runs");
    drop(gate);
    let gate = world.open(busy());
    let calls: Vec<_> = gate.doubts().into_iter().map(|(call, _)| call).collect();
    assert_eq!((spent(&gate), calls), (200, vec![name("crashed"), name("lost")]));
    assert_eq!(gate.reconcile(&name("crashed"), usd(30), "the provider's bill").unwrap().of(Kind::MicroUsd), 30);
    assert_eq!(gate.reconcile(&name("lost"), usd(0), "the provider's bill").unwrap().of(Kind::MicroUsd), 0);
    assert!(gate.reconcile(&name("lost"), usd(7), "again").is_err(), "once");
    assert!(gate.reconcile(&name("nobody"), usd(7), "who?").is_err());
    let before = gate.balances();
    assert_eq!((spent(&gate), before[0].posted.of(Kind::ToolCalls)), (30, 2), "that they were called stays");
    drop(gate);
    assert_eq!(world.open(busy()).balances(), before);
    world.store.story().assert_ended();
}

#[test]
fn law_3_parts_are_on_record_and_a_crash_takes_only_the_rest() {
    let world = World::default();
    let gate = world.open(busy());
    let work = gate.admit(ask_tool("a", "buy", json!({}))).expect("admitted");
    gate.post_part(&work, 1, usd(20)).unwrap();
    gate.post_part(&work, 1, usd(20)).unwrap();
    refused(gate.post_part(&work, 3, usd(1)), "number 2");
    gate.post_part(&work, 2, usd(5)).unwrap();
    assert_eq!((spent(&gate), gate.balances()[0].pending.of(Kind::MicroUsd)), (25, 75));
    let copy = world.copy();
    let answer = gate.complete(work, Outcome { usage: usd(60), ..Outcome::of(Status::Done) });
    assert!(answer.ran());
    assert_eq!(spent(&gate), 60, "the parts are in what was used in all");
    drop(gate);
    assert_eq!(spent(&world.open(busy())), 60);
    // The same life with a crash in the middle.
    assert_eq!(spent(&copy.open(busy())), 100);
    world.store.story().assert_ended();
}

#[test]
fn law_3_a_window_survives_a_restart_and_asks_again_when_it_is_over() {
    let every = Window::Every(Millis(60_000));
    let mut policy = busy();
    let daily = budget("daily", Scope::Session, Kind::MicroUsd, 100, Effect::Ask);
    policy.budgets = vec![Budget { window: every, ..daily }];
    let world = World::default();
    world.clock.0.store(1_700_000_000_000 / 60_000 * 60_000, Ordering::SeqCst);
    let (gate, line) = (world.open(policy.clone()), line(&world));
    let go = |gate: &Gate, id: &str| line.run(gate, ask_tool(id, "buy", json!({})));
    assert!(go(&gate, "a").ran());
    let refusal = go(&gate, "b");
    assert!(refusal.denial.as_ref().is_some_and(|text| text.contains("every 1m")), "{refusal:?}");
    world.person.yes(1);
    assert!(go(&gate, "c").ran(), "one more tranche in this minute");
    let facts = gate.facts(&subject());
    drop(gate);
    let gate = world.open(policy);
    assert_eq!(gate.facts(&subject()), facts);
    denied(&go(&gate, "d"), ReasonCode::ApprovalUnavailable);
    world.clock.0.fetch_add(60_000, Ordering::SeqCst);
    assert!(go(&gate, "e").ran());
    denied(&go(&gate, "f"), ReasonCode::ApprovalUnavailable);
    let clock = world.clock.0.load(Ordering::SeqCst);
    world.clock.0.store(clock - 60_000, Ordering::SeqCst);
    denied(&go(&gate, "g"), ReasonCode::ApprovalUnavailable);
    assert!(world.store.entries().iter().all(|entry| entry.at <= Timestamp(clock)));
}

/// A model at two, one and ten micro-USD for each token read, read from a cache, and written.
fn priced() -> Policy {
    let price = Price {
        tokens_in: 2_000_000,
        tokens_cached: 1_000_000,
        tokens_cache_write: 1_000_000,
        tokens_cache_write_1h: 1_000_000,
        long: None,
        tokens_out: 10_000_000,
        source: "the provider's price list".into(),
        as_of: "2026-11-01".into(),
    };
    let small = Model { name: "small".into(), max_tokens: Some(50), price: Some(price), line: 1 };
    let mut policy = busy();
    policy.rules.push(rule("more models", Effect::Allow, &[Action::ModelGenerate], &["large"], None));
    policy.models.insert("small".into(), small);
    policy.budgets = vec![budget("money", Scope::Session, Kind::MicroUsd, 2_000, Effect::Deny)];
    policy
}

#[test]
fn law_7_a_generation_costs_what_the_policy_says_and_not_the_host() {
    let generate = |id: &str, arguments: Value| call(id, Action::ModelGenerate, "small", arguments);
    let tokens = |read, cached, written| {
        let read = Amounts::ZERO.with(Kind::TokensIn, read).with(Kind::TokensCached, cached);
        read.with(Kind::TokensOut, written)
    };
    let cases = [
        // 60 at two, 20 at one, 10 at ten.
        (tokens(80, 20, 10), 240),
        (tokens(80, 20, 10).with(Kind::MicroUsd, 1), 240),
        // Nobody says which sort: all of them at the dearest.
        (Amounts::ZERO.with(Kind::Tokens, 30), 300),
        (Amounts::ZERO, 1_000),
    ];
    for (usage, cost) in cases {
        let world = World::default();
        let gate = world.open(priced());
        let work = gate.admit(generate("a", json!({"max_tokens": 100}))).expect("admitted");
        assert_eq!(work.reservation().held().of(Kind::MicroUsd), 1_000, "the worst case");
        drop(gate.complete(work, Outcome { usage, ..Outcome::of(Status::Done) }));
        assert_eq!(spent(&gate), cost, "{usage:?}");
    }
    let world = World::default();
    let (gate, line) = (world.open(priced()), line(&world));
    let work = gate.admit(generate("a", json!({}))).expect("the policy bounds it");
    assert_eq!(work.reservation().held().of(Kind::Tokens), 50);
    let unpriced = call("b", Action::ModelGenerate, "large", json!({"max_tokens": 1}));
    denied(&line.run(&gate, unpriced), ReasonCode::UnknownPrice);
    denied(&line.run(&gate, generate("c", json!({"max_tokens": 1_000}))), ReasonCode::BudgetExhausted);
    denied(&line.run(&gate, generate("d", json!({"max_tokens": -1}))), ReasonCode::BadArgument);
}

#[test]
fn law_1_a_kind_without_an_upper_bound_denies_where_a_budget_limits_it() {
    let mut policy = busy();
    policy.budgets = vec![budget("sent", Scope::Session, Kind::EgressBytes, 1_000, Effect::Deny)];
    let world = World::default();
    let (gate, line) = (world.open(policy.clone()), line(&world));
    denied(&line.run(&gate, ask_tool("a", "web", json!({}))), ReasonCode::UnknownPrice);
    assert!(line.run(&gate, ask_tool("b", "look", json!({}))).ran(), "which sends nothing");
    policy.tools.get_mut("web").unwrap().cost.0.set(Kind::EgressBytes, 400);
    gate.reload(Compiled::new(Policy { digest: Digest::of(b"stated"), ..policy }).unwrap()).unwrap();
    assert!(line.run(&gate, ask_tool("c", "web", json!({}))).ran());
}

#[test]
fn law_3_programs_are_measured_in_memory_time_and_counted_while_they_run() {
    let mut policy = busy();
    policy.budgets = vec![
        budget("programs", Scope::Session, Kind::Jobs, 1, Effect::Deny),
        budget("memory-time", Scope::Session, Kind::MemoryMs, 64 * 10, Effect::Deny),
    ];
    let world = World::default();
    let (gate, line) = (world.open(policy), line(&world));
    let first = gate.admit(program("a", &[])).expect("admitted");
    // The time is cut so that the memory granted for it stays within the budget.
    assert_eq!(first.grant().map(|grant| grant.limits.wall_ms), Some(Millis(10)));
    denied(&line.run(&gate, program("b", &[])), ReasonCode::BudgetExhausted);
    let used = Amounts::ZERO.with(Kind::MemoryBytes, (3 << 20) - 1).with(Kind::WallMs, 4);
    assert!(gate.complete(first, Outcome { usage: used, ..Outcome::of(Status::Done) }).ran());
    assert_eq!(gate.balances()[0].posted.of(Kind::MemoryMs), 12, "three mebibytes for four milliseconds");
    assert!(line.run(&gate, program("c", &[])).ran());
    assert_eq!(gate.balances()[0].posted.of(Kind::Jobs), 0);
}
