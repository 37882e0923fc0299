//! Codex's `requirements.toml`, which the agent cannot override. Comments of an existing file are not kept in the new one;
//! they are in the record that takes the change back.

use toml::{Table, Value};

use super::{Wish, ours};

/// Events for which the hook runs, and whether they are about a tool.
const EVENTS: [(&str, bool); 4] =
    [("PreToolUse", true), ("PostToolUse", true), ("SessionStart", false), ("SessionEnd", false)];
/// Seconds beyond what a person may take, before the client gives the hook up.
const MARGIN: u64 = 20;

/// The requirements with the hooks, and no others.
pub(super) fn merged(text: Option<&str>, command: &str, wish: &Wish) -> Result<String, String> {
    let parsed = text.unwrap_or_default().parse::<Table>();
    let mut settings = parsed.map_err(|error| format!("it is not TOML ({})", error.message()))?;
    settings.insert("allow_managed_hooks_only".to_owned(), Value::Boolean(true));
    table(&mut settings, "features")?.insert("hooks".to_owned(), Value::Boolean(true));
    let hooks = table(&mut settings, "hooks")?;
    if !hooks.contains_key("managed_dir") {
        let folder = wish.program.parent().and_then(|folder| folder.to_str()).unwrap_or("/");
        hooks.insert("managed_dir".to_owned(), Value::String(folder.to_owned()));
    }
    for (event, of_tool) in EVENTS {
        let groups = hooks.entry(event).or_insert_with(|| Value::Array(Vec::new()));
        let groups = groups.as_array_mut().ok_or_else(|| format!("its `hooks.{event}` is not an array"))?;
        groups.retain(|group| !is_ours(group, wish));
        groups.push(group(command, wish, of_tool)?);
    }
    toml::to_string(&settings).map_err(|error| format!("it cannot be written again ({error})"))
}

fn table<'t>(settings: &'t mut Table, key: &str) -> Result<&'t mut Table, String> {
    let value = settings.entry(key).or_insert_with(|| Value::Table(Table::new()));
    value.as_table_mut().ok_or_else(|| format!("its `{key}` is not a table"))
}

fn group(command: &str, wish: &Wish, of_tool: bool) -> Result<Value, String> {
    let timeout = i64::try_from(wish.wait_s + MARGIN).map_err(|_| "the time to wait is too long".to_owned())?;
    let mut handler = Table::new();
    handler.insert("type".to_owned(), Value::String("command".to_owned()));
    handler.insert("command".to_owned(), Value::String(command.to_owned()));
    handler.insert("timeout".to_owned(), Value::Integer(timeout));
    let mut group = Table::new();
    if of_tool {
        group.insert("matcher".to_owned(), Value::String("*".to_owned()));
    }
    group.insert("hooks".to_owned(), Value::Array(vec![Value::Table(handler)]));
    Ok(Value::Table(group))
}

fn is_ours(group: &Value, wish: &Wish) -> bool {
    let mark = ours(wish.client);
    let handlers = group.get("hooks").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let of_us =
        |handler: &Value| handler.get("command").and_then(Value::as_str).is_some_and(|text| text.contains(&mark));
    !handlers.is_empty() && handlers.iter().all(of_us)
}
