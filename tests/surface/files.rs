//! The files of a session over HTTP: its owner's, whole, bounded, and nobody else's.

use std::collections::BTreeMap;
use std::sync::Mutex;

use serde_json::{Value, json};
use weir::model::{Digest, OutputFile, Quota, Seat};
use weir::pep::port::{KeepFault, Keeper, Kept, Point};

use crate::rig::{AGENT, OPERATOR, Reply, Rig};

/// A keeper of files in memory; the first part of a path may name a fault.
#[derive(Default)]
pub struct Shelf(Mutex<BTreeMap<(Seat, String), Vec<u8>>>);

fn fault(path: &str) -> Result<(), KeepFault> {
    match path.split('/').next() {
        Some("..") => Err(KeepFault::Refused("no part is `..`".into())),
        Some("busy") => Err(KeepFault::Busy),
        Some("full") => Err(KeepFault::Full("it does not fit".into())),
        Some("broken") => Err(KeepFault::Failed("EIO on /dev/secret".into())),
        Some("panic") => panic!("a bug in /src/secret.rs"),
        _ => Ok(()),
    }
}

fn file(path: &str, content: &[u8]) -> OutputFile {
    OutputFile { path: path.to_owned(), bytes: content.len() as u64, digest: Some(Digest::of(content)) }
}

fn none<T>() -> Result<T, KeepFault> {
    Err(KeepFault::Absent("checkpoint"))
}

impl Keeper for Shelf {
    fn list(&self) -> Vec<Kept> {
        Vec::new()
    }

    fn checkpoint(&self, _: &Seat) -> Result<Point, KeepFault> {
        none()
    }

    fn roll_back(&self, _: &Seat, _: Option<&str>) -> Result<Point, KeepFault> {
        none()
    }

    fn fork(&self, _: &Seat, _: Option<&str>, _: &Seat) -> Result<Point, KeepFault> {
        none()
    }

    fn remove(&self, seat: &Seat) -> Result<(), KeepFault> {
        self.0.lock().unwrap().retain(|(of, _), _| of != seat);
        Ok(())
    }

    fn furnish(&self, _: &Seat, _: &Quota) -> Result<(), KeepFault> {
        Ok(())
    }

    fn files(&self, seat: &Seat) -> Result<Vec<OutputFile>, KeepFault> {
        let files = self.0.lock().unwrap();
        Ok(files.iter().filter(|((of, _), _)| of == seat).map(|((_, path), content)| file(path, content)).collect())
    }

    fn read(&self, seat: &Seat, path: &str) -> Result<Vec<u8>, KeepFault> {
        fault(path)?;
        let found = self.0.lock().unwrap().get(&(seat.clone(), path.to_owned())).cloned();
        found.ok_or(KeepFault::Absent("file of this name"))
    }

    fn write(&self, seat: &Seat, path: &str, content: &[u8]) -> Result<OutputFile, KeepFault> {
        fault(path)?;
        self.0.lock().unwrap().insert((seat.clone(), path.to_owned()), content.to_vec());
        Ok(file(path, content))
    }
}

fn send(rig: &Rig, token: &str, method: &str, path: &str, headers: &str, body: &[u8]) -> Reply {
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nContent-Length: {}\r\n{headers}\r\n",
        body.len()
    );
    rig.unix().send(&[head.as_bytes(), body].concat())
}

const OCTETS: &str = "Content-Type: application/octet-stream\r\n";

fn put(rig: &Rig, session: &str, path: &str, body: &[u8]) -> Reply {
    send(rig, AGENT, "PUT", &format!("/v1/sessions/{session}/files/{path}"), OCTETS, body)
}

#[test]
fn a_file_comes_back_as_it_was_put() {
    let rig = Rig::start(|_| {});
    let (session, other) = (rig.session(), rig.session());
    let content: Vec<u8> = (0..=255).cycle().take(3_000_000).collect();
    for (path, kept) in [("a.bin", "a.bin"), ("d/e%20f/%C3%A4.txt", "d/e f/ä.txt")] {
        let reply = put(&rig, &session, path, &content);
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(reply.json(), json!({"path": kept, "bytes": content.len(), "digest": Digest::of(&content)}));
        let back = rig.get(&format!("/v1/sessions/{session}/files/{path}"));
        assert!(back.body == content, "{} bytes came back", back.body.len());
        assert!(back.head.contains("content-type: application/octet-stream\r\n"), "{}", back.head);
        assert!(back.head.contains("nosniff") && back.head.contains("attachment"), "{}", back.head);
    }
    assert_eq!(put(&rig, &session, "empty", b"").status, 200);
    assert_eq!(rig.get(&format!("/v1/sessions/{session}/files/empty")).body, b"");
    let paths = |session: &str| -> Vec<Value> {
        let files = rig.get(&format!("/v1/sessions/{session}/files")).json();
        files["files"].as_array().unwrap().iter().map(|file| file["path"].clone()).collect()
    };
    assert_eq!(paths(&session), ["a.bin", "d/e f/ä.txt", "empty"]);
    assert_eq!(paths(&other), Vec::<Value>::new(), "another session has none of them");
    assert_eq!(rig.get(&format!("/v1/sessions/{other}/files/a.bin")).code(), "not_found");
}

#[test]
fn files_are_their_owners() {
    let rig = Rig::start(|_| {});
    let session = rig.session();
    assert_eq!(put(&rig, &session, "a", b"x").status, 200);
    for path in [format!("/v1/sessions/{session}/files"), format!("/v1/sessions/{session}/files/a")] {
        assert_eq!(rig.ask(OPERATOR, "GET", &path, None).code(), "forbidden", "{path}");
        assert_eq!(rig.ask("somebody-else-0123456789", "GET", &path, None).code(), "unauthorized", "{path}");
    }
    for session in ["0123456789abcdef0123456789abcdef", "%00", "a%2Fb"] {
        assert_eq!(rig.get(&format!("/v1/sessions/{session}/files/a")).code(), "not_found", "{session}");
        assert_eq!(put(&rig, session, "a", b"x").code(), "not_found", "{session}");
    }
    assert_eq!(rig.ask(AGENT, "DELETE", &format!("/v1/sessions/{session}"), None).status, 200);
    assert_eq!(rig.get(&format!("/v1/sessions/{session}/files/a")).code(), "not_found", "closed");
}

#[test]
fn what_a_keeper_refuses_is_an_error_and_says_nothing_of_the_inside() {
    let rig = Rig::start(|_| {});
    let session = rig.session();
    for (path, status, code) in [
        ("nothing", 404, "not_found"),
        ("%2e%2e/a", 400, "malformed"),
        ("..%2Fa", 400, "malformed"),
        ("busy/a", 409, "conflict"),
        ("full/a", 413, "too_large"),
        ("broken/a", 500, "internal"),
        ("panic/a", 500, "internal"),
    ] {
        let reply = rig.get(&format!("/v1/sessions/{session}/files/{path}"));
        assert_eq!((reply.status, reply.code().as_str()), (status, code), "{path}");
        if path != "nothing" {
            let reply = put(&rig, &session, path, b"x");
            assert_eq!((reply.status, reply.code().as_str()), (status, code), "{path}");
        }
    }
    assert_eq!(rig.get(&format!("/v1/sessions/{session}/files/%FF")).code(), "not_found", "no text");
    assert_eq!(rig.get("/health/live").status, 200);
}

#[test]
fn a_file_too_large_or_of_another_type_is_not_taken() {
    let rig = Rig::start(|_| {});
    let session = rig.session();
    let path = format!("/v1/sessions/{session}/files/a");
    assert_eq!(put(&rig, &session, "a", &vec![0; (16 << 20) + 1]).code(), "too_large");
    assert_eq!(put(&rig, &session, "a", &vec![7; 16 << 20]).status, 200, "as much as may be");
    for headers in ["", "Content-Type: application/json\r\n", &format!("{OCTETS}Content-Encoding: gzip\r\n")] {
        let reply = send(&rig, AGENT, "PUT", &path, headers, b"{}");
        assert_eq!(reply.code(), "media_type", "{headers}");
    }
    assert_eq!(rig.get(&path).body.len(), 16 << 20, "what was refused changed nothing");
    for _ in 0..20 {
        assert_eq!(rig.get(&path).status, 200, "places come back");
    }
}

#[test]
fn the_last_event_names_the_files_and_the_tape() {
    let rig = Rig::start(|_| {});
    let session = rig.session();
    let done = rig.execute(&session, "file out/a.txt").json();
    let digest = Digest::of(b"out/a.txt");
    assert_eq!(done["files"], json!([{"path": "out/a.txt", "bytes": 9, "digest": digest}]), "{done}");
    assert_eq!(done["tape"], json!(digest));
    let done = rig.execute(&session, "print x").json();
    assert_eq!((&done["files"], &done["tape"]), (&json!([]), &Value::Null));
}
