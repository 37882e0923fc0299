//! The stores behind the journal port: what an `Ok` promises, and what every fault does.

#[allow(dead_code, reason = "shared with other tests")]
mod books;

use books::{journal, key};
#[cfg(feature = "store")]
use weir::audit::verify;
use weir::journal::Memory;
use weir::pep::port::{Head, Journal as _};

fn seal() -> weir::journal::Seal {
    Box::new(|count, hash| Head::sign(count, hash, &key()))
}

#[test]
fn a_journal_in_memory_gives_back_what_it_took() {
    let memory = Memory::default().sealed(seal());
    let (entries, chain) = journal();
    entries.iter().for_each(|entry| memory.append(entry.clone()).wait().unwrap());
    let mut texts = Vec::new();
    let head = memory.replay(&mut |text| texts.push(text)).unwrap();
    assert_eq!((texts.len() as u64, head), (chain.count(), Some(books::head(&chain))));
}

#[test]
fn a_failed_append_is_the_last_one() {
    let memory = Memory::default().failing_after(2);
    let (entries, _) = journal();
    let results: Vec<bool> = entries.iter().map(|entry| memory.append(entry.clone()).wait().is_ok()).collect();
    assert_eq!(results.iter().filter(|ok| **ok).count(), 2);
    assert!(results[..2].iter().all(|ok| *ok));
    let memory = Memory::default();
    assert!(memory.append(entries[1].clone()).wait().is_err(), "an entry out of order");
    assert!(memory.append(entries[0].clone()).wait().is_err(), "and nothing after it");
}

#[cfg(feature = "store")]
mod disk {
    use super::*;
    use std::io::{BufRead as _, BufReader, Seek as _, Write as _};
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;
    use std::process::{Command, Stdio};
    use std::sync::Mutex;

    use weir::audit::{Bad, Body, Chain, Entry, Verified};
    use weir::journal::{FILE, Reader, Sqlite};
    use weir::model::Timestamp;
    use weir::pep::port::{Sealed, Ticket};

    fn fill(dir: &Path) {
        let store = Sqlite::open(dir, seal()).unwrap();
        let tickets: Vec<Ticket> = journal().0.into_iter().map(|entry| store.append(entry)).collect();
        tickets.into_iter().for_each(|ticket| ticket.wait().unwrap());
    }

    fn check(dir: &Path) -> Result<Verified, Bad> {
        let mut texts = Vec::new();
        let head = Reader::open(dir).unwrap().replay(&mut |text| texts.push(text)).unwrap();
        verify(texts.into_iter(), head.as_ref(), &key().public(), |_| {})
    }

    fn sql(dir: &Path, statement: &str) {
        rusqlite::Connection::open(dir.join(FILE)).unwrap().execute_batch(statement).unwrap();
    }

    #[test]
    fn a_store_gives_back_what_it_took_and_goes_on_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        fill(dir.path());
        let told = check(dir.path()).unwrap();
        assert_eq!((told.entries, told.open), (11, 1));
        let store = Sqlite::open(dir.path(), seal()).unwrap();
        let mut chain = told.chain;
        store.append(chain.append(Timestamp(u64::MAX), Body::open("0.1.0", &key().public()))).wait().unwrap();
        assert_eq!(check(dir.path()).unwrap().entries, 12, "read while the gate has it open");
        store.close();
        assert_eq!(check(dir.path()).unwrap().entries, 12);
    }

    #[test]
    fn an_ok_means_that_the_entry_is_on_record_under_a_signed_head() {
        let dir = tempfile::tempdir().unwrap();
        let store = Sqlite::open(dir.path(), seal()).unwrap();
        let line = Mutex::new(Chain::default());
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    for _ in 0..8 {
                        let (seq, ticket) = {
                            let mut chain = line.lock().unwrap();
                            let entry = chain.append(Timestamp(1), Body::open("0.1.0", &key().public()));
                            (entry.seq, store.append(entry))
                        };
                        ticket.wait().unwrap();
                        let head = Reader::open(dir.path()).unwrap().replay(&mut |_| {}).unwrap().unwrap();
                        assert!(head.count > seq && head.verifies(&key().public()));
                    }
                });
            }
        });
        assert_eq!(check(dir.path()).unwrap().entries, 128);
    }

    #[test]
    fn a_second_gate_is_told_who_has_the_store() {
        let dir = tempfile::tempdir().unwrap();
        let first = Sqlite::open(dir.path(), seal()).unwrap();
        let second = Sqlite::open(dir.path(), seal()).unwrap_err();
        let pid = std::process::id();
        assert!(second.0.contains(&format!("process {pid}")) && second.0.contains("--store"), "{second}");
        drop(first);
        Sqlite::open(dir.path(), seal()).expect("the lock goes with its holder");
    }

    #[test]
    fn a_wrong_append_ends_the_journal_for_good() {
        let dir = tempfile::tempdir().unwrap();
        let store = Sqlite::open(dir.path(), seal()).unwrap();
        let (entries, _) = journal();
        store.append(entries[0].clone()).wait().unwrap();
        let fault = store.append(entries[2].clone()).wait().unwrap_err();
        assert_eq!(fault.0, "entry 2 was given where entry 1 belongs");
        assert_eq!(store.append(entries[1].clone()).wait(), Err(fault), "although this one is right");
        drop(store);
        assert_eq!(check(dir.path()).unwrap().entries, 1);
    }

    #[test]
    fn a_store_belongs_to_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("a/b");
        weir::journal::key(&home).unwrap();
        let store = Sqlite::open(&home, seal()).unwrap();
        store.append(journal().0[0].clone()).wait().unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&home), mode(&dir.path().join("a"))), (0o700, 0o700));
        for file in std::fs::read_dir(&home).unwrap().map(|file| file.unwrap().path()) {
            if file.file_name().unwrap() != "signing.pub" {
                assert_eq!(mode(&file), 0o600, "{}", file.display());
            }
        }
    }

    #[test]
    fn changes_made_in_the_file_are_found() {
        let damages = [
            (4, "UPDATE entries SET text = replace(text, 'read_file', 'read_fill') WHERE seq = 4"),
            (2, "DELETE FROM entries WHERE seq = 2"),
            (10, "DELETE FROM entries WHERE seq = 10"),
            (
                3,
                "UPDATE entries SET seq = 99 WHERE seq = 3; UPDATE entries SET seq = 3 WHERE seq = 5; UPDATE entries SET seq = 5 WHERE seq = 99",
            ),
            (11, "INSERT INTO entries SELECT 11, hash, text FROM entries WHERE seq = 10"),
            (9, "UPDATE meta SET value = replace(value, '\"count\":11', '\"count\":9')"),
        ];
        for (seq, damage) in damages {
            let dir = tempfile::tempdir().unwrap();
            fill(dir.path());
            sql(dir.path(), damage);
            assert_eq!(check(dir.path()).expect_err(damage).seq, seq, "{damage}");
        }
    }

    #[test]
    fn a_store_without_its_head_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fill(dir.path());
        sql(dir.path(), "DELETE FROM meta");
        let fault = Reader::open(dir.path()).unwrap().replay(&mut |_| {}).unwrap_err();
        assert!(fault.0.contains("signed head is gone"), "{fault}");
    }

    #[test]
    fn what_is_no_store_is_said_so() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Sqlite::open(dir.path(), seal()).unwrap_err().0;
        assert!(Reader::open(dir.path()).unwrap_err().0.contains("nothing has been recorded"));
        std::fs::write(dir.path().join(FILE), "not a database, but long enough to look like one").unwrap();
        assert_eq!(open(), "the store cannot be opened: the file is not a journal");
        std::fs::remove_file(dir.path().join(FILE)).unwrap();
        sql(dir.path(), "CREATE TABLE other (x); PRAGMA user_version = 7");
        assert_eq!(open(), "the store has format 7; this version of weir reads format 1");
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let fault = Sqlite::open(&file.join("store"), seal()).unwrap_err().0;
        assert_eq!(fault, "the store's folder cannot be used: a part of the path is not a folder");
    }

    #[test]
    fn a_damaged_page_is_said_so() {
        let dir = tempfile::tempdir().unwrap();
        fill(dir.path());
        let path = dir.path().join(FILE);
        let mut file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        let pages = std::fs::metadata(&path).unwrap().len() / 4096;
        for page in 1..pages {
            file.seek(std::io::SeekFrom::Start(page * 4096)).unwrap();
            file.write_all(&[0xa5; 512]).unwrap();
        }
        let fault = Reader::open(dir.path()).unwrap().replay(&mut |_| {}).unwrap_err();
        assert!(fault.0.contains("damaged"), "{fault}");
        assert!(Sqlite::open(dir.path(), seal()).is_err_and(|fault| fault.0.contains("damaged")));
    }

    #[test]
    fn a_key_is_made_once_and_kept_private() {
        let dir = tempfile::tempdir().unwrap();
        let made = weir::journal::key(dir.path()).unwrap();
        assert_eq!(weir::journal::key(dir.path()).unwrap().public(), made.public());
        assert_eq!(weir::journal::public_key(dir.path()), Ok(made.public()));
        let path = dir.path().join("signing.key");
        let seed = std::fs::read_to_string(&path).unwrap();
        assert!(!format!("{made:?}").contains(seed.trim()));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(weir::journal::key(dir.path()).unwrap_err().contains("can be read by others"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&path, &seed[..60]).unwrap();
        assert!(weir::journal::key(dir.path()).unwrap_err().contains("64 hexadecimal digits"));
    }

    /// Not a test of its own: the process that `a_killed_gate_loses_nothing_that_it_promised` kills.
    #[test]
    #[ignore = "run by another test in a process of its own"]
    fn writes_until_killed() {
        let Some(dir) = std::env::var_os("WEIR_TEST_STORE") else { return };
        let store = Sqlite::open(Path::new(&dir), seal()).unwrap();
        let mut chain = Chain::default();
        if let Ok(told) = check(Path::new(&dir)) {
            chain = told.chain;
        }
        for _ in 0..100_000 {
            let entry = chain.append(Timestamp(1), Body::open("0.1.0", &key().public()));
            let seq = entry.seq;
            store.append(entry).wait().unwrap();
            println!("\npromised {seq}");
        }
    }

    #[test]
    fn a_killed_gate_loses_nothing_that_it_promised() {
        let dir = tempfile::tempdir().unwrap();
        let mut promised = 0;
        for round in 0..5 {
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "disk::writes_until_killed", "--ignored", "--nocapture"])
                .env("WEIR_TEST_STORE", dir.path())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let lines = BufReader::new(child.stdout.take().unwrap()).lines();
            let seqs =
                lines.map_while(Result::ok).filter_map(|line| line.strip_prefix("promised ")?.parse::<u64>().ok());
            for seq in seqs.take(20 + round * 7) {
                promised = seq;
            }
            child.kill().unwrap();
            child.wait().unwrap();
            let told = check(dir.path()).unwrap();
            assert!(told.entries > promised, "{} entries, {promised} was promised", told.entries);
        }
        assert!(promised > 100);
        let store = Sqlite::open(dir.path(), seal()).unwrap();
        let mut last = None;
        store.replay(&mut |text| last = serde_json::from_str::<Entry>(&text).ok()).unwrap();
        assert!(last.is_some_and(|entry| entry.seq >= promised));
    }

    #[test]
    fn closing_writes_what_was_given() {
        let dir = tempfile::tempdir().unwrap();
        let store = Sqlite::open(dir.path(), seal()).unwrap();
        let entries: Vec<Sealed> = journal().0;
        entries.into_iter().for_each(|entry| drop(store.append(entry)));
        store.close();
        assert!(!dir.path().join("journal.db-wal").exists(), "a stopped store is one file");
        assert_eq!(check(dir.path()).unwrap().entries, 11);
    }
}
