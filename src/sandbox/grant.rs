//! The only file that widens a guest: from nothing to exactly what a grant says.
//!
//! Without a line here a guest has no argument, variable, input, file, address, clock or die of this machine.

use std::sync::{Arc, LazyLock};
use std::time::{SystemTime, UNIX_EPOCH};

use chacha20::rand_core::Rng as _;
use wasmtime_wasi::{FsPerms, WasiCtx, WasiCtxBuilder};

use super::SandboxFault;
use super::clock::{Standstill, seeded};
use super::wire::Folder;
use super::worker::files::{Shared, Volumes, apart};
use crate::model::{Access, Clock, CodeGrant, Name, Preopen, Randomness};

/// What of a grant is built into an interpreter when it starts; a change of it needs a new one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Given {
    files: Vec<Preopen>,
    clock: Clock,
    randomness: Randomness,
    stack: u64,
}

impl Given {
    /// The lasting part of `grant`.
    pub(crate) fn of(grant: &CodeGrant) -> Self {
        let CodeGrant { limits, files, clock, randomness, .. } = grant;
        Self { files: files.clone(), clock: *clock, randomness: *randomness, stack: limits.stack_bytes }
    }
}

/// The system interface of a new guest of `session`.
///
/// # Errors
/// [`SandboxFault::Grant`] for a folder that cannot be opened.
pub(crate) fn system(session: &Name, grant: &CodeGrant) -> Result<WasiCtx, SandboxFault> {
    let mut wasi = WasiCtx::builder();
    wasi.allow_tcp(false).allow_udp(false).allow_ip_name_lookup(false);
    if grant.clock == Clock::Frozen {
        wasi.wall_clock(Standstill(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()));
    }
    if grant.randomness == Randomness::Seeded {
        seed(&mut wasi, session);
    }
    for folder in &grant.files {
        preopen(&mut wasi, folder)?;
    }
    Ok(wasi.build())
}

/// The allowances of the folders of `grant`.
pub(crate) fn volumes(grant: &CodeGrant) -> Result<Volumes, SandboxFault> {
    static SHARED: LazyLock<Arc<Shared>> = LazyLock::new(Arc::default);
    let folder = |folder: &Preopen| {
        let Preopen { guest, host, access, quota } = folder.clone();
        Folder { host, guest, access, quota }
    };
    let folders: Vec<Folder> = grant.files.iter().map(folder).collect();
    apart(&folders).map_err(SandboxFault::Grant)?;
    Volumes::new(&folders, &SHARED).map_err(SandboxFault::Grant)
}

fn seed(wasi: &mut WasiCtxBuilder, session: &Name) {
    let name = session.as_str();
    let mut dice = seeded(name, "insecure seed");
    let seed = (u128::from(dice.next_u64()) << 64) | u128::from(dice.next_u64());
    wasi.secure_random(seeded(name, "secure")).insecure_random(seeded(name, "insecure")).insecure_random_seed(seed);
}

/// Opens one folder. What lies outside it stays out of reach: `..` and links are resolved inside (cap-std).
fn preopen(wasi: &mut WasiCtxBuilder, folder: &Preopen) -> Result<(), SandboxFault> {
    let perms = match folder.access {
        Access::Read => FsPerms::ReadOnly,
        Access::Write => FsPerms::ReadWrite,
    };
    let told = |error: wasmtime::Error| {
        let cause = error.root_cause();
        SandboxFault::Grant(format!("the folder for {} cannot be opened: {cause}", folder.guest))
    };
    wasi.preopened_dir(&folder.host, &folder.guest, perms).map(|_| ()).map_err(told)
}
