//! The one thread that writes: takes whatever waits, one transaction for all of it, then answers.
//!
//! Group commit: while one batch is made durable the next one gathers. No entry is answered before
//! its transaction and the head that covers it are on disk. The first failure ends the writer's
//! work for good; what comes after is answered with it. Snapshots come the same way, behind the entries
//! that they stand for.

use std::sync::mpsc::{Receiver, SyncSender};

use rusqlite::{Connection, TransactionBehavior, params};

use super::{Seal, folder, mark::Mark, snapshots, sqlite::explain};
use crate::pep::port::{JournalFault, Sealed, Snapshot};

/// Most entries in one transaction: bounds what one failure takes along and the first one's wait.
const BATCH: usize = 4096;

pub(super) type Reply = SyncSender<Result<(), JournalFault>>;

/// What waits to be written.
pub(super) enum Job {
    /// One entry on its way, and who waits for it.
    Entry(Sealed, Reply),
    /// A state after the entries sent before; nobody waits for it.
    Snapshot(Snapshot),
}

pub(super) struct Writer {
    pub(super) store: Connection,
    pub(super) seal: Seal,
    /// Number of the entry that must come next.
    pub(super) next: u64,
    /// Where it is noted how far the journal has come; none for a store in memory.
    pub(super) mark: Option<Mark>,
}

impl Writer {
    /// Writes until every sender is gone; what was sent before is still written.
    pub(super) fn run(mut self, jobs: &Receiver<Job>) {
        let mut failed: Option<JournalFault> = None;
        let mut batch = Vec::with_capacity(BATCH);
        while let Ok(first) = jobs.recv() {
            batch.push(first);
            batch.extend(jobs.try_iter().take(BATCH - 1));
            let result = match &failed {
                Some(fault) => Err(fault.clone()),
                None => self.write(&batch),
            };
            failed = failed.or_else(|| result.clone().err());
            for job in batch.drain(..) {
                if let Job::Entry(_, reply) = job {
                    // Whoever no longer waits does not need the answer.
                    let _ = reply.send(result.clone());
                }
            }
        }
        // Folds the log into the file, so that a stopped store is one file. A failure here loses nothing.
        let _ = self.store.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)");
    }

    fn write(&mut self, batch: &[Job]) -> Result<(), JournalFault> {
        let mut next = self.next;
        let mut last = None;
        for entry in entries(batch) {
            if entry.seq != next {
                return Err(JournalFault(format!("entry {} was given where entry {next} belongs", entry.seq)));
            }
            next = next.saturating_add(1);
            last = Some(entry.hash);
        }
        let head = last.map(|hash| serde_json::to_string(&(self.seal)(next, hash)));
        let head = head.transpose().map_err(|error| JournalFault(error.to_string()))?;
        insert(&mut self.store, batch, head.as_deref())
            .map_err(|error| explain("the journal cannot be written", &error))?;
        self.next = next;
        let (Some(mark), Some(head)) = (&mut self.mark, head) else { return Ok(()) };
        mark.note(&head)
            .map_err(|error| JournalFault(format!("the journal's mark cannot be written: {}", folder::cause(&error))))
    }
}

fn entries(batch: &[Job]) -> impl Iterator<Item = &Sealed> {
    batch.iter().filter_map(|job| match job {
        Job::Entry(entry, _) => Some(entry),
        Job::Snapshot(_) => None,
    })
}

fn insert(store: &mut Connection, batch: &[Job], head: Option<&str>) -> rusqlite::Result<()> {
    let transaction = store.transaction_with_behavior(TransactionBehavior::Immediate)?;
    {
        let mut add = transaction.prepare_cached("INSERT INTO entries (seq, hash, text) VALUES (?1, ?2, ?3)")?;
        for job in batch {
            match job {
                Job::Entry(entry, _) => {
                    let seq = snapshots::integer(entry.seq)?;
                    add.execute(params![seq, entry.hash.0.as_slice(), entry.text])?;
                }
                Job::Snapshot(snapshot) => snapshots::insert(&transaction, snapshot)?,
            }
        }
        if let Some(head) = head {
            let mut set = transaction.prepare_cached("INSERT OR REPLACE INTO meta (key, value) VALUES ('head', ?1)")?;
            set.execute([head])?;
        }
    }
    transaction.commit()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Digest;
    use crate::pep::port::Head;
    use std::sync::mpsc::{channel, sync_channel};

    /// Answers to `count` entries given to a writer whose store was prepared with `pragma`.
    fn answers(pragma: &str, count: u64) -> Vec<Result<(), JournalFault>> {
        let store = Connection::open_in_memory().unwrap();
        store.execute_batch(super::super::sqlite::SCHEMA).unwrap();
        store.execute_batch(pragma).unwrap();
        let seal: Seal = Box::new(|count, hash| Head { count, hash, signature: String::new() });
        let (jobs, work) = channel();
        let thread = std::thread::spawn(move || Writer { store, seal, next: 0, mark: None }.run(&work));
        let answers = (0..count).map(|seq| {
            let (reply, answer) = sync_channel(1);
            let entry = Sealed { seq, hash: Digest::ZERO, text: "x".repeat(10_000) };
            jobs.send(Job::Entry(entry, reply)).unwrap();
            answer.recv().unwrap()
        });
        let answers = answers.collect();
        drop(jobs);
        thread.join().unwrap();
        answers
    }

    #[test]
    fn a_full_disk_ends_the_journal_for_good() {
        let answers = answers("PRAGMA max_page_count = 20", 12);
        let first = answers.iter().position(Result::is_err).expect("twenty pages do not hold twelve entries");
        assert!(first > 0 && answers[first..].iter().all(Result::is_err));
        assert_eq!(answers[first].clone().unwrap_err().0, "the journal cannot be written: the disk is full");
    }

    #[test]
    fn a_read_only_store_takes_nothing() {
        let answers = answers("PRAGMA query_only = ON", 2);
        let fault = JournalFault("the journal cannot be written: it is read-only".into());
        assert_eq!(answers, [Err(fault.clone()), Err(fault)]);
    }
}
