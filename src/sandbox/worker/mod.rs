//! The worker: where guests run, behind the second wall.
//!
//! A process of its own (`weir worker`) that serves one agent: it loads the compiled guest, opens what its terms
//! name, locks itself in (`jail.rs`) and only then runs anything of an agent's. It has one socket to the gate, on
//! which lanes arrive, and a thread for each lane. It decides nothing and records nothing: nested calls go to the
//! gate as they are. It must not know a policy, a journal, a key or another agent.

pub(crate) mod clock;
pub(crate) mod engine;
pub(crate) mod files;
mod filter;
mod host;
mod jail;
mod lane;
mod memories;
mod meter;
mod noise;
mod pages;
mod process;
mod raw;
mod seat;
mod spare;
pub(crate) mod state;
mod system;
mod tank;
mod turn;
mod watch;

use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::runtime::Runtime;

use self::engine::Count;
use self::lane::Lane;
use self::memories::Memories;
use self::noise::Noise;
use self::seat::{Live, Seats};
use self::spare::Spares;
use self::watch::Watchman;
use super::SandboxFault;
use super::cache::Verified;
use super::wire::{End, Ended, Order, PART, Program, Report, STATE, System, Terms};

pub(crate) use process::{FORGET, LANE, WORD, main};

/// One worker.
pub(crate) struct Worker {
    spares: Spares,
    seats: Seats,
    watchman: Watchman,
}

impl Worker {
    /// Loads what `terms` name; `lock` runs after that and before anything else.
    ///
    /// # Errors
    /// Why it cannot work, in words for the operator.
    pub(crate) fn open(terms: &Terms, lock: impl FnOnce() -> Result<(), String>) -> Result<Self, String> {
        let told = |error: wasmtime::Error| format!("{error:#}");
        let image = || Memories::open(Path::new(&terms.image)).map_err(|error| format!("its image: {error}"));
        let memories = if terms.image.is_empty() { None } else { Some(image()?) };
        // A guest counts its fuel itself exactly where its memory was taken out of it.
        let count = if memories.is_some() { Count::Guest } else { Count::Engine };
        let engine = engine::engine(terms.stack, count, memories.clone()).map_err(told)?;
        let code = Verified::told(PathBuf::from(&terms.code));
        let guest = engine::linked(&engine, &code).map_err(told)?;
        // Started once before the lock: nothing that a first start opens or maps can be had behind it.
        spare::start(&engine, &guest, None).map_err(told)?;
        lock()?;
        let watchman = Watchman::start().map_err(|error| format!("its watchman: {error}"))?;
        let worker = Self { spares: Spares::open(engine, guest), seats: Seats::default(), watchman };
        if let Some(memories) = memories {
            worker.warm(&memories);
        }
        Ok(worker)
    }

    /// Runs a small program of ours once, to learn what every program writes; without that all works, only slower.
    fn warm(&self, memories: &Memories) {
        let Ok(runtime) = turn::runtime() else { return };
        let Ok(mut live) = Live::start(&runtime, &self.spares, System::nothing(), Noise::default()) else { return };
        if live.aside(&runtime, "print(1 + 1)", seat::NOTHING).is_ok()
            && let Some(memory) = &live.grip
        {
            memories.learn(memory);
        }
    }

    /// Serves one lane until the gate hangs up or says what makes no sense.
    pub(crate) fn serve(&self, stream: UnixStream) {
        let (Ok(runtime), Ok(lane)) = (turn::runtime(), Lane::new(stream)) else { return };
        let lane = Arc::new(lane);
        while let Ok(order) = lane.order() {
            if self.obey(&runtime, &lane, order).is_err() {
                return;
            }
        }
    }

    /// Forgets a seat.
    pub(crate) fn forget(&self, seat: u64) {
        drop(self.seats.take(seat));
    }

    fn obey(&self, runtime: &Runtime, lane: &Arc<Lane>, order: Order) -> std::io::Result<()> {
        match order {
            Order::Run { seat, start, keep, program } => {
                let ran = catch_unwind(AssertUnwindSafe(|| self.run(runtime, lane, seat, start, keep, program)));
                let (ended, spent) = ran.unwrap_or_else(|_| unstarted("the sandbox failed inside".to_owned()));
                let said = lane.say(&Report::Ended(ended));
                // Taken apart while nobody waits for it.
                drop(spent);
                said
            }
            // Too late: the program had ended already.
            Order::Stop => Ok(()),
            Order::Drop { seat } => {
                self.forget(seat);
                Ok(())
            }
            Order::Save { seat } => self.save(lane, seat),
            Order::Load { seat, start, bytes } => {
                let state = gather(lane, bytes)?;
                let made = Live::restore(runtime, &self.spares, start, &state);
                lane.say(&Report::Loaded(made.map(|live| self.seats.put(seat, live))))
            }
            Order::Answer(_) | Order::Part(_) => Err(std::io::ErrorKind::InvalidData.into()),
        }
    }

    fn run(
        &self,
        runtime: &Runtime,
        lane: &Arc<Lane>,
        seat: u64,
        start: Option<System>,
        keep: bool,
        program: Program,
    ) -> (Ended, Option<Live>) {
        let mut live = match self.live(runtime, seat, start, &program) {
            Ok(live) => live,
            Err(why) => return unstarted(why),
        };
        // Without a state there is nothing to go back to: the program runs all the same.
        let held = if program.hold && keep { live.state().ok() } else { None };
        let (mut ended, mut live) = turn::run(runtime, &self.watchman, lane, live, program);
        if let (None, Some((state, system))) = (&live, held) {
            live = Live::restore(runtime, &self.spares, system, &state).ok();
            ended.held = live.is_some();
        }
        ended.alive = live.is_some() && keep;
        if keep && let Some(live) = live.take() {
            self.seats.put(seat, live);
        }
        (ended, live)
    }
}

impl Worker {
    /// Runs `code` aside in a new interpreter and makes `memory`, with which it started, what it leaves.
    ///
    /// # Errors
    /// It does not run, or leaves no state; in words for the operator.
    pub(crate) fn rehearse(&self, code: &str, request: &str, memory: &mut Vec<u8>) -> Result<(), String> {
        let runtime = turn::runtime().map_err(|error| error.to_string())?;
        let mut live = Live::start(&runtime, &self.spares, System::nothing(), Noise::default())?;
        live.aside(&runtime, code, request).map_err(|error| format!("{error:#}"))?;
        let (state, _) = live.state().map_err(|fault| fault.to_string())?;
        state::apply(&state, memory).map_err(|fault| fault.to_string())
    }

    /// Sends the state of the interpreter at `seat`, which stays.
    fn save(&self, lane: &Lane, seat: u64) -> std::io::Result<()> {
        let Some(mut live) = self.seats.take(seat) else {
            return lane.say(&Report::Saved(Err("there is no interpreter at this seat".to_owned())));
        };
        let state = live.state();
        self.seats.put(seat, live);
        match state {
            Ok((bytes, system)) => {
                bytes.chunks(PART).try_for_each(|part| lane.say(&Report::Part(part.to_vec())))?;
                lane.say(&Report::Saved(Ok((bytes.len() as u64, system.moved, system.drawn))))
            }
            Err(fault) => lane.say(&Report::Saved(Err(fault.to_string()))),
        }
    }

    /// The interpreter at `seat`, or a new one there.
    fn live(&self, runtime: &Runtime, seat: u64, start: Option<System>, program: &Program) -> Result<Live, String> {
        let noise = Noise::default();
        noise.begin(program.tell, program.noise.clone());
        let Some(system) = start else {
            let live = self.seats.take(seat).ok_or("there is no interpreter at this seat")?;
            live.store.data().sources.noise.begin(program.tell, program.noise.clone());
            return Ok(live);
        };
        let live = Live::start(runtime, &self.spares, system, noise)?;
        let taken = live.store.data().memory.bytes as u64;
        if taken > program.memory_bytes {
            return Err(SandboxFault::Memory(program.memory_bytes).to_string());
        }
        Ok(live)
    }
}

/// The state that the gate sends in parts.
fn gather(lane: &Lane, bytes: u64) -> std::io::Result<Vec<u8>> {
    let bytes = usize::try_from(bytes).ok().filter(|bytes| *bytes <= STATE).ok_or(std::io::ErrorKind::InvalidData)?;
    let mut state = Vec::with_capacity(bytes);
    while state.len() < bytes {
        match lane.order()? {
            Order::Part(part) if !part.is_empty() && state.len() + part.len() <= bytes => state.extend(part),
            _ => return Err(std::io::ErrorKind::InvalidData.into()),
        }
    }
    Ok(state)
}

fn unstarted(why: String) -> (Ended, Option<Live>) {
    let end = End::Unstarted(why);
    let ended = Ended { end, fuel_left: 0, memory_bytes: 0, refused: false, alive: false, held: false, noise: None };
    (ended, None)
}
