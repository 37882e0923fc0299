//! The policy enforcement point (PEP): the gate and its one line.
//!
//! `line.rs` is the whole line. Ports are what the edges implement; stages are the values between
//! the steps. This module must not know any edge.

mod admit;
mod answer;
mod asking;
mod complete;
mod docket;
mod gate;
mod join;
mod lasting;
mod line;
mod nest;
mod operate;
pub mod port;
mod pots;
mod replay;
pub mod share;
mod snapshot;
mod stage;
mod state;
mod statement;
mod treasury;

pub use crate::pip::Meter;
pub use answer::Answer;
pub use asking::{AnswerFault, Reply};
pub use gate::{Gate, GateFault};
pub use lasting::Resumed;
pub use operate::Reach;
pub use replay::Replay;
pub use stage::{Durable, Reserved};
pub use statement::{AccountLine, Doubt, LimitLine, Statement};
