//! The policy information point (PIP): gathers the facts that a decision reads.

mod permitted;

pub use permitted::permitted;
