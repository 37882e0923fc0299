//! The same reserve and settle in Redis: a Lua script each, append-only file synced at every write.
//!
//! The scripts do what the ledger's arithmetic does: all of four accounts or none, a hold by the call's id, a
//! settlement that releases it. What they do not do is keep a record, a receipt or a chain.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const RESERVE: &str = "
    if redis.call('HEXISTS', KEYS[5], ARGV[1]) == 1 then return 0 end
    for i = 1, 4 do
        local posted, pending = unpack(redis.call('HMGET', KEYS[i], 'posted', 'pending'))
        if (tonumber(posted) or 0) + (tonumber(pending) or 0) + ARGV[2] > tonumber(ARGV[3]) then return 0 end
    end
    for i = 1, 4 do redis.call('HINCRBY', KEYS[i], 'pending', ARGV[2]) end
    redis.call('HSET', KEYS[5], ARGV[1], ARGV[2])
    return 1";
const SETTLE: &str = "
    local held = redis.call('HGET', KEYS[5], ARGV[1])
    if not held then return 0 end
    redis.call('HDEL', KEYS[5], ARGV[1])
    for i = 1, 4 do
        redis.call('HINCRBY', KEYS[i], 'pending', -held)
        redis.call('HINCRBY', KEYS[i], 'posted', ARGV[2])
    end
    return 1";
const KEYS: [&str; 5] = ["acme", "acme/coder", "acme/coder/s", "acme/coder/s/r", "holds"];

/// A server of this run's own, on loopback, in a folder of its own; ended with it.
pub struct Server {
    child: Child,
    port: u16,
}

impl Server {
    /// `None` where there is no `redis-server`.
    pub fn start(dir: &Path, fsync: bool) -> Option<Self> {
        let port = TcpListener::bind("127.0.0.1:0").ok()?.local_addr().ok()?.port();
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", "", "--appendonly", "yes"]);
        command.args(["--appendfsync", if fsync { "always" } else { "no" }]).arg("--dir").arg(dir);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()?;
        let server = Self { child, port };
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(5) {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Some(server);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        None
    }

    pub fn client(&self) -> Client {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).expect("a connection");
        stream.set_nodelay(true).expect("a socket");
        let mut client = Client { stream: BufReader::new(stream), scripts: Vec::new() };
        client.scripts = [RESERVE, SETTLE].map(|script| client.ask(&["SCRIPT", "LOAD", script])).into();
        client
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One connection.
pub struct Client {
    stream: BufReader<TcpStream>,
    scripts: Vec<String>,
}

impl Client {
    /// Holds 900 on four accounts, then settles 700.
    pub fn pair(&mut self, id: &str) {
        for (script, amount) in [(0, "900"), (1, "700")] {
            let script = self.scripts[script].clone();
            let mut words = vec!["EVALSHA", &script, "5"];
            words.extend(KEYS);
            words.extend([id, amount, "9007199254740991"]);
            assert_eq!(self.ask(&words), "1");
        }
    }

    /// Sends one command and reads an integer, a status or a string.
    fn ask(&mut self, words: &[&str]) -> String {
        let mut text = format!("*{}\r\n", words.len());
        for word in words {
            text.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        self.stream.get_mut().write_all(text.as_bytes()).expect("sent");
        let mut line = String::new();
        self.stream.read_line(&mut line).expect("an answer");
        let (kind, rest) = line.trim_end().split_at(1);
        match kind {
            ":" | "+" => rest.to_owned(),
            "$" => {
                let mut bytes = vec![0; rest.parse::<usize>().expect("a length") + 2];
                self.stream.read_exact(&mut bytes).expect("a string");
                bytes.truncate(bytes.len() - 2);
                String::from_utf8(bytes).expect("UTF-8")
            }
            _ => panic!("redis says {line}"),
        }
    }
}
