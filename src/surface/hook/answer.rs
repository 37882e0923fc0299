//! What a client is told, in the fields that its schema knows and no others: Codex refuses an answer that has more, and
//! then runs the tool.

use serde_json::{Value, json};

use super::Client;

/// The tool may run. Codex is told nothing, which leaves its own approvals in force.
pub(crate) fn allowed(client: Client) -> Value {
    match client {
        Client::ClaudeCode => before("allow", "allowed by the gate"),
        Client::Codex => silent(),
    }
}

/// The tool must not run; `why` is what the model reads.
pub(crate) fn denied(why: &str) -> Value {
    before("deny", why)
}

/// A person has been asked: the run ends here, and goes on when it is resumed.
pub(crate) fn deferred(why: &str) -> Value {
    before("defer", why)
}

/// Nothing to say.
pub(crate) fn silent() -> Value {
    json!({})
}

/// The client is to stop: a tool has run that was not to.
pub(crate) fn halted(why: &str) -> Value {
    json!({"continue": false, "stopReason": why, "systemMessage": why})
}

fn before(decision: &str, why: &str) -> Value {
    json!({"hookSpecificOutput": {
        "hookEventName": "PreToolUse", "permissionDecision": decision, "permissionDecisionReason": why,
    }})
}
