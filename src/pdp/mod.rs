//! The policy decision point (PDP): `decide(&Compiled, &Facts, &Call) -> Decision`.
//!
//! Pure and total: no clock, no store, no `Result`. Constraints on arguments, imports, packages and
//! peers are checked here in Rust, rules by Cedar. Any evaluation error is a deny: Cedar alone
//! would skip an erroring `forbid`.

mod argument;
mod bounds;
mod cedar;
mod command;
mod compile;
mod compute;
mod decide;
mod explain;
mod facts;
mod permit;
mod reach;
mod structure;
mod tokens;
#[cfg(test)]
mod twin;

pub use bounds::within_bounds;
pub use compile::Compiled;
pub use decide::decide;
pub use explain::{Step, Trace, explain};
pub use facts::Facts;
pub use permit::Permit;
