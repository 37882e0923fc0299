//! The only loop in which a guest runs.
//!
//! A guest gives way when it waits for a clock; then this loop asks its watch whether it may go on. While one computes
//! that counts its own fuel, the watchman asks; one whose fuel Wasmtime counts gives way every few million units. A
//! guest that is stopped is dropped, store and all: an instance that was interrupted cannot be used again, by type.

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
use super::watch::{Watch, Watchman};
use crate::model::Limits;
use crate::sandbox::output::Output;
use crate::sandbox::wire::{End, Ended, Program, Trap};

/// Fuel between two looks at the clock, where Wasmtime counts it: about a millisecond.
const SLICE: u64 = 8_000_000;
/// How often a waiting guest is woken to be asked whether it may go on.
const CHECK: Duration = Duration::from_millis(10);
/// The time between two questions.
const GLANCE: Duration = Duration::from_millis(1);

/// Runs one program; the interpreter comes back only if it can be used again.
pub(crate) fn run(
    runtime: &Runtime,
    watchman: &Watchman,
    lane: &Arc<Lane>,
    mut live: Live,
    program: Program,
) -> (Ended, Option<Live>) {
    let fuel = program.fuel;
    let end = match prepare(&mut live, lane, &program) {
        Ok(()) => {
            let watch = Arc::new(Watch::new(lane, Duration::from_millis(program.wall_ms)));
            let _signed = live.tank.as_ref().map(|tank| watchman.watch(&watch, tank));
            runtime.block_on(turn(&mut live, &watch, program))
        }
        Err(error) => trapped(&error, false),
    };
    let alive = matches!(end, End::Answer(Ok(_)));
    let fuel_left = live.fuel().min(fuel);
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
    live.give(program.fuel, SLICE)
}

/// Calls the guest and drives it to its end.
async fn turn(live: &mut Live, watch: &Watch, program: Program) -> End {
    let params = (program.code, program.request);
    let Live { store, run, tank, .. } = live;
    let guest = pin!(async move {
        // Copied whole: it lies in the guest's memory, whose size is bounded.
        let (text,) = run.call_async(&mut *store, params).await?;
        Ok(if text.len() > Limits::JSON_BYTES { Err(text.len() as u64) } else { Ok(text) })
    });
    match drive(watch, guest).await {
        Ok(end) => end,
        // However it ended, that it was ended comes first.
        Err(error) => watch.ended().unwrap_or_else(|| trapped(&error, tank.as_ref().is_some_and(|tank| tank.is_dry()))),
    }
}

async fn drive<F>(watch: &Watch, mut guest: Pin<&mut F>) -> wasmtime::Result<End>
where
    F: Future<Output = wasmtime::Result<Result<String, u64>>>,
{
    let (mut tick, mut looked): (Option<Interval>, _) = (None, Instant::now());
    poll_fn(|context| {
        if let Poll::Ready(answer) = guest.as_mut().poll(context) {
            return Poll::Ready(answer.map(End::Answer));
        }
        // It gives way far more often than there is something to see.
        if looked.elapsed() >= GLANCE {
            looked = Instant::now();
            if let Some(end) = watch.over() {
                return Poll::Ready(Ok(end));
            }
        }
        wake_in_time(&mut tick, context);
        Poll::Pending
    })
    .await
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

/// What the gate is told of a trap, in a guest whose own count may have gone `dry`.
fn trapped(error: &wasmtime::Error, dry: bool) -> End {
    if error.downcast_ref::<Stopped>().is_some() || error.downcast_ref::<io::Error>().is_some() {
        return End::Told;
    }
    End::Trap(match error.downcast_ref::<wasmtime::Trap>() {
        _ if dry => Trap::Fuel,
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
