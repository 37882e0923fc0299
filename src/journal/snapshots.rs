//! The snapshots in a store's tables: the newest two, and the ids' prints of all entries in parts.
//!
//! A start reads them instead of the entries that they stand for. The store does not judge them: they are
//! signed, and the gate leaves aside what does not hold. Prints are kept apart from the texts, one part for
//! each snapshot, so that a snapshot of a long journal does not write all of them anew.

use rusqlite::{Connection, OptionalExtension as _, params};

use crate::pep::port::Snapshot;

/// Made in stores of every age: an older gate does not look at them.
pub(super) const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS snapshots (count INTEGER PRIMARY KEY, text TEXT NOT NULL, signature TEXT NOT NULL) STRICT;
    CREATE TABLE IF NOT EXISTS used (count INTEGER PRIMARY KEY, prints BLOB NOT NULL) STRICT;";

/// How many are kept: the newest, and one before it in case that it does not hold.
const KEPT: u32 = 2;

/// Adds `snapshot`, in place of everything that came after the one that it follows.
pub(super) fn insert(store: &Connection, snapshot: &Snapshot) -> rusqlite::Result<()> {
    let (count, since) = (integer(snapshot.count)?, integer(snapshot.since)?);
    store.execute("DELETE FROM used WHERE count > ?1", [since])?;
    store.execute("DELETE FROM snapshots WHERE count > ?1", [since])?;
    store.execute("INSERT OR REPLACE INTO used VALUES (?1, ?2)", params![count, snapshot.prints])?;
    let row = params![count, snapshot.text, snapshot.signature];
    store.execute("INSERT OR REPLACE INTO snapshots VALUES (?1, ?2, ?3)", row)?;
    let older = "DELETE FROM snapshots WHERE count NOT IN (SELECT count FROM snapshots ORDER BY count DESC LIMIT ?1)";
    store.execute(older, [KEPT]).map(drop)
}

/// The newest snapshot but `back`; none in a store that never had one.
pub(super) fn read(store: &Connection, back: usize) -> rusqlite::Result<Option<Snapshot>> {
    let there = "SELECT count(*) = 2 FROM sqlite_schema WHERE name IN ('snapshots', 'used')";
    if !store.query_row(there, [], |row| row.get::<_, bool>(0))? {
        return Ok(None);
    }
    let newest = "SELECT count, text, signature FROM snapshots ORDER BY count DESC LIMIT 1 OFFSET ?1";
    let back = i64::try_from(back).unwrap_or(i64::MAX);
    let found = store.query_row(newest, [back], |row| {
        let count: i64 = row.get(0)?;
        Ok((count, row.get(1)?, row.get(2)?))
    });
    let Some((count, text, signature)) = found.optional()? else { return Ok(None) };
    let mut parts = store.prepare("SELECT prints FROM used WHERE count <= ?1 ORDER BY count")?;
    let mut rows = parts.query([count])?;
    let mut prints = Vec::new();
    while let Some(row) = rows.next()? {
        prints.extend_from_slice(row.get_ref(0)?.as_blob()?);
    }
    let count = u64::try_from(count).unwrap_or_default();
    Ok(Some(Snapshot { count, since: 0, text, prints, signature }))
}

pub(super) fn integer(number: u64) -> rusqlite::Result<i64> {
    i64::try_from(number).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
}
