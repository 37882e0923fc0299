//! Amounts of every budget kind at once: what a call reserves, uses or has left.
//!
//! A dense array keeps the hot path free of allocation; JSON shows only what is not zero.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

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

impl Serialize for Amounts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter().map(|(kind, value)| (kind.row().name, value)))
    }
}

impl<'de> Deserialize<'de> for Amounts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut amounts = Self::ZERO;
        for (name, value) in BTreeMap::<String, u64>::deserialize(deserializer)? {
            let kind =
                Kind::from_name(&name).ok_or_else(|| D::Error::custom(format!("unknown budget kind `{name}`")))?;
            amounts.set(kind, value);
        }
        Ok(amounts)
    }
}
