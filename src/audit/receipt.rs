//! Receipts shaped after CSA AARM v1.0 (arXiv 2602.09433), section "Receipts": action, decision,
//! context, approval, execution, signature.
//!
//! A receipt stands alone: whoever has the public key can check it without the journal. It holds
//! digests of arguments and results, never the values, and no free text from the agent.

use serde::{Deserialize, Serialize};

use super::{Key, PublicKey};
use crate::model::{
    Action, Amounts, Call, CallId, Decision, Digest, Effect, Name, OutputFile, ReasonCode, Resource, Status, ThreatId,
    Timestamp, canonical,
};

/// A signed statement of what was asked, decided and done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// The call's id.
    pub receipt_id: CallId,
    /// When it was made.
    pub at: Timestamp,
    /// What was asked, and by whom.
    pub action: Asked,
    /// What was decided, and why.
    pub decision: Decided,
    /// What it follows from.
    pub context: Context,
    /// Who approved and how, when a person was asked.
    pub approval: Option<String>,
    /// What came of it; `None` when it never ran.
    pub execution: Option<Execution>,
    /// Over the canonical JSON of every field above.
    pub signature: Signature,
}

/// What was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    /// What the action was done to: tool, module, peer, model or package.
    pub tool: Name,
    /// Registry, revision and digest of a package.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub package: Option<Resource>,
    /// What was done.
    pub operation: Action,
    /// Digest of the exact argument text.
    pub parameters: Digest,
    /// The call in whose execution this one was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<CallId>,
    /// Who asked.
    pub requester_context: Requester,
}

impl Asked {
    /// What `call` asks, with its arguments' digest.
    #[must_use]
    pub fn of(call: &Call, parameters: Digest) -> Self {
        let package =
            call.resource.registry.is_some() || call.resource.revision.is_some() || call.resource.digest.is_some();
        Self {
            tool: call.resource.name.clone(),
            package: package.then(|| call.resource.clone()),
            operation: call.action,
            parameters,
            parent: call.parent.clone(),
            requester_context: Requester {
                organisation: call.subject.org.clone(),
                project: call.subject.project.clone(),
                agent: call.subject.agent.clone(),
                service: call.surface.clone(),
                session: call.subject.session.clone(),
                scope: call.subject.run.clone(),
                delegation_chain: call.subject.delegation.clone(),
            },
        }
    }
}

/// Who asked: set by the gate, never by the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Requester {
    /// Who pays.
    pub organisation: Name,
    /// The project, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<Name>,
    /// The agent.
    pub agent: Name,
    /// The surface on which the call was intercepted.
    pub service: Name,
    /// The session.
    pub session: Name,
    /// The run: the task in whose scope the call was made.
    pub scope: Name,
    /// Agents that delegated, outermost first.
    pub delegation_chain: Vec<Name>,
}

/// The word of AARM for a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Ruling {
    /// It may happen.
    Allow,
    /// It may happen once a person has said so; nobody did.
    StepUp,
    /// It must not happen.
    Deny,
}

impl Ruling {
    /// The word, as in the receipt.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Allow => Effect::Allow.aarm(),
            Self::StepUp => Effect::Ask.aarm(),
            Self::Deny => Effect::Deny.aarm(),
        }
    }
}

impl From<Effect> for Ruling {
    fn from(effect: Effect) -> Self {
        match effect {
            Effect::Allow => Self::Allow,
            Effect::Ask => Self::StepUp,
            Effect::Deny => Self::Deny,
        }
    }
}

/// What was decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decided {
    /// The decision.
    pub result: Ruling,
    /// By which policy.
    pub policy: PolicyRef,
    /// Why, as a code. The text is left out: it may quote arguments.
    pub reason: ReasonCode,
    /// The rule that decided, when one did.
    pub rule: Option<String>,
    /// The threats that it answers.
    pub answers: Vec<ThreatId>,
}

/// A policy by name and content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyRef {
    /// Its id.
    pub policy_id: Name,
    /// SHA-256 of its file.
    pub hash: Digest,
}

/// What a receipt follows from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Context {
    /// Hash of the intent entry, and by the chain of everything before it; `None` for a refusal.
    pub context_hash: Option<Digest>,
}

/// What came of a call that ran.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Execution {
    /// How it ended.
    pub status: Status,
    /// What was used.
    pub usage: Amounts,
    /// Digest of the result that went back to the agent.
    pub result: Option<Digest>,
    /// Files that it made, changed or removed in its scratch folder.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<OutputFile>,
    /// SHA-256 of the tape from which it can be replayed (`weir replay`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tape: Option<Digest>,
}

/// An Ed25519 signature and who made it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signature {
    /// `Ed25519`.
    pub alg: Algorithm,
    /// [`PublicKey::id`] of the signer.
    pub key_id: String,
    /// 128 hexadecimal digits.
    pub sig: String,
}

/// Signature algorithms: one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Algorithm {
    /// RFC 8032.
    Ed25519,
}

/// What a receipt is made from.
#[derive(Debug)]
pub struct ReceiptParts<'a> {
    /// The call.
    pub call: &'a Call,
    /// Digest of its arguments, where they themselves are gone.
    pub args: Option<Digest>,
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
    /// Files that it left in its scratch folder.
    pub files: &'a [OutputFile],
    /// Digest of its tape.
    pub tape: Option<Digest>,
    /// When.
    pub at: Timestamp,
}

/// A receipt without its signature: what is signed.
#[derive(Serialize)]
struct Statement<'a> {
    receipt_id: &'a CallId,
    at: Timestamp,
    action: &'a Asked,
    decision: &'a Decided,
    context: &'a Context,
    approval: &'a Option<String>,
    execution: &'a Option<Execution>,
}

impl Receipt {
    /// Makes and signs a receipt. No argument value, result or secret goes into it: digests only.
    #[must_use]
    pub fn sign(parts: &ReceiptParts<'_>, key: &Key) -> Self {
        let reason = &parts.decision.reason;
        let mut receipt = Self {
            receipt_id: parts.call.id.clone(),
            at: parts.at,
            action: Asked::of(parts.call, parts.args.unwrap_or_else(|| Digest::of(parts.call.args_text().as_bytes()))),
            decision: Decided {
                result: parts.decision.effect.into(),
                policy: PolicyRef { policy_id: parts.policy.clone(), hash: parts.decision.policy },
                reason: reason.code,
                rule: reason.rule.clone(),
                answers: reason.answers.clone(),
            },
            context: Context { context_hash: parts.intent },
            approval: parts.approval.map(str::to_owned),
            execution: parts.status.map(|status| Execution {
                status,
                usage: parts.usage,
                result: parts.result,
                files: parts.files.to_vec(),
                tape: parts.tape,
            }),
            signature: Signature { alg: Algorithm::Ed25519, key_id: key.public().id(), sig: String::new() },
        };
        receipt.signature.sig = key.sign(receipt.statement().as_bytes());
        receipt
    }

    /// The session in which the call was made.
    #[must_use]
    pub const fn session(&self) -> &Name {
        &self.action.requester_context.session
    }

    /// True when nobody knows how the call ended.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        self.execution.as_ref().is_some_and(|execution| execution.status == Status::Unknown)
    }

    /// True when the signature is `key`'s and covers every field.
    #[must_use]
    pub fn verifies(&self, key: &PublicKey) -> bool {
        self.signature.key_id == key.id() && key.verifies(self.statement().as_bytes(), &self.signature.sig)
    }

    /// The canonical text that is signed. Taken apart by name, so that a new field cannot be left out.
    fn statement(&self) -> String {
        let Self { receipt_id, at, action, decision, context, approval, execution, signature: _ } = self;
        canonical(&Statement { receipt_id, at: *at, action, decision, context, approval, execution })
    }
}
