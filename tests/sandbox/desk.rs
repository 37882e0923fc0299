//! A small gate for tests: tools are closures, denials are listed, everything asked is written down.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex};

use serde_json::{Map, Value, json};
use weir::model::{
    Action, Amounts, Checkpoint, Clock, CodeGrant, CodeLimits, Decision, Digest, Effect, GuestError, Keep, Millis,
    Name, Outcome, Randomness, Reason, ReasonCode, Record, Seat, Status,
};
use weir::pep::Answer;
use weir::pep::port::{Inner, Param, ToolSpec};
use weir::sandbox::{Key, Sandbox, SandboxConfig, Wall};

pub static SANDBOX: LazyLock<Sandbox> = LazyLock::new(|| Sandbox::open(SandboxConfig::new(wall())).unwrap());

/// The second wall, as `weir` has it.
pub fn wall() -> Wall {
    Wall::Process { program: env!("CARGO_BIN_EXE_weir").into(), arguments: vec!["worker".into()] }
}

/// What the tests' gate does for one tool.
pub enum Does {
    Give(Value),
    Fail(&'static str, &'static str),
    Deny(ReasonCode),
    Echo,
    Sleep(u64),
    Panic,
}

/// One call as the gate saw it.
type Asked = (Action, String, Map<String, Value>);

#[derive(Default)]
pub struct Desk {
    tools: Vec<(ToolSpec, Does)>,
    pub asked: Mutex<Vec<Asked>>,
    pub count: AtomicU64,
    pub cancelled: AtomicBool,
}

impl Desk {
    pub fn with(mut self, name: &str, params: &[(&str, bool)], does: Does) -> Self {
        let params = params.iter().map(|(n, required)| Param { name: self::name(n), required: *required }).collect();
        let is_final = name == "final_answer";
        let description = format!("Does {name}.");
        self.tools.push((ToolSpec { name: self::name(name), description, params, is_final, is_agent: false }, does));
        self
    }

    pub fn asked(&self) -> Vec<String> {
        let one = |(action, name, args): &Asked| format!("{} {name} {}", action.word(), Value::Object(args.clone()));
        self.asked.lock().unwrap().iter().map(one).collect()
    }
}

impl Inner for Desk {
    fn call(&self, action: Action, resource: &str, args: Map<String, Value>) -> Answer {
        self.count.fetch_add(1, Ordering::SeqCst);
        let mut asked = self.asked.lock().unwrap();
        if asked.len() < 1_000 {
            asked.push((action, resource.to_owned(), args.clone()));
        }
        drop(asked);
        let found = self.tools.iter().find(|(spec, _)| spec.name.as_str() == resource);
        match found.map(|(_, does)| does) {
            Some(Does::Give(value)) => done(value.clone()),
            Some(Does::Echo) => done(args.get("value").cloned().unwrap_or(Value::Null)),
            Some(Does::Fail(kind, message)) => {
                let mut outcome = Outcome::of(Status::Failed);
                let (kind, message) = ((*kind).to_owned(), (*message).to_owned());
                outcome.error = Some(GuestError { kind, message, traceback: String::new() });
                answer(Effect::Allow, ReasonCode::Allowed, Some(outcome), None)
            }
            Some(Does::Sleep(ms)) => {
                std::thread::sleep(std::time::Duration::from_millis(*ms));
                done(json!("slept"))
            }
            Some(Does::Panic) => panic!("a tool of the tests panics on purpose"),
            Some(Does::Deny(code)) => denied(*code, &format!("tool {resource}")),
            None if action == Action::CodeImport => denied(ReasonCode::ImportDenied, &format!("import {resource}")),
            None => denied(ReasonCode::UnknownTool, &format!("tool {resource}")),
        }
    }

    fn tools(&self) -> Vec<ToolSpec> {
        self.tools.iter().map(|(spec, _)| spec.clone()).collect()
    }

    fn cancelled(&self) -> bool {
        self.cancelled.load(Ordering::SeqCst)
    }
}

/// The answer of a tool that ran.
pub fn done(value: Value) -> Answer {
    let mut outcome = Outcome::of(Status::Done);
    outcome.output = value;
    answer(Effect::Allow, ReasonCode::Allowed, Some(outcome), None)
}

fn denied(code: ReasonCode, what: &str) -> Answer {
    let text = Reason::new(code, "the tests' gate refuses").denial(what);
    answer(Effect::Deny, code, None, Some(text))
}

fn answer(effect: Effect, code: ReasonCode, outcome: Option<Outcome>, denial: Option<String>) -> Answer {
    let decision = Decision {
        effect,
        reason: Reason::new(code, ""),
        obligations: Vec::new(),
        reserve: Amounts::ZERO,
        grant: None,
        exec: None,
        policy: Digest::ZERO,
    };
    Answer { call: name("c"), decision, outcome, receipt: None, denial }
}

pub fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// A session name that no other test uses.
pub fn fresh() -> Name {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    name(&format!("s{}", NEXT.fetch_add(1, Ordering::SeqCst)))
}

/// A grant with room for ordinary programs.
pub fn grant() -> CodeGrant {
    let imports =
        ["json", "math", "re", "time", "random", "datetime", "collections", "asyncio", "decimal", "os", "sys"];
    CodeGrant {
        limits: CodeLimits {
            memory_bytes: 128 << 20,
            wall_ms: Millis(10_000),
            fuel: 60_000_000_000,
            stack_bytes: 16 << 20,
            output_bytes: 50_000,
            result_bytes: 1 << 20,
            callbacks: 1_000,
            tool_ms: Millis(1_000),
        },
        imports: imports.map(str::to_owned).to_vec(),
        files: Vec::new(),
        scratch: None,
        packages: Vec::new(),
        clock: Clock::Frozen,
        randomness: Randomness::Seeded,
        keep: Keep::Session,
        checkpoint: Checkpoint::Asked,
        record: Record::Nothing,
    }
}

/// The tests' agent in `session`.
pub fn key(session: &Name) -> Key {
    let seat = Seat { org: name("org"), agent: name("agent"), name: session.clone() };
    Key { seat, guest: "python".into(), run: name("run") }
}

/// Runs `code` in `session`.
pub fn run_in(session: &Name, code: &str, grant: &CodeGrant, desk: &Desk) -> Outcome {
    SANDBOX.run(&key(session), code, &Map::new(), grant, desk)
}

/// Runs `code` in a session of its own with the usual grant and no tools.
pub fn run(code: &str) -> Outcome {
    run_in(&fresh(), code, &grant(), &Desk::default())
}

/// The error's text, or an empty one.
pub fn message(outcome: &Outcome) -> &str {
    outcome.error.as_ref().map_or("", |error| &error.message)
}

pub fn traceback(outcome: &Outcome) -> &str {
    outcome.error.as_ref().map_or("", |error| &error.traceback)
}

pub fn kind(outcome: &Outcome) -> &str {
    outcome.error.as_ref().map_or("", |error| &error.kind)
}

/// Closes a session, as its owner does.
pub fn close(session: &Name) {
    use weir::pep::port::Executor as _;
    SANDBOX.close(&key(session).seat);
}
