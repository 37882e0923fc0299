//! The real Codex against a scripted model through the proxy, where somebody has installed it: `WEIR_CODEX` names its
//! program. Its configuration is its own and knows no other provider; every other address is sent where nobody listens.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use weir::model::Kind;

use crate::door::setup;
use crate::fake::{Asked, Fake, Told};
use crate::provider::event;
use crate::rig::{Rig, TOKEN};

/// Twice a command, then an answer; 1,000 tokens read each time, 400 of them from a cache, 20 written.
fn script(asked: &Asked) -> Told {
    let body = asked.json();
    let outputs = body["input"].as_array().into_iter().flatten().filter(|item| item["type"] == "function_call_output");
    let done = outputs.count();
    let item = if done < 2 {
        let arguments = json!({"cmd": format!("echo {done}"), "command": ["echo", "x"]}).to_string();
        json!({"type": "function_call", "id": format!("fc_{done}"), "call_id": format!("call_{done}"),
            "name": "exec_command", "arguments": arguments, "status": "completed"})
    } else {
        json!({"type": "message", "id": "m_1", "role": "assistant", "status": "completed",
            "content": [{"type": "output_text", "text": "that was all", "annotations": []}]})
    };
    let usage = json!({
        "input_tokens": 1000, "input_tokens_details": {"cached_tokens": 400}, "output_tokens": 20,
        "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 1020,
    });
    let events = [
        json!({"type": "response.created", "response": {"id": format!("resp_{done}")}}),
        json!({"type": "response.output_item.done", "output_index": 0, "item": item}),
        json!({"type": "response.completed", "response": {"id": format!("resp_{done}"), "usage": usage}}),
    ];
    let events: Vec<String> = events.iter().map(event).collect();
    Told::events(events.iter().map(String::as_str))
}

/// Runs it on `rig`; what it printed.
fn run(program: &str, rig: &Rig) -> String {
    let home = tempfile::tempdir().unwrap();
    let config = format!(
        "model = \"gpt-5\"\nmodel_provider = \"weir\"\nweb_search = \"disabled\"\n[model_providers.weir]\nname = \"weir\"\n\
         base_url = \"http://{}/v1\"\nenv_key = \"WEIR_TOKEN\"\nwire_api = \"responses\"\n\
         request_max_retries = 0\nstream_max_retries = 0\n",
        rig.address
    );
    std::fs::write(home.path().join("config.toml"), config).unwrap();
    let mut command = Command::new(program);
    command.args([
        "exec",
        "--json",
        "--skip-git-repo-check",
        "--dangerously-bypass-approvals-and-sandbox",
        "count to two",
    ]);
    command.current_dir(home.path()).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.env("HOME", home.path()).env("CODEX_HOME", home.path()).env("WEIR_TOKEN", TOKEN);
    command.env("HTTPS_PROXY", "http://127.0.0.1:9").env("HTTP_PROXY", "http://127.0.0.1:9");
    command.env("NO_PROXY", "127.0.0.1,localhost");
    let output = home.path().join("output");
    command.stdin(std::process::Stdio::null()).stdout(std::fs::File::create(&output).unwrap());
    command.stderr(std::fs::OpenOptions::new().append(true).open(&output).unwrap());
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
fn codex_is_billed_for_what_it_uses_and_stops_at_the_cap() {
    let Ok(program) = std::env::var("WEIR_CODEX") else {
        eprintln!("skipped: WEIR_CODEX names no program");
        return;
    };
    let fake = Fake::start(script);
    let rig = Rig::start(&fake, setup("openai"));
    let printed = run(&program, &rig);
    let asked: Vec<Value> = fake.asked().iter().filter(|asked| asked.method == "POST").map(Asked::json).collect();
    assert!(printed.contains("that was all"), "{printed}");
    assert_eq!((asked.len(), rig.posted(Kind::MicroUsd), rig.pending(Kind::MicroUsd)), (3, 3_000, 0), "{printed}");
    // One session, of the name that the client shows.
    let first: Value = serde_json::from_str(printed.lines().find(|line| line.contains("thread_id")).unwrap()).unwrap();
    let session = format!("acme/coder/{}", first["thread_id"].as_str().unwrap());
    let accounts: Vec<String> = rig.gate.balances().iter().map(|balance| balance.account.to_string()).collect();
    assert!(accounts.contains(&session), "{session} in {accounts:?}; {:?}", fake.asked()[0].headers);
    // It states no bound: the proxy has put one in.
    assert!(asked.iter().all(|body| body["max_output_tokens"] == 16_384));
    assert!(!format!("{:?}", fake.asked()).contains(TOKEN));
    let mut poor = setup("openai");
    poor.policy = poor.policy.replace("limit = 2_000_000", "limit = 10");
    let (before, rig) = (fake.asked().len(), Rig::start(&fake, poor));
    let printed = run(&program, &rig);
    assert!(printed.contains("[weir] denied model gpt-5: budget money"), "{printed}");
    let refusals = rig.journal.texts().iter().filter(|entry| entry.contains("budget_exhausted")).count();
    assert_eq!((fake.asked().len(), refusals), (before, 1), "{printed}");
}
