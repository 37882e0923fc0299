//! Claude Code's `managed-settings.json` and `settings.json`, and Codex's `hooks.json`, which has the same form.

use serde_json::{Map, Value, json};

use super::{Wish, ours};
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
pub(super) fn merged(text: Option<&str>, command: &str, wish: &Wish, managed: bool) -> Result<String, String> {
    let mut settings = object(text)?;
    hooks(&mut settings, command, wish, &EVENTS)?;
    if managed {
        settings.insert("allowManagedHooksOnly".to_owned(), json!(true));
        let permissions = settings.entry("permissions").or_insert_with(|| json!({}));
        let permissions = permissions.as_object_mut().ok_or("its `permissions` is not an object")?;
        permissions.insert("disableBypassPermissionsMode".to_owned(), json!("disable"));
    }
    Ok(written(&settings))
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
