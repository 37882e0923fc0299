//! A full disk, a read-only folder, two gates for one store: denied by name, nothing lost.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::json;

use weir::journal::Sqlite;
use weir::pep::port::Journal;

use crate::rig::{self, Now, Told, Tools, Yes};
use crate::support::tool;

/// Not a test of its own: works until its store fails, then once more.
#[test]
#[ignore = "run by another test in a process of its own"]
fn works_until_the_store_fails() {
    let Some(dir) = rig::store_of_child() else { return };
    let rare = |store: Sqlite| -> Box<dyn Journal> { Box::new(store.snapshots_every(200)) };
    let gate = match rig::open_with(&dir, Box::new(Now), Box::new(Yes), rare, rig::seal()) {
        Ok(gate) => gate,
        Err(fault) => return println!("\nrefused {fault}"),
    };
    // Traces of what ran stand outside of the store's folder, which is full.
    let tools = Tools::of(Path::new(&std::env::var("WEIR_TEST_TRACE").unwrap()));
    for number in 0..20_000 {
        let mut call = tool(&format!("c{number}"), "look", json!({}));
        call.subject.run = crate::support::name(&format!("run{}", number / 4));
        let answer = gate.handle(call, &tools, &tools);
        Told::of(&answer).print();
        if answer.receipt.is_none() {
            println!(
                "\nfailed {} {}",
                answer.decision.reason.code.row().name,
                answer.denial.unwrap_or_default().replace('\n', " ")
            );
            let after = gate.handle(tool("after", "look", json!({})), &tools, &tools);
            assert!(!after.ran() && after.receipt.is_none(), "a failed store stays failed");
            return;
        }
    }
}

/// Runs `works_until_the_store_fails` inside the shell text `before`; what it printed, or why it could not be tried.
fn inside(before: &str, dir: &Path) -> Result<(Vec<Told>, Vec<String>), String> {
    let script = format!("{before}\nexec \"$0\" \"$@\"");
    let mut command = Command::new("/bin/sh");
    command.args(["-ec", &script]).arg(std::env::current_exe().unwrap());
    command.args(["--exact", "faults::works_until_the_store_fails", "--ignored", "--nocapture", "--test-threads=1"]);
    command.env("WEIR_TEST_STORE", dir.join("store")).env("WEIR_TEST_TRACE", dir);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (told, rest) = rig::read(&mut child);
    let output = child.wait_with_output().unwrap();
    if output.status.success() { Ok((told, rest)) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

fn line<'l>(rest: &'l [String], start: &str) -> &'l str {
    rest.iter().find_map(|line| line.strip_prefix(start)).unwrap_or_else(|| panic!("no `{start}` in {rest:?}"))
}

/// Everything that was told is on record, and the store goes on once there is room.
fn nothing_is_lost(dir: &Path, told: &[Told], what: &str) {
    assert!(told.iter().filter(|one| one.ran).count() > 10, "{what}: it failed too early to show anything");
    let last = told.last().unwrap();
    assert!(!last.recorded, "{what}");
    let ran = Tools::of(dir).ran();
    fs::rename(dir.join("ran"), dir.join("store/ran")).unwrap();
    let gate = rig::judge(&dir.join("store"), told, what);
    for one in told.iter().filter(|one| one.ran && one.recorded) {
        assert!(ran.contains(&one.id), "{what}: {} was told to have run", one.id);
    }
    let tools = Tools::of(&dir.join("store"));
    assert!(gate.handle(tool("later", "look", json!({})), &tools, &tools).ran(), "{what}: there is room again");
}

#[test]
fn a_file_that_may_not_grow_ends_in_denials_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("store")).unwrap();
    // Blocks of 512 bytes; the signal that would end the process is ignored, so that the write fails.
    let (told, rest) = inside("trap '' XFSZ; ulimit -f 2400", dir.path()).unwrap();
    let failed = line(&rest, "failed ");
    assert!(
        failed.starts_with("journal_failed") && failed.contains("nothing runs without a durable record"),
        "{failed}"
    );
    nothing_is_lost(dir.path(), &told, "a limit of 1,200 KiB");
}

#[test]
fn a_full_disk_ends_in_denials_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    fs::create_dir(&store).unwrap();
    // A disk of its own that only that process sees; what lies on it is carried out before it goes.
    let disk = "unshare -Urm sh -ec 'mount -t tmpfs -o size=1500k none \"$WEIR_TEST_STORE\"; \"$0\" \"$@\"; \
        mkdir \"$WEIR_TEST_TRACE/carried\"; cp -p \"$WEIR_TEST_STORE\"/* \"$WEIR_TEST_TRACE/carried\"' \"$0\" \"$@\"; exit 0";
    match inside(disk, dir.path()) {
        Err(why) => {
            println!("skipped a_full_disk_ends_in_denials_and_loses_nothing: no file system of its own here: {why}")
        }
        Ok((told, rest)) => {
            assert!(line(&rest, "failed ").starts_with("journal_failed"), "{rest:?}");
            fs::remove_dir(&store).unwrap();
            fs::rename(dir.path().join("carried"), &store).unwrap();
            nothing_is_lost(dir.path(), &told, "a full disk");
        }
    }
}

#[test]
fn a_read_only_store_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    rig::put_key(&store);
    drop(rig::open(&store).unwrap());
    let bound = "unshare -Urm sh -ec 'mount --bind \"$WEIR_TEST_STORE\" \"$WEIR_TEST_STORE\"; \
        mount -o remount,ro,bind \"$WEIR_TEST_STORE\"; exec \"$0\" \"$@\"' \"$0\" \"$@\"; exit 0";
    match inside(bound, dir.path()) {
        Err(why) => println!("skipped a_read_only_store_is_refused_by_name: no mounts of its own here: {why}"),
        Ok((told, rest)) => {
            assert!(told.is_empty());
            assert!(line(&rest, "refused ").contains("the file system is read-only"), "{rest:?}");
        }
    }
}

#[test]
fn one_of_many_gates_gets_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    fs::create_dir(&store).unwrap();
    let gate = rig::open(&store).unwrap();
    for _ in 0..3 {
        let (told, rest) = inside(":", dir.path()).unwrap();
        let fault = line(&rest, "refused ");
        assert!(told.is_empty() && fault.contains(&format!("process {}", std::process::id())), "{fault}");
    }
    let tools = Tools::of(&store);
    assert!(gate.handle(tool("mine", "look", json!({})), &tools, &tools).ran(), "the holder does not notice");
    drop(gate);
    let racing = || {
        let mut child = rig::child("faults::holds_the_store_for_a_moment", &store, &[]);
        let (_, rest) = rig::read(&mut child);
        assert!(child.wait().unwrap().success(), "{rest:?}");
        rest.iter().filter(|line| line.as_str() == "held").count()
    };
    let held: usize = std::thread::scope(|scope| {
        let racers: Vec<_> = (0..6).map(|_| scope.spawn(racing)).collect();
        racers.into_iter().map(|racer| racer.join().unwrap()).sum()
    });
    assert!(held >= 1, "one of them had it");
    drop(rig::judge(&store, &[], "after a race"));
}

/// Not a test of its own: takes the store if nobody has it, works, and ends.
#[test]
#[ignore = "run by another test in a process of its own"]
fn holds_the_store_for_a_moment() {
    let Some(dir) = rig::store_of_child() else { return };
    match rig::open(&dir) {
        Ok(gate) => {
            let tools = Tools::of(&dir);
            let id = format!("p{}", std::process::id());
            assert!(gate.handle(tool(&id, "mail", json!({})), &tools, &tools).ran());
            println!("\nheld");
        }
        Err(fault) => assert!(fault.contains("another gate"), "{fault}"),
    }
}
