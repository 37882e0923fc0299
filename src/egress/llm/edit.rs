//! Small edits of a JSON object's text: everything that is not edited stays as the client wrote it, byte
//! for byte, so that the provider's cache of prompts finds what it has seen before.

use std::ops::Range;

use bytes::Bytes;
use serde_json::Value;

use super::ask::Asking;
use crate::model::parse_json;

/// The request with the tokens that are granted, and with its usage asked for.
pub(super) fn limited(asking: &Asking, granted: u64, bytes: Bytes) -> Option<Bytes> {
    let mut text = bytes;
    for (key, asked) in &asking.limits {
        if asked.is_none_or(|asked| asked > granted) {
            text = set(&text, key, &granted.to_string())?.into();
        }
    }
    if asking.add_usage {
        let options = parse_json(&text).ok()?.get("stream_options").and_then(Value::as_object).cloned();
        let mut options = options.unwrap_or_default();
        options.insert("include_usage".into(), true.into());
        text = set(&text, "stream_options", &Value::Object(options).to_string())?.into();
    }
    Some(text)
}

/// The top-level members of the JSON object in `text`, which has been parsed before: key and place of the value.
pub(super) fn members(text: &[u8]) -> Option<Vec<(String, Range<usize>)>> {
    let mut at = skip(text, 0);
    if text.get(at) != Some(&b'{') {
        return None;
    }
    let mut found = Vec::new();
    at = skip(text, at + 1);
    while text.get(at) == Some(&b'"') {
        let end = value(text, at)?;
        let key: String = serde_json::from_slice(text.get(at..end)?).ok()?;
        at = skip(text, end);
        if text.get(at) != Some(&b':') {
            return None;
        }
        let begin = skip(text, at + 1);
        let end = value(text, begin)?;
        found.push((key, begin..end));
        at = skip(text, end);
        match text.get(at) {
            Some(b',') => at = skip(text, at + 1),
            Some(b'}') => return Some(found),
            _ => return None,
        }
    }
    (text.get(at) == Some(&b'}')).then_some(found)
}

/// `text` with the member `key` set to `value`, a JSON text.
pub(super) fn set(text: &[u8], key: &str, value: &str) -> Option<Vec<u8>> {
    let members = members(text)?;
    let mut edited = Vec::with_capacity(text.len() + key.len() + value.len() + 4);
    match members.iter().find(|(known, _)| known == key) {
        Some((_, place)) => {
            edited.extend_from_slice(text.get(..place.start)?);
            edited.extend_from_slice(value.as_bytes());
            edited.extend_from_slice(text.get(place.end..)?);
        }
        None => {
            let brace = skip(text, 0);
            let comma = if members.is_empty() { "" } else { "," };
            edited.extend_from_slice(text.get(..=brace)?);
            edited.extend_from_slice(format!("\"{key}\":{value}{comma}").as_bytes());
            edited.extend_from_slice(text.get(brace + 1..)?);
        }
    }
    Some(edited)
}

fn skip(text: &[u8], mut at: usize) -> usize {
    while matches!(text.get(at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
        at += 1;
    }
    at
}

/// The end of the value that begins at `at`. Without recursion.
fn value(text: &[u8], mut at: usize) -> Option<usize> {
    let (begin, mut depth) = (at, 0_usize);
    loop {
        match text.get(at)? {
            b'"' => {
                at += 1;
                loop {
                    match text.get(at)? {
                        b'\\' => at += 2,
                        b'"' => break,
                        _ => at += 1,
                    }
                }
                at += 1;
                if depth == 0 {
                    return Some(at);
                }
            }
            b'{' | b'[' => {
                depth += 1;
                at += 1;
            }
            b'}' | b']' if depth == 0 => return (at > begin).then_some(at),
            b'}' | b']' => {
                depth -= 1;
                at += 1;
                if depth == 0 {
                    return Some(at);
                }
            }
            b',' | b' ' | b'\t' | b'\n' | b'\r' if depth == 0 => return (at > begin).then_some(at),
            _ => at += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edited(text: &str, key: &str, value: &str) -> String {
        String::from_utf8(set(text.as_bytes(), key, value).unwrap()).unwrap()
    }

    #[test]
    fn one_member_changes_and_nothing_else_does() {
        let text = "{ \"a\" : 1.0 , \"max\\u005ftokens\":64000,\"b\":{\"max_tokens\":[1,\"}\\\"\"]}\n}";
        let wanted = "{ \"a\" : 1.0 , \"max\\u005ftokens\":9,\"b\":{\"max_tokens\":[1,\"}\\\"\"]}\n}";
        assert_eq!(edited(text, "max_tokens", "9"), wanted);
        assert_eq!(edited("{\"a\":1}", "b", "true"), "{\"b\":true,\"a\":1}");
        assert_eq!(edited(" {}", "b", "true"), " {\"b\":true}");
        assert_eq!(edited("{\"a\":null}", "a", "2"), "{\"a\":2}");
    }

    #[test]
    fn what_is_no_object_is_not_edited() {
        for text in ["", "[1]", "{\"a\"", "{\"a\":}", "{\"a\":1", "{\"a\":\"x", "{\"a\":1 2}", "nul", "{\"a\":[1}"] {
            assert!(
                set(text.as_bytes(), "a", "1").is_none() || serde_json::from_str::<serde_json::Value>(text).is_err()
            );
        }
    }

    proptest::proptest! {
        #[test]
        fn an_edit_is_the_same_value_but_for_the_member(
            keys in proptest::collection::btree_map(".{0,4}", ".{0,6}", 0..5), pretty in proptest::bool::ANY,
        ) {
            let value = serde_json::json!(keys);
            let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
            let edited: serde_json::Value =
                serde_json::from_slice(&set(text.as_bytes(), "max_tokens", "7").unwrap()).unwrap();
            let mut wanted = value;
            wanted["max_tokens"] = 7.into();
            proptest::prop_assert_eq!(edited, wanted);
        }
    }
}
