//! What the proxy adds to a call of the Hub: the same requests straight to a Hub on loopback and through the gate, in
//! turns, with the journal in memory.
//!
//! `cargo bench --no-default-features --features egress --bench hub`

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::json;
use weir::audit::Key;
use weir::egress::{Bounds, Config, Proxy, upstreams};
use weir::journal::Memory;
use weir::model::{Name, Secret, Timestamp};
use weir::pdp::Compiled;
use weir::pep::Gate;
use weir::pep::port::{Clock, Nobody};

#[allow(dead_code, reason = "the tests use more of it than this")]
#[path = "../tests/hub/fake.rs"]
mod fake;

use fake::{COMMIT, Fake};

const TOKEN: &str = "agent-token-0123456789";
/// Requests of each kind, after as many a tenth to warm up.
const ROUNDS: usize = 1_000;

struct Wall;

impl Clock for Wall {
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

/// A connection that is kept, as a client keeps it.
struct Wire(BufReader<TcpStream>);

impl Wire {
    fn to(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("connect");
        stream.set_nodelay(true).expect("no delay");
        Self(BufReader::new(stream))
    }

    /// Sends a request and reads the whole answer; how long it took, and where it redirects to.
    fn ask(&mut self, method: &str, path: &str, body: &[u8]) -> (Duration, Option<String>) {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {TOKEN}\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        let begun = Instant::now();
        let mut all = head.into_bytes();
        all.extend_from_slice(body);
        self.0.get_mut().write_all(&all).expect("send");
        let (mut length, mut location) = (0, None);
        let mut status = String::new();
        self.0.read_line(&mut status).expect("a status");
        assert!(status.starts_with("HTTP/1.1 200") || status.starts_with("HTTP/1.1 302"), "{status}");
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line).expect("a header");
            match line.trim_end().split_once(": ") {
                Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                    length = value.parse().expect("a length");
                }
                Some((name, value)) if name.eq_ignore_ascii_case("location") => location = Some(value.to_owned()),
                Some(_) => {}
                None => break,
            }
        }
        if method != "HEAD" {
            self.0.read_exact(&mut vec![0; length]).expect("a body");
        }
        (begun.elapsed(), location)
    }
}

/// A file, straight from the Hub: by its redirect where it has one.
fn straight(hub: &mut Wire, blobs: &mut Wire, path: &str) -> Duration {
    let (first, location) = hub.ask("GET", path, b"");
    let Some(location) = location else { return first };
    let place = location.splitn(4, '/').nth(3).expect("a path");
    first + blobs.ask("GET", &format!("/{place}"), b"").0
}

fn percentile(times: &mut [Duration], of: usize) -> f64 {
    times.sort_unstable();
    times.get(times.len() * of / 100).map_or(0.0, |time| time.as_secs_f64() * 1e6)
}

fn row(what: &str, mut direct: Vec<Duration>, mut gated: Vec<Duration>) {
    let ((d50, d99), (g50, g99)) = (
        (percentile(&mut direct, 50), percentile(&mut direct, 99)),
        (percentile(&mut gated, 50), percentile(&mut gated, 99)),
    );
    let (a50, a99) = (g50 - d50, g99 - d99);
    println!("| {what} | {d50:.0} us | {d99:.0} us | {g50:.0} us | {g99:.0} us | {a50:.0} us | {a99:.0} us |");
}

/// Measures pairs of the same request, straight and through the gate.
fn measure(what: &str, mut pair: impl FnMut() -> (Duration, Duration)) {
    let (mut direct, mut gated) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS + ROUNDS / 10 {
        let (one, other) = pair();
        if round >= ROUNDS / 10 {
            direct.push(one);
            gated.push(other);
        }
    }
    row(what, direct, gated);
}

fn main() {
    let fake = Fake::start();
    fake.file("models/team/base", "config.json", &vec![b' '; 1 << 10], false);
    fake.file("models/team/base", "model.safetensors", &vec![7; 4 << 20], true);
    let home = tempfile::tempdir().expect("a folder");
    let (key, file) = (home.path().join("key"), home.path().join("upstreams.toml"));
    std::fs::write(&key, "hf_real_000111222333").expect("a key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).expect("a private key");
    let upstream = format!(
        "[[upstream]]\nname = \"hub\"\nkind = \"hub\"\nurl = \"{}\"\nkey_file = \"key\"\nblob_hosts = [\"localhost:{}\"]\n\
         look_every_ms = 600_000\n",
        fake.url(),
        fake.blobs
    );
    std::fs::write(&file, upstream).expect("upstreams");
    let name = |text: &str| Name::new(text).expect("a name");
    let policy = include_str!("../tests/hub/policy.toml").replace("limit = 1_000_000", "limit = 1_000_000_000_000");
    let policy = weir::policy::parse(policy.as_bytes(), "bench.toml").expect("a policy");
    let compiled = Compiled::new(policy).expect("a policy");
    let key = Key::from_seed(&[7; 32]);
    let gate =
        Gate::open(compiled, Box::new(Memory::default()), Box::new(Wall), Box::new(Nobody), key).expect("a gate");
    let token = Secret::new(TOKEN).expect("a token");
    let config = Config { org: name("acme"), project: None, agent: name("coder"), token, bounds: Bounds::default() };
    let proxy = Proxy::bind(config, upstreams(&file).expect("upstreams")).expect("a proxy");
    let address = proxy.addresses().first().expect("an address").1;
    let running = proxy.start(Arc::new(gate)).expect("a proxy");
    let local = |port: u16| Wire::to(SocketAddr::from(([127, 0, 0, 1], port)));
    let (mut hub, mut blobs, mut through) = (local(fake.port), local(fake.blobs), Wire::to(address));
    println!("| request | direct p50 | p99 | through the gate p50 | p99 | added p50 | p99 |");
    println!("|---|--:|--:|--:|--:|--:|--:|");
    for (what, path) in [("file of 1 KB", "config.json"), ("large file of 4 MB", "model.safetensors")] {
        let path = format!("/team/base/resolve/{COMMIT}/{path}");
        measure(what, || (straight(&mut hub, &mut blobs, &path), through.ask("GET", &path, b"").0));
    }
    let launch = json!({"command": ["python", "train.py"], "flavor": "t4-small", "timeoutSeconds": 600,
        "dockerImage": "python:3.12"});
    let launch = launch.to_string().into_bytes();
    measure("launch of a job", || {
        let direct = hub.ask("POST", "/api/jobs/team", &launch).0;
        (direct, through.ask("POST", "/api/jobs/team", &launch).0)
    });
    running.stop();
}
