//! A gate is killed while a person is asked; the person answers at the store, and the call goes on at the next gate.
//! The binary from end to end: `weir serve`, `weir budget`, SIGKILL.
#![cfg(feature = "cli")]

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// One folder with everything that outlives a gate.
struct Place(tempfile::TempDir);

/// A gate's process, killed with the test.
struct Serving(Child);

impl Drop for Serving {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        let policy = include_str!("surface/policy.toml").replace("timeout_ms = 10_000", "timeout_ms = 600_000");
        let policy = policy.replacen("at_cap = \"deny\"", "at_cap = \"ask\"", 1);
        std::fs::write(place.path("policy.toml"), policy).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn weir(&self) -> Command {
        let mut weir = Command::new(env!("CARGO_BIN_EXE_weir"));
        weir.current_dir(self.0.path()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        weir
    }

    fn serve(&self) -> Serving {
        let args =
            "serve --policy policy.toml --socket run/gate.sock --token-file agent --operator-token-file operator";
        let child = self.weir().args(args.split(' ')).args(["--store", "store"]).stderr(Stdio::null()).spawn().unwrap();
        let serving = Serving(child);
        eventually("the gate listens", || self.post("/v1/sessions", &json!({"tools": []})).is_some());
        serving
    }

    /// `weir budget` at the store: exit code, output and errors.
    fn budget(&self, args: &str) -> (i32, String) {
        let mut weir = self.weir();
        let Output { status, stdout, stderr } =
            weir.arg("budget").args(args.split(' ')).args(["--store", "store"]).output().unwrap();
        (status.code().unwrap(), String::from_utf8([stdout, stderr].concat()).unwrap())
    }

    /// What the gate answers the agent; `None` when none listens, or it goes meanwhile.
    fn post(&self, path: &str, body: &Value) -> Option<Value> {
        let token = std::fs::read_to_string(self.path("agent")).ok()?;
        let mut stream = UnixStream::connect(self.path("run/gate.sock")).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let body = body.to_string();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            token.trim(),
            body.len()
        );
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes())).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()
    }

    fn decide(&self, session: &Value, tool: &str) -> Option<Value> {
        let args = json!({"word": "swordfish"});
        self.post("/v1/decide", &json!({"session": session, "action": "tool.call", "resource": tool, "args": args}))
    }

    /// A session in which a question waits, and the gate gone in the midst of it.
    fn killed(&self, tool: &str, before: usize) -> Value {
        let mut serving = self.serve();
        let session = self.post("/v1/sessions", &json!({"tools": []})).unwrap()["session"].clone();
        for _ in 0..before {
            assert_eq!(self.decide(&session, tool).unwrap()["effect"], "allow");
        }
        std::thread::scope(|scope| {
            let asking = scope.spawn(|| self.decide(&session, tool));
            let kept = || std::fs::read_dir(self.path("store/questions")).is_ok_and(|files| files.count() == 1);
            eventually("a person is asked", kept);
            serving.0.kill().unwrap();
            serving.0.wait().unwrap();
            assert_eq!(asking.join().unwrap(), None, "nobody answered");
        });
        session
    }

    fn resumed(&self, session: &Value) -> Serving {
        let serving = self.serve();
        let open = self.post("/v1/sessions", &json!({"tools": [], "resume": session})).unwrap();
        assert_eq!(open["session"], *session, "{open}");
        serving
    }
}

fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is() {
        assert!(start.elapsed() < Duration::from_secs(300), "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn id_of(text: &str) -> String {
    text.split(' ').next().unwrap().to_owned()
}

#[test]
fn a_killed_gate_leaves_its_question_to_be_answered_at_the_store() {
    let place = Place::new();
    let session = place.killed("risky", 0);
    let journal = std::fs::read(place.path("store/journal.db")).unwrap();
    let log = std::fs::read(place.path("store/journal.db-wal")).unwrap_or_default();
    let secret = b"swordfish";
    assert!([journal, log].concat().windows(secret.len()).all(|window| window != secret), "arguments stay outside");

    let (code, listed) = place.budget("approve --policy policy.toml");
    assert_eq!(code, 0, "{listed}");
    assert!(listed.contains("\"word\": \"swordfish\"") && listed.contains("tried again"), "{listed}");
    let id = id_of(&listed);
    let (code, said) = place.budget(&format!("approve {} --policy policy.toml", &id[..8]));
    assert_eq!((code, said.as_str()), (0, "approved: tool.call risky, once\n"));
    let (code, said) = place.budget(&format!("approve {id} --policy policy.toml"));
    assert_eq!((code, said.contains("nothing with this id waits")), (2, true), "{said}");
    assert!(!place.path(&format!("store/questions/{id}")).exists());

    let _serving = place.resumed(&session);
    assert_eq!(place.decide(&session, "risky").unwrap()["effect"], "allow");
    let (code, said) = place.budget("approve --policy policy.toml");
    assert_eq!((code, said.as_str()), (0, "nothing waits for an answer\n"), "looking needs no lock");
    let (code, said) = place.budget("freeze local --policy policy.toml");
    assert!(code == 2 && said.contains("--url"), "a store that a gate uses is not changed: {said}");
}

#[test]
fn a_cap_is_raised_at_the_store_and_nothing_else_changes() {
    let place = Place::new();
    let session = place.killed("paid", 2);
    let account = format!("local/local/{}", session.as_str().unwrap());
    let (code, said) = place.budget(&format!("show {account} --policy policy.toml"));
    assert_eq!(code, 0, "{said}");
    assert!(
        said.contains("budget money: 5 of 25 micro-USD left") && said.contains("tool_calls 2, micro_usd 20"),
        "{said}"
    );
    let (code, said) = place.budget("ls");
    assert!(code == 2 && said.contains("--policy"), "{said}");
    std::fs::write(place.path("other.toml"), include_str!("surface/policy.toml")).unwrap();
    let (code, said) = place.budget(&format!("raise money --account {account} --by 5 --policy other.toml"));
    assert!(code == 2 && said.contains("another policy"), "{said}");
    let (code, said) = place.budget(&format!("raise money --account {account} --by 5 --policy policy.toml"));
    assert_eq!((code, said), (0, format!("money of {account} has 5 more\n")));
    // The gate that the change opened has ended what the killed one left: unknown counts as spent.
    let (_, said) = place.budget("reconcile --policy policy.toml");
    assert_eq!(said.lines().count(), 3, "{said}");
    let call = id_of(said.lines().nth(1).unwrap());
    let (code, said) = place.budget(&format!("reconcile {call} micro_usd=1 --policy policy.toml"));
    assert_eq!(code, 0, "{said}");
    let (_, said) = place.budget(&format!("show {account} --policy policy.toml"));
    assert!(said.contains("budget money: 19 of 30 micro-USD left"), "{said}");
    let _serving = place.resumed(&session);
    assert_eq!(place.decide(&session, "paid").unwrap()["effect"], "allow");
}

#[test]
fn a_folder_without_a_store_is_left_as_it_is() {
    let place = Place::new();
    let (code, said) = place.budget("ls --policy policy.toml");
    assert_eq!(code, 2, "{said}");
    assert!(!Path::new(&place.path("store/journal.db")).exists(), "nothing is made by looking: {said}");
}
