//! Workers from outside: killed, hung, many, and for a long time.
//!
//! Each test runs in a process of its own (this program, started again), so that every worker, descriptor and byte in
//! it is this test's. Which worker is whose is told by the processor time that a program of its agent takes.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use std::{env, fs};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Map, Value, json};
use weir::model::{Action, CodeGrant, Keep, Kind, Outcome, Seat, Status};
use weir::pep::Answer;
use weir::pep::port::{Inner, Param, ToolSpec};
use weir::sandbox::{Key, Sandbox, SandboxConfig};

use super::desk::{self, Desk, grant, kind, message, name, wall};

/// How the second process knows that it is the one.
const ALONE: &str = "WEIR_TEST_ALONE";

/// Runs `work`, which is the test `name`, in a process of its own.
fn alone(name: &str, work: fn()) {
    if env::var(ALONE).is_ok_and(|chosen| chosen == name) {
        return work();
    }
    let mut again = Command::new(env::current_exe().unwrap());
    again.args(["--exact", &format!("workers::{name}"), "--include-ignored", "--nocapture", "--test-threads=1"]);
    let ended = again.env(ALONE, name).output().unwrap();
    let (said, fault) = (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    let figures = said.lines().filter_map(|line| line.find("    ").and_then(|at| line.get(at..)));
    figures.for_each(|line| println!("{line}"));
    assert!(ended.status.success() && said.contains("1 passed"), "{said}\n{fault}");
}

fn open() -> Sandbox {
    Sandbox::open(SandboxConfig::new(wall())).unwrap()
}

fn agent(agent: &str, session: &str) -> Key {
    let seat = Seat { org: name("org"), agent: name(agent), name: name(session) };
    Key { seat, guest: "python".into(), run: name("run") }
}

fn step(sandbox: &Sandbox, key: &Key, code: &str, inner: &dyn Inner) -> Outcome {
    sandbox.run(key, code, &Map::new(), &grant(), inner)
}

fn plain(sandbox: &Sandbox, key: &Key, code: &str) -> Outcome {
    step(sandbox, key, code, &Desk::default())
}

/// What `/proc` tells of one process: its parent, its state and its processor time in clock ticks.
fn told(pid: u32) -> Option<(u32, char, u64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok());
    Some((fields.get(1)?.parse().ok()?, fields.first()?.chars().next()?, ticks(11)? + ticks(12)?))
}

/// The workers of this process, with the processor time that each has had.
fn workers() -> BTreeMap<u32, u64> {
    let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let ours =
        |pid: u32| told(pid).filter(|(parent, ..)| *parent == std::process::id()).map(|(_, _, time)| (pid, time));
    pids.filter_map(ours).collect()
}

/// Waits until there are `count` workers, and none is starting any more.
fn settled(count: usize) {
    let started = Instant::now();
    let mut before = BTreeMap::new();
    loop {
        let now = workers();
        if now.len() == count && now == before {
            return;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "{} workers instead of {count}", now.len());
        before = now;
        thread::sleep(Duration::from_millis(150));
    }
}

/// The worker in which the programs of `key` run.
fn worker_of(sandbox: &Sandbox, key: &Key) -> u32 {
    let before = workers();
    // About a second of processor time, in which no other worker has anything to do.
    let outcome = plain(sandbox, key, "for i in range(12_000_000): pass");
    assert_eq!(outcome.status, Status::Done, "{outcome:?}");
    let worked = |(pid, time): (u32, u64)| Some((time - before.get(&pid)?, pid));
    let (time, pid) = workers().into_iter().filter_map(worked).max().unwrap();
    assert!(time >= 5, "no worker has worked: {before:?}");
    pid
}

fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), signal).unwrap();
}

/// A gate whose one tool, `blow`, sends a signal to a worker while a program waits for it.
struct Blow {
    target: AtomicU32,
    signal: Signal,
}

impl Inner for Blow {
    fn call(&self, _: Action, _: &str, _: Map<String, Value>) -> Answer {
        signal(self.target.load(Ordering::SeqCst), self.signal);
        desk::done(json!("done"))
    }

    fn tools(&self) -> Vec<ToolSpec> {
        let params: Vec<Param> = Vec::new();
        vec![ToolSpec { name: name("blow"), description: "Blows.".into(), params, is_final: false, is_agent: false }]
    }

    fn cancelled(&self) -> bool {
        false
    }
}

fn blow(target: u32, signal: Signal) -> Blow {
    Blow { target: AtomicU32::new(target), signal }
}

fn loses_variables(outcome: &Outcome) -> bool {
    outcome.notices.iter().any(|notice| notice.contains("variables") && notice.contains("gone"))
}

#[test]
fn a_killed_worker_loses_its_step_and_nothing_else() {
    alone("a_killed_worker_loses_its_step_and_nothing_else", || {
        let sandbox = open();
        let (a, also, b) = (agent("a", "one"), agent("a", "two"), agent("b", "one"));
        for key in [&a, &also, &b] {
            assert_eq!(plain(&sandbox, key, "x = 5").status, Status::Done);
        }
        // Two agents, and one worker ready for the next.
        settled(3);
        let (mine, other) = (worker_of(&sandbox, &a), worker_of(&sandbox, &b));
        assert_ne!(mine, other);

        let lost = step(&sandbox, &a, "print('before')\nblow()\nx", &blow(mine, Signal::KILL));
        assert_eq!((lost.status, lost.replaced, lost.logs.as_str()), (Status::Broken, true, "before\n"), "{lost:?}");
        assert!(message(&lost).contains("this step is lost") && loses_variables(&lost), "{lost:?}");
        assert!(told(mine).is_none(), "what is dead is collected");
        let next = plain(&sandbox, &a, "x");
        assert_eq!((next.status, kind(&next)), (Status::Failed, "NameError"), "{next:?}");
        assert!(!loses_variables(&next), "it was told once");
        // The agent's other session was in the same worker, and is told at its own next step.
        let next = plain(&sandbox, &also, "'x' in globals()");
        assert_eq!((next.status, &next.output), (Status::Done, &json!(false)), "{next:?}");
        assert!(loses_variables(&next), "{next:?}");
        assert_eq!(plain(&sandbox, &b, "x").output, json!(5), "the other agent's is untouched");
        assert_eq!(worker_of(&sandbox, &b), other);

        // In the middle of computing, from outside.
        plain(&sandbox, &a, "x = 6");
        settled(3);
        let mine = worker_of(&sandbox, &a);
        let killer = thread::spawn(move || {
            thread::sleep(Duration::from_millis(300));
            signal(mine, Signal::KILL);
        });
        let lost = plain(&sandbox, &a, "while True: pass");
        killer.join().unwrap();
        assert_eq!((lost.status, loses_variables(&lost)), (Status::Broken, true), "{lost:?}");
        assert_eq!(plain(&sandbox, &b, "x").output, json!(5));
    });
}

#[test]
fn a_worker_that_dies_at_rest_loses_no_step() {
    alone("a_worker_that_dies_at_rest_loses_no_step", || {
        let (sandbox, a) = (open(), agent("a", "one"));
        plain(&sandbox, &a, "x = 5");
        settled(2);
        let mine = worker_of(&sandbox, &a);
        signal(mine, Signal::KILL);
        let began = Instant::now();
        // Its first thread can be over while others still end.
        let threads = || fs::read_dir(format!("/proc/{mine}/task")).map_or(0, Iterator::count);
        while told(mine).is_some_and(|(_, state, _)| state != 'Z') || threads() > 1 {
            assert!(began.elapsed() < Duration::from_secs(5));
        }
        let next = plain(&sandbox, &a, "print('ran')\n'x' in globals()");
        assert_eq!((next.status, &next.output, next.logs.as_str()), (Status::Done, &json!(false), "ran\n"), "{next:?}");
        assert!(loses_variables(&next) && next.notices.iter().any(|told| told.contains("has ended")), "{next:?}");
    });
}

#[test]
fn a_worker_that_hangs_is_ended_and_replaced() {
    alone("a_worker_that_hangs_is_ended_and_replaced", || {
        let (sandbox, a) = (open(), agent("a", "one"));
        plain(&sandbox, &a, "x = 5");
        settled(2);
        let mine = worker_of(&sandbox, &a);
        let mut grant = grant();
        grant.limits.wall_ms.0 = 1_000;
        let began = Instant::now();
        let code = "print('before')\nblow()\nwhile True: pass";
        let hung = sandbox.run(&a, code, &Map::new(), &grant, &blow(mine, Signal::STOP));
        let took = began.elapsed();
        assert_eq!((hung.status, kind(&hung)), (Status::Exhausted, "TimeLimit"), "{hung:?}");
        assert!(hung.replaced && loses_variables(&hung) && hung.logs == "before\n", "{hung:?}");
        // The limit, a tenth of it, and the grace for a worker that may only be late.
        assert!(took > Duration::from_secs(5) && took < Duration::from_secs(15), "{took:?}");
        assert!(told(mine).is_none(), "the hung one is gone");
        assert_eq!(plain(&sandbox, &a, "1 + 1").output, json!(2));
        println!("    a hung worker was ended and replaced after {} ms, with a limit of 1000 ms", took.as_millis());
    });
}

#[test]
fn two_agents_never_share_a_worker() {
    alone("two_agents_never_share_a_worker", || {
        let sandbox = open();
        let mut keys: Vec<Key> = ["a", "b", "c", "d"].map(|of| agent(of, "one")).to_vec();
        // The same agent's name in another organisation is another agent.
        keys.push(Key { seat: Seat { org: name("other"), ..agent("a", "one").seat }, ..agent("a", "one") });
        for key in &keys {
            plain(&sandbox, key, "x = 1");
        }
        settled(keys.len() + 1);
        let pids: Vec<u32> = keys.iter().map(|key| worker_of(&sandbox, key)).collect();
        assert_eq!(pids.iter().collect::<BTreeSet<_>>().len(), keys.len(), "{pids:?}");
        for (key, pid) in keys.iter().zip(&pids) {
            let other = Key { seat: Seat { name: name("two"), ..key.seat.clone() }, ..key.clone() };
            assert_eq!(worker_of(&sandbox, &other), *pid, "an agent's sessions share its worker");
        }
        // Sessions that are closed do not free a worker for somebody else.
        use weir::pep::port::Executor as _;
        keys.iter().for_each(|key| sandbox.close(&key.seat));
        let late = agent("late", "one");
        plain(&sandbox, &late, "1");
        settled(keys.len() + 2);
        assert!(!pids.contains(&worker_of(&sandbox, &late)));
    });
}

/// Descriptors of this process.
fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Memory that is a process's alone, KiB.
fn anonymous(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse().ok()).unwrap_or(0)
}

fn fresh_each_time() -> CodeGrant {
    CodeGrant { keep: Keep::Nothing, ..grant() }
}

#[test]
fn a_thousand_runs_leave_no_descriptor_and_no_process_behind() {
    alone("a_thousand_runs_leave_no_descriptor_and_no_process_behind", || {
        let (sandbox, a, desk) = (open(), agent("a", "one"), Desk::default());
        let run = || sandbox.run(&a, "print(1 + 1)", &Map::new(), &fresh_each_time(), &desk);
        (0..10).for_each(|_| assert_eq!(run().logs, "2\n"));
        settled(2);
        let (descriptors_before, workers_before) = (descriptors(), workers().len());
        (0..1_000).for_each(|_| assert_eq!(run().logs, "2\n"));
        assert_eq!((descriptors(), workers().len()), (descriptors_before, workers_before));
        // Workers that end and are replaced leave nothing either.
        for _ in 0..5 {
            plain(&sandbox, &a, "1");
            settled(2);
            let mine = worker_of(&sandbox, &a);
            assert_eq!(step(&sandbox, &a, "blow()", &blow(mine, Signal::KILL)).status, Status::Broken);
        }
        run();
        settled(2);
        println!(
            "    {descriptors_before} descriptors before and {} after 1,000 runs and 5 killed workers",
            descriptors()
        );
        assert_eq!((descriptors(), workers().len()), (descriptors_before, workers_before));
    });
}

#[test]
fn a_thousand_sessions_live_at_once_and_a_step_costs_the_last_what_it_cost_the_first() {
    alone("a_thousand_sessions_live_at_once_and_a_step_costs_the_last_what_it_cost_the_first", || {
        const SESSIONS: usize = 1_000;
        let sandbox = open();
        let key = |number: usize| agent("a", &format!("s{number}"));
        let fuel = |outcome: Outcome| {
            assert_eq!(outcome.status, Status::Done, "{outcome:?}");
            outcome.usage.of(Kind::Fuel)
        };
        plain(&sandbox, &key(SESSIONS), "1");
        settled(2);
        let private = || workers().keys().map(|pid| anonymous(*pid)).sum::<u64>();
        let before = private();
        let first: Vec<u64> = (0..SESSIONS)
            .map(|number| fuel(plain(&sandbox, &key(number), "def f(n): return sum(range(n))\nx = f(100)\nx")))
            .collect();
        let each = (private() - before) as f64 / SESSIONS as f64;
        // A second step everywhere: every one of them is still there.
        let second: Vec<u64> = (0..SESSIONS).map(|n| fuel(plain(&sandbox, &key(n), "x += f(10)\nx"))).collect();
        let last = plain(&sandbox, &key(SESSIONS / 2), "x");
        assert_eq!(last.output, json!(4950 + 45), "{last:?}");
        println!("    {SESSIONS} sessions alive: {} MiB in workers, {each:.0} KiB for each", private() >> 10);
        for steps in [&first, &second] {
            let (early, late) = (&steps[..100], &steps[SESSIONS - 100..]);
            assert_eq!(early, late, "the fuel of a step");
            assert!(steps.iter().all(|fuel| *fuel == steps[0]));
        }
        assert!(each < 4_096.0, "{each} KiB of private memory per session");
    });
}

#[test]
#[ignore = "takes minutes on a quiet machine: the soak of 100,000 fresh executions; WEIR_SOAK sets another number"]
fn a_soak_of_fresh_executions_is_flat() {
    alone("a_soak_of_fresh_executions_is_flat", || {
        let runs: u32 = env::var("WEIR_SOAK").ok().map_or(100_000, |count| count.parse().unwrap());
        let (sandbox, a, desk) = (open(), agent("a", "one"), Desk::default());
        let run = || assert_eq!(sandbox.run(&a, "print(1 + 1)", &Map::new(), &fresh_each_time(), &desk).logs, "2\n");
        (0..runs / 10).for_each(|_| run());
        settled(2);
        let taken = || (anonymous(std::process::id()), workers().keys().map(|pid| anonymous(*pid)).sum::<u64>());
        let (before, open_before, began) = (taken(), descriptors(), Instant::now());
        (0..runs - runs / 10).for_each(|_| run());
        let took = began.elapsed();
        let after = taken();
        println!("    {runs} fresh executions, {:.2} ms each", took.as_secs_f64() * 1e3 / f64::from(runs - runs / 10));
        println!("    the gate: {} KiB after a tenth, {} KiB at the end", before.0, after.0);
        println!("    its workers: {} KiB after a tenth, {} KiB at the end", before.1, after.1);
        println!("    descriptors: {open_before} after a tenth, {} at the end", descriptors());
        assert_eq!((descriptors(), workers().len()), (open_before, 2));
        assert!(after.0 < before.0 + (8 << 10) && after.1 < before.1 + (16 << 10), "{before:?} {after:?}");
    });
}

#[test]
fn processes_are_told_apart_by_their_parent() {
    let (parent, _, _) = told(std::process::id()).unwrap();
    assert_eq!(parent, std::os::unix::process::parent_id());
    assert!(told(u32::MAX).is_none());
}
