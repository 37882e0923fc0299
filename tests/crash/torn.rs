//! Torn and damaged files: every page of the file and of its log, cut and changed. What opens holds
//! everything that was confirmed; everything else is refused by name, and nothing panics.

use std::fs;
use std::path::Path;

use serde_json::json;
use weir::journal::{FILE, check};

use crate::rig::{self, Tools};
use crate::support::{Seeded, key, tool};

const PAGE: usize = 4096;
const FRAME: usize = PAGE + 24;
const LOG: &str = "journal.db-wal";

/// A store with a log that has not been folded into the file: what a killed gate leaves. Its entries.
fn killed(dir: &Path) -> u64 {
    let live = dir.join("live");
    rig::put_key(&live);
    let gate = rig::open(&live).unwrap();
    let tools = Tools::of(&live);
    for number in 0..12 {
        gate.handle(tool(&format!("c{number}"), "buy", json!({"paid": 1})), &tools, &tools);
    }
    let still = dir.join("still");
    fs::create_dir(&still).unwrap();
    for file in fs::read_dir(&live).unwrap().map(|file| file.unwrap()) {
        if file.file_name() != "journal.db-shm" {
            fs::copy(file.path(), still.join(file.file_name())).unwrap();
        }
    }
    gate.entries()
}

fn fresh(dir: &Path, name: &str) -> std::path::PathBuf {
    let copy = dir.join("copy");
    let _ = fs::remove_dir_all(&copy);
    fs::create_dir(&copy).unwrap();
    for file in fs::read_dir(dir.join(name)).unwrap().map(|file| file.unwrap()) {
        fs::copy(file.path(), copy.join(file.file_name())).unwrap();
    }
    copy
}

/// What became of a damaged store: it opened with everything, or was refused with this text.
fn outcome(dir: &Path, confirmed: u64, what: &str) -> Option<String> {
    match rig::open(dir) {
        Ok(gate) => {
            assert!(gate.entries() >= confirmed, "{what}: {} of {confirmed} entries", gate.entries());
            None
        }
        Err(fault) => {
            assert!(fault.len() < 400 && !fault.contains(dir.to_str().unwrap()), "{what}: {fault}");
            Some(fault)
        }
    }
}

#[test]
fn a_torn_log_never_passes_for_the_whole() {
    let dir = tempfile::tempdir().unwrap();
    let confirmed = killed(dir.path());
    let log = fs::read(dir.path().join("still").join(LOG)).unwrap();
    let frames = (log.len() - 32) / FRAME;
    assert!(frames > 20, "{frames} frames are too few to show anything");
    let whole = fresh(dir.path(), "still");
    assert_eq!(outcome(&whole, confirmed, "as it was left"), None);
    let mut refused = 0;
    let cuts = (0..frames).flat_map(|frame| [32 + frame * FRAME, 32 + frame * FRAME + 100]);
    for cut in cuts.chain([0, 31]) {
        let copy = fresh(dir.path(), "still");
        fs::write(copy.join(LOG), &log[..cut]).unwrap();
        let fault =
            outcome(&copy, confirmed, &format!("cut at byte {cut}")).expect("a shorter log lacks the last commit");
        assert!(
            fault.contains("was confirmed") || fault.contains("not a journal") || fault.contains("damaged"),
            "{fault}"
        );
        refused += 1;
    }
    for frame in 0..frames {
        let (mut bad, at) = (log.clone(), 32 + frame * FRAME + 24 + 1_000);
        bad[at] ^= 0x20;
        let copy = fresh(dir.path(), "still");
        fs::write(copy.join(LOG), &bad).unwrap();
        let fault =
            outcome(&copy, confirmed, &format!("frame {frame} changed")).expect("the log ends before that frame");
        assert!(
            fault.contains("was confirmed") || fault.contains("not a journal") || fault.contains("damaged"),
            "{fault}"
        );
        refused += 1;
    }
    println!("{refused} torn logs of {frames} frames, all refused");
}

#[test]
fn what_was_never_confirmed_may_be_torn_off() {
    let dir = tempfile::tempdir().unwrap();
    let confirmed = killed(dir.path());
    let copy = fresh(dir.path(), "still");
    let mut log = fs::read(copy.join(LOG)).unwrap();
    // A frame that was being written when the power went.
    log.extend((0..FRAME - 7).map(|byte| (byte % 251) as u8));
    fs::write(copy.join(LOG), &log).unwrap();
    assert_eq!(outcome(&copy, confirmed, "half a frame more"), None);
    assert_eq!(check(&copy, &key().public(), None).unwrap().findings, []);
}

#[test]
fn a_damaged_page_is_harmless_or_named() {
    let dir = tempfile::tempdir().unwrap();
    killed(dir.path());
    // Opened and closed once: the log is in the file now.
    let still = dir.path().join("still");
    let gate = rig::open(&still).unwrap();
    let confirmed = gate.entries();
    drop(gate);
    assert!(!still.join(LOG).exists());
    let sound = check(&still, &key().public(), None).unwrap();
    let whole = fs::read(still.join(FILE)).unwrap();
    let (mut refused, mut seeded) = (0, Seeded(7));
    for page in 0..whole.len() / PAGE {
        let at = page * PAGE;
        let mut flipped = whole.clone();
        flipped[at + seeded.below(PAGE as u64) as usize] ^= 1 << seeded.below(8);
        let mut zeroed = whole.clone();
        zeroed[at..at + PAGE].fill(0);
        let mut noise = whole.clone();
        noise[at..at + 512].iter_mut().for_each(|byte| *byte = seeded.next() as u8);
        for (how, bytes) in [("flipped", flipped), ("zeroed", zeroed), ("noise", noise), ("cut", whole[..at].to_vec())]
        {
            let copy = fresh(dir.path(), "still");
            fs::write(copy.join(FILE), bytes).unwrap();
            let what = format!("page {page} {how}");
            match (outcome(&copy, confirmed, &what), check(&copy, &key().public(), None)) {
                (None, Ok(report)) if report.findings.is_empty() => {
                    assert!(report.journal.entries >= sound.journal.entries, "{what}");
                }
                // History that a start does not need may be damaged: then the check says so.
                (None, found) => {
                    assert!(found.is_err() || found.is_ok_and(|report| !report.findings.is_empty()), "{what}")
                }
                (Some(_), _) => refused += 1,
            }
        }
    }
    println!("{} pages, {refused} damages refused", whole.len() / PAGE);
    assert!(refused > whole.len() / PAGE);
}

#[test]
fn a_damaged_mark_is_no_witness_and_no_obstacle() {
    let dir = tempfile::tempdir().unwrap();
    let confirmed = killed(dir.path());
    let mark = fs::read(dir.path().join("still/journal.mark")).unwrap();
    assert_eq!(mark.len(), 1024);
    for damaged in [vec![], mark[..700].to_vec(), vec![0xff; 1024], [&mark[..512], &[b'9'; 512]].concat()] {
        let copy = fresh(dir.path(), "still");
        fs::write(copy.join("journal.mark"), damaged).unwrap();
        assert_eq!(outcome(&copy, confirmed, "mark"), None);
    }
    // A mark that nobody signed with this store's key counts for nothing.
    let text = String::from_utf8(mark).unwrap().replace("\"count\":", "\"count\":9");
    let copy = fresh(dir.path(), "still");
    fs::write(copy.join("journal.mark"), text).unwrap();
    assert_eq!(outcome(&copy, confirmed, "forged mark"), None);
}
