//! The providers' Python SDKs through the proxy, where somebody has installed them: `WEIR_SDK_PYTHON` names a Python
//! that has `anthropic` and `openai`.

use std::process::Command;

use serde_json::{Value, json};
use weir::model::Kind;

use crate::door::setup;
use crate::fake::{Asked, Fake, Told};
use crate::provider::{chat_events, chat_usage, message, response_events, streamed, usage};
use crate::rig::{Rig, TOKEN};

fn script(asked: &Asked) -> Told {
    let (body, stream) = (asked.json(), asked.json()["stream"] == true);
    let chat = chat_usage(1_000, 400, 20);
    match asked.path.as_str() {
        "/v1/messages/count_tokens" => Told::json(200, &json!({"input_tokens": 7})),
        "/v1/messages" if stream => streamed("hello", &usage(), 50),
        "/v1/messages" => {
            let mut usage = usage();
            usage["output_tokens"] = 50.into();
            message("hello", &usage)
        }
        "/v1/chat/completions" if stream => {
            let wanted = body["stream_options"]["include_usage"] == true;
            Told::events(chat_events("hello", wanted.then_some(&chat)).iter().map(String::as_str))
        }
        "/v1/chat/completions" => {
            let message = json!({"role": "assistant", "content": "hello"});
            let choices = json!([{"index": 0, "message": message, "finish_reason": "stop"}]);
            let value = json!({
                "id": "c", "object": "chat.completion", "created": 1, "model": "gpt-5", "choices": choices, "usage": chat,
            });
            Told::json(200, &value)
        }
        _ => {
            let usage = json!({
                "input_tokens": 1000, "output_tokens": 20, "total_tokens": 1020,
                "input_tokens_details": {"cached_tokens": 400}, "output_tokens_details": {"reasoning_tokens": 0},
            });
            Told::events(response_events("hello", "response.completed", &usage).iter().map(String::as_str))
        }
    }
}

#[test]
fn the_providers_sdks_work_and_show_a_refusal_once() {
    let Ok(python) = std::env::var("WEIR_SDK_PYTHON") else {
        eprintln!("skipped: WEIR_SDK_PYTHON names no Python with the packages anthropic and openai");
        return;
    };
    let (claude, openai, poor) = (Fake::start(script), Fake::start(script), Fake::start(script));
    let mut small = setup("anthropic");
    small.policy = small.policy.replace("limit = 2_000_000", "limit = 10");
    let rigs =
        [Rig::start(&claude, setup("anthropic")), Rig::start(&openai, setup("openai")), Rig::start(&poor, small)];
    let urls = rigs.iter().map(|rig| format!("http://{}", rig.address));
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/egress/sdk.py");
    let mut command = Command::new(python);
    command.arg(source).args(urls).arg(TOKEN).env("NO_PROXY", "*").env_remove("HTTP_PROXY").env_remove("http_proxy");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let told: Vec<(u16, String)> = serde_json::from_slice(&output.stdout).unwrap();
    let statuses: Vec<u16> = told.iter().map(|(status, _)| *status).collect();
    assert_eq!(statuses, [402, 403, 403], "{told:?}");
    assert!(told.iter().all(|(_, text)| text.contains("[weir] denied")), "{told:?}");
    // One of two requests of the run was a stream, and counting costs nothing.
    assert_eq!(rigs[0].posted(Kind::MicroUsd), 2 * 15_750);
    assert_eq!(rigs[1].posted(Kind::MicroUsd), 4 * 1_000);
    assert_eq!((claude.asked().len(), openai.asked().len(), poor.asked().len()), (3, 4, 0), "nothing is tried again");
    let bodies: Vec<Value> = openai.asked().iter().map(Asked::json).collect();
    assert!(bodies.iter().all(|body| body["model"] == "gpt-5"));
}
