//! Sessions: interpreters that live between executions, by name.
//!
//! An interpreter is taken out of the table while it runs, so two programs never share one, and it comes back
//! only from a turn that ended well: after a trap or a stop there is nothing to put back.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use super::USUAL;
use super::tape::Start;
use super::terms::Given;
use super::workers::Hand;
use crate::model::{CodeGrant, Digest, Keep, Name, Seat};

/// What an agent is told when its variables are gone.
pub(crate) const LOST: &str =
    "The interpreter was replaced: all variables, functions and imports of earlier steps are gone. Define them again.";

/// Names of lost sessions that are remembered until they are told.
const REMEMBERED: usize = 4_096;

/// Which interpreter an execution belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Whose.
    pub seat: Seat,
    /// The guest: a name of [`super::Guest::names`]. A seat has an interpreter of each that it uses.
    pub guest: String,
    /// The run in whose course it executes.
    pub run: Name,
}

impl Key {
    /// The seat of the guest's interpreter: the session's own for the usual guest, one beside it for another.
    pub(crate) fn place(&self) -> Seat {
        place(&self.seat, &self.guest)
    }
}

/// The seat of `guest` beside `seat`.
pub(crate) fn place(seat: &Seat, guest: &str) -> Seat {
    if guest == USUAL {
        return seat.clone();
    }
    let digest = Digest::of(format!("{}\0{guest}", seat.name).as_bytes());
    Seat { name: Name::derived(&digest.hex()), ..seat.clone() }
}

/// An interpreter at rest in a worker.
pub(crate) struct Place {
    pub(crate) hand: Arc<Hand>,
    pub(crate) seat: u64,
    /// True while an interpreter is there.
    pub(crate) taken: bool,
    /// Ids of host objects that came into it.
    pub(crate) handles: HashSet<String>,
    /// What the tape of its next step begins with; `None` once it has run a step of which there is no tape.
    pub(crate) before: Option<Start>,
    given: Given,
    of_run: Name,
}

impl Place {
    /// A place in `hand` where an interpreter is yet to start.
    pub(crate) fn new(hand: Arc<Hand>, key: &Key, grant: &CodeGrant) -> Self {
        let seat = hand.seat();
        let (given, of_run) = (Given::of(grant), key.run.clone());
        Self { hand, seat, taken: false, handles: HashSet::new(), before: None, given, of_run }
    }

    /// True when this interpreter may run the next program of `key` under `grant`.
    fn serves(&self, key: &Key, grant: &CodeGrant) -> bool {
        let lasts = grant.keep == Keep::Session || (grant.keep == Keep::Run && self.of_run == key.run);
        lasts && self.given == Given::of(grant)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.taken {
            self.hand.forget(self.seat);
        }
    }
}

/// Every session.
pub(crate) struct Sessions {
    most: usize,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    slots: BTreeMap<Seat, Slot>,
    /// Why variables of a session are gone, until it is told.
    lost: BTreeMap<Seat, String>,
    turn: u64,
}

struct Slot {
    /// `None` while it runs.
    live: Option<Place>,
    used: u64,
}

/// A session whose turn it is.
pub(crate) struct Taken {
    seat: Seat,
    turn: u64,
    /// Its interpreter, when one was kept.
    pub(crate) live: Option<Place>,
    /// What the agent must be told first.
    pub(crate) notice: Option<String>,
}

impl Sessions {
    /// None; at most `most` will be kept.
    pub(crate) fn new(most: usize) -> Self {
        Self { most: most.max(1), table: Mutex::default() }
    }

    /// Takes the session of `key` for one execution.
    ///
    /// # Errors
    /// Another execution of the session has not ended.
    pub(crate) fn take(&self, key: &Key, grant: &CodeGrant) -> Result<Taken, &'static str> {
        let mut table = self.lock();
        table.turn += 1;
        let turn = table.turn;
        let kept = match table.slots.get_mut(&key.place()) {
            Some(slot) => Some(slot.live.take().ok_or("this session is already running a program; one at a time")?),
            None => None,
        };
        let died = kept.as_ref().is_some_and(|place| place.hand.is_dead());
        let had = kept.is_some();
        let live = kept.filter(|place| !died && place.serves(key, grant));
        let replaced = had && live.is_none() && grant.keep == Keep::Session;
        let why = if died { "the worker that held it has ended" } else { "its policy changed" };
        let reason = table.lost.remove(&key.place()).or_else(|| replaced.then(|| why.to_owned()));
        let notice = reason.map(|why| format!("{LOST} The reason: {why}."));
        table.slots.insert(key.place(), Slot { live: None, used: turn });
        Ok(Taken { seat: key.place(), turn, live, notice })
    }

    /// Ends an execution; `live` is kept for the next one.
    pub(crate) fn put_back(&self, taken: Taken, live: Option<Place>) {
        let mut table = self.lock();
        // Closed or forgotten in the meantime, perhaps even opened anew: then this one is over.
        if table.slots.get(&taken.seat).is_none_or(|slot| slot.used != taken.turn) {
            return;
        }
        match live {
            Some(live) => {
                table.slots.insert(taken.seat, Slot { live: Some(live), used: taken.turn });
                table.evict(self.most);
            }
            None => drop(table.slots.remove(&taken.seat)),
        }
    }

    /// Drops a session; nobody needs to be told.
    pub(crate) fn close(&self, seat: &Seat) {
        let mut table = self.lock();
        table.lost.remove(seat);
        let closed = table.slots.remove(seat);
        drop(table);
        drop(closed);
    }

    /// Drops a session and remembers to tell why.
    pub(crate) fn forget(&self, seat: &Seat, why: &str) {
        let mut table = self.lock();
        table.slots.remove(seat);
        table.remember(seat.clone(), why);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Drops the sessions that were used least recently, running ones excepted.
    fn evict(&mut self, most: usize) {
        while self.slots.len() > most {
            let resting = self.slots.iter().filter(|(_, slot)| slot.live.is_some());
            let Some(oldest) = resting.min_by_key(|(_, slot)| slot.used).map(|(name, _)| name.clone()) else { return };
            self.slots.remove(&oldest);
            self.remember(oldest, "too many sessions were open, and this one was unused for the longest time");
        }
    }

    fn remember(&mut self, seat: Seat, why: &str) {
        if self.lost.len() >= REMEMBERED {
            self.lost.pop_first();
        }
        self.lost.insert(seat, why.to_owned());
    }
}
