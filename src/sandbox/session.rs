//! Sessions: interpreters that live between executions, by name.
//!
//! An interpreter is taken out of the table while it runs, so two programs never share one, and it comes back
//! only from a turn that ended well: after a trap or a stop there is nothing to put back.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Mutex, PoisonError};

use wasmtime::Store;
use wasmtime::component::TypedFunc;

use super::SandboxFault;
use super::engine::Engines;
use super::grant::{self, Given};
use super::host::Inside;
use super::spare::Started;
use crate::model::{Clock, CodeGrant, Keep, Name};

/// What an agent is told when its variables are gone.
pub(crate) const LOST: &str =
    "The interpreter was replaced: all variables, functions and imports of earlier steps are gone. Define them again.";

/// Resources (files, streams, timers) that one guest may hold at a time.
const RESOURCES: usize = 4_096;
/// Names of lost sessions that are remembered until they are told.
const REMEMBERED: usize = 4_096;
/// Which interpreter an execution belongs to.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    pub(crate) session: Name,
    pub(crate) run: Name,
}

/// An interpreter at rest.
pub(crate) struct Live {
    pub(crate) store: Store<Inside>,
    pub(crate) run: TypedFunc<(String, String), (String,)>,
    /// Ids of host objects that came into it.
    pub(crate) handles: HashSet<String>,
    given: Given,
    of_run: Name,
}

impl Live {
    /// Starts an interpreter for `key` with what `grant` gives.
    pub(crate) fn start(engines: &Engines, key: &Key, grant: &CodeGrant) -> Result<Self, SandboxFault> {
        let load = |error: wasmtime::Error| SandboxFault::Load(format!("{error:#}"));
        let spares = engines.with_stack(grant.limits.stack_bytes)?;
        let Started { mut store, run } = spares.take().map_err(load)?;
        let inside = store.data_mut();
        inside.memory.limit = memory_limit(grant);
        if inside.memory.bytes > inside.memory.limit {
            return Err(SandboxFault::Memory(grant.limits.memory_bytes));
        }
        inside.wasi = grant::system(&key.session, grant)?;
        inside.volumes = grant::volumes(grant)?;
        inside.table.set_max_capacity(RESOURCES);
        inside.frozen = (grant.clock == Clock::Frozen).then_some(0);
        let (given, of_run) = (Given::of(grant), key.run.clone());
        Ok(Self { store, run, handles: HashSet::new(), given, of_run })
    }

    /// True when this interpreter may run the next program of `key` under `grant`.
    fn serves(&self, key: &Key, grant: &CodeGrant) -> bool {
        let lasts = grant.keep == Keep::Session || (grant.keep == Keep::Run && self.of_run == key.run);
        lasts && self.given == Given::of(grant)
    }
}

/// The memory limit of `grant` as this machine counts.
pub(crate) fn memory_limit(grant: &CodeGrant) -> usize {
    usize::try_from(grant.limits.memory_bytes).unwrap_or(usize::MAX)
}

/// Every session.
pub(crate) struct Sessions {
    most: usize,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    slots: BTreeMap<Name, Slot>,
    /// Why variables of a session are gone, until it is told.
    lost: BTreeMap<Name, String>,
    turn: u64,
}

struct Slot {
    /// `None` while it runs.
    live: Option<Live>,
    used: u64,
}

/// A session whose turn it is.
pub(crate) struct Taken {
    session: Name,
    turn: u64,
    /// Its interpreter, when one was kept.
    pub(crate) live: Option<Live>,
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
        let kept = match table.slots.get_mut(&key.session) {
            Some(slot) => Some(slot.live.take().ok_or("this session is already running a program; one at a time")?),
            None => None,
        };
        let had = kept.is_some();
        let live = kept.filter(|live| live.serves(key, grant));
        let replaced = had && live.is_none() && grant.keep == Keep::Session;
        let reason = table.lost.remove(&key.session).or_else(|| replaced.then(|| "its policy changed".to_owned()));
        let notice = reason.map(|why| format!("{LOST} The reason: {why}."));
        table.slots.insert(key.session.clone(), Slot { live: None, used: turn });
        Ok(Taken { session: key.session.clone(), turn, live, notice })
    }

    /// Ends an execution; `live` is kept for the next one.
    pub(crate) fn put_back(&self, taken: Taken, live: Option<Live>) {
        let mut table = self.lock();
        // Closed or forgotten in the meantime, perhaps even opened anew: then this one is over.
        if table.slots.get(&taken.session).is_none_or(|slot| slot.used != taken.turn) {
            return;
        }
        match live {
            Some(live) => {
                table.slots.insert(taken.session, Slot { live: Some(live), used: taken.turn });
                table.evict(self.most);
            }
            None => drop(table.slots.remove(&taken.session)),
        }
    }

    /// Drops a session; nobody needs to be told.
    pub(crate) fn close(&self, session: &Name) {
        let mut table = self.lock();
        table.lost.remove(session);
        let closed = table.slots.remove(session);
        drop(table);
        drop(closed);
    }

    /// Drops a session and remembers to tell why.
    pub(crate) fn forget(&self, session: &Name, why: &str) {
        let mut table = self.lock();
        table.slots.remove(session);
        table.remember(session.clone(), why);
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

    fn remember(&mut self, session: Name, why: &str) {
        if self.lost.len() >= REMEMBERED {
            self.lost.pop_first();
        }
        self.lost.insert(session, why.to_owned());
    }
}
