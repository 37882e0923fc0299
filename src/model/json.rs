//! Strict JSON in, canonical JSON out.
//!
//! Input: duplicate keys, numbers that do not fit, deep nesting, invalid UTF-8, NUL-only tricks and
//! oversized documents are errors. Output: RFC 8785 (JCS), so that equal values have equal bytes.

use std::fmt;

use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::Limits;
use super::canonical::short;

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
    short(value).unwrap_or_else(|| canonical_whatever(value))
}

fn canonical_whatever<T: serde::Serialize>(value: &T) -> String {
    serde_jcs::to_string(value).unwrap_or_else(|error| format!("\"unserialisable: {error}\""))
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
                // A fault is shown to people: nothing in it moves a cursor or turns the text around.
                let plain = |c: char| c.is_alphanumeric() || c.is_ascii_graphic() || c == ' ';
                let shown: String = key.chars().take(40).map(|c| if plain(c) { c } else { '?' }).collect();
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
    fn a_fault_shows_a_key_without_what_a_terminal_acts_upon() {
        let said = fault("{\"a\u{7f}\u{202e}é b\":1,\"a\u{7f}\u{202e}é b\":2}".as_bytes());
        assert!(said.contains("duplicate key `a??é b`"), "{said}");
        assert!(fault(br#"{"\u001b[2J":1,"\u001b[2J":1}"#).contains("duplicate key `?[2J`"));
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

    #[derive(serde::Serialize)]
    enum Shape {
        Unit,
        Newtype(u8),
        Tuple(i8, Option<char>),
        Struct { z: (u16, [bool; 2]), a: Wrapped },
    }

    #[derive(serde::Serialize)]
    struct Wrapped(std::collections::BTreeMap<&'static str, ()>);

    #[test]
    fn every_shape_of_a_type_has_the_same_canonical_bytes_either_way() {
        let wrapped = || Wrapped([("b", ()), ("a", ()), ("", ())].into());
        let shapes = [
            Shape::Unit,
            Shape::Newtype(255),
            Shape::Tuple(-128, Some('\n')),
            Shape::Tuple(0, None),
            Shape::Struct { z: (65_535, [true, false]), a: wrapped() },
        ];
        for shape in &shapes {
            assert_eq!(short(shape).unwrap(), canonical_whatever(shape));
        }
        assert_eq!(short(&shapes).unwrap(), canonical_whatever(&shapes));
        let other = std::collections::BTreeMap::from([(1, 2)]);
        assert!(short(&other).is_none() && short(&0.5).is_none() && short(&(1_u64 << 53)).is_none());
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
