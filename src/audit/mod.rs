//! The journal's contents: hash-chained canonical entries, signed receipts, verification, replay.
//!
//! This module makes and checks bytes. It stores nothing: a journal port takes what it makes.

mod chain;
mod entry;
mod key;
mod receipt;
mod verify;

pub use chain::{Chain, Sealed};
pub use entry::{Body, Entry, OutcomeEntry};
pub use key::{Key, PublicKey};
pub use receipt::{Receipt, ReceiptParts};
pub use verify::{Bad, Head, Verified, verify};
