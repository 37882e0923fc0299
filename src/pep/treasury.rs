//! The port to what several gates share: a database that gives each of them allowance out of one budget.
//!
//! A gate spends out of allowance that its own journal knows of, so that the hot path needs no round trip and a crash
//! loses nothing. It states what it counts on with every question; whatever the database held for it beyond that comes
//! back by the same statement. No answer therefore has to be asked for again: the next statement heals a lost one.

use crate::ledger::AccountId;
use crate::model::Digest;
pub use crate::model::Pot;

/// A gate's statement about one pot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim<'a> {
    /// The pot.
    pub pot: &'a Pot,
    /// What the gate's journal counts on.
    pub known: u64,
    /// Tranches that people granted at this gate, in all: for every gate.
    pub raised: u64,
    /// What it needs more at once; 0 when it needs nothing.
    pub least: u64,
    /// What it would take.
    pub most: u64,
    /// The limit of the gate's policy.
    pub limit: u64,
}

/// What the database answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holding {
    /// What the gate has of the pot from now on: what it stated, and what it was given.
    pub held: u64,
    /// What is left in the pot for anybody.
    pub room: u64,
}

/// How a gate introduces itself: the place of its latest opening in its own journal. A copy of the store, or one that
/// was restored from a backup, cannot show a place that the original has not reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opening {
    /// Entries of the journal, with the one of the opening.
    pub epoch: u64,
    /// Hash of that entry.
    pub token: Digest,
}

/// What an operator may order about an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Nothing new runs there until it is thawed.
    Freeze,
    /// It goes on.
    Thaw,
    /// Nothing new runs there any more, and what runs is told to stop.
    Revoke,
}

impl Order {
    /// Its name in the protocol, on the command line and in the database.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Freeze => "freeze",
            Self::Thaw => "thaw",
            Self::Revoke => "revoke",
        }
    }

    /// The order of this name.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Freeze, Self::Thaw, Self::Revoke].into_iter().find(|order| order.word() == word)
    }
}

/// What became of an order that was to go round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Round {
    /// Every gate has followed it, or accepts nothing any more.
    Done,
    /// There is nothing to undo elsewhere: no order that went round stops this account.
    Needless,
}

/// Why the treasury did not do it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TreasuryFault {
    /// It cannot be reached, or did not answer in time. Whether it did it is not known, and need not be.
    #[error("{0}")]
    Unreachable(String),
    /// It refuses this gate for good: retired, begun again elsewhere, or with a journal older than it has shown.
    #[error("{0}")]
    Fenced(String),
    /// It refuses this one thing; nothing was changed.
    #[error("{0}")]
    Refused(String),
}

/// Gives out allowance of budgets that several gates share. Every call may block; none is made in the critical section
/// but [`Treasury::live`].
pub trait Treasury: Send + Sync {
    /// Introduces the gate and tells what the database holds for it. Earlier openings are refused from then on.
    ///
    /// # Errors
    /// [`TreasuryFault`].
    fn join(&self, opening: Opening) -> Result<Vec<(Pot, u64)>, TreasuryFault>;

    /// Whether the gate may spend allowance now. False once the database may believe it dead.
    fn live(&self) -> bool;

    /// States and asks. For one pot never called twice at the same time.
    ///
    /// # Errors
    /// [`TreasuryFault`].
    fn claim(&self, claim: &Claim<'_>) -> Result<Holding, TreasuryFault>;

    /// Gives `order` on `account` to every gate, this one too, and returns once each has followed it durably or accepts
    /// nothing any more. A gate may stop what it likes; it may let go on only what nobody else has stopped so.
    ///
    /// # Errors
    /// [`TreasuryFault`]. After [`TreasuryFault::Unreachable`] the order may stand and be followed by each gate in turn.
    fn circulate(&self, order: Order, account: &AccountId, by: &str) -> Result<Round, TreasuryFault>;
}
