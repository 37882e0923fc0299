//! The ids that have been used, for the whole life of the journal.
//!
//! Kept as the first 128 bits of SHA-256, not as text: 16 bytes a call whatever the id's length,
//! and nobody can find an id that is mistaken for another. Exact memory is bounded by the journal.

use std::collections::HashSet;

use crate::model::{CallId, Digest};

/// A set of call ids that only grows.
#[derive(Clone, Debug, Default)]
pub(super) struct UsedIds(HashSet<Print>);

impl UsedIds {
    pub(super) fn has(&self, print: Print) -> bool {
        self.0.contains(&print)
    }

    pub(super) fn add(&mut self, print: Print) {
        self.0.insert(print);
    }
}

/// What is remembered of an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Print([u8; 16]);

impl Print {
    pub(super) fn of(id: &CallId) -> Self {
        let mut print = [0; 16];
        for (to, from) in print.iter_mut().zip(Digest::of(id.as_str().as_bytes()).0) {
            *to = from;
        }
        Self(print)
    }
}
