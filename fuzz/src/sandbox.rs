//! The sandbox without its engine: what reads bytes of a worker, of a tape and of a kept session.
#![allow(dead_code, unused_imports, reason = "each file is used in part")]

use serde_json::{Map, Value};

use crate::model::{CodeGrant, GuestError, Outcome, ReasonCode, Status};
use crate::pep::port::Inner;

#[path = "../../src/sandbox/exchange.rs"]
pub(crate) mod exchange;
#[path = "../../src/sandbox/hostile.rs"]
pub mod hostile;
#[path = "../../src/sandbox/output.rs"]
pub(crate) mod output;
#[path = "../../src/sandbox/reply.rs"]
pub(crate) mod reply;
#[path = "../../src/sandbox/tagged.rs"]
pub(crate) mod tagged;
#[path = "../../src/sandbox/tape.rs"]
pub(crate) mod tape;
#[path = "../../src/sandbox/wire.rs"]
pub(crate) mod wire;

/// One program and what it may use, as the library has it.
pub(crate) struct Work<'a> {
    pub(crate) code: &'a str,
    pub(crate) variables: &'a Map<String, Value>,
    pub(crate) grant: &'a CodeGrant,
    pub(crate) inner: &'a dyn Inner,
}

/// An outcome that says that the sandbox is at fault, as the library has it.
pub(crate) fn broken(said: &str) -> Outcome {
    let mut outcome = failed("SandboxError", said.to_owned());
    outcome.status = Status::Broken;
    outcome.stopped = Some(ReasonCode::SandboxFailed);
    outcome
}

/// An outcome that says that the program is at fault, as the library has it.
pub(crate) fn failed(kind: &str, message: String) -> Outcome {
    let mut outcome = Outcome::of(Status::Failed);
    outcome.error = Some(GuestError { kind: kind.to_owned(), message, traceback: String::new() });
    outcome
}
