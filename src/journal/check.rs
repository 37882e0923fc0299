//! Whether a store is sound: its pages, chain, books, snapshots, index and mark. Reads only, beside a running
//! gate.
//!
//! Every finding says what is wrong and what to do. Pages come first, because a damaged one explains the
//! rest; whatever can still be read is read. It repairs nothing: a store that repairs itself forgets.

use std::path::Path;

use rusqlite::Connection;
use serde::Serialize;

use super::books::Books;
use super::reader::{self, Reader};
use super::{mark, snapshots};
use crate::audit::{Bad, Entry, PublicKey, Reading, Verified};
use crate::model::Digest;
use crate::pep::Replay;
use crate::pep::port::{JournalFault, Snapshot};

/// Most lines of SQLite's own check that are told.
const LINES: usize = 10;
const SNAPSHOT: &str = "a gate leaves it aside and reads the journal instead; it makes a new one by itself";
const RESTORE: &str = "restore the newest backup; the damaged files stay where you move them";

/// One thing that is wrong with a store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Where: `pages`, `chain`, `books`, `snapshot`, `index`, `mark`, `after`.
    pub part: &'static str,
    /// What is wrong.
    pub text: String,
    /// What to do.
    pub advice: &'static str,
}

/// What was found in a store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// What the chain says, as far as it holds.
    pub journal: Verified,
    /// Hash of the last entry: kept elsewhere it shows a store that was put back.
    pub head: Digest,
    /// Everything that is wrong; nothing in a sound store.
    pub findings: Vec<Finding>,
}

impl Report {
    fn add(&mut self, part: &'static str, text: impl Into<String>, advice: &'static str) {
        self.findings.push(Finding { part, text: text.into(), advice });
    }
}

/// Reads all of the store in `dir` with the public `key`. With `after`, a head that was kept elsewhere,
/// the store must hold that entry, too.
///
/// # Errors
/// There is no store, or it cannot be opened at all.
pub fn check(dir: &Path, key: &PublicKey, after: Option<Digest>) -> Result<Report, JournalFault> {
    // Read before the journal, which a gate may carry farther meanwhile but never back.
    let marked = mark::farthest(dir, |head| head.verifies(key));
    let reader = Reader::open(dir)?;
    let store = reader.connection();
    let mut report = Report { journal: Verified::default(), head: Digest::ZERO, findings: Vec::new() };
    for page in pages(store)? {
        report.add("pages", page, RESTORE);
    }
    let mut kept = after.is_none_or(|after| after == Digest::ZERO);
    match folded(store, key, &mut report, |entry| kept |= Some(entry.prev) == after) {
        Ok(Ok(verified)) => {
            report.head = verified.chain.head();
            kept |= Some(report.head) == after;
            report.journal = verified;
        }
        Ok(Err(bad)) => report.add("chain", bad.to_string(), "entries before it hold; restore the newest backup"),
        Err(fault) => report.add("chain", fault.0, RESTORE),
    }
    if let Err(fault) = index(store) {
        report.add("index", fault.0, RESTORE);
    }
    if let Some(Err(fault)) = marked.map(|mark| mark::reached(store, &mark)) {
        report.add("mark", fault.0, "restore the newest backup, or accept the loss with `restore --accept-loss`");
    }
    if !kept {
        let text = "the head that was kept elsewhere is not in this journal";
        report.add("after", text, "an older copy was put back, or this is another store; find the one that holds it");
    }
    Ok(report)
}

/// What SQLite says of damaged pages; nothing when there are none.
pub(super) fn pages(store: &Connection) -> Result<Vec<String>, JournalFault> {
    let check = || -> rusqlite::Result<Vec<String>> {
        let mut check = store.prepare(&format!("PRAGMA integrity_check({LINES})"))?;
        let lines = check.query_map([], |row| row.get::<_, String>(0))?;
        lines.collect()
    };
    match check() {
        Ok(lines) => Ok(lines.into_iter().filter(|line| line != "ok").map(|line| line.replace('\n', " ")).collect()),
        // So damaged that the check itself ends.
        Err(error) => Ok(vec![reader::unreadable(&error).0]),
    }
}

/// Verifies the chain, every receipt and the head, sums the books anew and compares the snapshots with the
/// entries that they stand for; `each` sees the entries as they pass.
fn folded(
    store: &Connection,
    key: &PublicKey,
    report: &mut Report,
    mut each: impl FnMut(&Entry),
) -> Result<Result<Verified, Bad>, JournalFault> {
    let kept = (0..).map_while(|back| snapshots::read(store, back).transpose());
    let kept: Vec<Snapshot> =
        kept.collect::<rusqlite::Result<_>>().map_err(|error| reader::unreadable(&error)).unwrap_or_else(|fault| {
            report.add("snapshot", fault.0, SNAPSHOT);
            Vec::new()
        });
    let (mut replay, mut books) = (Replay::auditing(key), Books::default());
    let mut count = 0;
    let head = reader::replay(store, 0, &mut |text| {
        let Some(entry) = replay.add(text) else { return };
        each(&entry);
        books.add(&entry);
        count += 1;
        for snapshot in kept.iter().filter(|snapshot| snapshot.count == count) {
            if let Err(why) = replay.agrees(snapshot, key) {
                report.add("snapshot", format!("the one after {count} entries does not hold: {why}"), SNAPSHOT);
            }
        }
    })?;
    Ok(replay.finish(head.as_ref()).map(|(verified, balances)| {
        for snapshot in kept.iter().filter(|snapshot| snapshot.count > count) {
            let text = format!("one stands for {} entries, of which {count} are there", snapshot.count);
            report.add("snapshot", text, SNAPSHOT);
        }
        for balance in &balances {
            let differs = books.differs(balance.account.as_str(), balance.posted, balance.pending);
            if let Some(text) = differs {
                report.add("books", text, "report this with the journal: the ledger and the entries must agree");
            }
        }
        if balances.len() != books.accounts() {
            report.add(
                "books",
                "the ledger and the entries speak of different accounts",
                "report this with the journal",
            );
        }
        verified
    }))
}

/// Verifies the chain, every receipt and the head; `each` sees the entries as they pass.
pub(super) fn examine(
    store: &Connection,
    key: &PublicKey,
    mut each: impl FnMut(&Entry),
) -> Result<Result<Verified, Bad>, JournalFault> {
    let mut reading = Reading::auditing(key);
    let head = reader::replay(store, 0, &mut |text| {
        if let Some(entry) = reading.add(text) {
            each(&entry);
        }
    })?;
    Ok(reading.finish(head.as_ref()))
}

/// Compares the hashes that the store keeps beside the entries with the entries.
fn index(store: &Connection) -> Result<(), JournalFault> {
    let read = || -> rusqlite::Result<Option<i64>> {
        let mut entries = store.prepare("SELECT seq, hash, text FROM entries ORDER BY seq")?;
        let mut rows = entries.query([])?;
        while let Some(row) = rows.next()? {
            if Digest::of(row.get_ref(2)?.as_bytes()?).0 != row.get_ref(1)?.as_blob()? {
                return row.get(0).map(Some);
            }
        }
        Ok(None)
    };
    match read().map_err(|error| reader::unreadable(&error))? {
        None => Ok(()),
        Some(seq) => Err(JournalFault(format!("the hash that stands beside entry {seq} is not its own"))),
    }
}
