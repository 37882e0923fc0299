//! What a guest answers, parsed as the hostile input that it is, and the outcome that follows from it.
//!
//! The guest's word counts for nothing that costs or proves anything: a denial is one only if the gate
//! denied, an answer is final only if the final-answer tool ran, usage is what was measured.

use serde::Deserialize;
use serde_json::Value;

use super::exchange::Exchange;
use super::output::harmless;
use super::wire::{End, Ended, Trap};
use super::{broken, failed, tagged};
use crate::model::{CodeLimits, GuestError, Outcome, ReasonCode, Status, parse_json};

/// Bytes of an error's message and traceback, each.
const ERROR_BYTES: usize = 32 << 10;

/// Why the gate stopped a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The caller has gone.
    Cancelled,
    /// Far more nested calls than allowed, against the gate's word.
    Callbacks,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Answer {
    status: Said,
    error: Option<GuestError>,
    cut: bool,
    output: Value,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Said {
    Done,
    Failed,
    Denied,
    Final,
    Limit,
}

/// The outcome of a turn; usage and logs are added by the driver.
pub(crate) fn outcome(ended: Ended, told: Option<Stop>, limits: &CodeLimits, exchange: &mut Exchange<'_>) -> Outcome {
    let mut outcome = match ended.end {
        End::Answer(Ok(text)) => match parse(&text, limits, exchange) {
            Ok(answer) => answered(answer, limits, exchange),
            Err(wrong) => failed("ValueError", format!("the program's answer cannot be taken: {}", short(&wrong))),
        },
        End::Answer(Err(bytes)) => {
            failed("ValueError", format!("the program's answer of {bytes} bytes is over every limit"))
        }
        End::Trap(trap) => trapped(&trap, limits, ended.refused),
        End::Wall => exhausted("TimeLimit", format!("the limit of {} ms was reached", limits.wall_ms.0)),
        End::Told => stopped(told.unwrap_or(Stop::Cancelled), limits),
        End::Unstarted(why) => broken(&short(&why)),
    };
    if let Some(answer) = exchange.answer.take() {
        outcome.is_final = true;
        outcome.output = answer;
    }
    outcome
}

/// What the other side said, or a fault that quotes it, within a message of ours.
fn short(said: &str) -> String {
    harmless(&said.chars().take(300).collect::<String>())
}

fn parse(text: &str, limits: &CodeLimits, exchange: &Exchange<'_>) -> Result<Answer, String> {
    let value = parse_json(text.as_bytes()).map_err(|fault| fault.to_string())?;
    let answer: Answer = serde_json::from_value(value).map_err(|error| error.to_string())?;
    tagged::check(&answer.output, &mut |id| exchange.knows(id)).map_err(|fault| fault.to_string())?;
    let size = answer.output.to_string().len() as u64;
    if size > limits.result_bytes {
        return Err(format!("{size} bytes are over the limit of {} bytes", limits.result_bytes));
    }
    Ok(answer)
}

fn answered(answer: Answer, limits: &CodeLimits, exchange: &Exchange<'_>) -> Outcome {
    // The answer has been recorded: what the program did with the signal that ends it does not matter.
    if exchange.answer.is_some() {
        return Outcome::of(Status::Done);
    }
    let mut outcome = Outcome::of(Status::Done);
    outcome.output = answer.output;
    if answer.cut {
        let said =
            format!("The value of the last statement is over {} bytes; its repr is shown, cut.", limits.result_bytes);
        outcome.notices.push(said);
    }
    let error = answer.error.map(bounded);
    match (answer.status, exchange.last_denial()) {
        (Said::Limit, _) if exchange.over_limit() => return stopped(Stop::Callbacks, limits),
        (Said::Denied, Some(code)) => {
            let exhausted = code == ReasonCode::BudgetExhausted;
            outcome.status = if exhausted { Status::Exhausted } else { Status::Denied };
            outcome.stopped = Some(code);
        }
        (Said::Failed, _) if error.as_ref().is_some_and(|e| e.kind == "MemoryError") => {
            outcome.status = Status::Exhausted;
            outcome.stopped = Some(ReasonCode::LimitReached);
        }
        (Said::Done, _) => {}
        _ => outcome.status = Status::Failed,
    }
    if outcome.status != Status::Done {
        outcome.output = Value::Null;
        outcome.error = Some(error.unwrap_or_else(|| told("SystemExit", "the program ended itself".into())));
    }
    if outcome.stopped == Some(ReasonCode::LimitReached)
        && let Some(error) = &mut outcome.error
    {
        error.message = format!("out of memory: the limit is {} bytes", limits.memory_bytes);
    }
    outcome
}

/// A trap: a limit of the engine, or the interpreter giving up.
fn trapped(trap: &Trap, limits: &CodeLimits, refused: bool) -> Outcome {
    match trap {
        Trap::Fuel => exhausted("FuelLimit", format!("the limit of {} fuel was reached", limits.fuel)),
        Trap::Stack => {
            exhausted("StackLimit", format!("the limit of {} bytes of stack was reached", limits.stack_bytes))
        }
        _ if refused => {
            exhausted("MemoryLimit", format!("the limit of {} bytes of memory was reached", limits.memory_bytes))
        }
        Trap::Exit => failed("SystemExit", "the program ended the interpreter itself".into()),
        Trap::Other(why) => {
            tracing::debug!("a guest ended with a trap: {}", harmless(why));
            failed("Abort", "the interpreter stopped itself; what the program did cannot be done in the sandbox".into())
        }
    }
}

fn stopped(stop: Stop, limits: &CodeLimits) -> Outcome {
    match stop {
        Stop::Callbacks => {
            exhausted("CallLimit", format!("the limit of {} nested calls was reached", limits.callbacks))
        }
        Stop::Cancelled => failed("Cancelled", "the caller cancelled the execution".into()),
    }
}

fn exhausted(kind: &str, said: String) -> Outcome {
    let mut outcome = Outcome::of(Status::Exhausted);
    outcome.stopped = Some(ReasonCode::LimitReached);
    outcome.error = Some(told(kind, format!("{said}; do less in one step")));
    outcome
}

fn told(kind: &str, message: String) -> GuestError {
    GuestError { kind: kind.to_owned(), message, traceback: String::new() }
}

/// The error as the agent may read it: bounded, and nothing in it moves a cursor.
fn bounded(error: GuestError) -> GuestError {
    let cut = |text: &str, max: usize| {
        let end = (0..=max.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        harmless(text.get(..end).unwrap_or_default())
    };
    GuestError {
        kind: cut(&error.kind, 100),
        message: cut(&error.message, ERROR_BYTES),
        traceback: cut(&error.traceback, ERROR_BYTES),
    }
}
