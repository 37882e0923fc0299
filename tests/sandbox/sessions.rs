//! Sessions: what lives on, what does not, and that nobody sees another's.

use std::thread;

use serde_json::{Map, json};
use weir::model::{Keep, Name, Outcome, Status};
use weir::sandbox::{Key, Sandbox, SandboxConfig};

use super::desk::{Desk, Does, SANDBOX, close, fresh, grant, key, kind, message, name, run_in, wall};

fn tells_the_loss(outcome: &Outcome) -> bool {
    outcome.notices.iter().any(|notice| notice.contains("variables") && notice.contains("gone"))
}

#[test]
fn nothing_of_one_session_is_seen_in_another() {
    let (a, b, desk) = (fresh(), fresh(), Desk::default());
    let poison = "import json, sys, builtins\nsecret = 'tenant A'\nbuiltins.len = lambda x: 99\n\
                  sys.modules['math'] = 5\njson.dumps = None\nprint(secret)";
    let mut all = grant();
    all.imports.extend(["builtins".into(), "gc".into()]);
    assert_eq!(run_in(&a, poison, &all, &desk).status, Status::Done);
    let look = "import json, math, gc\nfound = any(o == 'ten' + 'ant A' for o in gc.get_objects() if type(o) is str)\n\
                (len([1]), math.floor(1.5), json.dumps(1), 'secret' in globals(), found)";
    let outcome = run_in(&b, look, &all, &desk);
    assert_eq!(outcome.output, json!({"$": ["tuple", [1, 1, "1", false, false]]}), "{:?}", outcome.error);
}

#[test]
fn after_a_stop_the_session_is_replaced_and_the_agent_is_told() {
    let (session, mut grant, desk) = (fresh(), grant(), Desk::default());
    grant.limits.wall_ms.0 = 300;
    assert!(!tells_the_loss(&run_in(&session, "x = 1", &grant, &desk)));
    assert!(tells_the_loss(&run_in(&session, "while True: pass", &grant, &desk)));
    let next = run_in(&session, "x", &grant, &desk);
    assert_eq!((next.status, kind(&next)), (Status::Failed, "NameError"));
    assert!(!tells_the_loss(&next), "it was told once");
}

#[test]
fn variables_live_as_long_as_the_grant_says() {
    let desk = Desk::default();
    let go = |session: &Name, run: &str, code: &str, keep: Keep| {
        let mut grant = grant();
        grant.keep = keep;
        SANDBOX.run(&Key { run: name(run), ..key(session) }, code, &Map::new(), &grant, &desk)
    };
    let seen = "'x' in globals()";
    for (keep, same_run, other_run) in
        [(Keep::Nothing, false, false), (Keep::Run, true, false), (Keep::Session, true, true)]
    {
        let session = fresh();
        go(&session, "r1", "x = 1", keep);
        assert_eq!(go(&session, "r1", seen, keep).output, json!(same_run), "{keep:?}");
        go(&session, "r1", "x = 1", keep);
        let other = go(&session, "r2", seen, keep);
        assert_eq!(other.output, json!(other_run), "{keep:?}");
        assert!(!tells_the_loss(&other), "{keep:?}: nothing was promised");
    }
}

#[test]
fn a_changed_grant_gets_a_new_interpreter_and_says_so() {
    let (session, mut grant, desk) = (fresh(), grant(), Desk::default());
    run_in(&session, "x = 1", &grant, &desk);
    grant.clock = weir::model::Clock::Real;
    let outcome = run_in(&session, "'x' in globals()", &grant, &desk);
    assert_eq!(outcome.output, json!(false));
    assert!(tells_the_loss(&outcome), "{:?}", outcome.notices);
    grant.imports.clear();
    assert!(!tells_the_loss(&run_in(&session, "1", &grant, &desk)), "imports are told anew each time");
}

#[test]
fn the_least_recently_used_session_goes_first_and_is_told() {
    let small = Sandbox::open(SandboxConfig { sessions: 2, ..SandboxConfig::new(wall()) }).unwrap();
    let (a, b, c, desk) = (name("a"), name("b"), name("c"), Desk::default());
    let go = |session: &Name, code: &str| small.run(&key(session), code, &Map::new(), &grant(), &desk);
    go(&a, "x = 'a'");
    go(&b, "x = 'b'");
    assert_eq!(go(&a, "x").output, json!("a"));
    go(&c, "x = 'c'");
    assert_eq!(go(&a, "x").output, json!("a"), "used after b");
    let lost = go(&b, "'x' in globals()");
    assert_eq!(lost.output, json!(false));
    assert!(
        tells_the_loss(&lost) && lost.notices.iter().any(|n| n.contains("too many sessions")),
        "{:?}",
        lost.notices
    );
}

#[test]
fn a_closed_session_is_gone() {
    let (session, desk) = (fresh(), Desk::default());
    run_in(&session, "x = 1", &grant(), &desk);
    close(&session);
    let outcome = run_in(&session, "'x' in globals()", &grant(), &desk);
    assert_eq!(outcome.output, json!(false));
    assert!(!tells_the_loss(&outcome));
}

#[test]
fn two_programs_never_share_a_session() {
    let session = fresh();
    let desk = Desk::default().with("slow", &[], Does::Sleep(600));
    thread::scope(|scope| {
        let first = scope.spawn(|| run_in(&session, "slow()", &grant(), &desk));
        thread::sleep(std::time::Duration::from_millis(250));
        let second = run_in(&session, "1", &grant(), &desk);
        assert_eq!(second.status, Status::Broken);
        assert!(message(&second).contains("already running"), "{}", message(&second));
        assert_eq!(first.join().unwrap().output, json!("slept"));
    });
    assert_eq!(run_in(&session, "2", &grant(), &desk).output, json!(2));
}

#[test]
fn sessions_run_side_by_side() {
    let desk = Desk::default();
    thread::scope(|scope| {
        for index in 0..8 {
            let desk = &desk;
            scope.spawn(move || {
                let session = fresh();
                run_in(&session, &format!("x = {index}"), &grant(), desk);
                assert_eq!(run_in(&session, "x * 2", &grant(), desk).output, json!(index * 2));
            });
        }
    });
}
