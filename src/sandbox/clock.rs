//! The guest's clocks and dice.
//!
//! With a frozen clock the time of day stands still, and the monotonic clock moves by a fixed step for
//! every look at it and by the length of every wait: loops with a timeout end, and a program that is run
//! again sees the same numbers.

use std::time::Duration;

use chacha20::ChaCha20Rng;
use chacha20::rand_core::SeedableRng as _;
use sha2::{Digest as _, Sha256};
use wasmtime::component::{HasData, Resource};
use wasmtime_wasi::HostWallClock;
use wasmtime_wasi::clocks::WasiClocksCtxView;
use wasmtime_wasi::p2::DynPollable;
use wasmtime_wasi::p2::bindings::clocks::monotonic_clock::{Host, Instant};

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

/// The monotonic clock of a guest: the machine's, or one that only the guest itself moves.
pub(crate) struct Monotonic<'a> {
    pub(crate) real: WasiClocksCtxView<'a>,
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
            None => self.real.now(),
        }
    }

    fn resolution(&mut self) -> wasmtime::Result<Instant> {
        if self.frozen.is_some() { Ok(LOOK) } else { self.real.resolution() }
    }

    fn subscribe_instant(&mut self, when: Instant) -> wasmtime::Result<Resource<DynPollable>> {
        match &self.frozen {
            Some(time) => self.subscribe_duration(when.saturating_sub(**time)),
            None => self.real.subscribe_instant(when),
        }
    }

    fn subscribe_duration(&mut self, duration: u64) -> wasmtime::Result<Resource<DynPollable>> {
        if let Some(time) = &mut self.frozen {
            **time = time.saturating_add(duration);
        }
        self.real.subscribe_duration(duration)
    }
}

/// A generator that depends on `name` and `purpose` alone.
pub(crate) fn seeded(name: &str, purpose: &str) -> ChaCha20Rng {
    let mut seed = Sha256::new();
    seed.update(b"weir guest randomness\0");
    seed.update(purpose.as_bytes());
    seed.update([0]);
    seed.update(name.as_bytes());
    ChaCha20Rng::from_seed(seed.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use chacha20::rand_core::Rng as _;

    #[test]
    fn the_same_session_draws_the_same_numbers_and_another_draws_others() {
        let draw = |name: &str, purpose: &str| seeded(name, purpose).next_u64();
        assert_eq!(draw("a", "secure"), draw("a", "secure"));
        assert_ne!(draw("a", "secure"), draw("b", "secure"));
        assert_ne!(draw("a", "secure"), draw("a", "insecure"));
    }
}
