//! The sidecar: the gate over HTTP/1.1 on a Unix socket and on loopback TCP (`docs/protocol.md`).
//!
//! One table of routes makes the router, the OpenAPI page and the tests. Every handler is a few
//! lines: strict bytes in, one operation of the gate, JSON out. Nothing here decides, and no request
//! can reach the gate without a token, a loopback Host and an Origin that was configured.

mod alarm;
mod app;
mod approvals;
mod auth;
mod authzen;
mod body;
mod budgets;
mod config;
mod decide;
mod error;
mod execute;
mod execution;
mod files;
mod hook_schema;
mod hooks;
mod keep;
mod listener;
mod metrics;
mod openapi;
mod otlp;
mod otlp_schema;
mod page;
mod patience;
mod read;
mod reconciliation;
mod routes;
mod schema;
mod serve;
mod session;
mod tagged;
mod ticket;
mod tools;

pub use config::{Config, Shutdown, Stop};
pub use listener::{Addresses, ServeFault};
pub(crate) use metrics::outside;
pub use openapi::openapi;
pub use serve::{Sidecar, serve};
