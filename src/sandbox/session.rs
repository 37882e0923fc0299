//! Sessions: interpreters that live between executions, by name.
//!
//! An interpreter is taken out of the table while it runs, so two programs never share one, and it comes back
//! only from a turn that ended well: after a trap or a stop there is nothing to put back.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::USUAL;
use super::tape::Start;
use super::terms::Given;
use super::wire::System;
use super::workers::Hand;
use crate::model::{CodeGrant, Digest, Keep, Name, Seat};

/// What an agent is told when its variables are gone.
pub(crate) const LOST: &str =
    "The interpreter was replaced: all variables, functions and imports of earlier steps are gone. Define them again.";

/// What an agent is told when only its last step is lost.
pub(crate) const HELD: &str =
    "This step was stopped and the session is as it was before it: what this step defined is gone, all else is there.";

/// Names of lost sessions that are remembered until they are told.
const REMEMBERED: usize = 4_096;
/// How long an execution waits for its session to be put on disk or taken from it.
const PATIENCE: Duration = Duration::from_secs(60);
/// What is told of a session that works.
pub(crate) const BUSY: &str = "this session is already running a program; one at a time";

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
    /// Steps that have run in it.
    pub(crate) steps: u64,
    /// Its linear memory as its worker says, bytes.
    pub(crate) memory_bytes: u64,
    /// The most that this can be.
    pub(crate) memory_limit: u64,
    /// What it was started with.
    pub(crate) system: System,
    /// What the tape of its next step begins with; `None` once it has run a step of which there is no tape.
    pub(crate) before: Option<Start>,
    given: Given,
    of_run: Name,
    keep: Keep,
}

impl Place {
    /// A place in `hand` where an interpreter is yet to start with `system`.
    pub(crate) fn new(hand: Arc<Hand>, key: &Key, grant: &CodeGrant, system: System) -> Self {
        let seat = hand.seat();
        Self {
            hand,
            seat,
            taken: false,
            handles: HashSet::new(),
            steps: 0,
            memory_bytes: 0,
            memory_limit: grant.limits.memory_bytes,
            system,
            before: None,
            given: Given::of(grant),
            of_run: key.run.clone(),
            keep: grant.keep,
        }
    }

    /// True when this interpreter may run the next program of `key` under `grant`.
    fn serves(&self, key: &Key, grant: &CodeGrant) -> bool {
        let lasts = grant.keep == Keep::Session || (grant.keep == Keep::Run && self.of_run == key.run);
        lasts && self.given == Given::of(grant)
    }

    /// True when it is to outlast its run.
    pub(crate) fn is_kept(&self) -> bool {
        self.keep == Keep::Session
    }

    /// Digest of what of its grant is built into it.
    pub(crate) fn given(&self) -> Digest {
        self.given.digest()
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
    /// Told whenever a session is back from where its state was stored.
    back: Condvar,
}

#[derive(Default)]
struct Table {
    slots: BTreeMap<Seat, Slot>,
    /// Why variables of a session are gone, until it is told.
    lost: BTreeMap<Seat, String>,
    turn: u64,
}

struct Slot {
    /// `None` while it runs or is stored.
    live: Option<Place>,
    /// True while its state is being stored.
    away: bool,
    used: u64,
    about: About,
}

/// What is shown of an interpreter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct About {
    /// The session to which it belongs.
    pub(crate) session: Seat,
    /// Its guest.
    pub(crate) guest: String,
    /// It is to outlast its run.
    pub(crate) kept: bool,
    /// Steps that it has run.
    pub(crate) steps: u64,
    /// Linear memory, bytes.
    pub(crate) memory_bytes: u64,
}

/// A session whose turn it is.
pub(crate) struct Taken {
    seat: Seat,
    turn: u64,
    /// Its interpreter, when one was kept.
    pub(crate) live: Option<Place>,
    /// Why the variables of earlier steps are gone.
    pub(crate) lost: Option<String>,
}

/// An interpreter on its way to disk.
pub(crate) struct Lifted {
    seat: Seat,
    pub(crate) place: Place,
    pub(crate) about: About,
}

impl Lifted {
    /// The interpreter's seat.
    pub(crate) const fn seat(&self) -> &Seat {
        &self.seat
    }
}

impl Sessions {
    /// None; at most `most` will be kept.
    pub(crate) fn new(most: usize) -> Self {
        Self { most: most.max(1), table: Mutex::default(), back: Condvar::new() }
    }

    /// Takes the session of `key` for one execution.
    ///
    /// # Errors
    /// Another execution of the session has not ended.
    pub(crate) fn take(&self, key: &Key, grant: &CodeGrant) -> Result<Taken, &'static str> {
        let seat = key.place();
        let mut table = self.settled(&seat)?;
        table.turn += 1;
        let turn = table.turn;
        let kept = match table.slots.get_mut(&seat) {
            Some(slot) => Some(slot.live.take().ok_or(BUSY)?),
            None => None,
        };
        let died = kept.as_ref().is_some_and(|place| place.hand.is_dead());
        let had = kept.is_some();
        let (steps, memory_bytes) = kept.as_ref().map_or((0, 0), |place| (place.steps, place.memory_bytes));
        let live = kept.filter(|place| !died && place.serves(key, grant));
        let replaced = had && live.is_none() && grant.keep == Keep::Session;
        let why = if died { "the worker that held it has ended" } else { "its policy changed" };
        let lost = table.lost.remove(&seat).or_else(|| replaced.then(|| why.to_owned()));
        let kept = grant.keep == Keep::Session;
        let about = About { session: key.seat.clone(), guest: key.guest.clone(), kept, steps, memory_bytes };
        table.slots.insert(seat.clone(), Slot { live: None, away: false, used: turn, about });
        Ok(Taken { seat, turn, live, lost })
    }

    /// Ends an execution; `live` is kept for the next one.
    pub(crate) fn put_back(&self, taken: Taken, live: Option<Place>) {
        let mut table = self.lock();
        // Closed or forgotten in the meantime, perhaps even opened anew: then this one is over.
        if table.slots.get(&taken.seat).is_none_or(|slot| slot.used != taken.turn) {
            return;
        }
        match (live, table.slots.get_mut(&taken.seat)) {
            (Some(live), Some(slot)) => {
                (slot.about.steps, slot.about.memory_bytes) = (live.steps, live.memory_bytes);
                slot.live = Some(live);
            }
            _ => drop(table.slots.remove(&taken.seat)),
        }
    }

    /// Takes an interpreter out to be stored; executions of its session wait meanwhile.
    ///
    /// # Errors
    /// [`BUSY`] when it runs; `None` within when there is none.
    pub(crate) fn lift(&self, seat: &Seat) -> Result<Option<Lifted>, &'static str> {
        let mut table = self.settled(seat)?;
        let Some(slot) = table.slots.get_mut(seat) else { return Ok(None) };
        let place = slot.live.take().ok_or(BUSY)?;
        slot.away = true;
        Ok(Some(Lifted { seat: seat.clone(), place, about: slot.about.clone() }))
    }

    /// Puts an interpreter back that was lifted.
    pub(crate) fn set_down(&self, lifted: Lifted) {
        let mut table = self.lock();
        // Closed in the meantime: then it goes.
        if let Some(slot) = table.slots.get_mut(&lifted.seat).filter(|slot| slot.away) {
            slot.live = Some(lifted.place);
            slot.away = false;
        }
        self.back.notify_all();
    }

    /// Drops an interpreter that was lifted; its session is told why, where something is lost. False when the session
    /// was closed in the meantime.
    pub(crate) fn let_go(&self, lifted: Lifted, lost: Option<String>) -> bool {
        let mut table = self.lock();
        let there = table.slots.get(&lifted.seat).is_some_and(|slot| slot.away);
        if there {
            table.slots.remove(&lifted.seat);
            if let Some(why) = lost {
                table.remember(lifted.seat.clone(), &why);
            }
        }
        drop(table);
        self.back.notify_all();
        there
    }

    /// The resting interpreter that was used least recently, when there are more than there should be.
    pub(crate) fn surplus(&self) -> Option<Seat> {
        let table = self.lock();
        if table.slots.len() > self.most { table.oldest() } else { None }
    }

    /// The resting interpreter that was used least recently.
    pub(crate) fn oldest(&self) -> Option<Seat> {
        self.lock().oldest()
    }

    /// Every interpreter that rests in `hand`.
    pub(crate) fn in_hand(&self, hand: &Arc<Hand>) -> Vec<Seat> {
        let table = self.lock();
        let there = |slot: &Slot| slot.live.as_ref().is_some_and(|place| Arc::ptr_eq(&place.hand, hand));
        table.slots.iter().filter(|(_, slot)| there(slot)).map(|(seat, _)| seat.clone()).collect()
    }

    /// Every interpreter by its seat.
    pub(crate) fn list(&self) -> Vec<(Seat, About)> {
        self.lock().slots.iter().map(|(seat, slot)| (seat.clone(), slot.about.clone())).collect()
    }

    /// When the interpreter of `seat` was used; later is more. `None` when there is none.
    pub(crate) fn used(&self, seat: &Seat) -> Option<u64> {
        self.lock().slots.get(seat).map(|slot| slot.used)
    }

    /// Drops a session; nobody needs to be told.
    pub(crate) fn close(&self, seat: &Seat) {
        let mut table = self.lock();
        table.lost.remove(seat);
        let closed = table.slots.remove(seat);
        drop(table);
        self.back.notify_all();
        drop(closed);
    }

    /// Drops a session and remembers to tell why.
    pub(crate) fn forget(&self, seat: &Seat, why: &str) {
        let mut table = self.lock();
        let forgotten = table.slots.remove(seat);
        table.remember(seat.clone(), why);
        drop(table);
        drop(forgotten);
    }

    /// The table, once nothing of `seat` is on its way.
    fn settled(&self, seat: &Seat) -> Result<MutexGuard<'_, Table>, &'static str> {
        let until = Instant::now() + PATIENCE;
        let mut table = self.lock();
        while table.slots.get(seat).is_some_and(|slot| slot.away) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err("this session is being put on disk, which takes long; try again");
            }
            table = self.back.wait_timeout(table, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(table)
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn oldest(&self) -> Option<Seat> {
        let resting = self.slots.iter().filter(|(_, slot)| slot.live.is_some());
        resting.min_by_key(|(_, slot)| slot.used).map(|(name, _)| name.clone())
    }

    fn remember(&mut self, seat: Seat, why: &str) {
        if self.lost.len() >= REMEMBERED {
            self.lost.pop_first();
        }
        self.lost.insert(seat, why.to_owned());
    }
}
