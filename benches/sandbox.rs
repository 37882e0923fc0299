//! The sandbox's numbers: `cargo bench --bench sandbox`.
//!
//! Every figure is the median of many runs in this process, beside `python3 -c` as a subprocess on the same
//! machine in the same run. The table names the goal where there is one.

use std::fs;
use std::hint::black_box;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};
use weir::model::{
    Action, Amounts, Checkpoint, Clock, CodeGrant, CodeLimits, Decision, Digest, Effect, Keep, Kind, Millis, Name,
    Outcome, Randomness, Reason, ReasonCode, Record, Seat, Status,
};
use weir::pep::Answer;
use weir::pep::port::{Executor as _, Inner, Param, ToolSpec};
use weir::sandbox::{Caps, Key, Sandbox, SandboxConfig, Vault, VaultKey, Wall};

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
            exec: None,
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

/// Memory that a process has to itself, bytes.
fn private(process: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("RssAnon:")).unwrap_or_default();
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
        let first = |index: usize| assert_eq!(self.run(&fresh(index), "print(1 + 1)").logs, "2\n");
        let close = |index: usize| self.sandbox.close(&seat(&fresh(index)));
        row("start to first result, fresh interpreter", paced(200, Duration::from_millis(5), first), "");
        (0..200).for_each(close);
        let whole = |index: usize| {
            first(index);
            close(index);
        };
        row("the same with teardown", paced(200, Duration::from_millis(5), whole), "<= 1 ms, then 0.3");
        row("the same, one after another without a pause", timed(200, whole), "");
    }

    fn steps(&self) {
        let session = name("steps");
        self.run(&session, "x = 1");
        row("step in a live session", timed(2_000, |_| drop(black_box(self.run(&session, "x + 1")))), "<= 60 us");
    }

    fn calls(&self) {
        let session = name("calls");
        let (few, many) = (100, 10_100);
        let spent =
            |calls: usize| timed(15, |_| drop(self.run(&session, &format!("for i in range({calls}): echo(i)"))));
        row("nested call with arguments, gate excluded", each(spent(few), spent(many), many - few), "<= 20 us");
        let raw =
            "from wit_world.imports import host\ndef raw(n):\n    for i in range(n): host.call('tool', 'echo', '{}')";
        let mut grant = self.grant.clone();
        grant.imports.push("wit_world".into());
        let run = |code: &str| drop(self.sandbox.run(&key(&name("raw")), code, &Map::new(), &grant, &Open));
        run(raw);
        let spent = |calls: usize| timed(15, |_| run(&format!("raw({calls})")));
        row("nested call raw", each(spent(few), spent(many), many - few), "");
    }

    /// Fresh executions a second with `agents` asking at once, each with a worker of its own.
    fn throughput(&self, agents: usize) {
        let (each, started) = (2_000, Instant::now());
        std::thread::scope(|scope| {
            for agent in 0..agents {
                scope.spawn(move || {
                    let seat = Seat { agent: name(&format!("agent{agent}")), ..seat(&name("fresh")) };
                    let key = Key { seat, guest: "python".into(), run: name("r") };
                    let grant = CodeGrant { keep: Keep::Nothing, ..self.grant.clone() };
                    for _ in 0..each {
                        let outcome = self.sandbox.run(&key, "print(1 + 1)", &Map::new(), &grant, &Open);
                        assert_eq!(outcome.logs, "2\n");
                    }
                });
            }
        });
        let rate = (each * agents) as f64 / started.elapsed().as_secs_f64();
        println!(
            "{:<46} {rate:>8.0}/s   goal >= 3,000/s on two cores",
            format!("fresh executions, {agents} agents at once")
        );
    }

    fn memory(&self) {
        let count = 1_000;
        let all = || self.sandbox.processes().into_iter().map(private).sum::<u64>() + private(std::process::id());
        self.run(&name("idle"), "x = 1");
        let before = all();
        (0..count).for_each(|index| drop(self.run(&name(&format!("idle{index}")), "x = 1")));
        let each = all().saturating_sub(before) / count;
        let what = "private memory of an idle session, of 1,000";
        println!("{what:<46} {:>6.2} MiB   goal <= 1.5 MiB", each as f64 / 1048576.0);
        let step = |session: u64| drop(black_box(self.run(&name(&format!("idle{session}")), "x + 1")));
        row("step in the first of 1,000 live sessions", timed(2_000, |_| step(0)), "flat");
        row("step in the last of them", timed(2_000, |_| step(count - 1)), "flat");
        row("step in each of them in turn", timed(2_000, |index| step(index as u64 % count)), "");
        (0..count).for_each(|index| self.sandbox.close(&seat(&name(&format!("idle{index}")))));
    }

    /// What it costs to keep a session on disk; the sandbox must have a vault.
    fn keeping(&self) {
        let (session, runs) = (name("kept"), 30);
        self.run(&session, "x = list(range(1000))");
        let keeper = self.sandbox.keeper().expect("it keeps sessions");
        row("checkpoint, durable", timed(runs, |_| drop(keeper.checkpoint(&seat(&session)).expect("kept"))), "");
        row(
            "a session to disk",
            {
                let mut times = Vec::new();
                for _ in 0..runs {
                    self.run(&session, "x");
                    let started = Instant::now();
                    self.sandbox.rest(&seat(&session));
                    times.push(started.elapsed());
                }
                times.sort();
                Times { best: times[0], middle: times[runs / 2], high: times[runs * 9 / 10] }
            },
            "",
        );
        row(
            "its next step, back from disk",
            {
                let mut times = Vec::new();
                for _ in 0..runs {
                    self.sandbox.rest(&seat(&session));
                    let started = Instant::now();
                    self.run(&session, "x");
                    times.push(started.elapsed());
                }
                times.sort();
                Times { best: times[0], middle: times[runs / 2], high: times[runs * 9 / 10] }
            },
            "",
        );
        for (what, grant) in [
            (
                "step with a checkpoint before it, durable",
                CodeGrant { checkpoint: Checkpoint::Step, ..self.grant.clone() },
            ),
            ("step on a tape, durable", CodeGrant { record: Record::Tape, ..self.grant.clone() }),
        ] {
            let session = name(what.split(' ').nth(2).expect("a word"));
            let run = |_| drop(self.sandbox.run(&key(&session), "1 + 1", &Map::new(), &grant, &Open));
            run(0);
            row(what, timed(50, run), "");
        }
    }

    /// What the guest itself computes, which is the same on every machine.
    fn fuel(&self) {
        let session = name("fuel");
        let spent = |code: &str| self.run(&session, code).usage.of(Kind::Fuel);
        println!("\n{:<46} {:>14}", "fuel", "units");
        let told = |what: &str, fuel: u64| println!("{what:<46} {fuel:>14}");
        told("print(1 + 1), fresh", spent("print(1 + 1)"));
        told("print(1 + 1), later", spent("print(1 + 1)"));
        spent("x = 1");
        told("x + 1", spent("x + 1"));
        let body = "def f(a, b):\n    c = [a, b]\n    return {str(i): i for i in c}\n".repeat(10) + "f(1, 2)";
        told("31 lines", spent(&body));
        let few = spent("for i in range(100): echo(i)");
        told("nested call", (spent("for i in range(1100): echo(i)") - few) / 1_000);
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

fn opened(change: impl FnOnce(&mut SandboxConfig)) -> Bench {
    let mut config = SandboxConfig::new(wall());
    change(&mut config);
    let bench = Bench { sandbox: Sandbox::open(config).expect("the sandbox opens"), grant: grant() };
    (0..10).for_each(|_| drop(bench.run(&name("warm"), "1")));
    bench
}

fn main() {
    // Names of parts, such as `start steps`; none means all.
    let named: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let wanted = |part: &str| named.is_empty() || named.iter().any(|name| name == part);
    let started = Instant::now();
    let bench = opened(|_| {});
    println!("open (guest cached): {}", shown(started.elapsed()));
    println!("\n{:<46} {:>10} {:>10} {:>10}   goal", "what", "best", "p50", "p90");
    line(&bench, &wanted);
    if wanted("peer") {
        let python = python();
        let peer = || Command::new(&python).args(["-I", "-c", "print(1 + 1)"]).output().expect("python3 runs");
        row("peer: python3 -c as a subprocess, no sandbox", timed(50, |_| drop(black_box(peer()))), "");
    }
    if wanted("throughput") {
        bench.throughput(1);
        bench.throughput(2);
    }
    if wanted("memory") {
        bench.memory();
    }
    if wanted("fuel") {
        bench.fuel();
    }
    if wanted("speed") {
        bench.speed();
    }
    drop(bench);
    if wanted("keeping") {
        println!("\nwith a store");
        let store = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
        let key = VaultKey::beside(store.path()).expect("a key");
        let vault = Vault::open(store.path().join(Vault::FOLDER), key, Caps::default()).expect("a vault");
        opened(|config| config.vault = Some(Arc::new(vault))).keeping();
    }
    if wanted("one-wall") {
        println!("\nwithout the second wall");
        line(&opened(|config| config.wall = Wall::DangerousNone), &|_| true);
    }
}

/// What is measured with one wall and with two.
fn line(bench: &Bench, wanted: &dyn Fn(&str) -> bool) {
    if wanted("start") {
        bench.start();
    }
    if wanted("steps") {
        bench.steps();
    }
    if wanted("calls") {
        bench.calls();
    }
}
