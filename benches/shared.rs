//! How fast several gates spend one budget on one PostgreSQL, with and without leases; and how soon an order to all of
//! them is in force.
//!
//! `cargo bench --no-default-features --features store,shared --bench shared [-- seconds]`
//!
//! Everything is on this machine: the database with its default `fsync`, the gates in one process with journals in memory,
//! so that what is seen is the sharing and not the journal. A pair is one call: admitted and completed.

#[path = "../tests/shared/server.rs"]
#[allow(dead_code, reason = "tests use more of it")]
mod server;
#[path = "../tests/support/mod.rs"]
mod support;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use serde_json::json;
use server::Server;
use support::policy::{budget, busy};
use support::{key, name, tool};
use weir::journal::Memory;
use weir::model::{Effect, Kind, Outcome, Status, Timestamp};
use weir::pdp::Compiled;
use weir::pep::Gate;
use weir::pep::port::{AccountId, Clock, Nobody, Order, Treasury as _};
use weir::policy::{Budget, Lease, Policy, Scope};
use weir::shared::{Keeper, Office, Postgres, Terms};

struct Wall;

impl Clock for Wall {
    fn now(&self) -> Timestamp {
        let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        Timestamp(since.as_millis() as u64)
    }
}

fn main() {
    let seconds = std::env::args().filter_map(|arg| arg.parse().ok()).next().unwrap_or(3.0);
    let time = Duration::from_secs_f64(seconds);
    let Some(server) = Server::start() else { return };
    let office = server.prepared();
    println!("| gates | lease | workers | pairs/s | p50 us | p99 us | draws |\n|--:|--:|--:|--:|--:|--:|--:|");
    for gates in [1, 2, 4] {
        for lease in [None, Some(0), Some(100), Some(10_000)] {
            for workers in [1, 16] {
                pairs(&server, gates, lease, workers, time);
            }
        }
    }
    println!("\n| order to | gates | rounds | p50 ms | p99 ms |\n|---|--:|--:|--:|--:|");
    for gates in [1, 2, 4] {
        orders(&server, &office, gates);
    }
    println!(
        "\n| late accepts after a freeze | gates | workers x rate x time x runs | accepted before | late |\n|---|--:|---|--:|--:|"
    );
    late(&server, &office, 2, time);
}

struct Member {
    gate: Arc<Gate>,
    _keeper: Keeper,
}

fn policy(id: &str, lease: Option<u64>) -> Policy {
    let limit = i64::MAX as u64;
    let one = budget(id, Scope::Org, Kind::ToolCalls, limit, Effect::Deny);
    let mut policy = Policy { budgets: vec![Budget { shared: lease.map(Lease), ..one }], ..busy() };
    policy.rules.retain(|rule| rule.id != "tired");
    policy
}

fn members(server: &Server, count: usize, lease: Option<u64>) -> Vec<Member> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let round = NUMBER.fetch_add(1, Ordering::SeqCst);
    (0..count)
        .map(|n| member(server, &format!("gate-{round}-{n}"), policy(&format!("budget-{round}"), lease)))
        .collect()
}

fn member(server: &Server, id: &str, policy: Policy) -> Member {
    let (bell, rings) = mpsc::channel();
    let treasury = Postgres::open(server.address("gate"), &name(id), Terms::default(), Some(bell)).unwrap();
    let treasury = Arc::new(treasury);
    let policy = Compiled::new(policy).unwrap();
    let gate = Gate::open(policy, Box::new(Memory::default()), Box::new(Wall), Box::new(Nobody), key()).unwrap();
    let gate = Arc::new(gate.with_treasury(treasury.clone()));
    let keeper = Keeper::start(gate.clone(), treasury.clone(), rings).unwrap();
    while !treasury.live() {
        std::thread::sleep(Duration::from_millis(1));
    }
    Member { gate, _keeper: keeper }
}

fn draws(server: &Server) -> u64 {
    server.sql("admin", "SELECT coalesce(sum(seq), 0) FROM weir.shares").parse().unwrap()
}

fn pairs(server: &Server, gates: usize, lease: Option<u64>, workers: usize, time: Duration) {
    let members = members(server, gates, lease);
    let (stop, all) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    let before = draws(server);
    std::thread::scope(|scope| {
        for worker in 0..workers * gates {
            let (member, stop, all) = (&members[worker % gates], &stop, &all);
            scope.spawn(move || {
                let mut own = Vec::new();
                for number in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let began = Instant::now();
                    let work = member.gate.admit(tool(&format!("c{worker}-{number}"), "look", json!({}))).unwrap();
                    let _ = member.gate.complete(work, Outcome::of(Status::Done));
                    own.push(began.elapsed());
                }
                all.lock().unwrap().append(&mut own);
            });
        }
        std::thread::sleep(time);
        stop.store(true, Ordering::Relaxed);
    });
    let mut all = all.into_inner().unwrap();
    all.sort_unstable();
    let rate = all.len() as f64 / time.as_secs_f64();
    let (p50, p99) = (at(&all, 50).as_micros(), at(&all, 99).as_micros());
    let lease = lease.map_or("not shared".to_owned(), |lease| lease.to_string());
    let draws = draws(server) - before;
    println!("| {gates} | {lease} | {} | {rate:.0} | {p50} | {p99} | {draws} |", workers * gates);
}

fn at(sorted: &[Duration], percent: usize) -> Duration {
    sorted.get(sorted.len() * percent / 100).copied().unwrap_or_default()
}

fn acme() -> AccountId {
    AccountId::parse("acme").unwrap()
}

fn orders(server: &Server, office: &Office, gates: usize) {
    let _members = members(server, gates, Some(100));
    let rounds = 100;
    let mut took: Vec<Duration> = (0..rounds)
        .map(|round| office.order(if round % 2 == 0 { Order::Freeze } else { Order::Thaw }, &acme(), "bench").unwrap())
        .collect();
    took.sort_unstable();
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    println!("| freeze or thaw | {gates} | {rounds} | {:.1} | {:.1} |", ms(at(&took, 50)), ms(at(&took, 99)));
}

fn late(server: &Server, office: &Office, gates: usize, time: Duration) {
    let (mut before, mut after) = (0, 0);
    for _ in 0..3 {
        let members = members(server, gates, Some(100));
        let (stop, accepted) = (AtomicBool::new(false), Mutex::new(Vec::new()));
        let returned = Mutex::new(Instant::now());
        std::thread::scope(|scope| {
            for worker in 0..4 {
                let (gate, stop, accepted) = (&members[worker % gates].gate, &stop, &accepted);
                scope.spawn(move || {
                    let mut next = Instant::now();
                    for number in 0.. {
                        if stop.load(Ordering::SeqCst) {
                            return;
                        }
                        let began = Instant::now();
                        if gate.admit(tool(&format!("l{worker}-{number}"), "look", json!({}))).is_ok() {
                            accepted.lock().unwrap().push(began);
                        }
                        next += Duration::from_millis(2);
                        std::thread::sleep(next.saturating_duration_since(Instant::now()));
                    }
                });
            }
            std::thread::sleep(time / 2);
            office.order(Order::Freeze, &acme(), "bench").unwrap();
            *returned.lock().unwrap() = Instant::now();
            std::thread::sleep(time / 2);
            stop.store(true, Ordering::SeqCst);
        });
        office.order(Order::Thaw, &acme(), "bench").unwrap();
        let returned = returned.into_inner().unwrap();
        let accepted = accepted.into_inner().unwrap();
        let late = accepted.iter().filter(|began| **began > returned).count();
        before += accepted.len() - late;
        after += late;
    }
    println!("| PostgreSQL | {gates} | 4 x 500/s x {:.0} s x 3 | {before} | {after} |", time.as_secs_f64());
}
