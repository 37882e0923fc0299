//! The tape of one execution: everything that went into the interpreter and everything that came out, in
//! order, so that the execution can be run again and compared bit for bit.
//!
//! The encoding is binary, versioned and strict: one tape has one encoding, whose SHA-256 is the tape's name
//! and stands in the receipt. A tape is bounded; one that grows beyond its bound is given up, and the
//! execution is not. This file records, `diff.rs` compares; neither runs nor stores anything.

// Said, so that `fuzz/` finds it too.
#[path = "tape/diff.rs"]
mod diff;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

pub(crate) use diff::diff;

use super::wire::{self, End, Ended, Program, Request, System};
use crate::model::{CodeLimits, Digest, Name, Package, ReasonCode, Seat};

/// Bytes of an encoded tape at most.
pub(crate) const BYTES: usize = 64 << 20;
/// Printed bytes that are on the tape as text; of more, number and digest are.
const TEXT: usize = 4 << 20;
/// How an encoded tape begins; the last digit is the format's version.
const MAGIC: &[u8] = b"weirtap1";

/// From what an execution started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Start {
    /// A fresh interpreter.
    Fresh(System),
    /// The interpreter as an execution before left it, wherever it was kept in between: whose, and that one's tape.
    After { seat: Seat, tape: Digest },
}

/// The session's own folder when an execution began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Own {
    /// Its path in the guest.
    pub(crate) guest: String,
    /// What lay in it: SHA-256 of the list of its files with their digests.
    pub(crate) files: Digest,
}

/// What an execution begins with, besides its program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Head {
    /// The guest's name.
    pub(crate) name: Name,
    /// The guest's sources.
    pub(crate) guest: Digest,
    /// The guest as compiled, and its image: fuel is counted in it.
    pub(crate) code: Digest,
    /// The packages in that image.
    pub(crate) packages: Vec<Package>,
    /// From what it started.
    pub(crate) start: Start,
    /// The session's own folder, where it has one.
    pub(crate) own: Option<Own>,
    /// What the gate held it to.
    pub(crate) limits: CodeLimits,
    /// True when its interpreter was to stay.
    pub(crate) keep: bool,
}

/// What a call meant to the gate beyond what the program was answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Mark {
    /// Nothing.
    Plain,
    /// It was refused, and why.
    Denied(ReasonCode),
    /// It ended the program; the answer's JSON text.
    Final(String),
}

/// One call of the program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Turn {
    /// Bytes printed before it.
    pub(crate) printed: u64,
    /// What the program asked.
    pub(crate) request: Request,
    /// What the gate answered; `None` when the program was stopped instead.
    pub(crate) answer: Option<String>,
    /// What that meant.
    pub(crate) mark: Mark,
}

/// What the program printed, as the interpreter gave it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Printed {
    /// How many bytes.
    pub(crate) bytes: u64,
    /// Their SHA-256.
    pub(crate) digest: Digest,
    /// The first of them.
    pub(crate) text: String,
}

/// One execution.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tape {
    /// What it began with.
    pub(crate) head: Head,
    /// The program, its limits, and what the real clocks and dice are to give again.
    pub(crate) program: Program,
    /// Its calls, in order.
    pub(crate) turns: Vec<Turn>,
    /// What it printed.
    pub(crate) printed: Printed,
    /// How it ended.
    pub(crate) ended: Ended,
    /// SHA-256 over what of the outcome does not depend on the machine's speed.
    pub(crate) outcome: Digest,
}

/// Why bytes are not a tape, or an execution has none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TapeFault {
    /// Too long.
    #[error("the execution's inputs and outputs are over {BYTES} bytes; no tape of it was kept")]
    Long,
    /// Not an encoded tape of this version.
    #[error("it is not a tape of this version: {0}")]
    Form(String),
}

impl Tape {
    /// The tape as bytes; equal tapes have equal bytes.
    ///
    /// # Errors
    /// [`TapeFault::Long`].
    pub(crate) fn encode(&self) -> Result<Vec<u8>, TapeFault> {
        let bytes = postcard::to_extend(self, MAGIC.to_vec()).map_err(|error| TapeFault::Form(error.to_string()))?;
        if bytes.len() > BYTES { Err(TapeFault::Long) } else { Ok(bytes) }
    }

    /// The tape that [`Tape::encode`] wrote. Another encoding of the same tape is refused.
    ///
    /// # Errors
    /// [`TapeFault`].
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, TapeFault> {
        if bytes.len() > BYTES {
            return Err(TapeFault::Long);
        }
        let form = |text: &str| TapeFault::Form(text.to_owned());
        let content = bytes.strip_prefix(MAGIC).ok_or_else(|| form("it begins otherwise"))?;
        let tape: Self = wire::parse(content).map_err(|error| form(&error.to_string()))?;
        if tape.encode()? == bytes { Ok(tape) } else { Err(form("it is not in its one encoding")) }
    }

    /// Why running it again cannot be expected to give the same, where that is so.
    pub(crate) fn inexact(&self) -> Option<&'static str> {
        let real = self.program.tell && self.ended.noise.is_none();
        // Stopped instead of answered: that is an instruction, and the same one every time.
        let asking = self.turns.last().is_some_and(|turn| turn.answer.is_none());
        match self.ended.end {
            End::Wall => Some("it was stopped by the clock, and no two runs are stopped at the same instruction"),
            End::Told if !asking => {
                Some("it was stopped from outside, and no two runs are stopped at the same instruction")
            }
            End::Unstarted(_) => Some("it never started, or its worker failed"),
            _ if real => Some("it drew more from the real clock and dice than is kept"),
            _ => None,
        }
    }
}

/// Records an execution as it happens.
#[derive(Debug)]
pub(crate) struct Recorder {
    head: Head,
    program: Program,
    turns: Vec<Turn>,
    text: String,
    printed: u64,
    hash: Sha256,
    /// All that was printed is in the text.
    whole: bool,
    /// Bytes that may still be taken; `None` once it was too much.
    left: Option<usize>,
}

impl Recorder {
    /// Begins the tape of `program`.
    pub(crate) fn new(head: Head, program: Program) -> Self {
        let left = BYTES.checked_sub(program.code.len() + program.request.len());
        let (turns, text, hash) = (Vec::new(), String::new(), Sha256::new());
        Self { head, program, turns, text, printed: 0, hash, whole: true, left }
    }

    /// The program asked.
    pub(crate) fn asked(&mut self, request: &Request) {
        let args = request.args.as_ref().map_or(0, String::len);
        if self.take(args + request.kind.len() + request.name.len() + 64) {
            self.turns.push(Turn { printed: self.printed, request: request.clone(), answer: None, mark: Mark::Plain });
        }
    }

    /// The gate answered the last request.
    pub(crate) fn answered(&mut self, answer: &str, mark: Mark) {
        let meant = if let Mark::Final(text) = &mark { text.len() } else { 0 };
        if self.take(answer.len() + meant)
            && let Some(turn) = self.turns.last_mut()
        {
            turn.answer = Some(answer.to_owned());
            turn.mark = mark;
        }
    }

    /// The program printed.
    pub(crate) fn printed(&mut self, text: &str) {
        self.hash.update(text);
        self.printed = self.printed.saturating_add(text.len() as u64);
        // Once something was left out nothing follows: the text is a beginning.
        if !self.whole {
            return;
        }
        let room = TEXT.saturating_sub(self.text.len());
        let end = (0..=room.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        self.whole = end == text.len();
        let kept = text.get(..end).unwrap_or_default();
        if self.take(kept.len()) {
            self.text.push_str(kept);
        }
    }

    /// The execution is over.
    ///
    /// # Errors
    /// [`TapeFault::Long`] when it was too much.
    pub(crate) fn ended(self, ended: Ended, outcome: Digest) -> Result<Tape, TapeFault> {
        let Self { head, program, turns, text, printed, hash, left, .. } = self;
        left.ok_or(TapeFault::Long)?;
        let printed = Printed { bytes: printed, digest: Digest(hash.finalize().into()), text };
        Ok(Tape { head, program, turns, printed, ended, outcome })
    }

    fn take(&mut self, bytes: usize) -> bool {
        self.left = self.left.and_then(|left| left.checked_sub(bytes));
        if self.left.is_none() {
            // It will not be a tape; what was taken is room for nothing.
            self.turns = Vec::new();
            self.text = String::new();
        }
        self.left.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::diff::SAID;
    use super::*;
    use crate::sandbox::wire::Trap;
    use proptest::prelude::*;

    fn program(code: &str) -> Program {
        Program {
            code: code.into(),
            request: "{}".into(),
            memory_bytes: 1,
            wall_ms: 2,
            fuel: 3,
            output_bytes: 4,
            hold: false,
            tell: true,
            noise: None,
        }
    }

    fn limits() -> CodeLimits {
        CodeLimits {
            memory_bytes: 1,
            wall_ms: crate::model::Millis(2),
            fuel: 3,
            stack_bytes: 4,
            output_bytes: 4,
            result_bytes: 5,
            callbacks: 6,
            tool_ms: crate::model::Millis(7),
        }
    }

    fn ended(answer: &str) -> Ended {
        Ended {
            end: End::Answer(Ok(answer.into())),
            fuel_left: 1000,
            memory_bytes: 65_536,
            refused: false,
            alive: true,
            held: false,
            noise: Some(vec![1, 2, 3]),
        }
    }

    fn request(name: &str, args: &str) -> Request {
        Request { kind: "tool".into(), name: name.into(), args: Ok(args.into()) }
    }

    fn recorder() -> Recorder {
        let system = System { seed: Some("s".into()), clock: Some(5), ..System::nothing() };
        let start = Start::Fresh(system);
        let (guest, code) = (Digest::of(b"guest"), Digest::of(b"code"));
        let name = Name::new("python").unwrap();
        let own = Some(Own { guest: "/scratch".into(), files: Digest::ZERO });
        let packages = Vec::new();
        let head = Head { name, guest, code, packages, start, own, limits: limits(), keep: true };
        Recorder::new(head, program("print(look(1))"))
    }

    fn tape() -> Tape {
        let mut recorder = recorder();
        recorder.printed("before\n");
        recorder.asked(&request("look", r#"{"n":1}"#));
        recorder.answered(r#"{"value":2}"#, Mark::Plain);
        recorder.printed("2");
        recorder.printed("\n");
        recorder.asked(&request("paid", "{}"));
        recorder.answered(r#"{"denied":"no"}"#, Mark::Denied(ReasonCode::NoRule));
        recorder.ended(ended("{}"), Digest::of(b"outcome")).unwrap()
    }

    fn said(change: impl FnOnce(&mut Tape)) -> String {
        let (recorded, mut again) = (tape(), tape());
        change(&mut again);
        let said = diff(&recorded, &again).expect("a difference").to_string();
        assert!(!said.is_empty() && said.len() < SAID, "{said}");
        said
    }

    #[test]
    fn a_tape_has_one_encoding_and_reads_back() {
        let bytes = tape().encode().unwrap();
        assert_eq!(Tape::decode(&bytes).unwrap(), tape());
        assert_eq!(tape().printed.text, "before\n2\n");
        assert_eq!(tape().turns.iter().map(|turn| turn.printed).collect::<Vec<_>>(), [7, 9]);
        for wrong in [&bytes[1..], &bytes[..bytes.len() - 1], &[&bytes[..], &[0]].concat(), &[], b"weirtap2"] {
            assert!(matches!(Tape::decode(wrong), Err(TapeFault::Form(_))));
        }
        // A number with a needless byte is another encoding of the same tape.
        let at = bytes.windows(2).position(|window| window == [3, 1]).expect("the noise's length");
        let longer = [&bytes[..at], &[0x83, 0], &bytes[at + 1..]].concat();
        assert!(wire::parse::<Tape>(&longer[MAGIC.len()..]).is_ok(), "the same tape");
        assert!(matches!(Tape::decode(&longer), Err(TapeFault::Form(text)) if text.contains("one encoding")));
    }

    #[test]
    fn how_printed_text_arrives_is_not_on_the_tape() {
        let by = |pieces: &[&str]| {
            let mut recorder = recorder();
            pieces.iter().for_each(|piece| recorder.printed(piece));
            recorder.ended(ended("{}"), Digest::ZERO).unwrap()
        };
        assert_eq!(by(&["aé", "b"]), by(&["a", "", "éb"]));
        let long = "é".repeat(TEXT / 2 + 9);
        let (head, tail) = long.split_at(TEXT - 2);
        let tape = by(&["x", &long]);
        assert_eq!(tape, by(&["x", head, tail]));
        assert_eq!((tape.printed.bytes, tape.printed.text.len()), (TEXT as u64 + 19, TEXT - 1));
        assert_eq!(tape.printed.digest, Digest::of(format!("x{long}").as_bytes()));
        let other = by(&["x", head, &tail.replace('é', "è")]);
        let said = diff(&tape, &other).unwrap().to_string();
        assert!(said.contains(&format!("after byte {}", TEXT - 1)), "{said}");
    }

    #[test]
    fn an_execution_that_is_too_much_has_no_tape() {
        let mut recorder = recorder();
        let answer = "x".repeat(8 << 20);
        for _ in 0..9 {
            recorder.asked(&request("look", "{}"));
            recorder.answered(&answer, Mark::Plain);
        }
        assert!(recorder.turns.is_empty(), "and takes no room");
        let fault = recorder.ended(ended("{}"), Digest::ZERO).unwrap_err();
        assert_eq!(fault, TapeFault::Long);
        assert!(fault.to_string().contains("no tape"));
    }

    #[test]
    fn the_first_difference_is_named() {
        assert_eq!(diff(&tape(), &tape()), None);
        let is = |said: String, parts: &[&str]| assert!(parts.iter().all(|part| said.contains(part)), "{said}");
        is(said(|tape| tape.head.guest = Digest::ZERO), &["the guest"]);
        is(said(|tape| tape.head.code = Digest::ZERO), &["the compiled guest"]);
        is(said(|tape| tape.head.own = None), &["the session's folder"]);
        is(said(|tape| tape.head.limits.callbacks = 9), &["held it to"]);
        is(said(|tape| tape.program.code = "print(look(2))".into()), &["the program", "byte 11", "`1))`", "`2))`"]);
        is(said(|tape| tape.program.fuel = 9), &["limit"]);
        let seat =
            || Seat { org: Name::new("a").unwrap(), agent: Name::new("a").unwrap(), name: Name::new("a").unwrap() };
        is(said(|tape| tape.head.start = Start::After { seat: seat(), tape: Digest::ZERO }), &["state"]);
        is(said(|tape| tape.turns[0].request.args = Ok(r#"{"n":2}"#.into())), &["call 1 (`tool` `look`)", "byte 5"]);
        is(said(|tape| tape.turns[1].request.name = "free".into()), &["call 2 (`tool` `paid`)", "`free`"]);
        is(said(|tape| tape.turns[1].answer = None), &["call 2", "the answer"]);
        is(said(|tape| tape.turns.truncate(1)), &["call 2", "is not made now"]);
        is(said(|tape| tape.turns.push(tape.turns[0].clone())), &["call 3", "was not made then"]);
        is(said(|tape| tape.printed.text = "befose\n2\n".into()), &["printed", "byte 4", "`re\\n2\\n`", "`se\\n2\\n`"]);
        is(said(|tape| tape.ended.fuel_left = 990), &["fuel", "1000", "990", "(-10)"]);
        is(said(|tape| tape.ended.memory_bytes = 1), &["memory"]);
        is(said(|tape| tape.ended.end = End::Answer(Ok("{1}".into()))), &["results", "byte 1"]);
        is(said(|tape| tape.ended.end = End::Trap(Trap::Fuel)), &["no fuel left"]);
        is(said(|tape| tape.ended.noise = Some(vec![1])), &["clock and dice"]);
        is(said(|tape| tape.outcome = Digest::ZERO), &["outcome"]);
    }

    #[test]
    fn what_happens_earlier_is_named_first() {
        let both = |text: &str| {
            said(|tape| {
                tape.turns[1].request.name = "free".into();
                tape.printed.text = text.into();
            })
        };
        assert!(both("before\n3\n").contains("printed"), "printed before the call");
        assert!(both("before\n2\nmore").contains("call 2"), "printed after it");
    }

    #[test]
    fn clocks_and_dice_that_are_given_again_are_no_difference() {
        let mut again = tape();
        again.program.noise = again.ended.noise.take();
        again.program.tell = false;
        assert_eq!(diff(&tape(), &again), None);
        assert_eq!(tape().inexact(), None);
        let mut lost = tape();
        lost.ended.noise = None;
        assert!(lost.inexact().unwrap().contains("dice"));
        lost.ended.end = End::Wall;
        assert!(lost.inexact().unwrap().contains("clock"));
        let mut told = tape();
        told.ended.end = End::Told;
        assert!(told.inexact().unwrap().contains("from outside"));
        told.turns[1].answer = None;
        assert_eq!(told.inexact(), None, "stopped instead of answered: an instruction, and the same one every time");
    }

    #[test]
    fn a_difference_is_harmless_whatever_it_quotes() {
        for hostile in ["\u{1b}[2J".repeat(200), "\u{202e}é".repeat(99), "\u{e0041}".repeat(80), "x".repeat(9999)] {
            let text = said(|tape| {
                tape.turns[0].request.name = hostile.clone();
                tape.turns[0].request.kind = hostile.clone();
            });
            assert!(!text.chars().any(char::is_control) && !text.contains('\u{202e}'), "{text}");
            said(|tape| tape.ended.end = End::Trap(Trap::Other(hostile.clone())));
            said(|tape| tape.printed.text = hostile.clone());
        }
    }

    proptest! {
        #[test]
        fn a_reader_of_tapes_never_panics_and_takes_no_second_encoding(bytes: Vec<u8>, at in 0usize..4096, bit in 0u8..8) {
            let mut changed = tape().encode().unwrap();
            let at = at % changed.len();
            changed[at] ^= 1 << bit;
            for bytes in [changed, [MAGIC, &bytes[..]].concat(), bytes] {
                if let Ok(tape) = Tape::decode(&bytes) {
                    prop_assert_eq!(tape.encode().unwrap(), bytes);
                }
            }
        }
    }
}
