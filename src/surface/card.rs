//! What a person sees of a question: built from the parsed call, escaped and bounded.
//!
//! Nothing that an agent wrote can move a cursor, hide a line or forge a field here; what cannot be shown whole cannot be
//! approved. Arguments and reason are no part of the journal: they come from the call, or after a restart from the
//! drawer, where the question's digest says whether they are what was asked.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::visible;
use crate::model::{Amounts, Call, Digest, Name, canonical};
use crate::pep::port::{About, Question};

/// Bytes of arguments that are shown; a call with more cannot be approved, only refused.
pub(super) const SHOWN_ARGS: usize = 16 << 10;
/// Bytes of every other text shown.
const SHOWN_TEXT: usize = 400;

/// One question, as the operator sees it. Every text is escaped and bounded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Asked {
    /// The id to answer with; used once.
    pub id: Name,
    /// The agent.
    pub agent: Name,
    /// The session.
    pub session: Name,
    /// The action.
    pub action: &'static str,
    /// The tool, module, peer, model or package.
    pub resource: Name,
    /// The arguments as indented JSON.
    pub args: String,
    /// Why the policy asks.
    pub why: String,
    /// Digest of the call and the policy that an approval is for.
    pub digest: Digest,
    /// False when the arguments are too long to be shown whole, or gone: it can only be refused.
    pub approvable: bool,
    /// Things a reader should know: characters outside ASCII, arguments cut.
    pub notes: Vec<&'static str>,
    /// At a budget's cap, what a plain yes adds and to what.
    pub raise: Option<Tranche>,
    /// True while a call of this gate waits for the answer; false when the answer waits for the call.
    pub attended: bool,
    /// Milliseconds until it counts as not answered.
    pub expires_in_ms: u64,
}

/// What a yes adds to a budget.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Tranche {
    /// The budget.
    pub budget: String,
    /// The account.
    pub account: String,
    /// How much of the budget's kind.
    pub by: Amounts,
}

/// What a drawer keeps of a question.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Sheet {
    /// The arguments' exact text.
    args: String,
    why: String,
}

impl Sheet {
    pub(super) fn of(call: &Call, why: &str) -> Self {
        Self { args: call.args_text(), why: why.to_owned() }
    }

    pub(super) fn text(&self) -> String {
        canonical(self)
    }

    /// The sheet of `question` out of what a drawer gave, when it is what was asked.
    pub(super) fn read(text: &str, question: &Question) -> Option<Self> {
        let sheet: Self = serde_json::from_str(text).ok()?;
        (Digest::of(sheet.args.as_bytes()) == question.args).then_some(sheet)
    }
}

impl Asked {
    /// The card of `question` with what is known of its `sheet`.
    pub(super) fn of(question: &Question, sheet: Option<&Sheet>) -> Self {
        let call = &question.call;
        let (args, notes, approvable) = match sheet.and_then(|sheet| serde_json::from_str(&sheet.args).ok()) {
            Some(args) => arguments(&args),
            None => (String::new(), vec!["the arguments are not there any more: this can only be refused"], false),
        };
        let raise = match &question.about {
            About::Rule { .. } => None,
            About::Budget { budget, account, by, .. } => {
                let (budget, account) = (visible(budget, SHOWN_TEXT), visible(account, SHOWN_TEXT));
                Some(Tranche { budget, account, by: *by })
            }
        };
        Self {
            id: question.id.clone(),
            agent: call.subject.agent.clone(),
            session: call.subject.session.clone(),
            action: call.action.word(),
            resource: call.resource.name.clone(),
            args,
            why: sheet.map(|sheet| visible(&sheet.why, SHOWN_TEXT)).unwrap_or_default(),
            digest: question.bound,
            approvable,
            notes,
            raise,
            attended: false,
            expires_in_ms: 0,
        }
    }
}

/// Arguments as they are shown, what to note of them, and whether they are whole.
fn arguments(args: &Map<String, Value>) -> (String, Vec<&'static str>, bool) {
    let pretty = serde_json::to_string_pretty(args).unwrap_or_default();
    // Line feeds of the indentation stay; those inside strings are already `\n` in JSON.
    let lines: Vec<String> = pretty.lines().map(|line| visible(line, SHOWN_ARGS)).collect();
    let mut shown = lines.join("\n");
    let mut notes = Vec::new();
    let whole = shown.len() <= SHOWN_ARGS;
    if !whole {
        let end = (0..=SHOWN_ARGS).rev().find(|at| shown.is_char_boundary(*at)).unwrap_or(0);
        shown.truncate(end);
        shown.push('…');
        notes.push("the arguments are too long to be shown whole: this can only be refused");
    }
    if !pretty.is_ascii() {
        notes.push("the arguments have characters outside ASCII, which may look like others");
    }
    (shown, notes, whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Action, Resource, Subject, Timestamp};
    use serde_json::json;

    fn card(text: &str, why: &str) -> Asked {
        let name = |text: &str| Name::new(text).unwrap();
        let (org, agent, session, run) = (name("org"), name("agent"), name("s"), name("run"));
        let call = Call {
            id: name("c"),
            subject: Subject { org, agent, session, run, delegation: Vec::new(), project: None },
            action: Action::ToolCall,
            resource: Resource::named(name("shell")),
            args: json!({"command": text}).as_object().unwrap().clone(),
            parent: None,
            surface: name("http"),
        };
        let about = About::Rule { policy: Digest::ZERO, rule: None };
        let question = Question::new(&call, about, Timestamp(9), 1, Digest::ZERO);
        let sheet = Sheet::read(&Sheet::of(&call, why).text(), &question);
        assert!(Sheet::read(&Sheet::of(&Call { args: Map::new(), ..call }, why).text(), &question).is_none());
        Asked::of(&question, sheet.as_ref())
    }

    #[test]
    fn what_is_shown_cannot_lie() {
        let padded = card("ls\u{202e}\u{1b}[2J\n\u{200b}rm", "w\u{7}hy");
        assert!(padded.args.is_ascii() && padded.args.contains("\\u{202e}") && padded.args.contains("\\u001b[2J\\n"));
        assert_eq!(padded.why, "w\\u{7}hy");
        assert!(padded.approvable && padded.notes.len() == 1);
        let long = card(&"x".repeat(SHOWN_ARGS), "");
        assert!(!long.approvable && long.args.len() < SHOWN_ARGS + 8);
    }
}
