//! The durable store: one SQLite file with a write-ahead log, written by one thread.
//!
//! `synchronous=FULL`: an entry whose ticket says `Ok` survives a power cut. The table keeps text and
//! hash; of entries nothing is ever updated or deleted. Beside them stand the head and snapshots.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::{
    Seal, folder,
    lock::Lock,
    mark::{self, Mark},
    reader, snapshots,
    writer::{Job, Writer},
};
use crate::pep::port::{Head, Journal, JournalFault, Moment, Sealed, Snapshot, Ticket};

/// The store's file in its folder.
pub const FILE: &str = "journal.db";
pub(super) const FORMAT: i64 = 1;

pub(super) const SCHEMA: &str = "
    CREATE TABLE entries (seq INTEGER PRIMARY KEY, hash BLOB NOT NULL, text TEXT NOT NULL) STRICT;
    CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
    PRAGMA user_version = 1;";

/// Whether a ticket waits for the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fsync {
    /// It does.
    #[default]
    On,
    /// It does not: a power cut may lose entries that were answered. For benchmarks only.
    DangerousOff,
}

/// Entries between two snapshots at the least, and how many bytes of a snapshot ask for one entry more: a
/// large state is written less often, so that snapshots stay a small part of what is written.
const EVERY: u64 = 10_000;
const BYTES_AN_ENTRY: u64 = 256;

/// A journal on disk.
#[derive(Debug)]
pub struct Sqlite {
    jobs: Option<Mutex<Sender<Job>>>,
    writer: Option<JoinHandle<()>>,
    reader: Mutex<Connection>,
    /// Entries between two snapshots, where they were set.
    every: Option<u64>,
    /// Bytes of the newest snapshot.
    size: AtomicU64,
    _lock: Lock,
}

impl Sqlite {
    /// Opens the store in `dir`, makes it when there is none, and keeps other gates out.
    ///
    /// # Errors
    /// Another gate has it, or the folder or the file cannot be used; the text says which.
    pub fn open(dir: &Path, seal: Seal) -> Result<Self, JournalFault> {
        Self::with_fsync(dir, seal, Fsync::On)
    }

    /// The same without waiting for the disk: for benchmarks only.
    ///
    /// # Errors
    /// As [`Sqlite::open`].
    pub fn dangerous_no_fsync(dir: &Path, seal: Seal) -> Result<Self, JournalFault> {
        Self::with_fsync(dir, seal, Fsync::DangerousOff)
    }

    fn with_fsync(dir: &Path, seal: Seal, fsync: Fsync) -> Result<Self, JournalFault> {
        let unusable = |error: &std::io::Error| {
            JournalFault(format!("the store's folder cannot be used: {}", folder::cause(error)))
        };
        folder::create(dir).map_err(|error| unusable(&error))?;
        let lock = Lock::hold(dir)?;
        let path = dir.join(FILE);
        folder::private(&path).and_then(|_| folder::sync(dir)).map_err(|error| unusable(&error))?;
        let store = connect(&path)?;
        let cannot = |error| explain("the store cannot be opened", &error);
        if is_empty(&store).map_err(cannot)? {
            store.execute_batch(&format!("BEGIN IMMEDIATE; {SCHEMA} COMMIT;")).map_err(cannot)?;
        }
        reader::check_format(&store)?;
        prepare(&store, fsync).map_err(cannot)?;
        store.execute_batch(snapshots::TABLES).map_err(cannot)?;
        let next = next(&store)?;
        if let Some(mark) = mark::farthest(dir, mark::made_by(&seal)) {
            mark::reached(&store, &mark)?;
        }
        let mark = Mark::open(dir).map_err(|error| unusable(&error))?;
        let reader = connect(&path)?;
        let (jobs, work): (Sender<Job>, Receiver<Job>) = channel();
        let writer = Writer { store, seal, next, mark: Some(mark) };
        let writer = thread::Builder::new()
            .name("weir-journal".into())
            .spawn(move || writer.run(&work))
            .map_err(|error| unusable(&error))?;
        let (jobs, writer, reader) = (Some(Mutex::new(jobs)), Some(writer), Mutex::new(reader));
        Ok(Self { jobs, writer, reader, every: None, size: AtomicU64::new(0), _lock: lock })
    }

    /// The same store, asking for a snapshot after this many entries, instead of after 10,000 or, where the
    /// state is large, more.
    #[must_use]
    pub const fn snapshots_every(mut self, entries: u64) -> Self {
        self.every = Some(entries);
        self
    }

    /// Waits until everything that was appended is written, and closes the store. Dropping does the
    /// same.
    pub fn close(self) {
        drop(self);
    }
}

impl Drop for Sqlite {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

impl Journal for Sqlite {
    fn append(&self, entry: Sealed) -> Ticket {
        let gone = || Ticket::Ready(Err(JournalFault("the journal's writer is gone".into())));
        let (reply, answer) = sync_channel(1);
        if self.send(Job::Entry(entry, reply)) { Ticket::Awaited(answer) } else { gone() }
    }

    fn replay(&self, each: &mut dyn FnMut(String)) -> Result<Option<Head>, JournalFault> {
        self.replay_from(0, each)
    }

    fn replay_from(&self, from: u64, each: &mut dyn FnMut(String)) -> Result<Option<Head>, JournalFault> {
        reader::replay(&self.reader.lock().unwrap_or_else(PoisonError::into_inner), from, each)
    }

    fn wants_snapshot(&self, since: u64, moment: Moment) -> bool {
        let usual = || EVERY.max(self.size.load(Ordering::Relaxed) / BYTES_AN_ENTRY);
        let least = self.every.unwrap_or_else(usual);
        match moment {
            Moment::Running => since >= least,
            // A clean end makes the next start short, unless there is next to nothing to read.
            Moment::Closing => since > 0 && since >= least / 10,
        }
    }

    fn keep(&self, snapshot: Snapshot) {
        self.size.store(snapshot.text.len() as u64, Ordering::Relaxed);
        self.send(Job::Snapshot(snapshot));
    }

    fn snapshot(&self, back: usize) -> Result<Option<Snapshot>, JournalFault> {
        let store = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let found = snapshots::read(&store, back).map_err(|error| reader::unreadable(&error))?;
        self.size.store(found.as_ref().map_or(0, |found| found.text.len() as u64), Ordering::Relaxed);
        Ok(found)
    }
}

impl Sqlite {
    /// Hands `job` to the writer; false when there is none any more.
    fn send(&self, job: Job) -> bool {
        let Some(jobs) = &self.jobs else { return false };
        jobs.lock().unwrap_or_else(PoisonError::into_inner).send(job).is_ok()
    }
}

pub(super) fn connect(path: &Path) -> Result<Connection, JournalFault> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Connection::open_with_flags(path, flags).map_err(|error| explain("the store cannot be opened", &error))
}

fn is_empty(store: &Connection) -> rusqlite::Result<bool> {
    store.busy_timeout(std::time::Duration::from_secs(5))?;
    store.query_row("SELECT count(*) = 0 FROM sqlite_schema", [], |row| row.get(0))
}

fn prepare(store: &Connection, fsync: Fsync) -> rusqlite::Result<()> {
    store.pragma_update(None, "journal_mode", "WAL")?;
    store.pragma_update(None, "synchronous", if fsync == Fsync::On { "FULL" } else { "OFF" })?;
    store.pragma_update(None, "trusted_schema", false)?;
    // Fewer, larger checkpoints: 16 MiB of log between two.
    store.pragma_update(None, "wal_autocheckpoint", 4096)
}

fn next(store: &Connection) -> Result<u64, JournalFault> {
    let last: Option<i64> = store
        .query_row("SELECT max(seq) FROM entries", [], |row| row.get(0))
        .map_err(|error| reader::unreadable(&error))?;
    let next = last.map_or(Some(0), |last| u64::try_from(last).ok().and_then(|last| last.checked_add(1)));
    next.ok_or_else(|| JournalFault("the journal holds an entry with an impossible number: tampered with".into()))
}

/// What an error of SQLite means, in words, without paths.
pub(super) fn explain(what: &str, error: &rusqlite::Error) -> JournalFault {
    let why = match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => "the disk is full",
        Some(ErrorCode::ReadOnly) => "it is read-only",
        Some(ErrorCode::DatabaseCorrupt) => "a page of the file is damaged; restore it from a backup",
        Some(ErrorCode::NotADatabase) => "the file is not a journal",
        Some(ErrorCode::CannotOpen) => "the file or its folder cannot be opened",
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => "another program keeps it locked",
        Some(ErrorCode::SystemIoFailure) => "the disk reports an error",
        Some(ErrorCode::ConstraintViolation) => "an entry with this number is already there",
        Some(ErrorCode::PermissionDenied) => "this user may not",
        _ => return JournalFault(format!("{what}: {error}")),
    };
    JournalFault(format!("{what}: {why}"))
}
