//! A journal in memory: for tests, examples and try-outs. It is gone with the process.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Seal;
use crate::pep::port::{Head, Journal, JournalFault, Sealed, Ticket};

/// Keeps entries in memory; can be told to fail, to show what a gate does then.
#[derive(Default)]
pub struct Memory {
    seal: Option<Mutex<Seal>>,
    state: Mutex<State>,
    fail_after: Option<usize>,
}

#[derive(Default)]
struct State {
    texts: Vec<String>,
    head: Option<Head>,
    failed: bool,
}

impl Memory {
    /// The same journal with a head signed by `seal` after every entry.
    #[must_use]
    pub fn sealed(mut self, seal: Seal) -> Self {
        self.seal = Some(Mutex::new(seal));
        self
    }

    /// The same journal, whose every append fails once it holds `entries`.
    #[must_use]
    pub const fn failing_after(mut self, entries: usize) -> Self {
        self.fail_after = Some(entries);
        self
    }

    /// Every entry's text, in order.
    #[must_use]
    pub fn texts(&self) -> Vec<String> {
        self.state().texts.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Journal for Memory {
    fn append(&self, entry: Sealed) -> Ticket {
        let mut state = self.state();
        state.failed |= self.fail_after.is_some_and(|most| state.texts.len() >= most);
        if state.failed {
            return Ticket::Ready(Err(JournalFault("the journal in memory was told to fail".into())));
        }
        if entry.seq != state.texts.len() as u64 {
            state.failed = true;
            return Ticket::Ready(Err(JournalFault(format!("entry {} is not the next one", entry.seq))));
        }
        if let Some(seal) = &self.seal {
            let seal = seal.lock().unwrap_or_else(PoisonError::into_inner);
            state.head = Some(seal(entry.seq.saturating_add(1), entry.hash));
        }
        state.texts.push(entry.text);
        Ticket::Ready(Ok(()))
    }

    fn replay(&self, each: &mut dyn FnMut(String)) -> Result<Option<Head>, JournalFault> {
        let (texts, head) = {
            let state = self.state();
            (state.texts.clone(), state.head.clone())
        };
        texts.into_iter().for_each(each);
        Ok(head)
    }
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Memory({} entries)", self.state().texts.len())
    }
}
