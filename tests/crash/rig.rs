//! A gate over a store on disk in a process of its own, tools that leave a trace on disk, and the judge:
//! what must hold of a folder whatever happened to the gate that used it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};
use weir::audit::{Body, Entry, Ruling};
use weir::journal::{Reader, Seal, Sqlite};
use weir::model::{Action, Amounts, Call, CallId, Kind, Millis, Outcome, Status, Timestamp};
use weir::pdp::Compiled;
use weir::pep::port::{Approval, Approver, Clock, Executor, Head, Inner, Journal, ToolHost, ToolSpec};
use weir::pep::{Answer, Durable, Gate, Reserved};
use weir::policy::{Policy, Scope};

use crate::support::policy::{budget, busy};
use crate::support::{call, key, program, step, tool};

/// What the organisation may spend, micro-USD; one `buy` holds 100.
pub const CAP: u64 = 2_000;

/// Entries between two snapshots: so few that every test starts from one.
pub const EVERY: u64 = 5;

/// The policy of these tests: a cap nobody raises, and one at which a person is asked.
pub fn policy() -> Policy {
    let mut policy = busy();
    // The clock is the machine's: a yes must outlast a write to a busy disk.
    policy.approvals.timeout = Millis(60_000);
    policy.budgets = vec![
        budget("money", Scope::Org, Kind::MicroUsd, CAP, weir::model::Effect::Deny),
        budget("tools", Scope::Run, Kind::ToolCalls, 5, weir::model::Effect::Ask),
    ];
    policy
}

pub fn seal() -> Seal {
    Box::new(|count, hash| Head::sign(count, hash, &key()))
}

/// The machine's clock.
pub struct Now;

impl Clock for Now {
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(u64::try_from(since.as_millis()).unwrap())
    }
}

/// A person who says yes.
pub struct Yes;

impl Approver for Yes {
    fn ask(&self, _: &Call, _: &str, _: &weir::pep::port::Question, _: Millis) -> Approval {
        Approval::Granted("the operator said so".into())
    }
}

/// Opens a gate on the store in `dir` around `journal`'s wrapping.
pub fn open_with(
    dir: &Path,
    clock: Box<dyn Clock>,
    person: Box<dyn Approver>,
    wrap: impl FnOnce(Sqlite) -> Box<dyn Journal>,
    seal: Seal,
) -> Result<Gate, String> {
    let compiled = Compiled::new(policy()).unwrap_or_else(|faults| panic!("{faults}"));
    let store = Sqlite::open(dir, seal).map_err(|fault| fault.0)?.snapshots_every(EVERY);
    Gate::open(compiled, wrap(store), clock, person, key()).map_err(|fault| fault.to_string())
}

pub fn open(dir: &Path) -> Result<Gate, String> {
    // A process that another test starts at this moment has a copy of this one's lock until it runs its program.
    let own = format!("process {}", std::process::id());
    for _ in 0..500 {
        match open_with(dir, Box::new(Now), Box::new(Yes), |store| Box::new(store), seal()) {
            Err(fault) if fault.contains(&own) => std::thread::sleep(std::time::Duration::from_millis(10)),
            opened => return opened,
        }
    }
    Err(format!("{own} keeps its own lock"))
}

/// Writes the key of these tests where the store keeps it.
pub fn put_key(dir: &Path) {
    fs::create_dir_all(dir).unwrap();
    let path = dir.join("signing.key");
    fs::write(&path, format!("{}\n", "09".repeat(32))).unwrap();
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    assert_eq!(weir::journal::key(dir).unwrap().public(), key().public());
}

/// Tools that note each run in a file, so that what ran is known after any death of the process.
#[derive(Clone)]
pub struct Tools {
    trace: PathBuf,
}

impl Tools {
    pub fn of(dir: &Path) -> Self {
        Self { trace: dir.join("ran") }
    }

    pub fn ran(&self) -> Vec<CallId> {
        let text = fs::read_to_string(&self.trace).unwrap_or_default();
        text.lines().map(crate::support::name).collect()
    }

    fn note(&self, id: &CallId) {
        let mut file = OpenOptions::new().append(true).create(true).open(&self.trace).unwrap();
        file.write_all(format!("{id}\n").as_bytes()).unwrap();
    }

    fn run(&self, id: &CallId, args: &Map<String, Value>) -> Outcome {
        self.note(id);
        let paid = args.get("paid").and_then(Value::as_u64).unwrap_or(0);
        let status =
            if args.get("end").and_then(Value::as_str) == Some("unknown") { Status::Unknown } else { Status::Done };
        Outcome { usage: Amounts::ZERO.with(Kind::MicroUsd, paid), ..Outcome::of(status) }
    }
}

impl ToolHost for Tools {
    fn tools(&self) -> Vec<ToolSpec> {
        Vec::new()
    }

    fn call(&self, id: &CallId, _: &str, args: &Map<String, Value>, _: Millis) -> Outcome {
        self.run(id, args)
    }
}

impl Executor for Tools {
    fn execute(&self, work: &Durable<Reserved>, inner: &dyn Inner) -> Outcome {
        let call = work.call();
        if call.action != Action::CodeRun {
            return self.run(&call.id, &call.args);
        }
        self.note(&call.id);
        let code = call.args.get("code").and_then(Value::as_str).unwrap_or_default();
        let steps: Vec<(String, String, Value)> = serde_json::from_str(code).unwrap_or_default();
        for (action, resource, args) in steps {
            inner.call(Action::from_word(&action).unwrap(), &resource, args.as_object().cloned().unwrap_or_default());
        }
        Outcome { usage: Amounts::ZERO.with(Kind::Fuel, 1_000), ..Outcome::of(Status::Done) }
    }
}

/// A day of every kind of call; the last of them passes the cap at which a person is asked.
pub fn day() -> Vec<Call> {
    let nested = [
        step(Action::CodeImport, "math", &json!({})),
        step(Action::ToolCall, "buy", &json!({"paid": 10})),
        step(Action::ToolCall, "rm", &json!({})),
    ];
    let mut calls = vec![
        tool("look", "look", json!({})),
        tool("no", "rm", json!({})),
        tool("buy", "buy", json!({"paid": 40})),
        program("code", &nested),
        tool("mail", "mail", json!({})),
        tool("lost", "buy", json!({"end": "unknown"})),
        call("model", Action::ModelGenerate, "small", json!({"max_tokens": 10})),
    ];
    calls.extend((0..2).map(|index| tool(&format!("more{index}"), "look", json!({}))));
    calls
}

/// What a gate said of one call.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Told {
    pub id: CallId,
    pub ran: bool,
    pub recorded: bool,
}

impl Told {
    pub fn of(answer: &Answer) -> Self {
        Self { id: answer.call.clone(), ran: answer.ran(), recorded: answer.receipt.is_some() }
    }

    /// One line for the process above; a line feed before it, because a test runner prints, too.
    pub fn print(&self) {
        println!("\ntold {} {} {}", self.id, self.ran, self.recorded);
    }

    fn parse(line: &str) -> Option<Self> {
        let mut words = line.strip_prefix("told ")?.split(' ');
        let id = crate::support::name(words.next()?);
        let (ran, recorded) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        Some(Self { id, ran, recorded })
    }
}

/// This test program again, running the ignored test `test` on the store in `dir`.
pub fn child(test: &str, dir: &Path, more: &[(&str, String)]) -> Child {
    // A death on purpose leaves no image of its memory behind.
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "ulimit -c 0; exec \"$0\" \"$@\""]).arg(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--ignored", "--nocapture", "--test-threads=1"]);
    command.env("WEIR_TEST_STORE", dir).envs(more.iter().map(|(name, value)| (name, value)));
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// The store of a process that [`child`] started; `None` when a person runs the ignored tests.
pub fn store_of_child() -> Option<PathBuf> {
    std::env::var_os("WEIR_TEST_STORE").map(PathBuf::from)
}

/// What a child printed until it ended: what was told, and all other lines.
pub fn read(child: &mut Child) -> (Vec<Told>, Vec<String>) {
    read_each(child, || {})
}

/// The same, with something to do whenever it has told one more.
pub fn read_each(child: &mut Child, mut each: impl FnMut()) -> (Vec<Told>, Vec<String>) {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let (mut told, mut rest) = (Vec::new(), Vec::new());
    for line in lines {
        match Told::parse(&line) {
            Some(one) => {
                told.push(one);
                each();
            }
            None => rest.push(line),
        }
    }
    (told, rest)
}

/// What a journal says, in the words of the law.
#[derive(Debug, Default)]
pub struct Story {
    pub held: BTreeMap<CallId, Amounts>,
    pub ends: BTreeMap<CallId, Vec<Amounts>>,
    /// Calls whose receipt says that they were allowed, or refused.
    pub ruled: BTreeMap<CallId, Ruling>,
    pub entries: u64,
}

impl Story {
    pub fn of(dir: &Path) -> Self {
        let mut story = Self::default();
        let Ok(reader) = Reader::open(dir) else { return story };
        reader.replay(&mut |text| story.tell(&serde_json::from_str(&text).unwrap())).unwrap();
        story
    }

    fn tell(&mut self, entry: &Entry) {
        self.entries += 1;
        match &entry.body {
            Body::Intent { call, held, .. } => {
                assert!(self.held.insert(call.id.clone(), *held).is_none(), "two intents of {}", call.id);
            }
            Body::Outcome(outcome) => {
                self.ends.entry(outcome.call.clone()).or_default().push(outcome.posted);
                self.ruled.insert(outcome.call.clone(), outcome.receipt.decision.result);
            }
            Body::Expire { call, posted, .. } => self.ends.entry(call.clone()).or_default().push(*posted),
            _ => {}
        }
    }

    /// How many intents have no end.
    pub fn open(&self) -> usize {
        self.held.keys().filter(|id| !self.ends.contains_key(*id)).count()
    }

    fn posted(&self, kind: Kind) -> u64 {
        self.ends.values().flatten().map(|posted| posted.of(kind)).sum()
    }
}

/// Opens the store again and checks everything that must hold: pages, chain and mark; one end for every
/// intent; nothing ran twice or without an intent; every answer is on record; the books balance.
pub fn judge(dir: &Path, told: &[Told], what: &str) -> Gate {
    let gate = open(dir).unwrap_or_else(|fault| panic!("{what}: the store does not open again: {fault}"));
    let report = weir::journal::check(dir, &key().public(), None).unwrap();
    assert_eq!(report.findings, [], "{what}");
    let story = Story::of(dir);
    for (id, ends) in &story.ends {
        assert_eq!(ends.len(), 1, "{what}: {id} ended {} times", ends.len());
    }
    for id in story.held.keys() {
        assert!(story.ends.contains_key(id), "{what}: {id} has an intent and no end after a restart");
    }
    let ran = Tools::of(dir).ran();
    let once: BTreeSet<&CallId> = ran.iter().collect();
    assert_eq!(once.len(), ran.len(), "{what}: something ran twice");
    for id in once {
        assert!(story.held.contains_key(id), "{what}: {id} ran without a durable intent");
    }
    for one in told.iter().filter(|one| one.recorded) {
        let ruled = story.ruled.get(&one.id).unwrap_or_else(|| panic!("{what}: the answer to {} is lost", one.id));
        assert_eq!(*ruled == Ruling::Allow, one.ran, "{what}: {}", one.id);
    }
    let balances = gate.balances();
    let org = |kind| balances.first().map_or(0, |balance| balance.posted.of(kind));
    for kind in [Kind::Calls, Kind::ToolCalls, Kind::MicroUsd, Kind::Fuel] {
        assert_eq!(org(kind), story.posted(kind), "{what}: {kind:?}");
    }
    assert!(balances.iter().all(|balance| balance.pending == Amounts::ZERO), "{what}: pending after a restart");
    assert!(org(Kind::MicroUsd) <= CAP, "{what}: over the cap");
    gate
}
