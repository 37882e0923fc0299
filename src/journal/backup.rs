//! Copies of a store: a backup of one moment, beside a running gate, and its way back.
//!
//! Copies are made by SQLite's own backup, never file by file: a running store is a file and its log
//! together. A backup holds the journal and the public key; the secret key goes along only when it is
//! asked for, because whoever has both can write history. Nothing is ever overwritten.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::backup::{Backup, StepResult};
use serde::Serialize;

use super::check::{examine, pages};
use super::key::{self, PUBLIC, SECRET};
use super::lock::Lock;
use super::reader::Reader;
use super::sqlite::{FILE, connect, explain};
use super::{folder, mark};
use crate::audit::PublicKey;
use crate::model::Digest;
use crate::pep::port::JournalFault;

/// What a copy holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Copied {
    /// Entries.
    pub entries: u64,
    /// Hash of the last; all zero when there is none.
    pub head: Digest,
    /// Confirmed entries that the folder's mark knows of and the copy does not hold.
    pub lost: u64,
    /// Whether the secret key lies beside it.
    pub key: bool,
}

/// What a restore may do.
#[derive(Clone, Copy, Debug, Default)]
pub struct Terms {
    /// The hash of an entry that the backup must hold: a head that was kept elsewhere.
    pub after: Option<Digest>,
    /// Take a backup that lacks entries which the folder's mark knows of.
    pub accept_loss: bool,
}

/// Copies the store in `from` as it is at one moment to the folder `to`, which must not hold one yet;
/// checks the copy and makes it durable. A gate may be writing to `from` meanwhile.
///
/// # Errors
/// There is no store, `to` holds one, a file cannot be read or written, or the copy does not hold.
pub fn backup(from: &Path, to: &Path, with_key: bool) -> Result<Copied, JournalFault> {
    let public = super::public_key(from).map_err(JournalFault)?;
    folder::create(to).map_err(|error| unusable(&error))?;
    vacant(to)?;
    let part = Part::new(to)?;
    copy(&Reader::open(from)?, &part.0)?;
    let told = sound(&part.0, &public)?;
    fs::copy(from.join(PUBLIC), to.join(PUBLIC)).map_err(|error| unusable(&error))?;
    if with_key {
        key::copy(from, to).map_err(JournalFault)?;
    }
    part.finish(to)?;
    Ok(Copied { entries: told.entries, head: told.head, lost: 0, key: with_key })
}

/// Puts the backup in `from` into the store's folder `dir`, which must not hold a journal, and checks it
/// before it counts. The signing key is the folder's own, or else the backup's.
///
/// # Errors
/// The folder holds a journal, a gate uses it, no key fits, the backup does not hold, or it is older
/// than `terms` permit; the text says which. Nothing is changed then.
pub fn restore(from: &Path, dir: &Path, terms: Terms) -> Result<Copied, JournalFault> {
    folder::create(dir).map_err(|error| unusable(&error))?;
    let _lock = Lock::hold(dir)?;
    vacant(dir)?;
    let (own, kept) = (dir.join(SECRET).exists(), from.join(SECRET).exists());
    if !own && !kept {
        return Err(JournalFault(format!(
            "neither this folder nor the backup has {SECRET}, without which the journal cannot be continued; \
             put the store's key into the folder first"
        )));
    }
    let signing = key::read(if own { dir } else { from }).map_err(JournalFault)?;
    let part = Part::new(dir)?;
    copy(&Reader::open(from)?, &part.0)?;
    let told = sound(&part.0, &signing.public())?;
    let marked = mark::farthest(dir, |head| head.verifies(&signing.public()));
    let lost = mark::lost(marked.as_ref(), told.entries, |hash| told.hashes.contains(&hash));
    if let Some(after) = terms.after.filter(|after| !told.hashes.contains(after)) {
        return Err(JournalFault(format!(
            "the backup does not hold the entry {after}: it is older, or of another store"
        )));
    }
    if lost > 0 && !terms.accept_loss {
        return Err(JournalFault(format!(
            "the backup is older than this folder's store was: {lost} confirmed entries are not in it, and what they \
             spent would be forgotten; take a newer one, or accept the loss with --accept-loss and lower the budgets"
        )));
    }
    if own { key::publish(dir, &signing) } else { key::copy(from, dir) }.map_err(JournalFault)?;
    if lost > 0 {
        fs::remove_file(dir.join(mark::FILE)).map_err(|error| unusable(&error))?;
    }
    part.finish(dir)?;
    Ok(Copied { entries: told.entries, head: told.head, lost, key: !own })
}

/// A copy that is not finished: gone unless it is.
struct Part(PathBuf);

impl Part {
    fn new(dir: &Path) -> Result<Self, JournalFault> {
        let path = dir.join("journal.db.part");
        // What an earlier attempt left is of no use.
        let _ = fs::remove_file(&path);
        folder::private_new(&path).map_err(|error| unusable(&error))?;
        Ok(Self(path))
    }

    /// Gives the copy its name, durably.
    fn finish(self, dir: &Path) -> Result<(), JournalFault> {
        let finish = || -> io::Result<()> {
            File::open(&self.0)?.sync_all()?;
            fs::rename(&self.0, dir.join(FILE))?;
            folder::sync(dir)
        };
        finish().map_err(|error| unusable(&error))
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// What was found in a copy.
struct Told {
    entries: u64,
    head: Digest,
    hashes: std::collections::HashSet<Digest>,
}

/// Refuses a folder with a journal, or with the log of one: SQLite would write it into another file.
fn vacant(dir: &Path) -> Result<(), JournalFault> {
    for name in [FILE, "journal.db-wal", "journal.db-shm"] {
        if dir.join(name).exists() {
            return Err(JournalFault(format!(
                "{name} is in that folder already, and nothing is overwritten: take another folder, \
                 or move journal.db and what begins with its name away first (leave the key and journal.mark)"
            )));
        }
    }
    Ok(())
}

/// All pages of one moment; the copy is a single file without a log.
fn copy(from: &Reader, to: &Path) -> Result<(), JournalFault> {
    let cannot = |error: rusqlite::Error| explain("the store cannot be copied", &error);
    let mut target = connect(to)?;
    {
        let copying = Backup::new(from.connection(), &mut target).map_err(cannot)?;
        let mut tries = 0;
        loop {
            match copying.step(-1).map_err(cannot)? {
                StepResult::Done => break,
                _ if tries == 100 => return Err(JournalFault("the store stays locked; try again".into())),
                _ => std::thread::sleep(Duration::from_millis(50)),
            }
            tries += 1;
        }
    }
    let mode: String = target.query_row("PRAGMA journal_mode = DELETE", [], |row| row.get(0)).map_err(cannot)?;
    if mode == "delete" { Ok(()) } else { Err(JournalFault("the copy keeps a log beside it".into())) }
}

/// Reads all of a copy: its pages, its chain, its head.
fn sound(path: &Path, key: &PublicKey) -> Result<Told, JournalFault> {
    let copy = connect(path)?;
    if let Some(page) = pages(&copy)?.first() {
        return Err(JournalFault(format!("a page of the store is damaged: {page}")));
    }
    let mut hashes = std::collections::HashSet::new();
    let verified = examine(&copy, key, |entry| {
        hashes.insert(entry.prev);
    })?;
    let verified = verified.map_err(|bad| JournalFault(format!("the journal does not hold: {bad}")))?;
    hashes.insert(verified.chain.head());
    Ok(Told { entries: verified.entries, head: verified.chain.head(), hashes })
}

fn unusable(error: &io::Error) -> JournalFault {
    JournalFault(format!("the folder cannot be used: {}", folder::cause(error)))
}
