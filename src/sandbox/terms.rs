//! From a policy's grant to what a worker and an interpreter are given.

use std::fs;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::SandboxFault;
use super::wire::{Folder, System, Terms};
use super::worker::engine::stack_class;
use super::worker::files::apart;
use crate::model::{Access, Clock, CodeGrant, Digest, Package, Preopen, Randomness, Scratch, Seat};

/// What of a grant is built into an interpreter when it starts; a change of it needs a new one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Given {
    files: Vec<Preopen>,
    scratch: Option<Scratch>,
    clock: Clock,
    randomness: Randomness,
    stack: u64,
    packages: Vec<Package>,
}

impl Given {
    /// The lasting part of `grant`.
    pub(crate) fn of(grant: &CodeGrant) -> Self {
        Self {
            files: grant.files.clone(),
            scratch: grant.scratch.clone(),
            clock: grant.clock,
            randomness: grant.randomness,
            stack: stack_class(grant.limits.stack_bytes),
            packages: grant.packages.clone(),
        }
    }

    /// Its digest, which a stored interpreter carries.
    pub(crate) fn digest(&self) -> Digest {
        // Texts and numbers only: it has a JSON form.
        Digest::of(&serde_json::to_vec(self).unwrap_or_default())
    }
}

/// The folders of an interpreter: those of the host, and the session's own where it lies at `scratch`.
///
/// # Errors
/// A folder that is not there, or one to write within another.
pub(crate) fn folders(grant: &CodeGrant, scratch: Option<PathBuf>) -> Result<Vec<Folder>, SandboxFault> {
    let mut folders = Vec::new();
    for file in &grant.files {
        fs::read_dir(&file.host)
            .map_err(|error| SandboxFault::Grant(format!("the folder for {} cannot be opened: {error}", file.guest)))?;
        let quota = file.quota.filter(|_| file.access == Access::Write);
        folders.push(Folder { host: file.host.clone(), guest: file.guest.clone(), access: file.access, quota });
    }
    if let (Some(own), Some(host)) = (&grant.scratch, scratch) {
        let (guest, quota) = (own.guest.clone(), Some(own.quota));
        folders.push(Folder { host: host.display().to_string(), guest, access: Access::Write, quota });
    }
    apart(&folders).map_err(SandboxFault::Grant)?;
    Ok(folders)
}

/// The terms of the worker in which `grant` is honoured: `base`, the folders of the host, and the agent's `own`.
pub(crate) fn terms(base: &Terms, grant: &CodeGrant, own: Option<PathBuf>) -> Terms {
    let quotas = grant.files.iter().filter_map(|file| file.quota).chain(grant.scratch.iter().map(|own| own.quota));
    let mut folders: Vec<_> = grant.files.iter().map(|file| (file.host.clone(), file.access)).collect();
    folders.extend(own.map(|own| (own.display().to_string(), Access::Write)));
    Terms {
        stack: stack_class(grant.limits.stack_bytes),
        folders,
        file_bytes: quotas.map(|quota| quota.bytes).max().unwrap_or(0),
        ..base.clone()
    }
}

/// What a new interpreter of `seat` gets.
pub(crate) fn system(seat: &Seat, grant: &CodeGrant, folders: Vec<Folder>) -> System {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    System {
        seed: (grant.randomness == Randomness::Seeded).then(|| seat.name.as_str().to_owned()),
        clock: (grant.clock == Clock::Frozen).then(|| u64::try_from(now.as_millis()).unwrap_or(u64::MAX)),
        moved: 0,
        drawn: (0, 0),
        folders,
    }
}
