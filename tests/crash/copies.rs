//! Backups beside a running gate, the way back, and older files in the place of newer ones.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;
use weir::journal::{Copied, FILE, Terms, backup, check};
use weir::model::Digest;
use weir::pep::Gate;

use crate::rig::{self, Tools};
use crate::support::{key, tool};

struct Folders(tempfile::TempDir);

impl Folders {
    fn new() -> Self {
        let made = Self(tempfile::tempdir().unwrap());
        rig::put_key(&made.at("store"));
        made
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

fn work(gate: &Gate, dir: &Path, prefix: &str, calls: u64) {
    let tools = Tools::of(dir);
    for number in 0..calls {
        let call = tool(&format!("{prefix}{number}"), "buy", json!({"paid": 1}));
        gate.handle(call, &tools, &tools);
    }
}

fn spend(dir: &Path, prefix: &str, calls: u64) {
    work(&rig::open(dir).unwrap(), dir, prefix, calls);
}

fn head(dir: &Path) -> Digest {
    let report = check(dir, &key().public(), None).unwrap();
    assert_eq!(report.findings, []);
    report.head
}

/// Restores; waits while a process that another test starts still has a copy of this one's lock.
fn restore(from: &Path, dir: &Path, terms: Terms) -> Result<Copied, String> {
    let own = format!("process {}", std::process::id());
    loop {
        match weir::journal::restore(from, dir, terms).map_err(|fault| fault.0) {
            Err(fault) if fault.contains(&own) => std::thread::sleep(std::time::Duration::from_millis(10)),
            made => return made,
        }
    }
}

/// Moves the journal away, as the advice says: the key and the mark stay.
fn lose_the_journal(dir: &Path) {
    for name in [FILE, "journal.db-wal", "journal.db-shm"] {
        let _ = fs::remove_file(dir.join(name));
    }
}

#[test]
fn a_backup_of_a_running_gate_is_one_moment_of_it() {
    let folders = Folders::new();
    let (dir, done) = (folders.at("store"), AtomicBool::new(false));
    let gate = rig::open(&dir).unwrap();
    let mut sizes = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            (0..40).for_each(|round| work(&gate, &dir, &format!("r{round}-"), 5));
            done.store(true, Ordering::SeqCst);
        });
        for number in 0.. {
            let ended = done.load(Ordering::SeqCst);
            let to = folders.at(&format!("copy{number}"));
            let made = backup(&dir, &to, false).unwrap();
            assert_eq!(head(&to), made.head);
            assert!(!to.join("signing.key").exists() && !made.key);
            sizes.push(made.entries);
            if ended {
                break;
            }
        }
    });
    assert!(sizes.is_sorted() && sizes.last() == Some(&gate.entries()), "{sizes:?}");
    for name in ["journal.db-wal", "journal.db-shm", "journal.db.part"] {
        assert!(!folders.at("copy0").join(name).exists(), "a backup is one file: {name}");
    }
}

#[test]
fn a_backup_comes_back_with_every_balance() {
    let folders = Folders::new();
    let (dir, copy, there) = (folders.at("store"), folders.at("copy"), folders.at("there"));
    let gate = rig::open(&dir).unwrap();
    work(&gate, &dir, "a", 7);
    let made = backup(&dir, &copy, true).unwrap();
    let back = restore(&copy, &there, Terms { after: Some(made.head), accept_loss: false }).unwrap();
    assert_eq!((back.entries, back.head, back.lost), (made.entries, made.head, 0));
    let again = rig::open(&there).unwrap();
    assert_eq!(again.balances(), gate.balances());
    assert_eq!(again.entries(), gate.entries());
    // Into a folder that has nothing but the key.
    let bare = folders.at("bare");
    fs::create_dir(&bare).unwrap();
    fs::copy(dir.join("signing.key"), bare.join("signing.key")).unwrap();
    let back = restore(&copy, &bare, Terms::default()).unwrap();
    assert!(!back.key && weir::journal::public_key(&bare) == Ok(key().public()));
}

#[test]
fn nothing_is_overwritten() {
    let folders = Folders::new();
    let (dir, copy) = (folders.at("store"), folders.at("copy"));
    spend(&dir, "a", 2);
    backup(&dir, &copy, false).unwrap();
    let before = fs::read(copy.join(FILE)).unwrap();
    for fault in [backup(&dir, &copy, false).unwrap_err().0, restore(&copy, &dir, Terms::default()).unwrap_err()] {
        assert!(fault.contains("nothing is overwritten"), "{fault}");
    }
    assert_eq!(fs::read(copy.join(FILE)).unwrap(), before);
    // A log without its file would be written into whatever file took its place.
    lose_the_journal(&dir);
    fs::write(dir.join("journal.db-wal"), "").unwrap();
    assert!(restore(&copy, &dir, Terms::default()).unwrap_err().contains("journal.db-wal"));
}

#[test]
fn a_restore_while_a_gate_runs_is_refused() {
    let folders = Folders::new();
    let (dir, copy) = (folders.at("store"), folders.at("copy"));
    let gate = rig::open(&dir).unwrap();
    backup(&dir, &copy, false).unwrap();
    let fault = weir::journal::restore(&copy, &dir, Terms::default()).unwrap_err();
    assert!(fault.0.contains("another gate"), "{fault}");
    drop(gate);
}

#[test]
fn an_older_backup_is_refused_until_the_loss_is_accepted() {
    let folders = Folders::new();
    let (dir, copy) = (folders.at("store"), folders.at("copy"));
    spend(&dir, "a", 3);
    backup(&dir, &copy, false).unwrap();
    let older = head(&copy);
    spend(&dir, "b", 2);
    let newer = head(&dir);
    lose_the_journal(&dir);
    let fault = restore(&copy, &dir, Terms::default()).unwrap_err();
    assert!(fault.contains("4 confirmed entries") && fault.contains("--accept-loss"), "{fault}");
    let asked = Terms { after: Some(newer), accept_loss: true };
    assert!(restore(&copy, &dir, asked).unwrap_err().contains("it is older, or of another store"));
    assert!(!dir.join(FILE).exists(), "a refused restore leaves nothing");
    let made = restore(&copy, &dir, Terms { after: Some(older), accept_loss: true }).unwrap();
    assert_eq!((made.lost, made.head), (4, older));
    rig::open(&dir).expect("the loss was accepted");
}

#[test]
fn an_older_file_in_the_place_of_the_journal_is_noticed() {
    let folders = Folders::new();
    let dir = folders.at("store");
    spend(&dir, "a", 3);
    let older = fs::read(dir.join(FILE)).unwrap();
    spend(&dir, "b", 2);
    fs::write(dir.join(FILE), &older).unwrap();
    let fault = rig::open(&dir).unwrap_err();
    assert!(fault.contains("which was confirmed") && fault.contains("weir store restore"), "{fault}");
    let report = check(&dir, &key().public(), None).unwrap();
    assert_eq!(report.findings.iter().map(|finding| finding.part).collect::<Vec<_>>(), ["mark"]);
    // The whole folder put back, mark and all, shows to nobody but whoever kept a head elsewhere.
    fs::remove_file(dir.join("journal.mark")).unwrap();
    assert_eq!(check(&dir, &key().public(), None).unwrap().findings, []);
    let kept = check(&dir, &key().public(), Some(Digest::of(b"a newer head"))).unwrap();
    assert_eq!(kept.findings.iter().map(|finding| finding.part).collect::<Vec<_>>(), ["after"]);
}

#[test]
fn another_history_in_the_place_of_the_journal_is_noticed() {
    let folders = Folders::new();
    let (dir, copy) = (folders.at("store"), folders.at("copy"));
    spend(&dir, "a", 1);
    backup(&dir, &copy, true).unwrap();
    spend(&dir, "b", 2);
    // The backup ran on as a store of its own: the same length, another content.
    spend(&copy, "c", 2);
    fs::copy(copy.join(FILE), dir.join(FILE)).unwrap();
    let fault = rig::open(&dir).unwrap_err();
    assert!(fault.contains("another history"), "{fault}");
}

#[test]
fn a_backup_that_was_changed_is_refused() {
    let folders = Folders::new();
    let (dir, copy, there) = (folders.at("store"), folders.at("copy"), folders.at("there"));
    spend(&dir, "a", 3);
    backup(&dir, &copy, true).unwrap();
    let sql = rusqlite::Connection::open(copy.join(FILE)).unwrap();
    sql.execute_batch("UPDATE entries SET text = replace(text, 'acme', 'acne') WHERE seq = 3").unwrap();
    drop(sql);
    let fault = restore(&copy, &there, Terms::default()).unwrap_err();
    assert!(fault.contains("entry 3"), "{fault}");
    assert!(!there.join(FILE).exists() && !there.join("signing.key").exists());
    let report = check(&copy, &key().public(), None).unwrap();
    assert_eq!(report.findings.iter().map(|finding| finding.part).collect::<Vec<_>>(), ["chain", "index"]);
}
