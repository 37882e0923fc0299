//! A store that fails where it is told to, in the ways in which stores fail.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use weir::audit::{Body, Entry, Head, verify};
use weir::model::{Amounts, CallId};
use weir::pep::port::{Journal, JournalFault, Moment, Sealed, Snapshot, Ticket};

/// How an append goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Break {
    /// The entry is lost, and every later one is refused.
    Lost,
    /// The entry is on disk, but the confirmation is lost; every later one is refused.
    Kept,
    /// The entry is lost and the store, against its contract, takes later ones.
    Hole,
    /// The store panics.
    Panic,
}

#[derive(Debug, Default)]
struct Inner {
    texts: Vec<String>,
    /// The same, read; and the ids of intents among them.
    entries: Arc<Vec<Entry>>,
    intents: BTreeSet<CallId>,
    head: Option<Head>,
    breaks: Option<(u64, Break)>,
    dead: bool,
    /// Answer through a channel, as a writer thread would.
    awaited: bool,
    /// Entries between two snapshots; none are kept at 0.
    every: u64,
    snapshots: Vec<Snapshot>,
}

#[derive(Clone, Debug, Default)]
pub struct Store(Arc<Mutex<Inner>>);

impl Store {
    /// What a store holds survives a panic in it.
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The append of entry `seq` breaks.
    pub fn break_at(&self, seq: u64, how: Break) {
        self.inner().breaks = Some((seq, how));
    }

    /// Answers come through a channel from now on.
    pub fn awaited(&self) {
        self.inner().awaited = true;
    }

    /// A snapshot is kept every `entries` from now on.
    pub fn snapshots_every(&self, entries: u64) {
        self.inner().every = entries;
    }

    /// How many snapshots are kept.
    pub fn snapshots(&self) -> usize {
        self.inner().snapshots.len()
    }

    /// The machine is switched on again; what is on disk is there.
    pub fn repair(&self) {
        let mut inner = self.inner();
        inner.breaks = None;
        inner.dead = false;
    }

    pub fn texts(&self) -> Vec<String> {
        self.inner().texts.clone()
    }

    pub fn count(&self) -> u64 {
        self.inner().texts.len() as u64
    }

    pub fn entries(&self) -> Arc<Vec<Entry>> {
        self.inner().entries.clone()
    }

    /// Whether the intent of `id` is on disk.
    pub fn has_intent(&self, id: &CallId) -> bool {
        self.inner().intents.contains(id)
    }

    /// Removes every entry and keeps the head.
    pub fn lose_entries(&self) {
        self.inner().texts.clear();
    }

    pub fn lose_head(&self) {
        self.inner().head = None;
    }

    /// A copy of the entries alone: whoever opens it reads all of them.
    pub fn copy(&self) -> Self {
        let inner = self.inner();
        let (texts, entries, intents) = (inner.texts.clone(), inner.entries.clone(), inner.intents.clone());
        let (head, every, snapshots) = (inner.head.clone(), inner.every, inner.snapshots.clone());
        let copy = Inner { texts, entries, intents, head, every, snapshots, ..Inner::default() };
        Self(Arc::new(Mutex::new(copy)))
    }

    /// What the journal says of each call, every entry and receipt of it verified.
    pub fn story(&self) -> Story {
        let head = self.inner().head.clone();
        let texts = self.texts();
        verify(texts.into_iter(), head.as_ref(), &super::key().public(), |_| {})
            .unwrap_or_else(|bad| panic!("the journal does not verify: {bad}"));
        self.told()
    }

    /// What the journal says of each call, for tests that verify it elsewhere.
    pub fn told(&self) -> Story {
        let mut story = Story::default();
        self.entries().iter().for_each(|entry| story.tell(&entry.body));
        story
    }
}

impl Inner {
    fn take(&mut self, entry: &Sealed) -> Result<(), JournalFault> {
        let fault = |text: &str| Err(JournalFault(text.into()));
        if self.dead {
            return fault("the store has failed before");
        }
        let broken = self.breaks.filter(|(seq, _)| *seq == entry.seq).map(|(_, how)| how);
        match broken {
            Some(Break::Lost) => self.dead = true,
            Some(Break::Kept) => {
                self.keep(entry);
                self.dead = true;
            }
            Some(Break::Panic) => panic!("{}: the store breaks", super::EXPECTED),
            Some(Break::Hole) | None => {}
        }
        if broken.is_some() {
            return fault("the disk is full");
        }
        self.keep(entry);
        Ok(())
    }

    fn keep(&mut self, entry: &Sealed) {
        let read: Entry = serde_json::from_str(&entry.text).unwrap();
        if let Body::Intent { call, .. } = &read.body {
            self.intents.insert(call.id.clone());
        }
        Arc::make_mut(&mut self.entries).push(read);
        self.texts.push(entry.text.clone());
        self.head = Some(Head::sign(entry.seq + 1, entry.hash, &super::key()));
    }
}

impl Journal for Store {
    fn append(&self, entry: Sealed) -> Ticket {
        let mut inner = self.inner();
        let result = inner.take(&entry);
        if !inner.awaited {
            return Ticket::Ready(result);
        }
        let (sender, receiver) = channel();
        sender.send(result).unwrap();
        Ticket::Awaited(receiver)
    }

    fn replay(&self, each: &mut dyn FnMut(String)) -> Result<Option<Head>, JournalFault> {
        let inner = self.inner();
        inner.texts.iter().cloned().for_each(each);
        Ok(inner.head.clone())
    }

    fn wants_snapshot(&self, since: u64, moment: Moment) -> bool {
        let inner = self.inner();
        moment == Moment::Running && inner.every > 0 && since >= inner.every
    }

    fn keep(&self, snapshot: Snapshot) {
        let mut inner = self.inner();
        // Behind the entries that it stands for: a store that lost one of them keeps no snapshot either.
        if !inner.dead && snapshot.count <= inner.texts.len() as u64 {
            inner.snapshots.retain(|kept| kept.count <= snapshot.since);
            inner.snapshots.push(snapshot);
        }
    }

    fn snapshot(&self, back: usize) -> Result<Option<Snapshot>, JournalFault> {
        let inner = self.inner();
        let Some(newest) = inner.snapshots.len().checked_sub(back + 1) else { return Ok(None) };
        let parts = inner.snapshots.iter().take(newest + 1);
        let prints = parts.flat_map(|kept| kept.prints.iter().copied()).collect();
        Ok(Some(Snapshot { prints, ..inner.snapshots[newest].clone() }))
    }
}

/// What the entries say of each call, in the words of the law.
#[derive(Debug, Default)]
pub struct Story {
    /// Calls with an intent, and what they hold.
    pub held: BTreeMap<CallId, Amounts>,
    /// Outcomes and expiries of each call, with what they posted.
    pub ends: BTreeMap<CallId, Vec<Amounts>>,
    /// Calls ended by an expiry.
    pub expired: Vec<CallId>,
}

impl Story {
    fn tell(&mut self, body: &Body) {
        match body {
            Body::Intent { call, held, .. } => {
                assert!(self.held.insert(call.id.clone(), *held).is_none(), "two intents of {}", call.id);
            }
            Body::Outcome(outcome) => self.ends.entry(outcome.call.clone()).or_default().push(outcome.posted),
            Body::Expire { call, posted, .. } => {
                self.expired.push(call.clone());
                self.ends.entry(call.clone()).or_default().push(*posted);
            }
            Body::Open { .. }
            | Body::Policy { .. }
            | Body::Raise { .. }
            | Body::Ask { .. }
            | Body::Answer { .. }
            | Body::Freeze { .. }
            | Body::Thaw { .. }
            | Body::Revoke { .. }
            | Body::Bypass { .. }
            | Body::Part { .. }
            | Body::Reconcile { .. }
            | Body::Fork { .. }
            | Body::Allowance { .. }
            | Body::Join { .. }
            | Body::Checkpoint { .. } => {}
        }
    }

    /// Whether every intent has an end.
    pub fn ends_all(&self) -> bool {
        self.held.keys().all(|id| self.ends.contains_key(id))
    }

    /// Every call has one end, and every intent has.
    pub fn assert_ended(&self) {
        for (id, ends) in &self.ends {
            assert_eq!(ends.len(), 1, "{id} ended {} times", ends.len());
        }
        for id in self.held.keys() {
            assert!(self.ends.contains_key(id), "{id} has an intent and no end");
        }
    }
}
