//! The session of `weir budget` in the docs, run against a gate: every command and every line of its output.
//!
//! In a console block, `$` begins a command and `#` a step of the agent's, one of `steps` below. Ids that are made at
//! random are written as the stand-ins of `SHOWN`, in the order in which they are first seen.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::JoinHandle;

use serde_json::{Value, json};
use weir::model::{Amounts, Effect, Kind, Millis};
use weir::policy::Cost;

use crate::rig::{AGENT, OPERATOR, Rig, Wire, eventually, request};

const SHOWN: [&str; 6] = [
    "0a51c0e8d4f24b7f9b6e2d1783c4a590",
    "4be17d2c90aa4e0c8f5317e6b2d9c844",
    "7f20b9c1e6d84a3bb0c55e94a1d87f36",
    "93d6a4f7025c4c1ea8e07b3f6d21b95c",
    "b8c3e05f7a1946d2943fd0a1c75e6e28",
    "e1f94a6b38d74095a2c6b07d5f813c0d",
];

/// A gate, the agent's side of it, and the names under which its ids are shown.
struct Stage {
    rig: Rig,
    token: PathBuf,
    _home: tempfile::TempDir,
    sessions: HashMap<&'static str, String>,
    /// Calls whose outcome the agent has not reported, oldest first.
    open: Vec<Value>,
    asking: Option<JoinHandle<Value>>,
    /// Ids in the order in which they were seen.
    seen: Vec<String>,
}

impl Stage {
    fn new() -> Self {
        let rig = Rig::start(|setup| {
            setup.policy.peers.max_depth = 1;
            setup.policy.approvals.timeout = Millis(600_000);
            for budget in &mut setup.policy.budgets {
                (budget.limit, budget.at_cap) = match budget.id.as_str() {
                    "money" => (2_000_000, Effect::Ask),
                    _ => (20, Effect::Deny),
                };
            }
            let paid = setup.policy.tools.get_mut("paid").unwrap();
            paid.cost = Cost(Amounts::ZERO.with(Kind::MicroUsd, 400_000));
        });
        let home = tempfile::tempdir().unwrap();
        let token = home.path().join("operator");
        std::fs::write(&token, OPERATOR).unwrap();
        let coder = rig.session();
        let body = json!({"tools": [{"name": "paid"}], "parent": coder, "name": "researcher"});
        let researcher = rig.post("/v1/sessions", body).json()["session"].as_str().unwrap().to_owned();
        let sessions = HashMap::from([("coder", coder), ("researcher", researcher)]);
        Self { rig, token, _home: home, sessions, open: Vec::new(), asking: None, seen: Vec::new() }
    }

    fn decide(&self, who: &str) -> Value {
        self.rig.post("/v1/decide", body(&self.sessions[who])).json()
    }

    fn begin(&mut self, who: &str) {
        let allowed = self.decide(who);
        assert_eq!(allowed["effect"], "allow", "{allowed}");
        self.open.push(allowed["call"].clone());
    }

    fn end(&mut self, status: &str, micro_usd: u64) {
        let call = self.open.remove(0);
        let report = json!({"call": call, "status": status, "usage": {"micro_usd": micro_usd}});
        assert_eq!(self.rig.post("/v1/outcome", report).status, 200);
    }

    /// What the agent does, in the words of the docs.
    fn step(&mut self, text: &str) {
        match text {
            "the coder has spent 0.19 USD and its researcher 0.22; a third call runs" => {
                self.begin("coder");
                self.end("done", 190_000);
                self.begin("researcher");
                self.end("done", 220_000);
                self.begin("coder");
            }
            "two more calls run, and the next one needs more than is left: it waits" => {
                self.begin("coder");
                self.begin("researcher");
                let (unix, body) = (self.rig.unix.clone(), body(&self.sessions["coder"]).to_string());
                self.asking = Some(std::thread::spawn(move || {
                    let stream = std::os::unix::net::UnixStream::connect(unix).unwrap();
                    Wire(stream).send(&request("POST", "/v1/decide", AGENT, body.as_bytes())).json()
                }));
                let waiting = || self.rig.ask(OPERATOR, "GET", "/v1/approvals", None).text().contains("\"paid\"");
                eventually("asked", waiting);
            }
            "the call that waited goes on" => {
                let allowed = self.asking.take().unwrap().join().unwrap();
                assert_eq!(allowed["effect"], "allow", "{allowed}");
                self.open.push(allowed["call"].clone());
            }
            "the agent's next call is denied: account_frozen" => {
                assert_eq!(self.decide("researcher")["reason"], "account_frozen");
            }
            "the host of one call crashes; nobody knows whether it was paid" => self.end("unknown", 0),
            "the researcher's next call is denied: account_revoked" => {
                assert_eq!(self.decide("researcher")["reason"], "account_revoked");
                self.begin("coder");
            }
            other => panic!("the docs tell of a step that nobody plays: {other}"),
        }
    }

    /// The output of a command of the docs.
    fn run(&mut self, command: &str) -> String {
        let ids: Vec<(&String, &str)> = self.seen.iter().zip(SHOWN).collect();
        let real = ids.iter().fold(command.to_owned(), |text, (id, shown)| text.replace(shown, id));
        // The beginning of an id stands for all of it.
        let begins = |word: &str| ids.iter().find(|(_, shown)| word.len() >= 6 && shown.starts_with(word));
        let words = real.split(' ').map(|word| begins(word).map_or(word, |(id, _)| &id[..word.len()]));
        let words: Vec<&str> = words.collect();
        assert_eq!(&words[..2], ["weir", "budget"], "{command}");
        let url = format!("unix:{}", self.rig.unix.display());
        let output = Command::new(env!("CARGO_BIN_EXE_weir"))
            .args(&words[1..])
            .args(["--url", &url, "--token-file"])
            .arg(&self.token)
            .output()
            .unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        self.shown(&text)
    }

    fn shown(&mut self, text: &str) -> String {
        let hex = |part: &&str| part.len() == 32 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
        for id in text.split(|c: char| !c.is_ascii_alphanumeric()).filter(hex) {
            if !self.seen.iter().any(|seen| seen == id) {
                self.seen.push(id.to_owned());
            }
        }
        assert!(self.seen.len() <= SHOWN.len(), "more ids than stand-ins: {:?}", self.seen);
        self.seen.iter().zip(SHOWN).fold(text.to_owned(), |text, (id, shown)| text.replace(id, shown))
    }
}

fn body(session: &str) -> Value {
    json!({"session": session, "action": "tool.call", "resource": "paid", "args": {"query": "weirs"}})
}

#[test]
fn the_budget_session_in_the_docs_is_what_the_commands_print() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/budgets-cli.md");
    let page = std::fs::read_to_string(path).unwrap();
    let mut stage = Stage::new();
    let mut played = String::new();
    let mut rest = page.as_str();
    while let Some((before, block)) = rest.split_once("```console\n") {
        let (block, after) = block.split_once("```").unwrap();
        played.push_str(before);
        played.push_str("```console\n");
        for line in block.lines() {
            if let Some(step) = line.strip_prefix("# ") {
                stage.step(step);
            } else if let Some(command) = line.strip_prefix("$ ") {
                played.push_str(&format!("{line}\n{}", stage.run(command)));
                continue;
            } else {
                continue; // What was printed when the page was written.
            }
            played.push_str(&format!("{line}\n"));
        }
        played.push_str("```");
        rest = after;
    }
    played.push_str(rest);
    assert!(played.matches("\n$ ").count() >= 10, "the page shows a session");
    assert_eq!(played, page, "left: what the commands print; right: docs/budgets-cli.md");
}
