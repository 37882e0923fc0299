//! The real Claude Code against a scripted model through the proxy, where somebody has installed it: `WEIR_CLAUDE_CODE`
//! names its program. It reaches nothing but the proxy: every other address is sent to a port on which nobody listens.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use weir::model::Kind;

use crate::door::setup;
use crate::fake::{Asked, Fake, Told};
use crate::provider::{event, message_events, usage};
use crate::rig::{KEY, Rig, TOKEN};

/// Blocks of the type `word` in the conversation.
fn blocks(body: &Value, word: &str) -> usize {
    let contents =
        body["messages"].as_array().into_iter().flatten().filter_map(|message| message["content"].as_array());
    contents.flatten().filter(|block| block["type"] == word).count()
}

/// Twelve times a command, then an answer.
pub fn script(asked: &Asked) -> Told {
    let body = asked.json();
    let done = blocks(&body, "tool_result");
    if done >= 12 {
        // With one report at the end, as the provider sends it: of several, Claude Code takes the first for its cost.
        let mut events = message_events("that was all", &usage(), 50);
        events.remove(5);
        return Told::events(events.iter().map(String::as_str));
    }
    let message = json!({
        "id": format!("msg_{done}"), "type": "message", "role": "assistant", "model": body["model"], "content": [],
        "stop_reason": null, "stop_sequence": null, "usage": usage(),
    });
    let tool = json!({"type": "tool_use", "id": format!("toolu_{done}"), "name": "Bash", "input": {}});
    let input = json!({"command": format!("echo {done}"), "description": "counts"}).to_string();
    let events = [
        json!({"type": "message_start", "message": message}),
        json!({"type": "content_block_start", "index": 0, "content_block": tool}),
        json!({"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": input}}),
        json!({"type": "content_block_stop", "index": 0}),
        json!({"type": "message_delta", "delta": {"stop_reason": "tool_use", "stop_sequence": null}, "usage": {"output_tokens": 50}}),
        json!({"type": "message_stop"}),
    ];
    let events: Vec<String> = events.iter().map(event).collect();
    Told::events(events.iter().map(String::as_str))
}

/// Runs it on `rig`; what it printed, as text.
fn run(program: &str, rig: &Rig) -> String {
    let home = tempfile::tempdir().unwrap();
    let mut command = Command::new(program);
    command.args(["-p", "count to twelve", "--output-format", "json", "--model", "claude-opus-4-8"]);
    command.args(["--allowedTools", "Bash"]).current_dir(home.path()).env_clear();
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", home.path());
    command.env("CLAUDE_CONFIG_DIR", home.path().join("config"));
    command.env("ANTHROPIC_BASE_URL", format!("http://{}", rig.address)).env("ANTHROPIC_API_KEY", TOKEN);
    command.env("DISABLE_AUTOUPDATER", "1").env("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1");
    command.env("HTTPS_PROXY", "http://127.0.0.1:9").env("HTTP_PROXY", "http://127.0.0.1:9");
    command.env("NO_PROXY", "127.0.0.1,localhost");
    let output = home.path().join("output");
    command.stdin(std::process::Stdio::null()).stdout(std::fs::File::create(&output).unwrap());
    command.stderr(std::process::Stdio::null());
    let (mut child, begun) = (command.spawn().unwrap(), Instant::now());
    while child.try_wait().unwrap().is_none() {
        if begun.elapsed() > Duration::from_secs(120) {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("it did not end: {}", std::fs::read_to_string(&output).unwrap());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    std::fs::read_to_string(&output).unwrap()
}

#[test]
fn claude_code_shows_the_cost_that_the_gate_has_billed() {
    let Ok(program) = std::env::var("WEIR_CLAUDE_CODE") else {
        eprintln!("skipped: WEIR_CLAUDE_CODE names no program");
        return;
    };
    let fake = Fake::start(script);
    let mut rich = setup("anthropic");
    rich.policy = rich.policy.replace("limit = 2_000_000", "limit = 20_000_000");
    let rig = Rig::start(&fake, rich);
    let printed = run(&program, &rig);
    let shown: Value = serde_json::from_str(&printed).unwrap_or_else(|_| panic!("{printed}"));
    let asked = fake.asked();
    let generations = asked.iter().filter(|asked| asked.method == "POST").count();
    assert_eq!((&shown["result"], generations), (&json!("that was all"), 13), "{printed}");
    let cost = (shown["total_cost_usd"].as_f64().unwrap() * 1e6).round();
    assert_eq!((cost, rig.posted(Kind::MicroUsd), rig.pending(Kind::MicroUsd)), (204_750.0, 204_750, 0), "{printed}");
    // One session, of the name that the client shows.
    let session = shown["session_id"].as_str().unwrap();
    let spent =
        rig.gate.balances().into_iter().find(|balance| balance.account.as_str() == format!("acme/coder/{session}"));
    assert_eq!(spent.map(|balance| balance.posted.of(Kind::MicroUsd)), Some(204_750));
    assert!(asked.iter().all(|asked| !format!("{asked:?}").contains(TOKEN)) && !printed.contains(KEY));
}

#[test]
fn claude_code_stops_at_the_cap_with_the_gates_own_words() {
    let Ok(program) = std::env::var("WEIR_CLAUDE_CODE") else {
        eprintln!("skipped: WEIR_CLAUDE_CODE names no program");
        return;
    };
    let fake = Fake::start(script);
    let mut poor = setup("anthropic");
    poor.policy = poor.policy.replace("limit = 2_000_000", "limit = 10");
    let rig = Rig::start(&fake, poor);
    let printed = run(&program, &rig);
    assert!(printed.contains("[weir] denied model claude-opus-4-8: budget money"), "{printed}");
    assert_eq!(
        (fake.asked().iter().filter(|asked| asked.method == "POST").count(), rig.posted(Kind::MicroUsd)),
        (0, 0)
    );
    // A refusal is on record once: it was not tried again.
    let refusals = rig.journal.texts().iter().filter(|entry| entry.contains("budget_exhausted")).count();
    assert_eq!(refusals, 1);
}
