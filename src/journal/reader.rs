//! Reads a store without locking it: a gate may be writing meanwhile.

use std::path::Path;

use rusqlite::{Connection, OpenFlags, OptionalExtension as _};

use super::sqlite::{FILE, FORMAT, explain};
use crate::pep::port::{Head, JournalFault};

/// A view of a store for audits and scores.
#[derive(Debug)]
pub struct Reader(Connection);

impl Reader {
    /// Opens the store in `dir` for reading only.
    ///
    /// # Errors
    /// There is no store, it is not one of this version's, or it cannot be read.
    pub fn open(dir: &Path) -> Result<Self, JournalFault> {
        let path = dir.join(FILE);
        if !path.exists() {
            return Err(JournalFault("there is no journal in this folder; nothing has been recorded yet".into()));
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let store = Connection::open_with_flags(path, flags).map_err(|error| unreadable(&error))?;
        store.busy_timeout(std::time::Duration::from_secs(5)).map_err(|error| unreadable(&error))?;
        check_format(&store)?;
        Ok(Self(store))
    }

    pub(super) const fn connection(&self) -> &Connection {
        &self.0
    }

    /// Gives every entry's text to `each`, in order, and returns the head of the same moment.
    ///
    /// # Errors
    /// A store that cannot be read, or that holds entries and no head.
    pub fn replay(&self, each: &mut dyn FnMut(String)) -> Result<Option<Head>, JournalFault> {
        replay(&self.0, 0, each)
    }
}

/// One read transaction: entries from number `from` on and head of one moment.
pub(super) fn replay(
    store: &Connection,
    from: u64,
    each: &mut dyn FnMut(String),
) -> Result<Option<Head>, JournalFault> {
    let moment = store.unchecked_transaction().map_err(|error| unreadable(&error))?;
    let head = head(&moment)?;
    let count = texts(&moment, from, each).map_err(|error| unreadable(&error))?;
    if head.is_none() && count > 0 {
        return Err(JournalFault(format!(
            "the journal has {count} entries and its signed head is gone: tampered with"
        )));
    }
    Ok(head)
}

fn texts(store: &Connection, from: u64, each: &mut dyn FnMut(String)) -> rusqlite::Result<u64> {
    // A reading from the start sees entries with impossible numbers, too.
    let least = if from == 0 { i64::MIN } else { super::snapshots::integer(from)? };
    let mut entries = store.prepare_cached("SELECT text FROM entries WHERE seq >= ?1 ORDER BY seq")?;
    let mut rows = entries.query([least])?;
    let mut count = 0;
    while let Some(row) = rows.next()? {
        // What is not UTF-8 is no entry; verification shall say so, and where.
        each(String::from_utf8_lossy(row.get_ref(0)?.as_bytes()?).into_owned());
        count += 1;
    }
    Ok(count)
}

pub(super) fn head(store: &Connection) -> Result<Option<Head>, JournalFault> {
    let text: Option<String> = store
        .query_row("SELECT value FROM meta WHERE key = 'head'", [], |row| row.get(0))
        .optional()
        .map_err(|error| unreadable(&error))?;
    let damaged = |_| JournalFault("the journal's signed head is damaged".into());
    text.map(|text| serde_json::from_str(&text).map_err(damaged)).transpose()
}

/// Refuses a file that is not a journal of this program's format.
pub(super) fn check_format(store: &Connection) -> Result<(), JournalFault> {
    let version: i64 =
        store.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(|error| unreadable(&error))?;
    if version == FORMAT {
        return Ok(());
    }
    Err(JournalFault(format!("the store has format {version}; this version of weir reads format {FORMAT}")))
}

pub(super) fn unreadable(error: &rusqlite::Error) -> JournalFault {
    explain("the journal cannot be read", error)
}
