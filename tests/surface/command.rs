//! `weir session` as a person types it, against a gate that serves on a socket and on loopback.

use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::rig::{AGENT, OPERATOR, Rig};

/// A folder with the two tokens.
struct Desk(tempfile::TempDir);

impl Desk {
    fn new() -> Self {
        let desk = Self(tempfile::tempdir().unwrap());
        for (file, token) in [("operator", OPERATOR), ("agent", AGENT), ("wrong", "a-token-that-nobody-knows")] {
            std::fs::write(desk.path(file), token).unwrap();
        }
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn weir(&self, args: &[&str]) -> Output {
        let store = self.path("store");
        Command::new(env!("CARGO_BIN_EXE_weir")).arg("session").args(args).env("WEIR_HOME", store).output().unwrap()
    }

    /// With the token of `who` at `url`: exit code, output, errors.
    fn ask(&self, url: &str, who: &str, args: &[&str]) -> (i32, String, String) {
        let file = self.path(who).display().to_string();
        let output = self.weir(&[args, &["--url", url, "--token-file", &file]].concat());
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }

    fn json(&self, url: &str, args: &[&str]) -> Value {
        let (code, out, err) = self.ask(url, "operator", &[args, &["--json"]].concat());
        assert_eq!(code, 0, "{err}");
        serde_json::from_str(&out).unwrap()
    }
}

#[test]
fn sessions_of_a_running_gate_are_listed_copied_taken_back_and_removed() {
    let (rig, desk) = (Rig::start(|_| {}), Desk::new());
    let urls = [format!("unix:{}", rig.unix.display()), format!("http://{}", rig.tcp)];
    assert_eq!(desk.ask(&urls[0], "operator", &["ls"]).1, "no session is kept\n");
    let session = rig.session();
    rig.execute(&session, "print x");
    let point = rig.post(&format!("/v1/sessions/{session}/checkpoints"), json!({})).json()["id"].clone();
    rig.execute(&session, "print x");
    for url in &urls {
        let (code, out, err) = desk.ask(url, "operator", &["ls"]);
        assert_eq!(code, 0, "{err}");
        assert!(out.starts_with("SESSION") && out.contains(&session) && out.contains("open"), "{out}");
        let shown = desk.ask(url, "agent", &["show", &session]).1;
        assert!(shown.contains(point.as_str().unwrap()) && shown.contains("steps   2"), "{shown}");
    }
    let url = &urls[0];
    assert_eq!(desk.json(url, &["rollback", &session])["id"], point);
    assert_eq!(desk.json(url, &["show", &session])["steps"], 1);
    assert_eq!(desk.ask(url, "operator", &["rollback", &session, "--checkpoint", "none"]).0, 2);
    let copy = desk.json(url, &["fork", &session])["session"].as_str().unwrap().to_owned();
    assert_eq!(rig.execute(&copy, "print x").json()["status"], "done");
    assert_eq!(desk.json(url, &["ls"])["sessions"].as_array().unwrap().len(), 2);
    let (code, out, _) = desk.ask(url, "operator", &["rm", &copy]);
    assert_eq!((code, out.contains("nothing is kept")), (0, true));
    assert_eq!(desk.json(url, &["ls"])["sessions"].as_array().unwrap().len(), 1);
}

#[test]
fn what_goes_wrong_says_what_to_do() {
    let (rig, desk) = (Rig::start(|_| {}), Desk::new());
    let url = format!("unix:{}", rig.unix.display());
    let session = rig.session();
    rig.execute(&session, "print x");
    let says = |url: &str, who: &str, args: &[&str], words: &[&str]| {
        let (code, out, err) = desk.ask(url, who, args);
        assert_eq!((code, out.as_str()), (2, ""), "{err}");
        assert!(err.len() < 500 && words.iter().all(|word| err.contains(word)), "{err}");
        assert!(!err.contains(OPERATOR) && !err.contains(AGENT), "a token is never shown");
    };
    says(&url, "wrong", &["ls"], &["does not know this token", "--operator-token-file"]);
    says(&url, "agent", &["rm", &session], &["the operator's"]);
    says(&url, "operator", &["rm", "none"], &["no such session", "kept"]);
    says(&url, "operator", &["show", "none"], &["weir session ls"]);
    says(&url, "operator", &["rm", "a b"], &["session `a b`"]);
    says("unix:/nowhere/gate.sock", "operator", &["ls"], &["no gate listens", "weir serve", "--store"]);
    says("http://10.0.0.1:80", "operator", &["ls"], &["this machine only"]);
    says("ftp://x", "operator", &["ls"], &["unix:PATH"]);
    says(&url, "missing", &["ls"], &["missing"]);
    let busy = rig.execute(&session, "call echo {}").json();
    says(&url, "operator", &["rollback", &session], &["has not ended"]);
    rig.resume(&busy, json!(1));
    assert_eq!(desk.weir(&["ls", "--url", &url]).status.code(), Some(2), "a token is needed");
}

#[test]
fn without_a_gate_the_store_is_looked_into() {
    let desk = Desk::new();
    let text =
        |output: Output| (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap());
    assert_eq!(text(desk.weir(&["ls"])), (Some(0), "no session is kept\n".to_owned()));
    assert_eq!(text(desk.weir(&["ls", "--json"])), (Some(0), "{\"sessions\":[]}\n".to_owned()));
    assert!(!desk.path("store").exists(), "nothing is made by looking");
    let (code, said) = text(desk.weir(&["fork", "one"]));
    assert_eq!((code, said.contains("running gate")), (Some(2), true), "{said}");
    std::fs::create_dir_all(desk.path("store/sessions")).unwrap();
    std::fs::write(desk.path("store/sessions/index"), b"not an index of ours").unwrap();
    let (code, said) = text(desk.weir(&["ls"]));
    assert_eq!((code, said.contains("index was changed")), (Some(2), true), "{said}");
}
