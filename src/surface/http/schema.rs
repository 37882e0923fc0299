//! The schemas of the interface (JSON Schema 2020-12), each request with an example.
//!
//! They describe; the types of the handlers decide. A test reads every example with its handler's
//! type, so that a description cannot promise what is not accepted.

use serde_json::{Map, Value, json};

use super::authzen::resource_type;
use super::decide::elsewhere;
use super::hook_schema::hooks;
use super::otlp_schema::telemetry;
use crate::model::{Action, KINDS, Limits, REASONS, ReasonCode, Tier};

/// Every schema by name.
pub(super) fn schemas() -> Map<String, Value> {
    let mut all = Map::new();
    let parts = [common(), sessions(), kept(), execution(), hosted(), evaluation(), budgets(), reading(), approvals()];
    for part in parts.into_iter().chain([hooks(), telemetry()]) {
        if let Value::Object(part) = part {
            all.extend(part);
        }
    }
    all
}

/// A reference to the schema `name`.
pub(super) fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

/// An object that has exactly `properties`, of which `required` must be there.
pub(super) fn object(required: &[&str], properties: &Value) -> Value {
    json!({"type": "object", "additionalProperties": false, "required": required, "properties": properties})
}

pub(super) fn with_example(mut schema: Value, example: Value) -> Value {
    if let Value::Object(map) = &mut schema {
        map.insert("examples".into(), Value::Array(vec![example]));
    }
    schema
}

pub(super) fn text(about: &str) -> Value {
    json!({"type": "string", "description": about})
}

fn list(of: &Value) -> Value {
    json!({"type": "array", "items": of})
}

fn name() -> Value {
    reference("Name")
}

fn common() -> Value {
    let amounts: Map<String, Value> = KINDS
        .iter()
        .map(|row| {
            (
                row.name.to_owned(),
                json!({"type": "integer", "minimum": 0, "description": format!("{} ({})", row.about, row.unit)}),
            )
        })
        .collect();
    let codes: Vec<&str> = REASONS.iter().map(|row| row.name).collect();
    json!({
        "Name": {"type": "string", "minLength": 1, "maxLength": Limits::NAME_BYTES, "pattern": "^[A-Za-z0-9._:/@-]+$"},
        "Digest": {"type": "string", "pattern": "^sha256:[0-9a-f]{64}$"},
        "Tagged": {"description": "any JSON value; what JSON cannot say is an object with the single key `$` (docs/protocol.md)"},
        "Amounts": {"type": "object", "additionalProperties": false, "properties": amounts},
        "ReasonCode": {"type": "string", "enum": codes},
        "Nothing": with_example(object(&[], &json!({})), json!({})),
        "Error": object(&["error"], &json!({"error": object(&["code", "message"], &json!({
            "code": text("one of the codes listed under the statuses"),
            "message": {"type": "string", "maxLength": Limits::DENIAL_BYTES},
        }))})),
        "Live": object(&["live"], &json!({"live": {"const": true}})),
        "Ready": object(&["ready"], &json!({"ready": {"const": true}})),
        "Document": {"type": "object", "description": "an OpenAPI 3.1 document"},
    })
}

fn sessions() -> Value {
    let param = object(&["name"], &json!({"name": name(), "required": {"type": "boolean", "default": false}}));
    let tool = object(
        &["name"],
        &json!({
            "name": name(),
            "description": text("what it does, for help()"),
            "params": list(&param),
            "is_final": {"type": "boolean", "default": false, "description": "its call ends the program with an answer"},
            "is_agent": {"type": "boolean", "default": false, "description": "it is another agent: calls are agent.invoke"},
        }),
    );
    let params = json!([{"name": "query", "required": true}]);
    let search =
        json!({"name": "search", "description": "Searches.", "params": params, "is_final": false, "is_agent": false});
    let tools = json!({"type": "array", "items": reference("ToolSpec"), "maxItems": Limits::TOOLS});
    json!({
        "ToolSpec": tool,
        "NewSession": with_example(
            object(&["tools"], &json!({"tools": tools, "parent": name(), "name": name(), "resume": name()})),
            json!({"tools": [search], "parent": "4b1c0d6ae2f34f0e9d3a7c5b8e6f1a20", "name": "researcher"}),
        ),
        "NewTools": with_example(object(&["tools"], &json!({"tools": tools})), json!({"tools": [search]})),
        "Session": object(&["session", "run", "agent", "policy", "imports", "limits", "scratch"], &json!({
            "session": name(), "run": name(), "agent": name(), "policy": reference("Digest"),
            "imports": list(&text("a module that may be imported")),
            "limits": {"type": ["object", "null"], "description": "bounds of one execution; null when no code may run"},
            "scratch": {"type": ["string", "null"], "description": "where a program finds the session's own folder; null when the policy gives none"},
        })),
        "Run": object(&["run"], &json!({"run": name()})),
        "Files": object(&["files"], &json!({"files": list(&reference("File"))})),
        "File": object(&["path", "bytes", "digest"], &json!({
            "path": text("below the session's folder, `/` between the parts"),
            "bytes": {"type": "integer", "minimum": 0},
            "digest": {"oneOf": [reference("Digest"), {"type": "null"}], "description": "null for a file that was removed"},
        })),
    })
}

fn kept() -> Value {
    let number = json!({"type": "integer", "minimum": 0});
    let point =
        json!({"id": {"type": "string"}, "at": number, "steps": number, "bytes": number, "after": {"type": "string"}});
    let needed = ["session", "run", "agent", "policy", "imports", "limits", "scratch", "checkpoint"];
    json!({
        "Checkpoint": object(&["id", "at", "steps", "bytes"], &point),
        "Checkpoints": object(&["checkpoints"], &json!({"checkpoints": list(&reference("Checkpoint"))})),
        "ToCheckpoint": with_example(
            object(&[], &json!({"checkpoint": {"type": "string", "description": "its id; the newest one when absent"}})),
            json!({"checkpoint": "0123456789abcdef0123456789abcdef"}),
        ),
        "Forked": object(&needed, &json!({
            "session": name(), "run": name(), "agent": name(), "policy": reference("Digest"),
            "imports": list(&text("a module that may be imported")), "limits": {"type": ["object", "null"]}, "scratch": {"type": ["string", "null"]},
            "checkpoint": reference("Checkpoint"),
        })),
        "KeptSessions": object(&["sessions"], &json!({"sessions": list(&object(
            &["session", "org", "agent", "guest", "open", "live", "steps", "memory_bytes", "checkpoints"],
            &json!({
                "session": name(), "org": name(), "agent": name(), "guest": name(),
                "open": {"type": "boolean", "description": "it is open here under this id"},
                "live": {"type": "boolean", "description": "its interpreter is in memory, not at rest on disk"},
                "steps": number, "memory_bytes": number, "checkpoints": list(&reference("Checkpoint")),
            }),
        ))})),
    })
}

fn execution() -> Value {
    let error =
        object(&["type", "message"], &json!({"type": text("the exception's type"), "message": text("its message")}));
    let guest = json!({"type": ["object", "null"], "description": "type, message and traceback of an error"});
    let status = json!({"type": "string", "enum": ["done", "failed", "exhausted", "denied", "broken"]});
    let tool = object(
        &["event", "execution", "call", "tool", "args"],
        &json!({
            "event": {"const": "tool"}, "execution": name(), "call": name(), "tool": name(), "args": {"type": "object"},
        }),
    );
    let done = json!({
        "event": {"const": "done"}, "execution": name(), "status": status, "output": reference("Tagged"),
        "logs": text("what was printed"), "is_final": {"type": "boolean"}, "error": guest,
        "denial": {"type": ["string", "null"]}, "reason": {"type": ["string", "null"]}, "replaced": {"type": "boolean"}, "notices": list(&text("something that the agent must be told")),
        "files": list(&reference("File")),
        "tape": {"type": ["string", "null"], "description": "digest of what the execution can be replayed from"},
        "usage": reference("Amounts"), "receipt": {"type": ["string", "null"]},
    });
    let all = [
        "event",
        "execution",
        "status",
        "output",
        "logs",
        "is_final",
        "error",
        "denial",
        "reason",
        "replaced",
        "notices",
        "files",
        "tape",
        "usage",
        "receipt",
    ];
    json!({
        "Execute": with_example(
            object(&["code"], &json!({
                "code": {"type": "string", "maxLength": Limits::CODE_BYTES},
                "variables": {"type": "object", "additionalProperties": reference("Tagged")},
                "language": {"type": "string", "default": "python",
                    "description": "the guest that runs it: python, javascript, python-numpy; an unknown one is refused with those that there are, the policy says which may be used"},
                "execution": {"type": "string", "pattern": "^[0-9a-f]{32}$",
                    "description": "an id drawn by the client, to cancel by before the first event; taken once"},
            })),
            json!({"code": "x + 1", "variables": {"x": 1}, "language": "python"}),
        ),
        "Resume": with_example(
            object(&["call"], &json!({"call": name(), "value": reference("Tagged"), "error": error})),
            json!({"call": "0123456789abcdef0123456789abcdef.0", "value": {"$": ["tuple", [1, 2]]}}),
        ),
        "ToolEvent": tool,
        "DoneEvent": object(&all, &done),
        "Event": {"oneOf": [reference("ToolEvent"), reference("DoneEvent")]},
    })
}

fn hosted() -> Value {
    let actions: Vec<&str> =
        Action::ALL.iter().filter(|action| elsewhere(**action).is_none()).map(|action| action.word()).collect();
    let digest = "sha256:0000000000000000000000000000000000000000000000000000000000000000";
    let id = "0123456789abcdef0123456789abcdef";
    json!({
        "Decide": with_example(
            object(&["session", "action", "resource"], &json!({
                "session": name(), "action": {"type": "string", "enum": actions}, "resource": name(), "args": {"type": "object"},
                "registry": name(), "revision": name(), "digest": reference("Digest"),
            })),
            json!({"session": id, "action": "package.fetch", "resource": "owner/name", "args": {},
                "registry": "hub", "revision": "1.0", "digest": digest}),
        ),
        "Decided": object(&["call", "effect", "denial", "reason", "receipt"], &json!({
            "call": name(), "effect": {"type": "string", "enum": ["allow", "deny"]},
            "denial": {"type": ["string", "null"]}, "reason": {"type": ["string", "null"]}, "receipt": {"type": ["string", "null"]},
        })),
        "Outcome": with_example(
            object(&["call", "status"], &json!({
                "call": name(), "status": {"type": "string", "enum": ["done", "failed", "unknown"]},
                "usage": reference("Amounts"), "result_digest": reference("Digest"),
            })),
            json!({"call": id, "status": "done", "usage": {"tokens": 42}, "result_digest": digest}),
        ),
        "Recorded": object(&["receipt"], &json!({"receipt": name()})),
    })
}

fn evaluation() -> Value {
    let entity = |about: &str| {
        let properties = json!({"type": {"type": "string", "description": about}, "id": {"type": "string"}, "properties": {"type": "object"}});
        object(&["type", "id"], &properties)
    };
    let types: Vec<String> =
        Action::ALL.iter().map(|action| format!("{} for {}", resource_type(*action), action.word())).collect();
    let words: Vec<&str> = Action::ALL.iter().map(|action| action.word()).collect();
    let tried = json!({"type": "tool", "id": "search", "properties": {}});
    json!({
        "Evaluation": with_example(
            object(&["subject", "action", "resource"], &json!({
                "subject": entity("agent"),
                "action": object(&["name"], &json!({"name": {"type": "string", "enum": words}, "properties": {"type": "object"}})),
                "resource": entity(&types.join(", ")),
                "context": object(&[], &json!({"args": {"type": "object"}, "session": name()})),
            })),
            json!({"subject": {"type": "agent", "id": "local", "properties": {}}, "action": {"name": "tool.call", "properties": {}},
                "resource": tried, "context": {"args": {"query": "weirs"}, "session": "0123456789abcdef0123456789abcdef"}}),
        ),
        "Evaluated": object(&["decision"], &json!({
            "decision": {"type": "boolean"},
            "context": {"type": "object", "required": ["effect", "reason"], "properties": {
                "effect": {"type": "string", "enum": ["allow", "ask", "deny"]}, "reason": reference("ReasonCode"),
                "rule": {"type": ["string", "null"]}, "answers": list(&text("a threat")), "detail": {"type": "string"},
                "instead": {"type": "string"}, "reserve": reference("Amounts"), "policy": reference("Digest"),
            }},
        })),
    })
}

fn budgets() -> Value {
    let number = json!({"type": "integer", "minimum": 0});
    let limit = object(
        &["budget", "kind", "window", "limit", "remaining", "forecast_ms"],
        &json!({
            "budget": {"type": "string"}, "kind": {"type": "string"}, "window": text("over which time it counts"),
            "limit": number, "remaining": number,
            "forecast_ms": {"type": ["integer", "null"], "description": "at the rate of the last minutes, how long until nothing is left"},
        }),
    );
    let closed = object(
        &["revoked", "by", "since"],
        &json!({"revoked": {"type": "boolean"}, "by": {"type": "string"}, "since": number}),
    );
    let tiers: Vec<&str> = Tier::ALL.iter().map(|tier| tier.word()).collect();
    let line = object(
        &["account", "tier", "posted", "pending", "limits", "closed"],
        &json!({
            "account": {"type": "string"}, "tier": {"type": "string", "enum": tiers},
            "posted": reference("Amounts"), "pending": reference("Amounts"), "limits": list(&limit),
            "closed": {"oneOf": [closed, {"type": "null"}], "description": "that it is frozen or revoked"},
        }),
    );
    let doubt = object(&["call", "posted"], &json!({"call": name(), "posted": reference("Amounts")}));
    let account = text("an account's id, as GET /v1/budgets gives it");
    json!({
        "Budgets": object(&["at", "accounts", "doubts", "policy"], &json!({
            "at": number, "accounts": list(&line), "doubts": list(&doubt),
            "policy": {"oneOf": [reference("Digest"), {"type": "null"}]},
        })),
        "Raise": with_example(
            object(&["budget", "account", "by"], &json!({
                "budget": {"type": "string"}, "account": account, "by": {"type": "integer", "minimum": 1},
            })),
            json!({"budget": "money", "account": "acme/coder", "by": 500_000}),
        ),
        "OnAccount": with_example(object(&["account"], &json!({"account": account})), json!({"account": "acme/coder"})),
        "Ordered": object(&["reach"], &json!({
            "reach": {"enum": ["gate", "gates"], "description": "every gate that shares its budgets, or this one, which shares none"},
        })),
        "Reconcile": with_example(
            object(&["call", "used"], &json!({"call": name(), "used": reference("Amounts")})),
            json!({"call": "0123456789abcdef0123456789abcdef", "used": {"micro_usd": 120}}),
        ),
        "Reconciled": object(&["posted"], &json!({"posted": reference("Amounts")})),
    })
}

fn reading() -> Value {
    json!({
        "Receipt": {"type": "object", "required": ["receipt_id"], "description": "a signed receipt (docs/audit-format.md)"},
        "Receipts": object(&["receipts"], &json!({"receipts": list(&reference("Receipt"))})),
        "Scores": object(&["policy", "factors"], &json!({
            "policy": name(),
            "factors": list(&json!({"type": "object", "required": ["factor", "declared", "permitted", "observed", "interval", "n", "status"]})),
        })),
    })
}

fn approvals() -> Value {
    let tranche = object(
        &["budget", "account", "by"],
        &json!({"budget": {"type": "string"}, "account": {"type": "string"}, "by": reference("Amounts")}),
    );
    let needed = [
        "id",
        "agent",
        "session",
        "action",
        "resource",
        "args",
        "why",
        "digest",
        "approvable",
        "notes",
        "raise",
        "attended",
        "expires_in_ms",
        "link",
    ];
    let entry = object(
        &needed,
        &json!({
            "id": name(), "agent": name(), "session": name(), "action": {"type": "string"}, "resource": name(),
            "args": text("indented JSON, escaped"), "why": {"type": "string"}, "digest": reference("Digest"),
            "approvable": {"type": "boolean"}, "notes": list(&json!({"type": "string"})),
            "raise": {"oneOf": [tranche, {"type": "null"}], "description": "at a budget's cap, what a plain yes adds"},
            "attended": {"type": "boolean", "description": "a call waits for it now; otherwise the answer waits for the call"},
            "expires_in_ms": {"type": "integer"},
            "link": {"type": ["string", "null"], "description": "path and query of a page that answers it without a token"},
        }),
    );
    json!({
        "Approvals": object(&["approvals"], &json!({"approvals": list(&entry)})),
        "Verdict": with_example(
            object(&["approve"], &json!({
                "approve": {"type": "boolean"},
                "add": {"type": "integer", "minimum": 1, "description": "at a budget's cap: add this much instead"},
            })),
            json!({"approve": true, "add": 5}),
        ),
    })
}

/// The meaning of a reason code, for the page.
pub(super) fn reasons() -> impl Iterator<Item = (&'static str, &'static str)> {
    let internal = |code: &ReasonCode| *code == ReasonCode::Allowed;
    REASONS.iter().filter(move |row| !internal(&row.code)).map(|row| (row.name, row.about))
}

#[cfg(test)]
mod tests {
    use super::super::body::parse;
    use super::super::{approvals::Verdict, authzen::Evaluation, budgets, decide, execute, keep, session};
    use super::*;

    /// Reads the example of schema `name` as a `T`.
    fn read<T: serde::de::DeserializeOwned>(name: &str) -> Result<T, String> {
        let all = schemas();
        let example = &all[name]["examples"][0];
        let properties = all[name]["properties"].as_object().unwrap();
        // What excludes something else that is there.
        let without = [("Resume", "error"), ("NewSession", "resume"), ("Execute", "execution")];
        for key in properties.keys().filter(|key| !without.contains(&(name, key.as_str()))) {
            assert!(example.get(key).is_some(), "the example of {name} lacks {key}");
        }
        parse::<T>(example.to_string().as_bytes()).map_err(|refusal| format!("{name}: {}", refusal.message))
    }

    #[test]
    fn what_is_described_is_accepted() {
        read::<session::NewSession>("NewSession").map(drop).unwrap();
        read::<session::NewTools>("NewTools").map(drop).unwrap();
        read::<session::Nothing>("Nothing").map(drop).unwrap();
        read::<execute::Execute>("Execute").map(drop).unwrap();
        read::<execute::Resume>("Resume").map(drop).unwrap();
        read::<decide::Decide>("Decide").map(drop).unwrap();
        read::<decide::Report>("Outcome").map(drop).unwrap();
        read::<Evaluation>("Evaluation").map(drop).unwrap();
        read::<Verdict>("Verdict").map(drop).unwrap();
        read::<budgets::Raise>("Raise").map(drop).unwrap();
        read::<budgets::OnAccount>("OnAccount").map(drop).unwrap();
        read::<budgets::Reconcile>("Reconcile").map(drop).unwrap();
        read::<keep::ToPoint>("ToCheckpoint").map(drop).unwrap();
    }
}
