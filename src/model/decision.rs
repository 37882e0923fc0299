//! A decision is a value, never an error.

use serde::{Deserialize, Serialize};

use super::{Amounts, CodeGrant, Digest, ExecGrant, Reason};

/// The answer to a call, ordered so that the maximum is the strictest
/// (CSA AARM v1.0: ALLOW, STEP_UP, DENY).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// It may happen.
    Allow,
    /// It may happen once a person has said so.
    Ask,
    /// It must not happen.
    Deny,
}

impl Effect {
    /// The word used in policies and logs.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Ask => "ask",
            Self::Deny => "deny",
        }
    }

    /// The word of CSA AARM v1.0 used in receipts.
    #[must_use]
    pub const fn aarm(self) -> &'static str {
        match self {
            Self::Allow => "ALLOW",
            Self::Ask => "STEP_UP",
            Self::Deny => "DENY",
        }
    }
}

/// What the enforcement point must do for an allow to hold; one that it cannot do means deny.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Obligation {
    /// Put this label on the session once the result has come back.
    AddLabel(String),
}

/// What would have been allowed, for the text of a denial.
pub type Alternative = String;

/// The outcome of evaluating one call against one policy.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Decision {
    /// Allow, ask or deny.
    pub effect: Effect,
    /// Why: code, rule, threats answered, text.
    pub reason: Reason,
    /// What must be done for an allow to hold.
    pub obligations: Vec<Obligation>,
    /// What to reserve before the call may run.
    pub reserve: Amounts,
    /// What generated code is granted; present for `code.run` only.
    pub grant: Option<CodeGrant>,
    /// What a program of this machine is granted; present for `process.run` only.
    pub exec: Option<ExecGrant>,
    /// The policy that decided.
    pub policy: Digest,
}
