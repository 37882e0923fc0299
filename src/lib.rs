//! Weir: a policy-enforcing runtime gate for AI agents.
//!
//! Every call travels one line: decide, reserve, record the intent, execute, settle, record the
//! outcome, score. The core (`model` to `pep`) is plain data and total functions: it has no clock,
//! no file, no socket and no thread of its own, and compiles with `--no-default-features`.
//! The edges (`journal`, `native`, `sandbox`, `shared`, `surface`, `egress`, `cli`) are plugged in behind the ports of
//! `pep`.

#![deny(unsafe_code, missing_docs)]
#![deny(clippy::allow_attributes_without_reason, clippy::dbg_macro, clippy::todo, clippy::unimplemented)]
// A gate that panics is a gate that is open or shut by accident.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::unreachable))]

pub mod model;

pub mod audit;
pub mod ledger;
pub mod policy;
pub mod risk;
pub mod shell;

pub mod pdp;
pub mod pip;

pub mod pep;

#[cfg(feature = "egress")]
pub mod egress;
pub mod journal;
#[cfg(feature = "native")]
pub mod native;
#[cfg(feature = "sandbox")]
pub mod sandbox;
#[cfg(feature = "shared")]
pub mod shared;
#[cfg(feature = "serve")]
pub mod surface;

#[cfg(feature = "cli")]
pub mod cli;
