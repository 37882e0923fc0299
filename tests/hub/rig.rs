//! A gate with its journal on disk, its proxy of the fake Hub, and a client that writes bytes.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use weir::audit::Key;
use weir::egress::{Bounds, Config, Proxy, Running, upstreams};
use weir::journal::{Reader, Sqlite};
use weir::model::{Kind, Name, Secret, Timestamp};
use weir::pdp::Compiled;
use weir::pep::Gate;
use weir::pep::port::{AccountId, Clock, Head, Nobody};
use weir::policy::parse;

use crate::fake::Fake;

pub const TOKEN: &str = "agent-token-0123456789";
/// The token of the account that pays; nothing but the Hub may ever see it.
pub const KEY: &str = "hf_real_000111222333";
/// The token that jobs get.
pub const JOB: &str = "hf_jobs_444555666777";
pub const POLICY: &str = include_str!("policy.toml");

pub fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// What a gate is started with.
pub struct Setup {
    pub policy: String,
    /// Further lines of the upstream's table.
    pub lines: String,
}

impl Default for Setup {
    fn default() -> Self {
        Self { policy: POLICY.to_owned(), lines: "job_token_file = \"job\"".to_owned() }
    }
}

/// A running gate.
pub struct Rig {
    pub address: SocketAddr,
    pub gate: Arc<Gate>,
    pub home: PathBuf,
    running: Option<Running>,
    folder: Option<tempfile::TempDir>,
}

impl Rig {
    pub fn new(fake: &Fake) -> Self {
        Self::with(fake, &Setup::default())
    }

    pub fn with(fake: &Fake, setup: &Setup) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut rig = Self::at(folder.path(), fake, setup);
        rig.folder = Some(folder);
        rig
    }

    /// A gate whose files lie in `home`, which it finds as an earlier one left it.
    pub fn at(home: &Path, fake: &Fake, setup: &Setup) -> Self {
        for (file, text) in [("key", KEY), ("job", JOB)] {
            std::fs::write(home.join(file), text).unwrap();
            std::fs::set_permissions(home.join(file), std::fs::Permissions::from_mode(0o600)).unwrap();
        }
        let file = home.join("upstreams.toml");
        let text = format!(
            "[[upstream]]\nname = \"hub\"\nkind = \"hub\"\nurl = \"{}\"\nkey_file = \"key\"\nblob_hosts = [\"localhost:{}\"]\nlook_every_ms = 20\n{}\n",
            fake.url(),
            fake.blobs,
            setup.lines
        );
        std::fs::write(&file, text).unwrap();
        let key = || Key::from_seed(&[7; 32]);
        let seal = Box::new(move |count, hash| Head::sign(count, hash, &key()));
        let journal = Sqlite::dangerous_no_fsync(&home.join("store"), seal).unwrap();
        let policy = parse(setup.policy.as_bytes(), "test.toml").unwrap_or_else(|faults| panic!("{faults}"));
        let compiled = Compiled::new(policy).unwrap();
        let gate = Arc::new(Gate::open(compiled, Box::new(journal), Box::new(Wall), Box::new(Nobody), key()).unwrap());
        let bounds = Bounds::default();
        let token = Secret::new(TOKEN).unwrap();
        let config = Config { org: name("acme"), project: None, agent: name("coder"), token, bounds };
        let proxy = Proxy::bind(config, upstreams(&file).unwrap_or_else(|faults| panic!("{faults}"))).unwrap();
        let address = proxy.addresses()[0].1;
        let running = Some(proxy.start(gate.clone()).unwrap());
        Self { address, gate, home: home.to_owned(), running, folder: None }
    }

    pub fn get(&self, path: &str) -> Reply {
        self.ask("GET", path, &[], b"")
    }

    pub fn post(&self, path: &str, body: &Value) -> Reply {
        self.ask("POST", path, &[("content-type", "application/json")], body.to_string().as_bytes())
    }

    /// One request with the agent's token.
    pub fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        let bearer = format!("Bearer {TOKEN}");
        let mut all = vec![("authorization", bearer.as_str())];
        all.extend_from_slice(headers);
        self.raw(method, path, &all, body)
    }

    pub fn raw(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut head =
            format!("{method} {path} HTTP/1.1\r\nhost: {}\r\ncontent-length: {}\r\n", self.address, body.len());
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        stream.write_all(format!("{head}connection: close\r\n\r\n").as_bytes()).unwrap();
        // A proxy that refuses by the head may close before it has read the rest.
        drop(stream.write_all(body));
        Reply::read(stream, method == "HEAD")
    }

    /// What the agent's account has posted of `kind`.
    pub fn posted(&self, kind: Kind) -> u64 {
        self.account(kind).0
    }

    /// What is held of `kind` on the agent's account.
    pub fn pending(&self, kind: Kind) -> u64 {
        self.account(kind).1
    }

    fn account(&self, kind: Kind) -> (u64, u64) {
        let balances = self.gate.balances();
        let own = balances.iter().find(|balance| balance.account.to_string() == "acme/coder");
        own.map_or((0, 0), |balance| (balance.posted.of(kind), balance.pending.of(kind)))
    }

    pub fn account_id(&self) -> AccountId {
        AccountId::parse("acme/coder").unwrap()
    }

    /// Waits until `holds`, at most 30 seconds.
    pub fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let begun = Instant::now();
        while !holds(self) {
            assert!(begun.elapsed() < Duration::from_secs(30), "{what} did not come");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Every entry of the journal.
    pub fn entries(&self) -> String {
        let mut texts = String::new();
        Reader::open(&self.home.join("store")).unwrap().replay(&mut |text| texts.push_str(&text)).unwrap();
        texts
    }

    pub fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop();
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.stop();
    }
}

struct Wall;

impl Clock for Wall {
    fn now(&self) -> Timestamp {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        Timestamp(u64::try_from(since.as_millis()).unwrap())
    }
}

/// A launch that the policy permits.
pub fn job() -> Value {
    json!({"command": ["python", "train.py"], "arguments": [], "environment": {}, "flavor": "t4-small", "timeoutSeconds": 600,
        "dockerImage": "python:3.12", "labels": {"name": "run-1"}})
}

/// An answer as a client saw it.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
    /// True when the body came to its end.
    pub whole: bool,
}

impl Reply {
    fn read(stream: TcpStream, head_only: bool) -> Self {
        let mut reader = BufReader::new(stream);
        let (mut status, mut headers) = (0, BTreeMap::new());
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                break;
            }
            match line.trim_end().split_once(": ") {
                Some((name, value)) => drop(headers.insert(name.to_lowercase(), value.to_owned())),
                None if line.trim_end().is_empty() => break,
                None => status = line.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0),
            }
        }
        let mut body = Vec::new();
        let read = reader.read_to_end(&mut body).is_ok();
        let length = headers.get("content-length").and_then(|length| length.parse::<usize>().ok());
        let whole = head_only || (read && length.is_none_or(|length| length == body.len()));
        Self { status, headers, body, whole }
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}
