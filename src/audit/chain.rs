//! The hash chain: each entry names the hash of the one before.

use serde::{Deserialize, Serialize};

use super::Body;
use crate::model::{Digest, Timestamp, canonical};

/// The canonical text of a body. Writing it takes most of an append's time and needs no chain, so a
/// gate does it before it takes the lock that orders entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BodyText(String);

impl From<&Body> for BodyText {
    fn from(body: &Body) -> Self {
        Self(canonical(body))
    }
}

impl From<Body> for BodyText {
    fn from(body: Body) -> Self {
        Self::from(&body)
    }
}

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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
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
    pub fn append(&mut self, at: Timestamp, body: impl Into<BodyText>) -> Sealed {
        let at = at.max(self.last);
        let text = self.entry(at, &body.into());
        let (seq, hash) = (self.next, Digest::of(text.as_bytes()));
        *self = Self::after(seq, hash, at);
        Sealed { seq, hash, text }
    }

    /// The canonical text of the next entry around a body that is canonical already.
    fn entry(&self, at: Timestamp, body: &BodyText) -> String {
        let (at, prev, seq) = (canonical(&at), self.prev, self.next);
        format!("{{\"at\":{at},\"body\":{},\"prev\":\"{prev}\",\"seq\":{seq}}}", body.0)
    }

    /// Entries so far.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.next
    }

    /// Time of the last entry: none after it is earlier.
    #[must_use]
    pub const fn last(&self) -> Timestamp {
        self.last
    }

    /// Hash of the last entry.
    #[must_use]
    pub const fn head(&self) -> Digest {
        self.prev
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::Entry;

    #[test]
    fn an_entry_is_written_as_its_canonical_form() {
        let mut chain = Chain::default();
        for at in [0, 7, 3, 1 << 53, u64::MAX] {
            let body = Body::Open { weir: "0.1 \u{1f980}\"\n".into(), key: String::new() };
            let (seq, prev) = (chain.count(), chain.head());
            let sealed = chain.append(Timestamp(at), &body);
            let entry: Entry = serde_json::from_str(&sealed.text).unwrap();
            assert_eq!(canonical(&Entry { seq, prev, at: entry.at, body }), sealed.text);
            assert_eq!((chain.count(), chain.head()), (seq + 1, Digest::of(sealed.text.as_bytes())));
        }
    }
}
