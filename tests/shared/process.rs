//! A gate of `weir serve --shared` that is killed and started again: what it had drawn is neither lost nor spent twice.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::server::Server;

const POLICY: &str = r#"
[policy]
id = "shared"
[[tool]]
name = "look"
effect = "read"
[[budget]]
id = "looks"
scope = "org"
kind = "tool_calls"
limit = 40
shared = true
lease = 7
[[rule]]
id = "all"
effect = "allow"
actions = ["tool.call"]
"#;

/// A gate's process with a store of its own, killed with the test.
struct Gate<'s> {
    server: &'s Server,
    folder: PathBuf,
    child: Child,
}

impl Drop for Gate<'_> {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn spawn(server: &Server, folder: &Path) -> Child {
    let args = ["serve", "--policy", "policy.toml", "--socket", "run/gate.sock", "--token-file", "agent"];
    let store = ["--org", "acme", "--store", "store", "--shared", &server.url("gate")];
    Command::new(env!("CARGO_BIN_EXE_weir"))
        .current_dir(folder)
        .args(args)
        .args(store)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

impl<'s> Gate<'s> {
    fn start(server: &'s Server, folder: PathBuf) -> Self {
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("policy.toml"), POLICY).unwrap();
        let child = spawn(server, &folder);
        let gate = Self { server, folder, child };
        gate.listens();
        gate
    }

    fn listens(&self) {
        let start = Instant::now();
        while self.post("/v1/sessions", &json!({"tools": []})).is_none() {
            assert!(start.elapsed() < Duration::from_secs(300), "the gate does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// SIGKILL, and the next life.
    fn killed(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = spawn(self.server, &self.folder);
        self.listens();
    }

    fn post(&self, path: &str, body: &Value) -> Option<Value> {
        let token = std::fs::read_to_string(self.folder.join("agent")).ok()?;
        let mut stream = UnixStream::connect(self.folder.join("run/gate.sock")).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let (token, body) = (token.trim(), body.to_string());
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(head.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()
    }

    /// Up to `calls` calls; how many were allowed. One that the database's absence denies is tried again for a while: a
    /// gate has no standing before it has joined.
    fn calls(&self, calls: usize, outcomes: bool) -> usize {
        let session = self.post("/v1/sessions", &json!({"tools": []})).unwrap()["session"].clone();
        let ask = json!({"session": session, "action": "tool.call", "resource": "look"});
        let (mut allowed, start) = (0, Instant::now());
        while allowed < calls {
            let said = self.post("/v1/decide", &ask).unwrap();
            match (said["effect"].as_str(), said["reason"].as_str()) {
                (Some("allow"), _) => allowed += 1,
                (_, Some("budget_unreachable")) if start.elapsed() < Duration::from_secs(60) => {
                    std::thread::sleep(Duration::from_millis(20));
                    continue;
                }
                (_, Some("budget_exhausted")) => return allowed,
                _ => panic!("{said}"),
            }
            if outcomes {
                self.post("/v1/outcome", &json!({"call": said["call"], "status": "done"})).unwrap();
            }
        }
        allowed
    }
}

#[test]
fn gates_that_are_killed_again_and_again_spend_exactly_what_is_there() {
    let Some(server) = Server::start() else { return };
    let office = server.prepared();
    let places = tempfile::tempdir().unwrap();
    let mut gates: Vec<Gate<'_>> =
        ["one", "two"].iter().map(|name| Gate::start(&server, places.path().join(name))).collect();
    let mut allowed = 0;
    for round in 0..3 {
        for gate in &mut gates {
            // Every other time in the midst of calls whose outcome nobody will report.
            allowed += gate.calls(3, round % 2 == 0);
            gate.killed();
        }
    }
    assert_eq!(allowed, 18);
    // What lies unused at one gate goes back when it is idle, so that the other one can have all of it in the end.
    let end = Instant::now() + Duration::from_secs(60);
    while allowed < 40 && Instant::now() < end {
        allowed += gates.iter().map(|gate| gate.calls(1, true)).sum::<usize>();
    }
    assert_eq!(allowed, 40);
    assert_eq!(gates.iter().map(|gate| gate.calls(1, true)).sum::<usize>(), 0, "and not one more");
    assert_eq!(office.pots(None).unwrap().iter().map(|row| row.held).sum::<u64>(), 40);
}
