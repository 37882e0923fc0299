//! The sandbox's numbers: `cargo bench --bench sandbox`.
//!
//! Every figure is the median of many runs in this process, beside `python3 -c` as a subprocess on the same
//! machine in the same run. The table names the goal where there is one.

use std::fs;
use std::hint::black_box;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};
use weir::model::{
    Action, Amounts, Checkpoint, Clock, CodeGrant, CodeLimits, Decision, Digest, Effect, Keep, Kind, Millis, Name,
    Outcome, Randomness, Reason, ReasonCode, Record, Seat, Status,
};
use weir::pep::Answer;
use weir::pep::port::{Executor as _, Inner, Param, ToolSpec};
use weir::sandbox::{Key, Sandbox, SandboxConfig, Wall};

/// A gate that allows everything and does nothing.
struct Open;

impl Inner for Open {
    fn call(&self, _: Action, _: &str, args: Map<String, Value>) -> Answer {
        let mut outcome = Outcome::of(Status::Done);
        outcome.output = args.get("value").cloned().unwrap_or(Value::Null);
        let decision = Decision {
            effect: Effect::Allow,
            reason: Reason::new(ReasonCode::Allowed, ""),
            obligations: Vec::new(),
            reserve: Amounts::ZERO,
            grant: None,
            policy: Digest::ZERO,
        };
        Answer { call: name("c"), decision, outcome: Some(outcome), receipt: None, denial: None }
    }

    fn tools(&self) -> Vec<ToolSpec> {
        let params = vec![Param { name: name("value"), required: true }];
        vec![ToolSpec { name: name("echo"), description: String::new(), params, is_final: false, is_agent: false }]
    }

    fn cancelled(&self) -> bool {
        false
    }
}

fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

fn seat(session: &Name) -> Seat {
    Seat { org: name("org"), agent: name("agent"), name: session.clone() }
}

fn key(session: &Name) -> Key {
    Key { seat: seat(session), guest: "python".into(), run: name("r") }
}

/// The second wall, as `weir` has it.
fn wall() -> Wall {
    Wall::Process { program: env!("CARGO_BIN_EXE_weir").into(), arguments: vec!["worker".into()] }
}

fn grant() -> CodeGrant {
    CodeGrant {
        limits: CodeLimits {
            memory_bytes: 256 << 20,
            wall_ms: Millis(60_000),
            fuel: 1_000_000_000_000,
            stack_bytes: 16 << 20,
            output_bytes: 50_000,
            result_bytes: 1 << 20,
            callbacks: 1_000_000,
            tool_ms: Millis(1_000),
        },
        imports: ["json", "re", "hashlib", "time"].map(str::to_owned).to_vec(),
        files: Vec::new(),
        scratch: None,
        packages: Vec::new(),
        clock: Clock::Real,
        randomness: Randomness::Seeded,
        keep: Keep::Session,
        checkpoint: Checkpoint::Asked,
        record: Record::Nothing,
    }
}

/// What many runs took.
#[derive(Clone, Copy)]
struct Times {
    best: Duration,
    middle: Duration,
    high: Duration,
}

fn timed(runs: usize, run: impl FnMut(usize)) -> Times {
    paced(runs, Duration::ZERO, run)
}

/// The same with a pause before each run.
fn paced(runs: usize, pause: Duration, mut run: impl FnMut(usize)) -> Times {
    let mut times: Vec<Duration> = (0..runs)
        .map(|index| {
            std::thread::sleep(pause);
            let started = Instant::now();
            run(index);
            started.elapsed()
        })
        .collect();
    times.sort();
    Times { best: times[0], middle: times[runs / 2], high: times[runs * 9 / 10] }
}

/// One of `count` things, from a run with few of them and one with `count` more.
fn each(few: Times, many: Times, count: usize) -> Times {
    let count = u32::try_from(count).expect("small");
    let one = |few: Duration, many: Duration| many.saturating_sub(few) / count;
    Times { best: one(few.best, many.best), middle: one(few.middle, many.middle), high: one(few.high, many.high) }
}

fn row(what: &str, times: Times, goal: &str) {
    let Times { best, middle, high } = times;
    println!("{what:<46} {:>10} {:>10} {:>10}   {goal}", shown(best), shown(middle), shown(high));
}

fn shown(time: Duration) -> String {
    let micros = time.as_secs_f64() * 1e6;
    if micros < 1_000.0 { format!("{micros:.1} us") } else { format!("{:.2} ms", micros / 1_000.0) }
}

/// Proportional set size of this process, bytes.
fn pss() -> u64 {
    let text = fs::read_to_string("/proc/self/smaps_rollup").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("Pss:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024
}

struct Bench {
    sandbox: Sandbox,
    grant: CodeGrant,
}

impl Bench {
    fn run(&self, session: &Name, code: &str) -> Outcome {
        let outcome = self.sandbox.run(&key(session), code, &Map::new(), &self.grant, &Open);
        assert_eq!(outcome.status, Status::Done, "{code}: {:?}", outcome.error);
        outcome
    }

    fn start(&self) {
        let fresh = |index: usize| name(&format!("fresh{index}"));
        let first = |index: usize| assert_eq!(self.run(&fresh(index), "1 + 1").output, json!(2));
        let close = |index: usize| self.sandbox.close(&seat(&fresh(index)));
        row("start to first result, fresh interpreter", paced(200, Duration::from_millis(5), first), "<= 1.5 ms");
        (0..200).for_each(close);
        let whole = |index: usize| {
            first(index);
            close(index);
        };
        row("the same with teardown", paced(200, Duration::from_millis(5), whole), "");
        row("the same, one after another without a pause", timed(200, whole), "");
    }

    fn steps(&self) {
        let session = name("steps");
        self.run(&session, "x = 1");
        row("step in a live session", timed(2_000, |_| drop(black_box(self.run(&session, "x + 1")))), "");
    }

    fn calls(&self) {
        let session = name("calls");
        let (few, many) = (100, 10_100);
        let spent =
            |calls: usize| timed(15, |_| drop(self.run(&session, &format!("for i in range({calls}): echo(i)"))));
        row("nested call with arguments, gate excluded", each(spent(few), spent(many), many - few), "");
        let raw =
            "from wit_world.imports import host\ndef raw(n):\n    for i in range(n): host.call('tool', 'echo', '{}')";
        let mut grant = self.grant.clone();
        grant.imports.push("wit_world".into());
        let run = |code: &str| drop(self.sandbox.run(&key(&name("raw")), code, &Map::new(), &grant, &Open));
        run(raw);
        let spent = |calls: usize| timed(15, |_| run(&format!("raw({calls})")));
        row("nested call raw", each(spent(few), spent(many), many - few), "");
    }

    fn memory(&self) {
        let count = 100;
        let before = pss();
        (0..count).for_each(|index| drop(self.run(&name(&format!("idle{index}")), "x = 1")));
        let each = pss().saturating_sub(before) / count;
        println!("{:<46} {:>6.2} MiB", "memory of an idle session after one step (PSS)", each as f64 / 1048576.0);
        (0..count).for_each(|index| self.sandbox.close(&seat(&name(&format!("idle{index}")))));
    }

    fn speed(&self) {
        let (session, python) = (name("speed"), python());
        println!("\n{:<28} {:>12} {:>12} {:>8} {:>14}", "CPU", "guest", "python3", "ratio", "fuel");
        for (what, code) in PROGRAMS {
            self.run(&session, code);
            let mut fuel = 0;
            let inside = timed(5, |_| fuel = self.run(&session, code).usage.of(Kind::Fuel)).best;
            let outside = native(&python, code);
            let ratio = inside.as_secs_f64() / outside.as_secs_f64();
            println!("{what:<28} {:>12} {:>12} {ratio:>7.1}x {fuel:>14}", shown(inside), shown(outside));
        }
    }
}

const PROGRAMS: [(&str, &str); 4] = [
    ("fib(24)", "def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)\nfib(24)"),
    ("loop of 1M", "t = 0\nfor i in range(1_000_000): t += i * i\nt"),
    (
        "json there and back",
        "import json\nx = [{'a': i, 'b': str(i)} for i in range(20_000)]\nlen(json.loads(json.dumps(x)))",
    ),
    ("sort 200k", "x = [(i * 7919) % 200_003 for i in range(200_000)]\nx.sort()\nx[0]"),
];

/// The native interpreter itself, without a launcher in front of it.
fn python() -> String {
    let asked =
        Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output().expect("python3 runs");
    String::from_utf8_lossy(&asked.stdout).trim().to_owned()
}

/// The best time of `code` inside a native interpreter, without its start.
fn native(python: &str, code: &str) -> Duration {
    let timing = format!(
        "import time\ncode = compile({code:?}, 'x', 'exec')\nt = []\nfor i in range(5):\n    s = time.perf_counter()\n    \
         exec(code, {{}})\n    t.append(time.perf_counter() - s)\nprint(min(t))"
    );
    let output = Command::new(python).args(["-c", &timing]).output().expect("python3 runs");
    let text = String::from_utf8_lossy(&output.stdout);
    Duration::from_secs_f64(text.trim().parse().expect("seconds"))
}

fn main() {
    let opened = Instant::now();
    let sandbox = Sandbox::open(SandboxConfig::new(wall())).expect("the sandbox opens");
    println!("open (guest cached): {}", shown(opened.elapsed()));
    let bench = Bench { sandbox, grant: grant() };
    (0..10).for_each(|_| drop(bench.run(&name("warm"), "1")));
    println!("\n{:<46} {:>10} {:>10} {:>10}   goal", "what", "best", "p50", "p90");
    bench.start();
    bench.steps();
    bench.calls();
    let python = python();
    let peer = || Command::new(&python).args(["-I", "-c", "print(1 + 1)"]).output().expect("python3 runs");
    row("peer: python3 -c as a subprocess, no sandbox", timed(50, |_| drop(black_box(peer()))), "");
    bench.memory();
    bench.speed();
}
