//! What the proxy adds to a call of a model: the same requests straight to a scripted provider on loopback and
//! through the gate, in turns, with the journal in memory.
//!
//! `cargo bench --no-default-features --features egress --bench egress`

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use weir::audit::Key;
use weir::egress::{Bounds, Config, Proxy, upstreams};
use weir::journal::Memory;
use weir::model::{Name, Secret, Timestamp};
use weir::pdp::Compiled;
use weir::pep::Gate;
use weir::pep::port::{Clock, Nobody};

#[allow(dead_code, reason = "a test uses more of it than this")]
#[path = "../tests/egress/fake.rs"]
mod fake;
#[allow(dead_code, reason = "a test uses more of it than this")]
#[path = "../tests/egress/provider.rs"]
mod provider;

use fake::{Fake, chunked};

const TOKEN: &str = "agent-token-0123456789";
/// Requests of each kind, after as many a tenth to warm up.
const ROUNDS: usize = 2_000;

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

    /// Sends a request and reads the whole answer; how long its first byte and its last took.
    fn ask(&mut self, body: &[u8]) -> (Duration, Duration) {
        let head = format!(
            "POST /v1/messages HTTP/1.1\r\nhost: localhost\r\nx-api-key: {TOKEN}\r\nanthropic-version: 2023-06-01\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        let begun = Instant::now();
        let mut all = head.into_bytes();
        all.extend_from_slice(body);
        self.0.get_mut().write_all(&all).expect("send");
        let (mut length, mut line) = (None, String::new());
        self.0.read_line(&mut line).expect("a status");
        let first = begun.elapsed();
        assert!(line.starts_with("HTTP/1.1 200"), "{line}");
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line).expect("a header");
            if line.trim_end().is_empty() {
                break;
            }
            if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse::<usize>().ok();
            }
        }
        match length {
            Some(length) => self.0.read_exact(&mut vec![0; length]).expect("a body"),
            None => drop(chunked(&mut self.0).expect("a chunked body")),
        }
        (first, begun.elapsed())
    }
}

fn policy() -> String {
    "[policy]\nid = \"bench\"\n[[model]]\nname = \"claude-opus-4-8\"\n[model.price]\ntokens_in = 5_000_000\n\
     tokens_cached = 500_000\ntokens_cache_write = 6_250_000\ntokens_cache_write_1h = 10_000_000\n\
     tokens_out = 25_000_000\nsource = \"bench\"\nas_of = \"2026-11-01\"\n[[budget]]\nid = \"money\"\n\
     scope = \"agent\"\nkind = \"micro_usd\"\nlimit = 1_000_000_000_000\n[[rule]]\nid = \"models\"\neffect = \"allow\"\n\
     actions = [\"model.generate\"]\nanswers = []\nreason = \"bench\"\n"
        .to_owned()
}

fn percentile(times: &mut [Duration], of: usize) -> f64 {
    times.sort_unstable();
    times.get(times.len() * of / 100).map_or(0.0, |time| time.as_secs_f64() * 1e6)
}

fn main() {
    let fake = Fake::start(|asked| match asked.json()["stream"] == true {
        true => provider::streamed("hello", &provider::usage(), 50),
        false => provider::message("hello", &json!({"input_tokens": 100, "output_tokens": 50})),
    });
    let home = tempfile::tempdir().expect("a folder");
    let (key, file) = (home.path().join("key"), home.path().join("upstreams.toml"));
    std::fs::write(&key, "sk-provider-secret-000111222").expect("a key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).expect("a private key");
    let upstream =
        format!("[[upstream]]\nname = \"fake\"\nkind = \"anthropic\"\nurl = \"{}\"\nkey_file = \"key\"\n", fake.url());
    std::fs::write(&file, upstream).expect("upstreams");
    let name = |text: &str| Name::new(text).expect("a name");
    let policy = weir::policy::parse(policy().as_bytes(), "bench.toml").expect("a policy");
    let compiled = Compiled::new(policy).expect("a policy");
    let key = Key::from_seed(&[7; 32]);
    let gate =
        Gate::open(compiled, Box::new(Memory::default()), Box::new(Wall), Box::new(Nobody), key).expect("a gate");
    let token = Secret::new(TOKEN).expect("a token");
    let config = Config { org: name("acme"), project: None, agent: name("coder"), token, bounds: Bounds::default() };
    let proxy = Proxy::bind(config, upstreams(&file).expect("upstreams")).expect("a proxy");
    let address = proxy.addresses().first().expect("an address").1;
    let running = proxy.start(Arc::new(gate)).expect("a proxy");
    println!("| request | direct p50 | p99 | through the gate p50 | p99 | added p50 | p99 |");
    println!("|---|--:|--:|--:|--:|--:|--:|");
    for (what, bytes, stream) in
        [("1 KB, whole", 1 << 10, false), ("1 KB, stream", 1 << 10, true), ("100 KB, stream", 100 << 10, true)]
    {
        let content: String = "word ".repeat(bytes / 5);
        let body: Value = json!({
            "model": "claude-opus-4-8", "max_tokens": 1000, "stream": stream,
            "messages": [{"role": "user", "content": content}],
        });
        let body = body.to_string().into_bytes();
        let (mut straight, mut through) = (Wire::to(fake.address), Wire::to(address));
        let (mut direct, mut gated) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS + ROUNDS / 10 {
            let (one, other) = (straight.ask(&body), through.ask(&body));
            if round >= ROUNDS / 10 {
                direct.push(one.1);
                gated.push(other.1);
            }
        }
        let of = |times: &mut Vec<Duration>| (percentile(times, 50), percentile(times, 99));
        let ((d50, d99), (g50, g99)) = (of(&mut direct), of(&mut gated));
        println!(
            "| {what} | {d50:.0} us | {d99:.0} us | {g50:.0} us | {g99:.0} us | {:.0} us | {:.0} us |",
            g50 - d50,
            g99 - d99
        );
    }
    running.stop();
}
