//! Tools and a fake interpreter that note everything that reaches them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Map, Value, json};
use weir::model::{Action, Amounts, Call, CallId, Kind, Millis, Outcome, Status, Subject};
use weir::pep::port::{Executor, Inner, ToolHost, ToolSpec};
use weir::pep::{Answer, Durable, Gate, Reserved};

use super::Store;

/// One thing that ran.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    pub id: CallId,
    pub what: String,
    pub args: String,
    pub subject: Option<Subject>,
}

/// The host of the tools, and what ran there.
#[derive(Clone, Debug, Default)]
pub struct Host {
    pub ran: Arc<Mutex<Vec<Ran>>>,
    /// Answers of nested calls, as the program saw them.
    pub nested: Arc<Mutex<Vec<Answer>>>,
    pub cancelled: Arc<AtomicBool>,
    /// Calls that ran without a durable intent. An assertion in an executor would not do: the gate
    /// catches its panic.
    pub unlawful: Arc<Mutex<Vec<CallId>>>,
}

impl Host {
    pub fn count(&self) -> usize {
        self.ran.lock().unwrap().len()
    }

    pub fn ids(&self) -> Vec<CallId> {
        self.ran.lock().unwrap().iter().map(|ran| ran.id.clone()).collect()
    }

    fn note(&self, id: &CallId, what: &str, args: &Map<String, Value>, subject: Option<&Subject>) {
        let args = Value::Object(args.clone()).to_string();
        let ran = Ran { id: id.clone(), what: what.to_owned(), args, subject: subject.cloned() };
        self.ran.lock().unwrap().push(ran);
    }
}

/// How a tool ends: argument `end` says it, so that scenarios are data.
fn end(args: &Map<String, Value>) -> Outcome {
    let usage = args.get("paid").and_then(Value::as_u64).unwrap_or(0);
    let status = match args.get("end").and_then(Value::as_str) {
        Some("failed") => Status::Failed,
        Some("unknown") => Status::Unknown,
        Some("broken") => Status::Broken,
        Some("exhausted") => Status::Exhausted,
        Some("panic") => panic!("{}: a tool breaks", super::EXPECTED),
        _ => Status::Done,
    };
    let output = json!({ "echo": args.get("q") });
    Outcome { output, usage: Amounts::ZERO.with(Kind::MicroUsd, usage), ..Outcome::of(status) }
}

impl ToolHost for Host {
    fn tools(&self) -> Vec<ToolSpec> {
        Vec::new()
    }

    fn call(&self, id: &CallId, tool: &str, args: &Map<String, Value>, _: Millis) -> Outcome {
        self.note(id, tool, args, None);
        end(args)
    }

    fn cancelled(&self) -> bool {
        self.cancelled.load(Ordering::SeqCst)
    }
}

/// A step of a program.
pub fn step(action: Action, resource: &str, args: &Value) -> Value {
    json!([action.word(), resource, args])
}

/// The executor of everything: tools at once, programs step by step.
#[derive(Clone, Debug)]
pub struct Line {
    pub store: Store,
    pub host: Host,
}

impl Line {
    pub fn run(&self, gate: &Gate, call: Call) -> Answer {
        let answer = gate.handle(call, self, &self.host);
        assert_eq!(*self.host.unlawful.lock().unwrap(), [], "ran without a durable intent");
        answer
    }
}

impl Executor for Line {
    fn execute(&self, work: &Durable<Reserved>, inner: &dyn Inner) -> Outcome {
        let call = work.call();
        if !self.store.has_intent(&call.id) {
            self.host.unlawful.lock().unwrap().push(call.id.clone());
        }
        self.host.note(&call.id, call.resource.name.as_str(), &call.args, Some(&call.subject));
        if call.action != Action::CodeRun {
            return end(&call.args);
        }
        let code = call.args.get("code").and_then(Value::as_str).unwrap_or_default();
        let steps: Vec<(String, String, Value)> = serde_json::from_str(code).unwrap_or_default();
        let mut denied = 0;
        for (action, resource, args) in steps {
            let action = Action::from_word(&action).expect("a known action");
            let answer = inner.call(action, &resource, args.as_object().cloned().unwrap_or_default());
            denied += u64::from(!answer.ran());
            self.host.nested.lock().unwrap().push(answer);
        }
        let usage = Amounts::ZERO.with(Kind::Fuel, 1000 + denied).with(Kind::MemoryBytes, 1 << 20);
        Outcome { usage: usage.with(Kind::WallMs, 3).with(Kind::OutputBytes, 10), ..end(&call.args) }
    }
}
