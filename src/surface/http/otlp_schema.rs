//! The schemas of telemetry: the parts of OTLP that are read, what is answered, and the reconciliation.

use serde_json::{Value, json};

use super::schema::{object, text, with_example};

/// `Logs`, `Metrics`, `Spans`, their answers, and `Reconciliation`.
pub(super) fn telemetry() -> Value {
    let envelope = |list: &str, about: &str| json!({"type": "object", "description": about, "properties": {list: {"type": "array", "items": {"type": "object"}}}});
    let number = json!({"type": "integer", "minimum": 0});
    let tokens = json!({"requests": number, "tokens_in": number, "tokens_out": number});
    let difference = object(&["requests", "tokens_in", "tokens_out"], &tokens);
    let states = ["agrees", "differs", "past_the_gate", "bypassed", "not_metered"];
    let session = json!({
        "type": "object",
        "required": ["session", "client", "state", "reported", "metered", "excess", "missing", "tools", "closed"],
        "properties": {
            "session": {"type": "string"}, "client": {"type": "string"}, "state": {"enum": states},
            "reported": {"type": "object", "description": "by the client: requests, tokens_in, tokens_out, micro_usd, and unpriced requests of whose cost it said nothing"},
            "metered": {"type": "object", "description": "by the gate's proxies: requests, unknown (of them, with an unknown outcome), tokens_in, tokens_out, micro_usd"},
            "excess": {"description": "reported and not metered", "allOf": [difference]},
            "missing": {"description": "metered and not reported", "allOf": [difference]},
            "tools": {"type": "object", "description": "results; of them unhooked (the client has no hook for them), unproven (may never have run), bypasses"},
            "closed": {"type": ["string", "null"], "enum": ["frozen", "revoked", null]},
        },
    });
    let taken = |key: &str| {
        let part = object(
            &[key, "errorMessage"],
            &json!({key: text("how many were not taken, in digits"), "errorMessage": {"type": "string"}}),
        );
        object(&[], &json!({"partialSuccess": part}))
    };
    json!({
        "Logs": with_example(envelope("resourceLogs", "OTLP/HTTP JSON; unknown fields are passed over"), logs()),
        "Metrics": with_example(envelope("resourceMetrics", "OTLP/HTTP JSON; unknown fields are passed over"), metrics()),
        "Spans": envelope("resourceSpans", "not taken"),
        "LogsTaken": taken("rejectedLogRecords"),
        "MetricsTaken": taken("rejectedDataPoints"),
        "Reconciliation": object(&["since_ms", "metered_clients", "sessions", "untold"], &json!({
            "since_ms": {"type": "integer", "description": "what clients told before this time is forgotten"},
            "metered_clients": {"type": "array", "items": {"type": "string"}, "description": "clients of which a generation that was not metered went past the gate"},
            "sessions": {"type": "array", "items": session},
            "untold": {"type": "object", "description": "metered sessions of which no client has told: sessions, requests, micro_usd"},
        })),
    })
}

fn logs() -> Value {
    let of = |key: &str, value: &str| json!({"key": key, "value": {"stringValue": value}});
    let attributes = [
        of("event.name", "tool_result"),
        of("session.id", "0d9fc8a2-7a52-4f0b-9f0c-0a3c2f1f7c11"),
        of("tool_name", "Bash"),
        of("tool_use_id", "toolu_01"),
    ];
    let record = json!({"timeUnixNano": "1795308463964000000", "attributes": attributes});
    json!({"resourceLogs": [{"scopeLogs": [{"logRecords": [record]}]}]})
}

fn metrics() -> Value {
    let session = json!({"key": "session.id", "value": {"stringValue": "0d9fc8a2-7a52-4f0b-9f0c-0a3c2f1f7c11"}});
    let point = json!({"timeUnixNano": "1795308464359000000", "asDouble": 0.007, "attributes": [session]});
    let sum = json!({"aggregationTemporality": 1, "isMonotonic": true, "dataPoints": [point]});
    json!({"resourceMetrics": [{"scopeMetrics": [{"metrics": [{"name": "claude_code.cost.usage", "sum": sum}]}]}]})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::surface::hook::Client;
    use crate::surface::otlp::{What, logs, read, read_sum, sums, wanted};

    #[test]
    fn what_is_described_is_read() {
        let all = telemetry();
        let walked = logs(&all["Logs"]["examples"][0]).unwrap();
        let claim = read(Client::ClaudeCode, &walked.records[0]).unwrap().unwrap();
        assert!(matches!(claim.what, What::Ran { hooked: true, doubtful: false, .. }));
        let walked = sums(&all["Metrics"]["examples"][0], &wanted()).unwrap();
        let claim = read_sum(&walked.records[0]).unwrap();
        assert!(matches!(claim.what, What::Generated(usage) if usage.micro_usd == 7_000));
    }
}
