//! What every decoder of hostile bytes promises, one function each: bytes in, and a panic where it is not kept.
//!
//! The tests below call them with damaged samples, `fuzz/` with whatever it can find; nothing else is to use them.

use std::collections::HashSet;
use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::exchange::{Exchange, Next};
use super::output::{Output, harmless};
use super::tape::{Tape, diff};
use super::wire::{Order, Report, System, Terms, parse, receive, send};
use super::{Work, reply, tagged};
use crate::model::{
    Action, Amounts, Checkpoint, Clock, CodeGrant, CodeLimits, Decision, Digest, Effect, Keep, Millis, Name, Outcome,
    Randomness, Reason, ReasonCode, Record, Status, parse_json,
};
use crate::pep::Answer;
use crate::pep::port::{Inner, Param, ToolSpec};

/// The handle that the host gave.
pub(crate) const HANDLE: &str = "0123456789abcdef0123456789abcdef";
/// Bytes that a program may print and return here, each.
const BYTES: u64 = 1_000;
/// Calls that it may make.
const CALLS: u64 = 8;

/// Frames, both ways: what is taken for one is written as one again, and nothing else is taken.
pub(crate) fn frames(bytes: &[u8]) {
    frame::<Report>(bytes);
    frame::<Order>(bytes);
    frame::<Terms>(bytes);
    frame::<System>(bytes);
}

fn frame<F: Serialize + DeserializeOwned + PartialEq + Debug>(bytes: &[u8]) {
    if let Ok(frame) = parse::<F>(bytes) {
        let mut again = Vec::new();
        send(&mut again, &frame).unwrap();
        assert_eq!(receive::<F>(&mut again.as_slice()).unwrap(), frame);
    }
    let mut stream = bytes;
    while receive::<F>(&mut stream).is_ok() {}
}

/// Tagged values: a value and its text are judged alike.
pub(crate) fn values(bytes: &[u8]) {
    let Ok(value) = parse_json(bytes) else { return };
    let judged = |value: &Value| tagged::check(value, &mut |id| id == HANDLE);
    let again = parse_json(value.to_string().as_bytes()).unwrap();
    assert_eq!(judged(&again), judged(&value), "{value}");
}

/// A whole conversation with a worker: its frames, one after another, and the outcome that follows from them.
pub(crate) fn conversation(bytes: &[u8]) {
    let (gate, grant, variables) = (Gate::default(), grant(), Map::new());
    let work = Work { code: "", variables: &variables, grant: &grant, inner: &gate };
    let (mut handles, mut output) = (HashSet::new(), Output::new(BYTES));
    let mut exchange = Exchange::new(&work, gate.tools(), &mut handles);
    let mut stream = bytes;
    let mut outcome = None;
    while let Ok(report) = receive::<Report>(&mut stream) {
        match report {
            Report::Call(request) => match exchange.handle(&request) {
                Next::Reply(text) => drop(parse_json(text.as_bytes()).unwrap()),
                Next::Stop => break,
            },
            Report::Printed(text) => drop(output.take(&text)),
            Report::Ended(ended) => {
                outcome = Some(reply::outcome(ended, None, &grant.limits, &mut exchange));
                break;
            }
            _ => break,
        }
    }
    let logs = output.into_text();
    assert!(logs.len() as u64 <= BYTES + 64 && harmless(&logs) == logs, "{logs}");
    assert!(gate.calls.load(Ordering::Relaxed) <= CALLS, "more calls than allowed");
    if let Some(outcome) = outcome {
        gate.believed(&outcome);
    }
}

/// Tapes: one tape has one encoding, and two can always be compared.
pub(crate) fn tapes(bytes: &[u8]) {
    let Ok(tape) = Tape::decode(bytes) else { return };
    assert_eq!(tape.encode().unwrap(), bytes);
    assert_eq!(diff(&tape, &tape), None);
    let mut other = tape.clone();
    other.printed.text.push('x');
    if let Some(difference) = diff(&tape, &other) {
        let said = difference.to_string();
        assert!(said.len() < 400 && harmless(&said) == said, "{said}");
    }
}

/// A gate with three tools, which counts.
#[derive(Default)]
struct Gate {
    calls: AtomicU64,
    denied: AtomicU64,
    answered: AtomicU64,
}

impl Gate {
    /// An outcome claims nothing that did not happen here, and shows nothing that moves a cursor.
    fn believed(&self, outcome: &Outcome) {
        let happened = |count: &AtomicU64| count.load(Ordering::Relaxed) > 0;
        assert!(outcome.status != Status::Denied || happened(&self.denied), "a denial that nobody spoke");
        assert!(!outcome.is_final || happened(&self.answered), "an answer that nobody gave");
        assert!(outcome.is_final || outcome.output.to_string().len() as u64 <= BYTES, "a result over its limit");
        if let Some(error) = &outcome.error {
            let shown = [&error.kind, &error.message, &error.traceback];
            assert!(shown.iter().all(|text| harmless(text) == **text), "{error:?}");
        }
    }
}

impl Inner for Gate {
    fn call(&self, _: Action, resource: &str, args: Map<String, Value>) -> Answer {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let value = match resource {
            "echo" => Value::Object(args),
            "final_answer" => {
                self.answered.fetch_add(1, Ordering::Relaxed);
                Value::from("from the host")
            }
            _ => {
                self.denied.fetch_add(1, Ordering::Relaxed);
                return answer(Effect::Deny, None);
            }
        };
        answer(Effect::Allow, Some(Outcome { output: value, ..Outcome::of(Status::Done) }))
    }

    fn tools(&self) -> Vec<ToolSpec> {
        let tool = |text: &str| ToolSpec {
            name: Name::new(text).unwrap(),
            description: String::new(),
            params: vec![Param { name: Name::new("value").unwrap(), required: true }],
            is_final: text == "final_answer",
            is_agent: false,
        };
        ["echo", "final_answer"].map(tool).to_vec()
    }

    fn cancelled(&self) -> bool {
        false
    }
}

fn answer(effect: Effect, outcome: Option<Outcome>) -> Answer {
    let code = if effect == Effect::Allow { ReasonCode::Allowed } else { ReasonCode::Rule };
    let (reason, policy) = (Reason::new(code, ""), Digest::ZERO);
    let denial = outcome.is_none().then(|| reason.denial("the call"));
    let (obligations, reserve) = (Vec::new(), Amounts::ZERO);
    let decision = Decision { effect, reason, obligations, reserve, grant: None, exec: None, policy };
    Answer { call: Name::new("c").unwrap(), decision, outcome, receipt: None, denial }
}

fn grant() -> CodeGrant {
    let limits = CodeLimits {
        memory_bytes: 1 << 20,
        wall_ms: Millis(1_000),
        fuel: 1_000_000,
        stack_bytes: 1 << 20,
        output_bytes: BYTES,
        result_bytes: BYTES,
        callbacks: CALLS,
        tool_ms: Millis(1_000),
    };
    CodeGrant {
        limits,
        imports: Vec::new(),
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

#[cfg(test)]
#[path = "../../tests/support/mutation.rs"]
#[allow(clippy::duplicate_mod, reason = "each edge damages samples of its own, and none knows another")]
pub(crate) mod mutation;

#[cfg(test)]
pub(crate) mod samples {
    //! What is right, to be damaged.

    use super::*;
    use crate::sandbox::wire::{End, Ended, Program, Request, Trap};

    pub(crate) fn ended(end: End) -> Report {
        let noise = Some(vec![1, 2, 3]);
        Report::Ended(Ended { end, fuel_left: 9, memory_bytes: 7, refused: false, alive: true, held: false, noise })
    }

    pub(crate) fn call(kind: &str, name: &str, args: &str) -> Report {
        Report::Call(Request { kind: kind.into(), name: name.into(), args: Ok(args.into()) })
    }

    fn said(status: &str, output: &str) -> Report {
        let error = r#"{"type": "E", "message": "m\u001b", "traceback": "t"}"#;
        let text = format!(r#"{{"status": "{status}", "error": {error}, "cut": false, "output": {output}}}"#);
        ended(End::Answer(Ok(text)))
    }

    pub(crate) fn reports() -> Vec<Report> {
        vec![
            call("tool", "echo", r#"{"value": {"$": ["handle", "0123456789abcdef0123456789abcdef", "a", "b"]}}"#),
            call("tool", "secret", "{}"),
            call("import", "os", "{}"),
            call("tool", "final_answer", r#"{"value": 1}"#),
            Report::Printed("\u{1b}[2J printed \u{202e}\n".into()),
            said("done", r#"{"$": ["tuple", [1, {"$": ["int", "-5"]}]]}"#),
            said("denied", "null"),
            said("final", "1"),
            said("limit", "1"),
            ended(End::Answer(Err(9_000_000))),
            ended(End::Trap(Trap::Other("\u{1b}".into()))),
            ended(End::Wall),
            ended(End::Unstarted("\u{1b}why".into())),
            Report::Ready("held".into()),
            Report::Part(vec![1, 2, 3]),
            Report::Saved(Ok((7, 8, (9, 10)))),
            Report::Loaded(Err("why".into())),
        ]
    }

    pub(crate) fn orders() -> Vec<Order> {
        let program = Program {
            code: "print(1)".into(),
            request: "{}".into(),
            memory_bytes: 1,
            wall_ms: 2,
            fuel: 3,
            output_bytes: 4,
            hold: false,
            tell: true,
            noise: Some(vec![0; 9]),
        };
        vec![
            Order::Run { seat: 1, start: Some(System::nothing()), keep: true, program },
            Order::Answer(r#"{"value": 1}"#.into()),
            Order::Load { seat: 2, start: System::nothing(), bytes: 5 },
            Order::Part(vec![5; 40]),
            Order::Stop,
        ]
    }

    /// One frame, with its length in front.
    pub(crate) fn framed<F: Serialize>(frame: &F) -> Vec<u8> {
        let mut bytes = Vec::new();
        send(&mut bytes, frame).unwrap();
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::mutation::Mutations;
    use super::samples::{framed, orders, reports};
    use super::*;
    use crate::sandbox::tape::{Head, Mark, Own, Recorder, Start};
    use crate::sandbox::wire::Request;

    /// Damaged samples for each decoder; the same in every run.
    const EACH: usize = 20_000;

    #[test]
    fn damaged_frames_are_refused_or_read_and_never_more() {
        let content = |framed: Vec<u8>| framed[4..].to_vec();
        let mut samples: Vec<Vec<u8>> = reports().iter().map(framed).chain(orders().iter().map(framed)).collect();
        samples.extend(reports().iter().map(|report| content(framed(report))));
        Mutations::new(1, samples).take(EACH).for_each(|bytes| frames(&bytes));
    }

    #[test]
    fn damaged_values_are_refused_or_read_and_never_more() {
        let samples = [
            r#"{"a": {"$": ["int", "-5"]}, "b": [1, 1.5, "x", null, true]}"#,
            r#"{"$": ["dict", [[{"$": ["tuple", [1]]}, {"$": ["set", []]}]]]}"#,
            r#"{"$": ["handle", "0123456789abcdef0123456789abcdef", "Image", "<Image>"]}"#,
            r#"{"$": ["complex", [1.5, {"$": ["float", "nan"]}]]}"#,
            r#"{"$": ["bytes", "gARnQVNW"], "x": "😀é\u0000"}"#,
        ];
        let samples = samples.map(|text| text.as_bytes().to_vec()).to_vec();
        Mutations::new(2, samples).take(EACH).for_each(|bytes| values(&bytes));
    }

    #[test]
    fn damaged_conversations_claim_nothing_that_did_not_happen() {
        let all = reports();
        // Every report after every other, so that damage finds calls before ends.
        let mut samples = Vec::new();
        for (at, first) in all.iter().enumerate() {
            let then = &all[(at * 7 + 5) % all.len()];
            samples.push([first, then, &all[5]].map(framed).concat());
            samples.push([&all[0], &all[1], first].map(framed).concat());
            samples.push([first; 12].map(framed).concat());
        }
        samples.iter().for_each(|bytes| conversation(bytes));
        Mutations::new(3, samples).take(EACH).for_each(|bytes| conversation(&bytes));
    }

    #[test]
    fn damaged_tapes_are_refused_or_compared() {
        let Some(Order::Run { start: Some(system), program, .. }) = orders().into_iter().next() else { panic!() };
        let (name, start, limits) = (Name::new("python").unwrap(), Start::Fresh(system), grant().limits);
        let (guest, code) = (Digest::of(b"g"), Digest::of(b"c"));
        let own = Some(Own { guest: "/scratch".into(), files: Digest::ZERO });
        let head = Head { name, guest, code, packages: Vec::new(), start, own, limits, keep: true };
        let mut recorder = Recorder::new(head, program);
        recorder.printed("before\n\u{1b}");
        recorder.asked(&Request { kind: "tool".into(), name: "look".into(), args: Ok(r#"{"n":1}"#.into()) });
        recorder.answered(r#"{"value":2}"#, Mark::Denied(ReasonCode::NoRule));
        let Report::Ended(ended) = samples::ended(crate::sandbox::wire::End::Wall) else { panic!() };
        let bytes = recorder.ended(ended, Digest::of(b"o")).unwrap().encode().unwrap();
        tapes(&bytes);
        Mutations::new(4, vec![bytes]).take(EACH).for_each(|bytes| tapes(&bytes));
    }
}
