//! The shim that a client runs for every event: standard input to the gate, the gate's answer to standard output.
//!
//! It knows no policy. Whatever goes wrong ends with exit code 2 and the reason on standard error, which is how both
//! clients are told that a tool must not run; only events that end something get 1, for 2 would keep the client going.

use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use hyper::Request;
use hyper::client::conn::http1::handshake;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper_util::rt::TokioIo;
use serde_json::{Map, Value};
use tokio::net::UnixStream;

use super::Client;
use crate::model::{Limits, parse_json};
use crate::surface::{Secret, visible};

/// Longest answer of a gate, bytes.
const ANSWER: usize = 64 << 10;
/// How long the gate may take beyond what a person may.
const MARGIN: Duration = Duration::from_secs(8);
/// Events that end something: exit code 2 would make the client go on.
const ENDS: &[&str] = &["Stop", "SubagentStop", "StopFailure", "SessionEnd"];

/// How an event is carried to the gate.
#[derive(Clone, Debug)]
pub struct Carrier {
    /// Whose event it is.
    pub client: Client,
    /// The gate's Unix socket.
    pub socket: PathBuf,
    /// A file with the agent's token.
    pub token_file: PathBuf,
    /// How long a person's answer is awaited.
    pub wait: Duration,
    /// Whether a call about which a person was asked is deferred (Claude Code, headless) instead of denied.
    pub defer: bool,
}

/// How the shim ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// 0 with an answer; 2 when the tool must not run; 1 when nothing can be said about an event that ends something.
    pub code: u8,
    /// For standard output.
    pub stdout: String,
    /// For standard error.
    pub stderr: String,
}

/// What a client sends with its telemetry: the header with the token in `token_file`, as one JSON object.
///
/// # Errors
/// Why there is none, without the token.
pub fn telemetry_headers(token_file: &Path) -> Result<String, String> {
    let token = token(token_file)?;
    Ok(format!("{}\n", serde_json::json!({"Authorization": format!("Bearer {}", token.expose())})))
}

/// Carries the event in `input`. It never panics and never fails: what goes wrong is an [`Exit`].
pub fn carry(carrier: &Carrier, input: impl Read) -> Exit {
    let mut event = String::new();
    let carried = catch_unwind(AssertUnwindSafe(|| carried(carrier, input, &mut event)));
    let why = match carried {
        Ok(Ok(stdout)) => return Exit { code: 0, stdout, stderr: String::new() },
        Ok(Err(why)) => why,
        Err(_) => "the hook failed".to_owned(),
    };
    let code = if ENDS.contains(&event.as_str()) { 1 } else { 2 };
    let why = visible(&why, Limits::DENIAL_BYTES / 2);
    Exit { code, stdout: String::new(), stderr: format!("[weir] not allowed: {why}. Do not retry; ask the user.") }
}

fn carried(carrier: &Carrier, input: impl Read, event: &mut String) -> Result<String, String> {
    let mut bytes = Vec::new();
    let read = input.take(Limits::JSON_BYTES as u64 + 1).read_to_end(&mut bytes);
    read.map_err(|_| "the client's event cannot be read".to_owned())?;
    let told = parse_json(&bytes).map_err(|fault| format!("the client's event is not strict JSON: {fault}"))?;
    told["hook_event_name"].as_str().unwrap_or_default().clone_into(event);
    let token = token(&carrier.token_file)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|_| "no connection can be made".to_owned())?;
    let patience = carrier.wait.saturating_add(MARGIN);
    let asked = async { tokio::time::timeout(patience, exchange(carrier, &token, bytes)).await };
    let answer = runtime.block_on(asked).unwrap_or_else(|_| Err("the gate did not answer in time".to_owned()))?;
    check(carrier.client, event, &answer)?;
    Ok(answer.to_string())
}

fn token(file: &Path) -> Result<Secret, String> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("the file of the token: {}", error.kind()))?;
    Secret::new(text.trim()).map_err(|fault| format!("the file of the token: {fault}"))
}

async fn exchange(carrier: &Carrier, token: &Secret, body: Vec<u8>) -> Result<Value, String> {
    let (client, wait) = (carrier.client.word(), carrier.wait.as_millis());
    let path = format!("/v1/hooks/{client}?wait_ms={wait}&defer={}", carrier.defer);
    let request = Request::post(path).header(HOST, "localhost").header(CONTENT_TYPE, "application/json");
    let request = request.header(AUTHORIZATION, format!("Bearer {}", token.expose())).body(Body::from(body));
    let request = request.map_err(|_| "this cannot be asked".to_owned())?;
    let stream = UnixStream::connect(&carrier.socket).await;
    let stream = stream.map_err(|error| format!("no gate listens on its socket ({})", error.kind()))?;
    let broke = |_| "the gate broke the connection".to_owned();
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await.map_err(broke)?;
    let connection = tokio::spawn(connection);
    let answer = sender.send_request(request).await.map_err(broke)?;
    let status = answer.status();
    let bytes =
        to_bytes(Body::new(answer.into_body()), ANSWER).await.map_err(|_| "the gate's answer broke off".to_owned())?;
    connection.abort();
    let answer = parse_json(&bytes).map_err(|_| "the gate's answer is not strict JSON".to_owned())?;
    if status.as_u16() == 200 {
        return Ok(answer);
    }
    let said = answer["error"]["message"].as_str().unwrap_or("no reason was given");
    Err(format!("the gate refused the event: {said}"))
}

/// Refuses an answer that `client` would not take for what the gate meant: both go on with a tool then.
fn check(client: Client, event: &str, answer: &Value) -> Result<(), String> {
    let wrong = || "the gate's answer is not one that the client understands".to_owned();
    let fields = answer.as_object().ok_or_else(wrong)?;
    let known = ["hookSpecificOutput", "continue", "stopReason", "systemMessage"];
    if !fields.keys().all(|key| known.contains(&key.as_str())) {
        return Err(wrong());
    }
    let decision = fields.get("hookSpecificOutput").map(|output| decision(output, event));
    match (decision, event) {
        (Some(Some(_)), "PreToolUse") => Ok(()),
        (None, "PreToolUse") if client == Client::ClaudeCode => Err(wrong()),
        (Some(_), _) => Err(wrong()),
        (None, _) => Ok(()),
    }
}

fn decision<'v>(output: &'v Value, event: &str) -> Option<&'v str> {
    let output: &Map<String, Value> = output.as_object()?;
    let known = ["hookEventName", "permissionDecision", "permissionDecisionReason"];
    let sound =
        output.keys().all(|key| known.contains(&key.as_str())) && output.get("hookEventName")?.as_str()? == event;
    let decision = output.get("permissionDecision")?.as_str()?;
    (sound && matches!(decision, "allow" | "deny" | "defer")).then_some(decision)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixListener;

    use serde_json::json;

    use super::*;

    /// A socket that answers one request with `reply`, and the carrier that speaks to it.
    fn answered(reply: Option<&'static str>) -> (Carrier, tempfile::TempDir) {
        let home = tempfile::tempdir().unwrap();
        let (socket, token_file) = (home.path().join("gate.sock"), home.path().join("token"));
        std::fs::write(&token_file, "agent-token-0123456789\n").unwrap();
        if let Some(reply) = reply {
            let listener = UnixListener::bind(&socket).unwrap();
            std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).unwrap();
                stream.write_all(reply.as_bytes()).unwrap();
            });
        }
        let carrier = Carrier { client: Client::ClaudeCode, socket, token_file, wait: Duration::ZERO, defer: false };
        (carrier, home)
    }

    fn http(status: &str, body: &str) -> &'static str {
        let text = format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        Box::leak(text.into_boxed_str())
    }

    const EVENT: &[u8] = br#"{"session_id":"s","hook_event_name":"PreToolUse","tool_name":"Bash","tool_use_id":"t"}"#;

    #[test]
    fn an_answer_is_carried_and_anything_else_blocks() {
        let deny = r#"{"hookSpecificOutput":{"hookEventName":"PreToolUse","permissionDecision":"deny","permissionDecisionReason":"no"}}"#;
        let (carrier, _home) = answered(Some(http("200 OK", deny)));
        let exit = carry(&carrier, EVENT);
        assert_eq!(
            (exit.code, serde_json::from_str::<Value>(&exit.stdout).unwrap()),
            (0, serde_json::from_str(deny).unwrap())
        );
        for reply in [
            None,
            Some(""),
            Some("HTTP/1.1 200 OK\r\n"),
            Some(http("200 OK", "{}")),
            Some(http("200 OK", "[]")),
            Some(http("200 OK", "not json")),
            Some(http("200 OK", r#"{"hookSpecificOutput":{"hookEventName":"PreToolUse","permissionDecision":"ask"}}"#)),
            Some(http("200 OK", r#"{"hookSpecificOutput":{"hookEventName":"Stop","permissionDecision":"allow"}}"#)),
            Some(http("200 OK", r#"{"decision":"approve"}"#)),
            Some(http("429 Too Many Requests", r#"{"error":{"code":"busy","message":"too many"}}"#)),
            Some(http("500 Oh", deny)),
        ] {
            let (carrier, _home) = answered(reply);
            let exit = carry(&carrier, EVENT);
            assert_eq!((exit.code, exit.stdout.as_str()), (2, ""), "{reply:?}");
            assert!(exit.stderr.starts_with("[weir] not allowed: ") && exit.stderr.len() < 400, "{}", exit.stderr);
        }
    }

    #[test]
    fn what_cannot_be_read_blocks_too() {
        let (carrier, home) = answered(None);
        for input in ["", "{", "{\"a\":1,\"a\":2}", "\u{0}"] {
            assert_eq!(carry(&carrier, input.as_bytes()).code, 2, "{input}");
        }
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
                panic!("a reader that panics")
            }
        }
        assert_eq!(carry(&carrier, Broken).code, 2);
        std::fs::write(home.path().join("token"), "short").unwrap();
        let exit = carry(&carrier, EVENT);
        assert!(exit.code == 2 && exit.stderr.contains("token") && !exit.stderr.contains("short"), "{}", exit.stderr);
        let stop = json!({"session_id": "s", "hook_event_name": "Stop"}).to_string();
        assert_eq!(carry(&carrier, stop.as_bytes()).code, 1, "2 would keep the client going");
    }

    #[test]
    fn a_gate_that_says_nothing_is_not_waited_for_long() {
        let (carrier, _home) = answered(None);
        let _held = UnixListener::bind(&carrier.socket).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let token = Secret::new("agent-token-0123456789").unwrap();
        let short = Duration::from_millis(50);
        let asked =
            runtime.block_on(async { tokio::time::timeout(short, exchange(&carrier, &token, EVENT.to_vec())).await });
        assert!(asked.is_err());
    }
}
