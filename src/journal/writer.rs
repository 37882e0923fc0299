//! The one thread that writes: takes whatever waits, one transaction for all of it, then answers.
//!
//! Group commit: while one batch is made durable the next one gathers. No entry is answered before
//! its transaction and the head that covers it are on disk. The first failure ends the writer's
//! work for good; what comes after is answered with it.

use std::sync::mpsc::{Receiver, SyncSender};

use rusqlite::{Connection, TransactionBehavior, params};

use super::{Seal, sqlite::explain};
use crate::pep::port::{JournalFault, Sealed};

/// Most entries in one transaction: bounds what one failure takes along and the first one's wait.
const BATCH: usize = 4096;

pub(super) type Reply = SyncSender<Result<(), JournalFault>>;

/// One entry on its way, and who waits for it.
pub(super) struct Job {
    pub(super) entry: Sealed,
    pub(super) reply: Reply,
}

pub(super) struct Writer {
    pub(super) store: Connection,
    pub(super) seal: Seal,
    /// Number of the entry that must come next.
    pub(super) next: u64,
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
                // Whoever no longer waits does not need the answer.
                let _ = job.reply.send(result.clone());
            }
        }
        // Folds the log into the file, so that a stopped store is one file. A failure here loses nothing.
        let _ = self.store.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)");
    }

    fn write(&mut self, batch: &[Job]) -> Result<(), JournalFault> {
        let mut next = self.next;
        for job in batch {
            if job.entry.seq != next {
                return Err(JournalFault(format!("entry {} was given where entry {next} belongs", job.entry.seq)));
            }
            next = next.saturating_add(1);
        }
        let Some(last) = batch.last() else { return Ok(()) };
        let head = (self.seal)(next, last.entry.hash);
        let head = serde_json::to_string(&head).map_err(|error| JournalFault(error.to_string()))?;
        insert(&mut self.store, batch, &head).map_err(|error| explain("the journal cannot be written", &error))?;
        self.next = next;
        Ok(())
    }
}

fn insert(store: &mut Connection, batch: &[Job], head: &str) -> rusqlite::Result<()> {
    let transaction = store.transaction_with_behavior(TransactionBehavior::Immediate)?;
    {
        let mut add = transaction.prepare_cached("INSERT INTO entries (seq, hash, text) VALUES (?1, ?2, ?3)")?;
        for Job { entry, .. } in batch {
            let seq =
                i64::try_from(entry.seq).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
            add.execute(params![seq, entry.hash.0.as_slice(), entry.text])?;
        }
        let mut set = transaction.prepare_cached("INSERT OR REPLACE INTO meta (key, value) VALUES ('head', ?1)")?;
        set.execute([head])?;
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
        let thread = std::thread::spawn(move || Writer { store, seal, next: 0 }.run(&work));
        let answers = (0..count).map(|seq| {
            let (reply, answer) = sync_channel(1);
            let entry = Sealed { seq, hash: Digest::ZERO, text: "x".repeat(10_000) };
            jobs.send(Job { entry, reply }).unwrap();
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
