//! The policy administration point (PAP): threat profiles, derivation, and checked policies.
//!
//! `bytes -> TOML with spans -> Policy`, every fault at once with file and line. A [`Policy`] is
//! immutable and identified by a digest. Evaluating one is `pdp`'s work, not this module's.

mod types;

pub use types::{
    Approvals, ArgRule, ArgType, Budget, Code, Cost, Expect, FaultAt, Faults, Memory, Peers, Pin, Policy, Provenance,
    Registry, Rule, Scope, Tool,
};
