//! The only loop in which a guest runs.
//!
//! The guest lives on a stack of its own and gives way every few million units of fuel, whenever it waits, and
//! for every nested call. Between two turns this loop holds the wall limit, asks whether the caller is still
//! there, and handles nested calls on its own stack. A guest that is stopped is dropped, store and all: an
//! instance that was interrupted cannot be used again, by type.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use wasmtime_wasi::runtime::with_ambient_tokio_runtime;

use super::Work;
use super::exchange::{Exchange, Next};
use super::host::Mailbox;
use super::meter::usage;
use super::output::Output;
use super::reply::{self, End, Stop};
use super::session::{Live, memory_limit};
use crate::model::{Amounts, CodeLimits, Kind, Limits, Outcome};

/// Fuel between two looks at the clock: about a millisecond.
const SLICE: u64 = 8_000_000;
/// How often a waiting or computing guest is checked for cancellation.
const CHECK: Duration = Duration::from_millis(10);

/// Runs one program; the interpreter comes back only if it can be used again.
pub(crate) fn run(mut live: Live, work: &Work<'_>) -> (Outcome, Option<Live>) {
    let started = Instant::now();
    let limits = &work.grant.limits;
    let mut handles = std::mem::take(&mut live.handles);
    let mut exchange = Exchange::new(work, work.inner.tools(), &mut handles);
    let end = match prepare(&mut live, work) {
        Ok(()) => turn(&mut live, work, &mut exchange, started),
        Err(error) => End::Trap(error),
    };
    let alive = matches!(end, End::Answer(Ok(_)));
    let wall = started.elapsed().saturating_sub(exchange.hosted);
    let left = live.store.get_fuel().unwrap_or(0);
    let inside = live.store.data_mut();
    let logs = std::mem::take(&mut inside.output);
    let mut outcome = reply::outcome(end, limits, &inside.memory, &mut exchange);
    let printed = logs.len();
    let returned = if outcome.output.is_null() { 0 } else { outcome.output.to_string().len() as u64 };
    let used = usage(wall, limits.fuel.saturating_sub(left), inside.memory.bytes as u64, printed + returned);
    outcome.logs = logs.into_text();
    outcome.usage = within(used, limits);
    live.handles = handles;
    (outcome, alive.then_some(live))
}

/// Sets the limits of this execution.
fn prepare(live: &mut Live, work: &Work<'_>) -> wasmtime::Result<()> {
    let inside = live.store.data_mut();
    inside.memory.limit = memory_limit(work.grant);
    inside.memory.refused = false;
    inside.output = Output::new(work.grant.limits.output_bytes);
    live.store.set_fuel(work.grant.limits.fuel)?;
    live.store.fuel_async_yield_interval(Some(SLICE))
}

/// Calls the guest and drives it to its end.
fn turn(live: &mut Live, work: &Work<'_>, exchange: &mut Exchange<'_>, started: Instant) -> End {
    let mail = Arc::clone(&live.store.data().mail);
    let params = (work.code.to_owned(), exchange.request());
    let (store, run) = (&mut live.store, &live.run);
    let guest = pin!(async move {
        // Copied whole: it lies in the guest's memory, whose size is bounded.
        let (text,) = run.call_async(&mut *store, params).await?;
        Ok(if text.len() > Limits::JSON_BYTES { Err(text.len()) } else { Ok(text) })
    });
    Driver { work, exchange, mail, started, checked: started }.drive(guest)
}

struct Driver<'d, 'a> {
    work: &'d Work<'d>,
    exchange: &'d mut Exchange<'a>,
    mail: Arc<Mailbox>,
    started: Instant,
    checked: Instant,
}

impl Driver<'_, '_> {
    fn drive<F>(mut self, mut guest: Pin<&mut F>) -> End
    where
        F: Future<Output = wasmtime::Result<Result<String, usize>>>,
    {
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        loop {
            match poll(guest.as_mut(), &waker) {
                Poll::Ready(Ok(answer)) => return End::Answer(answer),
                Poll::Ready(Err(error)) => return End::Trap(error),
                Poll::Pending => {}
            }
            if let Some(request) = self.mail.request() {
                match self.exchange.handle(&request) {
                    Next::Reply(text) => self.mail.reply(text),
                    Next::Stop => return End::Stopped(Stop::Callbacks),
                }
                if self.work.inner.cancelled() {
                    return End::Stopped(Stop::Cancelled);
                }
                continue;
            }
            match self.pause() {
                Ok(pause) => thread::park_timeout(pause),
                Err(stop) => return End::Stopped(stop),
            }
        }
    }

    /// How long to wait for the guest at most, or why to stop it.
    fn pause(&mut self) -> Result<Duration, Stop> {
        let now = Instant::now();
        if now.duration_since(self.checked) >= CHECK {
            self.checked = now;
            if self.work.inner.cancelled() {
                return Err(Stop::Cancelled);
            }
        }
        let spent = now.duration_since(self.started).saturating_sub(self.exchange.hosted);
        let limit = Duration::from_millis(self.work.grant.limits.wall_ms.0);
        match limit.checked_sub(spent) {
            None | Some(Duration::ZERO) => Err(Stop::Wall),
            Some(left) => Ok(left.min(CHECK)),
        }
    }
}

/// Drives a future that needs no turn of ours, such as starting an instance.
pub(crate) fn wait<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    loop {
        if let Poll::Ready(done) = poll(future.as_mut(), &waker) {
            return done;
        }
        thread::park_timeout(CHECK);
    }
}

/// Timers and files of a guest live on the runtime that belongs to the WASI implementation.
fn poll<F: Future>(future: Pin<&mut F>, waker: &Waker) -> Poll<F::Output> {
    with_ambient_tokio_runtime(|| future.poll(&mut Context::from_waker(waker)))
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// No execution is charged more than was held for it: what went over is the meter's grain.
fn within(used: Amounts, limits: &CodeLimits) -> Amounts {
    let most = limits.worst_case();
    used.with(Kind::WallMs, used.of(Kind::WallMs).min(most.of(Kind::WallMs)))
        .with(Kind::OutputBytes, used.of(Kind::OutputBytes).min(most.of(Kind::OutputBytes)))
        .with(Kind::MemoryBytes, used.of(Kind::MemoryBytes).min(most.of(Kind::MemoryBytes)))
}
