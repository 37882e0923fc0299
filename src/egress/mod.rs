//! Reverse proxies in front of what an agent pays for or fetches: model providers, the Hugging Face Hub.
//!
//! Each upstream has a listener on this machine. The agent's client speaks to it with the gate's token;
//! the proxy puts in the real key, which the agent never sees. Whatever is forwarded was admitted by the
//! gate first and is completed after. Requests are normalised here; nothing here decides.

mod auth;
mod body;
mod client;
mod door;
mod error;
mod held;
mod hub;
mod listener;
mod llm;
#[cfg(test)]
#[path = "../../tests/support/mutation.rs"]
#[allow(clippy::duplicate_mod, reason = "each edge damages samples of its own, and none knows another")]
mod mutation;
mod proxy;
mod session;
mod source;
mod upstream;

pub use error::EgressFault;
pub use proxy::{Bounds, Config, Proxy, Running};
pub use source::{FaultLine, Faults};
pub use upstream::{Key, Kind, Upstream, upstreams};
