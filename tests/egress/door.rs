//! Who is let in, what passes, what stays behind, and how the proxies end.

use serde_json::json;
use weir::egress::Bounds;

use crate::fake::{Fake, Told};
use crate::rig::{KEY, Rig, Setup, TOKEN};

pub fn setup(kind: &'static str) -> Setup {
    Setup { policy: include_str!("policy.toml").to_owned(), kind, lines: String::new(), bounds: Bounds::default() }
}

#[test]
fn a_request_passes_with_the_providers_key_and_without_the_agents_token() {
    let fake = Fake::start(|_| {
        Told::json(200, &json!({"data": []})).with("set-cookie", "a=b").with("request-id", "req_1").with("x-own", "c")
    });
    let rig = Rig::start(&fake, setup("anthropic"));
    let headers = [
        ("anthropic-version", "2023-06-01"),
        ("anthropic-beta", "one-2025-01-01,two-2025-02-02"),
        ("cookie", "session=1"),
        ("te", "trailers"),
        ("authorization", "Bearer sk-ant-client-own-key"),
        ("accept-encoding", "gzip"),
        ("x-forwarded-for", "10.0.0.1"),
    ];
    let reply = rig.ask("GET", "/v1/models?limit=5", &headers, b"");
    assert_eq!((reply.status, reply.json()), (200, json!({"data": []})), "{}", reply.head);
    assert_eq!(reply.headers.get("request-id").map(String::as_str), Some("req_1"));
    assert!(!reply.headers.contains_key("set-cookie") && !reply.headers.contains_key("x-own"), "{}", reply.head);
    let asked = &fake.asked()[0];
    assert_eq!((asked.method.as_str(), asked.path.as_str()), ("GET", "/v1/models?limit=5"));
    let header = |name: &str| asked.headers.get(name).map(String::as_str);
    assert_eq!(header("x-api-key"), Some(KEY));
    assert_eq!(header("anthropic-version"), Some("2023-06-01"));
    assert_eq!(header("anthropic-beta"), Some("one-2025-01-01,two-2025-02-02"));
    assert_eq!(header("accept-encoding"), Some("identity"));
    for absent in ["cookie", "authorization", "te", "x-forwarded-for"] {
        assert_eq!(header(absent), None, "{absent}");
    }
    assert!(!format!("{asked:?}").contains(TOKEN) && !format!("{reply:?}").contains(KEY));
}

#[test]
fn nobody_without_the_token_or_from_elsewhere_is_heard() {
    let fake = Fake::start(|_| Told::json(200, &json!({})));
    let rig = Rig::start(&fake, setup("openai"));
    let status = |headers: &[(&str, &str)]| rig.raw("GET", "/v1/models", headers, b"").status;
    assert_eq!(status(&[]), 401);
    assert_eq!(status(&[("authorization", "Bearer wrong-token-0123456789")]), 401);
    assert_eq!(status(&[("x-api-key", TOKEN), ("host", "rebound.example")]), 403);
    assert_eq!(status(&[("x-api-key", TOKEN), ("origin", "http://localhost")]), 403);
    assert_eq!(status(&[("x-api-key", TOKEN), ("x-api-key", TOKEN)]), 400);
    assert_eq!(fake.asked().len(), 0);
    assert_eq!(status(&[("authorization", &format!("Bearer {TOKEN}"))]), 200);
    let refusal = rig.raw("GET", "/v1/models", &[], b"").json();
    assert_eq!(refusal["error"]["type"], "authentication_error", "{refusal}");
}

#[test]
fn what_no_protocol_knows_is_refused_and_never_forwarded() {
    let fake = Fake::start(|_| Told::json(200, &json!({})));
    let rig = Rig::start(&fake, setup("anthropic"));
    let paths = [
        ("POST", "/v1/complete"),
        ("POST", "/v1/messages/batches"),
        ("POST", "/v1/files"),
        ("GET", "/v1/files"),
        ("GET", "/v1/models/../files"),
        ("DELETE", "/v1/models"),
        ("POST", "//v1/messages"),
        ("POST", "/v1/messages/"),
        ("POST", "/v1/Messages"),
        ("PUT", "/v1/messages"),
        ("GET", "/v1/organizations/cost_report"),
    ];
    for (method, path) in paths {
        let reply = rig.ask(method, path, &[], b"{}");
        assert_eq!(reply.status, 403, "{method} {path}");
        assert_eq!(reply.json()["error"]["type"], "permission_error", "{method} {path}");
    }
    assert_eq!(fake.asked().len(), 0);
    assert_eq!(rig.ask("HEAD", "/", &[], b"").status, 200);
    let huge = "x".repeat(40 << 10);
    let reply = rig.ask("GET", "/v1/models", &[("x-app", &huge)], b"");
    assert_eq!((reply.status, fake.asked().len()), (431, 0));
}

#[test]
fn a_gate_that_ends_lets_go_of_its_ports() {
    let fake = Fake::start(|_| Told::json(200, &json!({})));
    let mut rig = Rig::start(&fake, setup("openai"));
    assert_eq!(rig.ask("GET", "/v1/models", &[], b"").status, 200);
    rig.stop();
    assert!(std::net::TcpListener::bind(rig.address).is_ok());
}
