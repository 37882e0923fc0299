//! Proxies in front of a scripted upstream, a gate with its journal in memory, and a client that writes bytes.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use weir::audit::Key;
use weir::egress::{Bounds, Config, Proxy, Running, upstreams};
use weir::model::{Kind, Name, Secret, Timestamp};
use weir::pdp::Compiled;
use weir::pep::Gate;
use weir::pep::port::{Clock, Head, Journal, JournalFault, Nobody, Sealed, Ticket};
use weir::policy::parse;

use crate::fake::{Fake, chunked};

pub const TOKEN: &str = "agent-token-0123456789";
/// What a provider would be paid by; nothing but the upstream may ever see it.
pub const KEY: &str = "sk-provider-secret-000111222";

pub fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// What a test changes before the start.
pub struct Setup {
    pub policy: String,
    pub kind: &'static str,
    /// Further lines of the upstream's table.
    pub lines: String,
    pub bounds: Bounds,
}

/// Running proxies.
pub struct Rig {
    pub address: SocketAddr,
    pub gate: Arc<Gate>,
    pub journal: Entries,
    running: Option<Running>,
    _home: tempfile::TempDir,
}

impl Rig {
    /// A proxy of `fake` under `setup`.
    pub fn start(fake: &Fake, setup: Setup) -> Self {
        let home = tempfile::tempdir().unwrap();
        let key = home.path().join("key");
        std::fs::write(&key, format!("{KEY}\n")).unwrap();
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
        let file = home.path().join("upstreams.toml");
        let text = format!(
            "[[upstream]]\nname = \"fake\"\nkind = \"{}\"\nurl = \"{}\"\nkey_file = \"key\"\n{}\n",
            setup.kind,
            fake.url(),
            setup.lines
        );
        std::fs::write(&file, text).unwrap();
        let journal = Entries::default();
        let policy = parse(setup.policy.as_bytes(), "test.toml").unwrap_or_else(|faults| panic!("{faults}"));
        let compiled = Compiled::new(policy).unwrap();
        let key = Key::from_seed(&[7; 32]);
        let gate = Gate::open(compiled, Box::new(journal.clone()), Box::new(Wall), Box::new(Nobody), key).unwrap();
        let gate = Arc::new(gate);
        let token = Secret::new(TOKEN).unwrap();
        let config = Config { org: name("acme"), project: None, agent: name("coder"), token, bounds: setup.bounds };
        let proxy = Proxy::bind(config, upstreams(&file).unwrap_or_else(|faults| panic!("{faults}"))).unwrap();
        let address = proxy.addresses()[0].1;
        let running = Some(proxy.start(gate.clone()).unwrap());
        Self { address, gate, journal, running, _home: home }
    }

    /// One request with the agent's token.
    pub fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        let mut all = vec![("x-api-key", TOKEN)];
        all.extend_from_slice(headers);
        self.raw(method, path, &all, body)
    }

    /// One request with these headers and Host.
    pub fn raw(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        Reply::read(self.send(method, path, headers, body))
    }

    /// Sends a request and does not read the answer.
    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut head = format!("{method} {path} HTTP/1.1\r\ncontent-length: {}\r\n", body.len());
        if !headers.iter().any(|(name, _)| *name == "host") {
            head.push_str("host: localhost\r\n");
        }
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        stream.write_all(format!("{head}connection: close\r\n\r\n").as_bytes()).unwrap();
        // A proxy that refuses by the head may close before it has read the rest.
        drop(stream.write_all(body));
        stream
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

    /// Waits until `holds`, at most 20 seconds.
    pub fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let begun = Instant::now();
        while !holds(self) {
            assert!(begun.elapsed() < Duration::from_secs(20), "{what} did not come");
            std::thread::sleep(Duration::from_millis(5));
        }
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

/// An answer as a client saw it.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
    /// True when the body came to its end.
    pub whole: bool,
    /// Every byte of the head.
    pub head: String,
}

impl Reply {
    pub fn read(stream: TcpStream) -> Self {
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        let mut headers = BTreeMap::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                break;
            }
            head.push_str(&line);
            match line.trim_end().split_once(": ") {
                Some((name, value)) => drop(headers.insert(name.to_lowercase(), value.to_owned())),
                None if line.trim_end().is_empty() => break,
                None => {}
            }
        }
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        let mut body = Vec::new();
        let whole = if headers.contains_key("transfer-encoding") {
            let mut all = Vec::new();
            drop(reader.read_to_end(&mut all));
            match chunked(&mut all.as_slice()) {
                Some(decoded) => {
                    body = decoded;
                    true
                }
                None => {
                    body = all;
                    false
                }
            }
        } else if let Some(length) = headers.get("content-length") {
            body = vec![0; length.parse().unwrap()];
            reader.read_exact(&mut body).is_ok()
        } else {
            reader.read_to_end(&mut body).is_ok()
        };
        Self { status, headers, body, whole, head }
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

struct Wall;

impl Clock for Wall {
    fn now(&self) -> Timestamp {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        Timestamp(u64::try_from(since.as_millis()).unwrap())
    }
}

/// A journal in memory that a test can read.
#[derive(Clone, Default)]
pub struct Entries(Arc<Mutex<Vec<String>>>);

impl Entries {
    pub fn texts(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

impl Journal for Entries {
    fn append(&self, entry: Sealed) -> Ticket {
        self.0.lock().unwrap().push(entry.text);
        Ticket::Ready(Ok(()))
    }

    fn replay(&self, each: &mut dyn FnMut(String)) -> Result<Option<Head>, JournalFault> {
        self.texts().into_iter().for_each(each);
        Ok(None)
    }
}
