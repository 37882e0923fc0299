//! Freezing and revoking everywhere: once the order has returned, no gate accepts what it forbids.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use weir::ledger::AccountId;
use weir::model::{Kind, ReasonCode};
use weir::pdp::Compiled;
use weir::pep::port::{Journal, Nobody, Order, Treasury as _};
use weir::pep::{Gate, GateFault, Reach};
use weir::shared::{Address, Office, Terms};

use super::gates::{Member, Wall, sharing};
use super::server::{Proxy, Server, TERMS};
use super::support::{Store, key, tool};

/// Asks at a steady rate until it is told to stop; notes when each request began that was accepted.
fn ask_steadily(gate: &Gate, each: Duration, stop: &AtomicBool, accepted: &Mutex<Vec<Instant>>) {
    // Ids are used once, also when a gate is asked in several rounds.
    static ROUND: AtomicUsize = AtomicUsize::new(0);
    let round = ROUND.fetch_add(1, Ordering::SeqCst);
    let mut next = Instant::now();
    for number in 0.. {
        if stop.load(Ordering::SeqCst) {
            return;
        }
        let began = Instant::now();
        if gate.admit(tool(&format!("r{round}-{number}"), "look", json!({}))).is_ok() {
            accepted.lock().unwrap().push(began);
        }
        next += each;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}

/// Ends the workers, even when an assertion ends the test.
struct Stops<'a>(&'a AtomicBool);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Workers ask `gates` for a while, then `order` is given; how many requests were accepted that began after it returned.
fn late(gates: &[&Gate], workers: usize, rate: u32, time: Duration, order: impl FnOnce()) -> usize {
    let (stop, accepted) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    let returned = Mutex::new(None);
    std::thread::scope(|scope| {
        for worker in 0..workers {
            let (gate, stop, accepted) = (gates[worker % gates.len()], &stop, &accepted);
            scope.spawn(move || ask_steadily(gate, Duration::from_secs(1) / rate, stop, accepted));
        }
        let _stops = Stops(&stop);
        std::thread::sleep(time / 2);
        assert!(!accepted.lock().unwrap().is_empty(), "nothing ran before the order");
        order();
        *returned.lock().unwrap() = Some(Instant::now());
        std::thread::sleep(time / 2);
    });
    let returned = returned.lock().unwrap().unwrap();
    accepted.lock().unwrap().iter().filter(|began| **began > returned).count()
}

fn acme() -> AccountId {
    AccountId::parse("acme").unwrap()
}

fn alone(journal: Box<dyn Journal>) -> Gate {
    let mut policy = sharing(Kind::ToolCalls, 1, 0);
    policy.budgets.clear();
    Gate::open(Compiled::new(policy).unwrap(), journal, Box::new(Wall), Box::new(Nobody), key()).unwrap()
}

#[test]
fn nothing_is_accepted_after_a_revocation_in_memory() {
    let gate = alone(Box::new(weir::journal::Memory::default()));
    let late = late(&[&gate], 4, 200, Duration::from_millis(400), || gate.revoke(&acme(), "me").unwrap());
    assert_eq!(late, 0);
}

#[cfg(feature = "store")]
fn seal() -> weir::journal::Seal {
    Box::new(|count, hash| weir::audit::Head::sign(count, hash, &key()))
}

#[cfg(feature = "store")]
#[test]
fn nothing_is_accepted_after_a_revocation_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let gate = alone(Box::new(weir::journal::Sqlite::open(dir.path(), seal()).unwrap()));
    let late = late(&[&gate], 4, 200, Duration::from_millis(400), || gate.revoke(&acme(), "me").unwrap());
    assert_eq!(late, 0);
}

#[test]
fn nothing_is_accepted_at_any_gate_after_a_revocation_on_a_database() {
    let Some(server) = Server::start() else { return };
    let office = server.prepared();
    let policy = sharing(Kind::ToolCalls, 1_000_000, 100);
    let member = |n: usize| Member::start(&format!("g{n}"), server.address("gate"), policy.clone(), Store::default());
    let members = [member(0), member(1)];
    let gates = [&*members[0].gate, &*members[1].gate];
    for what in [Order::Freeze, Order::Revoke] {
        let late = late(&gates, 4, 100, Duration::from_millis(600), || {
            office.order(what, &acme(), "me").unwrap();
        });
        assert_eq!(late, 0, "{what:?}");
        for member in &members {
            assert!(member.treasury.live(), "it follows, and is not cut off");
            let no = member.gate.admit(tool(&format!("{}-after", what.word()), "look", json!({}))).unwrap_err();
            let wanted = if what == Order::Freeze { ReasonCode::AccountFrozen } else { ReasonCode::AccountRevoked };
            assert_eq!(no.decision.reason.code, wanted);
        }
        if what == Order::Freeze {
            office.order(Order::Thaw, &acme(), "me").unwrap();
        }
    }
    // Who comes later hears of it before anything else.
    let third = member(2);
    let no = third.gate.admit(tool("later", "look", json!({}))).unwrap_err();
    assert_eq!(no.decision.reason.code, ReasonCode::AccountRevoked);
}

#[test]
fn a_gate_that_is_cut_off_stops_before_the_order_returns() {
    let Some(server) = Server::start() else { return };
    let office = server.prepared();
    let policy = sharing(Kind::ToolCalls, 1_000_000, 100_000);
    let proxy = Proxy::to(server.port);
    let near = Member::start("near", server.address("gate"), policy.clone(), Store::default());
    let address = Address::parse(&proxy.url("gate"), None).unwrap();
    let far = Member::start("far", address, policy, Store::default());
    let took = AtomicU64::new(0);
    let late = late(&[&near.gate, &far.gate], 4, 100, Duration::from_millis(800), || {
        proxy.hold();
        let time = office.order(Order::Freeze, &acme(), "me").unwrap();
        took.store(time.as_millis() as u64, Ordering::SeqCst);
    });
    assert_eq!(late, 0);
    let longest = (TERMS.ttl + TERMS.margin * 2).as_millis() as u64;
    let took = took.load(Ordering::SeqCst);
    assert!(took <= longest, "the order took {took} ms; a standing lasts {longest} ms at most");
    assert!(!far.treasury.live(), "it does not know why, but it has stopped");
    proxy.pass();
    far.wait(true);
    let no = far.gate.admit(tool("after", "look", json!({}))).unwrap_err();
    assert_eq!(no.decision.reason.code, ReasonCode::AccountFrozen, "the order came with the standing");
    office.order(Order::Thaw, &acme(), "me").unwrap();
    assert!(far.gate.admit(tool("thawed", "look", json!({}))).is_ok());
    assert!(near.gate.admit(tool("thawed", "look", json!({}))).is_ok());
}

#[test]
fn an_order_given_at_one_gate_is_in_force_at_all_of_them_when_it_returns() {
    let Some(server) = Server::start() else { return };
    server.prepared();
    let policy = sharing(Kind::ToolCalls, 1_000_000, 100);
    let member = |n: usize| Member::start(&format!("g{n}"), server.address("gate"), policy.clone(), Store::default());
    let members = [member(0), member(1), member(2)];
    let gates = [&*members[0].gate, &*members[1].gate, &*members[2].gate];
    let late = late(&gates, 3, 100, Duration::from_millis(400), || {
        assert_eq!(gates[1].order(Order::Freeze, &acme(), "me").unwrap(), Reach::Gates);
    });
    assert_eq!(late, 0);
    assert!(gates.iter().all(|gate| gate.bars().len() == 1));
    assert_eq!(gates[1].order(Order::Freeze, &acme(), "me").unwrap(), Reach::Gates, "again changes nothing");
    assert_eq!(gates[1].order(Order::Thaw, &acme(), "me").unwrap(), Reach::Gates);
    for member in &members {
        assert!(member.gate.bars().is_empty());
        assert!(member.call("thawed", "look", 0).is_ok());
    }
    let no = gates[1].order(Order::Thaw, &acme(), "me").unwrap_err();
    assert!(matches!(no, GateFault::Refused(_)), "{no}");
    assert_eq!(gates[2].order(Order::Revoke, &acme(), "me").unwrap(), Reach::Gates);
    assert!(gates.iter().all(|gate| gate.bars().iter().all(|(_, bar)| bar.revoked)));
}

#[test]
fn a_gate_lets_go_on_only_what_nobody_else_has_stopped() {
    let Some(server) = Server::start() else { return };
    let office = server.prepared();
    let policy = sharing(Kind::ToolCalls, 1_000_000, 100);
    let member = |n: usize| Member::start(&format!("g{n}"), server.address("gate"), policy.clone(), Store::default());
    let members = [member(0), member(1)];
    let refused = |n: usize| {
        let no = members[n].gate.order(Order::Thaw, &acme(), "me").unwrap_err();
        assert!(matches!(no, GateFault::Refused(_)), "{no}");
        assert!(no.to_string().len() < 400);
        assert!(members.iter().all(|member| member.gate.bars().len() == 1));
    };
    office.order(Order::Freeze, &acme(), "me").unwrap();
    refused(0);
    // Not even after an order of its own about the same account.
    members[0].gate.order(Order::Freeze, &acme(), "me").unwrap();
    refused(0);
    office.order(Order::Thaw, &acme(), "me").unwrap();
    assert!(members.iter().all(|member| member.gate.bars().is_empty()));
    // What one gate stopped another does not let go on.
    members[1].gate.order(Order::Freeze, &acme(), "me").unwrap();
    refused(0);
    members[1].gate.order(Order::Thaw, &acme(), "me").unwrap();
    assert!(members.iter().all(|member| member.gate.bars().is_empty()));
    // What only its own journal knows of is its own affair.
    members[0].gate.follow(Order::Freeze, &acme(), "me").unwrap();
    assert_eq!(members[0].gate.order(Order::Thaw, &acme(), "me").unwrap(), Reach::Gates);
    assert!(members[0].gate.bars().is_empty());
    office.order(Order::Revoke, &acme(), "me").unwrap();
    refused(1);
}

#[test]
fn a_gate_that_cannot_tell_the_others_has_stopped_and_says_so() {
    let Some(server) = Server::start() else { return };
    server.prepared();
    let policy = sharing(Kind::ToolCalls, 1_000_000, 100);
    let proxy = Proxy::to(server.port);
    let near = Member::start("near", server.address("gate"), policy.clone(), Store::default());
    let far = Member::start("far", Address::parse(&proxy.url("gate"), None).unwrap(), policy, Store::default());
    proxy.hold();
    let no = far.gate.order(Order::Freeze, &acme(), "me").unwrap_err();
    assert!(matches!(no, GateFault::Alone(_)), "{no}");
    assert!(no.to_string().contains("weir store freeze"), "{no}");
    assert_eq!(far.gate.bars().len(), 1);
    // Until its standing has run out, what was asked for before may still be waited for.
    far.wait(false);
    proxy.pass();
    far.wait(true);
    assert_eq!(far.gate.order(Order::Freeze, &acme(), "me").unwrap(), Reach::Gates, "the same order, once more");
    assert_eq!(near.gate.bars().len(), 1);
    proxy.hold();
    let no = far.gate.order(Order::Thaw, &acme(), "me").unwrap_err();
    assert!(matches!(no, GateFault::Alone(_)), "{no}");
    assert_eq!(far.gate.bars().len(), 1, "what cannot be asked about stays stopped");
}

/// The measure by which others are known: 4 workers, 500 requests a second each, for 3 seconds, 3 times.
#[test]
#[ignore = "nine seconds for each store; the suite has shorter ones, and the bench gives the figures"]
fn nothing_is_accepted_late_in_the_long_run() {
    let time = Duration::from_secs(3);
    let Some(server) = Server::start() else { return };
    let office = server.prepared();
    for run in 0..3 {
        let gate = alone(Box::new(weir::journal::Memory::default()));
        assert_eq!(late(&[&gate], 4, 500, time, || gate.revoke(&acme(), "me").unwrap()), 0, "memory, run {run}");
        #[cfg(feature = "store")]
        {
            let dir = tempfile::tempdir().unwrap();
            let gate = alone(Box::new(weir::journal::Sqlite::open(dir.path(), seal()).unwrap()));
            assert_eq!(late(&[&gate], 4, 500, time, || gate.revoke(&acme(), "me").unwrap()), 0, "disk, run {run}");
        }
        let mut policy = sharing(Kind::ToolCalls, 1_000_000, 100);
        policy.budgets[0].id = format!("run-{run}");
        let member =
            |n: usize| Member::start(&format!("g{run}-{n}"), server.address("gate"), policy.clone(), Store::default());
        let members = [member(0), member(1)];
        let gates = [&*members[0].gate, &*members[1].gate];
        let late = late(&gates, 4, 500, time, || {
            office.order(Order::Freeze, &acme(), "me").unwrap();
        });
        assert_eq!(late, 0, "database, run {run}");
        office.order(Order::Thaw, &acme(), "me").unwrap();
    }
}

#[test]
fn an_order_does_not_wait_for_a_gate_that_has_left() {
    let Some(server) = Server::start() else { return };
    server.prepared();
    let member = Member::start("g", server.address("gate"), sharing(Kind::ToolCalls, 10, 5), Store::default());
    assert!(member.call("a", "look", 0).is_ok());
    drop(member);
    // Whoever had only fallen silent would be waited for as long as this.
    let margin = Duration::from_secs(20);
    let office = Office::open(server.address("boss"), &Terms { margin, ..TERMS }).unwrap();
    let took = office.order(Order::Freeze, &acme(), "me").unwrap();
    assert!(took < margin, "{took:?}");
    assert!(office.gates().unwrap().iter().all(|gate| gate.ends_in_ms < 0));
    office.retire("g", "me").unwrap();
}
