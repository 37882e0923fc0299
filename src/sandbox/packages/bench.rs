//! A guest that works for the gate while an image is made: behind the same walls as any other, without a session.
//!
//! What a package does while it is imported is a stranger's code, so it runs where an agent's does: in a worker of its
//! own, which ends with the work. Whatever it asks for is refused. Its answers are a guest's word.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::model::{Digest, Name};
use crate::sandbox::lane::Lane;
use crate::sandbox::wire::{End, Ended, Order, Program, Report, System};
use crate::sandbox::workers::{Hand, Owner, Workers};
use crate::sandbox::{Base, SandboxFault};

/// How long one task may take.
const PATIENCE: Duration = Duration::from_secs(300);
/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// Memory and fuel of one task.
const MEMORY: u64 = 1 << 30;
const FUEL: u64 = 1 << 50;
/// What every nested call of a package is answered.
const REFUSED: &str = r#"{"denied": "nothing can be called while an image is made"}"#;

/// One interpreter that does tasks.
pub(super) struct Bench {
    hand: Arc<Hand>,
    seat: u64,
    started: bool,
}

impl Bench {
    /// An interpreter of `base`, in a worker that nobody else gets.
    ///
    /// # Errors
    /// [`SandboxFault::Worker`].
    pub(super) fn open(workers: &Arc<Workers>, base: &Base) -> Result<Self, SandboxFault> {
        // No agent's name is spelled like this one.
        let name = Name::derived(&Digest::of(b"the bench of packages").hex());
        let hand = workers.of(&Owner { org: name.clone(), agent: name }, base)?;
        let seat = hand.seat();
        Ok(Self { hand, seat, started: false })
    }

    /// What the guest answers to `task`.
    ///
    /// # Errors
    /// [`SandboxFault::Packages`].
    pub(super) fn ask(&mut self, task: &str, of: Value) -> Result<Value, SandboxFault> {
        let order = self.order(json!({"packages": {"task": task, "of": of}}).to_string());
        self.started = true;
        let ended = self.over(|lane| exchange(lane, &order))?;
        let text = match ended.end {
            End::Answer(Ok(text)) => text,
            End::Answer(Err(bytes)) => return Err(stuck(task, &format!("its answer has {bytes} bytes"))),
            End::Trap(trap) => return Err(stuck(task, &format!("{trap:?}"))),
            End::Wall | End::Told => return Err(stuck(task, "it took too long")),
            End::Unstarted(why) => return Err(stuck(task, &why)),
        };
        let mut answer: Value = serde_json::from_str(&text).map_err(|_| stuck(task, "its answer is no JSON"))?;
        match answer.get_mut("value") {
            Some(value) => Ok(value.take()),
            None => Err(stuck(task, answer.get("error").and_then(Value::as_str).unwrap_or("it gave no answer"))),
        }
    }

    /// The state that its tasks have left.
    ///
    /// # Errors
    /// [`SandboxFault`].
    pub(super) fn state(&self) -> Result<Vec<u8>, SandboxFault> {
        let seat = self.seat;
        let saved = self.over(|lane| {
            lane.order(&Order::Save { seat })?;
            gather(lane)
        })?;
        saved.map_err(|why| SandboxFault::Packages(format!("its memory cannot be stored: {why}")))
    }

    fn order(&self, request: String) -> Order {
        let program = Program {
            code: String::new(),
            request,
            memory_bytes: MEMORY,
            wall_ms: PATIENCE.as_secs() * 1_000,
            fuel: FUEL,
            output_bytes: 10_000,
            hold: false,
            tell: false,
            noise: None,
        };
        let start = (!self.started).then(System::nothing);
        Order::Run { seat: self.seat, start, keep: true, program }
    }

    fn over<T>(&self, work: impl FnOnce(&mut Lane) -> io::Result<T>) -> Result<T, SandboxFault> {
        let done = self.hand.lane().and_then(|mut taken| {
            let done = work(taken.lane()?)?;
            taken.give_back();
            Ok(done)
        });
        done.map_err(|error| SandboxFault::Packages(format!("the worker that prepares them failed: {error}")))
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.hand.kill();
    }
}

fn stuck(task: &str, why: &str) -> SandboxFault {
    let why: String = super::super::output::harmless(why).chars().take(240).collect();
    SandboxFault::Packages(format!("the interpreter cannot take them in ({task}): {why}"))
}

fn exchange(lane: &mut Lane, order: &Order) -> io::Result<Ended> {
    lane.order(order)?;
    let since = Instant::now();
    loop {
        match lane.report(LOOK)? {
            Some(Report::Call(_)) => lane.order(&Order::Answer(REFUSED.to_owned()))?,
            Some(Report::Printed(_)) | None => {}
            Some(Report::Ended(ended)) => return Ok(ended),
            Some(_) => return Err(io::ErrorKind::InvalidData.into()),
        }
        if since.elapsed() > PATIENCE + Duration::from_secs(10) {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
}

/// The parts of a state; or why there is none.
fn gather(lane: &mut Lane) -> io::Result<Result<Vec<u8>, String>> {
    let mut state = Vec::new();
    let since = Instant::now();
    loop {
        match lane.report(LOOK)? {
            Some(Report::Part(part)) => state.extend(part),
            Some(Report::Saved(Ok((bytes, ..)))) if bytes == state.len() as u64 => return Ok(Ok(state)),
            Some(Report::Saved(Err(why))) => return Ok(Err(why)),
            Some(_) => return Err(io::ErrorKind::InvalidData.into()),
            None => {}
        }
        if since.elapsed() > PATIENCE || state.len() as u64 > 2 * MEMORY {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
}
