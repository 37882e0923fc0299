//! The Hub and its Jobs behind the gate: real sockets, a real journal, a Hub of the tests' own.

mod fake;
mod jobs;
mod launches;
mod life;
mod reading;
mod rig;
mod sending;
