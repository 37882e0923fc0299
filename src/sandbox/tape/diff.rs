//! Two tapes compared: the first thing that differs, in the order in which an execution happens, in words.

use std::fmt;

use super::{Printed, Tape, Turn};
use crate::sandbox::output::harmless;
use crate::sandbox::wire::{End, Program, Trap};

/// Bytes of a value that a difference quotes.
const QUOTED: usize = 60;
/// Bytes of a difference.
pub(super) const SAID: usize = 400;

/// The first difference between two executions, in words: under 400 characters, and harmless to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Difference(String);

impl Difference {
    /// What `said` says, cut and made harmless.
    pub(crate) fn new(said: impl Into<String>) -> Self {
        let mut said = harmless(&said.into());
        while said.len() >= SAID {
            said.pop();
        }
        Self(said)
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The first difference of `again` from `recorded`, in the order in which an execution happens.
pub(crate) fn diff(recorded: &Tape, again: &Tape) -> Option<Difference> {
    let found = inputs(recorded, again).or_else(|| events(recorded, again)).or_else(|| ends(recorded, again));
    found.map(Difference::new)
}

/// What went in.
fn inputs(recorded: &Tape, again: &Tape) -> Option<String> {
    let said = |what: &str| Some(format!("{what} is not the one that was recorded"));
    let (a, b) = (&recorded.head, &again.head);
    if (&a.name, a.guest) != (&b.name, b.guest) {
        return said("the guest");
    }
    if a.code != b.code {
        return said("the compiled guest");
    }
    if a.start != b.start {
        return said("the state from which it started");
    }
    if a.own != b.own {
        return said("what lay in the session's folder");
    }
    if (a.limits, a.keep) != (b.limits, b.keep) {
        return said("what the gate held it to");
    }
    let (a, b) = (&recorded.program, &again.program);
    if a.code != b.code {
        let (at, old, new) = first(a.code.as_bytes(), b.code.as_bytes())?;
        return Some(format!("the program differs at byte {at}: recorded {old}, now {new}"));
    }
    // To be told what clocks and dice give, and to be given it, are two sides of the same.
    let plain = |program: &Program| Program { tell: false, noise: None, ..program.clone() };
    if plain(a) == plain(b) { None } else { said("what the program may use, or a limit of it,") }
}

/// What happened: calls and printed text, whichever differs earlier.
fn events(recorded: &Tape, again: &Tape) -> Option<String> {
    let call = calls(recorded, again);
    let print = prints(&recorded.printed, &again.printed);
    match (call, print) {
        (Some((before, _)), Some((at, said))) if at < before => Some(said),
        (Some((_, said)), _) | (None, Some((_, said))) => Some(said),
        (None, None) => None,
    }
}

/// The first call that differs, after the bytes printed before it.
fn calls(recorded: &Tape, again: &Tape) -> Option<(u64, String)> {
    let (a, b) = (&recorded.turns, &again.turns);
    let number = a.iter().zip(b).position(|(a, b)| a != b).unwrap_or(a.len().min(b.len()));
    match (a.get(number), b.get(number)) {
        (None, None) => None,
        (Some(old), None) => {
            Some((old.printed, format!("call {} ({}) was made then and is not made now", number + 1, named(old))))
        }
        (None, Some(new)) => {
            Some((new.printed, format!("call {} ({}) is made now and was not made then", number + 1, named(new))))
        }
        (Some(old), Some(new)) => {
            let said = format!("call {} ({}): {}", number + 1, named(old), turns(old, new));
            Some((old.printed.min(new.printed), said))
        }
    }
}

fn turns(old: &Turn, new: &Turn) -> String {
    if (&old.request.kind, &old.request.name) != (&new.request.kind, &new.request.name) {
        return format!("now it is {}", named(new));
    }
    if old.request.args != new.request.args {
        let text = |turn: &Turn| match &turn.request.args {
            Ok(args) => args.clone(),
            Err(bytes) => format!("{bytes} bytes, too many"),
        };
        return texts("arguments", &text(old), &text(new));
    }
    if old.printed != new.printed {
        return format!("{} bytes were printed before it, now {}", old.printed, new.printed);
    }
    let text = |turn: &Turn| turn.answer.clone().unwrap_or_else(|| "none".into());
    texts("the answer", &text(old), &text(new))
}

fn texts(what: &str, old: &str, new: &str) -> String {
    match first(old.as_bytes(), new.as_bytes()) {
        Some((at, old, new)) => format!("{what} differ at byte {at}: recorded {old}, now {new}"),
        None => format!("{what} differ"),
    }
}

fn named(turn: &Turn) -> String {
    format!("{} {}", quoted(turn.request.kind.as_bytes()), quoted(turn.request.name.as_bytes()))
}

/// The first printed byte that differs.
fn prints(old: &Printed, new: &Printed) -> Option<(u64, String)> {
    if let Some((at, a, b)) = first(old.text.as_bytes(), new.text.as_bytes()) {
        return Some((at, format!("what is printed differs at byte {at}: recorded {a}, now {b}")));
    }
    if old == new {
        return None;
    }
    let at = old.text.len() as u64;
    Some((at, format!("what is printed differs after byte {at}: {} bytes then, {} now", old.bytes, new.bytes)))
}

/// How it ended.
fn ends(recorded: &Tape, again: &Tape) -> Option<String> {
    let (a, b) = (&recorded.ended, &again.ended);
    if let (End::Answer(Ok(old)), End::Answer(Ok(new))) = (&a.end, &b.end)
        && old != new
    {
        return Some(texts("results", old, new));
    }
    if a.end != b.end {
        return Some(format!("it ended with {}, now with {}", end(&a.end), end(&b.end)));
    }
    let number = |what: &str, old: u64, new: u64| {
        (old != new).then(|| format!("{what} differs: {old} then, {new} now ({:+})", i128::from(new) - i128::from(old)))
    };
    number("the fuel that was left", a.fuel_left, b.fuel_left)
        .or_else(|| number("the memory at the end, in bytes,", a.memory_bytes, b.memory_bytes))
        .or_else(|| {
            ((a.refused, a.alive) != (b.refused, b.alive)).then(|| "the interpreter's state at the end differs".into())
        })
        .or_else(|| (noise(recorded) != noise(again)).then(|| "what was drawn from clock and dice differs".into()))
        .or_else(|| (recorded.outcome != again.outcome).then(|| "the outcome that follows differs".into()))
}

/// What clocks and dice gave: told by the interpreter, or given to it.
fn noise(tape: &Tape) -> Option<&Vec<u8>> {
    tape.ended.noise.as_ref().or(tape.program.noise.as_ref())
}

fn end(end: &End) -> String {
    match end {
        End::Answer(Ok(answer)) => format!("the result {}", quoted(answer.as_bytes())),
        End::Answer(Err(bytes)) => format!("a result of {bytes} bytes"),
        End::Trap(Trap::Fuel) => "no fuel left".into(),
        End::Trap(Trap::Stack) => "no stack left".into(),
        End::Trap(Trap::Exit) => "an exit".into(),
        End::Trap(Trap::Other(text)) => format!("the trap {}", quoted(text.as_bytes())),
        End::Wall => "no time left".into(),
        End::Told => "a stop from outside".into(),
        End::Unstarted(text) => format!("no start: {}", quoted(text.as_bytes())),
    }
}

/// Where two texts differ first, and what stands there in each.
fn first(old: &[u8], new: &[u8]) -> Option<(u64, String, String)> {
    let at = old.iter().zip(new).position(|(a, b)| a != b).unwrap_or(old.len().min(new.len()));
    let rest = |text: &[u8]| quoted(text.get(at..).unwrap_or_default());
    (old != new).then(|| (at as u64, rest(old), rest(new)))
}

/// The beginning of `text`, in quotes and harmless.
fn quoted(text: &[u8]) -> String {
    if text.is_empty() {
        return "nothing".into();
    }
    let mut shown = harmless(&String::from_utf8_lossy(text.get(..QUOTED).unwrap_or(text))).replace('\n', "\\n");
    if shown.len() > QUOTED {
        let end = (0..=QUOTED).rev().find(|at| shown.is_char_boundary(*at)).unwrap_or(0);
        shown.truncate(end);
    }
    if shown.len() < text.len() { format!("`{shown}…`") } else { format!("`{shown}`") }
}
