//! Freezing and revoking everywhere: once the order has returned, no gate accepts what it forbids.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use weir::ledger::AccountId;
use weir::model::{Giver, Kind, ReasonCode};
use weir::pdp::Compiled;
use weir::pep::port::{Journal, Nobody, Order, Treasury as _};
use weir::pep::{Gate, GateFault, Reach};
use weir::shared::{Address, Office, Terms};

use super::gates::{Member, Wall, sharing, vanish};
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

/// Two gates, of which the first raises alarms; and what it says of `acme`.
fn two(server: &Server) -> [Member; 2] {
    let policy = sharing(Kind::ToolCalls, 1_000_000, 100);
    ["g0", "g1"].map(|id| Member::start(id, server.address("gate"), policy.clone(), Store::default()))
}

/// The gate stays stopped, and by whom.
fn stopped(member: &Member, call: &str, by: &str) {
    let bars = member.gate.bars();
    assert_eq!(bars.iter().map(|(_, bar)| bar.by.as_str()).collect::<Vec<_>>(), [by]);
    let no = member.gate.admit(tool(call, "look", json!({}))).unwrap_err();
    assert_eq!(no.decision.reason.code, ReasonCode::AccountFrozen);
}

#[test]
fn a_gate_that_freezes_and_thaws_does_not_lift_what_another_has_stopped_for_itself() {
    let Some(server) = Server::start() else { return };
    let office = server.prepared();
    let [own, other] = two(&server);
    // As an alarm of telemetry does it.
    own.gate.freeze(&acme(), "alarm").unwrap();
    for round in 0..2 {
        assert_eq!(other.gate.order(Order::Freeze, &acme(), "them").unwrap(), Reach::Gates);
        assert_eq!(other.gate.order(Order::Thaw, &acme(), "them").unwrap(), Reach::Gates);
        assert!(other.gate.bars().is_empty());
        stopped(&own, &format!("after-{round}"), "alarm");
    }
    // It may even speak in the name of the gate whose alarm it was, which it knows from the database.
    let epoch = server.sql("admin", "SELECT epoch FROM weir.gates WHERE gate = 'g0'");
    for (number, what) in (5..).zip(["freeze", "thaw"]) {
        let sql = format!("SELECT * FROM weir.order_from('g0', {epoch}, '{what}', 'acme', 'them')");
        assert_eq!(server.sql("gate", &sql), format!("|{number}"));
    }
    let followed = || office.gates().unwrap().iter().all(|gate| gate.acked == 6);
    let end = Instant::now() + Duration::from_secs(20);
    while !followed() {
        assert!(Instant::now() < end, "{:?}", office.gates());
        std::thread::sleep(Duration::from_millis(5));
    }
    stopped(&own, "after-forged", "alarm");
    assert!(own.treasury.live(), "it has followed, and goes on with everything else");
}

#[test]
fn an_alarm_while_an_order_stands_outlives_that_order() {
    let Some(server) = Server::start() else { return };
    server.prepared();
    let [own, other] = two(&server);
    other.gate.order(Order::Freeze, &acme(), "them").unwrap();
    own.gate.freeze(&acme(), "alarm").unwrap();
    let entries = own.gate.entries();
    own.gate.freeze(&acme(), "alarm").unwrap();
    assert_eq!(own.gate.entries(), entries, "once is enough");
    other.gate.order(Order::Thaw, &acme(), "them").unwrap();
    stopped(&own, "after", "alarm");
    assert!(other.call("after", "look", 0).is_ok());
}

#[test]
fn the_office_lifts_what_a_gate_has_stopped_for_itself() {
    let Some(server) = Server::start() else { return };
    let office = server.prepared();
    let [own, other] = two(&server);
    own.gate.freeze(&acme(), "alarm").unwrap();
    other.gate.order(Order::Freeze, &acme(), "them").unwrap();
    office.order(Order::Thaw, &acme(), "boss").unwrap();
    for member in [&own, &other] {
        assert!(member.gate.bars().is_empty());
        assert!(member.call("after", "look", 0).is_ok());
    }
    // A revocation that a gate made for itself is for good, whoever asks.
    own.gate.revoke(&acme(), "alarm").unwrap();
    office.order(Order::Freeze, &acme(), "boss").unwrap();
    office.order(Order::Thaw, &acme(), "boss").unwrap();
    assert!(other.call("later", "look", 0).is_ok());
    assert!(own.gate.bars().iter().all(|(_, bar)| bar.revoked && bar.by == "alarm"));
    assert_eq!(own.gate.bars().len(), 1);
}

#[test]
fn a_gates_own_operator_lifts_what_it_has_stopped_for_itself_and_no_more() {
    let Some(server) = Server::start() else { return };
    server.prepared();
    let [own, other] = two(&server);
    own.gate.freeze(&acme(), "alarm").unwrap();
    other.gate.order(Order::Freeze, &acme(), "them").unwrap();
    other.gate.order(Order::Thaw, &acme(), "them").unwrap();
    stopped(&own, "before", "alarm");
    assert_eq!(own.gate.order(Order::Thaw, &acme(), "me").unwrap(), Reach::Gates);
    assert!(own.gate.bars().is_empty());
    assert!(own.call("after", "look", 0).is_ok());
    // An order of its own that went round and an alarm besides: one thaw, at itself, ends both.
    own.gate.order(Order::Freeze, &acme(), "me").unwrap();
    own.gate.freeze(&acme(), "alarm").unwrap();
    assert_eq!(own.gate.order(Order::Thaw, &acme(), "me").unwrap(), Reach::Gates);
    assert!(own.gate.bars().is_empty() && other.gate.bars().is_empty());
    // An order that arrives while the operator's thaw is under way stays.
    own.gate.freeze(&acme(), "alarm").unwrap();
    own.gate.heed(Order::Freeze, &acme(), "boss", &Giver::Office).unwrap();
    assert_eq!(own.gate.order(Order::Thaw, &acme(), "me").unwrap(), Reach::Gates);
    stopped(&own, "ordered", "boss");
    let no = own.gate.order(Order::Thaw, &acme(), "me").unwrap_err();
    assert!(matches!(no, GateFault::Refused(_)), "{no}");
    stopped(&own, "ordered-still", "boss");
}

#[test]
fn an_order_that_could_not_go_round_is_lifted_by_no_other_gate() {
    let Some(server) = Server::start() else { return };
    server.prepared();
    let policy = sharing(Kind::ToolCalls, 1_000_000, 100);
    let proxy = Proxy::to(server.port);
    let near = Member::start("near", server.address("gate"), policy.clone(), Store::default());
    let far = Member::start("far", Address::parse(&proxy.url("gate"), None).unwrap(), policy, Store::default());
    proxy.cut();
    // By then nothing is on its way any more.
    far.wait(false);
    let no = far.gate.order(Order::Freeze, &acme(), "me").unwrap_err();
    assert!(matches!(no, GateFault::Alone(_)), "{no}");
    proxy.pass();
    far.wait(true);
    assert!(near.gate.bars().is_empty(), "it did not go round");
    near.gate.order(Order::Freeze, &acme(), "them").unwrap();
    near.gate.order(Order::Thaw, &acme(), "them").unwrap();
    stopped(&far, "after", "me");
    assert_eq!(far.gate.order(Order::Thaw, &acme(), "me").unwrap(), Reach::Gates);
    assert!(far.gate.bars().is_empty());
}

/// With the journal read from its start, and from a snapshot of every moment.
#[test]
fn a_gate_that_was_killed_knows_what_it_has_stopped_for_itself() {
    let Some(server) = Server::start() else { return };
    let office = server.prepared();
    let policy = sharing(Kind::ToolCalls, 1_000_000, 100);
    let other = Member::start("other", server.address("gate"), policy.clone(), Store::default());
    for every in [0, 1] {
        let id = format!("own-{every}");
        let start = |store| Member::start(&id, server.address("gate"), policy.clone(), store);
        let store = Store::default();
        store.snapshots_every(every);
        let own = start(store);
        own.gate.freeze(&acme(), "alarm").unwrap();
        other.gate.order(Order::Freeze, &acme(), "them").unwrap();
        let before = own.gate.bars();
        let own = start(vanish(own));
        assert_eq!(own.store.snapshots() > 0, every > 0);
        assert_eq!(own.gate.bars(), before);
        other.gate.order(Order::Thaw, &acme(), "them").unwrap();
        stopped(&own, "after", "alarm");
        let own = start(vanish(own));
        stopped(&own, "restarted", "alarm");
        other.gate.order(Order::Freeze, &acme(), "them").unwrap();
        other.gate.order(Order::Thaw, &acme(), "them").unwrap();
        stopped(&own, "again", "alarm");
        if every == 0 {
            office.order(Order::Thaw, &acme(), "boss").unwrap();
        } else {
            own.gate.order(Order::Thaw, &acme(), "me").unwrap();
        }
        let own = start(vanish(own));
        assert!(own.gate.bars().is_empty(), "what was lifted is lifted after the next one too");
        assert!(own.call("thawed", "look", 0).is_ok());
    }
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
