//! Tapes of steps: begun with all that goes in, ended with what came out, kept in the vault.
//!
//! A tape is evidence and never a condition: a step of which none can be kept runs all the same, and its outcome says
//! why there is none. Steps of one interpreter form a chain, each tape naming the one before it, back to a fresh
//! interpreter. This file must not run anything; `step.rs` records and `replay.rs` replays.

use super::session::Place;
use super::step::{Course, Left, Ran};
use super::tape::{Head, Own, Start};
use super::{Key, Sandbox, SandboxFault, builder};
use crate::model::{CodeGrant, Digest, Keep, Kind, Name, Outcome, OutputFile, Record, Seat};

/// What an agent is told of a step without the tape that its policy asks for.
const UNTAPED: &str = "No tape of this step is kept, so that it cannot be replayed";

impl Sandbox {
    /// Why a step under `grant` must not run here at all: its policy asks for what this gate has no place for.
    pub(crate) fn unrecordable(&self, grant: &CodeGrant) -> Option<SandboxFault> {
        (grant.record == Record::Tape && self.vault.is_none())
            .then(|| SandboxFault::Grant("it asks for tapes of executions, and this gate has no store for them".into()))
    }

    /// What the next step at `place` follows, and a notice where it asks for a tape and can have none.
    pub(crate) fn course(&self, key: &Key, place: &mut Place, grant: &CodeGrant) -> (Course<'static>, Option<String>) {
        if !place.taken {
            place.before = Some(Start::Fresh(place.system.clone()));
        }
        if grant.record == Record::Nothing {
            return (Course::Plain, None);
        }
        match self.head(key, place, grant) {
            Ok(head) => (Course::Taped(Box::new(head)), None),
            Err(why) => (Course::Plain, Some(untaped(&why))),
        }
    }

    fn head(&self, key: &Key, place: &Place, grant: &CodeGrant) -> Result<Head, String> {
        let start = place.before.clone().ok_or(
            "its interpreter has run a step before of which there is none; a new session begins with a fresh one",
        )?;
        let told = |fault: SandboxFault| fault.to_string();
        let row = builder::known(&key.guest).map_err(told)?;
        let own = match &grant.scratch {
            Some(scratch) => Some(Own { guest: scratch.guest.clone(), files: self.lying(&key.seat)? }),
            None => None,
        };
        Ok(Head {
            name: Name::new(row.name).map_err(|fault| fault.to_string())?,
            guest: builder::sources(row),
            code: place.hand.build(),
            packages: grant.packages.clone(),
            start,
            own,
            limits: grant.limits,
            keep: grant.keep != Keep::Nothing,
        })
    }

    /// The digest of what lies in the folder of `seat`.
    pub(crate) fn lying(&self, seat: &Seat) -> Result<Digest, String> {
        let scratches = self.scratches.as_ref().ok_or("this gate has no place for a scratch folder")?;
        let files: Vec<OutputFile> = scratches.list(seat).map_err(|fault| fault.to_string())?;
        serde_json::to_vec(&files).map(|list| Digest::of(&list)).map_err(|error| error.to_string())
    }

    /// Keeps the tape of a step, notes it in the step's outcome, and remembers it for the next step.
    pub(crate) fn keep_tape(&self, key: &Key, place: &mut Place, ran: &mut Ran, outcome: &mut Outcome) {
        let taped = ran.recorded.take().map(|(recorder, ended)| {
            let shape = shape(outcome).map_err(|error| error.to_string())?;
            let tape =
                recorder.ended(ended, shape).and_then(|tape| tape.encode()).map_err(|fault| fault.to_string())?;
            let vault = self.vault.as_ref().ok_or("this gate has no store for tapes")?;
            vault.put_tape(&key.seat, &tape).map_err(|fault| fault.to_string())
        });
        let tape = match taped {
            Some(Err(why)) => {
                tracing::warn!("no tape of a step could be kept: {why}");
                outcome.notices.push(untaped(&why));
                None
            }
            Some(Ok(digest)) => Some(digest),
            None => None,
        };
        outcome.tape = tape;
        // An interpreter that is as it was before this step has the same behind it as before.
        if ran.left != Left::Before {
            place.before = tape.map(|tape| Start::After { seat: key.seat.clone(), tape });
        }
    }
}

fn untaped(why: &str) -> String {
    format!("{UNTAPED}: {}.", why.trim_end_matches('.'))
}

/// SHA-256 over what of `outcome` follows from the program and its inputs, and not from this machine's speed.
///
/// # Errors
/// It has no JSON form.
pub(crate) fn shape(outcome: &Outcome) -> serde_json::Result<Digest> {
    let Outcome { status, output, logs, is_final, error, stopped, files, usage, .. } = outcome;
    let used = [Kind::Fuel, Kind::MemoryBytes, Kind::OutputBytes].map(|kind| usage.of(kind));
    let whole = serde_json::to_vec(&(status, output, logs, is_final, error, stopped, files, used))?;
    Ok(Digest::of(&whole))
}
