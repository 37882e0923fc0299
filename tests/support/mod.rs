//! What whole-gate tests share: a clock that is set, a store that fails where it is told, a person
//! with prepared answers, tools that note every call, and small policies and calls.
#![allow(dead_code, unused_imports, reason = "each test file uses its own part")]

pub mod host;
pub mod policy;
pub mod store;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Map, Value};
use weir::audit::Key;
use weir::model::{Action, Call, Digest, Millis, Name, Resource, Subject, Timestamp};
use weir::pdp::Compiled;
use weir::pep::port::{Approval, Approver, Clock, Question};
use weir::pep::{Gate, GateFault};
use weir::policy::Policy;

pub use host::{Host, Line, step};
pub use store::{Break, Store};

/// How panics begin that a test causes on purpose; they are not printed.
pub const EXPECTED: &str = "on purpose";

fn silence_expected_panics() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let expected = info.payload_as_str().is_some_and(|text| text.starts_with(EXPECTED));
            if !expected {
                before(info);
            }
        }));
    });
}

pub fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

pub fn key() -> Key {
    Key::from_seed(&[9; 32])
}

/// A clock that a test sets.
#[derive(Clone, Debug)]
pub struct SimClock(pub Arc<AtomicU64>);

impl Default for SimClock {
    fn default() -> Self {
        Self(Arc::new(AtomicU64::new(1_700_000_000_000)))
    }
}

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
}

/// A person with prepared answers; unavailable once they are used up. Notes what was asked.
#[derive(Clone, Debug, Default)]
pub struct Person {
    pub answers: Arc<Mutex<VecDeque<Approval>>>,
    pub asked: Arc<Mutex<Vec<(String, Digest)>>>,
}

impl Person {
    pub fn says(&self, answers: impl IntoIterator<Item = Approval>) {
        self.answers.lock().unwrap().extend(answers);
    }

    pub fn yes(&self, times: usize) {
        self.says((0..times).map(|_| Approval::Granted("the operator said so".into())));
    }

    pub fn times_asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

impl Approver for Person {
    fn ask(&self, _: &Call, why: &str, question: &Question, _: Millis) -> Approval {
        self.asked.lock().unwrap().push((why.to_owned(), question.bound));
        self.answers.lock().unwrap().pop_front().unwrap_or(Approval::Unavailable)
    }
}

/// Everything around one gate; the gate itself is opened on it, as often as a test likes.
#[derive(Clone, Debug, Default)]
pub struct World {
    pub store: Store,
    pub clock: SimClock,
    pub person: Person,
}

impl World {
    pub fn open(&self, policy: Policy) -> Gate {
        self.try_open(policy).unwrap_or_else(|fault| panic!("the gate does not open: {fault}"))
    }

    pub fn try_open(&self, policy: Policy) -> Result<Gate, GateFault> {
        silence_expected_panics();
        let policy = Compiled::new(policy).unwrap_or_else(|faults| panic!("{faults}"));
        let clock = Box::new(self.clock.clone());
        Gate::open(policy, Box::new(self.store.clone()), clock, Box::new(self.person.clone()), key())
    }

    /// The same world with a copy of what is in the store: a machine that starts again elsewhere.
    pub fn copy(&self) -> Self {
        let clock = SimClock(Arc::new(AtomicU64::new(self.clock.now().0)));
        let person = Person::default();
        person.says(self.person.answers.lock().unwrap().iter().cloned());
        Self { store: self.store.copy(), clock, person }
    }
}

pub fn subject() -> Subject {
    Subject {
        org: name("acme"),
        agent: name("coder"),
        session: name("s1"),
        run: name("r1"),
        delegation: Vec::new(),
        project: None,
    }
}

pub fn args(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => panic!("arguments are an object, not {other}"),
    }
}

pub fn call(id: &str, action: Action, resource: &str, arguments: Value) -> Call {
    Call {
        id: name(id),
        subject: subject(),
        action,
        resource: Resource::named(name(resource)),
        args: args(arguments),
        parent: None,
        surface: name("test"),
    }
}

pub fn tool(id: &str, tool: &str, arguments: Value) -> Call {
    call(id, Action::ToolCall, tool, arguments)
}

/// A program of the fake interpreter in [`host::Line`]: each step is a nested call.
pub fn program(id: &str, steps: &[Value]) -> Call {
    let code = Value::Array(steps.to_vec()).to_string();
    call(id, Action::CodeRun, "python", serde_json::json!({ "code": code }))
}

/// SplitMix64: a seed gives the same test for ever.
#[derive(Clone, Debug)]
pub struct Seeded(pub u64);

impl Seeded {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    pub fn pick<'t, T>(&mut self, items: &'t [T]) -> &'t T {
        &items[self.below(items.len() as u64) as usize]
    }
}
