//! The shape of tagged values (docs/protocol.md), checked for every value that enters or leaves a guest.
//!
//! Only the shape is checked: nothing is decoded on this side, because nothing here needs the value.

use serde_json::Value;

/// Why a value is not in the tagged form.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TagFault {
    /// `$` with something other than a list that starts with a known tag.
    #[error("`$` must hold a list that starts with a known tag")]
    Unknown,
    /// A known tag with other parts than it has.
    #[error("the parts of the tag `{0}` have the wrong form")]
    Parts(String),
    /// A handle that the host did not give to this session.
    #[error("the host gave no such object to this session")]
    Handle,
}

/// The text-carrying tags.
const TEXTS: [&str; 13] = [
    "int",
    "float",
    "str",
    "bytes",
    "bytearray",
    "datetime",
    "date",
    "time",
    "timedelta",
    "decimal",
    "fraction",
    "uuid",
    "path",
];

/// Checks `value`; `handle` is asked about every handle's id.
pub(crate) fn check(value: &Value, handle: &mut dyn FnMut(&str) -> bool) -> Result<(), TagFault> {
    match value {
        Value::Array(items) => items.iter().try_for_each(|item| check(item, handle)),
        Value::Object(object) => match object.get("$") {
            None => object.values().try_for_each(|item| check(item, handle)),
            Some(Value::Array(parts)) if object.len() == 1 => check_tag(parts, handle),
            Some(_) => Err(TagFault::Unknown),
        },
        _ => Ok(()),
    }
}

fn check_tag(parts: &[Value], handle: &mut dyn FnMut(&str) -> bool) -> Result<(), TagFault> {
    let Some((Value::String(tag), rest)) = parts.split_first() else { return Err(TagFault::Unknown) };
    let wrong = || TagFault::Parts(tag.clone());
    match (tag.as_str(), rest) {
        (text, [Value::String(content)]) if TEXTS.contains(&text) => {
            if well_written(text, content) {
                Ok(())
            } else {
                Err(wrong())
            }
        }
        ("tuple" | "set" | "frozenset", [Value::Array(items)]) => items.iter().try_for_each(|i| check(i, handle)),
        ("dict", [Value::Array(pairs)]) => pairs.iter().try_for_each(|pair| match pair {
            Value::Array(both) if both.len() == 2 => both.iter().try_for_each(|half| check(half, handle)),
            _ => Err(wrong()),
        }),
        ("complex", [Value::Array(both)]) if both.len() == 2 => both.iter().try_for_each(|half| match half {
            Value::Number(_) => Ok(()),
            tagged @ Value::Object(_) => check(tagged, handle),
            _ => Err(wrong()),
        }),
        ("handle", [Value::String(id), Value::String(_), Value::String(_)]) => {
            if is_handle(id) && handle(id) {
                Ok(())
            } else {
                Err(TagFault::Handle)
            }
        }
        ("repr", [Value::String(_), Value::String(_)]) => Ok(()),
        (known, _) if TEXTS.contains(&known) || OTHERS.contains(&known) => Err(wrong()),
        _ => Err(TagFault::Unknown),
    }
}

const OTHERS: [&str; 7] = ["tuple", "set", "frozenset", "dict", "complex", "handle", "repr"];

/// Cheap checks of the contents that a receiver would otherwise trip over.
fn well_written(tag: &str, content: &str) -> bool {
    match tag {
        "int" => {
            let digits = content.strip_prefix('-').unwrap_or(content);
            !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
        }
        "float" => matches!(content, "nan" | "inf" | "-inf"),
        "str" | "bytes" | "bytearray" => {
            content.len().is_multiple_of(4) && content.bytes().all(|b| b.is_ascii_alphanumeric() || b"+/=".contains(&b))
        }
        _ => !content.is_empty() || tag == "path",
    }
}

/// 32 lower-case hexadecimal digits.
fn is_handle(id: &str) -> bool {
    id.len() == 32 && id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn checked(value: &Value) -> Result<(), TagFault> {
        check(value, &mut |id| id == "0123456789abcdef0123456789abcdef")
    }

    #[test]
    fn every_documented_form_passes() {
        for good in [
            json!(null),
            json!([1, 1.5, "x", {"a": true}]),
            json!({"$": ["int", "-123456789012345678901234567890"]}),
            json!({"$": ["float", "-inf"]}),
            json!({"$": ["str", "7aCA"]}),
            json!({"$": ["dict", [[1, 2], [{"$": ["tuple", [1]]}, {"$": ["set", []]}]]]}),
            json!({"$": ["complex", [1.5, {"$": ["float", "nan"]}]]}),
            json!({"$": ["handle", "0123456789abcdef0123456789abcdef", "Image", "<Image>"]}),
            json!({"$": ["repr", "Thing", "<Thing>"]}),
            json!({"$": ["datetime", "2026-01-02T03:04:05"]}),
        ] {
            assert_eq!(checked(&good), Ok(()), "{good}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for bad in [
            json!({"$": 1}),
            json!({"$": []}),
            json!({"$": ["int", 5]}),
            json!({"$": ["int", "5x"]}),
            json!({"$": ["int", "5"], "b": 1}),
            json!({"$": ["pickle", "gASV"]}),
            json!({"$": ["float", "1.5"]}),
            json!({"$": ["bytes", "a-b_"]}),
            json!({"$": ["dict", [[1]]]}),
            json!([{"deep": {"$": ["tuple", 1]}}]),
            json!({"$": ["handle", "0123456789abcdef0123456789abcdee", "Image", "<Image>"]}),
            json!({"$": ["handle", "1", "Image", "<Image>"]}),
        ] {
            assert!(checked(&bad).is_err(), "{bad}");
        }
    }
}
