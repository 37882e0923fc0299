//! What the reader of hook events promises: bytes in, and a panic where it is not kept.
//!
//! The test below calls it with damaged samples, `fuzz/` with whatever it can find; nothing else is to use it.

use serde_json::Value;

use super::event::{Event, What};
use crate::model::{Name, parse_json};

/// Events: the same ids give the same names, and what is judged are the tool and the arguments that the client told.
pub(crate) fn events(bytes: &[u8]) {
    let Ok(value) = parse_json(bytes) else { return };
    let read = || serde_json::from_value::<Event>(value.clone()).ok();
    let (Some(event), Some(again)) = (read(), read()) else { return };
    assert_eq!(event.session(), again.session());
    assert_eq!(event.delegation(), again.delegation());
    assert!(event.delegation().is_ok_and(|agents| agents.len() <= 1) || event.delegation().is_err());
    if let Ok(session) = event.session() {
        assert!(Name::new(session.as_str()).is_ok() && !session.as_str().starts_with("seat:"), "{session}");
    }
    let (before, used) = match event.what() {
        Err(fault) => return assert!(fault.len() < 200 && !fault.chars().any(char::is_control), "{fault}"),
        Ok(What::Before(used)) => (true, used),
        Ok(What::After(used, _)) => (false, used),
        Ok(What::End | What::Other(_)) => return,
    };
    assert_eq!(value["hook_event_name"].as_str().map(|name| name == "PreToolUse"), Some(before));
    assert_eq!(value["tool_name"].as_str(), Some(used.tool.as_str()));
    assert_eq!(value["tool_use_id"].as_str(), Some(used.id.as_str()));
    match value.get("tool_input") {
        Some(Value::Object(input)) => assert_eq!(*input, used.input),
        _ => assert!(used.input.is_empty(), "arguments that nobody told"),
    }
    assert_eq!(used.result.is_some(), value.get("tool_response").is_some_and(|response| !response.is_null()));
}

#[cfg(test)]
#[path = "../../../tests/support/mutation.rs"]
#[allow(clippy::duplicate_mod, reason = "each edge damages samples of its own, and none knows another")]
mod mutation;

#[cfg(test)]
mod tests {
    use super::mutation::Mutations;
    use super::*;

    #[test]
    fn damaged_events_are_refused_or_judged_as_they_were_told() {
        let samples = [
            r#"{"session_id":"0d9f-1","hook_event_name":"PreToolUse","agent_id":"a1","tool_name":"Bash","tool_use_id":"toolu_1","tool_input":{"command":"ls","deep":[{"a":null}]},"cwd":"/x","tool_response":null}"#,
            r#"{"session_id":"seat:1","hook_event_name":"PostToolUse","tool_name":"Edit","tool_use_id":"t","tool_input":{},"tool_response":{"stdout":"x"}}"#,
            r#"{"session_id":"a b","hook_event_name":"Stop"}"#,
        ];
        samples.iter().for_each(|sample| events(sample.as_bytes()));
        let samples = samples.map(|sample| sample.as_bytes().to_vec()).to_vec();
        Mutations::new(13, samples).take(20_000).for_each(|bytes| events(&bytes));
    }
}
