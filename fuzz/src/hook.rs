//! Events of coding agents' hooks.
#![allow(dead_code, unused_imports, reason = "what goes back to a client is not looked at")]

#[path = "../../src/surface/hook/event.rs"]
pub(crate) mod event;
#[path = "../../src/surface/hook/hostile.rs"]
pub(crate) mod hostile;
