//! What every reader of the model proxies promises, one function each: bytes in, and a panic where it is not kept.
//!
//! The tests below call them with damaged samples, `fuzz/` with whatever it can find; nothing else is to use them.

use std::collections::BTreeSet;

use bytes::Bytes;
use serde_json::{Map, Value};

use super::ask::{Api, Asking};
use super::meter::{Cut, Event, Meter};
use super::sse::{Events, data};
use super::{bound, edit};
use crate::model::{Kind, Outcome, Status, parse_json};
use crate::policy::CacheWrite;

const APIS: [Api; 4] = [Api::Messages, Api::CountTokens, Api::Chat, Api::Responses];
/// The most that a generation here can have read and written.
const MOST: (u64, u64) = (1_000, 500);
/// Bytes of one event.
const EVENT_BYTES: usize = 1 << 16;

/// Requests: the first byte chooses the API. Every byte of text counts, and what is forwarded differs from what was asked
/// for in its limits alone.
pub(crate) fn generations(bytes: &[u8]) {
    let Some((first, text)) = bytes.split_first() else { return };
    let api = APIS[usize::from(*first) % APIS.len()];
    let Ok(Value::Object(body)) = parse_json(text) else { return };
    let read = |body: &Map<String, Value>| Asking::read(api, body, &BTreeSet::new(), 1);
    let asking = match read(&body) {
        Ok(asking) => asking,
        Err(refusal) => {
            return assert!(refusal.text.len() < 400 && !refusal.text.contains('\u{1b}'), "{}", refusal.text);
        }
    };
    let weight = bound::weigh(&body).expect("it was weighed before");
    if weight.images == 0 {
        assert!(asking.read >= letters(&Value::Object(body.clone())), "text that nobody counts");
    }
    for granted in [1, 7, u64::from(u32::MAX)] {
        let sent = edit::limited(&asking, granted, Bytes::copy_from_slice(text)).expect("an object can be edited");
        let Ok(Value::Object(sent)) = parse_json(&sent) else { panic!("what is sent is an object") };
        same_but_limits(&body, &sent, &asking);
        let again = read(&sent).expect("what is sent could have been asked for");
        assert_eq!(again.written, Some(asking.written.map_or(granted, |asked| asked.min(granted))));
        assert!((&again.model, again.copies, again.stream) == (&asking.model, asking.copies, asking.stream));
        assert!(!again.add_usage, "usage is asked for");
    }
}

/// Bytes of all texts and keys.
fn letters(value: &Value) -> u64 {
    let (mut stack, mut bytes) = (vec![value], 0);
    while let Some(value) = stack.pop() {
        match value {
            Value::String(text) => bytes += text.len() as u64,
            Value::Array(items) => stack.extend(items),
            Value::Object(map) => {
                bytes += map.keys().map(|key| key.len() as u64).sum::<u64>();
                stack.extend(map.values());
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
    bytes
}

fn same_but_limits(asked: &Map<String, Value>, sent: &Map<String, Value>, asking: &Asking) {
    let own = |key: &str| key == "stream_options" || asking.limits.iter().any(|(limit, _)| *limit == key);
    let rest = |map: &Map<String, Value>| -> Vec<(String, Value)> {
        let others = map.iter().filter(|(key, _)| !own(key));
        let mut others: Vec<_> = others.map(|(key, value)| (key.clone(), value.clone())).collect();
        others.sort_by(|a, b| a.0.cmp(&b.0));
        others
    };
    assert_eq!(rest(asked), rest(sent));
}

/// Answers: the first byte chooses the API and what was asked for, the second into which pieces the stream is cut. However
/// it is cut, the same is counted; what has come is never given back, and a cache's part is a part.
pub(crate) fn streams(bytes: &[u8]) {
    let [first, size, stream @ ..] = bytes else { return };
    let api = APIS[usize::from(*first) % APIS.len()];
    let write = [CacheWrite::None, CacheWrite::Short, CacheWrite::Long][usize::from(*first >> 2) % 3];
    let hide = first & 0x80 != 0;
    let whole = metered(api, write, hide, stream, stream.len().max(1));
    let pieces = metered(api, write, hide, stream, usize::from(*size).max(1));
    assert_eq!(whole, pieces, "cut in another place");
    let mut meter = Meter::new(api, write, hide, MOST);
    meter.whole(stream);
    sound(&meter.end());
    sound(&meter.cut(Cut::Upstream));
}

/// What is counted at the end, and after how many bytes that went to the client.
fn metered(api: Api, write: CacheWrite, hide: bool, stream: &[u8], size: usize) -> Option<(Outcome, usize)> {
    let (mut events, mut meter) = (Events::new(EVENT_BYTES), Meter::new(api, write, hide, MOST));
    let (mut passed, mut hidden, mut said) = (0, 0, 0);
    for piece in stream.chunks(size) {
        // How much is held when an event turns out to be too long is a matter of the pieces.
        events.push(piece).ok()?;
        while let Some(event) = events.next() {
            let met = data(&event).map_or(Event::Pass, |data| meter.event(&data));
            hidden += if met == Event::Hide { event.len() } else { 0 };
            passed += if met == Event::Hide { 0 } else { event.len() };
            assert!(hide || met != Event::Hide, "something is kept from a client that asked for all");
            let cut = meter.cut(Cut::Client);
            sound(&cut);
            let reported = reported(api, &event);
            said = reported.max(said);
            assert!(cut.usage.of(Kind::TokensOut) >= said, "less than was reported: {cut:?}");
            if met == Event::Last {
                return Some((meter.end(), passed));
            }
        }
    }
    let rest = events.rest();
    assert_eq!(passed + hidden + rest.len(), stream.len(), "bytes are lost or made up");
    if let Some(data) = data(&rest) {
        meter.event(&data);
    }
    sound(&meter.end());
    Some((meter.end(), passed))
}

/// The tokens that one event reports as written, to a reader that knows one field.
fn reported(api: Api, event: &[u8]) -> u64 {
    let Some(Ok(event)) = data(event).map(|data| parse_json(&data)) else { return 0 };
    let usage = match (api, event["type"].as_str()) {
        (Api::Messages | Api::CountTokens, Some("message_delta")) => &event["usage"]["output_tokens"],
        (Api::Responses, Some("response.completed")) if event["response"]["usage"]["input_tokens"].is_u64() => {
            &event["response"]["usage"]["output_tokens"]
        }
        _ => &Value::Null,
    };
    // A report that is odd elsewhere is no report.
    let odd = |key: &str| !matches!(&event["usage"][key], Value::Null) && !event["usage"][key].is_u64();
    let others =
        ["input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "cache_creation", "iterations"];
    let details = &event["response"]["usage"]["input_tokens_details"];
    if others.into_iter().any(odd) || !matches!(details, Value::Null) { 0 } else { usage.as_u64().unwrap_or(0) }
}

/// What can be settled: parts of what was read are parts of it, and a generation that is not known to have failed at once
/// costs something.
fn sound(outcome: &Outcome) {
    let of = |kind| outcome.usage.of(kind);
    let parts = [Kind::TokensCached, Kind::TokensCacheWrite, Kind::TokensCacheWriteLong].map(of);
    let sum = parts.iter().fold(0_u64, |sum, part| sum.saturating_add(*part));
    assert!(sum <= of(Kind::TokensIn), "{outcome:?}");
    let cut = matches!(outcome.status, Status::Failed | Status::Unknown | Status::Exhausted);
    assert!(!cut || of(Kind::TokensOut) >= 1, "{outcome:?}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::egress::mutation::Mutations;

    const EACH: usize = 8_000;

    fn damaged(promise: fn(&[u8]), samples: &[&str]) {
        samples.iter().for_each(|sample| promise(sample.as_bytes()));
        let samples = samples.iter().map(|sample| sample.as_bytes().to_vec()).collect();
        Mutations::new(12, samples).take(EACH).for_each(|bytes| promise(&bytes));
    }

    #[test]
    fn damaged_requests_are_refused_or_forwarded_as_they_were_judged() {
        // `@` is 0 and chooses Messages, `B` Chat, `C` Responses.
        damaged(
            generations,
            &[
                r#"@{"model":"m","max_tokens":64000,"messages":[{"role":"user","content":[{"type":"text","text":"hé","cache_control":{"type":"ephemeral","ttl":"1h"}}]}],"stream":true,"thinking":{"type":"enabled","budget_tokens":9}}"#,
                r#"@{"model":"m","max_tokens":9,"messages":[{"content":[{"type":"image","source":{"type":"base64","data":"AAAA"}}]}],"tools":[{"name":"t","input_schema":{}}]}"#,
                r#"B{"model":"m","messages":[],"stream":true,"stream_options":{"a":1},"n":3,"max_tokens":5,"max_completion_tokens":6}"#,
                r#"C{"model":"m","input":"hi","max_output_tokens":10,"previous_response_id":null,"tools":[{"type":"function","name":"f"}]}"#,
            ],
        );
    }

    #[test]
    fn damaged_streams_count_the_same_however_they_are_cut() {
        damaged(
            streams,
            &[
                "@\u{7}event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":7,\"output_tokens\":1}}}\n\ndata: {\"type\":\"content_block_delta\",\"delta\":{\"type\":\"text_delta\",\"text\":\"hello\"}}\r\n\r\ndata: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":9}}\n\ndata: {\"type\":\"message_stop\"}\n\n",
                "B\u{3}data: {\"choices\":[{\"delta\":{\"content\":\"hi\"}}],\"usage\":null}\n\ndata: {\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":3}}\n\ndata: [DONE]\n\n",
                "C\u{5}data: {\"type\":\"response.output_text.delta\",\"delta\":\"four\"}\n\ndata: {\"type\":\"response.completed\",\"response\":{\"usage\":{\"input_tokens\":5,\"output_tokens\":3}}}\n\n",
                "@\u{9}{\"usage\":{\"input_tokens\":5,\"output_tokens\":3,\"cache_read_input_tokens\":18446744073709551615}}",
            ],
        );
    }
}
