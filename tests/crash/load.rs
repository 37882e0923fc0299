//! SIGKILL at any moment while eight threads spend: for seconds in the suite, for a minute when asked.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use serde_json::json;

use weir::journal::Sqlite;
use weir::pep::port::Journal;

use crate::rig::{self, Now, Told, Tools, Yes};
use crate::support::{Seeded, tool};

/// Not a test of its own: the process that is killed.
#[test]
#[ignore = "run by another test in a process of its own"]
fn spends_until_killed() {
    let Some(dir) = rig::store_of_child() else { return };
    let round = std::env::var("WEIR_TEST_ROUND").unwrap();
    let busy = |store: Sqlite| -> Box<dyn Journal> { Box::new(store.snapshots_every(300)) };
    let gate = rig::open_with(&dir, Box::new(Now), Box::new(Yes), busy, rig::seal()).unwrap();
    let (tools, next) = (Tools::of(&dir), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (gate, tools, next, round) = (&gate, &tools, &next, &round);
            scope.spawn(move || {
                let mut seeded = Seeded(thread);
                for _ in 0..50_000 {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    // Most calls pay little, so that the cap is reached after some rounds and not at once.
                    let (what, paid) = if seeded.one_in(50) { ("buy", 1 + seeded.below(3)) } else { ("mail", 0) };
                    let mut call = tool(&format!("r{round}-{number}"), what, json!({"paid": paid}));
                    call.subject.run = crate::support::name(&format!("{round}-{thread}-{}", number / 4));
                    Told::of(&gate.handle(call, tools, tools)).print();
                }
            });
        }
    });
}

/// Kills a spending gate after a random time, again and again for `time`; the number of deaths.
fn kills(time: Duration, seed: u64) -> u64 {
    let dir = tempfile::tempdir().unwrap();
    let (begin, mut seeded, mut all, mut round) = (Instant::now(), Seeded(seed), Vec::<Told>::new(), 0);
    // On a machine that is busy with other work too little may happen in that time to show anything.
    let enough = |all: &[Told], round| all.iter().filter(|one| one.ran).count() > 100 && round >= 3;
    while round < 300 && (begin.elapsed() < time || !enough(&all, round)) {
        let mut child = rig::child("load::spends_until_killed", dir.path(), &[("WEIR_TEST_ROUND", round.to_string())]);
        let pid = child.id();
        let patience = Duration::from_millis(seeded.below(400));
        let (told, first) = channel();
        let killer = std::thread::spawn(move || {
            // From the first answer on: one in some rounds dies at once, whatever the machine is doing.
            let _ = first.recv_timeout(Duration::from_secs(30));
            std::thread::sleep(patience);
            // The child is not waited for yet, so that its number is still its own.
            std::process::Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
        });
        let (told, _) = rig::read_each(&mut child, || {
            let _ = told.send(());
        });
        killer.join().unwrap();
        assert!(!child.wait().unwrap().success(), "it was killed");
        all.extend(told);
        drop(rig::judge(dir.path(), &all, &format!("round {round}")));
        round += 1;
    }
    let entries = rig::Story::of(dir.path()).entries;
    println!("{round} deaths, {} answers, {entries} entries", all.len());
    assert!(enough(&all, round), "the load is too light to show anything");
    round
}

#[test]
fn killed_at_random_under_load_the_books_balance() {
    assert!(kills(Duration::from_secs(4), 1) >= 3);
}

#[test]
#[ignore = "takes a minute: cargo test --features store --test crash -- --ignored a_minute"]
fn a_minute_of_kills_under_load() {
    assert!(kills(Duration::from_secs(60), 2) >= 20);
}
