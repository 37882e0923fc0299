//! What an entry of the journal says.

use serde::{Deserialize, Serialize};

use super::Receipt;
use crate::model::{Amounts, Call, CallId, Digest, Evidence, Name, Timestamp};

/// One entry: its place in the chain, when, and what.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Number from 0 without gaps.
    pub seq: u64,
    /// Hash of the entry before; all zero for the first.
    pub prev: Digest,
    /// When the gate made it; never earlier than the entry before.
    pub at: Timestamp,
    /// What it says.
    pub body: Body,
}

/// What an entry says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Body {
    /// A gate opened the store. The first entry of every journal.
    Open {
        /// The version of the program.
        weir: String,
        /// The public key of all signatures from here on, hexadecimal.
        key: String,
    },
    /// A policy came into force.
    Policy {
        /// Its id.
        id: Name,
        /// Its digest.
        digest: Digest,
        /// The digest of the policy before it.
        before: Option<Digest>,
    },
    /// A call is about to run; its amounts are held.
    Intent {
        /// The call with its arguments replaced by their digest (arguments may hold secrets).
        call: Box<Call>,
        /// Digest of the exact argument text that is forwarded.
        args: Digest,
        /// The policy that allowed it.
        policy: Digest,
        /// What is held.
        held: Amounts,
        /// The approval, when a person was asked.
        approval: Option<String>,
    },
    /// A person granted a further tranche of a budget at its cap.
    Raise {
        /// The budget's id.
        budget: String,
        /// The account.
        account: String,
        /// How much more.
        by: u64,
        /// Who approved and how.
        approval: String,
    },
    /// A call ended, or was refused before it began.
    Outcome(Box<OutcomeEntry>),
    /// A reservation without an outcome was ended (crash, lost host).
    Expire {
        /// The call.
        call: CallId,
        /// What was posted.
        posted: Amounts,
        /// What it showed.
        evidence: Evidence,
    },
    /// A signed statement of the chain's head, for witnesses.
    Checkpoint {
        /// Entries before this one.
        count: u64,
        /// Ed25519 over the canonical `{count, prev}`, hexadecimal.
        signature: String,
    },
}

/// The outcome of a call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutcomeEntry {
    /// The call.
    pub call: CallId,
    /// What was posted; zero for a refusal.
    pub posted: Amounts,
    /// Labels put on the session by it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// What it showed, for scores.
    pub evidence: Evidence,
    /// The signed receipt.
    pub receipt: Receipt,
}

impl Body { pub fn intent(call: &Call, policy: Digest, held: Amounts, approval: Option<String>) -> Self { let _ = (call, policy, held, approval); todo!() } }
