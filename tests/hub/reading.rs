//! Downloads: pinned, held to their digests, code refused, and the reason where the client shows it.

use serde_json::json;

use crate::fake::{COMMIT, Fake, OLD, sha256};
use crate::rig::{KEY, POLICY, Rig, Setup, TOKEN};

const WEIGHTS: usize = 300_000;

fn hub() -> Fake {
    let fake = Fake::start();
    fake.file("models/team/base", "config.json", b"{\"a\": 1}", false);
    fake.file("models/team/base", "w/model.safetensors", &vec![7; WEIGHTS], true);
    fake.file("models/team/base", "modeling.py", b"import os", false);
    fake.file("models/team/base", "data.json", b"\x80\x04\x95pickle", false);
    fake.file("models/team/old", "pytorch_model.bin", b"PK\x03\x04....archive/data.pkl", true);
    fake.file("models/team/other", "config.json", b"{}", false);
    fake
}

#[test]
fn a_pinned_file_arrives_whole_with_what_its_client_reads() {
    let fake = hub();
    let rig = Rig::new(&fake);
    for at in [COMMIT, "main"] {
        let small = rig.get(&format!("/team/base/resolve/{at}/config.json"));
        assert_eq!((small.status, small.body.as_slice()), (200, &b"{\"a\": 1}"[..]), "{}", small.text());
        assert_eq!(small.headers["x-repo-commit"], COMMIT);
        let head = rig.ask("HEAD", &format!("/team/base/resolve/{at}/w/model.safetensors"), &[], b"");
        assert_eq!((head.status, head.headers["content-length"].as_str()), (200, "300000"));
        let digest = format!("\"{}\"", sha256(&vec![7; WEIGHTS]));
        assert_eq!((&head.headers["etag"], &head.headers["x-linked-etag"]), (&digest, &digest));
        assert_eq!(head.headers["x-linked-size"], "300000");
        let large = rig.get(&format!("/team/base/resolve/{at}/w/model.safetensors"));
        assert!(large.status == 200 && large.whole && large.body == vec![7; WEIGHTS]);
        assert!(
            ![small, head, large]
                .iter()
                .any(|reply| reply.headers.keys().any(|key| key.contains("xet") || key == "link"))
        );
    }
    let world = fake.world();
    assert!(world.asked.iter().all(|asked| asked.token.as_deref() != Some(TOKEN)), "the agent's token went out");
    let blobs: Vec<_> = world.asked.iter().filter(|asked| asked.path.starts_with("/blob")).collect();
    assert!(blobs.len() == 2 && blobs.iter().all(|asked| asked.token.is_none()), "the real token went to another host");
    let api = world.asked.iter().filter(|asked| !asked.path.starts_with("/blob"));
    assert!(api.into_iter().all(|asked| asked.token.as_deref() == Some(KEY)));
}

#[test]
fn what_is_not_pinned_is_refused_with_what_is_and_nothing_is_asked() {
    let fake = hub();
    let rig = Rig::new(&fake);
    for path in [
        "/team/other/resolve/main/config.json".to_owned(),
        format!("/team/base/resolve/{OLD}/config.json"),
        format!("/Team/Base/resolve/{COMMIT}/config.json"),
        format!("/datasets/team/base/resolve/{COMMIT}/config.json"),
    ] {
        let reply = rig.get(&path);
        assert_eq!((reply.status, reply.headers["x-error-code"].as_str()), (403, "GatedRepo"), "{path}");
        let text = &reply.headers["x-error-message"];
        assert!(text.contains("not pinned") && text.contains("[weir] denied") && text.len() <= 400, "{text}");
    }
    let api = rig.get("/api/models/team/other");
    assert!(api.status == 403 && !api.headers.contains_key("x-error-code"));
    assert_eq!(fake.world().asked.len(), 0);
    fake.world().repos.get_mut("models/team/base").unwrap().refs.insert("main".into(), OLD.into());
    let moved = rig.get("/team/base/resolve/main/config.json");
    assert!(moved.status == 403 && moved.headers["x-error-message"].contains(OLD), "{moved:?}");
    assert!(moved.headers["x-error-message"].contains(COMMIT));
    assert_eq!(fake.count("GET", "/team/base/resolve"), 0);
}

#[test]
fn code_is_refused_by_its_name_and_by_its_bytes_unless_the_pin_says_so() {
    let fake = hub();
    let rig = Rig::new(&fake);
    let by_name = rig.get(&format!("/team/base/resolve/{COMMIT}/modeling.py"));
    assert!(by_name.status == 403 && by_name.headers["x-error-message"].contains("runs as code"), "{by_name:?}");
    assert_eq!(fake.world().asked.len(), 0);
    let by_bytes = rig.get(&format!("/team/base/resolve/{COMMIT}/data.json"));
    assert!(by_bytes.status == 403 && by_bytes.headers["x-error-message"].contains("a pickle"), "{by_bytes:?}");
    let permitted = rig.get(&format!("/team/old/resolve/{COMMIT}/pytorch_model.bin"));
    assert!(permitted.status == 200 && permitted.whole);
}

#[test]
fn bytes_that_are_not_what_was_promised_never_arrive_whole() {
    let fake = hub();
    fake.world().corrupt.extend(["config.json".to_owned(), "w/model.safetensors".to_owned()]);
    let rig = Rig::new(&fake);
    let small = rig.get(&format!("/team/base/resolve/{COMMIT}/config.json"));
    assert!(small.status == 403 && small.headers["x-error-message"].contains("digest"), "{small:?}");
    let large = rig.get(&format!("/team/base/resolve/{COMMIT}/w/model.safetensors"));
    assert!(large.status == 200 && !large.whole && large.body.len() < WEIGHTS, "{} of {WEIGHTS}", large.body.len());
    rig.until("both outcomes", |rig| rig.entries().matches("\"broken\"").count() >= 2);
    fake.world().corrupt.clear();
    assert!(rig.get(&format!("/team/base/resolve/{COMMIT}/w/model.safetensors")).whole);
}

#[test]
fn a_host_that_nobody_listed_gets_no_request() {
    let fake = hub();
    fake.world().elsewhere = Some("http://127.0.0.1:1".into());
    let rig = Rig::new(&fake);
    let reply = rig.get(&format!("/team/base/resolve/{COMMIT}/w/model.safetensors"));
    assert!(reply.status == 403 && reply.headers["x-error-message"].contains("blob_hosts"), "{reply:?}");
}

#[test]
fn questions_about_a_pinned_repository_are_answered_from_its_list_of_files() {
    let fake = hub();
    let rig = Rig::new(&fake);
    let info = rig.get("/api/models/team/base").json();
    assert_eq!((&info["sha"], info["siblings"].as_array().unwrap().len()), (&json!(COMMIT), 4));
    let tree = rig.get("/api/models/team/base/tree/main?recursive=True&expand=False");
    assert!(!tree.text().contains("xet") && tree.text().contains("w/model.safetensors"));
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let paths =
        rig.ask("POST", "/api/models/team/base/paths-info/main", &form, b"paths=config.json&paths=none&expand=False");
    assert_eq!(paths.json().as_array().unwrap().len(), 1);
    assert_eq!(rig.get("/api/models/team/base/refs").json()["branches"][0]["targetCommit"], COMMIT);
    let missing = rig.get(&format!("/team/base/resolve/{COMMIT}/none.json"));
    assert_eq!((missing.status, missing.headers["x-error-code"].as_str()), (404, "EntryNotFound"));
    assert_eq!(fake.count("GET", "/api/models/team/base/tree"), 1, "the list is read once");
}

#[test]
fn a_pin_with_a_digest_binds_every_file() {
    let fake = hub();
    let pinned = |digest: &str| {
        let pin = format!("revision = \"{COMMIT}\"\n");
        Setup { policy: POLICY.replacen(&pin, &format!("{pin}digest = \"sha256:{digest}\"\n"), 1), ..Setup::default() }
    };
    let rig = Rig::with(&fake, &pinned(&"0".repeat(64)));
    let reply = rig.get(&format!("/team/base/resolve/{COMMIT}/config.json"));
    let text = &reply.headers["x-error-message"];
    assert!(reply.status == 403 && text.contains("not the pinned one"), "{text}");
    let found = text.split("sha256:").nth(1).unwrap()[..64].to_owned();
    let rig = Rig::with(&fake, &pinned(&found));
    assert_eq!(rig.get(&format!("/team/base/resolve/{COMMIT}/config.json")).status, 200);
    fake.file("models/team/base", "config.json", b"{\"a\": 2}", false);
    let rig = Rig::with(&fake, &pinned(&found));
    assert_eq!(rig.get(&format!("/team/base/resolve/{COMMIT}/config.json")).status, 403);
}

#[test]
fn the_gate_answers_who_the_agent_is_and_nothing_of_the_owner() {
    let fake = hub();
    let rig = Rig::new(&fake);
    let who = rig.get("/api/whoami-v2");
    assert_eq!((who.status, &who.json()["name"]), (200, &json!("team")));
    assert_eq!(
        rig.raw("GET", "/api/whoami-v2", &[("authorization", "Bearer hf_own_token_of_somebody")], b"").status,
        401
    );
    assert_eq!(rig.post("/api/validate-yaml", &json!({"content": "secret"})).status, 200);
    assert_eq!(fake.world().asked.len(), 0);
}
