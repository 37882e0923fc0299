//! A store that fails where it is told to, in the ways in which stores fail.

use std::collections::BTreeMap;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};

use weir::audit::{Body, Entry, Head, verify};
use weir::model::{Amounts, CallId};
use weir::pep::port::{Journal, JournalFault, Sealed, Ticket};

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
    head: Option<Head>,
    breaks: Option<(u64, Break)>,
    dead: bool,
    /// Answer through a channel, as a writer thread would.
    awaited: bool,
}

#[derive(Clone, Debug, Default)]
pub struct Store(Arc<Mutex<Inner>>);

impl Store {
    /// The append of entry `seq` breaks.
    pub fn break_at(&self, seq: u64, how: Break) {
        self.0.lock().unwrap().breaks = Some((seq, how));
    }

    /// Answers come through a channel from now on.
    pub fn awaited(&self) {
        self.0.lock().unwrap().awaited = true;
    }

    /// The machine is switched on again; what is on disk is there.
    pub fn repair(&self) {
        let mut inner = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        inner.breaks = None;
        inner.dead = false;
    }

    pub fn texts(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).texts.clone()
    }

    pub fn count(&self) -> u64 {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).texts.len() as u64
    }

    pub fn entries(&self) -> Vec<Entry> {
        self.texts().iter().map(|text| serde_json::from_str(text).unwrap()).collect()
    }

    /// Whether the intent of `id` is on disk.
    pub fn has_intent(&self, id: &CallId) -> bool {
        let found = |entry: &Entry| matches!(&entry.body, Body::Intent { call, .. } if call.id == *id);
        self.entries().iter().any(found)
    }

    /// Removes every entry and keeps the head.
    pub fn lose_entries(&self) {
        self.0.lock().unwrap().texts.clear();
    }

    pub fn lose_head(&self) {
        self.0.lock().unwrap().head = None;
    }

    pub fn copy(&self) -> Self {
        let inner = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let copy = Inner { texts: inner.texts.clone(), head: inner.head.clone(), ..Inner::default() };
        Self(Arc::new(Mutex::new(copy)))
    }

    /// The whole journal verifies; what it says of each call.
    pub fn story(&self) -> Story {
        let head = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).head.clone();
        let texts = self.texts();
        verify(texts.into_iter(), head.as_ref(), &super::key().public(), |_| {})
            .unwrap_or_else(|bad| panic!("the journal does not verify: {bad}"));
        let mut story = Story::default();
        for entry in self.entries() {
            story.tell(entry.body);
        }
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
            Some(Break::Panic) => panic!("the store breaks"),
            Some(Break::Hole) | None => {}
        }
        if broken.is_some() {
            return fault("the disk is full");
        }
        self.keep(entry);
        Ok(())
    }

    fn keep(&mut self, entry: &Sealed) {
        self.texts.push(entry.text.clone());
        self.head = Some(Head::sign(entry.seq + 1, entry.hash, &super::key()));
    }
}

impl Journal for Store {
    fn append(&self, entry: Sealed) -> Ticket {
        let mut inner = self.0.lock().unwrap();
        let result = inner.take(&entry);
        if !inner.awaited {
            return Ticket::Ready(result);
        }
        let (sender, receiver) = channel();
        sender.send(result).unwrap();
        Ticket::Awaited(receiver)
    }

    fn replay(&self, each: &mut dyn FnMut(String)) -> Result<Option<Head>, JournalFault> {
        let inner = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        inner.texts.iter().cloned().for_each(each);
        Ok(inner.head.clone())
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
    fn tell(&mut self, body: Body) {
        match body {
            Body::Intent { call, held, .. } => {
                assert!(self.held.insert(call.id.clone(), held).is_none(), "two intents of {}", call.id);
            }
            Body::Outcome(outcome) => self.ends.entry(outcome.call.clone()).or_default().push(outcome.posted),
            Body::Expire { call, posted, .. } => {
                self.expired.push(call.clone());
                self.ends.entry(call).or_default().push(posted);
            }
            Body::Open { .. } | Body::Policy { .. } | Body::Raise { .. } | Body::Checkpoint { .. } => {}
        }
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
