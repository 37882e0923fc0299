//! One program over one lane: orders, nested calls, printed text, the end.
//!
//! The worker holds the program's limits; this side holds the worker to them. What it says of its guest is the
//! guest's word (`exchange.rs`, `reply.rs`), and one that does not answer in time is ended.

use std::collections::HashSet;
use std::io;
use std::time::{Duration, Instant};

use super::Work;
use super::exchange::{Exchange, Next};
use super::lane::Lane;
use super::output::Output;
use super::reply::{self, Stop};
use super::session::Place;
use super::tape::{Head, Recorder, Tape};
use super::wire::{End, Ended, Order, Program, Report, Request, System};
use crate::model::{Amounts, CodeLimits, Keep, Kind, Outcome};

/// How often the caller is looked after while a guest runs.
const CHECK: Duration = Duration::from_millis(10);
/// What a worker gets beyond its program's wall limit before it counts as hung.
const GRACE: Duration = Duration::from_secs(5);

/// What a step follows, and what is kept of it.
pub(crate) enum Course<'t> {
    /// It goes as it goes.
    Plain,
    /// So too, on a tape that begins with this.
    Taped(Box<Head>),
    /// It goes as on this tape: its inputs come from there, and what comes out goes onto another.
    Again(&'t Tape),
}

/// What is at the place once a program has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    /// The interpreter as the program left it.
    After,
    /// The interpreter as it was before the program.
    Before,
    /// Nothing.
    Nothing,
}

/// What is there after a step.
pub(crate) struct Ran {
    /// At its place.
    pub(crate) left: Left,
    /// The step's tape without its outcome.
    pub(crate) recorded: Option<(Recorder, Ended)>,
}

/// Runs one program at `place`, in the interpreter that is there or a fresh one; `hold` has the worker put its state
/// aside first.
pub(crate) fn run(place: &mut Place, hold: bool, work: &Work<'_>, course: Course<'_>) -> (Outcome, Ran) {
    let start = (!place.taken).then(|| place.system.clone());
    place.memory_limit = place.memory_limit.max(work.grant.limits.memory_bytes);
    let mut handles = std::mem::take(&mut place.handles);
    let mut step = Step::new(work, &mut handles, hold, course);
    let ended = step.over(place, start);
    let wall = step.started.elapsed().saturating_sub(step.exchange.hosted);
    let recorded = step.recorder.take().map(|recorder| (recorder, ended.clone()));
    let left = match (ended.alive, ended.held) {
        (false, _) => Left::Nothing,
        (true, true) => Left::Before,
        (true, false) => Left::After,
    };
    place.taken = ended.alive;
    place.steps += u64::from(left == Left::After);
    place.memory_bytes = ended.memory_bytes.min(place.memory_limit);
    let outcome = step.outcome(ended, wall);
    place.handles = handles;
    (outcome, Ran { left, recorded })
}

struct Step<'s, 'w> {
    work: &'s Work<'w>,
    exchange: Exchange<'s>,
    output: Output,
    started: Instant,
    told: Option<Stop>,
    program: Option<Program>,
    recorder: Option<Recorder>,
    /// The tape whose answers are given again, and how many were.
    again: Option<(&'s Tape, usize)>,
}

impl<'s, 'w> Step<'s, 'w> {
    fn new(work: &'s Work<'w>, handles: &'s mut HashSet<String>, hold: bool, course: Course<'s>) -> Self {
        let started = Instant::now();
        let exchange = Exchange::new(work, work.inner.tools(), handles);
        let output = Output::new(work.grant.limits.output_bytes);
        let program = Program { hold, ..program(work, exchange.request()) };
        let (program, recorder, again) = match course {
            Course::Plain => (program, None, None),
            Course::Taped(head) => {
                let program = Program { tell: true, ..program };
                (program.clone(), Some(Recorder::new(*head, program)), None)
            }
            Course::Again(tape) => {
                // Told again, too: a program that draws more or less than it did has gone another way.
                let recorded = Program { noise: tape.ended.noise.clone(), ..tape.program.clone() };
                let recorder = Recorder::new(tape.head.clone(), recorded.clone());
                // How fast this machine is must not decide.
                (Program { wall_ms: program.wall_ms, ..recorded }, Some(recorder), Some((tape, 0)))
            }
        };
        Self { work, exchange, output, started, told: None, program: Some(program), recorder, again }
    }

    /// Sends the program and stays until its end; a worker that fails is ended and so is all that it held.
    fn over(&mut self, place: &Place, start: Option<System>) -> Ended {
        let keep = self.work.grant.keep != Keep::Nothing;
        let order = self.program.take().map(|program| Order::Run { seat: place.seat, start, keep, program });
        let exchanged = place.hand.lane().and_then(|mut lane| {
            let ended = self.exchange(lane.lane()?, order.as_ref().ok_or(io::ErrorKind::InvalidInput)?)?;
            lane.give_back();
            Ok(ended)
        });
        exchanged.unwrap_or_else(|error| {
            let dead = place.hand.is_dead();
            place.hand.kill();
            tracing::warn!("a worker was ended: {error}");
            let hung = error.kind() == io::ErrorKind::TimedOut && !dead;
            let why = "the worker that ran the program has failed and was replaced; this step is lost";
            let end = if hung { End::Wall } else { End::Unstarted(why.to_owned()) };
            Ended { end, fuel_left: 0, memory_bytes: 0, refused: false, alive: false, held: false, noise: None }
        })
    }

    fn exchange(&mut self, lane: &mut Lane, order: &Order) -> io::Result<Ended> {
        lane.order(order)?;
        let mut looked = Instant::now();
        loop {
            match lane.report(CHECK)? {
                // The end that was sent is its reply; nothing is done any more for a program that was ended.
                Some(Report::Call(_)) if self.told.is_some() => {}
                Some(Report::Call(request)) => match self.reply(&request) {
                    Next::Reply(text) => lane.order(&Order::Answer(text))?,
                    Next::Stop => self.stop(lane, Stop::Callbacks)?,
                },
                Some(Report::Printed(text)) => self.printed(&text),
                Some(Report::Ended(ended)) => return Ok(ended),
                Some(_) => return Err(io::ErrorKind::InvalidData.into()),
                None => {}
            }
            if looked.elapsed() >= CHECK {
                looked = Instant::now();
                self.look_after(lane)?;
            }
        }
    }

    /// Has a call answered, by the gate or from the tape.
    fn reply(&mut self, request: &Request) -> Next {
        self.recorder.iter_mut().for_each(|recorder| recorder.asked(request));
        let next = match &mut self.again {
            Some((tape, at)) => {
                let turn = tape.turns.get(*at);
                *at += 1;
                self.exchange.repeat(turn)
            }
            None => self.exchange.handle(request),
        };
        if let (Some(recorder), Next::Reply(text)) = (&mut self.recorder, &next) {
            recorder.answered(text, self.exchange.mark.clone());
        }
        next
    }

    fn printed(&mut self, text: &str) {
        self.recorder.iter_mut().for_each(|recorder| recorder.printed(text));
        self.output.take(text);
    }

    /// Ends the program when nobody waits for it, and the worker when it does not obey its limit.
    fn look_after(&mut self, lane: &mut Lane) -> io::Result<()> {
        if self.told.is_none() && self.work.inner.cancelled() {
            self.stop(lane, Stop::Cancelled)?;
        }
        let spent = self.started.elapsed().saturating_sub(self.exchange.hosted);
        let limit = Duration::from_millis(self.work.grant.limits.wall_ms.0);
        if spent > limit + limit / 10 + GRACE {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(())
    }

    fn stop(&mut self, lane: &mut Lane, why: Stop) -> io::Result<()> {
        self.told = Some(why);
        lane.order(&Order::Stop)
    }

    fn outcome(mut self, ended: Ended, wall: Duration) -> Outcome {
        let limits = &self.work.grant.limits;
        let fuel = limits.fuel.saturating_sub(ended.fuel_left);
        let memory = ended.memory_bytes;
        let mut outcome = reply::outcome(ended, self.told, limits, &mut self.exchange);
        let printed = self.output.len();
        let returned = if outcome.output.is_null() { 0 } else { outcome.output.to_string().len() as u64 };
        outcome.usage = within(usage(wall, fuel, memory, printed + returned), limits);
        outcome.logs = self.output.into_text();
        outcome
    }
}

/// What the worker is told of the program.
fn program(work: &Work<'_>, request: String) -> Program {
    let limits = &work.grant.limits;
    Program {
        code: work.code.to_owned(),
        request,
        memory_bytes: limits.memory_bytes,
        wall_ms: limits.wall_ms.0,
        fuel: limits.fuel,
        output_bytes: limits.output_bytes,
        hold: false,
        tell: false,
        noise: None,
    }
}

/// The amounts of one execution.
fn usage(wall: Duration, fuel: u64, memory: u64, output: u64) -> Amounts {
    // A started millisecond counts, so that nothing is free.
    let millis = u64::try_from(wall.as_micros().div_ceil(1000)).unwrap_or(u64::MAX);
    Amounts::ZERO
        .with(Kind::Calls, 1)
        .with(Kind::WallMs, millis)
        .with(Kind::Fuel, fuel)
        .with(Kind::MemoryBytes, memory)
        .with(Kind::OutputBytes, output)
}

/// No execution is charged more than was held for it: what went over is the meter's grain.
fn within(used: Amounts, limits: &CodeLimits) -> Amounts {
    let most = limits.worst_case();
    let least = |kind: Kind| used.of(kind).min(most.of(kind));
    used.with(Kind::WallMs, least(Kind::WallMs))
        .with(Kind::OutputBytes, least(Kind::OutputBytes))
        .with(Kind::MemoryBytes, least(Kind::MemoryBytes))
        .with(Kind::Fuel, least(Kind::Fuel))
}
