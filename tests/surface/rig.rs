//! A sidecar on a Unix socket and on loopback TCP, and a client that writes bytes.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::keeping::Shelf;
use serde_json::{Map, Value, json};
use weir::audit::Key;
use weir::model::{Action, Digest, Name, Outcome, OutputFile, Seat, Status, Timestamp};
use weir::pdp::Compiled;
use weir::pep::port::{Clock, Executor, Head, Inner, Journal, JournalFault, Keeper, Sealed, Ticket};
use weir::pep::{Durable, Gate, Reserved};
use weir::policy::Policy;
use weir::surface::{Config, Secret, ServeFault, Shutdown, Sidecar, Stop};

pub const AGENT: &str = "agent-token-0123456789";
pub const OPERATOR: &str = "operator-token-0123456789";

pub fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// A running sidecar.
pub struct Rig {
    pub tcp: SocketAddr,
    pub unix: PathBuf,
    pub script: Arc<Script>,
    pub journal: Entries,
    pub gate: Arc<Gate>,
    stop: Stop,
    thread: Option<JoinHandle<Result<(), ServeFault>>>,
    _home: tempfile::TempDir,
}

/// What a test changes before the start.
pub struct Setup {
    pub config: Config,
    pub policy: Policy,
    /// What the gate finds in its store.
    pub journal: Entries,
    /// By how much its clock is ahead, milliseconds.
    pub later: u64,
}

impl Rig {
    pub fn start(change: impl FnOnce(&mut Setup)) -> Self {
        let home = tempfile::tempdir().unwrap();
        let mut config = Config::new(name("acme"), name("coder"), Secret::new(AGENT).unwrap());
        config.unix = Some(home.path().join("run/gate.sock"));
        config.tcp = Some("127.0.0.1:0".parse().unwrap());
        config.operator_token = Some(Secret::new(OPERATOR).unwrap());
        let mut setup = Setup { config, policy: policy(), journal: Entries::default(), later: 0 };
        change(&mut setup);
        let (journal, desk) = (setup.journal.clone(), setup.config.desk.clone());
        let compiled = Compiled::new(setup.policy).unwrap();
        let key = Key::from_seed(&[7; 32]);
        let gate =
            Gate::open(compiled, Box::new(journal.clone()), Box::new(Wall(setup.later)), Box::new(desk), key).unwrap();
        let (gate, script) = (Arc::new(gate), Arc::new(Script::default()));
        let served = gate.clone();
        let sidecar = Sidecar::bind(setup.config).unwrap();
        let addresses = sidecar.addresses().clone();
        let (stop, shutdown) = Shutdown::pair();
        let executor = script.clone();
        let thread = Some(std::thread::spawn(move || sidecar.serve(served, executor, shutdown)));
        let (tcp, unix) = (addresses.tcp.unwrap(), addresses.unix.unwrap());
        Self { tcp, unix, script, journal, gate, stop, thread, _home: home }
    }

    /// Tells the sidecar to stop and does not wait.
    pub fn stop(&self) {
        self.stop.stop();
    }

    /// Waits for its end.
    pub fn ended(&mut self) {
        self.thread.take().unwrap().join().unwrap().unwrap();
    }

    pub fn tcp(&self) -> Wire<TcpStream> {
        let stream = TcpStream::connect(self.tcp).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Wire(stream)
    }

    pub fn unix(&self) -> Wire<UnixStream> {
        let stream = UnixStream::connect(&self.unix).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Wire(stream)
    }

    /// One request with `token` over the Unix socket.
    pub fn ask(&self, token: &str, method: &str, path: &str, body: Option<Value>) -> Reply {
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        self.unix().send(&request(method, path, token, body.as_bytes()))
    }

    pub fn post(&self, path: &str, body: Value) -> Reply {
        self.ask(AGENT, "POST", path, Some(body))
    }

    pub fn get(&self, path: &str) -> Reply {
        self.ask(AGENT, "GET", path, None)
    }

    /// A new session with the tools of the policy.
    pub fn session(&self) -> String {
        let tools: Vec<Value> = ["echo", "risky", "paid"].iter().map(|tool| json!({"name": tool})).collect();
        let reply = self.post("/v1/sessions", json!({"tools": tools}));
        assert_eq!(reply.status, 201, "{}", reply.text());
        reply.json()["session"].as_str().unwrap().to_owned()
    }

    pub fn execute(&self, session: &str, code: &str) -> Reply {
        self.post(&format!("/v1/sessions/{session}/execute"), json!({"code": code}))
    }

    pub fn resume(&self, event: &Value, value: Value) -> Reply {
        let path = format!("/v1/executions/{}/resume", event["execution"].as_str().unwrap());
        self.post(&path, json!({"call": event["call"], "value": value}))
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.stop.stop();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(std::thread::panicking() || matches!(ended, Ok(Ok(()))));
        }
    }
}

/// The bytes of a plain request.
pub fn request(method: &str, path: &str, token: &str, body: &[u8]) -> Vec<u8> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n");
    if !body.is_empty() {
        head.push_str(&format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len()));
    }
    let mut bytes = head.into_bytes();
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(body);
    bytes
}

/// One connection.
pub struct Wire<S>(pub S);

impl<S: Read + Write> Wire<S> {
    pub fn write(&mut self, bytes: &[u8]) {
        // A peer that has already refused may close while the rest is still being written.
        drop(self.0.write_all(bytes));
    }

    pub fn send(&mut self, bytes: &[u8]) -> Reply {
        self.write(bytes);
        self.read()
    }

    pub fn read(&mut self) -> Reply {
        let mut bytes = Vec::new();
        let mut chunk = [0; 4096];
        loop {
            if let Some(reply) = Reply::parse(&bytes) {
                return reply;
            }
            match self.0.read(&mut chunk) {
                Ok(0) => panic!("closed after {:?}", String::from_utf8_lossy(&bytes)),
                Ok(n) => bytes.extend_from_slice(&chunk[..n]),
                Err(error) => panic!("{error} after {:?}", String::from_utf8_lossy(&bytes)),
            }
        }
    }
}

/// One answer.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Reply {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let length =
            head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ").map(str::to_owned));
        let length: usize = length.map_or(0, |length| length.trim().parse().unwrap());
        (bytes.len() >= end + length).then(|| Self { status, head, body: bytes[end..end + length].to_vec() })
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {self:?}"))
    }

    /// The error's code, after checking that the error is short and says nothing of the inside.
    pub fn code(&self) -> String {
        let error = self.json();
        let message = error["error"]["message"].as_str().unwrap();
        assert!(!message.is_empty() && message.len() < 400, "{} bytes: {message}", message.len());
        for inside in ["/src/", "panicked", ".rs:", "/home", "/tmp"] {
            assert!(!message.contains(inside), "{message}");
        }
        error["error"]["code"].as_str().unwrap().to_owned()
    }
}

/// Waits until `is` holds, at most ten seconds.
pub fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is() {
        assert!(start.elapsed() < Duration::from_secs(10), "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// An executor that runs a script, one command per line:
/// `call <tool> <json>`, `import <module>`, `print <text>`, `guest` (which one it is), `file <path>`, `spin` (until cancelled), `panic`.
#[derive(Default)]
pub struct Script {
    pub started: AtomicUsize,
    pub stopped: AtomicUsize,
    /// How each tool call ended.
    pub tools: Mutex<Vec<Status>>,
    /// Seats that were parted with, and those of them that may come back.
    pub closed: Mutex<Vec<Name>>,
    pub rested: Mutex<Vec<Name>>,
    /// What it keeps.
    pub shelf: Shelf,
    /// Ends a `spin` without cancelling it.
    pub release: AtomicBool,
}

impl Executor for Script {
    fn execute(&self, work: &Durable<Reserved>, inner: &dyn Inner) -> Outcome {
        self.started.fetch_add(1, Ordering::SeqCst);
        let code = work.call().args["code"].as_str().unwrap().to_owned();
        self.shelf.ran(&work.call().subject.seat());
        let mut outcome = Outcome::of(Status::Done);
        let mut results = Vec::new();
        for line in code.lines() {
            let (command, rest) = line.split_once(' ').unwrap_or((line, ""));
            match command {
                "call" => {
                    let (tool, args) = rest.split_once(' ').unwrap_or((rest, "{}"));
                    results.push(self.call(inner, tool, serde_json::from_str(args).unwrap()));
                }
                "import" => {
                    results.push(inner.call(Action::CodeImport, rest, Map::new()).denial.into());
                }
                "print" => outcome.logs.push_str(rest),
                "guest" => results.push(work.call().resource.name.as_str().into()),
                "file" => {
                    let (path, digest) = (rest.to_owned(), Some(Digest::of(rest.as_bytes())));
                    outcome.files.push(OutputFile { path, bytes: rest.len() as u64, digest });
                    outcome.tape = digest;
                }
                "panic" => panic!("a bug in /src/secret.rs"),
                _ => {
                    while !inner.cancelled() && !self.release.load(Ordering::SeqCst) {
                        std::thread::sleep(Duration::from_millis(2));
                    }
                }
            }
            if inner.cancelled() {
                outcome.status = Status::Broken;
                self.stopped.fetch_add(1, Ordering::SeqCst);
                break;
            }
        }
        Outcome { output: results.into(), ..outcome }
    }

    fn guests(&self) -> Vec<&'static str> {
        vec!["python", "javascript"]
    }

    fn close(&self, seat: &Seat) {
        self.closed.lock().unwrap().push(seat.name.clone());
    }

    fn rest(&self, seat: &Seat) {
        self.close(seat);
        self.rested.lock().unwrap().push(seat.name.clone());
    }

    fn keeper(&self) -> Option<&dyn Keeper> {
        Some(&self.shelf)
    }
}

impl Script {
    fn call(&self, inner: &dyn Inner, tool: &str, args: Map<String, Value>) -> Value {
        let answer = inner.call(Action::ToolCall, tool, args);
        let Some(outcome) = answer.outcome else { return json!({"denied": answer.denial}) };
        self.tools.lock().unwrap().push(outcome.status);
        match outcome.error {
            Some(error) => json!({"raised": error.kind, "message": error.message}),
            None => outcome.output,
        }
    }
}

/// A journal in memory that can be made to fail.
#[derive(Clone, Default)]
pub struct Entries(Arc<(Mutex<Vec<String>>, AtomicBool)>);

impl Entries {
    pub fn fail(&self) {
        self.0.1.store(true, Ordering::SeqCst);
    }

    pub fn text(&self) -> String {
        self.0.0.lock().unwrap().join("\n")
    }

    pub fn count(&self) -> usize {
        self.0.0.lock().unwrap().len()
    }
}

impl Journal for Entries {
    fn append(&self, entry: Sealed) -> Ticket {
        if self.0.1.load(Ordering::SeqCst) {
            return Ticket::Ready(Err(JournalFault("no space left on /dev/secret".into())));
        }
        self.0.0.lock().unwrap().push(entry.text);
        Ticket::Ready(Ok(()))
    }

    fn replay(&self, each: &mut dyn FnMut(String)) -> Result<Option<Head>, JournalFault> {
        self.0.0.lock().unwrap().iter().cloned().for_each(each);
        Ok(None)
    }
}

/// The wall clock, so many milliseconds later.
struct Wall(u64);

impl Clock for Wall {
    fn now(&self) -> Timestamp {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        Timestamp(u64::try_from(since.as_millis()).unwrap() + self.0)
    }
}

/// Code may run; `echo` and `paid` are allowed, `risky` is asked about, everything else is denied.
fn policy() -> Policy {
    weir::policy::parse(include_bytes!("policy.toml"), "policy.toml").unwrap()
}
