//! The JavaScript guest: the cases of `javascript.toml`, and what needs more than one line to say.
//!
//! The same gate of the tests, the same grant and the same form of values as for Python.

use std::io::Write as _;
use std::process::Command;
use std::sync::LazyLock;
use std::time::Instant;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use weir::model::{CodeGrant, Keep, Millis, Name, Outcome, ReasonCode, Status};
use weir::sandbox::{Guest, Key, Sandbox, SandboxConfig, Silent};

use super::desk::{Desk, Does, fresh, grant, key, kind, message, traceback, wall};

static SANDBOX: LazyLock<Sandbox> = LazyLock::new(|| {
    // The gate never builds a guest in the middle of a call; whoever wants one builds it first.
    Guest::build("javascript", None, &Silent).unwrap();
    Sandbox::open(SandboxConfig::new(wall())).unwrap()
});

/// True, and said past the runner's capture, on a machine that has neither the guest nor what builds it: `.ci/run` counts
/// the line.
#[expect(clippy::explicit_write, reason = "eprintln! is what the runner captures")]
pub fn skipped() -> bool {
    let starts = |program: &&str| Command::new(program).arg("--version").output().is_ok();
    let built = || Guest::all(None).unwrap().iter().any(|guest| guest.name == "javascript" && guest.is_built());
    if ["node", "npm"].iter().all(starts) || built() {
        return false;
    }
    let name = std::thread::current().name().unwrap_or_default().to_owned();
    writeln!(std::io::stderr(), "\nskipped {name}: the guest is not built, and node or npm does not start").unwrap();
    true
}

/// One case: programs one after another in a session of their own, and what the last one must give.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    /// Programs before the last one; each must end well.
    #[serde(default)]
    before: Vec<String>,
    code: String,
    #[serde(default = "done")]
    status: String,
    /// The result's JSON text.
    output: Option<String>,
    /// Everything printed.
    logs: Option<String>,
    kind: Option<String>,
    /// Each stands in the message.
    #[serde(default)]
    message: Vec<String>,
    /// Each stands in the traceback.
    #[serde(default)]
    traceback: Vec<String>,
    /// None stands in the traceback.
    #[serde(default)]
    absent: Vec<String>,
    /// Every call that the gate saw.
    asked: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Cases {
    case: Vec<Case>,
}

fn done() -> String {
    "done".into()
}

fn desk() -> Desk {
    Desk::default()
        .with("echo", &[("value", true)], Does::Echo)
        .with("pair", &[("a", true), ("b", false)], Does::Give(json!([1, "two"])))
        .with("secret", &[], Does::Deny(ReasonCode::NoRule))
        .with("broken", &[], Does::Fail("KeyError", "gone"))
        .with("final_answer", &[("value", true)], Does::Echo)
}

fn in_javascript(session: &Name) -> Key {
    Key { guest: "javascript".into(), ..key(session) }
}

fn run_in(session: &Name, code: &str, grant: &CodeGrant, desk: &Desk) -> Outcome {
    SANDBOX.run(&in_javascript(session), code, &Map::new(), grant, desk)
}

fn run(code: &str) -> Outcome {
    run_in(&fresh(), code, &grant(), &desk())
}

fn word(outcome: &Outcome) -> String {
    format!("{:?}", outcome.status).to_lowercase()
}

/// What is wrong with the outcome of `case`, if anything.
fn complaint(case: &Case, outcome: &Outcome, desk: &Desk) -> Option<String> {
    let told = format!("{:?} {:?} output {} logs {:?}", outcome.status, outcome.error, outcome.output, outcome.logs);
    let expected = case.output.as_deref().map(|text| serde_json::from_str::<Value>(text).unwrap());
    let wrong = word(outcome) != case.status
        || expected.is_some_and(|value| value != outcome.output)
        || case.logs.as_ref().is_some_and(|logs| *logs != outcome.logs)
        || case.kind.as_ref().is_some_and(|wanted| wanted != kind(outcome))
        || case.message.iter().any(|part| !message(outcome).contains(part))
        || case.traceback.iter().any(|part| !traceback(outcome).contains(part))
        || case.absent.iter().any(|part| traceback(outcome).contains(part));
    if wrong {
        return Some(told);
    }
    let asked = desk.asked();
    case.asked.as_ref().is_some_and(|wanted| *wanted != asked).then(|| format!("asked {asked:?}"))
}

#[test]
fn every_case_ends_as_written() {
    if skipped() {
        return;
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sandbox/javascript.toml");
    let cases: Cases = toml::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert!(cases.case.len() > 60, "{} cases", cases.case.len());
    let mut wrong = Vec::new();
    for case in &cases.case {
        let (session, desk) = (fresh(), desk());
        for before in &case.before {
            let outcome = run_in(&session, before, &grant(), &desk);
            assert_eq!(outcome.status, Status::Done, "{}: {before}: {:?}", case.name, outcome.error);
        }
        let outcome = run_in(&session, &case.code, &grant(), &desk);
        wrong.extend(complaint(case, &outcome, &desk).map(|told| format!("{}: {told}", case.name)));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_clock_that_stands_still_stands_still_in_every_place_that_tells_time() {
    if skipped() {
        return;
    }
    let code = "const t = Date.now(); const d = new Date(); for (let i = 0; i < 1e5; i++); \
                await new Promise(r => setTimeout(r, 40)); \
                [Date.now() - t, new Date() - d, performance.now() < 1e12]";
    assert_eq!(run(code).output, json!([0, 0, true]));
    let mut real = grant();
    real.clock = weir::model::Clock::Real;
    let outcome = run_in(&fresh(), code, &real, &desk());
    assert!(outcome.output[0].as_f64().is_some_and(|ms| ms >= 39.0), "{}", outcome.output);
}

#[test]
fn every_die_is_drawn_from_the_sessions_name() {
    if skipped() {
        return;
    }
    let code = "[Math.random(), Math.random(), crypto.randomUUID(), [...crypto.getRandomValues(new Uint8Array(8))]]";
    let draw = |session: &Name| {
        let outcome = run_in(session, code, &grant(), &desk());
        assert_eq!(outcome.status, Status::Done, "{:?}", outcome.error);
        close(session);
        outcome.output
    };
    let (one, other) = (fresh(), fresh());
    let first = draw(&one);
    assert_eq!(first, draw(&one), "the same session repeats itself");
    let second = draw(&other);
    for at in 0..4 {
        assert_ne!(first[at], second[at], "die {at} does not depend on the session");
    }
    let mut real = grant();
    real.randomness = weir::model::Randomness::Real;
    let drawn = run_in(&one, code, &real, &desk()).output;
    assert!((0..4).all(|at| drawn[at] != first[at]), "{drawn}");
}

fn close(session: &Name) {
    use weir::pep::port::Executor as _;
    SANDBOX.close(&key(session).seat);
}

#[test]
fn bombs_are_stopped_and_said() {
    if skipped() {
        return;
    }
    let mut small = grant();
    small.limits.wall_ms = Millis(400);
    small.limits.memory_bytes = 64 << 20;
    let table = [
        ("for (;;);", "TimeLimit"),
        ("for (;;) { try { for (;;); } catch {} }", "TimeLimit"),
        ("(function f() { Promise.resolve().then(f) })(); await new Promise(() => {})", "TimeLimit"),
        ("setInterval(() => {}, 1)", "TimeLimit"),
        ("await new Promise(r => setTimeout(r, 60000))", "TimeLimit"),
        ("/(a+)+$/.test('a'.repeat(40) + 'b')", "TimeLimit"),
    ];
    for (code, wanted) in table {
        let started = Instant::now();
        let outcome = run_in(&fresh(), code, &small, &desk());
        assert_eq!((outcome.status, kind(&outcome)), (Status::Exhausted, wanted), "{code}: {:?}", outcome.error);
        assert!(outcome.replaced, "{code}");
        assert!(started.elapsed().as_millis() < 1_500, "{code}: {:?}", started.elapsed());
    }
    small.limits.wall_ms = Millis(8_000);
    for code in [
        "const a = []; for (;;) a.push(new Array(1000).fill(7))",
        "let s = 'x'; for (;;) s += s.repeat(2)",
        "const a = []; for (;;) a.push(new Uint8Array(1 << 20).fill(1))",
    ] {
        let outcome = run_in(&fresh(), code, &small, &desk());
        assert!(matches!(outcome.status, Status::Exhausted | Status::Failed), "{code}: {outcome:?}");
        assert!(outcome.usage.of(weir::model::Kind::MemoryBytes) <= 64 << 20, "{code}: {outcome:?}");
    }
}

#[test]
fn recursion_is_an_error_of_the_program_and_the_session_goes_on() {
    if skipped() {
        return;
    }
    let session = fresh();
    for code in [
        "function f() { return f() }; f()",
        "let o = {}; for (let i = 0; i < 1e5; i++) o = { o }; JSON.stringify(o)",
        "'('.repeat(1e5) + ')'.repeat(1e5); eval('('.repeat(1e5))",
        "const p = new Proxy({}, { get(t, k, r) { return r[k] } }); p.x",
        "let a = []; for (let i = 0; i < 1e5; i++) a = [a]; String(a)",
    ] {
        let outcome = run_in(&session, code, &grant(), &desk());
        assert_eq!(outcome.status, Status::Failed, "{code}: {outcome:?}");
        assert!(!outcome.replaced, "{code}");
    }
    assert_eq!(run_in(&session, "1 + 1", &grant(), &desk()).output, json!(2));
}

#[test]
fn a_session_keeps_nothing_when_the_grant_says_so_and_nothing_of_another() {
    if skipped() {
        return;
    }
    let mut nothing = grant();
    nothing.keep = Keep::Nothing;
    let session = fresh();
    run_in(&session, "globalThis.kept = 1", &nothing, &desk());
    assert_eq!(run_in(&session, "typeof kept", &nothing, &desk()).output, json!("undefined"));
    run_in(&session, "globalThis.kept = 1", &grant(), &desk());
    assert_eq!(run("typeof kept").output, json!("undefined"));
}

const HANDLE: &str = "00112233445566778899aabbccddeeff";

#[test]
fn an_object_of_the_host_goes_back_only_to_where_it_came_from() {
    if skipped() {
        return;
    }
    let handle = json!({"$": ["handle", HANDLE, "Image", "<Image 2x2>"]});
    let desk = desk().with("load", &[], Does::Give(json!({"image": handle.clone()})));
    let session = fresh();
    let code = "const i = load().image; [String(i), i instanceof HostObject, typeof i.pixels]";
    let outcome = run_in(&session, code, &grant(), &desk);
    assert_eq!(outcome.output, json!(["<host object Image: <Image 2x2>>", true, "undefined"]));
    assert_eq!(run_in(&session, "echo([i])", &grant(), &desk).output, json!([handle]));
    let forged = format!("echo(new HostObject('{HANDLE}', 'Image', 'x'))");
    let outcome = run_in(&fresh(), &forged, &grant(), &desk);
    assert!(message(&outcome).contains("no such object"), "{outcome:?}");
}

#[test]
fn values_that_javascript_lacks_come_back_as_they_went() {
    if skipped() {
        return;
    }
    let values = json!([
        {"$": ["decimal", "1.10"]}, {"$": ["date", "2026-01-02"]}, {"$": ["time", "23:59:00"]},
        {"$": ["datetime", "2026-01-02T03:04:05"]}, {"$": ["datetime", "2026-01-02T03:04:05.000678+00:00"]},
        {"$": ["timedelta", "-1.5"]}, {"$": ["fraction", "-1/3"]}, {"$": ["complex", [1.5, 2]]},
        {"$": ["uuid", "00000000-0000-0000-0000-000000000005"]}, {"$": ["path", "/a/b"]},
        {"$": ["int", "-123456789012345678901234567890"]}, {"$": ["dict", [[1, 2]]]}, {"$": ["str", "7aCA"]},
    ]);
    let variables = Map::from_iter([("x".to_owned(), values.clone())]);
    let outcome = SANDBOX.run(&in_javascript(&fresh()), "echo(x)", &variables, &grant(), &desk());
    assert_eq!(outcome.output, values, "{:?}", outcome.error);
    let code = "[`${x[0]}`, x[0].kind, x[10] - 1n === -123456789012345678901234567891n, `${x[7]}`]";
    let outcome = SANDBOX.run(&in_javascript(&fresh()), code, &variables, &grant(), &desk());
    assert_eq!(outcome.output, json!(["1.10", "decimal", true, "[ 1.5, 2 ] (complex)"]), "{:?}", outcome.error);
}

#[test]
fn a_result_over_its_limit_is_cut_and_said() {
    if skipped() {
        return;
    }
    let mut small = grant();
    small.limits.result_bytes = 1_000;
    let outcome = run_in(&fresh(), "'x'.repeat(5000)", &small, &desk());
    assert_eq!(outcome.status, Status::Done, "{outcome:?}");
    assert!(outcome.output["$"][2].as_str().is_some_and(|text| text.len() < 200), "{}", outcome.output);
    assert!(outcome.notices.iter().any(|notice| notice.contains("cut")), "{:?}", outcome.notices);
    let outcome = run_in(&fresh(), "echo('x'.repeat(5000))", &small, &desk());
    assert!(message(&outcome).contains("over the limit of 1000 bytes"), "{outcome:?}");
}

#[test]
fn the_same_program_uses_the_same_fuel() {
    if skipped() {
        return;
    }
    let code = "let n = 0; for (let i = 0; i < 20000; i++) n += i * Math.random(); echo(n)";
    let session = fresh();
    let used = || {
        let outcome = run_in(&session, code, &grant(), &desk());
        close(&session);
        outcome.usage.of(weir::model::Kind::Fuel)
    };
    let first = used();
    assert!(first > 100_000, "{first}");
    assert_eq!((first, first), (used(), used()));
}

#[test]
fn a_guest_that_poisons_the_language_spoils_its_own_session_only() {
    if skipped() {
        return;
    }
    let session = fresh();
    let code = "for (const p of [Array, Map, Set, Promise, String]) \
                for (const k of Object.getOwnPropertyNames(p.prototype)) try { p.prototype[k] = null } catch {}\n\
                JSON.parse = JSON.stringify = null; 1";
    let outcome = run_in(&session, code, &grant(), &desk());
    assert_ne!(outcome.status, Status::Done, "{outcome:?}");
    assert_eq!(run("[1, 2].map(v => v + 1)").output, json!([2, 3]));
}
