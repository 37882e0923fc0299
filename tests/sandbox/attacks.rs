//! Attacks as data: every case of `tests/attacks/*.toml`, on both walls, in a place where there is something to lose.
//!
//! A case says what is tried and what must come of it, what the agent is told included. Beside that, the same is held
//! against every one of them: nothing outside is read, changed, connected to or started, the limits hold, nothing
//! that is shown moves a cursor, and neither a neighbour nor the agent's own other sessions notice.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Map, Value, json};
use tempfile::TempDir;
use weir::model::{Access, Action, CodeGrant, Keep, Kind, Name, Outcome, Preopen, Quota, ReasonCode, Seat, Status};
use weir::pep::Answer;
use weir::pep::port::{Inner, ToolSpec};
use weir::sandbox::{Guest, Key, Sandbox, SandboxConfig, Silent, Wall};

use super::desk::{self, Desk, Does, fresh, message, name};

static OPEN: LazyLock<Sandbox> = LazyLock::new(|| Sandbox::open(SandboxConfig::new(Wall::DangerousNone)).unwrap());

/// A handle that the tool `load` gives.
const HANDLE: &str = "00112233445566778899aabbccddeeff";
/// What stands in the file that nobody may reach.
const CANARY: &str = "the canary sings";
/// A machine that does a lot besides may be that late, measured from outside.
const LATE: Duration = Duration::from_secs(5);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Attacks {
    attack: Vec<Attack>,
}

/// One attack: programs one after another, and what must come of each.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Attack {
    id: String,
    /// What is attacked, or where the like of it has worked.
    why: String,
    #[serde(default = "python")]
    guest: String,
    /// Modules that are granted besides the usual ones.
    #[serde(default)]
    imports: Vec<String>,
    /// True where folders are granted: `/r` to read, `/w` to write.
    #[serde(default)]
    folders: bool,
    #[serde(default)]
    limits: Limits,
    step: Vec<Step>,
}

/// Limits that differ from the usual ones.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Limits {
    memory_bytes: Option<u64>,
    wall_ms: Option<u64>,
    fuel: Option<u64>,
    stack_bytes: Option<u64>,
    output_bytes: Option<u64>,
    result_bytes: Option<u64>,
    callbacks: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    /// Who runs it: the attacker, another session of its agent, or another agent.
    #[serde(default)]
    who: Who,
    code: String,
    /// How often the text stands in the program.
    #[serde(default = "once")]
    times: usize,
    must: Must,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Who {
    #[default]
    Attacker,
    Sibling,
    Neighbour,
}

/// What must come of a step.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Must {
    /// One of these.
    status: Vec<Status>,
    /// The error's type.
    kind: Option<String>,
    /// Each stands in the error's message.
    #[serde(default)]
    message: Vec<String>,
    /// The result's JSON text.
    output: Option<String>,
    /// Each stands in the result's JSON text.
    #[serde(default)]
    result: Vec<String>,
    /// All that is printed.
    logs: Option<String>,
    /// Each stands in what is printed.
    #[serde(default)]
    printed: Vec<String>,
    /// Each stands in a notice.
    #[serde(default)]
    notice: Vec<String>,
    /// None stands anywhere in the outcome.
    #[serde(default)]
    absent: Vec<String>,
    /// Every call that the gate saw.
    asked: Option<Vec<String>>,
    /// How many it saw.
    calls: Option<u64>,
    /// Whether the interpreter is still there afterwards; said only where it is known.
    kept: Option<bool>,
}

fn python() -> String {
    "python".into()
}

const fn once() -> usize {
    1
}

impl Attacks {
    /// The attacks of a text; one from which nothing is required is none.
    fn read(text: &str) -> Result<Vec<Attack>, String> {
        let attacks = toml::from_str::<Self>(text).map_err(|error| error.to_string())?.attack;
        for attack in &attacks {
            if attack.step.is_empty() || attack.step.iter().any(|step| step.must.status.is_empty()) {
                return Err(format!("{}: every attack has steps, and every step a required status", attack.id));
            }
            if attack.why.len() < 10 {
                return Err(format!("{}: it does not say what is attacked", attack.id));
            }
        }
        Ok(attacks)
    }

    /// Those of a file in `tests/attacks`.
    fn of(file: &str) -> Vec<Attack> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/attacks").join(file);
        Self::read(&fs::read_to_string(path).unwrap()).unwrap_or_else(|fault| panic!("{file}: {fault}"))
    }
}

/// What stands around the attacked sandbox, and who else uses it.
struct Range {
    wall: &'static str,
    sandbox: &'static Sandbox,
    place: TempDir,
    /// The permissions and times of a file to read.
    before: (u32, i64),
    listener: TcpListener,
    /// Agents of this range alone: the attacker, and a neighbour.
    agents: [Name; 2],
    witness: Key,
}

impl Range {
    fn set_up(wall: &'static str, sandbox: &'static Sandbox) -> Self {
        let place = tempfile::tempdir().unwrap();
        let (read, written) = (place.path().join("r"), place.path().join("w"));
        fs::create_dir(&read).unwrap();
        fs::create_dir(&written).unwrap();
        fs::write(place.path().join("canary"), CANARY).unwrap();
        fs::write(read.join("a.txt"), "inside").unwrap();
        symlink(place.path().join("canary"), read.join("absolute")).unwrap();
        symlink("../canary", read.join("relative")).unwrap();
        symlink("/", read.join("root")).unwrap();
        symlink("/dev/zero", read.join("zero")).unwrap();
        fs::hard_link(place.path().join("canary"), place.path().join("second")).unwrap();
        assert!(Command::new("mkfifo").arg(read.join("pipe")).status().unwrap().success());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let agents = [fresh(), fresh()];
        let witness = key(&fresh(), &fresh(), "python");
        let mut range = Self { wall, sandbox, place, before: (0, 0), listener, agents, witness };
        range.before = range.marks();
        let kept = range.sandbox.run(&range.witness, "mine = 41", &Map::new(), &desk::grant(), &Desk::default());
        assert_eq!(kept.status, Status::Done, "{kept:?}");
        range
    }

    fn marks(&self) -> (u32, i64) {
        let found = fs::metadata(self.place.path().join("r/a.txt")).unwrap();
        (found.mode(), found.mtime_nsec())
    }

    fn grant(&self, attack: &Attack) -> CodeGrant {
        let mut grant = desk::grant();
        grant.imports.extend(attack.imports.iter().cloned());
        let given = &attack.limits;
        let set = |limit: &mut u64, value: Option<u64>| *limit = value.unwrap_or(*limit);
        set(&mut grant.limits.memory_bytes, given.memory_bytes);
        set(&mut grant.limits.wall_ms.0, given.wall_ms);
        set(&mut grant.limits.fuel, given.fuel);
        set(&mut grant.limits.stack_bytes, given.stack_bytes);
        set(&mut grant.limits.output_bytes, given.output_bytes);
        set(&mut grant.limits.result_bytes, given.result_bytes);
        set(&mut grant.limits.callbacks, given.callbacks);
        grant.keep = Keep::Session;
        if attack.folders {
            let folder = |guest: &str, access, quota| {
                let host = self.place.path().join(&guest[1..]).display().to_string();
                Preopen { guest: guest.into(), host, access, quota }
            };
            let quota = Some(Quota { bytes: 1 << 20, files: 100 });
            grant.files = vec![folder("/r", Access::Read, None), folder("/w", Access::Write, quota)];
        }
        grant
    }

    /// Runs one attack; what is wrong with what came of it.
    fn attacked(&self, attack: &Attack) -> Vec<String> {
        let (session, grant) = (fresh(), self.grant(attack));
        let mut faults = Vec::new();
        for (number, step) in attack.step.iter().enumerate() {
            let [attacker, neighbour] = &self.agents;
            let (agent, session) = match step.who {
                Who::Attacker => (attacker, session.clone()),
                Who::Sibling => (attacker, fresh()),
                Who::Neighbour => (neighbour, fresh()),
            };
            let key = key(agent, &session, &attack.guest);
            let gate = Gate { desk: tools(), sandbox: self.sandbox, key: &key, grant: &grant, depth: 0 };
            let started = Instant::now();
            let outcome = self.sandbox.run(&key, &self.text(step), &Map::new(), &grant, &gate);
            let took = started.elapsed();
            let wrong = [step.must.complaint(&outcome, &gate.desk), kept_to(&grant, &outcome, took)];
            let told =
                |wrong| format!("{} on {}, step {number}: {wrong}\n    {}", attack.id, self.wall, told(&outcome));
            faults.extend(wrong.into_iter().flatten().map(told));
        }
        use weir::pep::port::Executor as _;
        self.sandbox.close(&key(&self.agents[0], &session, &attack.guest).seat);
        faults.extend(self.disturbed().map(|what| format!("{} on {}: {what}", attack.id, self.wall)));
        faults
    }

    /// The program of a step, with the names of what there is to reach.
    fn text(&self, step: &Step) -> String {
        let port = self.listener.local_addr().unwrap().port().to_string();
        let canary = self.place.path().join("canary").display().to_string();
        let code = step.code.replace("{PORT}", &port).replace("{CANARY}", &canary).replace("{HANDLE}", HANDLE);
        code.repeat(step.times)
    }

    /// What an attack has done to what is none of its business.
    fn disturbed(&self) -> Option<String> {
        for file in ["canary", "second"] {
            if fs::read_to_string(self.place.path().join(file)).ok().as_deref() != Some(CANARY) {
                return Some("the canary is not as it was".into());
            }
        }
        let read = self.place.path().join("r");
        let is_as_it_was = fs::read_to_string(read.join("a.txt")).unwrap() == "inside" && self.marks() == self.before;
        if !is_as_it_was || fs::read_dir(&read).unwrap().count() != 6 {
            return Some("the folder to read has changed".into());
        }
        if self.listener.accept().is_ok_and(|_| true) {
            return Some("somebody connected".into());
        }
        // Nobody's attack stays for the next one. The folder itself does: it is what the worker was given.
        for entry in fs::read_dir(self.place.path().join("w")).unwrap() {
            let path = entry.unwrap().path();
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.unwrap();
        }
        let look = "import json, math\n(mine + 1, len([1, 2]), json.dumps({'a': math.floor(1.5)}))";
        let seen = self.sandbox.run(&self.witness, look, &Map::new(), &desk::grant(), &Desk::default());
        let expected = json!({"$": ["tuple", [42, 2, r#"{"a": 1}"#]]});
        (seen.output != expected).then(|| format!("the witness sees {:?} {:?}", seen.output, seen.error))
    }
}

fn key(agent: &Name, session: &Name, guest: &str) -> Key {
    let seat = Seat { org: name("org"), agent: agent.clone(), name: session.clone() };
    Key { seat, guest: guest.into(), run: name("run") }
}

/// The tools of every attack, beside those of [`Gate`].
fn tools() -> Desk {
    let handle = json!({"$": ["handle", HANDLE, "Image", "<Image>"]});
    Desk::default()
        .with("echo", &[("value", true)], Does::Echo)
        .with("load", &[], Does::Give(handle))
        .with("secret", &[], Does::Deny(ReasonCode::Rule))
        .with("broken", &[], Does::Fail("KeyError", "gone\u{1b}[2J"))
        .with("slow", &[], Does::Sleep(300))
        .with("boom", &[], Does::Panic)
        .with("odd", &[], Does::Give(json!({"$": ["pickle", "gASV"]})))
        .with("final_answer", &[("answer", true)], Does::Give(json!("from the host")))
        .with("cancel", &[], Does::Give(Value::Null))
        .with("nest", &[("code", true)], Does::Give(Value::Null))
        .with("again", &[("code", true)], Does::Give(Value::Null))
}

/// The desk, and tools that reach back into the sandbox: `nest` runs a program in another session, `again` in the
/// same one, and `cancel` is the caller who goes away.
struct Gate<'a> {
    desk: Desk,
    sandbox: &'a Sandbox,
    key: &'a Key,
    grant: &'a CodeGrant,
    depth: u32,
}

impl Inner for Gate<'_> {
    fn call(&self, action: Action, resource: &str, args: Map<String, Value>) -> Answer {
        let code = args.get("code").and_then(Value::as_str).unwrap_or_default().to_owned();
        let answer = self.desk.call(action, resource, args);
        match resource {
            "cancel" => self.desk.cancelled.store(true, Ordering::SeqCst),
            "nest" | "again" if self.depth < 6 => {
                let other = key(&self.key.seat.agent, &fresh(), "python");
                let key = if resource == "nest" { &other } else { self.key };
                let inner = Gate { desk: tools(), key, depth: self.depth + 1, ..*self };
                let outcome = self.sandbox.run(key, &code, &Map::new(), self.grant, &inner);
                return desk::done(json!([format!("{:?}", outcome.status), message(&outcome), outcome.output]));
            }
            _ => {}
        }
        answer
    }

    fn tools(&self) -> Vec<ToolSpec> {
        self.desk.tools()
    }

    fn cancelled(&self) -> bool {
        self.desk.cancelled()
    }
}

impl Must {
    /// What is not as required.
    fn complaint(&self, outcome: &Outcome, desk: &Desk) -> Option<String> {
        let result = outcome.output.to_string();
        let expected = self.output.as_deref().map(|text| serde_json::from_str::<Value>(text).unwrap().to_string());
        let whole = format!("{result}{}{:?}{:?}", outcome.logs, outcome.error, outcome.notices);
        let lacks = |parts: &[String], text: &str| parts.iter().find(|part| !text.contains(part.as_str())).cloned();
        let notices = outcome.notices.join("\n");
        let calls = desk.count.load(Ordering::SeqCst);
        let rows = [
            ("status", !self.status.contains(&outcome.status)),
            ("kind", self.kind.as_deref().is_some_and(|kind| kind != desk::kind(outcome))),
            ("message", lacks(&self.message, message(outcome)).is_some()),
            ("output", expected.is_some_and(|expected| expected != result)),
            ("result", lacks(&self.result, &result).is_some()),
            ("logs", self.logs.as_ref().is_some_and(|logs| *logs != outcome.logs)),
            ("printed", lacks(&self.printed, &outcome.logs).is_some()),
            ("notice", lacks(&self.notice, &notices).is_some()),
            ("absent", self.absent.iter().any(|part| whole.contains(part.as_str()))),
            ("asked", self.asked.as_ref().is_some_and(|asked| *asked != desk.asked())),
            ("calls", self.calls.is_some_and(|wanted| wanted != calls)),
            ("kept", self.kept.is_some_and(|kept| kept == outcome.replaced)),
        ];
        let wrong: Vec<&str> = rows.iter().filter(|(_, wrong)| *wrong).map(|(what, _)| *what).collect();
        (!wrong.is_empty()).then(|| format!("{} (asked {:?})", wrong.join(", "), desk.asked()))
    }
}

/// What holds for every outcome, whatever was tried.
fn kept_to(grant: &CodeGrant, outcome: &Outcome, took: Duration) -> Option<String> {
    let limits = &grant.limits;
    let error = outcome.error.as_ref();
    let texts = error.map(|error| [&error.kind, &error.message, &error.traceback]);
    let shown = texts.iter().flatten().copied().chain([&outcome.logs]).chain(&outcome.notices);
    let hostile = |c: char| {
        (c.is_control() && c != '\n' && c != '\t')
            || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
            || matches!(c, '\u{feff}' | '\u{e0000}'..='\u{e007f}')
    };
    let unharmed = shown.into_iter().all(|text| !text.chars().any(hostile));
    // Told once more here than the executor caps it: a stop is measured, not assumed.
    let limit = Duration::from_millis(limits.wall_ms.0 + limits.wall_ms.0 / 10);
    let size = outcome.output.to_string().len() as u64;
    let told = error.map_or(0, |error| error.message.len());
    let rows = [
        ("something shown is not harmless", unharmed),
        ("the wall limit was passed", took <= limit + LATE),
        ("more output than allowed", outcome.logs.len() as u64 <= limits.output_bytes + 64),
        ("a larger result than allowed", size <= limits.result_bytes || outcome.is_final),
        ("more fuel than allowed", outcome.usage.of(Kind::Fuel) <= limits.fuel),
        ("more memory than allowed", outcome.usage.of(Kind::MemoryBytes) <= limits.memory_bytes),
        ("an error without end", told <= 200_000),
        ("a stop that is not said", !outcome.replaced || !outcome.notices.is_empty()),
        ("the canary was read", !format!("{outcome:?}").contains(CANARY)),
        ("the tests' own environment was read", !format!("{outcome:?}").contains("CARGO_MANIFEST")),
    ];
    rows.iter().find(|(_, holds)| !holds).map(|(what, _)| format!("{what} (after {took:?})"))
}

fn told(outcome: &Outcome) -> String {
    let cut = |text: &str| text.chars().take(600).collect::<String>();
    let error = outcome.error.as_ref().map(|error| format!("{}: {}", error.kind, cut(&error.message)));
    let (result, logs) = (cut(&outcome.output.to_string()), cut(&outcome.logs));
    format!("{:?} {error:?} output {result} logs {logs:?} notices {:?}", outcome.status, outcome.notices)
}

/// Runs the attacks of `files` on both walls.
fn all_contained(files: &[&str]) {
    let attacks: Vec<Attack> = files.iter().flat_map(|file| Attacks::of(file)).collect();
    let mut ids = BTreeSet::new();
    let twice: Vec<&str> = attacks.iter().filter(|a| !ids.insert(&a.id)).map(|a| a.id.as_str()).collect();
    assert!(twice.is_empty(), "these stand there twice: {twice:?}");
    if attacks.iter().any(|attack| attack.guest == "javascript") {
        Guest::build("javascript", None, &Silent).unwrap();
    }
    let only = std::env::var("WEIR_ATTACK").ok();
    let chosen: Vec<&Attack> = attacks.iter().filter(|a| only.as_ref().is_none_or(|id| a.id.contains(id))).collect();
    let walls = [Range::set_up("two walls", &desk::SANDBOX), Range::set_up("one wall", &OPEN)];
    let mut faults = Vec::new();
    for range in &walls {
        for attack in &chosen {
            faults.extend(range.attacked(attack));
        }
    }
    println!("    {} attacks, each on {} walls, all contained: {}", chosen.len(), walls.len(), faults.is_empty());
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn every_attack_from_a_program_is_contained_on_both_walls() {
    all_contained(&["escapes.toml", "poison.toml", "calls.toml"]);
}

#[test]
fn every_bomb_is_contained_on_both_walls() {
    all_contained(&["bombs.toml", "output.toml"]);
}

#[test]
fn every_attack_on_the_interfaces_is_contained_on_both_walls() {
    all_contained(&["system.toml"]);
}

#[test]
fn every_attack_from_javascript_is_contained_on_both_walls() {
    if !super::javascript::skipped() {
        all_contained(&["javascript.toml"]);
    }
}

#[test]
fn an_attack_says_what_is_required_of_it() {
    let whole = "[[attack]]\nid = \"x\"\nwhy = \"to see whether it is read\"\n[[attack.step]]\ncode = \"1\"\n";
    let must = format!("{whole}must = {{ status = [\"done\"] }}\n");
    assert_eq!(Attacks::read(&must).unwrap().len(), 1);
    for (wrong, said) in [
        (whole.to_owned(), "must"),
        (format!("{whole}must = {{ }}\n"), "status"),
        (format!("{whole}must = {{ status = [] }}\n"), "required status"),
        (format!("{whole}must = {{ status = [\"done\"], colour = 1 }}\n"), "colour"),
        (must.replace("code =", "cod ="), "cod"),
        (must.replace("to see whether it is read", ""), "what is attacked"),
        ("[[attack]]\nid = \"x\"\nwhy = \"to see whether it is read\"\nstep = []\n".to_owned(), "has steps"),
    ] {
        let fault = Attacks::read(&wrong).err().unwrap();
        assert!(fault.contains(said), "{wrong}: {fault}");
    }
}

#[test]
fn the_range_notices_what_an_attack_would_do() {
    let range = Range::set_up("one wall", &OPEN);
    assert_eq!(range.disturbed(), None);
    let address = range.listener.local_addr().unwrap();
    let connected = std::net::TcpStream::connect(address).unwrap();
    assert!(range.disturbed().unwrap().contains("connected"));
    drop(connected);
    assert_eq!(range.listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    fs::write(range.place.path().join("second"), "changed").unwrap();
    assert!(range.disturbed().unwrap().contains("canary"));
    let mut outcome = Outcome::of(Status::Done);
    outcome.logs = "\u{202e}".into();
    assert!(kept_to(&desk::grant(), &outcome, Duration::ZERO).unwrap().contains("harmless"));
    assert!(kept_to(&desk::grant(), &Outcome::of(Status::Done), Duration::from_secs(60)).unwrap().contains("wall"));
}
