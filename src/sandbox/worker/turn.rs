//! The only loop in which a guest runs.
//!
//! The guest gives way every few million units of fuel and whenever it waits for a clock. Between two turns this
//! loop holds the wall limit and asks whether the gate has ended the program. A guest that is stopped is dropped,
//! store and all: an instance that was interrupted cannot be used again, by type.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};
use tokio::time::{Interval, MissedTickBehavior, interval};
use wasmtime_wasi::I32Exit;

use super::lane::{Lane, Stopped};
use super::seat::Live;
use crate::model::Limits;
use crate::sandbox::output::Output;
use crate::sandbox::wire::{End, Ended, Program, Trap};

/// Fuel between two looks at the clock: about a millisecond.
const SLICE: u64 = 8_000_000;
/// How often a waiting or computing guest is checked for an end.
const CHECK: Duration = Duration::from_millis(10);

/// Runs one program; the interpreter comes back only if it can be used again.
pub(crate) fn run(runtime: &Runtime, lane: &Arc<Lane>, mut live: Live, program: Program) -> (Ended, Option<Live>) {
    let fuel = program.fuel;
    let end = match prepare(&mut live, lane, &program) {
        Ok(()) => runtime.block_on(turn(&mut live, lane, program)),
        Err(error) => trapped(&error),
    };
    let alive = matches!(end, End::Answer(Ok(_)));
    let fuel_left = live.store.get_fuel().unwrap_or(0).min(fuel);
    let inside = live.store.data_mut();
    inside.lane = None;
    inside.output = Output::default();
    let (memory_bytes, refused) = (inside.memory.bytes as u64, inside.memory.refused);
    let noise = inside.sources.noise.end();
    let ended = Ended { end, fuel_left, memory_bytes, refused, alive, held: false, noise };
    (ended, alive.then_some(live))
}

/// Sets the limits of this program.
fn prepare(live: &mut Live, lane: &Arc<Lane>, program: &Program) -> wasmtime::Result<()> {
    lane.begin();
    let inside = live.store.data_mut();
    inside.memory.limit = usize::try_from(program.memory_bytes).unwrap_or(usize::MAX);
    inside.memory.refused = false;
    inside.output = Output::new(program.output_bytes);
    inside.lane = Some(Arc::clone(lane));
    live.store.set_fuel(program.fuel)?;
    live.store.fuel_async_yield_interval(Some(SLICE))
}

/// Calls the guest and drives it to its end.
async fn turn(live: &mut Live, lane: &Lane, program: Program) -> End {
    let now = Instant::now();
    let watch = Watch { lane, started: now, checked: now, limit: Duration::from_millis(program.wall_ms) };
    let params = (program.code, program.request);
    let (store, run) = (&mut live.store, &live.run);
    let guest = pin!(async move {
        // Copied whole: it lies in the guest's memory, whose size is bounded.
        let (text,) = run.call_async(&mut *store, params).await?;
        Ok(if text.len() > Limits::JSON_BYTES { Err(text.len() as u64) } else { Ok(text) })
    });
    watch.drive(guest).await
}

struct Watch<'a> {
    lane: &'a Lane,
    started: Instant,
    checked: Instant,
    limit: Duration,
}

impl Watch<'_> {
    async fn drive<F>(mut self, mut guest: Pin<&mut F>) -> End
    where
        F: Future<Output = wasmtime::Result<Result<String, u64>>>,
    {
        let mut tick: Option<Interval> = None;
        poll_fn(|context| {
            match guest.as_mut().poll(context) {
                Poll::Ready(Ok(answer)) => return Poll::Ready(End::Answer(answer)),
                Poll::Ready(Err(error)) => return Poll::Ready(trapped(&error)),
                Poll::Pending => {}
            }
            if let Some(end) = self.over() {
                return Poll::Ready(end);
            }
            wake_in_time(&mut tick, context);
            Poll::Pending
        })
        .await
    }

    /// Why the program must not go on.
    fn over(&mut self) -> Option<End> {
        let now = Instant::now();
        let spent = now.duration_since(self.started).saturating_sub(self.lane.waited());
        if spent >= self.limit {
            return Some(End::Wall);
        }
        if now.duration_since(self.checked) < CHECK {
            return None;
        }
        self.checked = now;
        let gone = self.lane.is_stopped() || self.lane.flush().is_err();
        gone.then_some(End::Told)
    }
}

/// Has this task woken within [`CHECK`], whatever the guest waits for.
fn wake_in_time(tick: &mut Option<Interval>, context: &mut Context<'_>) {
    let tick = tick.get_or_insert_with(|| {
        let mut tick = interval(CHECK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tick
    });
    while tick.poll_tick(context).is_ready() {}
}

/// What the gate is told of a trap.
fn trapped(error: &wasmtime::Error) -> End {
    if error.downcast_ref::<Stopped>().is_some() || error.downcast_ref::<io::Error>().is_some() {
        return End::Told;
    }
    End::Trap(match error.downcast_ref::<wasmtime::Trap>() {
        Some(wasmtime::Trap::OutOfFuel) => Trap::Fuel,
        Some(wasmtime::Trap::StackOverflow) => Trap::Stack,
        _ if error.downcast_ref::<I32Exit>().is_some() => Trap::Exit,
        _ => Trap::Other(format!("{error:#}").chars().take(1000).collect()),
    })
}

/// What drives guests on one thread: timers, no sockets, no other thread.
///
/// # Errors
/// The operating system has no room.
pub(crate) fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_time().build()
}

/// Drives a future that needs no turn of ours, such as starting an instance.
pub(crate) fn wait<F: Future>(future: F) -> wasmtime::Result<F::Output> {
    Ok(runtime()?.block_on(future))
}
