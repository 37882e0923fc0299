//! Whom a checked policy trusts outside: registries with what is pinned and what may be changed there, and other agents.

use std::collections::BTreeSet;

use crate::model::{Digest, ThreatId};

/// A registry from which packages may come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registry {
    /// Its name (`hub`, `python`, …); where it is reached is client configuration.
    pub name: String,
    /// What may be fetched; everything else is denied.
    pub pins: Vec<Pin>,
    /// What may be changed there, by exact name.
    pub writable: BTreeSet<String>,
    /// Threats answered.
    pub answers: Vec<ThreatId>,
}

/// One package at one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// Package name.
    pub name: String,
    /// Exact revision.
    pub revision: String,
    /// Digest of the content, compared when the call states one; required then to be equal.
    pub digest: Option<Digest>,
    /// Files that run when they are loaded (pickles, Python sources) may be fetched, too.
    pub code: bool,
}

/// Other agents that this one may call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peers {
    /// Exact names.
    pub names: BTreeSet<String>,
    /// Deepest delegation; 0 means that this agent may call none.
    pub max_depth: u8,
    /// Threats answered.
    pub answers: Vec<ThreatId>,
}
