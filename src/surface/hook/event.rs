//! What a client tells: the fields that matter of one event, checked; fields that are not known are passed over, because
//! a client adds some with every version and they are not ours to refuse.

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::model::{Digest, Name};

/// Longest id that a client gives, bytes.
const ID_BYTES: usize = 256;

/// One event as it arrives.
#[derive(Deserialize)]
pub(crate) struct Event {
    session_id: String,
    hook_event_name: String,
    #[serde(default)]
    agent_id: Option<String>,
    #[serde(default)]
    tool_name: Option<String>,
    #[serde(default)]
    tool_use_id: Option<String>,
    #[serde(default)]
    tool_input: Option<Value>,
    #[serde(default)]
    tool_response: Option<Value>,
}

/// What an event is about.
pub(crate) enum What {
    /// A tool is about to run.
    Before(Use),
    /// A tool has run; true when the client says that it failed.
    After(Use, bool),
    /// A conversation is over.
    End,
    /// Anything else, by the client's word for it.
    Other(&'static str),
}

/// One use of a tool.
pub(crate) struct Use {
    /// The client's id of it.
    pub id: String,
    /// The tool.
    pub tool: Name,
    /// Its arguments, as the client will run it.
    pub input: Map<String, Value>,
    /// SHA-256 of what came back, after it has run.
    pub result: Option<Digest>,
}

impl Event {
    /// The session: the client's own id where it can be a name.
    pub fn session(&self) -> Result<Name, String> {
        session_name(&self.session_id).ok_or_else(|| "`session_id` has 1 to 256 bytes".to_owned())
    }

    /// The agents below the session's own: the client tells the innermost.
    pub fn delegation(&self) -> Result<Vec<Name>, String> {
        let agent = self.agent_id.as_deref().filter(|id| !id.is_empty());
        agent
            .map(|id| session_name(id).ok_or_else(|| "`agent_id` has at most 256 bytes".to_owned()))
            .into_iter()
            .collect()
    }

    /// What it is about.
    ///
    /// # Errors
    /// What is missing or cannot be said to the gate.
    pub fn what(self) -> Result<What, String> {
        match self.hook_event_name.as_str() {
            "PreToolUse" => self.used().map(What::Before),
            "PostToolUse" => self.used().map(|used| What::After(used, false)),
            "PostToolUseFailure" => self.used().map(|used| What::After(used, true)),
            "SessionEnd" => Ok(What::End),
            other => Ok(What::Other(KNOWN.iter().find(|known| **known == other).copied().unwrap_or("unknown"))),
        }
    }

    fn used(self) -> Result<Use, String> {
        let id = self.tool_use_id.filter(|id| !id.is_empty() && id.len() <= ID_BYTES);
        let id = id.ok_or("`tool_use_id` is missing or too long; without it a result cannot be told from a bypass")?;
        let tool = self.tool_name.ok_or("`tool_name` is missing")?;
        let tool = Name::new(tool).map_err(|fault| format!("`tool_name`: {fault}"))?;
        let input = match self.tool_input {
            Some(Value::Object(input)) => input,
            None => Map::new(),
            Some(_) => return Err("`tool_input` is not an object".to_owned()),
        };
        if has_tags(&input) {
            return Err("`tool_input` has a key `$`, which means something else to the gate".to_owned());
        }
        let result = self.tool_response.map(|response| Digest::of(response.to_string().as_bytes()));
        Ok(Use { id, tool, input, result })
    }
}

/// Events that are taken note of, by name; a metric's labels come out of this table.
const KNOWN: &[&str] = &[
    "SessionStart",
    "UserPromptSubmit",
    "PermissionRequest",
    "PermissionDenied",
    "SubagentStart",
    "SubagentStop",
    "Stop",
    "StopFailure",
    "PreCompact",
    "PostCompact",
    "Notification",
    "ConfigChange",
    "PostToolBatch",
];

/// A client's id as a name: itself, or one made of its digest, as the proxies of models make it, so that a session's
/// tools and tokens count on one account.
pub(crate) fn session_name(id: &str) -> Option<Name> {
    if id.is_empty() || id.len() > ID_BYTES {
        return None;
    }
    let own = Name::new(id).ok().filter(|name| !name.as_str().starts_with("seat:"));
    own.or_else(|| Name::new(Digest::of(id.as_bytes()).hex().get(..32)?).ok())
}

/// Whether a key `$` stands anywhere: the gate takes such objects for tagged values, and the client does not.
fn has_tags(input: &Map<String, Value>) -> bool {
    let mut maps = vec![input];
    let mut values: Vec<&Value> = Vec::new();
    loop {
        if let Some(map) = maps.pop() {
            if map.contains_key("$") {
                return true;
            }
            values.extend(map.values());
        } else {
            match values.pop() {
                None => return false,
                Some(Value::Object(map)) => maps.push(map),
                Some(Value::Array(items)) => values.extend(items),
                Some(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(value: Value) -> Event {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn what_is_not_known_is_passed_over_and_what_is_missing_is_not() {
        let whole = json!({"session_id": "s", "hook_event_name": "PreToolUse", "tool_name": "Bash", "tool_use_id": "t",
            "tool_input": {"command": "ls"}, "effort": {"level": "high"}, "prompt_id": 1});
        let What::Before(used) = event(whole.clone()).what().unwrap_or(What::End) else { panic!() };
        assert_eq!((used.id.as_str(), used.tool.as_str()), ("t", "Bash"));
        for (field, value) in [
            ("tool_use_id", json!("")),
            ("tool_use_id", Value::Null),
            ("tool_use_id", json!("x".repeat(300))),
            ("tool_name", Value::Null),
            ("tool_name", json!("a b")),
            ("tool_input", json!([])),
            ("tool_input", json!({"a": [{"b": {"$": ["path", "/etc"]}}]})),
        ] {
            let mut broken = whole.clone();
            broken[field] = value;
            assert!(event(broken).what().is_err(), "{field}");
        }
        let other = json!({"session_id": "s", "hook_event_name": "SomethingNew"});
        assert!(matches!(event(other).what(), Ok(What::Other("unknown"))));
    }

    #[test]
    fn ids_that_are_no_names_become_some() {
        let of = |id: &str| event(json!({"session_id": id, "hook_event_name": "Stop"})).session();
        assert_eq!(of("1f0c-9").unwrap().as_str(), "1f0c-9");
        assert_eq!(of("a b\u{202e}").unwrap().as_str().len(), 32);
        assert_ne!(of("seat:00").unwrap().as_str(), "seat:00");
        assert!(of("").is_err() && of(&"x".repeat(257)).is_err());
    }
}
