//! The only file that widens a guest: from nothing to exactly what it is given.
//!
//! Without a line here a guest has no argument, variable, input, file, address, clock or die of this machine.

use std::time::Duration;

use chacha20::rand_core::Rng as _;
use wasmtime_wasi::{FsPerms, WasiCtx, WasiCtxBuilder};

use super::clock::{OfDay, Standstill};
use super::noise::{Dice, Noise};
use crate::model::Access;
use crate::sandbox::wire::{Folder, System};

/// What stands behind one guest's system interface and moves while it runs.
pub(crate) struct Sources {
    pub(crate) noise: Noise,
    secure: Dice,
    insecure: Dice,
}

impl Sources {
    /// Those of `system`.
    pub(crate) fn of(system: &System, noise: Noise) -> Self {
        let dice = |purpose: &str, drawn: u64| match &system.seed {
            Some(seed) => Dice::seeded(seed, purpose, drawn),
            None => Dice::Real(noise.clone()),
        };
        let (secure, insecure) = (dice("secure", system.drawn.0), dice("insecure", system.drawn.1));
        Self { noise, secure, insecure }
    }

    /// How far the dice have been drawn.
    pub(crate) fn drawn(&self) -> (u64, u64) {
        (self.secure.drawn(), self.insecure.drawn())
    }
}

/// The system interface of a new guest.
///
/// # Errors
/// A folder that cannot be opened, in words for the operator.
pub(crate) fn interface(system: &System, sources: &Sources) -> Result<WasiCtx, String> {
    let mut wasi = WasiCtx::builder();
    wasi.allow_tcp(false).allow_udp(false).allow_ip_name_lookup(false);
    // Every guest has a thread of its own, which may wait for the disk.
    wasi.allow_blocking_current_thread(true);
    match system.clock {
        Some(still) => wasi.wall_clock(Standstill(Duration::from_millis(still))),
        None => wasi.wall_clock(OfDay(sources.noise.clone())),
    };
    let mut once = match &system.seed {
        Some(seed) => Dice::seeded(seed, "insecure seed", 0),
        None => Dice::Real(sources.noise.clone()),
    };
    let seed = (u128::from(once.next_u64()) << 64) | u128::from(once.next_u64());
    wasi.secure_random(sources.secure.clone()).insecure_random(sources.insecure.clone()).insecure_random_seed(seed);
    system.folders.iter().try_for_each(|folder| preopen(&mut wasi, folder))?;
    Ok(wasi.build())
}

/// Opens one folder. What lies outside it stays out of reach: `..` and links are resolved inside.
fn preopen(wasi: &mut WasiCtxBuilder, folder: &Folder) -> Result<(), String> {
    let perms = match folder.access {
        Access::Read => FsPerms::ReadOnly,
        Access::Write => FsPerms::ReadWrite,
    };
    let told = |error: wasmtime::Error| {
        let cause = error.root_cause();
        format!(
            "the sandbox cannot give what the policy grants: the folder for {} cannot be opened: {cause}",
            folder.guest
        )
    };
    wasi.preopened_dir(&folder.host, &folder.guest, perms).map(|_| ()).map_err(told)
}
