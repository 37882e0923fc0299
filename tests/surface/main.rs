//! The sidecar over real sockets: a plain client, a real gate, a scripted executor.

mod entry;
mod files;
mod hosting;
mod life;
mod reading;
mod rig;
mod running;
