//! Executions run again from their tapes: the same bit for bit, or the first difference, or why nothing can be said.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value, json};
use weir::model::{
    Access, Checkpoint, Clock, CodeGrant, Digest, Keep, Kind, Millis, Outcome, Preopen, Quota, Randomness, ReasonCode,
    Record, Scratch, Status,
};
use weir::pep::port::{Executor as _, Keeper as _};
use weir::sandbox::{
    Caps, Guest, ReplayFault, Replayed, Sandbox, SandboxConfig, Silent, TapeReader, Vault, VaultKey, Verdict,
};

use crate::desk::{Desk, Does, grant, key, message, name, wall};

/// A store with a sandbox on it.
struct Place {
    sandbox: Sandbox,
    vault: Arc<Vault>,
    home: tempfile::TempDir,
}

fn vault(home: &Path) -> Arc<Vault> {
    let key = VaultKey::beside(home).unwrap();
    Arc::new(Vault::open(home.join(Vault::FOLDER), key, Caps::default()).unwrap())
}

fn open(home: &Path, vault: &Arc<Vault>) -> Sandbox {
    let config =
        SandboxConfig { vault: Some(vault.clone()), scratch: Some(home.join("scratch")), ..SandboxConfig::new(wall()) };
    Sandbox::open(config).unwrap()
}

impl Place {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let vault = vault(home.path());
        Self { sandbox: open(home.path(), &vault), vault, home }
    }

    fn run(&self, session: &str, code: &str, grant: &CodeGrant, desk: &Desk) -> Outcome {
        self.sandbox.run(&key(&name(session)), code, &Map::new(), grant, desk)
    }

    /// The tape of a step, which must have one.
    fn tape(&self, session: &str, code: &str, grant: &CodeGrant, desk: &Desk) -> Digest {
        let outcome = self.run(session, code, grant, desk);
        outcome.tape.unwrap_or_else(|| panic!("{code}: no tape: {:?} {}", outcome.notices, message(&outcome)))
    }

    fn replay(&self, session: &str, tape: Digest) -> Result<Replayed, ReplayFault> {
        let key = VaultKey::beside(self.home.path()).unwrap();
        let tapes = TapeReader::new(&self.home.path().join(Vault::FOLDER), key);
        self.sandbox.replay(&tapes, &seat(session), &tape)
    }

    #[track_caller]
    fn identical(&self, session: &str, tape: Digest) -> Replayed {
        let replayed = self.replay(session, tape).unwrap_or_else(|fault| panic!("{fault}"));
        assert_eq!(replayed.verdict, Verdict::Identical);
        replayed
    }

    /// The same tape with `old` as `new`, which is as long, under the name that it then has.
    fn forged(&self, session: &str, tape: Digest, old: &[u8], new: &[u8]) -> Digest {
        let mut bytes = self.vault.get_tape(&seat(session), &tape).unwrap();
        assert_eq!(old.len(), new.len());
        let at = bytes.windows(old.len()).position(|window| window == old).expect("it is on the tape");
        bytes[at..at + new.len()].copy_from_slice(new);
        self.vault.put_tape(&seat(session), &bytes).unwrap()
    }

    #[track_caller]
    fn differs(&self, session: &str, tape: Digest) -> String {
        match self.replay(session, tape).unwrap_or_else(|fault| panic!("{fault}")).verdict {
            Verdict::Differs(said) => said,
            Verdict::Identical => panic!("no difference was found"),
        }
    }

    /// Why nothing can be said.
    #[track_caller]
    fn cannot(&self, session: &str, tape: Digest) -> String {
        match self.replay(session, tape) {
            Err(fault) => fault.to_string(),
            Ok(replayed) => panic!("{replayed:?}"),
        }
    }
}

fn seat(session: &str) -> weir::model::Seat {
    key(&name(session)).seat
}

fn taped() -> CodeGrant {
    CodeGrant { record: Record::Tape, ..grant() }
}

/// Everything that can be different from run to run.
fn wild() -> CodeGrant {
    CodeGrant { clock: Clock::Real, randomness: Randomness::Real, ..taped() }
}

fn tools() -> Desk {
    Desk::default()
        .with("look", &[("n", true)], Does::Give(json!({"rows": [1, 2, 3]})))
        .with("secret", &[], Does::Deny(ReasonCode::NoRule))
        .with("broken", &[], Does::Fail("KeyError", "gone"))
        .with("echo", &[("value", true)], Does::Echo)
        .with("final_answer", &[("value", true)], Does::Echo)
}

const BUSY: &str = "
import random, time, os, json
print(time.time(), time.monotonic(), random.random(), os.urandom(8).hex())
print(list({'a', 'b', 'c', 'dd', 'ee'}), hash('text'), hash((1, 'x')), [k for k in {'z': 1, 'y': 2}])
time.sleep(0.02)
rows = look(7)['rows']
for ask in (secret, broken):
    try: ask()
    except Exception as e: print(type(e).__name__, e)
class A: pass
print(sum(rows), id(A()), A())
{'rows': rows, 'set': {'q', 'r', 's'}}
";

#[test]
fn an_execution_comes_out_the_same_with_its_clock_dice_and_answers() {
    let place = Place::new();
    let desk = tools();
    let outcome = place.run("one", BUSY, &wild(), &desk);
    assert_eq!(outcome.status, Status::Done, "{}", message(&outcome));
    let asked = desk.asked().len();
    let replayed = place.identical("one", outcome.tape.unwrap());
    assert_eq!(desk.asked().len(), asked, "no tool was called again");
    assert_eq!((replayed.step, replayed.steps, replayed.calls), (1, 1, 3));
    assert_eq!((&replayed.outcome.logs, &replayed.outcome.output), (&outcome.logs, &outcome.output));
    for kind in [Kind::Fuel, Kind::MemoryBytes, Kind::OutputBytes] {
        assert_eq!(replayed.outcome.usage.of(kind), outcome.usage.of(kind), "{kind:?}");
    }
    // Without a tape's inputs it is another: what is compared does depend on them.
    let other = place.run("two", BUSY, &wild(), &tools());
    assert_ne!(other.logs, outcome.logs);
}

#[test]
fn a_chain_of_steps_comes_out_the_same_after_rest_and_restart_too() {
    let mut place = Place::new();
    let desk = tools();
    let first = place.tape("one", "import random, time\nx = [random.random(), time.time()]\nprint(x)", &wild(), &desk);
    let second = place.tape("one", "x += look(1)['rows']\nprint(x, random.random())", &wild(), &desk);
    drop(place.sandbox);
    place.sandbox = open(place.home.path(), &place.vault);
    let third = place.run("one", "print(sorted(x), random.random(), time.time())\necho({'a': 1})", &wild(), &desk);
    assert_eq!(third.status, Status::Done, "{}", message(&third));
    for (tape, steps) in [(first, 1), (second, 2), (third.tape.unwrap(), 3)] {
        let replayed = place.identical("one", tape);
        assert_eq!((replayed.step, replayed.steps), (steps, steps));
    }
    // A step that is lost is no link: the session goes on as it was before it.
    let mut checked = CodeGrant { checkpoint: Checkpoint::Step, ..wild() };
    checked.limits.fuel = 2_000_000_000;
    let lost = place.run("one", "x.append(random.random())\nwhile True: pass", &checked, &desk);
    assert_eq!((lost.status, lost.replaced), (Status::Exhausted, false));
    assert_eq!(place.identical("one", lost.tape.unwrap()).steps, 4);
    let after = place.tape("one", "print(x)", &checked, &desk);
    assert_eq!(place.identical("one", after).steps, 4);
    // A copy of the session goes on from the same chain.
    place.sandbox.fork(&seat("one"), None, &seat("copy")).unwrap();
    let copy = place.tape("copy", "print(len(x), random.random())", &wild(), &desk);
    assert_eq!(place.identical("copy", copy).steps, 5);
}

#[test]
fn every_end_that_is_an_instruction_comes_out_the_same() {
    let place = Place::new();
    let small = |change: fn(&mut CodeGrant)| {
        let mut grant = taped();
        change(&mut grant);
        grant
    };
    let cases: [(&str, &str, CodeGrant, Status); 9] = [
        ("fuel", "print('on')\nwhile True: pass", small(|grant| grant.limits.fuel = 500_000_000), Status::Exhausted),
        ("error", "print('x')\n1 / 0", taped(), Status::Failed),
        ("exit", "import os\nos._exit(3)", taped(), Status::Failed),
        ("memory", "x = [bytes(1 << 20) for _ in range(1000)]", taped(), Status::Exhausted),
        ("denied", "secret()", taped(), Status::Denied),
        ("final", "final_answer({'a': [1, 2]})\nprint('never')", taped(), Status::Done),
        ("output", "print('y' * 200_000)", taped(), Status::Done),
        ("calls", "for _ in range(9): look(1)", small(|grant| grant.limits.callbacks = 3), Status::Exhausted),
        (
            "deaf",
            "while True:\n    try: look(1)\n    except BaseException: pass",
            small(|grant| grant.limits.callbacks = 3),
            Status::Exhausted,
        ),
    ];
    for (session, code, grant, status) in cases {
        let outcome = place.run(session, code, &grant, &tools());
        assert_eq!(outcome.status, status, "{session}: {}", message(&outcome));
        let again = place.identical(session, outcome.tape.expect(session)).outcome;
        assert_eq!((again.status, &again.output, &again.logs), (outcome.status, &outcome.output, &outcome.logs));
        assert_eq!((&again.error, again.stopped), (&outcome.error, outcome.stopped), "{session}");
        assert_eq!(again.usage.of(Kind::Fuel), outcome.usage.of(Kind::Fuel), "{session}");
    }
}

#[test]
fn a_stop_by_the_clock_or_from_outside_is_no_proof_and_says_so() {
    let place = Place::new();
    let mut short = taped();
    short.limits.wall_ms = Millis(300);
    let outcome = place.run("wall", "while True: pass", &short, &tools());
    assert_eq!(outcome.status, Status::Exhausted);
    let said = place.cannot("wall", outcome.tape.unwrap());
    assert!(said.contains("step 1 of 1 cannot be replayed exactly: it was stopped by the clock"), "{said}");
    let gone = tools();
    gone.cancelled.store(true, std::sync::atomic::Ordering::SeqCst);
    let outcome = place.run("told", "while True: pass", &taped(), &gone);
    let said = place.cannot("told", outcome.tape.unwrap());
    assert!(said.contains("stopped from outside"), "{said}");
}

#[test]
fn the_first_difference_is_named() {
    let place = Place::new();
    let code = "import os\nprint('got', look(7)['rows'])\nprint(os.urandom(16).hex())\nlook(8)";
    let outcome = place.run("one", code, &wild(), &tools());
    let tape = outcome.tape.unwrap();
    let is = |tape: Digest, parts: &[&str]| {
        let said = place.differs("one", tape);
        assert!(parts.iter().all(|part| said.contains(part)), "{said}");
    };
    // A tool answered otherwise.
    is(place.forged("one", tape, b"\"rows\":[1,2,3]", b"\"rows\":[1,2,4]"), &["printed", "byte 11", "`3]", "`4]"]);
    // Another program: it asks for something else.
    is(place.forged("one", tape, b"look(8)", b"look(9)"), &["call 2 (`tool` `look`)", "`8", "`9"]);
    is(place.forged("one", tape, b"print('got'", b"print('GOT'"), &["printed", "byte 0", "`got", "`GOT"]);
    // Other dice.
    let drawn = hex(outcome.logs.lines().nth(1).unwrap());
    let mut other = place.vault.get_tape(&seat("one"), &tape).unwrap();
    // A byte for the guest is one of four that were drawn, or one of one.
    let is_drawn = |at: usize, wide: usize| drawn.iter().enumerate().all(|(n, b)| other.get(at + n * wide) == Some(b));
    let at = (0..other.len()).find(|at| is_drawn(*at, 1) || is_drawn(*at, 4)).expect("the dice are on the tape");
    other[at] ^= 0xff;
    is(place.vault.put_tape(&seat("one"), &other).unwrap(), &["printed", "byte 14", "recorded", "now"]);
    // What was printed then was something else.
    is(place.forged("one", tape, b"got [1, 2, 3]", b"got [9, 2, 3]"), &["printed", "byte 5", "`9", "`1"]);
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

#[test]
fn a_tape_that_is_gone_or_no_tape_or_of_another_build_is_told() {
    let place = Place::new();
    let folder = place.home.path().join(Vault::FOLDER).join("tapes");
    let mut files: Vec<PathBuf> = Vec::new();
    let mut newest = || {
        let all = std::fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path());
        files.extend(all.filter(|path| !files.contains(path)).collect::<Vec<_>>());
        files.last().unwrap().clone()
    };
    let one = place.tape("one", "x = 1", &taped(), &tools());
    let first = newest();
    let two = place.tape("one", "x + 1", &taped(), &tools());
    let second = newest();
    assert!(place.cannot("one", Digest::ZERO).contains("no tape of this execution"));
    assert!(place.cannot("other", one).contains("no tape of this execution"), "another session's");
    let junk = place.vault.put_tape(&seat("one"), b"weirtap1 and then junk").unwrap();
    assert!(place.cannot("one", junk).contains("not a tape"));
    let build = Guest::all(None).unwrap().into_iter().find(|guest| guest.name == "python").unwrap().digest.unwrap();
    let mut older = build.clone();
    older.replace_range(0..1, if build.starts_with('0') { "1" } else { "0" });
    let old = place.forged("one", one, format!("sha256:{build}").as_bytes(), format!("sha256:{older}").as_bytes());
    let said = place.cannot("one", old);
    assert!(said.contains(&older) && said.contains(&build) && said.contains("guest python"), "{said}");
    // The first tape of the chain has gone.
    std::fs::remove_file(&first).unwrap();
    let said = place.cannot("one", two);
    assert!(said.contains("the step 1 before it") && said.contains("no tape of this execution"), "{said}");
    // A tape whose file was changed.
    let mut bytes = std::fs::read(&second).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&second, bytes).unwrap();
    let said = place.cannot("one", two);
    assert!(said.contains("changed") && !said.contains("before"), "{said}");
}

#[test]
fn a_step_after_one_without_a_tape_has_none_and_is_told_why() {
    let place = Place::new();
    assert_eq!(place.run("one", "x = 1", &grant(), &tools()).tape, None);
    let outcome = place.run("one", "x", &taped(), &tools());
    assert_eq!((outcome.tape, outcome.status), (None, Status::Done));
    assert!(outcome.notices.iter().any(|said| said.contains("No tape") && said.contains("new session")), "{outcome:?}");
    // A fresh interpreter begins a chain, also within the session.
    let alone = CodeGrant { keep: Keep::Nothing, ..taped() };
    let tape = place.tape("two", "print(1)", &alone, &tools());
    place.identical("two", tape);
}

#[test]
fn a_gate_without_a_store_does_not_run_what_must_be_recorded() {
    let sandbox = Sandbox::open(SandboxConfig::new(wall())).unwrap();
    let outcome = sandbox.run(&key(&name("one")), "print(1)", &Map::new(), &taped(), &Desk::default());
    assert_eq!((outcome.status, outcome.logs.as_str()), (Status::Broken, ""));
    assert!(message(&outcome).contains("tapes") && message(&outcome).contains("no store"), "{}", message(&outcome));
}

#[test]
fn a_session_with_a_folder_is_replayed_in_an_empty_one() {
    let place = Place::new();
    let quota = Quota { bytes: 1 << 20, files: 50 };
    let grant = CodeGrant { scratch: Some(Scratch { guest: "/desk".into(), quota }), ..taped() };
    let first = place.tape("one", "open('/desk/a', 'w').write('abc')", &grant, &tools());
    let code = "import os\nprint(open('/desk/a').read(), sorted(os.listdir('/desk')))\nopen('/desk/b', 'w').write('x')";
    let second = place.run("one", code, &grant, &tools());
    assert_eq!((second.status, second.files.len()), (Status::Done, 1), "{}", message(&second));
    place.identical("one", first);
    let replayed = place.identical("one", second.tape.unwrap());
    assert_eq!(replayed.outcome.files, second.files);
    assert_eq!(place.sandbox.files(&seat("one")).unwrap().len(), 2, "the session's own folder is as it was");
    // What somebody else put there is on no tape.
    place.sandbox.write(&seat("one"), "given", b"from outside").unwrap();
    let third = place.tape("one", "print(open('/desk/given').read())", &grant, &tools());
    let said = place.cannot("one", third);
    assert!(said.contains("step 3 of 3") && said.contains("its folder held files"), "{said}");
    assert_eq!(left(&place.home.path().join("scratch")), 1, "replays leave no folder behind");
}

#[test]
fn folders_of_the_host_are_read_as_they_are_and_never_written() {
    let (place, data) = (Place::new(), tempfile::tempdir().unwrap());
    std::fs::write(data.path().join("in"), "first").unwrap();
    let host = data.path().to_string_lossy().into_owned();
    let folder = |access, quota| Preopen { guest: "/data".into(), host: host.clone(), access, quota };
    let reads = CodeGrant { files: vec![folder(Access::Read, None)], keep: Keep::Nothing, ..taped() };
    let tape = place.tape("one", "print(open('/data/in').read())", &reads, &tools());
    assert_eq!(place.identical("one", tape).folders, ["/data"]);
    std::fs::write(data.path().join("in"), "other").unwrap();
    let replayed = place.replay("one", tape).unwrap();
    assert!(matches!(replayed.verdict, Verdict::Differs(said) if said.contains("printed")));
    assert_eq!(replayed.folders, ["/data"]);
    let quota = Some(Quota { bytes: 1 << 20, files: 50 });
    let writes = CodeGrant { files: vec![folder(Access::Write, quota)], ..reads };
    let tape = place.tape("two", "open('/data/out', 'a').write('x')", &writes, &tools());
    let said = place.cannot("two", tape);
    assert!(said.contains("could write to the host's folder for /data"), "{said}");
    assert_eq!(std::fs::read_to_string(data.path().join("out")).unwrap(), "x", "written once");
}

fn left(folder: &Path) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

#[test]
fn a_replay_uses_no_live_worker_and_leaves_none() {
    let place = Place::new();
    place.tape("one", "x = 41", &taped(), &tools());
    let second = place.tape("one", "x += 1", &taped(), &tools());
    let before = place.sandbox.processes();
    place.identical("one", second);
    assert_eq!(place.sandbox.processes(), before);
    assert_eq!(place.run("one", "x", &taped(), &tools()).output, json!(42), "the live session is untouched");
    place.sandbox.close(&seat("one"));
    place.identical("one", second);
}

#[test]
fn a_javascript_program_comes_out_the_same() {
    if super::javascript::skipped() {
        return;
    }
    Guest::build("javascript", None, &Silent).unwrap();
    let place = Place::new();
    let run = |code: &str| {
        let key = weir::sandbox::Key { guest: "javascript".into(), ..key(&name("one")) };
        place.sandbox.run(&key, code, &Map::new(), &wild(), &tools())
    };
    let first = run("let x = [Math.random(), Date.now(), crypto.randomUUID()]; console.log(x); x.length");
    assert_eq!((first.status, &first.output), (Status::Done, &Value::from(3)), "{}", message(&first));
    let second = run("console.log(x, Math.random(), (await look(1)).rows); new Date().getTime()");
    assert_eq!(second.status, Status::Done, "{}", message(&second));
    assert_eq!(place.identical("one", second.tape.unwrap()).steps, 2);
    let said = place.differs("one", place.forged("one", first.tape.unwrap(), b"x.length", b"x.concat"));
    assert!(said.contains("results"), "{said}");
}

#[test]
fn the_name_of_a_tape_is_the_digest_of_all_of_it() {
    let place = Place::new();
    let tape = place.tape("one", "print(1)", &taped(), &tools());
    let bytes = place.vault.get_tape(&seat("one"), &tape).unwrap();
    assert_eq!(Digest::of(&bytes), tape);
}
