//! Points in time and spans, as numbers that arrive from a clock port; no clock stands here.

use serde::{Deserialize, Serialize, Serializer};

/// Milliseconds since the Unix epoch, UTC, as the gate's clock port gave them. Written as JSON it
/// ends at 2^53 - 1 (the year 287396), so that a clock gone mad cannot make an entry unreadable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0.min((1 << 53) - 1))
    }
}

/// A span of milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Millis(pub u64);

impl Timestamp {
    /// The span from `earlier` to `self`; zero when the clock stepped back.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Millis {
        Millis(self.0.saturating_sub(earlier.0))
    }

    /// This time moved forward by `span`.
    #[must_use]
    pub const fn plus(self, span: Millis) -> Self {
        Self(self.0.saturating_add(span.0))
    }
}
