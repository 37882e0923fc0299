//! The journal's contents: hash-chained canonical entries, signed receipts, verification, replay.
//!
//! This module makes and checks bytes. It stores nothing: a journal port takes what it makes.

mod chain;
mod entry;
mod key;
mod question;
mod receipt;
mod show;
mod story;
mod verify;

pub use chain::{BodyText, Chain, Sealed};
pub use entry::{Body, Entry, OutcomeEntry};
pub use key::{Key, PublicKey};
pub use question::{About, Question, Verdict};
pub use receipt::{
    Algorithm, Asked, Context, Decided, Execution, PolicyRef, Receipt, ReceiptParts, Requester, Ruling, Signature,
};
pub use show::{clean, ended, row, table, utc};
pub use verify::{Bad, Head, Reading, Verified, verify};
