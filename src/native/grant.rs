//! What a program is granted: the part of `[exec]` that its executor enforces.
//!
//! Stands here until the core has the same types; it must hold nothing that nobody enforces.

use std::collections::BTreeSet;

use crate::model::Millis;

/// What of the network a program may reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// Nothing but itself.
    None,
    /// The gate's own ports as well.
    Gate,
}

/// Bounds of one program and everything that it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExecLimits {
    /// Wall time from its start to the end of its last process.
    pub wall_ms: Millis,
    /// Processor time of all its processes together.
    pub cpu_ms: Millis,
    /// Memory of all its processes together, bytes.
    pub memory_bytes: u64,
    /// Processes and threads at once.
    pub processes: u64,
    /// Bytes by which the folders to write may grow.
    pub disk_bytes: u64,
    /// Time before a limit of time at which the program is told to save its state.
    pub grace_ms: Millis,
}

/// What one program may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecGrant {
    /// Folders and files to read.
    pub read: Vec<String>,
    /// Folders to write.
    pub write: Vec<String>,
    /// Names of environment variables that are handed on.
    pub env: BTreeSet<String>,
    /// The network.
    pub network: Network,
    /// GPUs at most.
    pub gpus: u32,
    /// Bounds.
    pub limits: ExecLimits,
}
