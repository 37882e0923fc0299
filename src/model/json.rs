//! Strict JSON in, canonical JSON out.
//!
//! Input: duplicate keys, numbers that do not fit, deep nesting, invalid UTF-8, NUL-only tricks and
//! oversized documents are errors. Output: RFC 8785 (JCS), so that equal values have equal bytes.

use std::fmt;

use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::Limits;

/// Why a text is not acceptable JSON.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonFault {
    /// More bytes than [`Limits::JSON_BYTES`].
    #[error("JSON of {0} bytes is over the limit of {max}", max = Limits::JSON_BYTES)]
    TooLarge(usize),
    /// Not JSON, or JSON that two parsers could read differently.
    #[error("{0}")]
    Malformed(String),
}

/// Parses `bytes` strictly.
///
/// # Errors
/// [`JsonFault`] for anything that is not one unambiguous, bounded JSON value.
pub fn parse_json(bytes: &[u8]) -> Result<Value, JsonFault> {
    if bytes.len() > Limits::JSON_BYTES {
        return Err(JsonFault::TooLarge(bytes.len()));
    }
    let mut nodes = 0;
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = Strict { depth: 0, nodes: &mut nodes }
        .deserialize(&mut reader)
        .and_then(|value| reader.end().map(|()| value))
        .map_err(|error| JsonFault::Malformed(error.to_string()))?;
    Ok(value)
}

/// The canonical bytes of `value` (RFC 8785).
///
/// Texts without fractions and with ASCII keys, which is nearly all that is ever hashed here, take a
/// short way that is several times faster and gives the same bytes.
///
/// # Panics
/// Never for a value whose map keys are strings, which every type of this crate keeps.
#[must_use]
pub fn canonical<T: serde::Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(mut tree) if is_plain(&tree) => {
            tree.sort_all_objects();
            // Straight into bytes: through `Display` it takes twice as long.
            serde_json::to_string(&tree).unwrap_or_else(|_| canonical_whatever(value))
        }
        _ => canonical_whatever(value),
    }
}

fn canonical_whatever<T: serde::Serialize>(value: &T) -> String {
    serde_jcs::to_string(value).unwrap_or_else(|error| format!("\"unserialisable: {error}\""))
}

/// True when plain JSON with sorted keys is canonical already: keys whose order is that of their
/// bytes, and whole numbers that a double keeps exactly.
fn is_plain(value: &Value) -> bool {
    const EXACT: u64 = 1 << 53;
    match value {
        Value::Null | Value::Bool(_) | Value::String(_) => true,
        Value::Number(number) => {
            number.as_u64().is_some_and(|n| n < EXACT) || number.as_i64().is_some_and(|n| n.unsigned_abs() < EXACT)
        }
        Value::Array(items) => items.iter().all(is_plain),
        Value::Object(map) => map.iter().all(|(key, value)| key.is_ascii() && is_plain(value)),
    }
}

struct Strict<'n> {
    depth: usize,
    nodes: &'n mut usize,
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        *self.nodes += 1;
        if self.depth > Limits::JSON_DEPTH {
            return Err(serde::de::Error::custom("nesting is too deep"));
        }
        if *self.nodes > Limits::JSON_NODES {
            return Err(serde::de::Error::custom("too many elements"));
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        let nodes = self.nodes;
        let depth = self.depth + 1;
        while let Some(item) = seq.next_element_seed(Strict { depth, nodes: &mut *nodes })? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        let nodes = self.nodes;
        let depth = self.depth + 1;
        while let Some(key) = map.next_key::<String>()? {
            let value = map.next_value_seed(Strict { depth, nodes: &mut *nodes })?;
            if object.contains_key(&key) {
                let shown: String = key.chars().take(40).collect();
                return Err(serde::de::Error::custom(format!("duplicate key `{shown}`")));
            }
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(text: &[u8]) -> String {
        parse_json(text).expect_err("must not parse").to_string()
    }

    #[test]
    fn ambiguous_or_hostile_json_is_an_error() {
        assert!(fault(br#"{"a":1,"a":2}"#).contains("duplicate key `a`"));
        assert!(fault(br#"{"a":{"b":1,"b":1}}"#).contains("duplicate key `b`"));
        assert!(fault(b"1e400").contains("out of range"));
        assert!(fault(b"NaN").contains("expected"));
        assert!(fault(b"{} {}").contains("trailing"));
        assert!(fault(b"\"\xff\"").contains("unicode"));
        assert!(fault(b"\"\\ud800\"").contains("hex escape"));
        assert!(fault("[".repeat(100_000).as_bytes()).contains("deep"));
        assert!(fault(format!("[{}0]", "0,".repeat(600_000)).as_bytes()).contains("too many"));
        assert_eq!(parse_json(&vec![b' '; Limits::JSON_BYTES + 1]), Err(JsonFault::TooLarge(Limits::JSON_BYTES + 1)));
    }

    #[test]
    fn canonical_bytes_do_not_depend_on_key_order() {
        let left = parse_json(br#"{"b":1,"a":[1.0,"x"]}"#).unwrap();
        let right = parse_json(br#"{"a":[1,"x"],"b":1}"#).unwrap();
        assert_eq!(canonical(&left), canonical(&right));
    }

    #[test]
    fn the_short_way_to_canonical_bytes_gives_the_same_bytes() {
        let texts = [
            r#"{"z":[{"b":1,"a":-9007199254740991},9007199254740992,-9007199254740993,18446744073709551615],"":null}"#,
            r#"{"\u0000\b\t\n\f\r\"\\/\u007f\u001f":"\u0000\b\t\n\f\r\"\\/\u007f\u2028é🦀","a":{},"b":[]}"#,
            r#"{"\uff61":1,"🦀":2,"z":3}"#,
            r#"[0,-0,0.0,-0.0,1.0,1e21,1e-7,0.1,true,false]"#,
        ];
        for text in texts {
            let value = parse_json(text.as_bytes()).unwrap();
            assert_eq!(canonical(&value), canonical_whatever(&value), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_value_has_the_same_canonical_bytes_either_way(
            keys in proptest::collection::vec(".{0,3}", 0..6), numbers in proptest::collection::vec(proptest::num::i64::ANY, 6),
            text in ".*", fraction in proptest::num::f64::NORMAL, whole in proptest::bool::ANY,
        ) {
            let mut map = Map::new();
            for (key, number) in keys.into_iter().zip(numbers) {
                map.insert(key, serde_json::json!([number % (1 << 54), { "x": text, "a": number % 100 }]));
            }
            if !whole {
                map.insert("fraction".into(), fraction.into());
            }
            proptest::prop_assert_eq!(canonical(&map), canonical_whatever(&map));
        }
    }
}
