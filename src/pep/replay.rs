//! What a journal gives: the state to which its entries fold, from the newest snapshot that holds, or else
//! from the first entry.
//!
//! A snapshot is never trusted for more than the gate's own signature is: it must stand where the chain
//! goes on, and every entry after it is verified. One that does not hold is left aside with a warning;
//! the journal alone decides. `Replay` is the same fold for whoever checks a store.

use super::gate::{GateFault, Ports};
use super::port::{Head, Snapshot};
use super::state::State;
use crate::audit::{Bad, Entry, PublicKey, Reading, Verified};
use crate::ledger::Balance;

/// The state that the journal's entries give.
///
/// A signed head vouches for all receipts at once; without one each is checked. A head without
/// entries is a journal whose entries are gone, not a new one.
pub(super) fn replayed(ports: &Ports) -> Result<State, GateFault> {
    let key = ports.key.public();
    if let Some(state) = resumed(ports, &key) {
        return Ok(state);
    }
    match fold(ports, Replay::of(Reading::replaying(&key), State::default()))? {
        (state, Some(_)) => Ok(state?.1),
        (_, None) => Ok(fold(ports, Replay::of(Reading::auditing(&key), State::default()))?.0?.1),
    }
}

/// The state from a snapshot and the entries after it; `None` when the store keeps none that holds.
fn resumed(ports: &Ports, key: &PublicKey) -> Option<State> {
    let mut back = 0;
    loop {
        let kept = match ports.journal.snapshot(back) {
            Ok(kept) => kept?,
            Err(why) => {
                tracing::warn!(%why, "no snapshot can be read; all of the journal is read instead");
                return None;
            }
        };
        match State::restored(&kept, key).and_then(|state| resume(ports, key, state)) {
            Ok(state) => return Some(state),
            Err(why) => tracing::warn!(%why, "a snapshot does not hold; more of the journal is read instead"),
        }
        back += 1;
    }
}

fn resume(ports: &Ports, key: &PublicKey, state: State) -> Result<State, String> {
    let doubts = state.ledger.doubts().map(|(id, _)| id);
    let reading = Reading::resuming(key, &state.chain, state.open.keys(), doubts, state.docket.pending());
    let (state, _) = fold(ports, Replay::of(reading, state)).map_err(|fault| fault.to_string())?;
    state.map(|(_, state)| state).map_err(|bad| bad.to_string())
}

/// What one reading of the journal from where `replay` stands gives, and its signed head.
fn fold(ports: &Ports, mut replay: Replay<'_>) -> Result<(Folded, Option<Head>), GateFault> {
    let from = replay.state.chain.count();
    let head = ports.journal.replay_from(from, &mut |text| drop(replay.add(text)))?;
    Ok((replay.end(head.as_ref()), head))
}

type Folded = Result<(Verified, State), Bad>;

/// A journal that is being folded, entry by entry, each of them verified.
pub struct Replay<'k> {
    reading: Reading<'k>,
    state: State,
    fault: Option<Bad>,
}

impl<'k> Replay<'k> {
    /// From the first entry, with the signature of each receipt checked.
    #[must_use]
    pub fn auditing(key: &'k PublicKey) -> Self {
        Self::of(Reading::auditing(key), State::default())
    }

    fn of(reading: Reading<'k>, state: State) -> Self {
        Self { reading, state, fault: None }
    }

    /// Folds the next entry; `None` once one of them does not hold.
    pub fn add(&mut self, text: String) -> Option<Entry> {
        let entry = self.reading.add(text)?;
        self.state.chain = self.reading.chain();
        if self.fault.is_none()
            && let Err(wrong) = self.state.replay(&entry)
        {
            self.fault = Some(Bad { seq: entry.seq, text: wrong.to_string() });
        }
        self.fault.is_none().then_some(entry)
    }

    /// Whether `snapshot`, signed by `key`, is the state after the entries so far.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn agrees(&self, snapshot: &Snapshot, key: &PublicKey) -> Result<(), String> {
        let kept = State::restored(snapshot, key)?;
        if self.state.same(&kept) { Ok(()) } else { Err("it is not what the entries before it give".into()) }
    }

    /// What was verified, and every account's balance.
    ///
    /// # Errors
    /// [`Bad`] names the first entry that does not hold.
    pub fn finish(self, head: Option<&Head>) -> Result<(Verified, Vec<Balance>), Bad> {
        self.end(head).map(|(verified, state)| (verified, state.ledger.balances()))
    }

    pub(super) fn end(self, head: Option<&Head>) -> Folded {
        let Self { reading, state, fault } = self;
        let verified = reading.finish(head)?;
        fault.map_or(Ok((verified, state)), Err)
    }
}

impl std::fmt::Debug for Replay<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replay").field("entries", &self.state.chain.count()).finish_non_exhaustive()
    }
}
