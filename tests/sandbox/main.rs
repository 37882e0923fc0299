//! The sandbox from the outside: programs in, outcomes out, against a gate of the tests' own.
//!
//! One interpreter is built and compiled for all of them; every test uses sessions of its own.

/// The path by which the frames between gate and worker name their neighbours in the library.
use weir::model;

mod added;
mod attacks;
mod bombs;
mod calls;
mod closed;
mod desk;
mod files;
mod forger;
mod javascript;
mod keep;
mod packages;
mod replay;
mod sessions;
mod steps;
mod values;
#[path = "../../src/sandbox/wire.rs"]
#[allow(dead_code, unused_imports, reason = "its own tests run with the library's")]
mod wire;
mod workers;
