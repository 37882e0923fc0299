//! The reverse proxies over real sockets: a plain client, a real gate, scripted upstreams on loopback.

mod claude;
mod codex;
mod door;
mod fake;
mod files;
mod llm;
mod provider;
mod rig;
mod sdk;
mod telemetry;
mod tls;
