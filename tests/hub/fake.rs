//! A small Hub: repositories with commits and large files, commits and uploads, jobs with a clock that a test sets. It can
//! lie, break off and fail where it is told. Files lie on another host than the Hub, as they do in the real one.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};

use serde_json::{Value, json};
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

/// One request as it arrived.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    /// Path and query.
    pub path: String,
    pub token: Option<String>,
    pub body: Vec<u8>,
}

#[derive(Clone, Debug)]
pub struct File {
    pub bytes: Vec<u8>,
    pub large: bool,
}

#[derive(Clone, Debug, Default)]
pub struct Repo {
    pub files: BTreeMap<String, File>,
    /// Branches by name.
    pub refs: BTreeMap<String, String>,
}

/// How a launch is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Launching {
    #[default]
    Done,
    /// The job runs and the connection breaks.
    Cut,
    /// The job runs and the answer names none.
    Mumble,
    /// Refused with this status; no job.
    Refused(u16),
    /// A broken server that has launched all the same.
    Failed,
}

/// Everything that the Hub holds.
#[derive(Default)]
pub struct World {
    pub repos: BTreeMap<String, Repo>,
    pub jobs: Vec<Value>,
    pub asked: Vec<Asked>,
    pub launching: Launching,
    /// Status of a cancel, where it fails.
    pub cancel_fails: Option<u16>,
    /// Files whose bytes are not what the list of files says.
    pub corrupt: BTreeSet<String>,
    /// Micro-USD per minute of t4-small; none where the catalogue cannot be read.
    pub price: Option<u64>,
    /// Whether an answer quotes the token that the request carried.
    pub quotes: bool,
    /// Large files that were sent.
    pub sent: BTreeMap<String, Vec<u8>>,
    /// Sent large files in two parts.
    pub parts: bool,
    /// Where large files lie instead of the usual host.
    pub elsewhere: Option<String>,
}

/// The Hub, on two loopback ports.
#[derive(Clone)]
pub struct Fake {
    pub world: Arc<Mutex<World>>,
    pub port: u16,
    pub blobs: u16,
}

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
pub const OLD: &str = "fedcba9876543210fedcba9876543210fedcba98";

fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn sha256(bytes: &[u8]) -> String {
    hex(Sha256::digest(bytes))
}

fn blob(bytes: &[u8]) -> String {
    hex(Sha1::new().chain_update(format!("blob {}\0", bytes.len()).as_bytes()).chain_update(bytes).finalize())
}

impl Fake {
    pub fn start() -> Self {
        let (api, blobs) = (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
        let world = World { price: Some(6_667), ..World::default() };
        let fake = Self {
            world: Arc::new(Mutex::new(world)),
            port: api.local_addr().unwrap().port(),
            blobs: blobs.local_addr().unwrap().port(),
        };
        for listener in [api, blobs] {
            let own = fake.clone();
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let own = own.clone();
                    std::thread::spawn(move || own.serve(stream));
                }
            });
        }
        fake
    }

    pub fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn file(&self, repo: &str, path: &str, bytes: &[u8], large: bool) {
        let mut world = self.world();
        let repo = world.repos.entry(repo.to_owned()).or_default();
        repo.refs.insert("main".into(), COMMIT.into());
        repo.files.insert(path.to_owned(), File { bytes: bytes.to_vec(), large });
    }

    /// Sets the clock of every job that runs.
    pub fn run_all(&self, seconds: u64) {
        for job in &mut self.world().jobs {
            if job["status"]["stage"] == "SCHEDULING" || job["status"]["stage"] == "RUNNING" {
                job["status"]["stage"] = json!("RUNNING");
                job["durations"]["runningSecs"] = json!(seconds);
            }
        }
    }

    pub fn end_all(&self, stage: &str) {
        for job in &mut self.world().jobs {
            job["status"]["stage"] = json!(stage);
        }
    }

    /// Requests whose method and path begin so.
    pub fn count(&self, method: &str, start: &str) -> usize {
        self.world().asked.iter().filter(|asked| asked.method == method && asked.path.starts_with(start)).count()
    }

    fn serve(&self, stream: TcpStream) {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        while let Some(asked) = read(&mut reader) {
            let mut world = self.world();
            world.asked.push(asked.clone());
            let answer = self.answer(&mut world, &asked);
            drop(world);
            let Some((status, headers, body)) = answer else { return };
            let mut head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n", body.len());
            for (name, value) in headers {
                head.push_str(&format!("{name}: {value}\r\n"));
            }
            let mut out = &stream;
            if out.write_all(format!("{head}\r\n").as_bytes()).and_then(|()| out.write_all(&body)).is_err() {
                return;
            }
        }
    }

    fn answer(&self, world: &mut World, asked: &Asked) -> Option<Answer> {
        let (path, query) = asked.path.split_once('?').unwrap_or((&asked.path, ""));
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        match (asked.method.as_str(), parts.as_slice()) {
            ("GET", ["blob", digest]) => Some(blob_of(world, digest)),
            ("PUT", ["put", oid, part @ ..]) => {
                let name = format!("{oid}{}", part.join(""));
                world.sent.insert(name, asked.body.clone());
                Some((200, vec![("etag".into(), "\"tag\"".into())], Vec::new()))
            }
            ("POST", ["verify" | "complete", ..]) => Some(json_of(200, &json!({}))),
            ("GET", ["api", "jobs", "hardware"]) => Some(hardware(world)),
            ("POST", ["api", "jobs", namespace]) => launch(world, namespace, &asked.body),
            ("GET", ["api", "jobs", _]) => {
                let wanted = query.strip_prefix("label=weir-call%3D").unwrap_or_default();
                let own = |job: &&Value| job["labels"]["weir-call"] == wanted;
                let found: Vec<Value> = world.jobs.iter().filter(own).cloned().collect();
                Some(json_of(200, &Value::Array(found)))
            }
            (method, ["api", "jobs", _, id, rest @ ..]) => Some(job(world, method, id, rest)),
            ("GET", ["api", kind, team, name, "tree", _]) => Some(tree(world, &format!("{kind}/{team}/{name}"))),
            ("GET", ["api", kind, team, name, "revision", at]) => {
                let repo = world.repos.get(&format!("{kind}/{team}/{name}"))?;
                Some(json_of(200, &json!({"sha": repo.refs.get(*at)})))
            }
            ("POST", ["api", _, _, _, "preupload", _]) => Some(preupload(&asked.body)),
            ("POST", ["api", _, team, name, "commit", _]) => {
                let url = format!("https://huggingface.co/{team}/{name}/commit/{COMMIT}");
                Some(json_of(
                    200,
                    &json!({"commitUrl": url, "commitOid": COMMIT, "hookOutput": "", "user": "the owner"}),
                ))
            }
            ("POST", ["api", "repos", "create"]) => {
                let body: Value = serde_json::from_slice(&asked.body).unwrap();
                let id = format!("{}/{}", body["organization"].as_str().unwrap(), body["name"].as_str().unwrap());
                Some(json_of(200, &{
                    let mut made = json!({"url": format!("https://huggingface.co/{id}")});
                    if world.quotes {
                        made["token"] = json!(asked.token);
                    }
                    made
                }))
            }
            ("POST", [.., "info", "lfs", "objects", "batch"]) => Some(self.batch(world, &asked.body)),
            ("GET", [team, name, "resolve", _, file @ ..]) => {
                Some(self.resolve(world, &format!("models/{team}/{name}"), &file.join("/")))
            }
            _ => Some(json_of(404, &json!({"error": "not here"}))),
        }
    }

    fn resolve(&self, world: &World, repo: &str, path: &str) -> Answer {
        let Some(file) = world.repos.get(repo).and_then(|repo| repo.files.get(path)) else {
            return json_of(404, &json!({"error": "no file"}));
        };
        let mut headers = vec![
            ("x-repo-commit".to_owned(), COMMIT.to_owned()),
            ("x-xet-hash".to_owned(), "a".repeat(64)),
            ("link".to_owned(), "<https://cas.example/auth>; rel=\"xet-auth\"".to_owned()),
        ];
        if file.large {
            let digest = sha256(&file.bytes);
            headers.push(("x-linked-etag".into(), format!("\"{digest}\"")));
            let host = world.elsewhere.clone().unwrap_or_else(|| format!("http://localhost:{}", self.blobs));
            headers.push(("location".into(), format!("{host}/blob/{digest}?Signature=s")));
            return (302, headers, Vec::new());
        }
        headers.push(("etag".into(), format!("\"{}\"", blob(&file.bytes))));
        (200, headers, damaged(world, path, &file.bytes))
    }

    fn batch(&self, world: &World, body: &[u8]) -> Answer {
        let body: Value = serde_json::from_slice(body).unwrap();
        let own = |object: &Value| {
            let (oid, size) = (object["oid"].as_str().unwrap(), object["size"].as_u64().unwrap());
            let place = format!("http://localhost:{}/put/{oid}", self.blobs);
            let header = if world.parts {
                let chunk = size.div_ceil(2);
                json!({"chunk_size": chunk.to_string(), "1": format!("{place}/1"), "2": format!("{place}/2")})
            } else {
                json!({})
            };
            let href = if world.parts { format!("{}/complete/{oid}", self.url()) } else { place };
            json!({"oid": oid, "size": size, "actions": {
                "upload": {"href": href, "header": header}, "verify": {"href": format!("{}/verify/{oid}", self.url())}}})
        };
        let objects: Vec<Value> = body["objects"].as_array().unwrap().iter().map(own).collect();
        json_of(200, &json!({"transfer": "basic", "objects": objects}))
    }
}

type Answer = (u16, Vec<(String, String)>, Vec<u8>);

fn json_of(status: u16, value: &Value) -> Answer {
    (status, vec![("content-type".into(), "application/json".into())], value.to_string().into_bytes())
}

fn damaged(world: &World, name: &str, bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if world.corrupt.contains(name)
        && let Some(last) = bytes.last_mut()
    {
        *last ^= 1;
    }
    bytes
}

fn blob_of(world: &World, digest: &str) -> Answer {
    let mut files = world.repos.values().flat_map(|repo| &repo.files);
    match files.find(|(_, file)| sha256(&file.bytes) == digest) {
        Some((name, file)) => (200, Vec::new(), damaged(world, name, &file.bytes)),
        None => json_of(404, &json!({})),
    }
}

fn tree(world: &World, repo: &str) -> Answer {
    let Some(repo) = world.repos.get(repo) else { return json_of(404, &json!({})) };
    let row = |(path, file): (&String, &File)| {
        let mut row =
            json!({"type": "file", "path": path, "size": file.bytes.len(), "oid": blob(&file.bytes), "xetHash": "x"});
        if file.large {
            row["lfs"] = json!({"oid": sha256(&file.bytes), "size": file.bytes.len(), "pointerSize": 130});
        }
        row
    };
    json_of(200, &repo.files.iter().map(row).collect())
}

fn preupload(body: &[u8]) -> Answer {
    let body: Value = serde_json::from_slice(body).unwrap();
    let row = |file: &Value| {
        let mode = if file["size"].as_u64().unwrap() > 1_000 { "xet" } else { "regular" };
        json!({"path": file["path"], "uploadMode": mode, "shouldIgnore": false})
    };
    json_of(200, &json!({"files": body["files"].as_array().unwrap().iter().map(row).collect::<Vec<_>>()}))
}

fn hardware(world: &World) -> Answer {
    let Some(price) = world.price else { return json_of(200, &json!({"sorry": true})) };
    let row = |name: &str, cost: u64| {
        json!({"name": name, "prettyName": name, "cpu": "4 vCPU", "ram": "16 GB", "unitCostMicroUSD": cost, "unitCostUSD": 0,
            "unitLabel": "minute"})
    };
    json_of(200, &json!([row("t4-small", price), row("cpu-basic", 167), row("a100x8", 333_334)]))
}

fn launch(world: &mut World, namespace: &str, body: &[u8]) -> Option<Answer> {
    if let Launching::Refused(status) = world.launching {
        return Some(json_of(status, &json!({"error": "no room"})));
    }
    let mut job: Value = serde_json::from_slice(body).unwrap();
    job["id"] = json!(format!("job{}", world.jobs.len()));
    job["namespace"] = json!(namespace);
    job["status"] = json!({"stage": "SCHEDULING", "message": null, "sshUrl": "ssh://x"});
    job["durations"] = json!({"schedulingSecs": 0, "runningSecs": 0, "totalSecs": 0});
    job["owner"] = json!({"id": "u1", "name": namespace, "type": "user"});
    job["initiator"] = json!({"type": "user", "id": "u1", "name": "the owner"});
    job["createdAt"] = json!("2026-11-21T21:00:00.000Z");
    world.jobs.push(job.clone());
    match world.launching {
        Launching::Cut => None,
        Launching::Mumble => Some(json_of(200, &json!({"ok": true}))),
        Launching::Failed => Some(json_of(503, &json!({"error": "try again"}))),
        Launching::Done | Launching::Refused(_) => Some(json_of(200, &job)),
    }
}

fn job(world: &mut World, method: &str, id: &str, rest: &[&str]) -> Answer {
    let fails = world.cancel_fails;
    let Some(job) = world.jobs.iter_mut().find(|job| job["id"] == id) else { return json_of(404, &json!({})) };
    match (method, rest) {
        ("GET", []) => json_of(200, job),
        ("POST", ["cancel"]) => match fails {
            Some(status) => json_of(status, &json!({"error": "not now"})),
            None => {
                job["status"]["stage"] = json!("CANCELED");
                json_of(200, &json!({}))
            }
        },
        ("GET", ["logs" | "metrics"]) => {
            let lines = b"data: {\"data\": \"===== Job started\"}\n\ndata: {\"data\": \"hello\"}\n\n".to_vec();
            (200, vec![("content-type".into(), "text/event-stream".into())], lines)
        }
        _ => json_of(404, &json!({})),
    }
}

/// One request, with a body of a given length or in chunks.
fn read(reader: &mut impl BufRead) -> Option<Asked> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.insert(name.to_lowercase(), value.to_owned());
    }
    let mut body = Vec::new();
    if let Some(length) = headers.get("content-length") {
        body = vec![0; length.parse().ok()?];
        reader.read_exact(&mut body).ok()?;
    } else if headers.contains_key("transfer-encoding") {
        loop {
            let mut size = String::new();
            reader.read_line(&mut size).ok()?;
            let size = usize::from_str_radix(size.trim(), 16).ok()?;
            let mut chunk = vec![0; size + 2];
            reader.read_exact(&mut chunk).ok()?;
            if size == 0 {
                break;
            }
            body.extend_from_slice(&chunk[..size]);
        }
    }
    let token = headers.get("authorization").map(|value| value.trim_start_matches("Bearer ").to_owned());
    Some(Asked { method, path, token, body })
}
