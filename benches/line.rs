//! The whole line around an executor that does nothing, and its parts: what the gate adds to a call.
//!
//! `cargo bench --no-default-features --bench line`

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Instant;

use serde_json::{Map, Value, json};
use weir::audit::Key;
use weir::journal::Memory;
use weir::ledger::{Ledger, Limit, Tier};
use weir::model::{
    Action, Amounts, Call, CallId, Kind, Millis, Name, Outcome, Resource, Status, Subject, Timestamp, Window,
};
use weir::pdp::Compiled;
use weir::pep::port::{Clock, Executor, Inner, Nobody, ToolHost, ToolSpec};
use weir::pep::{Durable, Gate, Reserved};
use weir::policy;

const POLICY: &str = r#"
[policy]
id = "bench"

[labels]
names = ["untrusted"]

[[tool]]
name = "look"
effect = "read"
answers = ["L3/tool-misuse"]
[tool.args.q]
type = "string"
max_len = 100
[tool.args.n]
type = "integer"
max = 100

[[budget]]
id = "calls"
scope = "org"
kind = "calls"
limit = 100000000
answers = ["L4/resource-hijacking"]

[[budget]]
id = "tools"
scope = "session"
kind = "tool_calls"
limit = 100000000
answers = ["L4/resource-hijacking"]

[[rule]]
id = "look"
effect = "allow"
actions = ["tool.call"]
resources = ["look"]
answers = ["L3/tool-misuse"]
reason = "bench"

[[rule]]
id = "big"
effect = "deny"
actions = ["tool.call"]
resources = ["look"]
when = '''context.args has n && context.args.n > 90'''
answers = ["L3/tool-misuse"]
reason = "bench"

[[rule]]
id = "tainted"
effect = "ask"
actions = ["tool.call"]
resources = ["look"]
when = '''context.labels.contains("untrusted")'''
answers = ["L3/tool-misuse"]
reason = "bench"
"#;

struct Ticks(AtomicU64);

impl Clock for Ticks {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.fetch_add(1, Ordering::Relaxed))
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

    fn call(&self, _: &CallId, _: &str, _: &Map<String, Value>, _: Millis) -> Outcome {
        Outcome::of(Status::Done)
    }
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn gate() -> Gate {
    let policy = policy::parse(POLICY.as_bytes(), "bench.toml").unwrap_or_else(|faults| panic!("{faults}"));
    let policy = Compiled::new(policy).unwrap_or_else(|faults| panic!("{faults}"));
    let clock = Box::new(Ticks(AtomicU64::new(1)));
    Gate::open(policy, Box::new(Memory::default()), clock, Box::new(Nobody), Key::from_seed(&[1; 32])).unwrap()
}

fn subject(session: usize) -> Subject {
    let session = name(&format!("s{session}"));
    Subject { org: name("org"), agent: name("agent"), session, run: name("run"), delegation: Vec::new(), project: None }
}

fn call(thread: usize, number: usize, tool: &str) -> Call {
    let args = json!({"n": 7, "q": "weather in the north"});
    Call {
        id: name(&format!("c-{thread}-{number}")),
        subject: subject(thread),
        action: Action::ToolCall,
        resource: Resource::named(name(tool)),
        args: args.as_object().cloned().unwrap_or_default(),
        parent: None,
        surface: name("bench"),
    }
}

struct Row {
    p50: f64,
    p99: f64,
    rate: f64,
}

/// Times each of `rounds` runs on each of `threads` threads.
fn measure<T: Send>(
    threads: usize,
    rounds: usize,
    make: impl Fn(usize, usize) -> T + Sync,
    work: impl Fn(T) + Sync,
) -> Row {
    let barrier = Barrier::new(threads);
    let (barrier, make, work) = (&barrier, &make, &work);
    let mut times: Vec<u128> = Vec::new();
    let mut longest = 0.0_f64;
    std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads)
            .map(|thread| {
                scope.spawn(move || {
                    let warm: Vec<T> = (0..rounds / 10).map(|number| make(thread, rounds + number)).collect();
                    let items: Vec<T> = (0..rounds).map(|number| make(thread, number)).collect();
                    warm.into_iter().for_each(work);
                    barrier.wait();
                    let begin = Instant::now();
                    let each = |item| {
                        let start = Instant::now();
                        work(item);
                        start.elapsed().as_nanos()
                    };
                    let times: Vec<u128> = items.into_iter().map(each).collect();
                    (times, begin.elapsed().as_secs_f64())
                })
            })
            .collect();
        for handle in handles {
            let (part, took) = handle.join().unwrap();
            times.extend(part);
            longest = longest.max(took);
        }
    });
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize] as f64 / 1000.0;
    Row { p50: at(0.5), p99: at(0.99), rate: times.len() as f64 / longest }
}

fn print(what: &str, row: &Row) {
    println!("{what:<34} {:>10.2} {:>10.2} {:>12.0}", row.p50, row.p99, row.rate);
}

fn line(threads: usize, rounds: usize, tool: &str) -> Row {
    let gate = Arc::new(gate());
    measure(
        threads,
        rounds,
        |thread, number| call(thread, number, tool),
        |call| {
            black_box(gate.handle(call, &Nothing, &Nothing));
        },
    )
}

fn ledger(rounds: usize) -> Row {
    let ledger = std::sync::Mutex::new(Ledger::default());
    let limit =
        |id: &str, tier| Limit { id: id.to_owned(), tier, kind: Kind::Calls, limit: u64::MAX, window: Window::Total };
    let limits = [limit("a", Tier::Org), limit("b", Tier::Session)];
    let amounts = Amounts::ZERO.with(Kind::Calls, 1).with(Kind::ToolCalls, 1);
    let subject = subject(0);
    measure(
        1,
        rounds,
        |_, number| name(&format!("c{number}")),
        |id| {
            let mut ledger = ledger.lock().unwrap();
            ledger.reserve(&id, &subject, amounts, &limits, Timestamp(1)).unwrap();
            black_box(ledger.settle(&id, amounts, Timestamp(1)));
        },
    )
}

fn main() {
    println!("{:<34} {:>10} {:>10} {:>12}", "whole line, null executor", "p50 us", "p99 us", "calls/s");
    print("allowed, 1 thread", &line(1, 20_000, "look"));
    print("allowed, 8 threads", &line(8, 5_000, "look"));
    print("denied, 1 thread", &line(1, 20_000, "rm"));
    print("reserve + settle, ledger alone", &ledger(100_000));
    let key = Key::from_seed(&[1; 32]);
    let text = "x".repeat(900);
    print(
        "Ed25519 signature of 900 bytes",
        &measure(
            1,
            20_000,
            |_, _| (),
            |()| {
                black_box(key.sign(text.as_bytes()));
            },
        ),
    );
}
