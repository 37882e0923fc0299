//! The sandbox from the outside: programs in, outcomes out, against a gate of the tests' own.
//!
//! One interpreter is built and compiled for all of them; every test uses sessions of its own.

mod bombs;
mod calls;
mod closed;
mod desk;
mod files;
mod javascript;
mod packages;
mod sessions;
mod steps;
mod values;
