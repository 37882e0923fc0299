//! Programs through the whole line: decided, held, on record while they run, settled; and lost with their launcher.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;
use weir::audit::Head;
use weir::journal::{self, Sqlite};
use weir::model::{Call, CallId, Kind, Millis, Outcome, ReasonCode, Status, Timestamp};
use weir::native::{Board, Card, Launcher, Posting, exit_code};
use weir::pdp::Compiled;
use weir::pep::Gate;
use weir::pep::port::{Clock, Nobody, ToolHost, ToolSpec};
use weir::policy::parse;

use crate::rig::{Place, call, marked, marker};

struct Now;

impl Clock for Now {
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        Timestamp(u64::try_from(since.as_millis()).unwrap())
    }
}

pub struct NoTools;

impl ToolHost for NoTools {
    fn tools(&self) -> Vec<ToolSpec> {
        Vec::new()
    }

    fn call(&self, _: &CallId, _: &str, _: &serde_json::Map<String, serde_json::Value>, _: Millis) -> Outcome {
        Outcome::of(Status::Broken)
    }
}

/// Two GPUs whose device file is the one that swallows everything.
pub struct Pair;

impl Board for Pair {
    fn cards(&self) -> Result<Vec<Card>, String> {
        let card = |number| Card {
            uuid: format!("GPU-{}-{number}", std::process::id()),
            device: "/dev/null".into(),
            busy: number,
        };
        Ok(vec![card(1), card(0)])
    }

    fn load(&self, _: &str) -> Option<u32> {
        Some(40)
    }
}

fn gate(place: &Place, store: &Path, wall_ms: u64) -> Gate {
    let text = format!(
        r#"
[policy]
id = "training"
[exec]
programs = ["sh"]
read = ["{}"]
write = ["{}"]
gpus = 2
[exec.limits]
wall_ms = {wall_ms}
cpu_ms = 50_000
memory_bytes = 536_870_912
processes = 64
disk_bytes = 10_000_000
grace_ms = 0
[[budget]]
id = "gpu"
scope = "agent"
kind = "gpu_ms"
limit = 150_000
[[budget]]
id = "cpu"
scope = "agent"
kind = "cpu_ms"
limit = 120_000
[[rule]]
id = "all"
effect = "allow"
actions = ["process.run"]
"#,
        place.data.display(),
        place.out.display()
    );
    opened(&text, store)
}

/// A gate under the policy `text` on the store in a folder.
pub fn opened(text: &str, store: &Path) -> Gate {
    let policy = parse(text.as_bytes(), "p.toml").unwrap_or_else(|faults| panic!("{faults}"));
    let policy = Compiled::new(policy).unwrap_or_else(|faults| panic!("{faults}"));
    let (key, sealing) = (journal::key(store).unwrap(), journal::key(store).unwrap());
    let seal = Box::new(move |count, hash| Head::sign(count, hash, &sealing));
    let books = Sqlite::open(store, seal).unwrap();
    Gate::open(policy, Box::new(books), Box::new(Now), Box::new(Nobody), key).unwrap()
}

fn ask(line: &str, mark: &str, gpus: u64) -> Call {
    let mut call = call(&["sh", "-c", line, mark]);
    call.args.insert("gpus".into(), json!(gpus));
    call
}

pub fn posted(gate: &Gate, kind: Kind) -> u64 {
    let balances = gate.balances();
    balances.iter().map(|balance| balance.posted.of(kind)).max().unwrap_or(0)
}

fn launcher(place: &Place) -> Launcher {
    let files = [fs::File::open("/dev/null").unwrap(), tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap()];
    Launcher { board: Box::new(Pair), streams: Some(files.map(Into::into)), ..place.launcher() }
}

pub fn the_whole_line_runs_a_program_and_settles_it() {
    let (place, store) = (Place::make(), tempfile::tempdir().unwrap());
    let (gate, mark, launcher) = (gate(&place, store.path(), 30_000), marker(), launcher(&place));
    let posting = Posting { gate: &gate, launcher: &launcher };
    let line = "echo $CUDA_VISIBLE_DEVICES > seen; sleep 0.5; exit 4";
    let answer = gate.handle(ask(line, &mark, 2), &posting, &NoTools);
    assert_eq!(exit_code(&answer), 4, "{answer:?}");
    let seen = fs::read_to_string(place.out.join("seen")).unwrap();
    assert_eq!(seen.trim(), format!("GPU-{0}-0,GPU-{0}-1", std::process::id()));
    let (gpu, wall) = (posted(&gate, Kind::GpuMs), answer.outcome.as_ref().unwrap().usage.of(Kind::WallMs));
    assert_eq!(gpu, 2 * wall, "two GPUs for as long as it ran");
    assert!(gpu >= 1_000, "{gpu}");
    // What the policy does not list is refused before anything is started.
    let other = gate.handle(call(&["python3"]), &posting, &NoTools);
    assert_eq!((exit_code(&other), other.decision.reason.code), (125, ReasonCode::NoProgram));
    let many = gate.handle(ask("exit 0", &mark, 3), &posting, &NoTools);
    assert_eq!(exit_code(&many), 125);
    // What could not be started costs nothing.
    let absent =
        gate.handle(ask("exit 0", &mark, 0), &Launcher { cwd: "/nowhere".into(), ..self::launcher(&place) }, &NoTools);
    assert_eq!((exit_code(&absent), posted(&gate, Kind::GpuMs)), (126, gpu));
    assert_eq!(marked(&mark), 0);
}

/// Should the gate be lost, what a long run has used is on record.
pub fn what_is_used_is_posted_while_it_runs() {
    let (place, store) = (Place::make(), tempfile::tempdir().unwrap());
    let (gate, mut launcher) = (Arc::new(gate(&place, store.path(), 60_000)), launcher(&place));
    let (seen, out) = (Arc::clone(&gate), place.out.clone());
    launcher.watch = Box::new(move |_| {
        if posted(&seen, Kind::GpuMs) > 0 {
            fs::write(out.join("posted"), "").unwrap();
        }
    });
    // It ends once something is posted; nothing is posted for it otherwise.
    let line = "while ! [ -e posted ]; do sleep 0.1; done; exit 0";
    let posting = Posting { gate: &gate, launcher: &launcher };
    let answer = gate.handle(ask(line, &marker(), 1), &posting, &NoTools);
    let wall = answer.outcome.as_ref().unwrap().usage.of(Kind::WallMs);
    assert_eq!((exit_code(&answer), posted(&gate, Kind::GpuMs)), (0, wall), "once, and not twice: {answer:?}");
}

pub fn play(words: &[String]) -> ExitCode {
    let [out, data, store, mark] = words else { return ExitCode::FAILURE };
    let made = Place::make();
    let place = Place { out: PathBuf::from(out), data: PathBuf::from(data), ..made };
    let (gate, said, seen) = (gate(&place, Path::new(store), 30_000), AtomicBool::new(false), mark.clone());
    let mut launcher = launcher(&place);
    launcher.watch = Box::new(move |_| {
        if marked(&seen) > 1 && !said.swap(true, Ordering::Relaxed) {
            println!("running");
        }
    });
    let posting = Posting { gate: &gate, launcher: &launcher };
    let _ = gate.handle(ask("trap '' TERM; while :; do sleep 0.1; done", mark, 1), &posting, &NoTools);
    ExitCode::SUCCESS
}

/// Killed without a word: the tree is gone, and the next start of the gate counts what was held as spent.
pub fn a_lost_launcher_is_settled_as_spent() {
    let (place, store, mark) = (Place::make(), tempfile::tempdir().unwrap(), marker());
    let text = |path: &Path| path.display().to_string();
    let mut launcher = Command::new(std::env::current_exe().unwrap());
    launcher.args(["role:gate", &text(&place.out), &text(&place.data), &text(store.path()), &mark]);
    let mut launcher = launcher.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(launcher.stdout.take().unwrap()).lines();
    let said = lines.find_map(|line| line.ok().filter(|line| line == "running"));
    assert!(said.is_some());
    launcher.kill().unwrap();
    launcher.wait().unwrap();
    let gone = (0..400).any(|_| {
        thread::sleep(Duration::from_millis(10));
        marked(&mark) == 0
    });
    assert!(gone);
    let gate = gate(&place, store.path(), 30_000);
    assert_eq!(posted(&gate, Kind::GpuMs), 30_000, "all of what was held");
    assert_eq!(gate.doubts().len(), 1);
}
