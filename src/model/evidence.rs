//! What one call showed, as flat facts from which every risk factor reads its own signal.
//!
//! Evidence is written into the journal, so that scores are a fold over it.

use serde::{Deserialize, Serialize};

use super::{Action, Digest, EffectClass, Name, Timestamp};

/// What became of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Happened {
    /// It was executed (whatever it returned).
    Executed,
    /// A person was asked, approved, and it was executed.
    Approved,
    /// The gate refused it: evidence of intent, not of harm.
    Denied,
    /// A budget refused it.
    Exhausted,
    /// Its outcome is unknown.
    Unknown,
    /// A client says that it ran past the gate. It can raise one score and lowers none.
    Reported,
}

/// What one call showed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    /// The session: the independent unit of all statistics.
    pub session: Name,
    /// When it was recorded.
    pub at: Timestamp,
    /// The action.
    pub action: Action,
    /// The effect class, for tool calls and code.
    pub effect: Option<EffectClass>,
    /// The resource.
    pub resource: Name,
    /// What became of it.
    pub happened: Happened,
    /// Labels on the session at that time (`untrusted` and so on).
    pub labels: Vec<String>,
    /// Digest of action, resource and arguments.
    pub action_digest: Digest,
    /// Digest of everything that ran in the session before, in order; all zero at its beginning.
    pub input_digest: Digest,
    /// Depth of delegation.
    pub delegation: u8,
    /// It touched a protected path of the policy.
    pub protected_path: bool,
    /// It used state that an earlier session left behind.
    pub earlier_state: bool,
    /// Intent, decision, arguments and outcome of the action are all on record.
    pub traceable: bool,
}
