//! What a person is asked, as it stands on record: which call, about what, until when.
//!
//! A question outlives the process that put it. The journal keeps the call without its arguments, whose
//! digest binds the answer to them; what is shown to the person besides lies outside the journal.

use serde::{Deserialize, Serialize};

use crate::model::{Amounts, Call, Digest, Name, Timestamp, Window, canonical};

/// One question.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// Its id: 32 hexadecimal digits made from its place in the journal.
    pub id: Name,
    /// The call without its arguments.
    pub call: Box<Call>,
    /// Digest of the arguments' exact text.
    pub args: Digest,
    /// What the answer is for: see [`Question::bound`].
    pub bound: Digest,
    /// What is asked.
    pub about: About,
    /// From when on it counts as not answered.
    pub until: Timestamp,
}

/// What is asked about a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case", deny_unknown_fields)]
pub enum About {
    /// A rule of a policy wants a person to consent.
    Rule {
        /// The policy.
        policy: Digest,
        /// The rule; `None` where the policy asks without one.
        rule: Option<String>,
    },
    /// A budget is at its cap.
    Budget {
        /// The policy.
        policy: Digest,
        /// The budget's id.
        budget: String,
        /// The account that has too little left.
        account: String,
        /// The tranche that a plain yes adds, of the budget's kind.
        by: Amounts,
        /// Over which time the budget counts.
        #[serde(default, skip_serializing_if = "Window::is_total")]
        window: Window,
    },
}

/// What became of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Yes.
    Granted,
    /// No.
    Refused,
    /// Nobody answered in time.
    Expired,
    /// Whoever asked has gone, or nobody could be asked after all.
    Withdrawn,
}

impl About {
    /// The policy that asks.
    #[must_use]
    pub const fn policy(&self) -> Digest {
        match self {
            Self::Rule { policy, .. } | Self::Budget { policy, .. } => *policy,
        }
    }
}

impl Question {
    /// What an answer is for: action, resource, arguments, organisation, project, agent, session and chain of delegation, and the
    /// policy. Not the call's id and not its run: the same call tried again, after a restart, is the same matter.
    #[must_use]
    pub fn bound(call: &Call, policy: Digest) -> Digest {
        let who = &call.subject;
        let who = (&who.org, &who.project, &who.agent, &who.session, &who.delegation);
        let matter = (call.action, &call.resource, call.args_text(), who, policy);
        Digest::of(canonical(&matter).as_bytes())
    }

    /// A question about `call`, which is number `seq` in a journal whose last entry has the hash `prev`.
    #[must_use]
    pub fn new(call: &Call, about: About, until: Timestamp, seq: u64, prev: Digest) -> Self {
        let bound = Self::bound(call, about.policy());
        let place = Digest::of(canonical(&(seq, prev, bound)).as_bytes()).hex();
        Self {
            id: Name::digits(&place),
            call: Box::new(call.bare()),
            args: Digest::of(call.args_text().as_bytes()),
            bound,
            about,
            until,
        }
    }

    /// True when `self` asks the same of the same call as a question about `bound` and `about` would.
    #[must_use]
    pub fn is_about(&self, bound: Digest, about: &About) -> bool {
        let same = match (&self.about, about) {
            // How much a yes would add is no part of what is asked.
            (About::Budget { budget: a, account: b, .. }, About::Budget { budget: c, account: d, .. }) => {
                (a, b) == (c, d)
            }
            (own, other) => own == other,
        };
        same && self.bound == bound
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Action, Resource, Subject};
    use serde_json::json;

    fn call(id: &str, session: &str, run: &str, x: u8) -> Call {
        let name = |text: &str| Name::new(text).unwrap();
        let (org, agent, session, run) = (name("o"), name("a"), name(session), name(run));
        Call {
            id: name(id),
            subject: Subject { org, agent, session, run, delegation: Vec::new(), project: None },
            action: Action::ToolCall,
            resource: Resource::named(name("mail")),
            args: json!({"x": x}).as_object().unwrap().clone(),
            parent: None,
            surface: name("test"),
        }
    }

    #[test]
    fn an_answer_is_for_the_same_call_whatever_its_id_and_run() {
        let bound = |call: &Call| Question::bound(call, Digest::ZERO);
        let first = bound(&call("a", "s", "r", 1));
        assert_eq!(first, bound(&call("b", "s", "r2", 1)));
        assert_ne!(first, bound(&call("a", "t", "r", 1)), "another session");
        assert_ne!(first, bound(&call("a", "s", "r", 2)), "other arguments");
        assert_ne!(first, Question::bound(&call("a", "s", "r", 1), Digest::of(b"next")), "another policy");
    }

    #[test]
    fn a_question_carries_no_argument_and_has_an_id_of_its_place() {
        let about = || About::Rule { policy: Digest::ZERO, rule: None };
        let question = |seq| Question::new(&call("a", "s", "r", 77), about(), Timestamp(9), seq, Digest::ZERO);
        assert!(!canonical(&question(1)).contains("77"));
        assert_ne!(question(1).id, question(2).id);
        assert_eq!(question(1).id.as_str().len(), 32);
    }
}
