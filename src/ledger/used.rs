//! The ids that have been used, for the whole life of the journal.
//!
//! Kept as the first 128 bits of SHA-256, not as text: 16 bytes a call whatever the id's length,
//! and nobody can find an id that is mistaken for another. Exact memory is bounded by the journal.

use std::collections::HashSet;

use crate::model::{CallId, Digest};

/// A set of call ids that only grows.
#[derive(Clone, Debug, Default)]
pub(super) struct UsedIds {
    all: HashSet<Print>,
    /// Those that no snapshot has yet, in the order of their use.
    fresh: Vec<Print>,
}

impl UsedIds {
    pub(super) fn has(&self, print: Print) -> bool {
        self.all.contains(&print)
    }

    pub(super) fn add(&mut self, print: Print) {
        if self.all.insert(print) {
            self.fresh.push(print);
        }
    }

    /// Adds ids that a snapshot has already.
    pub(super) fn add_stored(&mut self, prints: &[[u8; 16]]) {
        self.all.reserve(prints.len());
        self.all.extend(prints.iter().copied().map(Print));
    }

    pub(super) fn prints(&self) -> impl Iterator<Item = Print> + '_ {
        self.all.iter().copied()
    }

    pub(super) fn fresh(&self) -> &[Print] {
        &self.fresh
    }

    pub(super) fn forget_fresh(&mut self) {
        self.fresh = Vec::new();
    }
}

/// What is remembered of an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Print(pub [u8; 16]);

impl Print {
    /// The print of `id`.
    #[must_use]
    pub fn of(id: &CallId) -> Self {
        let mut print = [0; 16];
        for (to, from) in print.iter_mut().zip(Digest::of(id.as_str().as_bytes()).0) {
            *to = from;
        }
        Self(print)
    }
}
