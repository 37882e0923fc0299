//! What goes wrong in a proxy: at its start, on the way to an upstream, and with a request.
//!
//! No text here names a key, a token, a path of this machine or what an upstream said.

use std::io;
use std::net::SocketAddr;

use hyper::StatusCode;

/// Why the proxies cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum EgressFault {
    /// An address that others could reach.
    #[error("{0} is not a loopback address; a proxy serves this machine only (127.0.0.1 or [::1])")]
    NotLoopback(SocketAddr),
    /// The machine's certificates cannot be used.
    #[error("no certificates to check upstreams by: {0}")]
    Roots(String),
    /// The operating system refused.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
}

pub(super) fn io_fault(what: impl Into<String>) -> impl FnOnce(io::Error) -> EgressFault {
    let what = what.into();
    move |source| EgressFault::Io { what, source }
}

/// Why an upstream gave no answer, or not all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Lost {
    /// No connection was made: nothing was sent.
    #[error("no connection to the upstream could be made")]
    Unreached,
    /// The connection broke.
    #[error("the upstream broke the connection")]
    Broken,
    /// Nothing came for too long.
    #[error("the upstream did not answer in time")]
    Silent,
    /// More came than is taken.
    #[error("the upstream's answer is too large")]
    TooLarge,
}

impl Lost {
    /// True when the upstream cannot have seen the request.
    pub(crate) const fn is_unsent(self) -> bool {
        matches!(self, Self::Unreached)
    }
}

/// A request that is refused before the gate decides on it, or that the gate denied. How a client sees it
/// is the protocol's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// The status.
    pub status: StatusCode,
    /// What a person or a model reads.
    pub text: String,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, text: text.into() }
    }

    /// The policy, or the gate itself, does not do this.
    pub(crate) fn forbidden(text: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, text)
    }

    /// It is no request of this protocol.
    pub(crate) fn malformed(text: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, text)
    }
}
