//! The guest's clocks.
//!
//! With a frozen clock the time of day stands still, and the monotonic clock moves by a fixed step for
//! every look at it and by the length of every wait: loops with a timeout end, and a program that is run
//! again sees the same numbers.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use wasmtime::component::{HasData, Resource};
use wasmtime_wasi::HostWallClock;
use wasmtime_wasi::clocks::WasiClocksCtxView;
use wasmtime_wasi::p2::DynPollable;
use wasmtime_wasi::p2::bindings::clocks::monotonic_clock::{Host, Instant};

use super::noise::Noise;

/// Nanoseconds that a look at the frozen monotonic clock takes.
const LOOK: u64 = 1_000;

/// A time of day that stands still.
pub(crate) struct Standstill(pub(crate) Duration);

impl HostWallClock for Standstill {
    fn resolution(&self) -> Duration {
        Duration::from_millis(1)
    }

    fn now(&self) -> Duration {
        self.0
    }
}

/// The machine's time of day.
pub(crate) struct OfDay(pub(crate) Noise);

impl HostWallClock for OfDay {
    fn resolution(&self) -> Duration {
        Duration::from_nanos(1)
    }

    fn now(&self) -> Duration {
        let since = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Duration::from_nanos(self.0.nanos(|| u64::try_from(since().as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// The monotonic clock of a guest: the machine's, or one that only the guest itself moves.
pub(crate) struct Monotonic<'a> {
    pub(crate) real: WasiClocksCtxView<'a>,
    pub(crate) noise: &'a Noise,
    /// Nanoseconds of the frozen clock; `None` where the grant gives the real one.
    pub(crate) frozen: Option<&'a mut u64>,
}

/// Names [`Monotonic`] for the linker.
pub(crate) struct Clocks;

impl HasData for Clocks {
    type Data<'a> = Monotonic<'a>;
}

impl Host for Monotonic<'_> {
    fn now(&mut self) -> wasmtime::Result<Instant> {
        match &mut self.frozen {
            Some(time) => {
                **time = time.saturating_add(LOOK);
                Ok(**time)
            }
            None => {
                let now = self.real.now()?;
                Ok(self.noise.nanos(|| now))
            }
        }
    }

    fn resolution(&mut self) -> wasmtime::Result<Instant> {
        if self.frozen.is_some() { Ok(LOOK) } else { self.real.resolution() }
    }

    fn subscribe_instant(&mut self, when: Instant) -> wasmtime::Result<Resource<DynPollable>> {
        match &self.frozen {
            Some(time) => self.subscribe_duration(when.saturating_sub(**time)),
            None => {
                let now = Host::now(self)?;
                self.subscribe_duration(when.saturating_sub(now))
            }
        }
    }

    fn subscribe_duration(&mut self, duration: u64) -> wasmtime::Result<Resource<DynPollable>> {
        if let Some(time) = &mut self.frozen {
            **time = time.saturating_add(duration);
        }
        self.real.subscribe_duration(duration)
    }
}
