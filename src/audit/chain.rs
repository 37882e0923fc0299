//! The hash chain: each entry names the hash of the one before.

use super::{Body, Entry};
use crate::model::{Digest, Timestamp, canonical};

/// An entry as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// Its number.
    pub seq: u64,
    /// SHA-256 of `text`.
    pub hash: Digest,
    /// Canonical JSON of the entry (RFC 8785).
    pub text: String,
}

/// The head of a chain, to which entries are added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    next: u64,
    prev: Digest,
    last: Timestamp,
}

impl Default for Chain {
    fn default() -> Self {
        Self { next: 0, prev: Digest::ZERO, last: Timestamp(0) }
    }
}

impl Chain {
    /// The chain after an entry with this number, hash and time.
    #[must_use]
    pub const fn after(seq: u64, hash: Digest, at: Timestamp) -> Self {
        Self { next: seq.saturating_add(1), prev: hash, last: at }
    }

    /// Adds `body`. A clock that stepped back does not: the entry takes the time of the one before.
    pub fn append(&mut self, at: Timestamp, body: Body) -> Sealed {
        let at = at.max(self.last);
        let entry = Entry { seq: self.next, prev: self.prev, at, body };
        let text = canonical(&entry);
        let hash = Digest::of(text.as_bytes());
        *self = Self::after(entry.seq, hash, at);
        Sealed { seq: entry.seq, hash, text }
    }

    /// Entries so far.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.next
    }

    /// Hash of the last entry.
    #[must_use]
    pub const fn head(&self) -> Digest {
        self.prev
    }
}
