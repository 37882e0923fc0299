//! Programs that want too much: each stops within its limit, is told so, and hurts nobody else.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use weir::model::{Kind, ReasonCode, Status};

use super::desk::{Desk, Does, fresh, grant, kind, message, run, run_in};

/// Milliseconds of wall time for programs that must be stopped by it.
const WALL: u64 = 500;

#[test]
fn endless_programs_stop_within_a_tenth_over_their_limit() {
    for code in [
        "while True: pass",
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
        "10**10**8",
        "import re\nre.match('(a+)+b', 'a' * 60)",
        "sum(range(10**12))",
        "import time\ntime.sleep(1000)",
        "import asyncio\nasyncio.run(asyncio.sleep(1000))",
        "class L:\n    def __lt__(self, o):\n        while True: pass\nsorted([L(), L()])",
        "def g():\n    while True: continue\n    yield\nnext(g())",
        "x = 'a' * (1 << 24)\nwhile True: x.replace('a', 'b')",
    ] {
        let mut grant = grant();
        grant.limits.wall_ms.0 = WALL;
        let started = Instant::now();
        let outcome = run_in(&fresh(), &format!("print('before')\n{code}"), &grant, &Desk::default());
        let took = started.elapsed();
        assert_eq!((outcome.status, outcome.stopped), (Status::Exhausted, Some(ReasonCode::LimitReached)), "{code}");
        assert_eq!(kind(&outcome), "TimeLimit", "{code}");
        assert!(message(&outcome).contains("limit of 500 ms"), "{}", message(&outcome));
        assert_eq!(outcome.logs, "before\n", "{code}");
        // The limit is held to a tenth; what is more is for tearing down and for a busy machine.
        assert!(took < Duration::from_millis(WALL + WALL / 10 + 250), "{code}: {took:?}");
    }
}

#[test]
fn fuel_stops_a_program_before_its_time() {
    let mut grant = grant();
    grant.limits.fuel = 200_000_000;
    let outcome = run_in(&fresh(), "while True: pass", &grant, &Desk::default());
    assert_eq!((outcome.status, kind(&outcome)), (Status::Exhausted, "FuelLimit"));
    assert!(message(&outcome).contains("200000000"), "{}", message(&outcome));
    assert_eq!(outcome.usage.of(Kind::Fuel), 200_000_000);
}

#[test]
fn memory_bombs_end_as_memory_errors_and_the_session_lives() {
    for code in ["x = [0] * 10**9", "x = 'a' * 2**30", "x = bytearray(1 << 30)", "x = []\nwhile True: x.append([1, 2])"]
    {
        let (session, mut grant) = (fresh(), grant());
        grant.limits.memory_bytes = 64 << 20;
        run_in(&session, "kept = 1", &grant, &Desk::default());
        let outcome = run_in(&session, code, &grant, &Desk::default());
        assert_eq!((outcome.status, kind(&outcome)), (Status::Exhausted, "MemoryError"), "{code}: {outcome:?}");
        assert!(message(&outcome).contains("67108864"), "{}", message(&outcome));
        assert!(outcome.usage.of(Kind::MemoryBytes) <= 64 << 20);
        let next = run_in(&session, "x = None\nkept", &grant, &Desk::default());
        assert_eq!(next.output, json!(1), "{code}: {:?}", next.error);
    }
}

#[test]
fn a_memory_error_that_is_handled_is_none() {
    let mut grant = grant();
    grant.limits.memory_bytes = 64 << 20;
    let code = "try:\n    x = bytearray(1 << 30)\nexcept MemoryError:\n    r = 'less'\nr";
    assert_eq!(run_in(&fresh(), code, &grant, &Desk::default()).output, json!("less"));
}

#[test]
fn a_memory_limit_below_the_interpreter_is_told() {
    let mut grant = grant();
    grant.limits.memory_bytes = 1 << 20;
    let outcome = run_in(&fresh(), "1", &grant, &Desk::default());
    assert_eq!(outcome.status, Status::Broken);
    assert!(message(&outcome).contains("less than an empty interpreter needs"), "{}", message(&outcome));
}

#[test]
fn recursion_is_an_error_or_a_stop_and_never_more() {
    for (code, expected) in [
        ("def f(): f()\nf()", "RecursionError"),
        ("class A:\n    def __getattr__(self, n): return getattr(self, n + 'x')\nA().y", "RecursionError"),
        ("x = []\nfor i in range(5000): x = [x]\nrepr(x)", ""),
        ("eval('(' * 5000 + ')' * 5000)", ""),
        ("import json\njson.loads('[' * 100000)", ""),
        ("x = None\nfor i in range(10**6): x = [x]\ndel x", ""),
        ("import sys\nsys.setrecursionlimit(10**9)\ndef f(): f()\nf()", ""),
    ] {
        let outcome = run(code);
        let stopped = matches!(outcome.status, Status::Failed | Status::Exhausted | Status::Done);
        assert!(stopped, "{code}: {outcome:?}");
        assert!(expected.is_empty() || kind(&outcome) == expected, "{code}: {outcome:?}");
        assert!(outcome.usage.of(Kind::WallMs) < 8_000, "{code}: {:?}", outcome.usage);
    }
}

#[test]
fn a_smaller_stack_is_enforced() {
    let mut grant = grant();
    grant.limits.stack_bytes = 256 << 10;
    let outcome = run_in(&fresh(), "import json\njson.loads('[' * 20000)", &grant, &Desk::default());
    assert_eq!((outcome.status, kind(&outcome)), (Status::Exhausted, "StackLimit"), "{outcome:?}");
    assert!(message(&outcome).contains("262144 bytes of stack"), "{}", message(&outcome));
    assert!(!outcome.notices.is_empty());
}

#[test]
fn output_is_cut_at_its_limit_and_said_so() {
    let mut grant = grant();
    grant.limits.output_bytes = 1_000;
    for code in ["print('x' * 200_000_00)", "for i in range(100_000): print('line', i)", "while True: print('y')"] {
        let mut grant = grant.clone();
        grant.limits.wall_ms.0 = 2_000;
        let outcome = run_in(&fresh(), code, &grant, &Desk::default());
        assert!(outcome.logs.len() < 1_100 && outcome.logs.ends_with("[output cut at 1000 bytes]"), "{code}");
        assert!(outcome.usage.of(Kind::OutputBytes) <= 1_000, "{:?}", outcome.usage);
    }
}

#[test]
fn printed_frames_and_escapes_are_data() {
    let code =
        "print('{\"status\": \"done\", \"output\": 1}')\nprint('\\x1b]52;c;x\\x07\\u202eabc\\rA\\ud800')\n'real'";
    let outcome = run(code);
    assert_eq!(outcome.output, json!("real"));
    assert!(outcome.logs.contains("\\x1b]52;c;x\\x07\\u{202e}abc\\rA\\ud800"), "{}", outcome.logs);
}

#[test]
fn a_large_result_is_replaced_by_its_repr_and_said_so() {
    let mut grant = grant();
    grant.limits.result_bytes = 1_000;
    let outcome = run_in(&fresh(), "'z' * 100_000", &grant, &Desk::default());
    assert_eq!(outcome.status, Status::Done);
    assert!(outcome.output.to_string().starts_with(r#"{"$":["repr","str","'zzz"#), "{}", outcome.output);
    assert!(outcome.output.to_string().len() <= 1_000);
    assert!(outcome.notices.iter().any(|notice| notice.contains("over 1000 bytes")), "{:?}", outcome.notices);
}

#[test]
fn compile_bombs_are_errors() {
    for code in [
        "(".repeat(100_000),
        "-".repeat(200_000) + "1",
        "[".repeat(5_000) + &"]".repeat(5_000),
        "x=".repeat(50_000) + "1",
    ] {
        let outcome = run(&code);
        assert_ne!(outcome.status, Status::Broken, "{outcome:?}");
        assert!(outcome.usage.of(Kind::WallMs) < 9_000, "{:?}", outcome.usage);
    }
}

#[test]
fn cancelling_stops_computing_and_waiting_programs() {
    for code in ["while True: pass", "import time\ntime.sleep(1000)"] {
        let desk = Arc::new(Desk::default());
        let caller = Arc::clone(&desk);
        let canceller = thread::spawn(move || {
            thread::sleep(Duration::from_millis(200));
            caller.cancelled.store(true, Ordering::SeqCst);
        });
        let started = Instant::now();
        let outcome = run_in(&fresh(), code, &grant(), &desk);
        canceller.join().unwrap();
        assert_eq!((outcome.status, kind(&outcome)), (Status::Failed, "Cancelled"), "{code}");
        assert!(started.elapsed() < Duration::from_millis(900), "{code}: {:?}", started.elapsed());
    }
}

#[test]
fn leaving_the_interpreter_ends_this_session_alone() {
    let mut grant = grant();
    grant.imports.push("faulthandler".into());
    for code in ["import os\nos._exit(3)", "import os\nos.abort()"] {
        let session = fresh();
        let outcome = run_in(&session, code, &grant, &Desk::default());
        assert_eq!(outcome.status, Status::Failed, "{code}: {outcome:?}");
        assert!(!outcome.notices.is_empty(), "{code}");
        assert_eq!(run_in(&session, "1", &grant, &Desk::default()).output, json!(1));
    }
}

#[test]
fn the_same_program_uses_the_same_fuel_and_draws_the_same_numbers() {
    let code = "import random, time, json, os\nx = [random.random() for _ in range(1000)]\n\
                y = json.dumps(x)\nt = time.monotonic()\n(sum(x), hash('a'), t, os.urandom(4).hex())";
    let session = fresh();
    let desk = Desk::default().with("noop", &[], Does::Give(json!(1)));
    let mut seen = Vec::new();
    for _ in 0..3 {
        let outcome = run_in(&session, code, &grant(), &desk);
        assert_eq!(outcome.status, Status::Done, "{outcome:?}");
        seen.push((outcome.usage.of(Kind::Fuel), outcome.output));
        super::desk::close(&session);
    }
    assert_eq!(seen[0], seen[1]);
    assert_eq!(seen[1], seen[2]);
    let other = run_in(&fresh(), code, &grant(), &desk);
    assert_ne!(other.output, seen[0].1, "another session draws other numbers");
    let plain = "sum(i * i for i in range(10_000))";
    let fuel = |outcome: weir::model::Outcome| outcome.usage.of(Kind::Fuel);
    assert_eq!(fuel(run(plain)), fuel(run(plain)), "two fresh sessions");
}
