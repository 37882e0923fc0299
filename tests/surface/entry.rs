//! Who may come in, and with what.

use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use crate::rig::{AGENT, OPERATOR, Rig, Wire, eventually, request};
use serde_json::json;

#[test]
fn only_the_token_opens_the_gate() {
    let rig = Rig::start(|_| {});
    for token in ["", "wrong-token-0123456789", "agent-token-012345678", "agent-token-01234567890"] {
        let reply = rig.ask(token, "GET", "/v1/budgets", None);
        assert_eq!((reply.status, reply.code().as_str()), (401, "unauthorized"), "{token}");
        assert!(reply.head.contains("www-authenticate: Bearer"));
    }
    let bare = rig.unix().send(b"GET /v1/budgets HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(bare.status, 401);
    let unknown_path = rig.unix().send(b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(unknown_path.status, 401, "a stranger does not learn which paths there are");
    assert_eq!(rig.ask(AGENT, "GET", "/nowhere", None).code(), "not_found");
    assert_eq!(rig.ask(AGENT, "PATCH", "/v1/budgets", None).code(), "method");
    assert_eq!(rig.get("/v1/budgets").status, 200);
    assert_eq!(rig.ask(OPERATOR, "POST", "/v1/sessions", Some(json!({"tools": []}))).status, 403);
    for open in ["/health/live", "/health/ready", "/openapi.json", "/docs"] {
        let reply = rig.tcp().send(format!("GET {open} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").as_bytes());
        assert_eq!(reply.status, 200, "{open}");
    }
}

#[test]
fn a_rebound_name_and_a_foreign_page_are_refused() {
    let rig = Rig::start(|setup| setup.config.origins = vec!["http://localhost:3000".into()]);
    let head = |lines: &str| format!("GET /v1/budgets HTTP/1.1\r\nAuthorization: Bearer {AGENT}\r\n{lines}\r\n");
    for bad in [
        "Host: rebound.example\r\n",
        "Host: localhost.rebound.example\r\n",
        "",
        "Host: localhost\r\nHost: rebound.example\r\n",
        "Host: localhost\r\nOrigin: http://evil.example\r\n",
        "Host: localhost\r\nOrigin: null\r\n",
        "Host: localhost\r\nOrigin: http://localhost:3001\r\n",
    ] {
        let status = rig.tcp().send(head(bad).as_bytes()).status;
        assert!(matches!(status, 400 | 403), "{status} for {bad:?}");
    }
    for good in ["Host: localhost\r\n", "Host: [::1]:1\r\n", "Host: 127.0.0.1\r\nOrigin: http://localhost:3000\r\n"] {
        assert_eq!(rig.tcp().send(head(good).as_bytes()).status, 200, "{good:?}");
    }
    assert_eq!(rig.unix().send(head("").as_bytes()).status, 200, "a Unix socket needs no Host");
    assert_eq!(rig.unix().send(head("Host: rebound.example\r\n").as_bytes()).status, 403);
    let preflight = "OPTIONS /v1/sessions HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.example\r\n\r\n";
    let reply = rig.tcp().send(preflight.as_bytes());
    assert!(reply.status == 403 && !reply.head.to_ascii_lowercase().contains("access-control"));
    let absolute = format!(
        "GET http://rebound.example/v1/budgets HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {AGENT}\r\n\r\n"
    );
    assert_eq!(rig.tcp().send(absolute.as_bytes()).status, 403);
}

#[test]
fn a_body_is_one_strict_json_value_or_nothing() {
    let rig = Rig::start(|_| {});
    let session = rig.session();
    let decide =
        |args: &str| format!(r#"{{"session":"{session}","action":"tool.call","resource":"echo","args":{args}}}"#);
    let deep = "[".repeat(100_000);
    let cases: Vec<Vec<u8>> = vec![
        decide(r#"{},"resource":"paid""#).into_bytes(),
        decide(r#"{"a":1,"a":2}"#).into_bytes(),
        decide(r#"{"a":{"\u0061b":1,"ab":1}}"#).into_bytes(),
        decide(r#"{},"surprise":1"#).into_bytes(),
        decide(r#"{},"Resource":"paid""#).into_bytes(),
        decide(r#"{"n":1e400}"#).into_bytes(),
        decide(r#"{"n":NaN}"#).into_bytes(),
        decide(r#"{"n":01}"#).into_bytes(),
        decide(r#"{"s":"\ud800"}"#).into_bytes(),
        decide(r#"{"t":{"$":["pickle","gASV"]}}"#).into_bytes(),
        decide(&format!(r#"{{"d":{deep}"#)).into_bytes(),
        decide("[]").into_bytes(),
        decide("{}").replace("echo", "echo\\u0000").into_bytes(),
        decide("{}").replace("echo", "echo\0").into_bytes(),
        decide("{}").replace("tool.call", "tool.Call").into_bytes(),
        decide("{}").replace("tool.call", "code.run").into_bytes(),
        [decide("{}").into_bytes(), b"{}".to_vec()].concat(),
        [&b"\xef\xbb\xbf"[..], decide("{}").as_bytes()].concat(),
        b"\"\xff\"".to_vec(),
        b"null".to_vec(),
        b" ".to_vec(),
    ];
    let before = rig.journal.count();
    for case in cases {
        let reply = rig.unix().send(&request("POST", "/v1/decide", AGENT, &case));
        let shown: String = String::from_utf8_lossy(&case).chars().take(120).collect();
        assert_eq!((reply.status, reply.code().as_str()), (400, "malformed"), "{shown}");
    }
    assert_eq!(rig.journal.count(), before, "nothing that was refused here reached the gate");
    assert_eq!(rig.post("/v1/decide", serde_json::from_str(&decide("{}")).unwrap()).json()["effect"], "allow");
}

#[test]
fn a_body_too_large_or_of_another_type_is_not_read() {
    let rig = Rig::start(|_| {});
    let large = vec![b' '; 9 << 20];
    assert_eq!(rig.unix().send(&request("POST", "/v1/decide", AGENT, &large)).code(), "too_large");
    let head = format!("POST /v1/decide HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {AGENT}\r\n");
    let chunked = format!("{head}Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n");
    let mut wire = rig.tcp();
    wire.write(chunked.as_bytes());
    let chunk = [format!("{:x}\r\n", 1 << 20).into_bytes(), vec![b' '; 1 << 20], b"\r\n".to_vec()].concat();
    (0..9).for_each(|_| wire.write(&chunk));
    assert_eq!(wire.read().code(), "too_large", "without a stated length too");
    for kind in ["text/plain", "application/json; charset=utf-16", "application/x-www-form-urlencoded"] {
        let typed = format!("{head}Content-Type: {kind}\r\nContent-Length: 2\r\n\r\n{{}}");
        assert_eq!(rig.tcp().send(typed.as_bytes()).code(), "media_type", "{kind}");
    }
    let untyped = format!("{head}Content-Length: 2\r\n\r\n{{}}");
    assert_eq!(rig.tcp().send(untyped.as_bytes()).code(), "media_type");
    let both = format!(
        "{head}Content-Type: application/json\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    );
    let smuggled = rig.tcp().send(both.as_bytes()).status;
    assert!((400..500).contains(&smuggled), "two lengths: {smuggled}");
    assert_eq!(rig.get("/health/live").status, 200);
}

#[test]
fn a_slow_client_is_cut_off() {
    let rig = Rig::start(|setup| setup.config.read_within = Duration::from_millis(300));
    let start = Instant::now();
    let mut wire = rig.tcp();
    wire.write(b"GET /v1/budgets HTTP/1.1\r\nHost: loc");
    let mut rest = Vec::new();
    drop(wire.0.read_to_end(&mut rest));
    assert!(start.elapsed() < Duration::from_secs(5), "an unfinished head is not waited for");
    let mut slow = rig.tcp();
    let head = format!("POST /v1/decide HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {AGENT}\r\n");
    slow.write(format!("{head}Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{{").as_bytes());
    assert_eq!(slow.read().code(), "slow");
    let mut huge = rig.tcp();
    drop(huge.0.write_all(format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(1 << 20)).as_bytes()));
    assert!(matches!(huge.0.read(&mut [0; 16]), Ok(_) | Err(_)));
    assert_eq!(rig.get("/health/live").status, 200);
}

#[test]
fn connections_are_bounded_and_places_come_back() {
    let rig = Rig::start(|setup| {
        setup.config.connections = 2;
        setup.config.read_within = Duration::from_millis(400);
    });
    let held: Vec<Wire<_>> = (0..2).map(|_| rig.tcp()).collect();
    let start = Instant::now();
    let third = rig.tcp().send(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(third.status, 200, "served once the idle ones were cut off");
    assert!(start.elapsed() >= Duration::from_millis(300), "the third had to wait");
    drop(held);
    let rig = Rig::start(|setup| setup.config.requests = 1);
    let session = rig.session();
    std::thread::scope(|scope| {
        // The question whether it is busy takes the one place as well, and may be first.
        let spinning = scope.spawn(|| {
            loop {
                let told = rig.execute(&session, "spin");
                if told.status != 429 {
                    break told;
                }
            }
        });
        eventually("busy", || rig.get("/health/live").status == 429);
        rig.script.release.store(true, std::sync::atomic::Ordering::SeqCst);
        assert_eq!(spinning.join().unwrap().status, 200);
    });
    assert_eq!(rig.get("/health/live").status, 200);
}
