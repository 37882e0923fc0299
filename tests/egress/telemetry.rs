//! Models' proxy and telemetry at one gate: what the proxy has metered beside what a client reports of it.
//!
//! Two tests run the real Claude Code where somebody has installed it: `WEIR_CLAUDE_CODE` names its program. It asks
//! the gate through hooks over HTTP, tells it through OTLP, and reaches nothing else.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use weir::model::{Outcome, Status};
use weir::pep::port::{Executor, Inner};
use weir::pep::{Durable, Reserved};
use weir::surface::hook::Client;
use weir::surface::{Config, Secret, ServeFault, Shutdown, Sidecar, Stop};

use crate::claude::script;
use crate::door::setup;
use crate::fake::Fake;
use crate::provider::{streamed, usage};
use crate::rig::{Reply, Rig, Setup, TOKEN, name};

const TOOLS: &str = r#"
[[tool]]
name = "Bash"
effect = "exec"
shell = "command"

[tool.args.command]
type = "string"
required = true

[tool.args.description]
type = "string"

[[program]]
name = "ls"
effect = "read"

[[rule]]
id = "looking"
effect = "allow"
actions = ["tool.call"]
effects = ["read"]
answers = []
reason = "looking is allowed"
"#;

/// Runs nothing: nobody sends code here.
struct Nothing;

impl Executor for Nothing {
    fn execute(&self, _: &Durable<Reserved>, _: &dyn Inner) -> Outcome {
        Outcome::of(Status::Failed)
    }
}

/// A proxy, and a sidecar of the same gate.
struct Pair {
    rig: Rig,
    tcp: SocketAddr,
    stop: Stop,
    thread: Option<JoinHandle<Result<(), ServeFault>>>,
}

impl Pair {
    fn start(fake: &Fake) -> Self {
        let plain = setup("anthropic");
        let policy = plain.policy.replace("limit = 2_000_000", "limit = 20_000_000") + TOOLS;
        let rig = Rig::start(fake, Setup { policy, ..plain });
        let mut config = Config::new(name("acme"), name("coder"), Secret::new(TOKEN).unwrap());
        config.tcp = Some("127.0.0.1:0".parse().unwrap());
        config.metered = vec![Client::ClaudeCode];
        config.grace = Duration::from_millis(50);
        let sidecar = Sidecar::bind(config).unwrap();
        let (tcp, (stop, shutdown)) = (sidecar.addresses().tcp.unwrap(), Shutdown::pair());
        let gate = rig.gate.clone();
        let thread = Some(std::thread::spawn(move || sidecar.serve(gate, Arc::new(Nothing), shutdown)));
        Self { rig, tcp, stop, thread }
    }

    /// One request to the sidecar; its JSON.
    fn ask(&self, method: &str, path: &str, body: &str) -> Value {
        let mut stream = TcpStream::connect(self.tcp).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nauthorization: Bearer {TOKEN}\r\n"
        );
        let about = format!("content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        stream.write_all(format!("{head}{about}").as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "{text}");
        serde_json::from_str(body).unwrap()
    }

    fn line(&self, session: &str) -> Value {
        let all = self.ask("GET", "/v1/reconciliation", "");
        let sessions = all["sessions"].as_array().unwrap();
        sessions.iter().find(|line| line["session"] == session).unwrap_or_else(|| panic!("{all}")).clone()
    }

    fn generate(&self, session: &str) -> Reply {
        let body = json!({"model": "claude-opus-4-8", "max_tokens": 100, "stream": true, "messages": []}).to_string();
        let headers = [("content-type", "application/json"), ("x-claude-code-session-id", session)];
        self.rig.ask("POST", "/v1/messages", &headers, body.as_bytes())
    }

    /// Tells of a generation as Claude Code does.
    fn report(&self, session: &str, sequence: u64) {
        let attributes = json!([
            {"key": "event.name", "value": {"stringValue": "api_request"}},
            {"key": "session.id", "value": {"stringValue": session}},
            {"key": "event.sequence", "value": {"intValue": sequence}},
            {"key": "input_tokens", "value": {"intValue": "100"}},
            {"key": "cache_read_tokens", "value": {"intValue": 3000}},
            {"key": "cache_creation_tokens", "value": {"intValue": 2000}},
            {"key": "output_tokens", "value": {"intValue": 50}},
            {"key": "cost_usd", "value": {"doubleValue": 0.01575}},
        ]);
        let record = json!({"timeUnixNano": "1", "attributes": attributes});
        let body = json!({"resourceLogs": [{"scopeLogs": [{"logRecords": [record]}]}]});
        assert_eq!(self.ask("POST", "/otlp/claude-code/v1/logs", &body.to_string()), json!({}));
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.stop.stop();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(std::thread::panicking() || matches!(ended, Ok(Ok(()))));
        }
    }
}

#[test]
fn what_the_proxy_metered_and_a_client_reports_agree_to_the_micro_dollar() {
    let fake = Fake::start(|_| streamed("hi", &usage(), 50));
    let pair = Pair::start(&fake);
    assert_eq!(pair.generate("s-1").status, 200);
    pair.report("s-1", 1);
    let line = pair.line("s-1");
    assert_eq!(line["state"], "agrees", "{line}");
    assert_eq!((&line["reported"]["micro_usd"], &line["metered"]["micro_usd"]), (&json!(15_750), &json!(15_750)));
    assert_eq!((&line["metered"]["tokens_in"], &line["metered"]["tokens_out"]), (&json!(5_100), &json!(50)));
    // One that the proxy never saw.
    pair.report("s-1", 2);
    let line = pair.line("s-1");
    assert_eq!((&line["state"], &line["closed"]), (&json!("past_the_gate"), &json!("frozen")));
    let refused = pair.generate("s-1");
    assert!(String::from_utf8_lossy(&refused.body).contains("frozen"), "{refused:?}");
    assert_eq!(pair.generate("s-2").status, 200, "another session goes on");
}

/// Runs Claude Code in `project` with telemetry and the hooks of the sidecar; its JSON.
fn run(program: &str, pair: &Pair, home: &Path, project: &Path) -> Value {
    let config = home.join("config");
    std::fs::create_dir_all(&config).unwrap();
    let (gate, bearer) = (format!("http://{}", pair.tcp), format!("Bearer {TOKEN}"));
    let url = format!("{gate}/v1/hooks/claude-code?wait_ms=0");
    let handler =
        json!({"type": "http", "url": url, "headers": {"Authorization": bearer}, "timeout": 20, "onFailure": "block"});
    let mut hooks = json!({});
    for event in ["PreToolUse", "PostToolUse", "PostToolUseFailure"] {
        hooks[event] = json!([{"matcher": "*", "hooks": [handler]}]);
    }
    std::fs::write(config.join("settings.json"), json!({"hooks": hooks}).to_string()).unwrap();
    let mut command = Command::new(program);
    command.args(["-p", "count to twelve", "--output-format", "json", "--model", "claude-opus-4-8"]);
    command.args(["--allowedTools", "Bash"]).current_dir(project).env_clear();
    for (name, value) in [
        ("PATH", std::env::var("PATH").unwrap_or_default().as_str()),
        ("HOME", home.to_str().unwrap()),
        ("CLAUDE_CONFIG_DIR", config.to_str().unwrap()),
        ("ANTHROPIC_BASE_URL", &format!("http://{}", pair.rig.address)),
        ("ANTHROPIC_API_KEY", TOKEN),
        ("DISABLE_AUTOUPDATER", "1"),
        ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1"),
        ("HTTPS_PROXY", "http://127.0.0.1:9"),
        ("HTTP_PROXY", "http://127.0.0.1:9"),
        ("NO_PROXY", "127.0.0.1,localhost"),
        ("CLAUDE_CODE_ENABLE_TELEMETRY", "1"),
        ("OTEL_LOGS_EXPORTER", "otlp"),
        ("OTEL_METRICS_EXPORTER", "otlp"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &format!("{gate}/otlp/claude-code")),
        ("OTEL_EXPORTER_OTLP_HEADERS", &format!("Authorization={bearer}")),
        ("OTEL_LOGS_EXPORT_INTERVAL", "1000"),
    ] {
        command.env(name, value);
    }
    let output = home.join("output");
    command.stdin(Stdio::null()).stdout(std::fs::File::create(&output).unwrap()).stderr(Stdio::null());
    let (mut child, begun) = (command.spawn().unwrap(), Instant::now());
    while child.try_wait().unwrap().is_none() {
        if begun.elapsed() > Duration::from_secs(120) {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("it did not end: {}", std::fs::read_to_string(&output).unwrap());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let text = std::fs::read_to_string(&output).unwrap();
    serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}"))
}

#[test]
fn claude_code_reports_what_the_gate_has_decided_and_billed() {
    let Ok(program) = std::env::var("WEIR_CLAUDE_CODE") else {
        eprintln!("skipped: WEIR_CLAUDE_CODE names no program");
        return;
    };
    let (fake, home, project) = (Fake::start(script), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let pair = Pair::start(&fake);
    let shown = run(&program, &pair, home.path(), project.path());
    assert_eq!(shown["result"], "that was all", "{shown}");
    let line = pair.line(shown["session_id"].as_str().unwrap());
    assert_eq!((&line["state"], &line["closed"]), (&json!("agrees"), &Value::Null), "{line}");
    let reported = json!({"requests": 13, "tokens_in": 66_300, "tokens_out": 650, "micro_usd": 204_750, "unpriced": 0});
    assert_eq!((&line["reported"], &line["metered"]["micro_usd"]), (&reported, &json!(204_750)));
    assert_eq!(line["tools"], json!({"results": 12, "unhooked": 0, "unproven": 0, "bypasses": 0}));
}

#[test]
fn claude_code_whose_hooks_are_switched_off_is_found_out_by_its_telemetry() {
    let Ok(program) = std::env::var("WEIR_CLAUDE_CODE") else {
        eprintln!("skipped: WEIR_CLAUDE_CODE names no program");
        return;
    };
    let (fake, home, project) = (Fake::start(script), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let pair = Pair::start(&fake);
    std::fs::create_dir(project.path().join(".claude")).unwrap();
    std::fs::write(project.path().join(".claude/settings.json"), r#"{"disableAllHooks": true}"#).unwrap();
    let shown = run(&program, &pair, home.path(), project.path());
    let line = pair.line(shown["session_id"].as_str().unwrap());
    assert_eq!((&line["state"], &line["closed"]), (&json!("bypassed"), &json!("revoked")), "{line}");
    assert!(line["tools"]["bypasses"].as_u64().unwrap() > 0, "{line}");
    let entries = pair.rig.journal.texts();
    assert!(
        entries.iter().any(|entry| entry.contains("\"kind\":\"bypass\"") && entry.contains("\"resource\":\"Bash\""))
    );
}
