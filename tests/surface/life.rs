//! Sessions' ends, the gate's end, the journal's end.

use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::rig::{AGENT, OPERATOR, Rig, eventually, name};
use serde_json::json;
use weir::surface::{Config, Secret, ServeFault, Sidecar};

#[test]
fn sessions_are_bounded_closed_and_forgotten_when_idle() {
    let rig = Rig::start(|_| {});
    let ids: Vec<String> = (0..weir::model::Limits::SESSIONS).map(|_| rig.session()).collect();
    let reply = rig.post("/v1/sessions", json!({"tools": []}));
    assert_eq!((reply.status, reply.code().as_str()), (429, "session_limit"));
    assert_eq!(rig.ask(AGENT, "DELETE", &format!("/v1/sessions/{}", ids[0]), None).json(), json!({}));
    assert_eq!(*rig.script.closed.lock().unwrap(), [name(&ids[0])], "the executor forgets it");
    assert_eq!(rig.execute(&ids[0], "print x").status, 404);
    rig.session();
    let rig = Rig::start(|setup| setup.config.idle = Duration::from_millis(300));
    let session = rig.session();
    std::thread::scope(|scope| {
        let spinning = scope.spawn(|| rig.execute(&session, "spin"));
        std::thread::sleep(Duration::from_millis(700));
        assert!(rig.script.closed.lock().unwrap().is_empty(), "a busy session is not idle");
        rig.script.release.store(true, Ordering::SeqCst);
        assert_eq!(spinning.join().unwrap().json()["status"], "done");
    });
    eventually("idle", || *rig.script.closed.lock().unwrap() == [name(&session)]);
    assert_eq!(rig.execute(&session, "print x").status, 404);
}

#[test]
fn closing_a_busy_session_stops_it_and_forgets_it_once() {
    let rig = Rig::start(|_| {});
    let session = rig.session();
    std::thread::scope(|scope| {
        let spinning = scope.spawn(|| rig.execute(&session, "spin"));
        eventually("started", || rig.script.started.load(Ordering::SeqCst) == 1);
        assert_eq!(rig.ask(AGENT, "DELETE", &format!("/v1/sessions/{session}"), None).status, 200);
        assert_eq!(spinning.join().unwrap().json()["status"], "broken");
    });
    eventually("closed", || *rig.script.closed.lock().unwrap() == [name(&session)]);
}

#[test]
fn a_stop_lets_work_finish_and_takes_no_more() {
    let mut rig = Rig::start(|_| {});
    let session = rig.session();
    let event = rig.execute(&session, "call echo {}\ncall echo {}").json();
    rig.stop();
    eventually("stopping", || rig.get("/health/ready").status == 503);
    assert_eq!(rig.post("/v1/sessions", json!({"tools": []})).code(), "stopping");
    assert_eq!(rig.execute(&session, "print x").code(), "stopping");
    assert_eq!(rig.get("/health/live").status, 200);
    let second = rig.resume(&event, json!(1)).json();
    assert_eq!(rig.resume(&second, json!(2)).json()["output"], json!([1, 2]), "what had begun is finished");
    rig.ended();
    assert!(!rig.unix.exists() && UnixStream::connect(&rig.unix).is_err() && TcpStream::connect(rig.tcp).is_err());
    assert_eq!(*rig.script.closed.lock().unwrap(), [name(&session)]);
}

#[test]
fn a_stop_does_not_wait_for_ever() {
    let mut rig = Rig::start(|setup| setup.config.grace = Duration::from_millis(300));
    let (one, two) = (rig.session(), rig.session());
    let open = rig.post("/v1/decide", json!({"session": two, "action": "tool.call", "resource": "paid"})).json();
    assert_eq!(open["effect"], "allow");
    let start = Instant::now();
    let reply = std::thread::scope(|scope| {
        let spinning = scope.spawn(|| rig.execute(&one, "spin"));
        let asking =
            scope.spawn(|| rig.post("/v1/decide", json!({"session": two, "action": "tool.call", "resource": "risky"})));
        eventually("started", || rig.script.started.load(Ordering::SeqCst) == 1);
        eventually("asked", || rig.ask(OPERATOR, "GET", "/v1/approvals", None).text().contains("risky"));
        rig.stop();
        assert_eq!(asking.join().unwrap().json()["effect"], "deny", "nobody will answer any more");
        spinning.join().unwrap()
    });
    assert_eq!(reply.json()["status"], "broken", "the waiting client is told");
    rig.ended();
    assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
}

#[test]
fn a_failed_journal_stops_everything_and_says_so() {
    let rig = Rig::start(|_| {});
    let session = rig.session();
    let open = rig.post("/v1/decide", json!({"session": session, "action": "tool.call", "resource": "echo"})).json();
    rig.journal.fail();
    assert_eq!(rig.get("/health/ready").status, 200, "nobody has noticed yet");
    let reply = rig.post("/v1/outcome", json!({"call": open["call"], "status": "done"}));
    assert_eq!((reply.status, reply.code().as_str()), (503, "journal_failed"));
    let denied = rig.post("/v1/decide", json!({"session": session, "action": "tool.call", "resource": "echo"})).json();
    assert_eq!((&denied["effect"], &denied["receipt"]), (&json!("deny"), &json!(null)));
    let event = rig.execute(&session, "print x").json();
    assert_eq!((&event["status"], &event["receipt"]), (&json!("broken"), &json!(null)));
    assert!(!event.to_string().contains("secret"), "{event}");
    assert_eq!(rig.script.started.load(Ordering::SeqCst), 0, "nothing runs without a durable intent");
    for path in ["/health/ready", "/v1/receipts", "/v1/scores"] {
        assert_eq!(rig.get(path).code(), "journal_failed", "{path}");
    }
    assert_eq!(rig.get("/health/live").status, 200);
}

#[test]
fn a_sidecar_that_others_could_reach_does_not_start() {
    let config = || Config::new(name("acme"), name("coder"), Secret::new(AGENT).unwrap());
    let fault = |config: Config| Sidecar::bind(config).err().expect("must not start");
    assert!(matches!(fault(config()), ServeFault::Nowhere));
    let tcp = |text: &str| Config { tcp: Some(text.parse().unwrap()), ..config() };
    assert!(matches!(fault(tcp("0.0.0.0:0")), ServeFault::NotLoopback(_)));
    assert!(matches!(fault(tcp("[::]:0")), ServeFault::NotLoopback(_)));
    let same = Config { operator_token: Some(Secret::new(AGENT).unwrap()), ..tcp("127.0.0.1:0") };
    assert!(matches!(fault(same), ServeFault::SameToken));
    let foreign = Config { origins: vec!["https://evil.example".into()], ..tcp("127.0.0.1:0") };
    assert!(matches!(fault(foreign), ServeFault::Origin(_)));
    let rig = Rig::start(|_| {});
    let second = Config { unix: Some(rig.unix.clone()), ..config() };
    assert!(matches!(fault(second), ServeFault::InUse(_)), "two gates on one socket");
    assert_eq!(rig.get("/health/live").status, 200, "the first one is not disturbed");
}
