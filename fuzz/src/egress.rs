//! The proxies without their sockets: what reads requests of clients and answers of upstreams.
#![allow(dead_code, unused_imports, reason = "each file is used in part")]

#[path = "../../src/egress/error.rs"]
pub(crate) mod error;

/// A denial of the gate, as the library has it.
pub(crate) mod held {
    pub(crate) struct Denial {
        pub(crate) code: crate::model::ReasonCode,
        pub(crate) text: String,
    }
}

pub(crate) mod hub;
pub(crate) mod llm;
