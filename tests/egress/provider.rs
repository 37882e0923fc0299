//! A scripted model provider: answers in the forms of the Anthropic and OpenAI APIs, built of plain values,
//! for any test that needs a model without one.

use serde_json::{Value, json};

use crate::fake::Told;

/// The usage of one request of the scripted run: 100 read, 3,000 from a cache, 2,000 written to one, 50 written.
pub fn usage() -> Value {
    json!({
        "input_tokens": 100, "cache_read_input_tokens": 3000, "cache_creation_input_tokens": 2000,
        "cache_creation": {"ephemeral_5m_input_tokens": 2000, "ephemeral_1h_input_tokens": 0},
        "output_tokens": 1, "service_tier": "standard",
    })
}

/// One event of a Messages stream.
pub fn event(value: &Value) -> String {
    format!("event: {}\ndata: {value}\n\n", value["type"].as_str().unwrap())
}

/// The events of a message that says `text` and used `usage` with `written` tokens of output.
pub fn message_events(text: &str, usage: &Value, written: u64) -> Vec<String> {
    let message = json!({
        "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-opus-4-8", "content": [],
        "stop_reason": null, "stop_sequence": null, "usage": usage,
    });
    let events = [
        json!({"type": "message_start", "message": message}),
        json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
        json!({"type": "ping"}),
        json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}),
        json!({"type": "content_block_stop", "index": 0}),
        json!({"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": null}, "usage": {"output_tokens": 1}}),
        json!({"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": null}, "usage": {"output_tokens": written}}),
        json!({"type": "message_stop"}),
    ];
    events.iter().map(event).collect()
}

/// A streamed message.
pub fn streamed(text: &str, usage: &Value, written: u64) -> Told {
    Told::events(message_events(text, usage, written).iter().map(String::as_str))
}

/// A message that is not streamed.
pub fn message(text: &str, usage: &Value) -> Told {
    let content = json!([{"type": "text", "text": text}]);
    let value = json!({
        "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-opus-4-8", "content": content,
        "stop_reason": "end_turn", "stop_sequence": null, "usage": usage,
    });
    Told::json(200, &value)
}

/// An error in Anthropic's shape.
pub fn error(status: u16, word: &str) -> Told {
    Told::json(status, &json!({"type": "error", "error": {"type": word, "message": "scripted"}}))
}

/// The chunks of a streamed chat completion that says `text`; the last with usage where it was asked for.
pub fn chat_events(text: &str, usage: Option<&Value>) -> Vec<String> {
    let chunk = |choices: Value, usage: Option<&Value>| {
        let mut chunk = json!({
            "id": "c", "object": "chat.completion.chunk", "created": 1, "model": "gpt-5", "choices": choices,
        });
        if let Some(usage) = usage {
            chunk["usage"] = usage.clone();
        }
        format!("data: {chunk}\n\n")
    };
    let null = usage.map(|_| &Value::Null);
    let mut events = vec![
        chunk(json!([{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": null}]), null),
        chunk(json!([{"index": 0, "delta": {"content": text}, "finish_reason": null}]), null),
        chunk(json!([{"index": 0, "delta": {}, "finish_reason": "stop"}]), null),
    ];
    events.extend(usage.map(|usage| chunk(json!([]), Some(usage))));
    events.push("data: [DONE]\n\n".to_owned());
    events
}

/// The usage of a chat completion.
pub fn chat_usage(read: u64, cached: u64, written: u64) -> Value {
    json!({
        "prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written,
        "prompt_tokens_details": {"cached_tokens": cached, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    })
}

/// The events of a streamed response.
pub fn response_events(text: &str, last: &str, usage: &Value) -> Vec<String> {
    let events = [
        json!({"type": "response.created", "sequence_number": 0, "response": {"id": "r", "status": "in_progress", "usage": null}}),
        json!({"type": "response.output_text.delta", "sequence_number": 1, "item_id": "i", "delta": text}),
        json!({"type": last, "sequence_number": 2, "response": {"id": "r", "usage": usage}}),
    ];
    events.iter().map(event).collect()
}
