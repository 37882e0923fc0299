//! The policy administration point (PAP): threat profiles, derivation, and checked policies.
//!
//! `bytes -> TOML with spans -> Policy`, every fault at once with file and line. A [`Policy`] is
//! immutable and identified by a digest. Evaluating one is `pdp`'s work, not this module's.

mod answers;
mod check;
mod compute;
mod derive;
mod import;
mod parse;
mod parties;
mod price;
mod profile;
mod profile_toml;
mod program;
mod protected;
mod reader;
mod types;
mod write;

pub use answers::answered_by_gate;
pub use check::{LayerCoverage, Remark, Severity, ThreatCoverage, check, coverage};
pub use compute::{Exec, Flavor, Jobs};
pub use derive::{FINAL_ANSWER, Options, derive};
pub use import::{Envelope, Narrowed, default_threat, envelope, import, narrow};
pub use parse::parse;
pub use parties::{Peers, Pin, Registry};
pub use price::{CacheWrite, Long, Price};
pub use profile::{Band, Certainty, LayerNote, Profile, Published};
pub use program::Program;
pub use types::{
    Approvals, ArgRule, ArgType, Budget, Code, Cost, Expect, FaultAt, Faults, Lease, Memory, Model, Policy, Provenance,
    Rule, Scope, Tool,
};
