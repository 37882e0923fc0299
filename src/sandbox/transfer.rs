//! An interpreter's state on its way out of a worker and into one.
//!
//! What a worker gives here is as much a guest's word as anything else that it says: it is bounded by the guest's
//! memory limit, never looked into, and only ever goes back into a worker of the same agent, where it is a guest's
//! memory and nothing more. This file must not know where a state is kept.

use std::io;
use std::time::{Duration, Instant};

use super::lane::Lane;
use super::session::Place;
use super::wire::{Order, PART, Report, STATE, System};
use crate::pep::port::KeepFault;

/// How long a worker may take for a whole state; the longest is 4 GiB.
const WHOLE: Duration = Duration::from_secs(120);
/// A page and what stands beside it in a state, and the room in front: more than any worker adds.
const PAGE: u64 = 4096;
const BESIDE: u64 = 64;

/// A state.
pub(crate) struct State {
    pub(crate) bytes: Vec<u8>,
    /// What the interpreter is to be started with to go on.
    pub(crate) system: System,
}

/// The state of the interpreter at `place`, which stays there.
///
/// # Errors
/// [`KeepFault::Refused`] with what the guest holds that cannot travel; [`KeepFault::Failed`] when its worker failed,
/// which is ended then.
pub(crate) fn save(place: &Place) -> Result<State, KeepFault> {
    let most = (place.memory_limit / PAGE + 2) * (PAGE + BESIDE);
    let most = usize::try_from(most).unwrap_or(STATE).min(STATE);
    let mut state = Vec::new();
    let saved = exchange(place, |lane| {
        lane.order(&Order::Save { seat: place.seat })?;
        let until = Instant::now() + WHOLE;
        loop {
            match report(lane, until)? {
                Report::Part(part) if !part.is_empty() && state.len() + part.len() <= most => state.extend(part),
                Report::Saved(saved) => return Ok(saved),
                _ => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
    })?;
    match saved {
        Ok((bytes, moved, drawn)) if bytes == state.len() as u64 => {
            Ok(State { bytes: state, system: System { moved, drawn, ..place.system.clone() } })
        }
        Ok(_) => Err(failed(place)),
        Err(why) => Err(KeepFault::Refused(super::output::harmless(&why.chars().take(200).collect::<String>()))),
    }
}

/// Makes an interpreter at `place` in `state`.
///
/// # Errors
/// As [`save`].
pub(crate) fn load(place: &mut Place, state: &State) -> Result<(), KeepFault> {
    let loaded = exchange(place, |lane| {
        let (start, bytes) = (state.system.clone(), state.bytes.len() as u64);
        lane.order(&Order::Load { seat: place.seat, start, bytes })?;
        state.bytes.chunks(PART).try_for_each(|part| lane.order(&Order::Part(part.to_vec())))?;
        match report(lane, Instant::now() + WHOLE)? {
            Report::Loaded(loaded) => Ok(loaded),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    })?;
    place.taken = loaded.is_ok();
    loaded.map_err(|why| KeepFault::Refused(super::output::harmless(&why.chars().take(200).collect::<String>())))
}

fn report(lane: &mut Lane, until: Instant) -> io::Result<Report> {
    let left = until.saturating_duration_since(Instant::now());
    lane.report(left)?.ok_or_else(|| io::ErrorKind::TimedOut.into())
}

/// One exchange on a lane; a worker that does not keep to it is ended.
fn exchange<T>(place: &Place, with: impl FnOnce(&mut Lane) -> io::Result<T>) -> Result<T, KeepFault> {
    let exchanged = place.hand.lane().and_then(|mut lane| {
        let done = with(lane.lane()?)?;
        lane.give_back();
        Ok(done)
    });
    exchanged.map_err(|error| {
        tracing::warn!("a worker was ended: {error}");
        failed(place)
    })
}

fn failed(place: &Place) -> KeepFault {
    place.hand.kill();
    KeepFault::Failed("the worker that held the session has failed and was ended; its variables are gone".into())
}
