//! Amounts of every budget kind at once: what a call reserves, uses or has left.
//!
//! A dense array keeps the hot path free of allocation; JSON shows only what is not zero. RFC 8785
//! knows integers up to 2^53 - 1 only: a larger amount is written as a string of its digits.

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, Visitor},
};

use super::{KINDS, Kind};

/// One non-negative integer per budget kind; the unit is the kind's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amounts([u64; KINDS.len()]);

impl Amounts {
    /// Nothing of any kind.
    pub const ZERO: Self = Self([0; KINDS.len()]);

    /// The amount of `kind`.
    #[must_use]
    pub const fn of(&self, kind: Kind) -> u64 {
        self.0[kind as usize]
    }

    /// The same amounts with `kind` set to `value`.
    #[must_use]
    pub const fn with(mut self, kind: Kind, value: u64) -> Self {
        self.0[kind as usize] = value;
        self
    }

    /// Sets the amount of `kind`.
    pub const fn set(&mut self, kind: Kind, value: u64) {
        self.0[kind as usize] = value;
    }

    /// Every kind with an amount above zero, in table order.
    pub fn iter(&self) -> impl Iterator<Item = (Kind, u64)> + '_ {
        KINDS.iter().map(|row| (row.kind, self.of(row.kind))).filter(|(_, value)| *value > 0)
    }

    /// True when every amount is zero.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.0.iter().all(|value| *value == 0)
    }
}

/// The largest integer that every JSON reader keeps exactly (RFC 7493, section 2.2).
const EXACT: u64 = (1 << 53) - 1;

impl Serialize for Amounts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter().map(|(kind, value)| (kind.row().name, Written(value))))
    }
}

impl<'de> Deserialize<'de> for Amounts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut amounts = Self::ZERO;
        for (name, Written(value)) in BTreeMap::<String, Written>::deserialize(deserializer)? {
            let kind =
                Kind::from_name(&name).ok_or_else(|| D::Error::custom(format!("unknown budget kind `{name}`")))?;
            amounts.set(kind, value);
        }
        Ok(amounts)
    }
}

/// An amount as JSON writes it: a number up to [`EXACT`], a string of digits beyond.
struct Written(u64);

impl Serialize for Written {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0 <= EXACT { serializer.serialize_u64(self.0) } else { serializer.collect_str(&self.0) }
    }
}

impl<'de> Deserialize<'de> for Written {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(WrittenVisitor).map(Self)
    }
}

/// Writes one `u64` as an amount is written: no JSON reader loses a digit of it.
pub mod exact {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::Written;

    /// Writes `value`.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(value: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        Written(*value).serialize(serializer)
    }

    /// Reads a value.
    ///
    /// # Errors
    /// A text that is not exactly one amount.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        Written::deserialize(deserializer).map(|Written(value)| value)
    }
}

struct WrittenVisitor;

impl Visitor<'_> for WrittenVisitor {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number up to 2^53 - 1, or a larger one as a string of digits")
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<u64, E> {
        if value <= EXACT { Ok(value) } else { Err(E::custom("an amount above 2^53 - 1 is written as a string")) }
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<u64, E> {
        u64::try_from(value).map_err(|_| E::custom("an amount is never negative")).and_then(|v| self.visit_u64(v))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<u64, E> {
        let value: u64 = text.parse().map_err(|_| E::custom("an amount is a whole number up to 2^64 - 1"))?;
        let exact = value > EXACT && text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
        if exact { Ok(value) } else { Err(E::custom("only an amount above 2^53 - 1 is written as a string")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::canonical;

    #[test]
    fn amounts_of_any_size_keep_every_digit_in_canonical_json() {
        for value in [1, EXACT, EXACT + 1, EXACT + 2, u64::MAX - 1, u64::MAX] {
            let amounts = Amounts::ZERO.with(Kind::Fuel, value).with(Kind::Calls, 1);
            let text = canonical(&amounts);
            assert_eq!(serde_json::from_str::<Amounts>(&text).unwrap(), amounts, "{text}");
            assert!(text.contains(&value.to_string()), "{text}");
        }
    }

    #[test]
    fn an_amount_has_one_form_only() {
        for text in ["18446744073709551615", "\"5\"", "\"09007199254740993\"", "\"+9007199254740993\"", "-1", "1.5"] {
            let text = format!("{{\"fuel\":{text}}}");
            assert!(serde_json::from_str::<Amounts>(&text).is_err(), "{text}");
        }
    }
}
