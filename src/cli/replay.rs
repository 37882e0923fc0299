//! `weir replay`: runs an execution again from its tape and says whether it comes out as its receipt says.
//!
//! It reads the journal and the tapes without a lock and runs the program in a sandbox of its own, so that it works
//! beside a running gate and where none runs. It needs no secret but the key of the kept sessions, writes nothing to
//! the store, calls no tool and reaches no session.

use std::io::{self, Write};

use serde_json::{Value, json};

use super::{audit, compose};
use crate::audit::{Body, Execution, Receipt, clean};
use crate::model::{Digest, Kind, Outcome, Seat, Subject};
use crate::sandbox::{Replayed, TapeReader, Vault, VaultKey, Verdict};

/// Run a recorded execution again and compare it, bit for bit.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The receipt's id: that of the call.
    receipt: String,
    #[command(flatten)]
    source: audit::Source,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// What was found, and the exit code that says it.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    /// 0.
    Identical(String),
    /// 1.
    Differs(String),
    /// 2.
    Cannot(String),
}

/// Runs the command: 0 identical, 1 different, 2 nothing can be said.
///
/// # Errors
/// The output cannot be written.
pub(super) fn run(args: Args) -> Result<u8, String> {
    let mut replayed = None;
    let found = find(&args, &mut replayed).unwrap_or_else(Found::Cannot);
    let (code, word, text) = match &found {
        Found::Identical(text) => (0, "identical", text),
        Found::Differs(text) => (1, "differs", text),
        Found::Cannot(text) => (2, "cannot", text),
    };
    // Texts may quote a program, or a worker that ran one.
    let written = if args.json {
        writeln!(io::stdout(), "{}", object(&args.receipt, word, text, replayed.as_ref()))
    } else if code == 2 {
        writeln!(io::stderr(), "it cannot be replayed: {}", clean(text))
    } else {
        writeln!(io::stdout(), "{}: {}", if code == 0 { "identical" } else { "DIFFERS" }, clean(text))
    };
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(format!("the output cannot be written: {error}"))
        }
        _ => Ok(code),
    }
}

fn object(receipt: &str, word: &str, text: &str, replayed: Option<&Replayed>) -> Value {
    json!({
        "receipt": receipt,
        "verdict": word,
        "said": text,
        "step": replayed.map(|replayed| replayed.step),
        "steps": replayed.map(|replayed| replayed.steps),
        "calls": replayed.map(|replayed| replayed.calls),
        "fuel": replayed.map(|replayed| replayed.outcome.usage.of(Kind::Fuel)),
    })
}

fn find(args: &Args, replayed: &mut Option<Replayed>) -> Result<Found, String> {
    let receipt = receipt(&args.source, &args.receipt)?;
    let execution = receipt.execution.as_ref().ok_or("the call was refused: nothing ran")?;
    let tape = execution.tape.ok_or(
        "its receipt names no tape; set record = \"tape\" in [code] of the policy to have executions recorded from then on",
    )?;
    let folder = args.source.dir()?;
    let vault = folder.join(Vault::FOLDER);
    if !vault.is_dir() {
        return Err("this store keeps no tapes; give the --store in which it was recorded".into());
    }
    let tapes = TapeReader::new(&vault, VaultKey::beside(&folder).map_err(|fault| fault.to_string())?);
    let own = std::env::temp_dir().join(compose::fresh("weir-replay")?.as_str());
    let ran = compose::replayer(&own)
        .and_then(|sandbox| sandbox.replay(&tapes, &seat(&receipt), &tape).map_err(|fault| fault.to_string()));
    let _ = std::fs::remove_dir_all(&own);
    let told = replayed.insert(ran?);
    Ok(judge(execution, told))
}

/// The receipt, out of a journal every entry of which holds.
fn receipt(source: &audit::Source, id: &str) -> Result<Receipt, String> {
    let mut found = None;
    let read = source.audit(|entry| match &entry.body {
        Body::Outcome(outcome) if outcome.call.as_str() == id => found = Some(outcome.receipt.clone()),
        _ => {}
    })?;
    if let Err(bad) = read {
        return Err(format!("the journal does not hold at entry {}: {}; no receipt of it counts", bad.seq, bad.text));
    }
    found.ok_or_else(|| format!("no receipt has the id `{}`; `weir audit show --json` prints them", clean(id)))
}

/// Whose interpreter ran it.
fn seat(receipt: &Receipt) -> Seat {
    let who = &receipt.action.requester_context;
    let subject = Subject {
        org: who.organisation.clone(),
        project: who.project.clone(),
        agent: who.agent.clone(),
        session: who.session.clone(),
        run: who.scope.clone(),
        delegation: who.delegation_chain.clone(),
    };
    subject.seat()
}

/// The verdict, once the receipt has been compared with what came out.
fn judge(execution: &Execution, replayed: &Replayed) -> Found {
    let Replayed { verdict, step, steps, calls, outcome, folders } = replayed;
    let at = if *steps == 1 { String::new() } else { format!("step {step} of {steps} of its interpreter: ") };
    let changed = match folders.as_slice() {
        [] => String::new(),
        folders => format!(" (what lay in {} is not on the tape)", folders.join(", ")),
    };
    if let Verdict::Differs(said) = verdict {
        return Found::Differs(format!("{at}{said}{changed}"));
    }
    if let Some(what) = unlike(execution, outcome) {
        return Found::Differs(format!("the tape comes out the same, and its receipt says something else: {what}"));
    }
    let fuel = outcome.usage.of(Kind::Fuel);
    let steps = if *steps == 1 { String::new() } else { format!(", after {} steps that came out the same", steps - 1) };
    Found::Identical(format!("output, {calls} calls, {fuel} fuel and memory are bit for bit those on record{steps}"))
}

/// What a receipt says otherwise than the outcome.
fn unlike(execution: &Execution, outcome: &Outcome) -> Option<String> {
    for kind in [Kind::Fuel, Kind::MemoryBytes, Kind::OutputBytes] {
        let (then, now) = (execution.usage.of(kind), outcome.usage.of(kind));
        if then != now {
            return Some(format!("{} was {then}, is {now}", kind.row().name));
        }
    }
    let result = Some(Digest::of(outcome.output.to_string().as_bytes()));
    let parts = [
        ("the status", execution.status != outcome.status),
        ("the result", execution.result != result),
        ("the files", execution.files != outcome.files),
    ];
    parts.into_iter().find(|(_, differs)| *differs).map(|(what, _)| what.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Amounts, Status};

    fn replayed(verdict: Verdict) -> Replayed {
        let outcome = Outcome { usage: Amounts::ZERO.with(Kind::Fuel, 7), ..Outcome::of(Status::Done) };
        Replayed { verdict, step: 2, steps: 3, calls: 1, outcome, folders: vec!["/data".into()] }
    }

    fn execution() -> Execution {
        let result = Some(Digest::of(b"null"));
        let usage = Amounts::ZERO.with(Kind::Fuel, 7);
        Execution { status: Status::Done, usage, result, files: Vec::new(), tape: None }
    }

    #[test]
    fn a_verdict_is_the_tapes_and_the_receipts() {
        let same = replayed(Verdict::Identical);
        let text = |found: Found| match found {
            Found::Differs(text) => text,
            other => panic!("not a difference: {other:?}"),
        };
        assert!(matches!(judge(&execution(), &same), Found::Identical(said) if said.contains("7 fuel")));
        let fuel = Execution { usage: Amounts::ZERO.with(Kind::Fuel, 8), ..execution() };
        assert!(text(judge(&fuel, &same)).contains("was 8, is 7"));
        for (other, what) in [
            (Execution { status: Status::Failed, ..execution() }, "the status"),
            (Execution { result: None, ..execution() }, "the result"),
        ] {
            assert!(text(judge(&other, &same)).contains(what), "{what}");
        }
        let said = text(judge(&execution(), &replayed(Verdict::Differs("the fuel differs".into()))));
        assert!(said.starts_with("step 2 of 3") && said.contains("/data is not on the tape"), "{said}");
    }
}
