//! The form of tagged values (`docs/protocol.md`), checked where they come in from the host.
//!
//! Nothing is decoded here: a value that passes is handed on as it came.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

/// Digits of an integer that Python reads by default.
const INT_DIGITS: usize = 4300;

/// Checks every value of `map`; its keys are free.
///
/// # Errors
/// The first value with a wrong form, and what is wrong.
pub(super) fn check_all(map: &Map<String, Value>) -> Result<(), String> {
    map.iter().try_for_each(|(key, value)| check(value).map_err(|fault| format!("`{key}`: {fault}")))
}

/// Checks `value`. The depth is bounded by the JSON parser.
///
/// # Errors
/// What is wrong.
pub(super) fn check(value: &Value) -> Result<(), String> {
    match value {
        Value::Array(items) => items.iter().try_for_each(check),
        Value::Object(map) => match map.get("$") {
            None => map.values().try_for_each(check),
            Some(Value::Array(parts)) if map.len() == 1 => check_tag(parts),
            Some(_) => {
                Err("an object with the key `$` is a tag and has nothing else; send a dict with that key as `dict`"
                    .into())
            }
        },
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(()),
    }
}

fn check_tag(parts: &[Value]) -> Result<(), String> {
    let Some((Value::String(tag), rest)) = parts.split_first() else {
        return Err("a tag is an array that begins with its name".into());
    };
    let fits = match (tag.as_str(), rest) {
        ("int", [Value::String(digits)]) => is_integer(digits),
        ("float", [Value::String(word)]) => matches!(word.as_str(), "nan" | "inf" | "-inf"),
        ("str" | "bytes" | "bytearray", [Value::String(text)]) => STANDARD.decode(text).is_ok(),
        ("dict", [Value::Array(pairs)]) => return pairs.iter().try_for_each(check_pair),
        ("tuple" | "set" | "frozenset", [Value::Array(items)]) => return items.iter().try_for_each(check),
        ("complex", [Value::Array(both)]) => both.len() == 2 && both.iter().all(is_float),
        ("datetime" | "date" | "time" | "timedelta" | "decimal" | "fraction" | "uuid" | "path", [Value::String(_)]) => {
            true
        }
        ("handle", [Value::String(id), Value::String(_), Value::String(_)]) => is_handle(id),
        _ => return Err(format!("`{tag}` is no tag that a host may send, or has the wrong parts")),
    };
    if fits { Ok(()) } else { Err(format!("the tag `{tag}` has a part of the wrong form")) }
}

fn check_pair(pair: &Value) -> Result<(), String> {
    match pair {
        Value::Array(both) if both.len() == 2 => both.iter().try_for_each(check),
        _ => Err("a `dict` is an array of [key, value] pairs".into()),
    }
}

fn is_integer(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    (1..=INT_DIGITS).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_float(value: &Value) -> bool {
    let special = |map: &Map<String, Value>| map.get("$").and_then(|tag| tag.get(0)) == Some(&Value::from("float"));
    value.is_number() || value.as_object().is_some_and(|map| special(map) && check(value).is_ok())
}

fn is_handle(id: &str) -> bool {
    id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_documented_form_passes_and_nothing_else() {
        for good in [
            json!(null),
            json!([1, "a", {"b": [true]}]),
            json!({"$": ["int", "-12345678901234567890"]}),
            json!({"$": ["float", "-inf"]}),
            json!({"$": ["str", "7aCA"]}),
            json!({"$": ["bytes", ""]}),
            json!({"$": ["dict", [[{"$": ["tuple", [1, 2]]}, "x"], ["$", null]]]}),
            json!({"$": ["complex", [1.5, {"$": ["float", "nan"]}]]}),
            json!({"$": ["handle", "0123456789abcdef0123456789abcdef", "Image", "<image>"]}),
            json!({"$": ["decimal", "1.10"]}),
            json!({"$": ["path", "a/b"]}),
        ] {
            assert_eq!(check(&good), Ok(()), "{good}");
        }
        for bad in [
            json!({"$": 1}),
            json!({"$": []}),
            json!({"$": ["pickle", "x"]}),
            json!({"$": ["int", "1"], "x": 2}),
            json!({"$": ["int", "0x10"]}),
            json!({"$": ["int", ""]}),
            json!({"$": ["int", "9".repeat(5000)]}),
            json!({"$": ["float", "1e400"]}),
            json!({"$": ["bytes", "***"]}),
            json!({"$": ["dict", [["a"]]]}),
            json!({"$": ["tuple", {"0": 1}]}),
            json!({"$": ["handle", "7", "Image", ""]}),
            json!([{"$": ["repr", "T", "r"]}]),
            json!({"a": {"$": ["set", [{"$": ["what"]}]]}}),
            json!({"$": ["complex", 1, 2]}),
            json!({"$": ["complex", [1, "2"]]}),
            json!({"$": ["complex", [1]]}),
        ] {
            assert!(check(&bad).is_err(), "{bad}");
        }
    }
}
