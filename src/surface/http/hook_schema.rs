//! The schemas of hooks: the fields that are read of a client's event, and what it is answered.

use serde_json::{Value, json};

use super::schema::{object, text, with_example};

/// `HookEvent` and `HookAnswer`.
pub(super) fn hooks() -> Value {
    let event = json!({
        "type": "object",
        "required": ["session_id", "hook_event_name"],
        "description": "as the client sends it; fields that are not named here are passed over",
        "properties": {
            "session_id": text("the client's session, 1 to 256 bytes"),
            "hook_event_name": text("`PreToolUse`, `PostToolUse`, `PostToolUseFailure`, `SessionEnd`; others are counted"),
            "agent_id": text("the subagent, when one asks"),
            "tool_name": text("with a tool: its name"),
            "tool_use_id": text("with a tool: the client's id of this use, 1 to 256 bytes"),
            "tool_input": {"type": "object", "description": "with a tool: its arguments; no key `$`"},
            "tool_response": {"description": "after a tool: what came back; only its digest is kept"},
        },
    });
    let example = json!({
        "session_id": "0d9fc8a2-7a52-4f0b-9f0c-0a3c2f1f7c11", "hook_event_name": "PreToolUse", "agent_id": "",
        "tool_name": "Bash", "tool_use_id": "toolu_01", "tool_input": {"command": "ls"}, "tool_response": null,
    });
    let decision = object(
        &["hookEventName", "permissionDecision", "permissionDecisionReason"],
        &json!({
            "hookEventName": {"const": "PreToolUse"},
            "permissionDecision": {"enum": ["allow", "deny", "defer"]},
            "permissionDecisionReason": {"type": "string"},
        }),
    );
    let answer = object(
        &[],
        &json!({
            "hookSpecificOutput": decision,
            "continue": {"const": false, "description": "a tool ran past the gate; the session is revoked"},
            "stopReason": {"type": "string"},
            "systemMessage": {"type": "string"},
        }),
    );
    json!({"HookEvent": with_example(event, example), "HookAnswer": answer})
}

#[cfg(test)]
mod tests {
    use super::super::body::parse;
    use super::*;
    use crate::surface::hook::{Event, What};

    #[test]
    fn what_is_described_is_accepted() {
        let all = hooks();
        let example = &all["HookEvent"]["examples"][0];
        let event: Event = parse(example.to_string().as_bytes()).unwrap();
        assert!(matches!(event.what(), Ok(What::Before(_))));
        for key in all["HookEvent"]["properties"].as_object().unwrap().keys() {
            assert!(example.get(key).is_some(), "the example lacks {key}");
        }
    }
}
