//! The whole gate under a seed: random calls, failures of every port, crashes and restarts, and after
//! each step the invariants. No wall clock, no threads: a seed that fails once fails for ever.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use support::policy::{busy, tight, timed};
use support::{Break, Host, Line, Seeded, World, call, name, program, step, tool};
use weir::audit::{Body, Entry};
use weir::ledger::AccountId;
use weir::model::{
    Action, Amounts, Call, CallId, Effect, Giver, KINDS, Kind, Nature, OnCrash, Resource, Subject, Timestamp, Window,
};
use weir::pep::port::{Approval, Order};
use weir::pep::{Answer, Gate, GateFault};
use weir::policy::{Policy, Scope};

/// One account as the journal's entries say, added up the slow way.
#[derive(Clone, Copy, Default)]
struct Sum {
    posted: Amounts,
    pending: Amounts,
}

/// What stops an account.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stop {
    Own,
    Round,
    ForGood,
}

impl Stop {
    fn of(from: &Giver) -> Self {
        if from.is_here() { Self::Own } else { Self::Round }
    }
}

/// Folds the entries and checks after every one of them that no limit is passed.
#[derive(Default)]
struct Books {
    accounts: BTreeMap<String, Sum>,
    held: BTreeMap<CallId, (Subject, Amounts)>,
    raised: BTreeMap<(String, String), u64>,
    /// Everything that was ever reserved: by whom, when, and what of it counts in windows.
    reserved: BTreeMap<CallId, (Subject, u64, Amounts)>,
    /// Tranches in windows: budget, account, when, how much.
    granted: Vec<(String, String, u64, u64)>,
    /// What stops accounts: by whom, and whether for good.
    barred: BTreeSet<(String, Stop)>,
    doubts: BTreeMap<CallId, (Subject, Amounts)>,
    last: Timestamp,
    read: usize,
}

impl Books {
    /// Reads on from where it stopped.
    fn check(&mut self, policy: &Policy, entries: &[Entry]) {
        for entry in &entries[self.read..] {
            assert!(entry.at >= self.last, "time went back in entry {}", entry.seq);
            self.last = entry.at;
            match &entry.body {
                Body::Intent { call, held, .. } => {
                    self.held.insert(call.id.clone(), (call.subject.clone(), *held));
                    self.reserved.insert(call.id.clone(), (call.subject.clone(), entry.at.0, *held));
                    let path = AccountId::path(&call.subject);
                    let closed = path.iter().find(|id| self.barred.iter().any(|(barred, _)| barred == id.as_str()));
                    assert!(closed.is_none(), "entry {}: {} runs on {closed:?}", entry.seq, call.id);
                }
                Body::Outcome(outcome) => {
                    self.end(&outcome.call, outcome.posted, outcome.receipt.is_unknown());
                }
                Body::Expire { call, posted, .. } => {
                    let (_, held) = &self.held[call];
                    for row in KINDS.iter().filter(|row| row.on_crash == OnCrash::Spent) {
                        assert_eq!(posted.of(row.kind), held.of(row.kind), "{call}: unknown is spent");
                    }
                    self.end(call, *posted, true);
                }
                Body::Raise { budget, account, by, window, .. } if !window.is_total() => {
                    let by = by.iter().map(|(_, amount)| amount).sum::<u64>();
                    self.granted.push((budget.clone(), account.clone(), entry.at.0, by));
                }
                Body::Raise { budget, account, by, .. } => {
                    let by = by.iter().map(|(_, amount)| amount).sum::<u64>();
                    *self.raised.entry((budget.clone(), account.clone())).or_default() += by;
                }
                Body::Freeze { account, from, .. } => {
                    assert!(self.barred.insert((account.clone(), Stop::of(from))), "entry {}: {account}", entry.seq);
                }
                Body::Revoke { account, .. } => drop(self.barred.insert((account.clone(), Stop::ForGood))),
                Body::Thaw { account, from, .. } => self.thaw(account, from, entry.seq),
                Body::Part { .. } => panic!("entry {}: nobody did that", entry.seq),
                Body::Reconcile { call, posted, .. } => self.reconcile(call, *posted),
                Body::Ask { .. } | Body::Answer { .. } | Body::Bypass { .. } => {}
                Body::Open { .. }
                | Body::Fork { .. }
                | Body::Allowance { .. }
                | Body::Join { .. }
                | Body::Policy { .. }
                | Body::Checkpoint { .. } => {}
            }
            self.add_up(policy, entry.seq);
            if policy.id.as_str() == "timed" {
                self.add_up_windows(policy, entry.seq);
            }
            self.read += 1;
        }
    }

    /// Whoever lets an account go on lifts something, and another gate only what an order has stopped that went round.
    fn thaw(&mut self, account: &str, from: &Giver, seq: u64) {
        let of = |stop| (account.to_owned(), stop);
        assert!(!self.barred.contains(&of(Stop::ForGood)), "entry {seq}: {account}");
        let own = !matches!(from, Giver::Gate(_)) && self.barred.remove(&of(Stop::Own));
        assert!(self.barred.remove(&of(Stop::Round)) || own, "entry {seq}: {account}");
    }

    fn end(&mut self, id: &CallId, posted: Amounts, doubtful: bool) {
        let Some((subject, held)) = self.held.remove(id) else { return };
        if let Some((.., counted)) = self.reserved.get_mut(id) {
            for (kind, amount) in held.iter() {
                counted.set(kind, amount.min(posted.of(kind)));
            }
        }
        if doubtful {
            self.doubts.insert(id.clone(), (subject.clone(), posted));
        }
        for account in AccountId::path(&subject) {
            let sum = self.accounts.entry(account.to_string()).or_default();
            for (kind, amount) in posted.iter() {
                let before = sum.posted.of(kind);
                let flow = kind.row().nature == Nature::Flow;
                sum.posted.set(kind, if flow { before + amount } else { before.max(amount) });
            }
        }
    }

    fn reconcile(&mut self, id: &CallId, posted: Amounts) {
        let (subject, before) = self.doubts.remove(id).expect("only what is in doubt");
        for account in AccountId::path(&subject) {
            let sum = self.accounts.get_mut(account.as_str()).expect("it was posted");
            for row in KINDS.iter().filter(|row| row.nature == Nature::Flow) {
                let now = sum.posted.of(row.kind) - before.of(row.kind) + posted.of(row.kind);
                sum.posted.set(row.kind, now);
            }
        }
        if let Some((.., counted)) = self.reserved.get_mut(id) {
            counted.set(Kind::MicroUsd, counted.of(Kind::MicroUsd).min(posted.of(Kind::MicroUsd)));
        }
    }

    /// INVARIANT: what was reserved in any window is within its limit. Nothing here costs more than it holds.
    fn add_up_windows(&self, policy: &Policy, seq: u64) {
        for budget in policy.budgets.iter().filter(|budget| !budget.window.is_total()) {
            let period = budget.window.period().unwrap().0;
            for account in self.accounts.keys().filter(|id| id.matches('/').count() == depth(budget.scope)) {
                let mine = |who: &Subject| AccountId::path(who).iter().any(|id| id.as_str() == account);
                let times: Vec<(u64, u64)> = self
                    .reserved
                    .values()
                    .filter(|(who, ..)| mine(who))
                    .map(|(_, at, counted)| (*at, counted.of(budget.kind)))
                    .filter(|(_, amount)| *amount > 0)
                    .collect();
                let granted = self.granted.iter().filter(|(id, whose, ..)| *id == budget.id && whose == account);
                let granted: u64 = granted.map(|(.., by)| by).sum();
                for (from, _) in &times {
                    let end = match budget.window {
                        Window::Every(_) => (from / period + 1) * period,
                        _ => from + period,
                    };
                    let most = match budget.window {
                        Window::Refill(_) => 2 * budget.limit,
                        _ => budget.limit,
                    };
                    let sum: u64 = times.iter().filter(|(at, _)| from <= at && *at < end).map(|(_, by)| by).sum();
                    assert!(sum <= most + granted, "entry {seq}: {account} reserved {sum} of `{}`", budget.id);
                }
            }
        }
    }

    /// INVARIANT: posted + pending <= limit, for every account and all its ancestors.
    fn add_up(&mut self, policy: &Policy, seq: u64) {
        for sum in self.accounts.values_mut() {
            sum.pending = Amounts::ZERO;
        }
        for (subject, held) in self.held.values() {
            for account in AccountId::path(subject) {
                let sum = self.accounts.entry(account.to_string()).or_default();
                for (kind, amount) in held.iter() {
                    let before = sum.pending.of(kind);
                    let flow = kind.row().nature != Nature::Peak;
                    sum.pending.set(kind, if flow { before + amount } else { before.max(amount) });
                }
            }
        }
        for budget in policy.budgets.iter().filter(|budget| budget.window.is_total()) {
            for (account, sum) in &self.accounts {
                if account.matches('/').count() != depth(budget.scope) {
                    continue;
                }
                let more = self.raised.get(&(budget.id.clone(), account.clone())).copied().unwrap_or(0);
                let (posted, pending) = (sum.posted.of(budget.kind), sum.pending.of(budget.kind));
                let used = match budget.kind.row().nature {
                    Nature::Flow => posted + pending,
                    Nature::Peak => posted.max(pending),
                    Nature::Level => pending,
                };
                assert!(
                    used <= budget.limit + more,
                    "entry {seq}: {account} has {posted} posted and {pending} pending of `{}`, which allows {} + {more}",
                    budget.id,
                    budget.limit
                );
            }
        }
    }
}

fn depth(scope: Scope) -> usize {
    match scope {
        Scope::Org => 0,
        Scope::Agent => 1,
        Scope::Session => 2,
        Scope::Run => 3,
        Scope::Project | Scope::Subagent => panic!("nobody here has one"),
    }
}

/// A gate in its world, and what a test remembers beside it.
struct Sim {
    world: World,
    policy: Policy,
    gate: Option<Gate>,
    line: Line,
    /// Ids used so far, of top-level calls.
    ids: Vec<CallId>,
    answered: BTreeSet<CallId>,
    restarts: u32,
    books: Books,
}

impl Sim {
    fn new(policy: Policy) -> Self {
        let world = World::default();
        let line = Line { store: world.store.clone(), host: Host::default() };
        let gate = Some(world.open(policy.clone()));
        Self {
            world,
            policy,
            gate,
            line,
            ids: Vec::new(),
            answered: BTreeSet::new(),
            restarts: 0,
            books: Books::default(),
        }
    }

    fn gate(&self) -> &Gate {
        self.gate.as_ref().expect("the gate is open")
    }

    /// Sends a call and checks its answer and everything that can be seen.
    fn send(&mut self, call: Call) -> Answer {
        let (id, known) = (call.id.clone(), self.ids.contains(&call.id));
        let before = self.line.host.count();
        let answer = self.line.run(self.gate(), call);
        if known {
            assert_eq!(answer.decision.effect, Effect::Deny, "{id} came twice and passed");
            assert_eq!(self.line.host.count(), before, "{id} ran twice");
        }
        match &answer.receipt {
            Some(_) => {
                assert!(self.answered.insert(answer.call.clone()), "two receipts for {}", answer.call);
                self.ids.push(id);
            }
            None => {
                assert_eq!(answer.decision.effect, Effect::Deny, "{id}: no record and not denied");
                assert!(self.gate().health().is_some(), "{id}: no record and the gate is open");
            }
        }
        answer
    }

    /// An operator does something; what the gate refuses changes nothing.
    fn operate(&mut self, seed: &mut Seeded) {
        let path = AccountId::path(&someone(seed.below(4)));
        // The organisation is never closed for good: nothing would be left to look at.
        let account = &path[1 + seed.below(3) as usize];
        let done = match seed.below(6) {
            0 | 1 => self.gate().heed(Order::Freeze, account, "somebody", &giver(seed)),
            2 | 3 => self.gate().heed(Order::Thaw, account, "somebody", &giver(seed)),
            4 if seed.one_in(4) => self.gate().revoke(account, "operator"),
            4 => {
                let budgets = &self.policy.budgets;
                let Some(budget) = budgets.get(seed.below(budgets.len().max(1) as u64) as usize) else { return };
                self.gate().raise_budget(&budget.id, account, 1 + seed.below(50), "operator")
            }
            _ => {
                let doubts = self.gate().doubts();
                let Some((call, posted)) = doubts.get(seed.below(doubts.len().max(1) as u64) as usize) else { return };
                let used = Amounts::ZERO.with(Kind::MicroUsd, seed.below(posted.of(Kind::MicroUsd) + 1));
                self.gate().reconcile(call, used, "operator").map(drop)
            }
        };
        if let Err(fault) = done {
            let refused = matches!(fault, GateFault::Refused(_));
            assert!(refused || self.gate().health().is_some(), "{fault}");
        }
    }

    /// The process dies and another opens the store; `how` says what became of the last entry.
    fn restart(&mut self) {
        self.gate = None;
        self.world.store.repair();
        self.gate = Some(self.world.open(self.policy.clone()));
        self.restarts += 1;
        // Everything on disk counts as used from here on, also what was never answered.
        let story = self.world.store.told();
        self.ids.extend(story.ends.keys().cloned());
        self.ids.sort();
        self.ids.dedup();
        story.assert_ended();
        for balance in self.gate().balances() {
            assert_eq!(balance.pending, Amounts::ZERO, "{} after a restart", balance.account);
        }
    }

    /// Everything that must hold at any moment.
    fn check(&mut self) {
        let entries = self.world.store.entries();
        let story = self.world.store.told();
        for (id, ends) in &story.ends {
            assert_eq!(ends.len(), 1, "{id}");
        }
        self.books.check(&self.policy, &entries);
        if self.gate().health().is_none() {
            let balances = self.gate().balances();
            for balance in &balances {
                let sum = self.books.accounts.get(balance.account.as_str()).copied().unwrap_or_default();
                assert_eq!((balance.posted, balance.pending), (sum.posted, sum.pending), "{}", balance.account);
            }
            assert_eq!(self.gate().entries(), self.world.store.count());
            let barred: BTreeSet<String> = self.gate().bars().iter().map(|(account, _)| account.to_string()).collect();
            assert_eq!(barred, self.books.barred.iter().map(|(account, _)| account.clone()).collect());
        }
        let mut ran = self.line.host.ids();
        let runs = ran.len();
        ran.sort();
        ran.dedup();
        assert_eq!(ran.len(), runs, "something ran twice");
        for id in ran {
            assert!(story.held.contains_key(&id), "{id} ran without an intent");
        }
    }

    /// A second gate over a copy of the store sees exactly what this one sees.
    fn check_replay(&self) {
        if self.gate().health().is_some() || !self.world.store.told().ends_all() {
            return;
        }
        let copy = self.world.copy();
        let again = copy.open(self.policy.clone());
        assert_eq!(copy.store.count(), self.world.store.count(), "a clean restart writes nothing");
        assert_eq!(seen(self.gate()), seen(&again));
    }
}

/// What can be seen of a gate, as text.
fn seen(gate: &Gate) -> String {
    let facts: Vec<_> = (0..4).map(|index| format!("{:?}", gate.facts(&someone(index)))).collect();
    let receipts = serde_json::to_string(&gate.receipts(None, 1_000)).unwrap();
    let scores = serde_json::to_string(&gate.scores()).unwrap();
    format!("{}\n{facts:?}\n{scores}\n{receipts}", serde_json::to_string(&gate.balances()).unwrap())
}

/// Its own operator, the office, or another gate.
fn giver(seed: &mut Seeded) -> Giver {
    match seed.below(4) {
        0 | 1 => Giver::Here,
        2 => Giver::Office,
        _ => Giver::Gate("other".to_owned()),
    }
}

/// One of four subjects: two agents, two sessions, of which one pair shares a name.
fn someone(index: u64) -> Subject {
    let (agent, session, run) =
        [("coder", "s1", "r1"), ("coder", "s2", "r1"), ("coder", "s1", "r2"), ("other", "s1", "r1")]
            [index as usize % 4];
    Subject {
        org: name("acme"),
        agent: name(agent),
        session: name(session),
        run: name(run),
        delegation: Vec::new(),
        project: None,
    }
}

fn any_tool(seed: &mut Seeded) -> (Action, &'static str, Value) {
    let end = *seed.pick(&["done", "done", "done", "failed", "unknown", "panic", "broken", "exhausted"]);
    let paid = seed.below(101);
    let resource = *seed.pick(&["look", "look", "web", "save", "mail", "buy", "buy", "rm"]);
    (
        Action::ToolCall,
        resource,
        json!({ "q": seed.below(5), "end": end, "paid": if resource == "buy" { paid } else { 0 } }),
    )
}

fn any_step(seed: &mut Seeded) -> (Action, &'static str, Value) {
    match seed.below(8) {
        0 => (Action::CodeImport, *seed.pick(&["math", "json", "os", "socket"]), json!({})),
        1 => (Action::AgentInvoke, *seed.pick(&["helper", "stranger"]), json!({"task": seed.below(9)})),
        2 => (Action::ModelGenerate, *seed.pick(&["small", "large"]), json!({"max_tokens": seed.below(200)})),
        3 => (Action::PackageFetch, "left-pad", json!({})),
        4 => (Action::ToolCall, *seed.pick(&["no such tool", "", "x\u{0}y", "look "]), json!({})),
        _ => any_tool(seed),
    }
}

fn any_call(seed: &mut Seeded, id: &str) -> Call {
    let mut made = match seed.below(4) {
        0 => {
            let steps: Vec<Value> = (0..seed.below(5))
                .map(|_| {
                    let (action, resource, args) = any_step(seed);
                    step(action, resource, &args)
                })
                .collect();
            program(id, &steps)
        }
        1 => {
            let (action, resource, args) = any_step(seed);
            call(id, action, if resource.contains([' ', '\0']) || resource.is_empty() { "odd" } else { resource }, args)
        }
        _ => {
            let (_, resource, args) = any_tool(seed);
            tool(id, resource, args)
        }
    };
    if made.action == Action::PackageFetch && seed.one_in(2) {
        made.resource = Resource { registry: Some(name("python")), revision: Some(name("1.0.0")), ..made.resource };
    }
    made.subject = someone(seed.below(4));
    made
}

/// Entries, restarts and snapshots of one life.
fn one_life(seed: u64, steps: u64) -> (u64, u32, usize) {
    let mut seeded = Seeded(seed);
    let policy = *seeded.pick(&[busy, tight, timed, timed]);
    let mut sim = Sim::new(policy());
    if seeded.one_in(2) {
        sim.world.store.awaited();
    }
    if seeded.one_in(2) {
        // Every restart is from a snapshot then; `check_replay` compares with a reading of all entries.
        sim.world.store.snapshots_every(1 + seeded.below(20));
    }
    for number in 0..steps {
        match seeded.below(20) {
            0 => {
                let now = sim.world.clock.0.load(std::sync::atomic::Ordering::SeqCst);
                let back = seeded.below(100_000);
                sim.world.clock.0.store(now.saturating_sub(back), std::sync::atomic::Ordering::SeqCst);
            }
            1 => {
                let how = *seeded.pick(&[Break::Lost, Break::Kept, Break::Hole, Break::Panic]);
                sim.world.store.break_at(sim.world.store.count() + seeded.below(6), how);
            }
            2 => {
                // The host that was to run it is gone; the gate is not.
                let id = format!("c{number}");
                if let Ok(work) = sim.gate().admit(any_call(&mut seeded, &id)) {
                    drop(work);
                    sim.ids.push(name(&id));
                }
            }
            3 => sim.restart(),
            4 => {
                let yes = Approval::Granted("yes".into());
                let said = [yes.clone(), yes, Approval::Refused, Approval::Expired, Approval::Unavailable];
                let said = seeded.pick(&said).clone();
                sim.world.person.says([said]);
            }
            6 => {
                // A store that panics takes the operator's request with it, and closes the gate.
                let operate = std::panic::AssertUnwindSafe(|| sim.operate(&mut seeded));
                let panicked = std::panic::catch_unwind(operate).is_err();
                assert!(!panicked || sim.gate().health().is_some());
            }
            5 if !sim.ids.is_empty() => {
                let id = seeded.pick(&sim.ids).clone();
                let again = any_call(&mut seeded, id.as_str());
                sim.send(again);
            }
            _ => {
                let again = any_call(&mut seeded, &format!("c{number}"));
                sim.send(again);
            }
        }
        sim.world.clock.0.fetch_add(seeded.below(5_000), std::sync::atomic::Ordering::SeqCst);
        if sim.gate().health().is_some() && seeded.one_in(2) {
            sim.restart();
        }
        if number % 8 == 0 {
            sim.check();
        }
    }
    sim.check();
    sim.check_replay();
    sim.restart();
    sim.check();
    sim.check_replay();
    sim.world.store.story().assert_ended();
    (sim.world.store.count(), sim.restarts, sim.world.store.snapshots())
}

#[test]
fn any_life_of_a_gate_keeps_the_laws() {
    let seeds = std::env::var("WEIR_SEEDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(if cfg!(debug_assertions) { 150 } else { 1_000 });
    let (mut entries, mut restarts, mut snapshots) = (0, 0, 0);
    for seed in 0..seeds {
        let life = std::panic::catch_unwind(|| one_life(seed, 60));
        let (written, restarted, kept) = life.unwrap_or_else(|_| panic!("seed {seed} breaks a law"));
        entries += written;
        restarts += restarted;
        snapshots += kept as u64;
    }
    println!("{seeds} lives, {entries} entries, {restarts} restarts, {snapshots} snapshots");
    assert!(
        entries > seeds * 40 && u64::from(restarts) > seeds && snapshots > seeds,
        "the lives are too dull to show anything"
    );
}

/// A day of every kind of call, with the person's answers.
fn day() -> (Vec<Call>, usize) {
    let nested = [
        step(Action::CodeImport, "math", &json!({})),
        step(Action::CodeImport, "os", &json!({})),
        step(Action::ToolCall, "web", &json!({"q": 1})),
        step(Action::ToolCall, "save", &json!({"q": 2})),
        step(Action::ToolCall, "buy", &json!({"paid": 10})),
        step(Action::ToolCall, "not a name", &json!({})),
        step(Action::AgentInvoke, "helper", &json!({})),
    ];
    let mut package = call("package", Action::PackageFetch, "left-pad", json!({}));
    package.resource = Resource { registry: Some(name("python")), revision: Some(name("1.0.0")), ..package.resource };
    let mut calls = vec![
        tool("look", "look", json!({})),
        tool("rm", "rm", json!({})),
        program("code", &nested),
        tool("mail", "mail", json!({})),
        tool("unknown", "buy", json!({"end": "unknown"})),
        tool("panic", "buy", json!({"end": "panic"})),
        call("model", Action::ModelGenerate, "small", json!({"max_tokens": 100})),
        package,
        tool("look", "look", json!({})),
    ];
    // Past the cap of twelve tool calls in the run: a person grants another tranche.
    calls.extend((0..8).map(|index| tool(&format!("more{index}"), "look", json!({"q": index}))));
    (calls, 2)
}

/// Kills the gate at every entry of the journal, with the entry lost and with it kept, and lets the
/// caller send the whole day again after the restart.
#[test]
fn every_crash_point_of_a_day() {
    let entries = {
        let mut sim = Sim::new(tight());
        let (calls, answers) = day();
        sim.world.person.yes(answers);
        for call in calls {
            sim.send(call);
        }
        sim.check();
        sim.check_replay();
        assert!(sim.world.store.entries().iter().any(|entry| matches!(entry.body, Body::Raise { .. })));
        sim.world.store.count()
    };
    for how in [Break::Lost, Break::Kept, Break::Panic] {
        for at in 2..entries {
            let mut sim = Sim::new(tight());
            let (calls, answers) = day();
            sim.world.person.yes(answers);
            sim.world.store.break_at(at, how);
            for call in &calls {
                sim.send(call.clone());
            }
            assert!(sim.gate().health().is_some(), "entry {at} ({how:?}) broke and the gate is open");
            sim.restart();
            sim.check();
            sim.world.person.yes(answers);
            for call in calls {
                sim.send(call);
            }
            sim.check();
            sim.check_replay();
        }
    }
}

/// The store breaks while the gate starts again: what was expired stays to be expired, and nothing is
/// written after a gap.
#[test]
fn a_crash_during_the_restart_loses_nothing() {
    for (at, how) in (0..4).flat_map(|at| [Break::Lost, Break::Kept, Break::Hole].map(|how| (at, how))) {
        let mut sim = Sim::new(tight());
        for id in ["a", "b", "c"] {
            drop(sim.gate().admit(tool(id, "buy", json!({}))).expect("admitted"));
        }
        sim.gate = None;
        sim.world.store.break_at(sim.world.store.count() + at, how);
        assert_eq!(sim.world.try_open(tight()).is_err(), at < 3, "entry {at} {how:?}");
        sim.restart();
        sim.check();
        assert_eq!(sim.gate().balances()[0].posted.of(Kind::MicroUsd), 300);
        assert_eq!(sim.world.store.story().expired.len(), 3);
    }
}
