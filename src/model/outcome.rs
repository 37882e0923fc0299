//! What an executor says after a call ran.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Amounts, Digest, ReasonCode};

/// How an execution ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It ran to its end.
    Done,
    /// The tool or the generated code raised an error of its own.
    Failed,
    /// A limit or a budget stopped it.
    Exhausted,
    /// A denial inside it was not caught by the generated code.
    Denied,
    /// It never started, or it broke in a way that is not the agent's doing.
    Broken,
    /// Nobody knows: the host that ran it did not come back. Paid kinds count as spent.
    Unknown,
}

/// An error of generated code or of a tool, for the agent to read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestError {
    /// The exception's type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its message.
    pub message: String,
    /// Traceback with the line numbers of the agent's own code.
    #[serde(default)]
    pub traceback: String,
}

/// A file that an execution made or changed in its scratch folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutputFile {
    /// Its path below the scratch folder, `/` between the parts.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// SHA-256 of its content; `None` when it was removed.
    pub digest: Option<Digest>,
}

/// What came of one execution.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// How it ended.
    pub status: Status,
    /// The result, in the tagged form of `docs/protocol.md`.
    pub output: Value,
    /// The result's digest, where the result itself stayed with the host that ran the call.
    pub result: Option<Digest>,
    /// What was printed.
    pub logs: String,
    /// True when the program called the final-answer tool; `output` is then the answer.
    pub is_final: bool,
    /// What was used.
    pub usage: Amounts,
    /// The error, when there was one.
    pub error: Option<GuestError>,
    /// Why it was stopped, when the gate stopped it.
    pub stopped: Option<ReasonCode>,
    /// The interpreter that ran it is gone: the next execution of the session starts with a new one.
    pub replaced: bool,
    /// Files that it made, changed or removed in its scratch folder, by path.
    pub files: Vec<OutputFile>,
    /// SHA-256 of the tape from which it can be replayed, where the policy asks for one.
    pub tape: Option<Digest>,
    /// Things that the agent must be told (variables lost, output cut).
    pub notices: Vec<String>,
}

impl Outcome {
    /// An outcome with a status and nothing else.
    #[must_use]
    pub const fn of(status: Status) -> Self {
        Self {
            status,
            output: Value::Null,
            result: None,
            logs: String::new(),
            is_final: false,
            usage: Amounts::ZERO,
            error: None,
            stopped: None,
            replaced: false,
            files: Vec::new(),
            tape: None,
            notices: Vec::new(),
        }
    }
}
