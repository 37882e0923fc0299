//! The sidecar over real sockets: a plain client, a real gate, a scripted executor.

#[cfg(feature = "cli")]
mod command;
mod entry;
mod files;
mod hooks;
mod hosting;
mod installing;
mod keeping;
mod life;
mod linked;
mod reading;
mod rig;
mod running;
#[cfg(feature = "cli")]
mod shown;
mod spending;
mod telemetry;
mod waiting;
