//! Durable stores behind the journal port: in memory for tests and try-outs, SQLite on disk.
//!
//! A store keeps texts in order and the signed head beside them; it understands neither. The first
//! failed write ends it: every later append fails too, and the gate denies from there on.
//! Key file and store folder stand here as well, because they live beside the store.

mod memory;

#[cfg(feature = "store")]
mod backup;
#[cfg(feature = "store")]
mod books;
#[cfg(feature = "store")]
mod check;
#[cfg(feature = "store")]
mod drawer;
#[cfg(feature = "store")]
mod folder;
#[cfg(feature = "store")]
mod home;
#[cfg(feature = "store")]
mod key;
#[cfg(feature = "store")]
mod lock;
#[cfg(feature = "store")]
mod mark;
#[cfg(feature = "store")]
mod reader;
#[cfg(feature = "store")]
mod snapshots;
#[cfg(feature = "store")]
mod sqlite;
#[cfg(feature = "store")]
mod writer;

pub use memory::Memory;

#[cfg(feature = "store")]
pub use {
    backup::{Copied, Terms, backup, restore},
    check::{Finding, Report, check},
    drawer::Questions,
    home::home,
    key::{key, public_key},
    lock::Lock,
    reader::Reader,
    sqlite::{FILE, Fsync, Sqlite},
};

use crate::model::Digest;
use crate::pep::port::Head;

/// Signs the head after each batch: number of entries and hash of the last.
pub type Seal = Box<dyn Fn(u64, Digest) -> Head + Send>;
