//! What an entry of the journal says.

use serde::{Deserialize, Serialize};

use super::{Chain, Key, PublicKey, Question, Receipt, Verdict};
use crate::model::{
    Amounts, Call, CallId, Digest, Evidence, Giver, Lifts, Name, Pot, Subject, Timestamp, Watch, Window, canonical,
};

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
        /// The windows over which its budgets count: from here on they do.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        windows: Vec<Watch>,
    },
    /// A call is about to run; its amounts are held.
    Intent {
        /// The call without its arguments, which may hold secrets: their digest stands in `args`.
        call: Box<Call>,
        /// Digest of the exact argument text that is forwarded.
        args: Digest,
        /// The policy that allowed it.
        policy: Digest,
        /// What is held.
        held: Amounts,
        /// The approval, when a person was asked.
        approval: Option<String>,
        /// The question whose yes this call uses up.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        question: Option<Name>,
    },
    /// A person is asked about a call; it waits, and may be tried again after a restart.
    Ask {
        /// What is asked.
        question: Box<Question>,
    },
    /// A question has its answer.
    Answer {
        /// The question's id.
        question: Name,
        /// What was said.
        verdict: Verdict,
        /// Who said it and how.
        by: String,
        /// From when on a yes that no call has used is void, and a no that stands is forgotten.
        until: Timestamp,
    },
    /// A person granted a further tranche of a budget at its cap.
    Raise {
        /// The budget's id.
        budget: String,
        /// The account.
        account: String,
        /// How much more of the budget's kind.
        by: Amounts,
        /// Over which time the budget counts.
        #[serde(default, skip_serializing_if = "Window::is_total")]
        window: Window,
        /// Who approved and how.
        approval: String,
        /// The question that this answers, when there was one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        question: Option<Name>,
    },
    /// What the gate has drawn of a budget that it shares with others, from here on.
    Allowance {
        /// The budget, account and window.
        pot: Pot,
        /// What it may spend of it in all; of the pot's one kind.
        held: Amounts,
    },
    /// The gate introduced itself to the database of its shared budgets: this entry's place says which opening it is.
    Join {
        /// The version of the program.
        weir: String,
    },
    /// An account was frozen: nothing new runs below it until it is thawed.
    Freeze {
        /// The account.
        account: String,
        /// Who did it, and how.
        by: String,
        /// At which gate, or from the office; absent where it was given at this gate.
        #[serde(default, skip_serializing_if = "Giver::is_here")]
        from: Giver,
    },
    /// A frozen account goes on.
    Thaw {
        /// The account.
        account: String,
        /// Who did it, and how.
        by: String,
        /// At which gate, or from the office; absent where it was given at this gate.
        #[serde(default, skip_serializing_if = "Giver::is_here")]
        from: Giver,
        /// What was lifted; absent where it was everything that stopped the account.
        #[serde(default, skip_serializing_if = "Lifts::is_all")]
        lifts: Lifts,
    },
    /// An account was closed for good.
    Revoke {
        /// The account.
        account: String,
        /// Who did it, and how.
        by: String,
        /// At which gate, or from the office; absent where it was given at this gate.
        #[serde(default, skip_serializing_if = "Giver::is_here")]
        from: Giver,
    },
    /// A client told that something ran past the gate. It holds and posts nothing.
    Bypass {
        /// The session in which it ran.
        account: String,
        /// Who told, and of what.
        by: String,
        /// What it showed, for scores.
        evidence: Evidence,
    },
    /// A call that still runs has used a part of what it holds.
    Part {
        /// The call.
        call: CallId,
        /// The number of the part, from 1 without gaps.
        part: u64,
        /// What was posted.
        posted: Amounts,
    },
    /// What was posted for a call with an unknown outcome was replaced by what it really used.
    Reconcile {
        /// The call.
        call: CallId,
        /// What counts as posted for it from here on, in all.
        posted: Amounts,
        /// Who did it, and how.
        by: String,
    },
    /// A session began as a copy of another one of the same agent: what it has seen goes with it.
    Fork {
        /// The copy; its session and no delegation.
        subject: Subject,
        /// The session that was copied.
        from: Name,
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

/// What a checkpoint signs.
#[derive(Serialize)]
struct Reached {
    count: u64,
    prev: Digest,
}

impl Body {
    /// The entry of a gate that opens the store with `key`.
    #[must_use]
    pub fn open(version: &str, key: &PublicKey) -> Self {
        Self::Open { weir: version.to_owned(), key: key.hex() }
    }

    /// The intent of `call`: its arguments stay outside, their digest goes in.
    #[must_use]
    pub fn intent(call: &Call, policy: Digest, held: Amounts, approval: Option<String>) -> Self {
        let args = Digest::of(call.args_text().as_bytes());
        Self::Intent { call: Box::new(call.bare()), args, policy, held, approval, question: None }
    }

    /// The same intent, which uses up the yes to `used`.
    #[must_use]
    pub fn using(mut self, used: Option<Name>) -> Self {
        if let Self::Intent { question, .. } = &mut self {
            *question = used;
        }
        self
    }

    /// A signed statement of where `chain` stands; append it to that chain next.
    #[must_use]
    pub fn checkpoint(chain: &Chain, key: &Key) -> Self {
        let reached = Reached { count: chain.count(), prev: chain.head() };
        Self::Checkpoint { count: reached.count, signature: key.sign(canonical(&reached).as_bytes()) }
    }
}

/// True when a checkpoint at entry `seq` after `prev` says so itself and `key` signed it.
pub(super) fn checkpoint_holds(seq: u64, prev: Digest, count: u64, signature: &str, key: &PublicKey) -> bool {
    seq == count && key.verifies(canonical(&Reached { count, prev }).as_bytes(), signature)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Millis;

    #[test]
    fn entries_from_before_windows_and_projects_are_read_and_written_as_they_were() {
        let zero = Digest::ZERO;
        let texts = [
            format!(r#"{{"before":null,"digest":"{zero}","id":"p","kind":"policy"}}"#),
            r#"{"account":"o/a/s","approval":"yes","budget":"b","by":{"calls":2},"kind":"raise"}"#.to_owned(),
            r#"{"from":"s1","kind":"fork","subject":{"agent":"a","org":"o","run":"r","session":"s2"}}"#.to_owned(),
        ];
        for text in texts {
            let body: Body = serde_json::from_str(&text).unwrap();
            assert_eq!(canonical(&body), text);
        }
        let raised = r#"{"account":"o","approval":"","budget":"b","by":{},"kind":"raise","window":{"every":1}}"#;
        let body: Body = serde_json::from_str(raised).unwrap();
        assert!(matches!(&body, Body::Raise { window: Window::Every(Millis(1)), .. }));
        assert_eq!(canonical(&body), raised);
    }

    #[test]
    fn who_gave_an_order_is_read_as_it_was_written_and_an_older_entry_is_the_gates_own() {
        let (here, gate) = (Giver::Here, Giver::Gate("g1".into()));
        let told = [
            (r#"{"account":"o","by":"me","kind":"freeze"}"#, &here, None),
            (r#"{"account":"o","by":"me","from":"office","kind":"freeze"}"#, &Giver::Office, None),
            (r#"{"account":"o","by":"me","from":{"gate":"g1"},"kind":"revoke"}"#, &gate, None),
            (r#"{"account":"o","by":"me","kind":"thaw"}"#, &here, Some(Lifts::All)),
            (r#"{"account":"o","by":"me","kind":"thaw","lifts":"own"}"#, &here, Some(Lifts::Own)),
            (
                r#"{"account":"o","by":"me","from":{"gate":"g1"},"kind":"thaw","lifts":"round"}"#,
                &gate,
                Some(Lifts::Round),
            ),
        ];
        for (text, giver, lifted) in told {
            let body: Body = serde_json::from_str(text).unwrap();
            assert_eq!(canonical(&body), text);
            let (from, lifts) = match body {
                Body::Freeze { from, .. } | Body::Revoke { from, .. } => (from, None),
                Body::Thaw { from, lifts, .. } => (from, Some(lifts)),
                other => panic!("{other:?}"),
            };
            assert_eq!((&from, lifts), (giver, lifted));
        }
        let unknown = r#"{"account":"o","by":"me","from":"elsewhere","kind":"thaw"}"#;
        assert!(serde_json::from_str::<Body>(unknown).is_err());
    }
}
