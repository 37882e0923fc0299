//! How fast budgets and the journal are: reserve+settle in memory and durable, beside check-then-add and Redis.
//!
//! `cargo bench --no-default-features --features store --bench ledger [-- seconds]`
//! `cargo bench --no-default-features --features store --bench ledger -- startup [pairs]`
//!
//! A durable pair is what one call costs: reserve, intent on disk, settle, outcome on disk. Waiters
//! are threads with one call each in flight. The baseline is what gateways without a ledger do:
//! read the sum, compare, add, one SQLite transaction for each step, one after the other. Redis, where
//! there is a `redis-server`, does the ledger's arithmetic in a script, without a record.
//! CPU time is the process's own, from /proc: it says what a pair costs when others use the machine; that of
//! the Redis server is not in it.

mod redis;
mod startup;

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use weir::audit::{Body, BodyText, Chain, Head, Key, OutcomeEntry, Receipt, ReceiptParts};
use weir::journal::{Seal, Sqlite};
use weir::ledger::{Ledger, Limit, Tier};
use weir::model::{
    Action, Amounts, Call, Decision, Digest, Effect, Evidence, Happened, Kind, Name, Reason, ReasonCode, Resource,
    Status, Subject, Timestamp, Window, canonical,
};
use weir::pep::port::{Journal as _, Ticket};

fn main() {
    let mut words = std::env::args().skip_while(|word| word != "startup");
    if words.next().is_some() {
        return startup::run(words.find_map(|word| word.parse().ok()).unwrap_or(500_000));
    }
    let seconds = std::env::args().filter_map(|arg| arg.parse().ok()).next().unwrap_or(2.0);
    let time = Duration::from_secs_f64(seconds);
    steps(time);
    println!(
        "\n| store | receipts | waiters | pairs/s | p50 us | p99 us | CPU us/pair |\n|---|---|--:|--:|--:|--:|--:|"
    );
    for fsync in [true, false] {
        baseline(fsync, time);
        redis_rows(fsync, time);
        for signed in [false, true] {
            for waiters in [1, 8, 64, 1000] {
                durable(fsync, signed, waiters, time);
            }
        }
    }
}

fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

fn key() -> Key {
    Key::from_seed(&[7; 32])
}

fn limits() -> Vec<Limit> {
    let limit =
        |tier, kind| Limit { id: "bench".into(), tier, kind, limit: u64::MAX, window: Window::Total, shared: false };
    vec![
        limit(Tier::Org, Kind::MicroUsd),
        limit(Tier::Agent, Kind::MicroUsd),
        limit(Tier::Session, Kind::Calls),
        limit(Tier::Run, Kind::ToolCalls),
    ]
}

fn call(number: u64) -> Call {
    let args = serde_json::json!({"path": "/data/report.csv", "query": "the revenue of the last quarter", "limit": 20});
    Call {
        id: name(&format!("c-{number:016x}")),
        subject: Subject {
            org: name("acme"),
            agent: name("coder"),
            session: name("s-5f2c1e"),
            run: name("r-1"),
            delegation: vec![],
            project: None,
        },
        action: Action::ToolCall,
        resource: Resource::named(name("web_search")),
        args: args.as_object().expect("an object").clone(),
        parent: None,
        surface: name("http"),
    }
}

fn held() -> Amounts {
    Amounts::ZERO.with(Kind::Calls, 1).with(Kind::ToolCalls, 1).with(Kind::MicroUsd, 900)
}

fn used() -> Amounts {
    held().with(Kind::MicroUsd, 700)
}

fn decision() -> Decision {
    Decision {
        effect: Effect::Allow,
        reason: Reason::new(ReasonCode::Allowed, "").by("search-the-web", &[]),
        obligations: vec![],
        reserve: held(),
        grant: None,
        exec: None,
        policy: Digest::of(b"policy"),
    }
}

fn receipt(call: &Call, intent: Digest, key: &Key) -> Receipt {
    let parts = ReceiptParts {
        call,
        args: None,
        decision: &decision(),
        policy: &name("bench"),
        intent: Some(intent),
        approval: None,
        status: Some(Status::Done),
        usage: used(),
        result: Some(Digest::of(b"result")),
        files: &[],
        tape: None,
        at: Timestamp(1_772_366_400_000),
    };
    Receipt::sign(&parts, key)
}

fn outcome(call: &Call, receipt: Receipt) -> Body {
    let evidence = Evidence {
        session: call.subject.session.clone(),
        at: Timestamp(1_772_366_400_000),
        action: call.action,
        effect: None,
        resource: call.resource.name.clone(),
        happened: Happened::Executed,
        labels: vec![],
        action_digest: call.digest(),
        input_digest: Digest::ZERO,
        delegation: 0,
        protected_path: false,
        earlier_state: false,
        traceable: true,
    };
    Body::Outcome(Box::new(OutcomeEntry { call: call.id.clone(), posted: used(), labels: vec![], evidence, receipt }))
}

/// Single steps on one thread: where a pair's time goes.
fn steps(time: Duration) {
    println!("| step, one thread | CPU ns |\n|---|--:|");
    let (limits, calls): (_, Vec<Call>) = (limits(), (0..200_000).map(call).collect());
    let mut ledger = Ledger::default();
    let start = thread_cpu();
    for call in &calls {
        ledger.reserve(&call.id, &call.subject, held(), &limits, Timestamp(1)).expect("no limit");
        ledger.settle(&call.id, used(), Timestamp(1)).expect("it holds");
    }
    report("reserve + settle in memory", start, calls.len());

    let (key, one) = (key(), call(1));
    let body = Body::intent(&one, Digest::ZERO, held(), None);
    let signed = receipt(&one, Digest::ZERO, &key);
    let done = outcome(&one, signed.clone());
    each("make an intent", time, || drop(Body::intent(&one, Digest::ZERO, held(), None)));
    each("sign a receipt", time, || drop(receipt(&one, Digest::ZERO, &key)));
    each("canonical intent", time, || drop(canonical(&body)));
    each("canonical outcome", time, || drop(canonical(&done)));
    each("Ed25519 signature alone", time, || drop(key.sign(&[7; 800])));
    let mut chain = Chain::default();
    each("make an outcome", time, || drop(outcome(&one, signed.clone())));
    let text = BodyText::from(&done);
    each("append an outcome's text to the chain", time, || drop(chain.append(Timestamp(1), text.clone())));
    println!("| (bytes of an intent / an outcome) | {} / {} |", canonical(&body).len(), canonical(&done).len());
}

fn each(what: &str, time: Duration, mut step: impl FnMut()) {
    let (begin, start, mut count) = (Instant::now(), thread_cpu(), 0);
    while begin.elapsed() < time / 8 {
        (0..100).for_each(|_| step());
        count += 100;
    }
    report(what, start, count);
}

fn report(what: &str, start: Duration, count: usize) {
    println!("| {what} | {} |", (thread_cpu() - start).as_nanos() / count as u128);
}

/// Time that this thread has run.
fn thread_cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    Duration::from_nanos(text.split(' ').next().and_then(|ns| ns.parse().ok()).expect("a number"))
}

/// Time that all threads of this process have run, in steps of 10 ms.
fn process_cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let fields = text.rsplit(')').next().expect("a name in brackets").split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("a number")).sum();
    Duration::from_millis(ticks * 10)
}

/// What waiters share, as in a gate: one lock around books and chain, entries handed over in order.
struct Gate {
    line: Mutex<(Ledger, Chain)>,
    store: Sqlite,
    key: Key,
    signed: Option<Receipt>,
    limits: Vec<Limit>,
    calls: AtomicU64,
}

impl Gate {
    fn pair(&self) {
        let call = call(self.calls.fetch_add(1, Ordering::Relaxed));
        let body = BodyText::from(Body::intent(&call, Digest::ZERO, held(), None));
        let (intent, ticket) = {
            let (ledger, chain) = &mut *self.line.lock().expect("no panic");
            ledger.reserve(&call.id, &call.subject, held(), &self.limits, Timestamp(1)).expect("no limit");
            self.append(chain, body)
        };
        ticket.wait().expect("durable");
        let receipt = self.signed.clone().unwrap_or_else(|| receipt(&call, intent, &self.key));
        let body = BodyText::from(outcome(&call, receipt));
        let ticket = {
            let (ledger, chain) = &mut *self.line.lock().expect("no panic");
            ledger.settle(&call.id, used(), Timestamp(1)).expect("it holds");
            self.append(chain, body).1
        };
        ticket.wait().expect("durable");
    }

    fn append(&self, chain: &mut Chain, body: BodyText) -> (Digest, Ticket) {
        let sealed = chain.append(Timestamp(1_772_366_400_000), body);
        (sealed.hash, self.store.append(sealed))
    }
}

fn durable(fsync: bool, signed: bool, waiters: usize, time: Duration) {
    let dir = tempfile::tempdir().expect("a folder");
    let seal: Seal = Box::new(|count, hash| Head::sign(count, hash, &key()));
    let store = if fsync { Sqlite::open(dir.path(), seal) } else { Sqlite::dangerous_no_fsync(dir.path(), seal) };
    let gate = Gate {
        line: Mutex::default(),
        store: store.expect("a store"),
        key: key(),
        signed: (!signed).then(|| receipt(&call(0), Digest::ZERO, &key())),
        limits: limits(),
        calls: AtomicU64::new(0),
    };
    let measured = measure(waiters, time, || gate.pair());
    print_row(fsync, if signed { "signed" } else { "unsigned" }, waiters, measured);
}

/// What a run of steps gave.
struct Measured {
    /// Latency of each step, shortest first.
    sorted: Vec<Duration>,
    /// Time from the first to the last.
    took: Duration,
    /// Time that the process ran meanwhile.
    cpu: Duration,
}

fn measure(waiters: usize, time: Duration, step: impl Fn() + Sync) -> Measured {
    measure_with(waiters, time, || (), |()| step())
}

/// The same with something of its own for each waiter.
fn measure_with<S>(
    waiters: usize,
    time: Duration,
    make: impl Fn() -> S + Sync,
    step: impl Fn(&mut S) + Sync,
) -> Measured {
    let cpu = process_cpu();
    let all = Mutex::new(Vec::new());
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..waiters {
            std::thread::Builder::new()
                .stack_size(256 << 10)
                .spawn_scoped(scope, || {
                    let (mut mine, mut own) = (Vec::new(), make());
                    while start.elapsed() < time {
                        let begin = Instant::now();
                        step(&mut own);
                        mine.push(begin.elapsed());
                    }
                    all.lock().expect("no panic").append(&mut mine);
                })
                .expect("a thread");
        }
    });
    let (took, cpu) = (start.elapsed(), process_cpu() - cpu);
    let mut sorted = all.into_inner().expect("no panic");
    sorted.sort_unstable();
    Measured { sorted, took, cpu }
}

fn print_row(fsync: bool, what: &str, waiters: usize, measured: Measured) {
    let Measured { sorted, took, cpu } = measured;
    let at = |percent: usize| sorted.get(sorted.len() * percent / 100).map_or(0, Duration::as_micros);
    let rate = sorted.len() as f64 / took.as_secs_f64();
    let store = if fsync { "fsync" } else { "no fsync" };
    let cost = cpu.as_micros() / sorted.len().max(1) as u128;
    println!("| {store} | {what} | {waiters} | {rate:.0} | {} | {} | {cost} |", at(50), at(99));
}

fn baseline(fsync: bool, time: Duration) {
    let dir = tempfile::tempdir().expect("a folder");
    let store = Mutex::new(check_then_add(dir.path(), fsync).expect("a store"));
    let step = || {
        let store = store.lock().expect("no panic");
        for amount in [900, -200] {
            let spent: i64 = store.query_row("SELECT spent FROM account", [], |row| row.get(0)).expect("a row");
            assert!(spent < i64::MAX - 900);
            store.execute("UPDATE account SET spent = spent + ?1", [amount]).expect("an update");
        }
    };
    print_row(fsync, "none: check-then-add", 1, measure(1, time, step));
}

fn redis_rows(fsync: bool, time: Duration) {
    let dir = tempfile::tempdir().expect("a folder");
    let Some(server) = redis::Server::start(dir.path(), fsync) else {
        return println!("| (no redis-server here: Debian's package is `redis-server`) | | | | | | |");
    };
    let calls = AtomicU64::new(0);
    for waiters in [1, 8, 64, 1000] {
        let step = |client: &mut redis::Client| {
            client.pair(&format!("c-{:016x}", calls.fetch_add(1, Ordering::Relaxed)));
        };
        print_row(fsync, "none: Redis", waiters, measure_with(waiters, time, || server.client(), step));
    }
}

fn check_then_add(dir: &Path, fsync: bool) -> rusqlite::Result<rusqlite::Connection> {
    let store = rusqlite::Connection::open(dir.join("baseline.db"))?;
    store.pragma_update(None, "journal_mode", "WAL")?;
    store.pragma_update(None, "synchronous", if fsync { "FULL" } else { "OFF" })?;
    store.execute_batch("CREATE TABLE account (spent INTEGER NOT NULL) STRICT; INSERT INTO account VALUES (0);")?;
    Ok(store)
}
