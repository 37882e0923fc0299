//! From a policy's grant to what a worker and an interpreter are given.

use std::time::{SystemTime, UNIX_EPOCH};

use super::wire::{Folder, System, Terms};
use super::worker::engine::stack_class;
use crate::model::{Access, Clock, CodeGrant, Preopen, Quota, Randomness, Scratch, Seat};

/// What of a grant is built into an interpreter when it starts; a change of it needs a new one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Given {
    files: Vec<Preopen>,
    scratch: Option<Scratch>,
    clock: Clock,
    randomness: Randomness,
    stack: u64,
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
        }
    }
}

/// The terms of the worker in which `grant` is honoured: `base` and the folders.
pub(crate) fn terms(base: &Terms, grant: &CodeGrant) -> Terms {
    let quotas = grant.files.iter().filter_map(|file| file.quota);
    let longest = quotas.map(|quota: Quota| quota.bytes).max().unwrap_or(0);
    Terms {
        stack: stack_class(grant.limits.stack_bytes),
        folders: grant.files.iter().map(|file| (file.host.clone(), file.access)).collect(),
        file_bytes: longest,
        ..base.clone()
    }
}

/// What a new interpreter of `seat` gets.
pub(crate) fn system(seat: &Seat, grant: &CodeGrant) -> System {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let folder = |file: &Preopen| Folder {
        host: file.host.clone(),
        guest: file.guest.clone(),
        access: file.access,
        quota: file.quota.filter(|_| file.access == Access::Write),
    };
    System {
        seed: (grant.randomness == Randomness::Seeded).then(|| seat.name.as_str().to_owned()),
        clock: (grant.clock == Clock::Frozen).then(|| u64::try_from(now.as_millis()).unwrap_or(u64::MAX)),
        moved: 0,
        drawn: (0, 0),
        folders: grant.files.iter().map(folder).collect(),
    }
}
