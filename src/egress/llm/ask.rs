//! A request for a generation in normal form: which model, at most how many tokens in and out, and what
//! it asks for that no price covers.
//!
//! Each API has a closed list of fields. What is not on it could cost what the gate does not know, and is
//! refused by name; an operator lets it pass with `extra_fields` in the file of upstreams.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::bound::{self, Weight};
use super::refusal;
use crate::egress::error::Refusal;
use crate::model::Name;
use crate::policy::CacheWrite;

/// The API of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Api {
    /// Anthropic Messages.
    Messages,
    /// Counting the tokens of a message, which costs nothing.
    CountTokens,
    /// OpenAI Chat Completions.
    Chat,
    /// OpenAI Responses.
    Responses,
}

/// What a request asks for.
#[derive(Clone, Debug)]
pub(super) struct Asking {
    pub model: Name,
    /// The most tokens that can be read.
    pub read: u64,
    /// The most tokens to be written, for each answer; `None` when the client does not say.
    pub written: Option<u64>,
    /// The members that say so, in the order of the API.
    pub limits: Vec<&'static str>,
    /// Answers.
    pub copies: u64,
    /// A client that gets fewer tokens than this gets nothing that it can use.
    pub least: u64,
    pub write: CacheWrite,
    pub stream: bool,
    /// A stream whose usage must be asked for.
    pub add_usage: bool,
}

const MESSAGES: &[&str] = &[
    "model",
    "messages",
    "max_tokens",
    "system",
    "stream",
    "temperature",
    "top_p",
    "top_k",
    "stop_sequences",
    "metadata",
    "tools",
    "tool_choice",
    "thinking",
    "context_management",
    "output_config",
    "output_format",
    "cache_control",
    "service_tier",
    "speed",
    "inference_geo",
];
const CHAT: &[&str] = &[
    "model",
    "messages",
    "max_tokens",
    "max_completion_tokens",
    "n",
    "stream",
    "stream_options",
    "temperature",
    "top_p",
    "stop",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "logprobs",
    "top_logprobs",
    "seed",
    "user",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "response_format",
    "reasoning_effort",
    "verbosity",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "modalities",
    "functions",
    "function_call",
];
const RESPONSES: &[&str] = &[
    "model",
    "input",
    "instructions",
    "max_output_tokens",
    "stream",
    "stream_options",
    "temperature",
    "top_p",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "text",
    "reasoning",
    "metadata",
    "store",
    "include",
    "previous_response_id",
    "conversation",
    "truncation",
    "user",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "service_tier",
    "top_logprobs",
    "background",
    "client_metadata",
];

/// Values of fields that ask for a price that the policy has no column for, beside those that do not.
const PLAIN: &[(&str, &[&str])] = &[
    ("service_tier", &["auto", "default", "standard_only", "flex"]),
    ("speed", &["standard"]),
    ("inference_geo", &["global", "not_available"]),
];

impl Api {
    const fn fields(self) -> &'static [&'static str] {
        match self {
            Self::Messages | Self::CountTokens => MESSAGES,
            Self::Chat => CHAT,
            Self::Responses => RESPONSES,
        }
    }

    /// True for a type of tool that the client itself runs.
    fn runs_at_client(self, word: &str) -> bool {
        match self {
            Self::Messages | Self::CountTokens => {
                let own = ["bash_", "text_editor_", "computer_", "memory_"];
                word == "custom" || own.iter().any(|own| word.starts_with(own))
            }
            Self::Chat | Self::Responses => {
                matches!(
                    word,
                    "function" | "custom" | "local_shell" | "apply_patch" | "computer" | "computer_use_preview"
                )
            }
        }
    }
}

impl Asking {
    /// Reads a request.
    ///
    /// # Errors
    /// What is wrong with it, or what it asks for that no price covers.
    pub(super) fn read(
        api: Api,
        body: &Map<String, Value>,
        extra: &BTreeSet<String>,
        bytes_per_token: u64,
    ) -> Result<Self, Refusal> {
        let strange = body.keys().find(|key| !api.fields().contains(&key.as_str()) && !extra.contains(*key));
        if let Some(key) = strange {
            return Err(refusal::unpriced(&format!("the field `{}`", refusal::shown(key))));
        }
        for (key, plain) in PLAIN {
            let value = body.get(*key).filter(|value| !value.is_null());
            if value.is_some_and(|value| !value.as_str().is_some_and(|word| plain.contains(&word))) {
                return Err(refusal::unpriced(&format!("another value of `{key}` than {}", plain.join(", "))));
            }
        }
        tools(api, body)?;
        special(api, body)?;
        let model = body.get("model").and_then(Value::as_str).and_then(|text| Name::new(text).ok());
        let model = model.ok_or_else(|| Refusal::malformed("`model` is the name of a model"))?;
        let Weight { bytes, images, boundless, write } = bound::weigh(body)?;
        let read = bound::tokens(api, bytes, images, boundless, bytes_per_token);
        let limits: &[&'static str] = match api {
            Api::Messages | Api::CountTokens => &["max_tokens"],
            Api::Chat => &["max_completion_tokens", "max_tokens"],
            Api::Responses => &["max_output_tokens"],
        };
        let mut written = None;
        let mut stated = Vec::new();
        for key in limits {
            if let Some(most) = whole(body, key)? {
                written = Some(written.unwrap_or(0).max(most));
                stated.push(*key);
            }
        }
        if api == Api::Messages && written.is_none() {
            return Err(Refusal::malformed("`max_tokens` is needed"));
        }
        if stated.is_empty() {
            stated.extend(limits.first());
        }
        let stream = flag(body, "stream")?;
        let options = body.get("stream_options").and_then(Value::as_object);
        let asked = options.is_some_and(|options| options.get("include_usage") == Some(&Value::Bool(true)));
        let thinking = body.get("thinking").and_then(|thinking| thinking.get("budget_tokens")).and_then(Value::as_u64);
        let copies = if api == Api::Chat { whole(body, "n")?.unwrap_or(1).max(1) } else { 1 };
        Ok(Self {
            model,
            read,
            written,
            limits: stated,
            copies,
            least: thinking.map_or(0, |budget| budget.saturating_add(1)),
            write,
            stream,
            add_usage: api == Api::Chat && stream && !asked,
        })
    }
}

/// A whole number from 1, if present.
fn whole(body: &Map<String, Value>, key: &str) -> Result<Option<u64>, Refusal> {
    match body.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_u64().filter(|number| (1..=1_u64 << 32).contains(number)) {
            Some(number) => Ok(Some(number)),
            None => Err(Refusal::malformed(format!("`{key}` is a whole number from 1"))),
        },
    }
}

fn flag(body: &Map<String, Value>, key: &str) -> Result<bool, Refusal> {
    match body.get(key) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(flag)) => Ok(*flag),
        Some(_) => Err(Refusal::malformed(format!("`{key}` is true or false"))),
    }
}

/// Tools that the provider runs cost what tokens do not say.
fn tools(api: Api, body: &Map<String, Value>) -> Result<(), Refusal> {
    let tools = match body.get("tools") {
        None | Some(Value::Null) => return Ok(()),
        Some(Value::Array(tools)) => tools,
        Some(_) => return Err(Refusal::malformed("`tools` is a list")),
    };
    for tool in tools {
        let word = match tool.get("type") {
            None if matches!(api, Api::Messages | Api::CountTokens) => continue,
            Some(Value::String(word)) => word.as_str(),
            _ => return Err(Refusal::malformed("a tool has a `type`")),
        };
        if !api.runs_at_client(word) {
            return Err(refusal::unpriced(&format!("the tool `{}`, which the provider runs", refusal::shown(word))));
        }
    }
    Ok(())
}

/// Fields whose values change what a request costs, or let it outlive its connection.
fn special(api: Api, body: &Map<String, Value>) -> Result<(), Refusal> {
    if flag(body, "background")? {
        return Err(refusal::unpriced("`background`: a generation that goes on without its connection"));
    }
    let edits = body.get("context_management").and_then(|context| context.get("edits"));
    let clears = |edit: &Value| edit.get("type").and_then(Value::as_str).is_some_and(|word| word.starts_with("clear_"));
    match edits {
        None | Some(Value::Null) => {}
        Some(Value::Array(edits)) if edits.iter().all(clears) => {}
        Some(_) => return Err(refusal::unpriced("an edit in `context_management` that does more than clear")),
    }
    let text_only = |value: &Value| value.as_array().is_some_and(|words| words.iter().all(|word| word == "text"));
    if api == Api::Chat && body.get("modalities").is_some_and(|value| !value.is_null() && !text_only(value)) {
        return Err(refusal::unpriced("another modality than text"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(api: Api, body: Value) -> Result<Asking, String> {
        let extra = BTreeSet::from(["let_in".to_owned()]);
        Asking::read(api, body.as_object().unwrap(), &extra, 1).map_err(|refusal| refusal.text)
    }

    fn with(api: Api, key: &str, value: Value) -> Result<Asking, String> {
        let mut body = match api {
            Api::Messages | Api::CountTokens => json!({"model": "m", "max_tokens": 10, "messages": []}),
            Api::Chat => json!({"model": "m", "messages": []}),
            Api::Responses => json!({"model": "m", "input": "hi"}),
        };
        body[key] = value;
        read(api, body)
    }

    #[test]
    fn what_no_price_covers_is_refused_by_name() {
        let cases = [
            (Api::Messages, "speed", json!("fast")),
            (Api::Messages, "inference_geo", json!("us")),
            (Api::Messages, "service_tier", json!("priority")),
            (Api::Messages, "mcp_servers", json!([])),
            (Api::Messages, "container", json!("c")),
            (Api::Messages, "tools", json!([{"type": "web_search_20250305", "name": "web_search"}])),
            (Api::Messages, "tools", json!([{"type": "code_execution_20250825", "name": "x"}])),
            (Api::Messages, "context_management", json!({"edits": [{"type": "compact_20260112"}]})),
            (Api::Chat, "web_search_options", json!({})),
            (Api::Chat, "audio", json!({})),
            (Api::Chat, "modalities", json!(["text", "audio"])),
            (Api::Chat, "service_tier", json!("priority")),
            (Api::Chat, "prediction", json!({})),
            (Api::Chat, "messages", json!([{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}])),
            (Api::Responses, "background", json!(true)),
            (Api::Responses, "prompt", json!({"id": "p"})),
            (Api::Responses, "tools", json!([{"type": "web_search"}])),
            (Api::Responses, "tools", json!([{"type": "mcp"}])),
            (Api::Responses, "tools", json!([{"type": "image_generation"}])),
        ];
        for (api, key, value) in cases {
            let text = with(api, key, value.clone()).expect_err(key);
            assert!(text.contains("price") && text.len() < 400, "{key} {value}: {text}");
        }
        assert!(with(Api::Messages, "let_in", json!({"a": 1})).is_ok());
    }

    #[test]
    fn what_the_usual_clients_send_is_understood() {
        let body = json!({
            "model": "claude-opus-4-8", "max_tokens": 64000, "stream": true, "system": [{"type": "text", "text": "be brief",
            "cache_control": {"type": "ephemeral"}}], "messages": [{"role": "user", "content": "hi"}],
            "tools": [{"name": "Bash", "input_schema": {"type": "object"}}, {"type": "bash_20250124", "name": "bash"}],
            "thinking": {"type": "enabled", "budget_tokens": 31999}, "output_config": {"effort": "high"},
            "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}, "metadata": {"user_id": "u"},
            "service_tier": "auto", "temperature": 1,
        });
        let asking = read(Api::Messages, body).unwrap();
        assert_eq!(
            (asking.written, asking.least, asking.write, asking.stream),
            (Some(64000), 32000, CacheWrite::Short, true)
        );
        let chat = json!({"model": "gpt-5", "messages": [{"role": "user", "content": "hi"}], "stream": true, "n": 3});
        let asking = read(Api::Chat, chat).unwrap();
        assert_eq!((asking.written, asking.copies, asking.add_usage), (None, 3, true));
        assert_eq!(asking.limits, ["max_completion_tokens"]);
        let response =
            json!({"model": "gpt-5", "input": "hi", "tools": [{"type": "function", "name": "f"}], "store": false});
        assert!(read(Api::Responses, response).is_ok());
    }

    #[test]
    fn numbers_that_are_none_are_refused() {
        for wrong in [json!(0), json!(-1), json!(1e3), json!("64"), json!(1.5), json!(u64::MAX), json!([1])] {
            assert!(with(Api::Messages, "max_tokens", wrong.clone()).is_err(), "{wrong}");
            assert!(with(Api::Chat, "n", wrong.clone()).is_err(), "{wrong}");
            assert!(with(Api::Responses, "max_output_tokens", wrong.clone()).is_err(), "{wrong}");
        }
        for wrong in [json!("a b"), json!(""), json!(7), json!(null), json!("m".repeat(200))] {
            assert!(with(Api::Chat, "model", wrong.clone()).is_err(), "{wrong}");
        }
        assert!(with(Api::Chat, "stream", json!(1)).is_err());
        let both = json!({"model": "m", "messages": [], "max_tokens": 5, "max_completion_tokens": 9});
        let asking = read(Api::Chat, both).unwrap();
        assert_eq!((asking.written, asking.limits.len()), (Some(9), 2));
    }
}
