//! A start from a snapshot: the same gate as one that read everything, at a fraction of the reading; and one
//! that does not hold is left aside, whatever is wrong with it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::json;
use weir::journal::{FILE, Sqlite, check};
use weir::model::{Action, Amounts, Kind};
use weir::pep::Gate;
use weir::pep::port::{Head, Journal, JournalFault, Moment, Sealed, Snapshot, Ticket};

use crate::rig::{self, EVERY, Now, Tools, Yes};
use crate::support::{call, key, name, program, step, subject, tool};

/// A store that counts what is read of it, and keeps or forgets its snapshots.
struct Counted {
    store: Sqlite,
    read: Arc<AtomicU64>,
    forgets: bool,
}

impl Journal for Counted {
    fn append(&self, entry: Sealed) -> Ticket {
        self.store.append(entry)
    }

    fn replay(&self, each: &mut dyn FnMut(String)) -> Result<Option<Head>, JournalFault> {
        self.replay_from(0, each)
    }

    fn replay_from(&self, from: u64, each: &mut dyn FnMut(String)) -> Result<Option<Head>, JournalFault> {
        self.store.replay_from(from, &mut |text| {
            self.read.fetch_add(1, Ordering::SeqCst);
            each(text);
        })
    }

    fn wants_snapshot(&self, since: u64, moment: Moment) -> bool {
        !self.forgets && self.store.wants_snapshot(since, moment)
    }

    fn keep(&self, snapshot: Snapshot) {
        self.store.keep(snapshot);
    }

    fn snapshot(&self, back: usize) -> Result<Option<Snapshot>, JournalFault> {
        if self.forgets { Ok(None) } else { self.store.snapshot(back) }
    }
}

/// The gate on the store in `dir`, and how many entries it read to open.
fn opened(dir: &Path, forgets: bool) -> (Gate, u64) {
    let read = Arc::new(AtomicU64::new(0));
    let counting = read.clone();
    let wrap = |store| -> Box<dyn Journal> { Box::new(Counted { store, read: counting, forgets }) };
    for _ in 0..500 {
        match rig::open_with(dir, Box::new(Now), Box::new(Yes), wrap.clone(), rig::seal()) {
            Err(fault) if fault.contains("another gate") => std::thread::sleep(std::time::Duration::from_millis(10)),
            gate => return (gate.unwrap(), read.load(Ordering::SeqCst)),
        }
    }
    panic!("the store stays locked");
}

/// Everything that can be seen of a gate, as text.
fn seen(gate: &Gate) -> String {
    let who = |session: &str| weir::model::Subject { session: name(session), ..subject() };
    let facts: Vec<_> = ["s1", "s2", "copy"].map(|session| format!("{:?}", gate.facts(&who(session)))).into();
    let texts = [
        serde_json::to_string(&gate.balances()).unwrap(),
        serde_json::to_string(&gate.scores()).unwrap(),
        serde_json::to_string(&gate.receipts(None, 1_000)).unwrap(),
    ];
    format!("{} {facts:?} {texts:?} {:?}", gate.entries(), gate.bars())
}

/// A day with everything that a state remembers: labels, consent, a fork, a freeze, tranches, doubts.
fn live(dir: &Path) {
    let (gate, tools) = (opened(dir, false).0, Tools::of(dir));
    for call in rig::day() {
        gate.handle(call, &tools, &tools);
    }
    gate.handle(tool("web", "web", json!({})), &tools, &tools);
    gate.fork(&weir::model::Subject { session: name("copy"), ..subject() }, &name("s1")).unwrap();
    let frozen = weir::ledger::AccountId::parse("acme/other").unwrap();
    gate.freeze(&frozen, "the operator").unwrap();
    let part = gate.admit(tool("part", "buy", json!({}))).unwrap();
    gate.post_part(&part, 1, Amounts::ZERO.with(Kind::MicroUsd, 30)).unwrap();
    gate.reconcile(&name("lost"), Amounts::ZERO.with(Kind::MicroUsd, 5), "the invoice").unwrap();
    for number in 0..9 {
        let steps = [step(Action::ToolCall, "look", &json!({}))];
        gate.handle(program(&format!("p{number}"), &steps), &tools, &tools);
        gate.handle(call(&format!("odd{number}"), Action::PackageFetch, "left-pad", json!({})), &tools, &tools);
    }
}

fn stored(dir: &Path) -> rusqlite::Connection {
    rusqlite::Connection::open(dir.join(FILE)).unwrap()
}

fn counts(dir: &Path) -> Vec<u64> {
    let store = stored(dir);
    let mut rows = store.prepare("SELECT count FROM snapshots ORDER BY count DESC").unwrap();
    rows.query_map([], |row| row.get::<_, i64>(0)).unwrap().map(|count| count.unwrap() as u64).collect()
}

/// A copy of the store in `dir`, with `damage` done to it.
fn damaged(dir: &Path, damage: &str) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for file in [FILE, "journal.mark"] {
        std::fs::copy(dir.join(file), copy.path().join(file)).unwrap();
    }
    stored(copy.path()).execute_batch(damage).unwrap();
    copy
}

#[test]
fn a_start_from_a_snapshot_is_a_start_from_the_first_entry() {
    let dir = tempfile::tempdir().unwrap();
    live(dir.path());
    // Both starts find the call without an end and write the same entry: compared on copies.
    let (one, other) = (damaged(dir.path(), ""), damaged(dir.path(), ""));
    let (short, few) = opened(one.path(), false);
    let (long, all) = opened(other.path(), true);
    assert!(few <= EVERY && all > 60, "{few} entries were read instead of {all}");
    assert_eq!(seen(&short).replace(char::is_numeric, "0").len(), seen(&long).replace(char::is_numeric, "0").len());
    drop((short, long));
    // A third time, nothing is left to be written and no clock is in between.
    let other = damaged(one.path(), "");
    let ((short, few), (long, all)) = (opened(one.path(), false), opened(other.path(), true));
    assert!(few <= EVERY && all > 60, "{few} entries were read instead of {all}");
    assert_eq!(seen(&short), seen(&long));
    drop(long);
    let tools = Tools::of(one.path());
    for id in ["look", "no", "buy", "code", "code.1", "lost", "part", "p3", "odd3"] {
        let answer = short.handle(tool(id, "look", json!({})), &tools, &tools);
        assert_eq!(answer.decision.reason.code.row().name, "duplicate_call", "{id} was used before the snapshot");
    }
}

#[test]
fn the_newest_two_snapshots_are_what_the_entries_give() {
    let dir = tempfile::tempdir().unwrap();
    live(dir.path());
    assert_eq!(counts(dir.path()).len(), 2);
    drop(opened(dir.path(), false));
    let report = check(dir.path(), &key().public(), None).unwrap();
    assert_eq!(report.findings, []);
}

#[test]
fn a_snapshot_that_does_not_hold_is_left_aside() {
    let dir = tempfile::tempdir().unwrap();
    live(dir.path());
    drop(opened(dir.path(), false));
    let whole = seen(&opened(damaged(dir.path(), "").path(), true).0);
    let newest = "WHERE count = (SELECT max(count) FROM snapshots)";
    let damages = [
        ("text", format!("UPDATE snapshots SET text = replace(text, 'acme', 'acne') {newest}")),
        ("amounts", format!("UPDATE snapshots SET text = replace(text, '\"posted\":', '\"posted\" :') {newest}")),
        ("signature", format!("UPDATE snapshots SET signature = '{}' {newest}", "0".repeat(128))),
        ("no signature", format!("UPDATE snapshots SET signature = '' {newest}")),
        ("empty", format!("UPDATE snapshots SET text = '' {newest}")),
        ("its place", format!("UPDATE snapshots SET count = count + 1 {newest}")),
        ("its place, earlier", "UPDATE snapshots SET count = count - 1".into()),
        ("ids", "UPDATE used SET prints = zeroblob(length(prints)) WHERE count = (SELECT min(count) FROM used)".into()),
        ("fewer ids", "DELETE FROM used WHERE count = (SELECT min(count) FROM used)".into()),
        (
            "odd ids",
            "UPDATE used SET prints = CAST(prints || x'00' AS BLOB) WHERE count = (SELECT min(count) FROM used)".into(),
        ),
        ("all texts", "UPDATE snapshots SET text = 'x'".into()),
        ("none", "DELETE FROM snapshots; DELETE FROM used".into()),
        ("no tables", "DROP TABLE snapshots; DROP TABLE used".into()),
    ];
    for (what, damage) in damages {
        let copy = damaged(dir.path(), &damage);
        let findings = check(copy.path(), &key().public(), None).unwrap().findings;
        let named = findings.iter().all(|finding| finding.part == "snapshot");
        let silent = matches!(what, "none" | "no tables");
        assert!(named && findings.is_empty() == silent, "{what}: {findings:?}");
        let gate = opened(copy.path(), false).0;
        assert_eq!(seen(&gate), whole, "{what}");
        // The next snapshots stand on what was read, not on what was damaged.
        let tools = Tools::of(copy.path());
        for number in 0..6 {
            gate.handle(tool(&format!("after{number}"), "mail", json!({})), &tools, &tools);
        }
        drop(gate);
        assert_eq!(check(copy.path(), &key().public(), None).unwrap().findings, [], "{what}, later");
        let (gate, few) = opened(copy.path(), false);
        assert!(few <= EVERY, "{what}: {few} entries were read");
        drop(gate);
    }
}

#[test]
fn an_earlier_snapshot_serves_when_the_newest_does_not_hold() {
    let dir = tempfile::tempdir().unwrap();
    live(dir.path());
    drop(opened(dir.path(), false));
    let [newest, before] = counts(dir.path())[..] else { panic!("two are kept") };
    let copy = damaged(dir.path(), &format!("UPDATE snapshots SET signature = '' WHERE count = {newest}"));
    let (gate, read) = opened(copy.path(), false);
    assert_eq!(read, gate.entries() - before, "the entries after the earlier one");
}

#[test]
fn a_snapshot_of_another_history_is_left_aside() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for (dir, paid) in [(&here, 1), (&there, 2)] {
        let (gate, tools) = (opened(dir.path(), false).0, Tools::of(dir.path()));
        for number in 0..20 {
            gate.handle(tool(&format!("c{number}"), "buy", json!({"paid": paid})), &tools, &tools);
        }
    }
    // Signed by the same key and of the same length: only the chain tells.
    let theirs = there.path().join(FILE);
    let swap = format!(
        "ATTACH '{}' AS theirs; DELETE FROM snapshots; DELETE FROM used;
         INSERT INTO snapshots SELECT * FROM theirs.snapshots; INSERT INTO used SELECT * FROM theirs.used",
        theirs.display()
    );
    let copy = damaged(here.path(), &swap);
    let (gate, _) = opened(copy.path(), false);
    assert_eq!(gate.balances()[0].posted.of(Kind::MicroUsd), 20);
    drop(gate);
    let report = check(copy.path(), &key().public(), None).unwrap();
    assert!(report.findings.is_empty(), "it made new ones: {:?}", report.findings);
}
