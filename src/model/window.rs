//! The span of time over which a budget counts, and what the ledger must count for it.
//!
//! Plain data: the arithmetic is the ledger's, the grammar the policy's.

use serde::{Deserialize, Serialize};

use super::{Kind, Millis, Tier, exact};

/// Over which time a budget counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Window {
    /// For as long as the account exists.
    #[default]
    Total,
    /// Spans of this length, one after the other, aligned to the Unix epoch in UTC.
    Every(Millis),
    /// The last span of this length, whenever it is asked.
    Rolling(Millis),
    /// A bucket that holds the limit and is refilled by as much in every span of this length.
    Refill(Millis),
}

impl Window {
    /// The length of the span; `None` for [`Window::Total`].
    #[must_use]
    pub const fn period(self) -> Option<Millis> {
        match self {
            Self::Total => None,
            Self::Every(period) | Self::Rolling(period) | Self::Refill(period) => Some(period),
        }
    }

    /// True for [`Window::Total`], which JSON leaves out.
    #[must_use]
    pub fn is_total(&self) -> bool {
        *self == Self::Total
    }
}

impl std::fmt::Display for Window {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (word, Millis(period)) = match self {
            Self::Total => return f.write_str("in total"),
            Self::Every(period) => ("every", period),
            Self::Rolling(period) => ("in any", period),
            Self::Refill(period) => ("refilled each", period),
        };
        let units = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)];
        match units.into_iter().find(|(_, millis)| period % millis == 0) {
            Some((unit, millis)) => write!(f, "{word} {}{unit}", period / millis),
            None => write!(f, "{word} {period}ms"),
        }
    }
}

/// A limit with a window, as the journal keeps it with the policy that brought it: what it has counted
/// is part of the state, so a fold must know from when on to count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Watch {
    /// Whose accounts.
    pub tier: Tier,
    /// What is counted.
    pub kind: Kind,
    /// Over which time; never [`Window::Total`].
    pub window: Window,
    /// The limit, by which a bucket is refilled.
    #[serde(with = "exact")]
    pub limit: u64,
}
