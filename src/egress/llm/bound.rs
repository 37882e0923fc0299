//! How many tokens a request can be at most, and how many it may get.
//!
//! No tokenizer stands here: a token has at least one byte of text, which bounds them all. What is not
//! text has bounds of its own, and what the provider fills in (a file, an earlier response) only that of
//! the largest context window.

use serde_json::{Map, Value};

use super::ask::{Api, Asking};
use super::refusal;
use crate::egress::error::Refusal;
use crate::model::{Kind, Subject};
use crate::pep::Gate;
use crate::policy::{CacheWrite, Model};

/// What providers add to a request: the text around messages and tools.
const AROUND: u64 = 4_096;
/// The largest context window of any model.
const WINDOW: u64 = 1_100_000;
/// Tokens of one picture: providers scale pictures down, and count some by tiles.
const PICTURE_ANTHROPIC: u64 = 8_000;
const PICTURE_OPENAI: u64 = 50_000;
/// What a generation may write that states no bound and whose model has none in the policy.
const UNSTATED: u64 = 16_384;
/// Fewer tokens than this are of no use to a client that asked for more: it is refused instead.
const USEFUL: u64 = 4_096;

/// What stands in a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Weight {
    /// Bytes of texts, keys and numbers, pictures aside.
    pub bytes: u64,
    pub images: u64,
    /// Parts that only the context window bounds.
    pub boundless: bool,
    /// For how long it asks that something be cached.
    pub write: CacheWrite,
}

/// Weighs a request, without recursion.
///
/// # Errors
/// Sound in it, which is paid for by another price.
pub(super) fn weigh(body: &Map<String, Value>) -> Result<Weight, Refusal> {
    let mut weight = Weight { bytes: 0, images: 0, boundless: false, write: CacheWrite::None };
    let window = |key: &str| body.get(key).is_some_and(|value| !value.is_null());
    weight.boundless = window("previous_response_id") || window("conversation");
    // With each value, whether pictures and files may stand there; elsewhere they are text like any other.
    let mut stack: Vec<(&Value, bool)> = Vec::new();
    let push = |map: &'_ Map<String, Value>, weight: &mut Weight| {
        for key in map.keys() {
            // Quotes, colon and comma may be tokens of their own.
            weight.bytes = weight.bytes.saturating_add(length(key.len()) + 4);
        }
    };
    push(body, &mut weight);
    stack.extend(body.iter().map(|(key, value)| (value, matches!(key.as_str(), "messages" | "system" | "input"))));
    while let Some((value, parts)) = stack.pop() {
        match value {
            Value::Null | Value::Bool(_) => weight.bytes += 6,
            Value::Number(_) => weight.bytes += 26,
            Value::String(text) => weight.bytes += length(text.len()) + 3,
            Value::Array(items) => {
                weight.bytes += 3;
                stack.extend(items.iter().map(|item| (item, parts)));
            }
            Value::Object(map) => {
                note_cache(map, &mut weight);
                let part = if parts { part(map)? } else { Part::Text };
                weight.images += u64::from(part == Part::Picture);
                weight.boundless |= part == Part::Boundless;
                weight.bytes += 3;
                push(map, &mut weight);
                let inside = parts && part != Part::Call;
                let text = |(key, _): &(&String, &Value)| {
                    part != Part::Picture || !matches!(key.as_str(), "source" | "image_url")
                };
                stack.extend(map.iter().filter(text).map(|(_, value)| (value, inside)));
            }
        }
    }
    Ok(weight)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Text,
    /// What a model has asked of a tool: whatever it looks like, it is text.
    Call,
    Picture,
    Boundless,
}

/// What an object stands for, by its look.
fn part(map: &Map<String, Value>) -> Result<Part, Refusal> {
    let word = map.get("type").and_then(Value::as_str).unwrap_or_default();
    let source = || map.get("source").and_then(|source| source.get("type")).and_then(Value::as_str);
    Ok(match word {
        "image" if map.contains_key("source") => Part::Picture,
        "image_url" if map.contains_key("image_url") => Part::Picture,
        "input_image" | "computer_screenshot" => Part::Picture,
        "document" if matches!(source(), Some("text" | "content")) => Part::Text,
        "document" | "file" | "input_file" | "item_reference" => Part::Boundless,
        "input_audio" | "audio" | "container_upload" => {
            return Err(refusal::unpriced(&format!("a part of type `{word}`")));
        }
        "tool_use" | "function_call" | "custom_tool_call" => Part::Call,
        _ => Part::Text,
    })
}

fn note_cache(map: &Map<String, Value>, weight: &mut Weight) {
    let Some(control) = map.get("cache_control").filter(|control| !control.is_null()) else { return };
    let short = matches!(control.get("ttl"), None | Some(Value::Null)) || control.get("ttl") == Some(&"5m".into());
    if !short {
        weight.write = CacheWrite::Long;
    } else if weight.write == CacheWrite::None {
        weight.write = CacheWrite::Short;
    }
}

fn length(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX >> 8)
}

/// The most tokens that what was weighed can be.
pub(super) fn tokens(api: Api, bytes: u64, images: u64, boundless: bool, bytes_per_token: u64) -> u64 {
    let picture = match api {
        Api::Messages | Api::CountTokens => PICTURE_ANTHROPIC,
        Api::Chat | Api::Responses => PICTURE_OPENAI,
    };
    let all = bytes.div_ceil(bytes_per_token.max(1)).saturating_add(images.saturating_mul(picture));
    if boundless { WINDOW.max(all) } else { all.saturating_add(AROUND) }
}

/// How many tokens each answer to `asking` may have: what the client asks for, at most what the policy grants the
/// model, and no more than what the budgets of `subject` still pay for. Where that is too little to be of use it is
/// what was asked for, and the gate refuses it.
pub(super) fn granted(gate: &Gate, subject: &Subject, asking: &Asking) -> u64 {
    let policy = gate.policy();
    let model = policy.policy().models.get(asking.model.as_str());
    let most = model.and_then(|model| model.max_tokens);
    let wanted = match (asking.written, most) {
        (Some(asked), Some(most)) => asked.min(most),
        (Some(asked), None) => asked,
        (None, most) => most.unwrap_or(UNSTATED),
    };
    let Some(facts) = gate.facts(subject) else { return wanted };
    let paid = affordable(model, asking, |kind| facts.left(kind)) / asking.copies;
    let least = wanted.min(USEFUL.max(asking.least));
    if paid >= wanted || paid < least { wanted } else { paid }
}

/// The most tokens, all answers together, that what is left pays for.
fn affordable(model: Option<&Model>, asking: &Asking, left: impl Fn(Kind) -> u64) -> u64 {
    let tokens = left(Kind::Tokens).saturating_sub(asking.read).min(left(Kind::TokensOut));
    let Some(price) = model.and_then(|model| model.price.as_ref()) else { return tokens };
    let (money, each) = (left(Kind::MicroUsd), price.written_at_most(asking.read));
    if money == u64::MAX || each == 0 {
        return tokens;
    }
    let rest = money.saturating_sub(price.apart_at_most(asking.read, 0, asking.write));
    let bought = u128::from(rest) * 1_000_000 / u128::from(each);
    tokens.min(u64::try_from(bought).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn weight(body: Value) -> Weight {
        weigh(body.as_object().unwrap()).unwrap()
    }

    #[test]
    fn every_byte_of_text_counts_and_pictures_by_the_piece() {
        let plain = weight(json!({"messages": [{"role": "user", "content": "x".repeat(1_000)}]}));
        assert!((1_000..1_100).contains(&plain.bytes) && plain.images == 0 && !plain.boundless, "{plain:?}");
        let picture = |source: Value| json!({"messages": [{"content": [{"type": "image", "source": source}]}]});
        let big = weight(picture(json!({"type": "base64", "data": "A".repeat(100_000)})));
        assert!(big.images == 1 && big.bytes < 100, "{big:?}");
        let nested =
            json!({"messages": [{"content": [{"type": "tool_result", "content": [{"type": "image", "source": {}}]}]}]});
        assert_eq!(weight(nested).images, 1);
        assert_eq!(
            weight(json!({"messages": [{"content": [{"type": "image_url", "image_url": {"url": "u"}}]}]})).images,
            1
        );
        // What only looks like a picture is text.
        let source = json!({"type": "image", "source": {"type": "base64", "data": "y".repeat(500)}});
        for text in [
            json!({"messages": [{"content": [{"type": "tool_use", "name": "t", "input": source}]}]}),
            json!({"tools": [{"name": "t", "input_schema": source}]}),
            json!({"messages": [{"content": [{"type": "image", "text": "y".repeat(500)}]}]}),
            json!({"messages": [{"content": [{"type": "image", "source": {}, "text": "y".repeat(500)}]}]}),
        ] {
            assert!(weight(text.clone()).bytes > 500, "{text}");
        }
    }

    #[test]
    fn what_the_provider_fills_in_is_bounded_by_the_window_only() {
        let pdf = json!({"messages": [{"content": [{"type": "document", "source": {"type": "base64", "data": "A"}}]}]});
        assert!(weight(pdf).boundless);
        let text = json!({"messages": [{"content": [{"type": "document", "source": {"type": "text", "data": "A"}}]}]});
        assert!(!weight(text).boundless);
        assert!(
            weight(json!({"previous_response_id": "r"})).boundless && !weight(json!({"conversation": null})).boundless
        );
        assert_eq!(tokens(Api::Responses, 10, 0, true, 1), WINDOW);
        assert_eq!(tokens(Api::Messages, 10, 2, false, 4), 3 + 2 * PICTURE_ANTHROPIC + AROUND);
    }

    #[test]
    fn the_longest_cache_that_is_asked_for_counts() {
        let block = |control: Value| json!({"system": [{"type": "text", "text": "a", "cache_control": control}]});
        assert_eq!(weight(block(json!({"type": "ephemeral"}))).write, CacheWrite::Short);
        assert_eq!(weight(block(json!({"type": "ephemeral", "ttl": "1h"}))).write, CacheWrite::Long);
        assert_eq!(weight(block(json!({"type": "ephemeral", "ttl": "9h"}))).write, CacheWrite::Long);
        assert_eq!(weight(block(Value::Null)).write, CacheWrite::None);
    }
}
