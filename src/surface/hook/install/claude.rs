//! Claude Code's `managed-settings.json` and `settings.json`, and Codex's `hooks.json`, which has the same form.

use std::net::SocketAddr;

use serde_json::{Map, Value, json};

use super::{HEADERS, Wish, ours};
use crate::model::parse_json;

/// Events for which the hook runs, and whether they are about a tool.
const EVENTS: [(&str, bool); 5] = [
    ("PreToolUse", true),
    ("PostToolUse", true),
    ("PostToolUseFailure", true),
    ("SessionStart", false),
    ("SessionEnd", false),
];
/// Seconds beyond what a person may take, before the client gives the hook up.
const MARGIN: u64 = 20;

/// The settings with the hooks; managed ones also keep other hooks, and the mode that skips permissions, off.
pub(super) fn merged(
    text: Option<&str>,
    command: &str,
    headers: &str,
    wish: &Wish,
    managed: bool,
) -> Result<String, String> {
    let mut settings = object(text)?;
    hooks(&mut settings, command, wish, &EVENTS)?;
    match wish.telemetry {
        Some(address) => telemetry(&mut settings, address, headers)?,
        None => untold(&mut settings),
    }
    if managed {
        settings.insert("allowManagedHooksOnly".to_owned(), json!(true));
        let permissions = settings.entry("permissions").or_insert_with(|| json!({}));
        let permissions = permissions.as_object_mut().ok_or("its `permissions` is not an object")?;
        permissions.insert("disableBypassPermissionsMode".to_owned(), json!("disable"));
    }
    Ok(written(&settings))
}

/// Variables of telemetry that do not depend on where the gate is. Each signal has its own address, protocol and
/// compression, because those would beat the common ones from a project's settings; contents stay out.
const VARIABLES: [(&str, &str); 14] = [
    ("CLAUDE_CODE_ENABLE_TELEMETRY", "1"),
    ("OTEL_SDK_DISABLED", "false"),
    ("OTEL_LOGS_EXPORTER", "otlp"),
    ("OTEL_METRICS_EXPORTER", "otlp"),
    ("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", "http/json"),
    ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "http/json"),
    ("OTEL_EXPORTER_OTLP_LOGS_COMPRESSION", "none"),
    ("OTEL_EXPORTER_OTLP_METRICS_COMPRESSION", "none"),
    ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta"),
    ("OTEL_METRICS_INCLUDE_SESSION_ID", "true"),
    ("OTEL_LOGS_EXPORT_INTERVAL", "1000"),
    ("OTEL_METRIC_EXPORT_INTERVAL", "10000"),
    ("OTEL_LOG_USER_PROMPTS", "0"),
    ("OTEL_LOG_TOOL_DETAILS", "0"),
];

/// Variables of the addresses, and what the address ends in.
const ENDPOINTS: [(&str, &str); 2] =
    [("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "logs"), ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "metrics")];

/// Has the client tell the gate of itself.
fn telemetry(settings: &mut Map<String, Value>, address: SocketAddr, headers: &str) -> Result<(), String> {
    let variables = settings.entry("env").or_insert_with(|| json!({}));
    let variables = variables.as_object_mut().ok_or("its `env` is not an object")?;
    for (name, value) in VARIABLES {
        variables.insert(name.to_owned(), json!(value));
    }
    for (name, path) in ENDPOINTS {
        variables.insert(name.to_owned(), json!(format!("http://{address}/otlp/claude-code/v1/{path}")));
    }
    settings.insert("otelHeadersHelper".to_owned(), json!(headers));
    Ok(())
}

/// Takes the telemetry of an earlier installation out again.
fn untold(settings: &mut Map<String, Value>) {
    let is_ours = settings.get("otelHeadersHelper").and_then(Value::as_str).is_some_and(|text| text.contains(HEADERS));
    if !is_ours {
        return;
    }
    settings.remove("otelHeadersHelper");
    if let Some(variables) = settings.get_mut("env").and_then(Value::as_object_mut) {
        let ours =
            |name: &str| VARIABLES.iter().any(|(own, _)| *own == name) || ENDPOINTS.iter().any(|(own, _)| *own == name);
        variables.retain(|name, _| !ours(name));
    }
}

/// Codex's own hooks of one user.
pub(super) fn merged_hooks(text: Option<&str>, command: &str, wish: &Wish) -> Result<String, String> {
    let mut settings = object(text)?;
    let events: Vec<(&str, bool)> = EVENTS.into_iter().filter(|(name, _)| *name != "PostToolUseFailure").collect();
    hooks(&mut settings, command, wish, &events)?;
    Ok(written(&settings))
}

fn object(text: Option<&str>) -> Result<Map<String, Value>, String> {
    let Some(text) = text.filter(|text| !text.trim().is_empty()) else { return Ok(Map::new()) };
    match parse_json(text.as_bytes()) {
        Ok(Value::Object(settings)) => Ok(settings),
        Ok(_) => Err("it is not a JSON object".to_owned()),
        Err(fault) => Err(format!("it is not strict JSON ({fault})")),
    }
}

fn hooks(settings: &mut Map<String, Value>, command: &str, wish: &Wish, events: &[(&str, bool)]) -> Result<(), String> {
    let all = settings.entry("hooks").or_insert_with(|| json!({}));
    let all = all.as_object_mut().ok_or("its `hooks` is not an object")?;
    for (event, of_tool) in events {
        let groups = all.entry(*event).or_insert_with(|| json!([]));
        let groups = groups.as_array_mut().ok_or_else(|| format!("its `hooks.{event}` is not an array"))?;
        groups.retain(|group| !is_ours(group, wish));
        let mut handler = json!({"type": "command", "command": command, "timeout": wish.wait_s + MARGIN});
        if *event == "PreToolUse" && wish.client == super::Client::ClaudeCode {
            // Without it a hook that fails lets the tool run.
            handler["onFailure"] = json!("block");
        }
        let mut group = json!({"hooks": [handler]});
        if *of_tool {
            group["matcher"] = json!("*");
        }
        groups.push(group);
    }
    Ok(())
}

fn is_ours(group: &Value, wish: &Wish) -> bool {
    let mark = ours(wish.client);
    let handlers = group["hooks"].as_array().map(Vec::as_slice).unwrap_or_default();
    !handlers.is_empty()
        && handlers.iter().all(|handler| handler["command"].as_str().is_some_and(|text| text.contains(&mark)))
}

fn written(settings: &Map<String, Value>) -> String {
    let mut text = serde_json::to_string_pretty(settings).unwrap_or_default();
    text.push('\n');
    text
}
