//! Receipts shaped after CSA AARM v1.0 (arXiv 2602.09433), section "Receipts": action, decision,
//! context, execution, signature.

use serde::{Deserialize, Serialize};

use super::{Key, PublicKey};
use crate::model::{Amounts, Call, CallId, Decision, Digest, Name, Status, Timestamp};

/// A signed statement of what was asked, decided and done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// The call's id.
    pub receipt_id: CallId,
    // B: `action{tool, operation, parameters digest, requester_context}`, `decision{result, policy{id,
    // hash}, reason, rule, answers}`, `context_hash` (the intent entry's hash), `approval`,
    // `execution{status, usage, result digest}`, `at`, `signature{alg, key_id, sig}`.
}

/// What a receipt is made from.
#[derive(Debug)]
pub struct ReceiptParts<'a> {
    /// The call.
    pub call: &'a Call,
    /// The decision.
    pub decision: &'a Decision,
    /// The policy's id.
    pub policy: &'a Name,
    /// Hash of the intent entry; `None` for a refusal before any intent.
    pub intent: Option<Digest>,
    /// The approval, when a person was asked.
    pub approval: Option<&'a str>,
    /// How it ended; `None` when it never ran.
    pub status: Option<Status>,
    /// What was used.
    pub usage: Amounts,
    /// Digest of the result that went back to the agent.
    pub result: Option<Digest>,
    /// When.
    pub at: Timestamp,
}

impl Receipt {
    pub fn session(&self) -> &Name { todo!() }
    /// Makes and signs a receipt. No argument value, result or secret goes into it: digests only.
    #[must_use]
    pub fn sign(parts: &ReceiptParts<'_>, key: &Key) -> Self {
        let _ = (parts, key);
        todo!()
    }

    /// True when the signature is `key`'s and covers every field.
    #[must_use]
    pub fn verifies(&self, key: &PublicKey) -> bool {
        let _ = key;
        todo!()
    }
}
