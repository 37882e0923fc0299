//! The state as a snapshot, and back: signed, bound to a place in the chain, and refused when anything about
//! it is not as it should be.
//!
//! A snapshot saves time and decides nothing: what the journal says is the state. Its text holds everything
//! but the ids used so far, which only grow: their prints go to the store in parts, and the text holds the
//! digest of all of them.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::port::Snapshot;
use super::state::State;
use crate::audit::{Key, PublicKey};
use crate::model::{Digest, canonical};

/// Another number whenever the same entries give another state, or a state is written in another way: an
/// older snapshot is left aside then, and the journal is read from its start once.
const FORMAT: u32 = 3;

/// What the newest snapshot stands for.
#[derive(Clone, Debug, Default)]
pub(super) struct Taken {
    /// Entries.
    count: u64,
    /// Ids used in them, and all their prints.
    ids: u64,
    prints: Sha256,
}

#[derive(Serialize)]
struct Written<'s> {
    format: u32,
    weir: &'s str,
    used: Used,
    state: &'s State,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Read {
    format: u32,
    weir: String,
    used: Used,
    state: State,
}

/// The ids used so far.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Used {
    ids: u64,
    prints: Digest,
}

/// What a snapshot's signature is of.
#[derive(Serialize)]
struct Signed {
    snapshot: Digest,
}

impl Taken {
    fn used(&self) -> Used {
        Used { ids: self.ids, prints: Digest(self.prints.clone().finalize().into()) }
    }
}

fn signed(text: &str) -> String {
    canonical(&Signed { snapshot: Digest::of(text.as_bytes()) })
}

impl State {
    /// Entries since the newest snapshot.
    pub fn since_snapshot(&self) -> u64 {
        self.chain.count().saturating_sub(self.taken.count)
    }

    /// A snapshot of now; from here on it is the newest. `None` when the state cannot be written.
    pub fn snapshot(&mut self, key: &Key) -> Option<Snapshot> {
        let (used, taken) = self.used();
        let text = self.written(used)?;
        let prints = self.ledger.fresh().iter().flat_map(|print| print.0).collect();
        let (count, since) = (self.chain.count(), self.taken.count);
        let signature = key.sign(signed(&text).as_bytes());
        self.ledger.forget_fresh();
        self.taken = taken;
        Some(Snapshot { count, since, text, prints, signature })
    }

    /// The state of a snapshot that the store kept.
    ///
    /// # Errors
    /// It is not signed by this key, of another version, or not what was signed.
    pub fn restored(kept: &Snapshot, key: &PublicKey) -> Result<Self, String> {
        let fault = |text: &str| Err(text.to_owned());
        if !key.verifies(signed(&kept.text).as_bytes(), &kept.signature) {
            return fault("its signature does not hold");
        }
        let read: Read = serde_json::from_str(&kept.text).map_err(|error| format!("it does not read: {error}"))?;
        let Read { format, weir, used, mut state } = read;
        if format != FORMAT || weir != env!("CARGO_PKG_VERSION") {
            return fault("another version of weir wrote it");
        }
        let (prints, rest) = kept.prints.as_chunks::<16>();
        let taken =
            Taken { count: kept.count, ids: prints.len() as u64, prints: Sha256::new_with_prefix(&kept.prints) };
        if state.chain.count() != kept.count || taken.used() != used || !rest.is_empty() {
            return fault("the ids beside it are not those that it was made with");
        }
        state.ledger.mark_stored(prints);
        state.taken = taken;
        Ok(state)
    }

    /// Whether both are the same state, whatever snapshots they had.
    pub fn same(&self, other: &Self) -> bool {
        let text = |state: &Self| state.written(state.used().0);
        text(self).is_some_and(|here| text(other).is_some_and(|there| here == there))
    }

    /// The ids used so far, and what a snapshot of now would stand for.
    fn used(&self) -> (Used, Taken) {
        let mut taken = Taken { count: self.chain.count(), ..self.taken.clone() };
        for print in self.ledger.fresh() {
            taken.prints.update(print.0);
            taken.ids = taken.ids.saturating_add(1);
        }
        (taken.used(), taken)
    }

    fn written(&self, used: Used) -> Option<String> {
        let written = Written { format: FORMAT, weir: env!("CARGO_PKG_VERSION"), used, state: self };
        serde_json::to_string(&written)
            .inspect_err(|fault| tracing::warn!(%fault, "the state cannot be written as a snapshot"))
            .ok()
    }
}
