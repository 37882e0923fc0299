//! Sessions that outlast their interpreters: put on disk when memory is short or nobody asks for them, taken back at
//! their next step, copied, and taken back to where they were.
//!
//! `vault/` seals and stores, `transfer.rs` moves states, `session.rs` says who runs; here they meet. A state is what an
//! interpreter's variables, functions and imports are: files of a session are not part of it. What cannot be kept is
//! told to the agent, never lost silently. Nothing here decides who may ask.

use std::sync::Arc;

use super::session::{self, BUSY, Key, Lifted, Place};
use super::transfer::{self, State};
use super::vault::{Class, Header, Vault, Which};
use super::{Guest, Sandbox};
use crate::model::{CodeGrant, Keep, Name, OutputFile, Quota, Seat};
use crate::pep::port::{KeepFault, Keeper, Kept, Point};

/// Sessions that one execution puts on disk for the sake of memory, at most.
const AT_ONCE: usize = 8;

/// What became of the state of a session that has no interpreter.
pub(crate) enum Back {
    /// It is in the place.
    Here(Option<String>),
    /// There is none.
    Nothing,
    /// There is one, and it cannot be used; why.
    Lost(String),
}

impl Sandbox {
    /// Puts the newest state of `key` into `place`, where there is one that `grant` allows.
    pub(crate) fn bring_back(&self, key: &Key, grant: &CodeGrant, place: &mut Place) -> Back {
        let Some(vault) = self.vault.as_ref().filter(|_| grant.keep == Keep::Session) else { return Back::Nothing };
        let seat = key.place();
        let Some((class, point)) = vault.latest(&seat) else { return Back::Nothing };
        let brought = self.load(vault, &seat, grant, place);
        // From here on it goes on: to come back to where it rested would lose steps silently.
        if class != Class::Point
            && let Err(fault) = vault.remove_rest(&seat)
        {
            tracing::warn!("a session's state at rest stays on disk: {fault}");
        }
        match brought {
            Ok(()) if class == Class::Rest => Back::Here(None),
            Ok(()) => Back::Here(Some(format!(
                "The session goes on as it was after its step {}: what later steps defined is gone.",
                point.steps
            ))),
            Err(fault) => Back::Lost(format!("what was kept of it cannot be used: {fault}")),
        }
    }

    fn load(&self, vault: &Vault, seat: &Seat, grant: &CodeGrant, place: &mut Place) -> Result<(), KeepFault> {
        let (header, bytes) = vault.get(seat, Which::Latest, &place.hand.build())?;
        if header.given != place.given() {
            return Err(KeepFault::Refused("its policy changed".to_owned()));
        }
        if header.memory_bytes > grant.limits.memory_bytes {
            return Err(KeepFault::Refused("it has more memory than its policy allows".to_owned()));
        }
        let folders = std::mem::take(&mut place.system.folders);
        place.system = super::wire::System { folders, ..header.system };
        transfer::load(place, &State { bytes, system: place.system.clone() })?;
        place.handles = header.handles.into_iter().collect();
        place.before = header.before;
        (place.steps, place.memory_bytes) = (header.steps, header.memory_bytes);
        Ok(())
    }

    /// Keeps the state of `place` on disk before its policy has it run something that could lose it.
    ///
    /// # Errors
    /// [`KeepFault`]; without a vault there is nothing to do.
    pub(crate) fn put_aside(&self, key: &Key, place: &Place) -> Result<(), KeepFault> {
        let Some(vault) = &self.vault else { return Ok(()) };
        store(vault, &key.place(), &key.seat.name, &key.guest, place, Class::Aside).map(drop)
    }

    /// What an agent is told whose interpreter has just been lost, and whether something of it is kept.
    pub(crate) fn loss(&self, key: &Key) -> (String, bool) {
        match self.vault.as_ref().and_then(|vault| vault.latest(&key.place())) {
            Some((_, point)) => (
                format!(
                    "The interpreter was lost with this step. The session goes on as it was after its step {}; what \
                     later steps defined is gone.",
                    point.steps
                ),
                true,
            ),
            None => (session::LOST.to_owned(), false),
        }
    }

    /// Takes the interpreter at `seat` out of memory, onto disk where it can be kept; `why` is for its agent.
    pub(crate) fn shelve(&self, seat: &Seat, why: &str) {
        let Ok(Some(lifted)) = self.sessions.lift(seat) else { return };
        let kept = match &self.vault {
            Some(vault) if lifted.place.is_kept() => self.store_lifted(vault, &lifted, Class::Rest).map(|_| None),
            // One that lasts for a run or a step alone is nobody's loss once that is over.
            _ => Ok(Some(why.to_owned())),
        };
        let lost = kept.unwrap_or_else(|fault| Some(format!("{why}, and it could not be kept: {fault}")));
        let stored = lost.is_none();
        if !self.sessions.let_go(lifted, lost) && stored {
            // Closed while it was stored: nothing may be left of it.
            drop(self.vault.as_ref().map(|vault| vault.remove_rest(seat)));
        }
    }

    /// Takes sessions out of memory until there are no more than there should be and they hold no more than they may.
    pub(crate) fn relieve(&self) {
        while let Some(seat) = self.sessions.surplus() {
            self.shelve(&seat, "too many sessions were open, and this one was unused for the longest time");
        }
        if !self.memory_watch.is_due() {
            return;
        }
        for _ in 0..AT_ONCE {
            if self.workers.private_bytes() <= self.live_bytes {
                return;
            }
            let Some(seat) = self.sessions.oldest() else { return };
            self.shelve(&seat, "the memory of all sessions is used up, and this one was unused for the longest time");
        }
    }

    /// Takes every resting interpreter of `hand` out of memory and ends it.
    pub(crate) fn vacate(&self, hand: &Arc<super::workers::Hand>) {
        for seat in self.sessions.in_hand(hand) {
            self.shelve(&seat, "too many agents have workers, and this one's was unused for the longest time");
        }
        hand.kill();
    }

    /// Takes every session out of memory: the gate ends.
    pub(crate) fn rest_all(&self) {
        for (seat, _) in self.sessions.list() {
            self.shelve(&seat, "the gate was started anew");
        }
    }

    /// What is left of a session that is over for now.
    pub(crate) fn rest_session(&self, seat: &Seat) {
        for guest in Guest::names() {
            self.shelve(&session::place(seat, guest), "the session was unused for long");
        }
        let kept = self.vault.as_ref().is_some_and(|vault| vault.list().iter().any(|kept| kept.seat == *seat));
        if let (false, Some(scratches)) = (kept, &self.scratches)
            && let Err(fault) = scratches.remove(seat)
        {
            tracing::warn!("a session's folder could not be removed: {fault}");
        }
    }

    /// The seats of the session's interpreters in which something is, the one that was used last in front.
    fn interpreters(&self, session: &Seat) -> Vec<(Seat, &'static str)> {
        let mut found: Vec<_> = Guest::names()
            .filter_map(|guest| {
                let seat = session::place(session, guest);
                let stored = || self.vault.as_ref()?.latest(&seat).map(|(_, point)| point.at);
                let order = (self.sessions.used(&seat), stored());
                (order != (None, None)).then_some((order, seat, guest))
            })
            .collect();
        found.sort_by(|(a, ..), (b, ..)| b.cmp(a));
        found.into_iter().map(|(_, seat, guest)| (seat, guest)).collect()
    }

    /// The interpreter that is meant: the one with checkpoint `point`, or else the one that was used last.
    fn meant(&self, session: &Seat, point: Option<&str>) -> Result<(Seat, &'static str), KeepFault> {
        let vault = self.vault()?;
        let has = |seat: &Seat| point.is_none_or(|id| vault.points(seat).iter().any(|point| point.id == id));
        let mut found = self.interpreters(session).into_iter().filter(|(seat, _)| has(seat));
        found.next().ok_or(KeepFault::Absent(if point.is_some() {
            "such checkpoint"
        } else {
            "kept session of this name"
        }))
    }

    fn vault(&self) -> Result<&Arc<Vault>, KeepFault> {
        self.vault.as_ref().ok_or_else(|| KeepFault::Refused("this gate has no store, so it keeps no sessions".into()))
    }

    fn store_lifted(&self, vault: &Vault, lifted: &Lifted, class: Class) -> Result<Point, KeepFault> {
        let about = &lifted.about;
        store(vault, lifted.seat(), &about.session.name, &about.guest, &lifted.place, class)
    }

    /// Does `work` on the interpreter at `seat` and leaves it there; `None` when it is not in memory.
    fn with_live<T>(
        &self,
        seat: &Seat,
        work: impl FnOnce(&Lifted) -> Result<T, KeepFault>,
    ) -> Result<Option<T>, KeepFault> {
        let Some(lifted) = self.sessions.lift(seat).map_err(busy)? else { return Ok(None) };
        let done = work(&lifted);
        self.sessions.set_down(lifted);
        done.map(Some)
    }

    fn scratch<T>(
        &self,
        work: impl FnOnce(&super::scratch::Scratches) -> Result<T, KeepFault>,
    ) -> Result<T, KeepFault> {
        let none = || KeepFault::Refused("this gate gives its sessions no folders".into());
        self.scratches.as_ref().ok_or_else(none).and_then(work)
    }
}

fn busy(why: &'static str) -> KeepFault {
    if why == BUSY { KeepFault::Busy } else { KeepFault::Failed(why.to_owned()) }
}

/// Puts the state of the interpreter at `place` into the vault, under `seat` of `session`.
fn store(
    vault: &Vault,
    seat: &Seat,
    session: &Name,
    guest: &str,
    place: &Place,
    class: Class,
) -> Result<Point, KeepFault> {
    let state = transfer::save(place)?;
    let guest = Name::new(guest).map_err(|fault| KeepFault::Failed(fault.to_string()))?;
    let mut handles: Vec<String> = place.handles.iter().cloned().collect();
    handles.sort();
    let header = Header {
        guest,
        build: place.hand.build(),
        steps: place.steps,
        system: state.system,
        given: place.given(),
        handles,
        memory_bytes: place.memory_bytes,
        bytes: state.bytes.len() as u64,
        before: place.before.clone(),
    };
    vault.put(seat, session, class, &header, &mut state.bytes.as_slice())
}

impl Keeper for Sandbox {
    fn list(&self) -> Vec<Kept> {
        let mut kept = self.vault.as_ref().map(|vault| vault.list()).unwrap_or_default();
        for (_, about) in self.sessions.list() {
            if !about.kept {
                continue;
            }
            let stored = kept.iter_mut().find(|kept| kept.seat == about.session && kept.guest.as_str() == about.guest);
            match (stored, Name::new(about.guest)) {
                (Some(kept), _) => (kept.live, kept.steps, kept.memory_bytes) = (true, about.steps, about.memory_bytes),
                (None, Ok(guest)) => kept.push(Kept {
                    seat: about.session,
                    guest,
                    live: true,
                    steps: about.steps,
                    memory_bytes: about.memory_bytes,
                    checkpoints: Vec::new(),
                }),
                (None, Err(_)) => {}
            }
        }
        kept.sort_by(|a, b| (&a.seat, a.guest.as_str()).cmp(&(&b.seat, b.guest.as_str())));
        kept
    }

    fn checkpoint(&self, seat: &Seat) -> Result<Point, KeepFault> {
        let (at, _) = self.meant(seat, None)?;
        let vault = self.vault()?;
        match self.with_live(&at, |lifted| self.store_lifted(vault, lifted, Class::Point))? {
            Some(point) => Ok(point),
            None => vault.again(&at, Which::Latest, Class::Point),
        }
    }

    fn roll_back(&self, seat: &Seat, point: Option<&str>) -> Result<Point, KeepFault> {
        let (at, _) = self.meant(seat, point)?;
        let vault = self.vault()?;
        // Busy is found out before anything changes, and nothing runs until it has.
        let lifted = self.sessions.lift(&at).map_err(busy)?;
        let which = point.map_or(Which::Checkpoint, Which::Named);
        match (vault.again(&at, which, Class::Aside), lifted) {
            (Ok(_), lifted) => drop(lifted.map(|lifted| self.sessions.let_go(lifted, None))),
            (Err(fault), Some(lifted)) => {
                self.sessions.set_down(lifted);
                return Err(fault);
            }
            (Err(fault), None) => return Err(fault),
        }
        let points = vault.points(&at);
        let to = points.into_iter().rev().find(|to| point.is_none_or(|id| to.id == id));
        to.ok_or(KeepFault::Absent("such checkpoint"))
    }

    fn fork(&self, seat: &Seat, point: Option<&str>, to: &Seat) -> Result<Point, KeepFault> {
        let (at, guest) = self.meant(seat, point)?;
        let vault = self.vault()?;
        let copy = session::place(to, guest);
        if (&seat.org, &seat.agent) != (&to.org, &to.agent) {
            return Err(KeepFault::Refused("a session can be forked for its own agent only".into()));
        }
        if !self.interpreters(to).is_empty() {
            return Err(KeepFault::Refused("the session that is to become a copy has something already".into()));
        }
        if let Some(id) = point {
            return vault.fork(&at, Which::Named(id), &copy, &to.name);
        }
        let put = |lifted: &Lifted| store(vault, &copy, &to.name, guest, &lifted.place, Class::Point);
        match self.with_live(&at, put)? {
            Some(point) => Ok(point),
            None => vault.fork(&at, Which::Latest, &copy, &to.name),
        }
    }

    fn remove(&self, seat: &Seat) -> Result<(), KeepFault> {
        let there = self.interpreters(seat);
        for (at, _) in &there {
            if let Some(lifted) = self.sessions.lift(at).map_err(busy)? {
                self.sessions.let_go(lifted, None);
            }
        }
        self.forget(seat)?;
        if there.is_empty() { Err(KeepFault::Absent("kept session of this name")) } else { Ok(()) }
    }

    fn furnish(&self, seat: &Seat, quota: &Quota) -> Result<(), KeepFault> {
        self.scratch(|scratches| scratches.furnish(seat, quota))
    }

    fn files(&self, seat: &Seat) -> Result<Vec<OutputFile>, KeepFault> {
        self.scratch(|scratches| scratches.list(seat))
    }

    fn read(&self, seat: &Seat, path: &str) -> Result<Vec<u8>, KeepFault> {
        self.scratch(|scratches| scratches.read(seat, path))
    }

    fn write(&self, seat: &Seat, path: &str, content: &[u8]) -> Result<OutputFile, KeepFault> {
        self.scratch(|scratches| scratches.write(seat, path, content))
    }
}

impl Sandbox {
    /// Forgets what is on disk of a session whose interpreters are gone.
    ///
    /// # Errors
    /// Something of it could not be removed.
    pub(crate) fn forget(&self, seat: &Seat) -> Result<(), KeepFault> {
        match self.vault.as_ref().map(|vault| vault.remove(seat)) {
            None | Some(Ok(()) | Err(KeepFault::Absent(_))) => {}
            Some(Err(fault)) => return Err(fault),
        }
        self.scratches.as_ref().map_or(Ok(()), |scratches| scratches.remove(seat))
    }
}
