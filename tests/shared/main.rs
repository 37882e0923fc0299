//! One budget for several gates: the protocol explored as a model; the SQL against its slow twin; gates on a real
//! PostgreSQL that is stopped, killed and cut off; what a revocation lets through.
//!
//! The model needs nothing. Everything else needs the feature `shared` and PostgreSQL's programs.

#[cfg(feature = "shared")]
#[path = "../support/mod.rs"]
mod support;

mod book;
mod model;

#[cfg(all(feature = "shared", feature = "native"))]
mod cable;
#[cfg(feature = "shared")]
mod gates;
#[cfg(feature = "shared")]
mod orders;
#[cfg(feature = "shared")]
mod server;
#[cfg(feature = "shared")]
mod sql;
#[cfg(feature = "shared")]
mod tls;

#[cfg(feature = "cli")]
mod process;
