//! How long a gate takes to open a store with a long history: from a snapshot, and from the first entry.
//!
//! The history is made by a real gate, two entries a call, over a thousand runs in a hundred sessions.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use weir::audit::Head;
use weir::journal::{FILE, Seal, Sqlite, check};
use weir::model::{CallId, Millis, Outcome, Status, Timestamp};
use weir::pdp::Compiled;
use weir::pep::port::{Clock, Executor, Inner, Journal as _, Nobody, ToolHost, ToolSpec};
use weir::pep::{Durable, Gate, Reserved};

use super::{call, key, name};

const POLICY: &str = r#"
[policy]
id = "bench"

[[tool]]
name = "web_search"
effect = "read"
extra_args = true
answers = ["L3/tool-misuse"]

[[budget]]
id = "calls"
scope = "org"
kind = "calls"
limit = 100000000
answers = ["L4/resource-hijacking"]

[[rule]]
id = "search"
effect = "allow"
actions = ["tool.call"]
resources = ["web_search"]
answers = ["L3/tool-misuse"]
reason = "bench"
"#;

struct Ticks(AtomicU64);

impl Clock for Ticks {
    fn now(&self) -> Timestamp {
        Timestamp(1_772_366_400_000 + self.0.fetch_add(1, Ordering::Relaxed))
    }
}

struct Nothing;

impl Executor for Nothing {
    fn execute(&self, _: &Durable<Reserved>, _: &dyn Inner) -> Outcome {
        Outcome::of(Status::Done)
    }
}

impl ToolHost for Nothing {
    fn tools(&self) -> Vec<ToolSpec> {
        Vec::new()
    }

    fn call(&self, _: &CallId, _: &str, _: &serde_json::Map<String, serde_json::Value>, _: Millis) -> Outcome {
        Outcome::of(Status::Done)
    }
}

fn seal() -> Seal {
    Box::new(|count, hash| Head::sign(count, hash, &key()))
}

fn open(dir: &Path, every: Option<u64>) -> Gate {
    let policy = weir::policy::parse(POLICY.as_bytes(), "bench.toml").unwrap_or_else(|faults| panic!("{faults}"));
    let policy: Arc<Compiled> = Compiled::new(policy).unwrap_or_else(|faults| panic!("{faults}"));
    let mut store = Sqlite::dangerous_no_fsync(dir, seal()).expect("a store");
    if let Some(every) = every {
        store = store.snapshots_every(every);
    }
    let clock = Box::new(Ticks(AtomicU64::new(1)));
    Gate::open(policy, Box::new(store), clock, Box::new(Nobody), key()).expect("a gate")
}

/// Runs `pairs` calls on 64 threads; how long each took, shortest first.
fn write(gate: &Gate, pairs: u64) -> Vec<Duration> {
    let (next, all) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    let calls = || {
        let mut mine = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= pairs {
                return all.lock().expect("no panic").append(&mut mine);
            }
            let mut call = call(number);
            call.subject.session = name(&format!("s-{}", number % 100));
            call.subject.run = name(&format!("r-{}", number % 1_000));
            let begin = Instant::now();
            assert!(gate.handle(call, &Nothing, &Nothing).ran());
            mine.push(begin.elapsed());
        }
    };
    std::thread::scope(|scope| (0..64).for_each(|_| drop(scope.spawn(calls))));
    let mut all = all.into_inner().expect("no panic");
    all.sort_unstable();
    all
}

/// Memory that this process holds, in MiB.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    text.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).expect("a number") / 256
}

/// Prints how long `run` takes: the median and the longest of as many `times`.
fn time<T>(what: &str, times: usize, run: impl Fn() -> T) {
    let mut took: Vec<Duration> = Vec::new();
    for _ in 0..times {
        let begin = Instant::now();
        let made = run();
        took.push(begin.elapsed());
        drop(made);
    }
    took.sort_unstable();
    let ms = |at: usize| took[at].as_secs_f64() * 1e3;
    println!("| {what} | {times} | {:.0} ms | {:.0} ms |", ms(times / 2), ms(times - 1));
}

/// Writes `pairs` calls and opens the store again and again.
pub fn run(pairs: u64) {
    let dir = tempfile::tempdir().expect("a folder");
    let begin = Instant::now();
    let gate = open(dir.path(), None);
    let sorted = write(&gate, pairs);
    let (entries, took) = (gate.entries(), begin.elapsed());
    drop(gate);
    let mib = std::fs::metadata(dir.path().join(FILE)).expect("a file").len() >> 20;
    let at = |part: f64| sorted[((sorted.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e3;
    println!("{entries} entries written in {:.1} s, {mib} MiB, {} MiB in memory", took.as_secs_f64(), resident());
    println!(
        "calls of 64 threads: p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms, longest {:.2} ms\n",
        at(0.5),
        at(0.99),
        at(0.999),
        at(1.0)
    );
    let store = Sqlite::dangerous_no_fsync(dir.path(), seal()).expect("a store");
    let kept = store.snapshot(0).expect("read").expect("a snapshot");
    let before = store.snapshot(1).expect("read").expect("another snapshot");
    println!("snapshot: {} KiB and {} KiB of prints\n", kept.text.len() >> 10, kept.prints.len() >> 10);
    drop(store);
    println!("| start with {entries} entries | times | median | longest |\n|---|--:|--:|--:|");
    time("newest snapshot", 5, || open(dir.path(), Some(u64::MAX)));
    let sql = rusqlite::Connection::open(dir.path().join(FILE)).expect("a file");
    time("all checked: `weir store check`", 1, || check(dir.path(), &key().public(), None).expect("a store"));
    sql.execute_batch("DELETE FROM snapshots WHERE count = (SELECT max(count) FROM snapshots)").expect("deleted");
    let rest = format!("the snapshot before it and {} entries: a killed gate", entries - before.count);
    time(&rest, 5, || open(dir.path(), Some(u64::MAX)));
    sql.execute_batch("DELETE FROM snapshots").expect("deleted");
    drop(sql);
    time("every entry (no snapshot)", 1, || open(dir.path(), Some(u64::MAX)));
}
