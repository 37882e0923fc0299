//! Programs that a running gate runs for others: one ledger, the gate's own walls and meters, whoever asks is only a client.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;
use weir::ledger::AccountId;
use weir::model::{Action, Amounts, Call, Kind, Millis, Outcome, Resource, Secret, Status, Tier};
use weir::native::{Door, Errand, Service, Serving, Terms, Told, Way};
use weir::pep::Gate;

use crate::gate::{Pair, opened, posted};
use crate::rig::{AGAIN, Place, call, lacking, marked, marker, name};

pub const TOKEN: &str = "agent-token-0123456789";
/// A program that waits until it may go, so that how many run is a matter of counting.
const WAITS: &str = "trap '' TERM INT HUP; echo >> began; while ! [ -e go ]; do sleep 0.05; done";

/// A gate that runs programs, with everything that it needs.
pub struct Site {
    pub place: Place,
    pub gate: Arc<Gate>,
    pub home: TempDir,
    pub socket: PathBuf,
    pub serving: Option<Serving>,
}

impl Site {
    pub fn make(budgets: &str) -> Self {
        Self::on(budgets, |_| {})
    }

    /// The same on changed terms.
    pub fn on(budgets: &str, change: impl FnOnce(&mut Terms)) -> Self {
        let (place, home) = (Place::make(), tempfile::tempdir().unwrap());
        let gate = Arc::new(opened(&policy(&place, budgets), &home.path().join("store")));
        let socket = home.path().join("run/exec.sock");
        let mut terms = terms();
        change(&mut terms);
        let serving = Service::bind(&socket).unwrap().start(Arc::clone(&gate), terms).unwrap();
        Self { place, gate, home, socket, serving: Some(serving) }
    }

    fn errand(&self, argv: &[&str]) -> Errand {
        errand(&self.socket, &self.place.out, argv)
    }

    /// Runs a line of the shell for a caller; what it was told, and what the program said.
    fn shell(&self, line: &str) -> (Told, String) {
        said(self.errand(&["sh", "-c", line]))
    }

    fn agent(&self) -> AccountId {
        let agent = self.gate.balances().into_iter().find(|balance| balance.tier == Tier::Agent);
        agent.unwrap().account
    }

    pub fn pending(&self) -> Amounts {
        let balances = self.gate.balances();
        balances.into_iter().find(|balance| balance.tier == Tier::Agent).map_or(Amounts::ZERO, |agent| agent.pending)
    }
}

fn policy(place: &Place, budgets: &str) -> String {
    format!(
        r#"
[policy]
id = "training"
[exec]
programs = ["sh", "python3"]
read = ["{}"]
write = ["{}"]
env = ["WEIR_GRANTED", "WEIR_ABSENT"]
network = "gate"
gpus = 2
[exec.limits]
wall_ms = 60_000
cpu_ms = 50_000
memory_bytes = 536_870_912
processes = 64
disk_bytes = 10_000_000
grace_ms = 0
[jobs]
namespaces = ["team"]
images = ["python:3.12"]
commands = [["python"]]
max_timeout = "4h"
[[jobs.flavor]]
name = "t4"
micro_usd_per_hour = 400_000
gpus = 1
source = "the provider's page"
as_of = "2026-11-01"
[[rule]]
id = "all"
effect = "allow"
actions = ["process.run", "job.launch"]
{budgets}
"#,
        place.data.display(),
        place.out.display()
    )
}

pub fn budget(kind: &str, limit: u64) -> String {
    format!("[[budget]]\nid = \"{kind}\"\nscope = \"agent\"\nkind = \"{kind}\"\nlimit = {limit}\n")
}

fn terms() -> Terms {
    let own = std::env::current_exe().unwrap();
    let token = Secret::new(TOKEN).unwrap();
    let mut terms = Terms::new(name("org"), name("agent"), token, own, vec![AGAIN.to_owned()]);
    terms.board = Arc::new(Pair);
    terms.without = lacking();
    terms
}

pub fn null() -> OwnedFd {
    File::open("/dev/null").unwrap().into()
}

fn errand(socket: &Path, cwd: &Path, argv: &[&str]) -> Errand {
    Errand {
        socket: socket.to_path_buf(),
        token: Secret::new(TOKEN).unwrap(),
        argv: argv.iter().map(|word| (*word).to_owned()).collect(),
        cwd: cwd.display().to_string(),
        gpus: 0,
        session: None,
        doors: Vec::new(),
        environment: BTreeMap::new(),
        streams: [null(), null(), null()],
        signal: Arc::default(),
        watch: Box::new(|_| {}),
    }
}

fn said(mut errand: Errand) -> (Told, String) {
    let mut file = tempfile::tempfile().unwrap();
    errand.streams[1] = file.try_clone().unwrap().into();
    errand.streams[2] = file.try_clone().unwrap().into();
    let told = errand.run();
    file.rewind().unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    (told, text)
}

/// Waits for something that must come, within bounds.
pub fn until(what: impl Fn() -> bool) -> bool {
    (0..1_500).any(|_| {
        let there = what();
        if !there {
            thread::sleep(Duration::from_millis(20));
        }
        there
    })
}

pub fn lines(path: &Path) -> usize {
    fs::read_to_string(path).map_or(0, |text| text.lines().count())
}

fn refused(told: &Told) -> &str {
    match told {
        Told::Refused(why) => {
            assert!(why.len() < 400, "{why}");
            why
        }
        other => panic!("{other:?}"),
    }
}

pub fn a_running_gate_runs_a_program_for_a_caller() {
    let site = Site::make(&budget("gpu_ms", 200_000));
    let mut errand = site.errand(&["sh", "-c", "cat; env > seen; pwd; echo err >&2; sleep 0.5; exit 4"]);
    let (input, mut into) = std::io::pipe().unwrap();
    into.write_all(b"given\n").unwrap();
    drop(into);
    errand.streams[0] = input.into();
    errand.gpus = 2;
    errand.session = Some("mine".into());
    errand.environment = [("WEIR_GRANTED", "yes"), ("WEIR_SECRET", "no"), ("HF_TOKEN", "no")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    let looks = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&looks);
    errand.watch = Box::new(move |progress| {
        assert!(progress.rows().any(|(kind, ..)| kind == Kind::GpuMs));
        counted.fetch_add(1, Ordering::Relaxed);
    });
    let (told, text) = said(errand);
    let Told::Ended(ended) = &told else { panic!("{told:?}") };
    assert_eq!((told.exit_code(), ended.status), (4, Status::Failed), "{ended:?}");
    assert_eq!(text, format!("given\n{}\nerr\n", site.place.out.display()));
    assert!(looks.load(Ordering::Relaxed) >= 2, "what is spent is shown");
    let seen = fs::read_to_string(site.place.out.join("seen")).unwrap();
    assert!(seen.contains("WEIR_GRANTED=yes") && !seen.contains("WEIR_SECRET") && !seen.contains("HF_TOKEN"), "{seen}");
    assert!(seen.contains("CUDA_VISIBLE_DEVICES=GPU-") && !seen.contains(TOKEN), "{seen}");
    // Metered and settled by the gate, on the account of its own agent.
    let gpu = posted(&site.gate, Kind::GpuMs);
    assert!(gpu >= 1_000 && ended.summary.contains("GPU time"), "{gpu} {}", ended.summary);
    assert!(site.agent().to_string().contains("agent"), "{}", site.agent());
    assert_eq!(site.pending(), Amounts::ZERO);
    // The same again, and what is not listed is refused with what is.
    assert_eq!(site.shell("exit 0").0.exit_code(), 0);
    let (other, _) = said(site.errand(&["perl"]));
    assert!(refused(&other).contains("perl") && other.exit_code() == 125, "{other:?}");
    let (absent, _) = said(site.errand(&["/nowhere/sh"]));
    assert_eq!(absent.exit_code(), 127, "{absent:?}");
}

/// A budget for three at once and forty who ask at once: three run, whatever the order.
pub fn forty_callers_against_places_for_three_are_three() {
    let site = Site::make(&budget("jobs", 3));
    let (refusals, began) = (AtomicUsize::new(0), site.place.out.join("began"));
    let codes: Vec<u8> = thread::scope(|scope| {
        let asking: Vec<_> = (0..40)
            .map(|_| {
                scope.spawn(|| {
                    let (told, _) = site.shell(WAITS);
                    if matches!(told, Told::Refused(_)) {
                        assert!(refused(&told).contains("jobs"), "{told:?}");
                        refusals.fetch_add(1, Ordering::SeqCst);
                    }
                    told.exit_code()
                })
            })
            .collect();
        // Nobody ends before all others were refused.
        let settled = until(|| refusals.load(Ordering::SeqCst) >= 37 && lines(&began) >= 3);
        assert!(settled, "{} refused, {} began", refusals.load(Ordering::SeqCst), lines(&began));
        fs::write(site.place.out.join("go"), "").unwrap();
        asking.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let count = |code: u8| codes.iter().filter(|told| **told == code).count();
    assert_eq!((count(0), count(125), lines(&began)), (3, 37, 3), "{codes:?}");
    assert_eq!(site.pending(), Amounts::ZERO);
}

fn job(seconds: u64) -> Call {
    let args = json!({
        "image": "python:3.12", "command": ["python", "x.py"], "timeout_s": seconds, "namespace": "team", "secrets": [],
        "environment": {}, "volumes": [], "ports": [], "ssh": false, "network": null, "schedule": null,
    });
    let args = args.as_object().unwrap().clone();
    let resource = Resource::named(name("t4"));
    Call { action: Action::JobLaunch, args, resource, ..call(&["sh"]) }
}

/// Jobs on rented machines and programs of this one stand in one ledger.
pub fn what_other_calls_of_the_gate_hold_and_used_a_program_does_not_get() {
    let site = Site::make(&[budget("gpu_ms", 200_000), budget("micro_usd", 1_000_000)].concat());
    let ask = |gpus| {
        let mut errand = site.errand(&["sh", "-c", "exit 0"]);
        errand.gpus = gpus;
        errand.run()
    };
    assert_eq!(ask(1).exit_code(), 0);
    // A job holds so much of the GPU time that less than a program's sixty seconds are left.
    let held = site.gate.admit(job(150)).unwrap();
    let mut errand = site.errand(&["sh", "-c", "exit 0"]);
    errand.gpus = 1;
    let (most, seen) = (Arc::new(AtomicUsize::new(0)), Arc::clone(&site.gate));
    let shown = Arc::clone(&most);
    errand.watch = Box::new(move |progress| {
        let limit = usize::try_from(progress.limits.of(Kind::GpuMs)).unwrap();
        shown.store(limit, Ordering::Relaxed);
        assert!(seen.balances().iter().all(|balance| balance.pending.of(Kind::GpuMs) <= 200_000));
    });
    assert_eq!(errand.run().exit_code(), 0);
    let most = most.load(Ordering::Relaxed);
    assert!(most > 0 && most <= 50_000, "it gets what is left: {most}");
    let used = Amounts::ZERO.with(Kind::GpuMs, 200_000).with(Kind::MicroUsd, 20_000);
    drop(site.gate.complete(held, Outcome { usage: used, ..Outcome::of(Status::Done) }));
    let told = ask(1);
    assert!(refused(&told).contains("gpu_ms"), "{told:?}");
    assert_eq!((told.exit_code(), ask(0).exit_code()), (125, 0), "what needs no GPU still runs");
    // And the other way round: what a program used a job does not get.
    assert!(site.gate.admit(job(1)).is_err());
}

/// Frozen: what runs goes on and nothing new begins. Revoked: every process is gone.
pub fn a_frozen_account_gets_nothing_new_and_a_revoked_one_loses_what_runs() {
    let (site, mark) = (Site::make(&budget("jobs", 8)), marker());
    thread::scope(|scope| {
        let running = scope.spawn(|| said(site.errand(&["sh", "-c", WAITS, &mark])).0);
        assert!(until(|| lines(&site.place.out.join("began")) == 1));
        site.gate.freeze(&site.agent(), "operator").unwrap();
        assert!(refused(&site.shell("exit 0").0).contains("frozen"));
        assert!(marked(&mark) > 0, "what runs goes on");
        site.gate.revoke(&site.agent(), "operator").unwrap();
        let told = running.join().unwrap();
        assert_eq!((told.exit_code(), marked(&mark)), (124, 0), "{told:?}");
        assert!(told.lines(false).iter().any(|line| line.contains("revoked")), "{told:?}");
        assert!(refused(&site.shell("exit 0").0).contains("revoked"));
    });
    assert_eq!(site.pending(), Amounts::ZERO);
}

pub fn a_caller_hands_on_one_signal_and_its_second_ends_everything() {
    let (site, mark) = (Site::make(""), marker());
    let line = "trap 'echo heard >> heard' INT; echo > ready; while :; do sleep 0.05; done";
    let mut errand = site.errand(&["sh", "-c", line, &mark]);
    let (signal, count, out) = (Arc::clone(&errand.signal), AtomicUsize::new(0), site.place.out.clone());
    errand.watch = Box::new(move |_| {
        let first = out.join("ready").exists() && count.load(Ordering::Relaxed) == 0;
        let second = out.join("heard").exists() && count.load(Ordering::Relaxed) == 1;
        if first || second {
            count.fetch_add(1, Ordering::Relaxed);
            signal.store(2, Ordering::Relaxed);
        }
    });
    let (told, _) = said(errand);
    assert_eq!(fs::read_to_string(site.place.out.join("heard")).unwrap(), "heard\n");
    assert!(matches!(told, Told::Ended(_)) && told.exit_code() == 130, "{told:?}");
    assert_eq!(marked(&mark), 0);
}

/// A gate that stops lets programs save what they have, and ends those that do not go.
pub fn a_gate_that_stops_ends_its_programs_and_settles_them() {
    let mut site = Site::on(&budget("gpu_ms", 200_000), |terms| terms.grace = Millis(3_000));
    let (mark, out) = (marker(), site.place.out.clone());
    let ready = |name: &str| out.join(name).exists();
    let kind = "trap 'echo saved > saved; exit 3' TERM; echo > kind; while :; do sleep 0.05; done";
    let deaf = "trap '' TERM; echo > deaf; while :; do sleep 0.05; done";
    let (socket, serving) = (site.socket.clone(), site.serving.take().unwrap());
    let ask = |line: &str| {
        let mut errand = errand(&socket, &out, &["sh", "-c", line, &mark]);
        errand.gpus = 1;
        errand.run()
    };
    thread::scope(|scope| {
        let (kind, deaf) = (scope.spawn(|| ask(kind)), scope.spawn(|| ask(deaf)));
        assert!(until(|| ready("kind") && ready("deaf")));
        drop(serving);
        let (kind, deaf) = (kind.join().unwrap(), deaf.join().unwrap());
        assert_eq!((kind.exit_code(), deaf.exit_code(), marked(&mark)), (3, 124, 0), "{kind:?} {deaf:?}");
        assert!(ready("saved") && deaf.lines(false).iter().any(|line| line.contains("told to stop")), "{deaf:?}");
    });
    assert!(!site.socket.exists() && site.pending() == Amounts::ZERO);
    assert!(posted(&site.gate, Kind::GpuMs) > 0 && site.gate.doubts().is_empty());
    assert!(matches!(ask("exit 0"), Told::Unheard(_)), "nobody listens any more");
}

/// A request names a port; where it leads is the gate's word.
pub fn a_door_of_a_running_gate_leads_where_the_gate_says() {
    let behind = tempfile::tempdir().unwrap();
    let (path, other) = (behind.path().join("gate.sock"), behind.path().join("other.sock"));
    let (listener, _other) = (UnixListener::bind(&path).unwrap(), UnixListener::bind(other).unwrap());
    let served = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"the gate's own\n").unwrap();
    });
    let site = Site::on("", |terms| terms.doors = vec![Door { port: 8181, way: Way::Unix(path) }]);
    let Some(python) = crate::rig::python() else { return };
    let look = "import socket\nprint(socket.create_connection(('127.0.0.1', 8181)).makefile().readline().strip())\n";
    let script = site.place.script("door.py", look);
    let mut errand = site.errand(&[python, &script]);
    errand.doors = vec![8181];
    let (told, text) = said(errand);
    assert_eq!((told.exit_code(), text.trim()), (0, "the gate's own"), "{told:?}");
    served.join().unwrap();
    let mut errand = site.errand(&["sh", "-c", "exit 0"]);
    errand.doors = vec![8181, 2375];
    let told = errand.run();
    assert!(refused(&told).contains("2375") && refused(&told).contains("8181"), "{told:?}");
}

/// A socket in place of a stream, as some programs give it to those that they start, is carried through a pipe.
pub fn a_socket_in_place_of_a_stream_is_carried_and_not_handed_on() {
    let site = Site::make("");
    let (near, far) = UnixStream::pair().unwrap();
    let (output, written) = UnixStream::pair().unwrap();
    let mut errand = site.errand(&[
        "sh",
        "-c",
        "cat; ls -l /proc/self/fd > kinds; i=0; while [ $i -lt 20000 ]; do echo $i; i=$((i+1)); done",
    ]);
    errand.streams = [far.into(), written.into(), null()];
    (&near).write_all(b"through\n").unwrap();
    near.shutdown(std::net::Shutdown::Write).unwrap();
    let reader = thread::spawn(move || {
        let mut text = String::new();
        (&output).read_to_string(&mut text).unwrap();
        text
    });
    let told = errand.run();
    assert_eq!(told.exit_code(), 0, "{told:?}");
    let text = reader.join().unwrap();
    assert!(text.starts_with("through\n0\n") && text.ends_with("\n19999\n"), "{} bytes", text.len());
    let kinds = fs::read_to_string(site.place.out.join("kinds")).unwrap();
    assert!(kinds.contains("pipe:") && !kinds.contains("socket:"), "{kinds}");
}

/// This program as a caller: says when its program runs, and is killed.
pub fn play_caller(words: &[String]) -> ExitCode {
    let [socket, cwd, mark] = words else { return ExitCode::FAILURE };
    let mut errand = errand(Path::new(socket), Path::new(cwd), &["sh", "-c", WAITS, mark]);
    errand.gpus = 1;
    let (said, began) = (AtomicBool::new(false), Path::new(cwd).join("began"));
    errand.watch = Box::new(move |_| {
        if began.exists() && !said.swap(true, Ordering::Relaxed) {
            println!("running");
        }
    });
    ExitCode::from(errand.run().exit_code())
}

/// This program as a gate that serves until it is killed.
pub fn play_gate(words: &[String]) -> ExitCode {
    let [out, data, store, socket] = words else { return ExitCode::FAILURE };
    let place = Place { out: PathBuf::from(out), data: PathBuf::from(data), ..Place::make() };
    let gate = Arc::new(opened(&policy(&place, &budget("gpu_ms", 200_000)), Path::new(store)));
    let _serving = Service::bind(Path::new(socket)).unwrap().start(gate, terms()).unwrap();
    println!("serving");
    loop {
        thread::park();
    }
}

fn role(words: &[&str]) -> (std::process::Child, std::io::Lines<BufReader<std::process::ChildStdout>>) {
    let mut child = Command::new(std::env::current_exe().unwrap());
    let child = child.args(words).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = child.spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    (child, lines)
}

pub fn a_caller_that_is_killed_takes_its_program_with_it() {
    let (site, mark) = (Site::make(&budget("gpu_ms", 200_000)), marker());
    let text = |path: &Path| path.display().to_string();
    let (mut caller, mut lines) = role(&["role:caller", &text(&site.socket), &text(&site.place.out), &mark]);
    assert!(lines.any(|line| line.unwrap() == "running"));
    assert!(marked(&mark) > 1 && site.pending().of(Kind::GpuMs) >= 60_000);
    caller.kill().unwrap();
    caller.wait().unwrap();
    assert!(until(|| marked(&mark) == 0), "{} are left", marked(&mark));
    // Settled as what it used, by the gate's own meter, and not as what was held.
    assert!(until(|| site.pending() == Amounts::ZERO));
    let gpu = posted(&site.gate, Kind::GpuMs);
    assert!(gpu > 0 && gpu < 60_000 && site.gate.doubts().is_empty(), "{gpu}");
    assert_eq!(site.shell("exit 0").0.exit_code(), 0, "the place is free again");
}

/// A gate in a process of its own; it is gone with this, whatever a test finds.
struct Alone {
    place: Place,
    home: TempDir,
    gate: std::process::Child,
    mark: String,
}

impl Drop for Alone {
    fn drop(&mut self) {
        let _ = self.gate.kill();
        let _ = self.gate.wait();
    }
}

/// A gate in a process of its own whose caller's program runs, and the caller.
fn alone() -> (Alone, thread::JoinHandle<Told>) {
    let (place, home, mark) = (Place::make(), tempfile::tempdir().unwrap(), marker());
    let text = |path: &Path| path.display().to_string();
    let (store, socket) = (home.path().join("store"), home.path().join("run/exec.sock"));
    let (gate, mut lines) =
        role(&["role:service", &text(&place.out), &text(&place.data), &text(&store), &text(&socket)]);
    assert!(lines.any(|line| line.unwrap() == "serving"));
    let mut errand = errand(&socket, &place.out, &["sh", "-c", WAITS, &mark]);
    errand.gpus = 1;
    let thread = thread::spawn(move || errand.run());
    assert!(until(|| lines_of(&place) == 1), "it runs");
    (Alone { place, home, gate, mark }, thread)
}

fn lines_of(place: &Place) -> usize {
    lines(&place.out.join("began"))
}

/// Killed without a word: nothing of the program is left, its caller is told, and the next start counts the hold as spent.
pub fn a_gate_that_is_killed_leaves_nothing_of_its_callers_programs() {
    let (mut alone, caller) = alone();
    assert!(marked(&alone.mark) > 0);
    alone.gate.kill().unwrap();
    alone.gate.wait().unwrap();
    let told = caller.join().unwrap();
    assert_eq!((&told, told.exit_code()), (&Told::Lost { begun: true }, 124));
    assert!(until(|| marked(&alone.mark) == 0), "{} are left", marked(&alone.mark));
    let gate = opened(&policy(&alone.place, &budget("gpu_ms", 200_000)), &alone.home.path().join("store"));
    assert_eq!((posted(&gate, Kind::GpuMs), gate.doubts().len()), (60_000, 1), "all of what was held");
}

/// One that stands still keeps no limit, so that programs do not outlast its silence; nor does whoever waits for it.
pub fn a_gate_that_stands_still_keeps_no_program_and_no_caller() {
    let (alone, caller) = alone();
    let process = rustix::process::Pid::from_child(&alone.gate);
    rustix::process::kill_process(process, rustix::process::Signal::STOP).unwrap();
    assert!(until(|| marked(&alone.mark) == 0), "{} are left", marked(&alone.mark));
    let told = caller.join().unwrap();
    assert_eq!(told, Told::Lost { begun: true });
}
