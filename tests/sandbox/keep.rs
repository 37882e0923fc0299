//! Sessions that outlast their interpreters: on disk and back, copied, taken back, behind both walls.

use std::path::Path;
use std::sync::Arc;

use serde_json::Map;
use weir::model::{Checkpoint, CodeGrant, Keep, Name, Outcome, Seat, Status};
use weir::pep::port::{Executor as _, KeepFault, Keeper as _};
use weir::sandbox::{Caps, Sandbox, SandboxConfig, Vault, VaultKey, Wall};

use crate::desk::{Desk, grant, key, message, name, wall};

/// A gate's store.
struct Store(tempfile::TempDir);

impl Store {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn at(&self) -> &Path {
        self.0.path()
    }

    fn vault(&self) -> Arc<Vault> {
        let key = VaultKey::beside(self.at()).unwrap();
        Arc::new(Vault::open(self.at().join(Vault::FOLDER), key, Caps::default()).unwrap())
    }

    fn open(&self) -> Sandbox {
        self.open_with(|_| {})
    }

    fn open_with(&self, change: impl FnOnce(&mut SandboxConfig)) -> Sandbox {
        let mut config = SandboxConfig { vault: Some(self.vault()), ..SandboxConfig::new(wall()) };
        change(&mut config);
        Sandbox::open(config).unwrap()
    }
}

fn run_under(sandbox: &Sandbox, session: &Name, code: &str, grant: &CodeGrant) -> Outcome {
    sandbox.run(&key(session), code, &Map::new(), grant, &Desk::default())
}

fn run(sandbox: &Sandbox, session: &Name, code: &str) -> Outcome {
    run_under(sandbox, session, code, &grant())
}

fn seat(session: &Name) -> Seat {
    key(session).seat
}

/// What `code` prints, in one step that ends well.
fn prints(sandbox: &Sandbox, session: &Name, code: &str) -> String {
    let outcome = run(sandbox, session, code);
    assert_eq!(outcome.status, Status::Done, "{}", message(&outcome));
    outcome.logs
}

fn step() -> CodeGrant {
    CodeGrant { checkpoint: Checkpoint::Step, ..grant() }
}

#[test]
fn a_session_goes_on_after_a_restart_as_if_nothing_had_happened() {
    let (store, one) = (Store::new(), name("one"));
    let first = store.open();
    prints(&first, &one, "import random, math\nclass P:\n  def __init__(self, x): self.x = x\np = P([1, 2])\nq = p");
    let before = prints(&first, &one, "print(random.random(), hash('a'), id(p) == id(q))");
    let straight = name("straight");
    drop(first);
    let second = store.open();
    assert_eq!(second.list().iter().map(|kept| (kept.live, kept.steps)).collect::<Vec<_>>(), [(false, 2)]);
    let outcome = run(&second, &one, "p.x.append(3)\nprint(p.x, q.x, math.pi > 3)");
    assert_eq!(
        (outcome.logs.as_str(), outcome.replaced),
        ("[1, 2, 3] [1, 2, 3] True\n", false),
        "{}",
        message(&outcome)
    );
    assert!(outcome.notices.is_empty(), "{:?}", outcome.notices);
    assert_eq!(second.list().iter().map(|kept| (kept.live, kept.steps)).collect::<Vec<_>>(), [(true, 3)]);
    // The dice go on where they stood.
    prints(&second, &straight, "pass");
    let third = prints(&second, &one, "print(random.random(), hash('a'))");
    assert_ne!(before.split(' ').next(), third.split(' ').next());
    assert_eq!(before.split(' ').nth(1), third.trim().split(' ').nth(1));
}

#[test]
fn a_stored_session_behind_no_wall_is_the_same() {
    let (store, one) = (Store::new(), name("one"));
    let open = || store.open_with(|config| config.wall = Wall::DangerousNone);
    prints(&open(), &one, "x = {'a': [1]}");
    assert_eq!(prints(&open(), &one, "print(x)"), "{'a': [1]}\n");
}

#[test]
fn sessions_beyond_the_cap_rest_on_disk_and_come_back() {
    let store = Store::new();
    let sandbox = store.open_with(|config| config.sessions = 3);
    let names: Vec<Name> = (0..8).map(|n| name(&format!("s{n}"))).collect();
    for (n, session) in names.iter().enumerate() {
        prints(&sandbox, session, &format!("x = {n}"));
    }
    assert_eq!(sandbox.list().iter().filter(|kept| kept.live).count(), 3);
    assert_eq!(sandbox.list().len(), 8);
    for (n, session) in names.iter().enumerate() {
        let outcome = run(&sandbox, session, "x += 100\nprint(x)");
        assert_eq!(outcome.logs, format!("{}\n", n + 100), "{}", message(&outcome));
        assert!(outcome.notices.is_empty(), "{:?}", outcome.notices);
    }
}

#[test]
fn sessions_leave_memory_when_it_is_used_up() {
    let store = Store::new();
    let sandbox = store.open_with(|config| config.live_bytes = 1);
    let (one, two) = (name("one"), name("two"));
    prints(&sandbox, &one, "x = 1");
    assert!(sandbox.list().iter().all(|kept| !kept.live), "no memory, no interpreter at rest in it");
    prints(&sandbox, &two, "x = 2");
    assert_eq!(prints(&sandbox, &one, "print(x)"), "1\n");
    assert_eq!(prints(&sandbox, &two, "print(x)"), "2\n");
}

#[test]
fn a_session_without_a_store_is_told_that_it_was_dropped() {
    let sandbox = Sandbox::open(SandboxConfig { sessions: 1, ..SandboxConfig::new(wall()) }).unwrap();
    let (one, two) = (name("one"), name("two"));
    prints(&sandbox, &one, "x = 1");
    prints(&sandbox, &two, "x = 2");
    let outcome = run(&sandbox, &one, "print('x' in globals())");
    assert_eq!(outcome.logs, "False\n");
    assert!(outcome.notices.iter().any(|notice| notice.contains("unused for the longest time")));
    assert!(matches!(sandbox.checkpoint(&seat(&one)), Err(KeepFault::Refused(_))));
}

#[test]
fn a_session_goes_back_to_a_checkpoint_and_says_so() {
    let (store, one) = (Store::new(), name("one"));
    let sandbox = store.open();
    prints(&sandbox, &one, "x = 1");
    let first = sandbox.checkpoint(&seat(&one)).unwrap();
    prints(&sandbox, &one, "x = 2\ny = 3");
    let second = sandbox.checkpoint(&seat(&one)).unwrap();
    assert_eq!((first.steps, second.steps), (1, 2));
    assert_eq!(second.after.as_deref(), Some(first.id.as_str()));
    prints(&sandbox, &one, "x = 9");
    assert_eq!(sandbox.roll_back(&seat(&one), Some(&first.id)).unwrap().id, first.id);
    let outcome = run(&sandbox, &one, "print(x, 'y' in globals())");
    assert_eq!(outcome.logs, "1 False\n");
    assert!(outcome.notices.iter().any(|notice| notice.contains("after its step 1")), "{:?}", outcome.notices);
    assert!(run(&sandbox, &one, "x").notices.is_empty(), "told once");
    assert_eq!(sandbox.roll_back(&seat(&one), None).unwrap().id, second.id, "the newest one");
    assert_eq!(prints(&sandbox, &one, "print(x, y)"), "2 3\n");
    assert!(matches!(sandbox.roll_back(&seat(&one), Some("0123")), Err(KeepFault::Absent(_))));
    assert_eq!(prints(&sandbox, &one, "print(x, y)"), "2 3\n", "a wrong checkpoint changes nothing");
    assert!(matches!(sandbox.roll_back(&seat(&name("two")), None), Err(KeepFault::Absent(_))));
}

#[test]
fn a_copy_goes_its_own_way() {
    let (store, one, two, three) = (Store::new(), name("one"), name("two"), name("three"));
    let sandbox = store.open();
    prints(&sandbox, &one, "x = [1]");
    let point = sandbox.checkpoint(&seat(&one)).unwrap();
    prints(&sandbox, &one, "x.append(2)");
    sandbox.fork(&seat(&one), None, &seat(&two)).unwrap();
    sandbox.fork(&seat(&one), Some(&point.id), &seat(&three)).unwrap();
    let outcome = run(&sandbox, &two, "x.append('two')\nprint(x)");
    assert_eq!(outcome.logs, "[1, 2, 'two']\n", "{}", message(&outcome));
    assert_eq!(prints(&sandbox, &three, "print(x)"), "[1]\n");
    assert_eq!(prints(&sandbox, &one, "print(x)"), "[1, 2]\n");
    assert!(matches!(sandbox.fork(&seat(&one), None, &seat(&two)), Err(KeepFault::Refused(_))), "it has something");
    let foreign = Seat { agent: name("other"), ..seat(&name("four")) };
    assert!(matches!(sandbox.fork(&seat(&one), None, &foreign), Err(KeepFault::Refused(_))));
    assert!(matches!(sandbox.fork(&foreign, None, &foreign), Err(KeepFault::Absent(_))));
}

#[test]
fn a_trap_loses_one_step_where_the_policy_asks_for_checkpoints() {
    let store = Store::new();
    let none = || Sandbox::open(SandboxConfig::new(wall())).unwrap();
    for (kept, sandbox) in [(true, store.open()), (false, none())] {
        let one = name("one");
        run_under(&sandbox, &one, "x = 1", &step());
        let lost = run_under(
            &sandbox,
            &one,
            "x = 2\nwhile True: pass",
            &CodeGrant { limits: weir::model::CodeLimits { fuel: 2_000_000_000, ..step().limits }, ..step() },
        );
        assert_eq!((lost.status, lost.replaced), (Status::Exhausted, false), "{}", message(&lost));
        let told = if kept { "after its step 1" } else { "as it was before it" };
        assert!(lost.notices.iter().any(|notice| notice.contains(told)), "{:?}", lost.notices);
        let outcome = run_under(&sandbox, &one, "print(x)", &step());
        assert_eq!(outcome.logs, "1\n", "{} {:?}", message(&outcome), outcome.notices);
    }
}

#[test]
fn a_dead_worker_loses_one_step_where_the_policy_asks_for_checkpoints() {
    let (store, one) = (Store::new(), name("one"));
    let sandbox = store.open();
    run_under(&sandbox, &one, "x = 1", &step());
    run_under(&sandbox, &one, "x = 2", &step());
    let [worker] = sandbox.processes()[..] else { panic!("one agent has one worker") };
    let killed = std::process::Command::new("kill").args(["-9", &worker.to_string()]).status();
    assert!(killed.unwrap().success());
    let outcome = run_under(&sandbox, &one, "print(x)", &step());
    assert_eq!(outcome.logs, "1\n", "what was put aside before the second step");
    assert!(outcome.notices.iter().any(|notice| notice.contains("after its step 1")), "{:?}", outcome.notices);
}

#[test]
fn a_session_with_a_file_open_is_told_that_it_cannot_be_kept() {
    let (store, one) = (Store::new(), name("one"));
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a"), "text").unwrap();
    let host = folder.path().display().to_string();
    let file = weir::model::Preopen { host, guest: "/in".into(), access: weir::model::Access::Read, quota: None };
    let with = CodeGrant { files: vec![file], imports: vec!["io".into()], ..step() };
    let sandbox = store.open();
    let opened = run_under(&sandbox, &one, "f = open('/in/a')", &with);
    assert_eq!(opened.status, Status::Done, "{}", message(&opened));
    let outcome = run_under(&sandbox, &one, "print(f.read())", &with);
    assert_eq!(outcome.logs, "text\n");
    assert!(outcome.notices.iter().any(|notice| notice.contains("close them first")), "{:?}", outcome.notices);
    assert!(matches!(sandbox.checkpoint(&seat(&one)), Err(KeepFault::Refused(_))));
    run_under(&sandbox, &one, "f.close()\nx = 5", &with);
    sandbox.checkpoint(&seat(&one)).unwrap();
    drop(sandbox);
    // Its folder is there again behind the restart.
    let again = run_under(&store.open(), &one, "print(x, open('/in/a').read())", &with);
    assert_eq!(again.logs, "5 text\n", "{} {:?}", message(&again), again.notices);
}

#[test]
fn a_changed_policy_begins_anew_and_says_why() {
    let (store, one) = (Store::new(), name("one"));
    prints(&store.open(), &one, "x = 1");
    let other = CodeGrant { clock: weir::model::Clock::Real, ..grant() };
    let sandbox = store.open();
    let outcome = run_under(&sandbox, &one, "print('x' in globals())", &other);
    assert_eq!(outcome.logs, "False\n");
    assert!(outcome.notices.iter().any(|notice| notice.contains("policy changed")), "{:?}", outcome.notices);
    let small = CodeGrant { keep: Keep::Run, ..grant() };
    assert_eq!(run_under(&sandbox, &name("run"), "print(1)", &small).logs, "1\n");
    assert!(sandbox.list().iter().all(|kept| kept.seat.name != name("run")), "what lasts for a run is not kept");
}

#[test]
fn nothing_is_left_of_a_session_that_was_closed_or_removed() {
    let (store, one, two) = (Store::new(), name("one"), name("two"));
    let sandbox = store.open();
    for session in [&one, &two] {
        prints(&sandbox, session, "x = 1");
        sandbox.checkpoint(&seat(session)).unwrap();
    }
    sandbox.close(&seat(&one));
    sandbox.remove(&seat(&two)).unwrap();
    assert!(matches!(sandbox.remove(&seat(&two)), Err(KeepFault::Absent(_))));
    assert_eq!(sandbox.list(), []);
    for session in [&one, &two] {
        let outcome = run(&sandbox, session, "print('x' in globals())");
        assert_eq!((outcome.logs.as_str(), outcome.notices.len()), ("False\n", 0), "{:?}", outcome.notices);
    }
    drop(sandbox);
    assert_eq!(store.open().list().len(), 2, "the new ones");
}

#[test]
fn a_changed_byte_on_disk_is_a_fresh_session_that_is_told_why() {
    let (store, one) = (Store::new(), name("one"));
    prints(&store.open(), &one, "x = 'secret-in-memory'");
    let folder = store.at().join(Vault::FOLDER);
    let mut files = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let file = files.find(|path| path.file_name().is_some_and(|n| n.len() == 32)).unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    assert!(!bytes.windows(16).any(|window| window == b"secret-in-memory"), "sealed");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let outcome = run(&store.open(), &one, "print('x' in globals())");
    assert_eq!(outcome.logs, "False\n");
    assert!(outcome.notices.iter().any(|notice| notice.contains("cannot be used")), "{:?}", outcome.notices);
}
