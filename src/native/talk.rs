//! What a gate and whoever asks it to run a program say to each other, message by message.
//!
//! What comes from the one who asks is hostile: strict JSON, no member that is not known, nothing longer than one message.
//! A request names what is to run; it has no member for who asks, under which policy, behind which walls or on which
//! account. Order: request with three descriptors, `granted`, environment, `started`, `progress` again and again, `ended`;
//! or `refused` in place of any.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::report::Progress;
use crate::model::{Status, parse_json};

/// What is to run. There is no `Debug`: it holds a token.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// The agent's token: it says who asks.
    pub token: String,
    /// The program's name and its arguments.
    pub argv: Vec<String>,
    /// The folder in which it runs, from the root.
    pub cwd: String,
    /// GPUs that it holds.
    pub gpus: u32,
    /// The session whose budgets go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// Ports inside that are to lead to the gate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub doors: Vec<u16>,
}

/// What the one who asks says later.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "lowercase")]
pub(super) enum Word {
    /// The granted variables of its environment, once.
    Env(BTreeMap<String, String>),
    /// A signal for the program.
    Signal(i32),
}

/// What the gate says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, tag = "event", rename_all = "lowercase")]
pub(super) enum Event {
    /// Nothing runs, and why.
    Refused {
        /// For a person or a model.
        denial: String,
    },
    /// It is decided, held and on record; the gate waits for these variables of the environment.
    Granted {
        /// Their names.
        env: Vec<String>,
    },
    /// The program runs.
    Started,
    /// What is spent.
    Progress(Box<Progress>),
    /// It is over and settled.
    Ended(Ended),
}

/// How a run ended, as the gate tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ended {
    /// The exit code of whoever asked for the program.
    pub exit: u8,
    /// How it ended, as accounts have it.
    pub status: Status,
    /// How it ended and what it used, in one line.
    pub summary: String,
    /// What else has to be said: missing walls and the like.
    pub notices: Vec<String>,
    /// The call's id, under which the journal has it.
    pub call: String,
}

/// Reads one message of the other side.
///
/// # Errors
/// What is wrong with it.
pub(super) fn read<T: DeserializeOwned>(text: &[u8]) -> Result<T, String> {
    let value = parse_json(text).map_err(|fault| fault.to_string())?;
    serde_json::from_value(value).map_err(|fault| fault.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_strictly() {
        let good = r#"{"token":"0123456789abcdef","argv":["sh"],"cwd":"/","gpus":0}"#;
        assert!(read::<Wanted>(good.as_bytes()).is_ok());
        let with = |more: &str| good.replace("\"gpus\":0", more);
        for bad in [
            with(r#""gpus":0,"gpus":1"#),
            with(r#""gpus":-1"#),
            with(r#""gpus":1.0"#),
            with(r#""gpus":4294967296"#),
            with(r#""gpus":"1""#),
            with(r#""gpus":0,"policy":"p.toml""#),
            with(r#""gpus":0,"store":"/tmp""#),
            with(r#""gpus":0,"without":["network"]"#),
            with(r#""gpus":0,"agent":"other""#),
            with(r#""gpus":0,"doors":["8080=unix:/x"]"#),
            with(r#""gpus":0,"doors":[65536]"#),
            with(r#""gpus":0,"session":7"#),
            with(r#""gpus":0} {"#),
            good.replace("[\"sh\"]", "\"sh\""),
            good.replace("[\"sh\"]", "[1]"),
            good.replace("\"cwd\":\"/\",", ""),
            format!("{}{}", "[".repeat(100), "]".repeat(100)),
            String::new(),
        ] {
            assert!(read::<Wanted>(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(read::<Wanted>(b"{\"token\":\"\xff\"}").is_err());
    }

    #[test]
    fn later_words_are_read_strictly() {
        assert!(matches!(read::<Word>(br#"{"signal":15}"#), Ok(Word::Signal(15))));
        assert!(matches!(read::<Word>(br#"{"env":{"A":"b"}}"#), Ok(Word::Env(_))));
        for bad in [r#"{"env":{"A":"b","A":"c"}}"#, r#"{"env":{"A":1}}"#, r#"{"signal":15,"env":{}}"#, "{}", "15"] {
            assert!(read::<Word>(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
