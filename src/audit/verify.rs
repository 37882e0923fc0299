//! Offline verification: finds the first bad entry after any flip, drop, swap or truncation.

use serde::{Deserialize, Serialize};

use super::{Entry, PublicKey};
use crate::model::Digest;

/// The signed head that a store keeps beside its entries, so that a cut tail is noticed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// Number of entries.
    pub count: u64,
    /// Hash of the last.
    pub hash: Digest,
    /// Ed25519 over the canonical JSON of the two fields above, hexadecimal.
    pub signature: String,
}

/// What a sound journal holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Entries.
    pub entries: u64,
    /// Receipts whose signature was checked.
    pub receipts: u64,
    /// Refusals among them.
    pub denials: u64,
    /// Intents that have no outcome (a gate is running, or was killed).
    pub open: u64,
}

/// The first bad entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("entry {seq}: {text}")]
pub struct Bad {
    /// Its number, counted from 0 in the order read.
    pub seq: u64,
    /// What is wrong with it.
    pub text: String,
}

/// Checks every entry, each receipt and the head. `each` sees every good entry (replay, export).
///
/// # Errors
/// [`Bad`] names the first entry that does not hold.
pub fn verify(
    entries: impl Iterator<Item = String>,
    head: Option<&Head>,
    key: &PublicKey,
    mut each: impl FnMut(&Entry),
) -> Result<Verified, Bad> {
    let _ = (entries, head, key, &mut each);
    todo!()
}
