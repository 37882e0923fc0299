//! Uploads: to granted repositories only, counted, with every address of the Hub's behind a ticket.

use serde_json::{Value, json};
use weir::model::Kind;

use crate::fake::{Fake, sha256};
use crate::rig::{KEY, POLICY, Rig, Setup};

fn commit(lines: &[Value]) -> Vec<u8> {
    let header = json!({"key": "header", "value": {"summary": "s", "description": ""}});
    let lines = std::iter::once(&header).chain(lines).map(|line| format!("{line}\n"));
    lines.collect::<String>().into_bytes()
}

fn small() -> Value {
    json!({"key": "file", "value": {"path": "a.json", "content": "e30=", "encoding": "base64"}})
}

const NDJSON: [(&str, &str); 1] = [("content-type", "application/x-ndjson")];

#[test]
fn a_granted_repository_takes_a_commit_and_its_bytes_are_counted() {
    let fake = Fake::start();
    let rig = Rig::new(&fake);
    let files =
        json!({"files": [{"path": "a.json", "sample": "e30=", "size": 2}, {"path": "w", "sample": "", "size": 5000}]});
    let modes = rig.post("/api/models/team/out/preupload/main", &files).json();
    let mode = |at: usize| modes["files"][at]["uploadMode"].as_str().unwrap().to_owned();
    assert_eq!((mode(0), mode(1)), ("regular".into(), "lfs".into()), "Xet would pass by the gate");
    let before = rig.posted(Kind::EgressBytes);
    let body = commit(&[small()]);
    let reply = rig.ask("POST", "/api/models/team/out/commit/main", &NDJSON, &body);
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert!(reply.json()["commitOid"].is_string() && !reply.text().contains("the owner"));
    assert_eq!(rig.posted(Kind::EgressBytes) - before, body.len() as u64);
    assert_eq!(fake.world().asked.last().unwrap().body, body);
    assert_eq!(fake.world().asked.last().unwrap().token.as_deref(), Some(KEY));
}

#[test]
fn nothing_else_is_changed() {
    let fake = Fake::start();
    let rig = Rig::new(&fake);
    let refused = |reply: &crate::rig::Reply, word: &str| {
        let text = reply.headers.get("x-error-message").cloned().unwrap_or_default();
        assert!(reply.status == 403 && text.contains(word) && text.len() <= 400, "{word}: {} {text}", reply.status);
    };
    refused(&rig.ask("POST", "/api/models/team/base/commit/main", &NDJSON, &commit(&[small()])), "changed");
    refused(&rig.ask("POST", "/api/datasets/team/out/commit/main", &NDJSON, &commit(&[small()])), "changed");
    let deletion = json!({"key": "deletedFile", "value": {"path": "a.json"}});
    refused(&rig.ask("POST", "/api/models/team/out/commit/main", &NDJSON, &commit(&[deletion])), "deletes none");
    refused(
        &rig.post("/api/repos/create", &json!({"name": "out", "organization": "team", "visibility": "public"})),
        "private",
    );
    refused(&rig.post("/api/repos/create", &json!({"name": "new", "organization": "team"})), "changed");
    refused(
        &rig.post("/api/repos/create", &json!({"name": "out", "organization": "team", "hardware": "a100"})),
        "hardware",
    );
    refused(
        &rig.post("/api/repos/create", &json!({"name": "out", "organization": "team", "type": "space"})),
        "models and datasets",
    );
    for (method, path, word) in [
        ("DELETE", "/api/repos/delete", "deleted"),
        ("POST", "/api/repos/move", "moved"),
        ("PUT", "/api/models/team/out/settings", "public"),
        ("POST", "/api/models/team/out/branch/x", "branches"),
        ("DELETE", "/api/models/team/out/tag/x", "tags"),
        ("POST", "/api/models/team/out/discussions/1/merge", "merging"),
        ("POST", "/api/models/team/out/super-squash/main", "history"),
        ("POST", "/api/spaces/team/s/hardware", "machine"),
        ("POST", "/api/spaces/team/s/secrets", "secrets"),
        ("POST", "/api/settings/webhooks", "webhooks"),
        ("GET", "/api/models/team/out/xet-write-token/main", "HF_HUB_DISABLE_XET"),
        ("POST", "/api/buckets/team/b", "buckets"),
    ] {
        refused(&rig.ask(method, path, &[], b"{}"), word);
    }
    assert_eq!(fake.world().asked.len(), 0);
    let made = rig.post("/api/repos/create", &json!({"name": "out", "organization": "team", "type": "model"}));
    assert!(made.status == 200 && !made.text().contains(KEY), "{}", made.text());
    let sent: Value = serde_json::from_slice(&fake.world().asked[0].body).unwrap();
    assert_eq!(sent["visibility"], "private");
    fake.world().quotes = true;
    let quoting = rig.post("/api/repos/create", &json!({"name": "out", "organization": "team", "type": "model"}));
    let heads: String = quoting.headers.values().cloned().collect();
    assert!(quoting.status == 403 && !quoting.text().contains(KEY) && !heads.contains(KEY), "{}", quoting.text());
}

fn batch(rig: &Rig, bytes: &[u8]) -> Value {
    let objects = json!([{"oid": sha256(bytes), "size": bytes.len()}]);
    let body = json!({"operation": "upload", "transfers": ["basic", "multipart", "xet"], "objects": objects, "hash_algo": "sha256"});
    let reply = rig.post("/team/out.git/info/lfs/objects/batch", &body);
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert!(!reply.text().contains("localhost:"), "an address of the Hub's: {}", reply.text());
    reply.json()["objects"][0]["actions"].clone()
}

fn path(href: &Value) -> String {
    let href = href.as_str().unwrap();
    format!("/{}", href.splitn(4, '/').nth(3).unwrap())
}

#[test]
fn a_large_file_goes_by_ticket_and_only_as_announced() {
    let fake = Fake::start();
    let rig = Rig::new(&fake);
    let bytes = vec![9; 200_000];
    let actions = batch(&rig, &bytes);
    let put = path(&actions["upload"]["href"]);
    let before = rig.posted(Kind::EgressBytes);
    // The client sends no token here.
    assert_eq!(rig.raw("PUT", &put, &[], &bytes).status, 200);
    assert_eq!(rig.posted(Kind::EgressBytes) - before, 200_000);
    assert_eq!(fake.world().sent[&sha256(&bytes)], bytes);
    let verify = json!({"oid": sha256(&bytes), "size": bytes.len()}).to_string();
    assert_eq!(rig.raw("POST", &path(&actions["verify"]["href"]), &[], verify.as_bytes()).status, 200);
    fake.world().sent.clear();
    let mut other = bytes.clone();
    other[199_999] = 8;
    assert_eq!(rig.raw("PUT", &put, &[], &other).status, 403);
    assert_eq!(rig.raw("PUT", &put, &[], &bytes[1..]).status, 403);
    assert_eq!(rig.raw("POST", &put, &[], b"{}").status, 403);
    assert_eq!(rig.raw("PUT", "/weir/lfs/0123456789abcdef", &[], &bytes).status, 403);
    assert!(fake.world().sent.is_empty(), "nothing else arrived whole");
    let asked = fake.world().asked.clone();
    let puts: Vec<_> = asked.iter().filter(|asked| asked.method == "PUT").collect();
    assert!(!puts.is_empty() && puts.iter().all(|asked| asked.token.is_none()), "the real token went to another host");
}

#[test]
fn a_file_in_parts_goes_part_by_part() {
    let fake = Fake::start();
    fake.world().parts = true;
    let rig = Rig::new(&fake);
    let bytes: Vec<u8> = (0..100_001_u32).map(|number| u8::try_from(number % 251).unwrap()).collect();
    let actions = batch(&rig, &bytes);
    let header = &actions["upload"]["header"];
    let chunk: usize = header["chunk_size"].as_str().unwrap().parse().unwrap();
    for (number, part) in ["1", "2"].iter().zip(bytes.chunks(chunk)) {
        let reply = rig.raw("PUT", &path(&header[number]), &[], part);
        assert_eq!((reply.status, reply.headers["etag"].as_str()), (200, "\"tag\""), "{}", reply.text());
    }
    assert_eq!(rig.raw("POST", &path(&actions["upload"]["href"]), &[], b"{\"parts\": []}").status, 200);
    let world = fake.world();
    let oid = sha256(&bytes);
    assert_eq!([world.sent[&format!("{oid}1")].clone(), world.sent[&format!("{oid}2")].clone()].concat(), bytes);
}

#[test]
fn bytes_beyond_the_budget_stay_here() {
    let fake = Fake::start();
    let setup = Setup { policy: POLICY.replace("limit = 10_000_000", "limit = 1_000"), ..Setup::default() };
    let rig = Rig::with(&fake, &setup);
    let long = json!({"key": "file", "value": {"path": "a", "content": "QUJD".repeat(500), "encoding": "base64"}});
    let reply = rig.ask("POST", "/api/models/team/out/commit/main", &NDJSON, &commit(&[long]));
    assert_eq!((reply.status, fake.world().asked.len()), (402, 0), "{}", reply.text());
}
