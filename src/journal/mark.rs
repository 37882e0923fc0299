//! How far the journal has come, in a small file beside it: the newest signed head, after every batch.
//!
//! It is written after the batch is durable and never synced itself, so that it costs nothing and is
//! never ahead of a sound journal, whatever the machine did. A journal that is behind it has lost entries
//! that were confirmed: a damaged log, a copy made of a running store, an older file put back. Two slots
//! in turn, so that a torn write leaves the one before. It must not decide what the journal holds.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rusqlite::{Connection, OptionalExtension as _};

use super::{Seal, folder, reader};
use crate::model::Digest;
use crate::pep::port::{Head, JournalFault};

/// The mark's file in a store's folder.
pub(super) const FILE: &str = "journal.mark";
const SLOT: usize = 512;

/// The open file and the slot that is written next.
#[derive(Debug)]
pub(super) struct Mark {
    file: File,
    second: bool,
}

impl Mark {
    /// Opens the mark of the store in `dir`, empty when there is none.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        let file = folder::private(&dir.join(FILE))?;
        if file.metadata()?.len() < 2 * SLOT as u64 {
            // Its place on the disk is taken now: a full disk later does not touch it.
            file.write_all_at(&[b'\n'; 2 * SLOT], 0)?;
        }
        Ok(Self { file, second: false })
    }

    /// Notes `head`, the text of a signed head that is durable already.
    pub(super) fn note(&mut self, head: &str) -> io::Result<()> {
        let mut slot = [b'\n'; SLOT];
        let place = slot.get_mut(..head.len()).ok_or(io::ErrorKind::InvalidInput)?;
        place.copy_from_slice(head.as_bytes());
        self.file.write_all_at(&slot, if self.second { SLOT as u64 } else { 0 })?;
        self.second = !self.second;
        Ok(())
    }
}

/// The farthest head that the mark in `dir` holds and `genuine` accepts; `None` without a mark.
pub(super) fn farthest(dir: &Path, genuine: impl Fn(&Head) -> bool) -> Option<Head> {
    let bytes = fs::read(dir.join(FILE)).ok()?;
    let heads = bytes.chunks(SLOT).filter_map(|slot| serde_json::from_slice::<Head>(slot).ok());
    heads.filter(genuine).max_by_key(|head| head.count)
}

/// True for a head that `seal` itself would make: signatures here are deterministic.
pub(super) fn made_by(seal: &Seal) -> impl Fn(&Head) -> bool + '_ {
    move |head| seal(head.count, head.hash) == *head
}

/// Refuses a journal that does not reach `mark`, or that reached it by another history.
pub(super) fn reached(store: &Connection, mark: &Head) -> Result<(), JournalFault> {
    let Some(last) = mark.count.checked_sub(1).and_then(|last| i64::try_from(last).ok()) else { return Ok(()) };
    let hash: Option<Vec<u8>> = store
        .query_row("SELECT hash FROM entries WHERE seq = ?1", [last], |row| row.get(0))
        .optional()
        .map_err(|error| reader::unreadable(&error))?;
    match hash {
        Some(hash) if hash == mark.hash.0 => Ok(()),
        Some(_) => Err(JournalFault(format!(
            "entry {last} is not the one that was confirmed: another history stands in its place; \
             `weir store check` says more, `weir store restore` puts a backup back"
        ))),
        None => Err(JournalFault(format!(
            "the journal ends before entry {last}, which was confirmed: its log was damaged or an older copy put back, \
             and what was spent since is not in it; restore the newest backup (`weir store restore`)"
        ))),
    }
}

/// How many entries of what `mark` confirms a journal lacks whose chain has `count` entries.
pub(super) fn lost(mark: Option<&Head>, count: u64, holds: impl Fn(Digest) -> bool) -> u64 {
    match mark {
        Some(mark) if mark.count > count => mark.count - count,
        Some(mark) if mark.count > 0 && !holds(mark.hash) => mark.count,
        _ => 0,
    }
}
