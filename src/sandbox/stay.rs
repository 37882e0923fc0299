//! One execution in its session: the interpreter is found, made or brought back, used, and put where it belongs.
//!
//! An agent is told of everything that its session lost on the way. What runs and what it may use was decided before;
//! this file must not know a policy.

use super::keep::Back;
use super::session::{self, Key, Place, Taken};
use super::step::{self, Left};
use super::workers::Owner;
use super::{Base, Sandbox, SandboxFault, Work, broken, terms};
use crate::model::{Checkpoint, CodeGrant, Keep, Outcome};
use crate::pep::port::KeepFault;

impl Sandbox {
    /// One program in the session's interpreter: the one in memory, the one on disk, or a fresh one.
    pub(super) fn stay(&self, key: &Key, work: &Work<'_>) -> Outcome {
        if let Some(fault) = self.unrecordable(work.grant) {
            return fault.outcome();
        }
        let mut taken = match self.sessions.take(key, work.grant) {
            Ok(taken) => taken,
            Err(busy) => return broken(busy),
        };
        let mut notices = Vec::new();
        let mut place = match self.ready(key, work.grant, &mut taken, &mut notices) {
            Ok(place) => place,
            Err(fault) => {
                self.sessions.put_back(taken, None);
                return fault.outcome();
            }
        };
        let (course, untaped) = self.course(key, &mut place, work.grant);
        notices.extend(untaped);
        // With a vault the state is there already.
        let hold = asks_for_checkpoints(work.grant) && self.vault.is_none();
        let (mut outcome, mut ran) = step::run(&mut place, hold, work, course);
        self.collect(key, work.grant, &mut outcome);
        self.keep_tape(key, &mut place, &mut ran, &mut outcome);
        let keeps = work.grant.keep != Keep::Nothing;
        outcome.replaced = ran.left == Left::Nothing || !keeps;
        match ran.left {
            Left::Before => notices.push(session::HELD.to_owned()),
            Left::Nothing if keeps => {
                let (told, kept) = self.loss(key);
                notices.push(told);
                outcome.replaced = !kept;
            }
            Left::After | Left::Nothing => {}
        }
        outcome.notices.extend(notices);
        self.sessions.put_back(taken, Some(place).filter(|_| ran.left != Left::Nothing && keeps));
        self.relieve();
        outcome
    }

    /// The place of the next step, with the session's state in it, which is safe where the policy asks for that.
    fn ready(
        &self,
        key: &Key,
        grant: &CodeGrant,
        taken: &mut Taken,
        notices: &mut Vec<String>,
    ) -> Result<Place, SandboxFault> {
        let mut place = match taken.live.take() {
            Some(place) => place,
            None => self.made(key, grant, taken.lost.take(), notices)?,
        };
        if !asks_for_checkpoints(grant) || !place.taken {
            return Ok(place);
        }
        match self.put_aside(key, &place) {
            // A worker that died at rest costs no step.
            Err(_) if place.hand.is_dead() => place = self.made(key, grant, None, notices)?,
            Err(fault) => notices.push(format!("No checkpoint was made before this step: {fault}.")),
            Ok(()) => {}
        }
        Ok(place)
    }

    /// A place with the session's state from disk, or one for a fresh interpreter.
    fn made(
        &self,
        key: &Key,
        grant: &CodeGrant,
        lost: Option<String>,
        notices: &mut Vec<String>,
    ) -> Result<Place, SandboxFault> {
        let mut place = self.place(key, grant)?;
        let lost = match self.bring_back(key, grant, &mut place) {
            Back::Here(notice) => {
                notices.extend(notice);
                return Ok(place);
            }
            Back::Nothing => lost,
            Back::Lost(why) => {
                // What was half there is of no use: a fresh place, perhaps of a fresh worker.
                place = self.place(key, grant)?;
                Some(why)
            }
        };
        notices.extend(lost.map(|why| format!("{} The reason: {why}.", session::LOST)));
        Ok(place)
    }

    /// A place for a new interpreter, in the worker of its agent.
    fn place(&self, key: &Key, grant: &CodeGrant) -> Result<Place, SandboxFault> {
        let seat = key.place();
        let owner = Owner { org: seat.org.clone(), agent: seat.agent.clone() };
        let (own, agents) = match (&grant.scratch, &self.scratches) {
            (None, _) => (None, None),
            (Some(scratch), Some(scratches)) => {
                let told = |fault: KeepFault| SandboxFault::Grant(fault.to_string());
                let own = scratches.make(&key.seat, &scratch.quota).map_err(told)?;
                (Some(own), Some(scratches.agent_folder(&key.seat).map_err(told)?))
            }
            (Some(_), None) => return Err(SandboxFault::Grant("this gate has no place for a scratch folder".into())),
        };
        let folders = terms::folders(grant, own)?;
        let base = self.guest(&key.guest, &grant.packages)?;
        let terms = terms::terms(&base.terms, grant, agents);
        if let Some(hand) = self.workers.crowded(&owner, &terms) {
            self.vacate(&hand);
        }
        let hand = self.workers.of(&owner, &Base { terms, ..base })?;
        Ok(Place::new(hand, key, grant, terms::system(&seat, grant, folders)))
    }

    /// What the step left in the session's folder.
    pub(super) fn collect(&self, key: &Key, grant: &CodeGrant, outcome: &mut Outcome) {
        let (Some(_), Some(scratches)) = (&grant.scratch, &self.scratches) else { return };
        match scratches.changes(&key.seat) {
            Ok(changes) => {
                outcome.files = changes.files;
                outcome.notices.extend(changes.notices);
            }
            Err(fault) => {
                outcome.notices.push(format!("What the step left in its folder could not be collected: {fault}."))
            }
        }
    }
}

/// True when every step of the session is to be lost alone.
fn asks_for_checkpoints(grant: &CodeGrant) -> bool {
    grant.keep == Keep::Session && grant.checkpoint == Checkpoint::Step
}
