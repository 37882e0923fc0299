//! Gates on a real database: exactly the limit under races, crashes, cuts and restarts, and everything back at the end.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::json;
use weir::model::{Effect, Kind, Millis, Outcome, ReasonCode, Status, Timestamp};
use weir::pdp::Compiled;
use weir::pep::port::{Clock, Nobody, Treasury as _};
use weir::pep::{Answer, Gate};
use weir::policy::{Budget, Lease, Policy, Scope};
use weir::shared::{Address, Keeper, Office, Postgres};

use super::server::{Proxy, Server, TERMS};
use super::support::policy::{budget, busy};
use super::support::{Store, key, name, tool};

/// The clock of this machine.
pub struct Wall;

impl Clock for Wall {
    fn now(&self) -> Timestamp {
        Timestamp(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64)
    }
}

pub fn sharing(kind: Kind, limit: u64, lease: u64) -> Policy {
    let shared = Budget { shared: Some(Lease(lease)), ..budget("shared", Scope::Org, kind, limit, Effect::Deny) };
    let mut policy = Policy { budgets: vec![shared], ..busy() };
    // It asks for a person after forty calls.
    policy.rules.retain(|rule| rule.id != "tired");
    policy
}

/// A gate that takes part.
pub struct Member {
    pub gate: Arc<Gate>,
    pub treasury: Arc<Postgres>,
    pub store: Store,
    keeper: Option<Keeper>,
}

impl Member {
    pub fn start(id: &str, address: Address, policy: Policy, store: Store) -> Self {
        let member = Self::begin(id, address, policy, store);
        member.wait(true);
        member
    }

    /// Without waiting for a standing.
    pub fn begin(id: &str, address: Address, policy: Policy, store: Store) -> Self {
        let (bell, rings) = std::sync::mpsc::channel();
        let treasury = Arc::new(Postgres::open(address, &name(id), TERMS, Some(bell)).unwrap());
        let compiled = Compiled::new(policy).unwrap();
        let gate = Gate::open(compiled, Box::new(store.clone()), Box::new(Wall), Box::new(Nobody), key()).unwrap();
        let gate = Arc::new(gate.with_treasury(treasury.clone()));
        let keeper = Some(Keeper::start(gate.clone(), treasury.clone(), rings).unwrap());
        Self { gate, treasury, store, keeper }
    }

    /// Waits until it has a standing, or has none any more.
    pub fn wait(&self, live: bool) {
        let end = Instant::now() + Duration::from_secs(20);
        while self.treasury.live() != live {
            assert!(Instant::now() < end, "no standing is live={live} after 20 s: {:?}", self.gate.join());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Stops in order: everything unused goes back.
    pub fn stop(&mut self) {
        drop(self.keeper.take());
    }

    /// One call of a tool that ends with having paid `paid`; `None` when it was denied.
    pub fn call(&self, id: &str, what: &str, paid: u64) -> Result<Answer, Box<Answer>> {
        let work = self.gate.admit(tool(id, what, json!({})))?;
        let usage = weir::model::Amounts::ZERO.with(Kind::MicroUsd, paid);
        Ok(self.gate.complete(work, Outcome { usage, ..Outcome::of(Status::Done) }))
    }

    pub fn posted(&self, kind: Kind) -> u64 {
        self.gate.balances().iter().find(|b| b.account.as_str() == "acme").map_or(0, |b| b.posted.of(kind))
    }
}

fn held(office: &Office) -> u64 {
    office.pots(None).unwrap().iter().map(|row| row.held).sum()
}

fn four(server: &Server, policy: &Policy) -> Vec<Member> {
    (0..4)
        .map(|n| {
            Member::start(
                &format!("{}-{n}", policy.budgets[0].id),
                server.address("gate"),
                policy.clone(),
                Store::default(),
            )
        })
        .collect()
}

#[test]
fn a_thousand_at_once_at_four_gates_get_exactly_what_is_there() {
    let Some(server) = Server::start() else { return };
    let office = server.prepared();
    for (round, lease) in [0, 2, 100].into_iter().enumerate() {
        let mut policy = sharing(Kind::ToolCalls, 5, lease);
        policy.budgets[0].id = format!("shared-{round}");
        let mut members = four(&server, &policy);
        let (ran, start) = (AtomicUsize::new(0), Barrier::new(40));
        std::thread::scope(|scope| {
            for thread in 0..40 {
                let (member, ran, start) = (&members[thread % 4], &ran, &start);
                scope.spawn(move || {
                    start.wait();
                    for number in 0..25 {
                        match member.call(&format!("c-{round}-{thread}-{number}"), "look", 0) {
                            Ok(_) => drop(ran.fetch_add(1, Ordering::SeqCst)),
                            Err(no) => assert_eq!(no.decision.reason.code, ReasonCode::BudgetExhausted, "{no:?}"),
                        }
                    }
                });
            }
        });
        assert_eq!(ran.load(Ordering::SeqCst), 5, "lease {lease}");
        members.iter_mut().for_each(Member::stop);
        let of_round = |row: &&weir::shared::PotRow| row.pot.budget == policy.budgets[0].id;
        assert_eq!(office.pots(None).unwrap().iter().filter(of_round).map(|row| row.held).sum::<u64>(), 5);
    }
}

#[test]
fn what_was_not_used_is_anybodys_again() {
    let Some(server) = Server::start() else { return };
    let office = server.prepared();
    let policy = sharing(Kind::MicroUsd, 250, 0);
    let mut members = four(&server, &policy);
    // Each holds 100 and pays 40: one after the other, whoever asks, there are four and not five.
    for (number, member) in members.iter().enumerate() {
        assert!(member.call(&format!("a{number}"), "buy", 40).is_ok(), "call {number}");
        assert_eq!(held(&office), 40 * (number as u64 + 1), "the rest is back before the answer is given");
    }
    let no = members[0].call("b", "buy", 40).unwrap_err();
    assert!(no.denial.as_ref().is_some_and(|text| text.contains("90 micro-USD left")), "{no:?}");
    members.iter_mut().for_each(Member::stop);
    assert_eq!(held(&office), 160);
}

#[test]
fn an_over_run_counts_for_every_gate() {
    let Some(server) = Server::start() else { return };
    let office = server.prepared();
    let members = four(&server, &sharing(Kind::MicroUsd, 1_000, 0));
    assert!(members[0].call("a", "buy", 950).is_ok());
    assert_eq!(held(&office), 950);
    let no = members[1].call("b", "buy", 1).unwrap_err();
    assert_eq!(no.decision.reason.code, ReasonCode::BudgetExhausted);
    assert!(no.denial.as_ref().is_some_and(|text| text.contains("50 micro-USD left")), "{no:?}");
}

#[test]
fn a_lease_needs_no_round_trip_and_goes_back_when_idle() {
    let Some(mut server) = Server::start() else { return };
    let office = server.prepared();
    let member = Member::start("g", server.address("gate"), sharing(Kind::ToolCalls, 1_000, 50), Store::default());
    for number in 0..20 {
        assert!(member.call(&format!("a{number}"), "look", 0).is_ok());
    }
    assert_eq!(held(&office), 50, "drawn once");
    let end = Instant::now() + Duration::from_secs(10);
    while held(&office) != 20 {
        assert!(Instant::now() < end, "{} are held still", held(&office));
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(member.call("b", "look", 0).is_ok(), "and is drawn again when it is needed");
    server.kill();
    assert!(member.call("c", "look", 0).is_ok(), "what was drawn needs no database");
    member.wait(false);
    let no = member.call("d", "look", 0).unwrap_err();
    assert_eq!(no.decision.reason.code, ReasonCode::BudgetUnreachable, "{no:?}");
    server.up();
    member.wait(true);
    assert!(member.call("e", "look", 0).is_ok());
}

#[test]
fn what_was_drawn_for_a_call_goes_back_when_a_person_does_not_agree() {
    let Some(server) = Server::start() else { return };
    let office = server.prepared();
    let mut policy = sharing(Kind::MicroUsd, 1_000, 0);
    policy.budgets.push(budget("one", Scope::Agent, Kind::ToolCalls, 1, Effect::Ask));
    let member = Member::start("g", server.address("gate"), policy, Store::default());
    assert!(member.call("a", "buy", 60).is_ok());
    // The money is drawn before the other budget is found to be at its cap, where nobody can be asked.
    let no = member.call("b", "buy", 60).unwrap_err();
    assert_eq!(no.decision.reason.code, ReasonCode::ApprovalUnavailable, "{no:?}");
    assert_eq!(held(&office), 60, "with the answer, and not when the gate is idle");
}

#[test]
fn one_that_has_no_database_denies_what_is_shared_and_nothing_else() {
    let store = Store::default();
    let compiled = Compiled::new(sharing(Kind::MicroUsd, 1_000, 0)).unwrap();
    let gate = Gate::open(compiled, Box::new(store), Box::new(Wall), Box::new(Nobody), key()).unwrap();
    let no = gate.admit(tool("a", "buy", json!({}))).unwrap_err();
    assert_eq!(no.decision.reason.code, ReasonCode::BudgetUnreachable);
    assert!(no.denial.as_ref().is_some_and(|text| text.contains("has no database for it")), "{no:?}");
    assert!(gate.admit(tool("b", "look", json!({}))).is_ok());
}

/// A gate whose process is gone: it neither says goodbye nor renews.
pub fn vanish(member: Member) -> Store {
    let store = member.store.copy();
    let Member { keeper, .. } = &member;
    assert!(keeper.is_some());
    std::mem::forget(member);
    store
}

#[test]
fn after_a_crash_nothing_is_lost_and_little_is_stranded() {
    let Some(server) = Server::start() else { return };
    let office = server.prepared();
    let policy = sharing(Kind::MicroUsd, 10_000, 300);
    let proxy = Proxy::to(server.port);
    let address = || Address::parse(&proxy.url("gate"), None).unwrap();
    let first = Member::start("g", address(), policy.clone(), Store::default());
    assert!(first.call("a", "buy", 60).is_ok());
    let open = first.gate.admit(tool("b", "buy", json!({}))).unwrap();
    // An answer is lost: the database gives, the journal never hears of it.
    proxy.mute();
    for number in 0..3 {
        let _ = first.call(&format!("c{number}"), "buy", 100);
    }
    let (spent, pending) = (first.posted(Kind::MicroUsd), 100);
    let there = held(&office);
    assert!(there <= spent + pending + 300 + 300, "{there} held, {spent} spent: a lease, and one draw under way");
    proxy.cut();
    let store = vanish(first);
    drop(open);
    proxy.pass();
    // The same store again: what a crash left open is spent, everything else goes back.
    let mut second = Member::start("g", server.address("gate"), policy, store);
    second.stop();
    let spent = second.posted(Kind::MicroUsd);
    assert_eq!(held(&office), spent, "exactly what was spent");
    assert!(spent >= 160, "the paid call and the one that nobody knows of: {spent}");
}

#[test]
fn a_copy_of_a_store_and_an_older_one_are_refused() {
    let Some(server) = Server::start() else { return };
    let office = server.prepared();
    let policy = sharing(Kind::MicroUsd, 10_000, 0);
    let mut first = Member::start("g", server.address("gate"), policy.clone(), Store::default());
    let backup = first.store.copy();
    for number in 0..20 {
        assert!(first.call(&format!("a{number}"), "buy", 100).is_ok());
    }
    // Until the next heartbeat has told how long the journal is.
    let position = || office.gates().unwrap()[0].position;
    let (end, before) = (Instant::now() + Duration::from_secs(10), position());
    while position() == before {
        assert!(Instant::now() < end);
        std::thread::sleep(Duration::from_millis(20));
    }
    first.stop();
    let old = Member::begin("g", server.address("gate"), policy, backup);
    std::thread::sleep(TERMS.ttl);
    assert!(!old.treasury.live());
    let fault = old.gate.join().unwrap_err();
    assert!(fault.to_string().contains("restored from a backup"), "{fault}");
    assert_eq!(held(&office), 2_000, "what was spent stays spent");
    let no = old.call("b", "buy", 0).unwrap_err();
    assert_eq!(no.decision.reason.code, ReasonCode::BudgetUnreachable);
}

#[test]
fn a_gate_that_is_gone_is_retired_and_what_it_did_not_spend_is_free_again() {
    let Some(server) = Server::start() else { return };
    let office = server.prepared();
    let policy = sharing(Kind::MicroUsd, 1_000, 500);
    let proxy = Proxy::to(server.port);
    let address = Address::parse(&proxy.url("gate"), None).unwrap();
    let lost = Member::start("lost", address, policy.clone(), Store::default());
    assert!(lost.call("a", "buy", 100).is_ok());
    let stranded = held(&office);
    assert!((100..=600).contains(&stranded), "{stranded}");
    assert!(office.retire("lost", "me").unwrap_err().contains("standing"));
    assert!(office.retire("nobody", "me").unwrap_err().contains("no gate"));
    proxy.cut();
    let end = Instant::now() + TERMS.ttl * 4;
    while office.retire("lost", "me").is_err() {
        assert!(Instant::now() < end);
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(held(&office), stranded, "counted as spent");
    let pot = office.pots(Some("lost")).unwrap()[0].pot.clone();
    office.correct("lost", &pot, 100, "me").unwrap();
    assert_eq!(held(&office), 100);
    proxy.pass();
    let other = Member::start("other", server.address("gate"), policy, Store::default());
    for number in 0..9 {
        assert!(other.call(&format!("b{number}"), "buy", 100).is_ok(), "call {number}");
    }
    assert!(other.call("c", "buy", 100).is_err());
    let fault = lost.gate.join().unwrap_err();
    assert!(fault.to_string().contains("retired"), "{fault}");
    assert!(lost.call("d", "buy", 100).is_err(), "it may not spend what it had");
}

/// What happens to the database while gates spend.
fn under_faults(fault: impl FnOnce(&mut Server, &Proxy)) {
    let Some(mut server) = Server::start() else { return };
    let office = server.prepared();
    let proxy = Proxy::to(server.port);
    let address = || Address::parse(&proxy.url("gate"), None).unwrap();
    let policy = sharing(Kind::ToolCalls, 300, 7);
    let members: Vec<Member> =
        (0..2).map(|n| Member::start(&format!("g{n}"), address(), policy.clone(), Store::default())).collect();
    spend_all(&office, members, 300, || fault(&mut server, &proxy));
}

/// Two gates spend a budget of `limit` calls while `fault` happens: exactly the limit runs and exactly that is held.
pub fn spend_all(office: &Office, mut members: Vec<Member>, limit: u64, fault: impl FnOnce()) {
    let (ran, stop, why) = (AtomicUsize::new(0), AtomicBool::new(false), Mutex::new(String::new()));
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (member, ran, stop, why) = (&members[thread % 2], &ran, &stop, &why);
            scope.spawn(move || {
                for number in 0.. {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    match member.call(&format!("c-{thread}-{number}"), "look", 0) {
                        Ok(_) => drop(ran.fetch_add(1, Ordering::SeqCst)),
                        Err(no) if no.decision.reason.code == ReasonCode::BudgetUnreachable => {
                            *why.lock().unwrap() = no.decision.reason.detail;
                            std::thread::sleep(Duration::from_millis(2));
                        }
                        Err(no) => assert_eq!(no.decision.reason.code, ReasonCode::BudgetExhausted, "{no:?}"),
                    }
                    std::thread::sleep(Duration::from_millis(3));
                }
            });
        }
        std::thread::sleep(Duration::from_millis(100));
        fault();
        let end = Instant::now() + Duration::from_secs(20);
        while ran.load(Ordering::SeqCst) < limit as usize && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20));
        }
        stop.store(true, Ordering::SeqCst);
    });
    assert_eq!(
        ran.load(Ordering::SeqCst),
        limit as usize,
        "exactly the limit, faults or not; last: {}",
        why.lock().unwrap()
    );
    members.iter().for_each(|member| member.wait(true));
    members.iter_mut().for_each(Member::stop);
    assert_eq!(held(office), limit);
    let journals: u64 = members.iter().map(|member| member.posted(Kind::ToolCalls)).sum();
    assert_eq!(journals, limit);
}

#[test]
fn a_database_that_stops_in_order_costs_nothing() {
    under_faults(|server, _| {
        server.stop();
        std::thread::sleep(Duration::from_millis(300));
        server.up();
    });
}

#[test]
fn a_database_that_is_killed_twice_costs_nothing() {
    under_faults(|server, _| {
        for _ in 0..2 {
            server.kill();
            std::thread::sleep(Duration::from_millis(100));
            server.up();
            std::thread::sleep(Duration::from_millis(200));
        }
    });
}

#[test]
fn a_wire_that_is_cut_held_and_robbed_of_answers_costs_nothing() {
    under_faults(|_, proxy| {
        for round in 0..6 {
            match round % 3 {
                0 => proxy.cut(),
                1 => proxy.mute(),
                _ => proxy.hold(),
            }
            std::thread::sleep(Duration::from_millis(150));
            proxy.pass();
            std::thread::sleep(Duration::from_millis(100));
        }
    });
}

#[test]
fn a_shared_level_counts_what_runs_now_at_every_gate() {
    let Some(server) = Server::start() else { return };
    let office = server.prepared();
    let mut policy = sharing(Kind::Jobs, 3, 0);
    let tool_of_policy = policy.tools.get_mut("look").unwrap();
    tool_of_policy.cost.0.set(Kind::Jobs, 1);
    let members = four(&server, &policy);
    let ask = |member: &Member, id: &str| member.gate.admit(tool(id, "look", json!({})));
    let running: Vec<_> = (0..3).map(|n| ask(&members[n], &format!("a{n}")).unwrap()).collect();
    assert!(ask(&members[3], "b").is_err(), "three run");
    assert_eq!(held(&office), 3);
    for (member, work) in members.iter().zip(running) {
        let _ = member.gate.complete(work, Outcome::of(Status::Done));
    }
    assert_eq!(held(&office), 0);
    assert!(ask(&members[3], "c").is_ok());
}

#[test]
fn a_tranche_that_one_gate_grants_is_for_all() {
    let Some(server) = Server::start() else { return };
    server.prepared();
    let members = four(&server, &sharing(Kind::ToolCalls, 2, 0));
    assert!(members[0].call("a", "look", 0).is_ok() && members[1].call("b", "look", 0).is_ok());
    assert!(members[2].call("c", "look", 0).is_err());
    let account = weir::ledger::AccountId::parse("acme").unwrap();
    members[3].gate.raise_budget("shared", &account, 1, "a person").unwrap();
    assert!(members[2].call("d", "look", 0).is_ok());
    assert!(members[0].call("e", "look", 0).is_err());
}

#[test]
fn a_window_that_is_shared_begins_anew() {
    let Some(server) = Server::start() else { return };
    server.prepared();
    let mut policy = sharing(Kind::ToolCalls, 2, 0);
    policy.budgets[0].window = weir::model::Window::Every(Millis(3_000));
    let members = four(&server, &policy);
    let window = || Wall.now().0 / 3_000;
    // At the beginning of a window, so that all of it falls into one.
    let before = window();
    while window() == before {
        std::thread::sleep(Duration::from_millis(5));
    }
    let ran = |round: &str| {
        let asked = members.iter().enumerate().map(|(n, member)| member.call(&format!("{round}-{n}"), "look", 0));
        asked.filter(Result::is_ok).count()
    };
    let (first, at) = (ran("a"), window());
    assert_eq!((first, at), (2, before + 1));
    while window() == at {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(ran("b"), 2);
}
