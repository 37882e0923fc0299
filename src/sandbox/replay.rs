//! Replays: an execution is run again from its tape, and either comes out the same bit for bit or differs somewhere.
//!
//! The whole chain is run, from the fresh interpreter with which the session began, in a worker of its own that has
//! served nobody and is ended afterwards. Nothing reaches a tool, a session or a folder to write: answers come from the
//! tape, clocks and dice too, and the session's own folder is an empty one that is removed again. This file decides
//! nothing about receipts; who asks compares them.

use std::collections::BTreeMap;
use std::fs;

use serde_json::{Map, Value};

use super::session::Place;
use super::step::{self, Course};
use super::tape::{Own, Start, Tape, TapeFault, diff};
use super::vault::TapeReader;
use super::wire::{End, Folder};
use super::{Base, Key, Sandbox, SandboxFault, Work, builder, record, terms};
use crate::model::{
    Access, Action, Amounts, Checkpoint, Clock, CodeGrant, Decision, Digest, Effect, Keep, Millis, Name, Outcome,
    Preopen, Randomness, Reason, ReasonCode, Record, Scratch, Seat, parse_json,
};
use crate::pep::Answer;
use crate::pep::port::{Inner, KeepFault, ToolSpec};

/// Steps that one replay runs at most.
const CHAIN: usize = 10_000;
/// How many times longer than it was allowed to take a step may take in a replay, and how much more.
const SLOWER: (u64, u64) = (10, 60_000);

/// What a replay found.
#[derive(Clone, Debug, PartialEq)]
pub struct Replayed {
    /// The finding.
    pub verdict: Verdict,
    /// The step of the chain at which it was made, the first one being 1.
    pub step: usize,
    /// Steps from the fresh interpreter to the replayed one.
    pub steps: usize,
    /// Calls of that step.
    pub calls: usize,
    /// What came of that step in the replay.
    pub outcome: Outcome,
    /// Folders of the host that the program could read; what lay in them is not on the tape.
    pub folders: Vec<String>,
}

/// Whether an execution came out the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Output, calls, fuel, memory and outcome of every step are those of the tapes.
    Identical,
    /// The first difference.
    Differs(String),
}

/// Why nothing can be said by running it again.
#[derive(Debug, thiserror::Error)]
pub enum ReplayFault {
    /// The tape of a step this many steps before is not there or not what it should be.
    #[error("the step {0} before it in its interpreter is needed, and its tape cannot be used: {1}")]
    Chain(usize, KeepFault),
    /// The tape itself is not there or not what it should be.
    #[error("{0}")]
    Tape(KeepFault),
    /// What opened is no tape.
    #[error("{0}")]
    Form(String),
    /// It belongs to another build of the guest.
    #[error(
        "it was recorded with the build {needs} of the guest {name}, and this weir has {has}; \
         replay it with the version of weir and the cache folder that recorded it"
    )]
    Build {
        /// The guest.
        name: Name,
        /// The build on the tape.
        needs: String,
        /// The build that is here.
        has: String,
    },
    /// The program could not be expected to come out the same.
    #[error("step {step} of {steps} cannot be replayed exactly: {why}")]
    Inexact {
        /// Which.
        step: usize,
        /// Of how many.
        steps: usize,
        /// Why.
        why: String,
    },
    /// The sandbox does not run here.
    #[error("{0}")]
    Sandbox(#[from] SandboxFault),
}

impl From<TapeFault> for ReplayFault {
    fn from(fault: TapeFault) -> Self {
        Self::Form(fault.to_string())
    }
}

impl Sandbox {
    /// Runs the execution of `seat` with this tape again, and all that its interpreter ran before it.
    ///
    /// # Errors
    /// [`ReplayFault`]: nothing can be said, and why.
    pub fn replay(&self, tapes: &TapeReader, seat: &Seat, tape: &Digest) -> Result<Replayed, ReplayFault> {
        let chain = chain(tapes, seat, tape)?;
        let mut stage: Option<Stage<'_>> = None;
        let mut last = None;
        for (at, (seat, digest)) in chain.iter().enumerate() {
            let tape = read(tapes, seat, digest, chain.len() - 1 - at)?;
            let inexact = |why: String| ReplayFault::Inexact { step: at + 1, steps: chain.len(), why };
            if let Some(why) = tape.inexact() {
                return Err(inexact(why.to_owned()));
            }
            self.same_build(&tape)?;
            let stage = match &mut stage {
                Some(stage) => stage,
                None => stage.insert(Stage::new(self, &tape, &inexact)?),
            };
            let (outcome, again) = stage.step(&tape, &inexact)?;
            let said = diff(&tape, &again);
            let differs = said.is_some();
            let verdict = said.map_or(Verdict::Identical, |said| Verdict::Differs(said.to_string()));
            let (step, steps, calls, folders) = (at + 1, chain.len(), again.turns.len(), stage.read.clone());
            last = Some(Replayed { verdict, step, steps, calls, outcome, folders });
            if differs {
                break;
            }
        }
        last.ok_or_else(|| ReplayFault::Form("there is no step to replay".into()))
    }

    /// Refuses a tape of another build: its fuel and its memory are counted in other units.
    fn same_build(&self, tape: &Tape) -> Result<(), ReplayFault> {
        let head = &tape.head;
        let row = builder::known(head.name.as_str())?;
        let sources = builder::sources(row);
        let wrong = |needs: String, has: String| Err(ReplayFault::Build { name: head.name.clone(), needs, has });
        if sources != head.guest {
            return wrong(head.guest.to_string(), sources.to_string());
        }
        let code = self.guest(row.name, &head.packages)?.build;
        if code != head.code {
            return wrong(format!("{} (compiled)", head.code), format!("{code} (compiled)"));
        }
        Ok(())
    }
}

/// Whose tapes are run in which order: from the fresh interpreter to the tape that is asked for.
fn chain(tapes: &TapeReader, seat: &Seat, tape: &Digest) -> Result<Vec<(Seat, Digest)>, ReplayFault> {
    let mut links = vec![(seat.clone(), *tape)];
    while let Some((seat, digest)) = links.last() {
        let Start::After { seat: before, tape } = read(tapes, seat, digest, links.len() - 1)?.head.start else { break };
        if (&before.org, &before.agent) != (&seat.org, &seat.agent) {
            return Err(ReplayFault::Form("the tape goes on from another agent's, which no gate has recorded".into()));
        }
        if links.len() >= CHAIN {
            return Err(ReplayFault::Form(format!("its session has run more than {CHAIN} steps before it")));
        }
        links.push((before, tape));
    }
    links.reverse();
    Ok(links)
}

/// One tape, `behind` steps before the one that is asked for.
fn read(tapes: &TapeReader, seat: &Seat, digest: &Digest, behind: usize) -> Result<Tape, ReplayFault> {
    let told = |fault| if behind == 0 { ReplayFault::Tape(fault) } else { ReplayFault::Chain(behind, fault) };
    Ok(Tape::decode(&tapes.get(seat, digest).map_err(told)?)?)
}

/// Says that the step at hand cannot be expected to come out the same, and why.
type Inexact<'f> = dyn Fn(String) -> ReplayFault + 'f;

/// An interpreter for a chain, in a worker of its own.
struct Stage<'a> {
    sandbox: &'a Sandbox,
    key: Key,
    /// What of the grant is the interpreter's.
    grant: CodeGrant,
    place: Place,
    read: Vec<String>,
}

impl<'a> Stage<'a> {
    /// For the chain that begins with `tape`.
    fn new(sandbox: &'a Sandbox, tape: &Tape, inexact: &Inexact<'_>) -> Result<Self, ReplayFault> {
        let Start::Fresh(system) = &tape.head.start else {
            return Err(ReplayFault::Form("the chain of tapes does not begin with a fresh interpreter".into()));
        };
        let seat = nobody()?;
        let key = Key { seat: seat.clone(), guest: tape.head.name.as_str().to_owned(), run: seat.name.clone() };
        let (files, scratch) = folders(&system.folders, tape.head.own.as_ref()).map_err(inexact)?;
        let read = files.iter().map(|file| file.guest.clone()).collect();
        let grant = grant(tape, files, scratch);
        let mut system = system.clone();
        let mut agents = None;
        if let Some(own) = &grant.scratch {
            let at = sandbox.empty_folder(&seat, own)?;
            system.folders.iter_mut().filter(|folder| folder.guest == own.guest).for_each(|f| f.host.clone_from(&at.0));
            agents = Some(at.1);
        }
        let base = sandbox.guest(&key.guest, &tape.head.packages)?;
        let terms = terms::terms(&base.terms, &grant, agents);
        let hand = sandbox.workers.alone(&Base { terms, ..base })?;
        let place = Place::new(hand, &key, &grant, system);
        Ok(Self { sandbox, key, grant, place, read })
    }

    /// The next step of the chain: what came of it, and its tape.
    fn step(&mut self, tape: &Tape, inexact: &Inexact<'_>) -> Result<(Outcome, Tape), ReplayFault> {
        let form = |text: &str| ReplayFault::Form(text.to_owned());
        if let Some(own) = &tape.head.own
            && self.sandbox.lying(&self.key.seat).map_err(ReplayFault::Form)? != own.files
        {
            let why = "its folder held files that no step on these tapes made; they are not on a tape";
            return Err(inexact(why.to_owned()));
        }
        let (_, variables) = tape.program.request.split_once('\n').unwrap_or_default();
        let variables = parse_json(variables.as_bytes()).map_err(|fault| form(&fault.to_string()))?;
        let variables = variables.as_object().ok_or_else(|| form("its variables are no object"))?;
        let mut limits = tape.head.limits;
        limits.wall_ms = Millis(limits.wall_ms.0.saturating_mul(SLOWER.0).saturating_add(SLOWER.1));
        let keep = if tape.head.keep { Keep::Session } else { Keep::Nothing };
        let grant = CodeGrant { limits, keep, ..self.grant.clone() };
        let work = Work { code: &tape.program.code, variables, grant: &grant, inner: &Silence };
        let (mut outcome, mut ran) = step::run(&mut self.place, tape.program.hold, &work, Course::Again(tape));
        self.sandbox.collect(&self.key, &grant, &mut outcome);
        let (recorder, ended) = ran.recorded.take().ok_or_else(|| form("the replay was not recorded"))?;
        match &ended.end {
            End::Wall => return Err(inexact(format!("it did not end within {} ms now", limits.wall_ms.0))),
            End::Unstarted(why) => return Err(SandboxFault::Worker(why.clone()).into()),
            _ => {}
        }
        let shape = record::shape(&outcome).map_err(|error| form(&error.to_string()))?;
        Ok((outcome, recorder.ended(ended, shape)?))
    }
}

impl Drop for Stage<'_> {
    fn drop(&mut self) {
        if let (Some(_), Some(scratches)) = (&self.grant.scratch, &self.sandbox.scratches)
            && let Err(fault) = scratches.remove(&self.key.seat)
        {
            tracing::warn!("the folder of a replay could not be removed: {fault}");
        }
    }
}

impl Sandbox {
    /// An empty folder for a replay, and the one to which its worker is confined.
    fn empty_folder(&self, seat: &Seat, own: &Scratch) -> Result<(String, std::path::PathBuf), ReplayFault> {
        let none = || SandboxFault::Grant("there is no place for the scratch folder that it had".into());
        let scratches = self.scratches.as_ref().ok_or_else(none)?;
        let told = |fault: KeepFault| SandboxFault::Grant(fault.to_string());
        let at = scratches.make(seat, &own.quota).map_err(told)?;
        Ok((at.display().to_string(), scratches.agent_folder(seat).map_err(told)?))
    }
}

/// A seat that no session has: its name is drawn.
fn nobody() -> Result<Seat, ReplayFault> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| ReplayFault::Form(format!("there is no randomness: {error}")))?;
    let name = Name::derived(&Digest(bytes).hex());
    Ok(Seat { org: name.clone(), agent: name.clone(), name })
}

/// The folders of a recorded interpreter: those to read, which are there as they are now, and its own.
fn folders(folders: &[Folder], own: Option<&Own>) -> Result<(Vec<Preopen>, Option<Scratch>), String> {
    let (mut files, mut scratch) = (BTreeMap::new(), None);
    for Folder { host, guest, access, quota } in folders {
        let mine = own.is_some_and(|own| own.guest == *guest);
        match (access, quota) {
            (Access::Write, Some(quota)) if mine => scratch = Some(Scratch { guest: guest.clone(), quota: *quota }),
            (Access::Write, _) => {
                return Err(format!("it could write to the host's folder for {guest}, which a replay does not touch"));
            }
            (Access::Read, _) => {
                fs::read_dir(host).map_err(|error| format!("its folder {guest} cannot be opened any more: {error}"))?;
                let (host, access, quota) = (host.clone(), Access::Read, None);
                files.insert(guest.clone(), Preopen { guest: guest.clone(), host, access, quota });
            }
        }
    }
    Ok((files.into_values().collect(), scratch))
}

/// What a worker needs to know of a recorded grant; what its programs may use stands on each tape.
fn grant(tape: &Tape, files: Vec<Preopen>, scratch: Option<Scratch>) -> CodeGrant {
    CodeGrant {
        limits: tape.head.limits,
        imports: Vec::new(),
        files,
        scratch,
        packages: tape.head.packages.clone(),
        clock: Clock::Frozen,
        randomness: Randomness::Seeded,
        keep: Keep::Session,
        checkpoint: Checkpoint::Asked,
        record: Record::Nothing,
    }
}

/// The way to the gate in a replay: there is none.
struct Silence;

impl Inner for Silence {
    fn call(&self, _: Action, resource: &str, _: Map<String, Value>) -> Answer {
        let reason = Reason::new(ReasonCode::SandboxFailed, "a replay calls nothing");
        let denial = Some(reason.denial(resource));
        let (obligations, reserve, policy) = (Vec::new(), Amounts::ZERO, Digest::ZERO);
        let decision = Decision { effect: Effect::Deny, reason, obligations, reserve, grant: None, exec: None, policy };
        Answer { call: Name::derived("0"), decision, outcome: None, receipt: None, denial }
    }

    fn tools(&self) -> Vec<ToolSpec> {
        Vec::new()
    }

    fn cancelled(&self) -> bool {
        false
    }
}
