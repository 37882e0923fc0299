//! `[[tool]]`, `[tool.args.NAME]` and `[tool.cost]`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::super::reader::{Fields, shown};
use super::super::{ArgRule, ArgType, Cost, Tool};
use super::{Unique, check_known};
use crate::model::{Amounts, EffectClass, KINDS, Kind, Limits};

/// Words of [`EffectClass`].
pub(super) const EFFECTS: [(&str, EffectClass); 5] = [
    ("read", EffectClass::Read),
    ("write", EffectClass::Write),
    ("exec", EffectClass::Exec),
    ("network", EffectClass::Network),
    ("spend", EffectClass::Spend),
];

/// Words of [`ArgType`].
const TYPES: [(&str, ArgType); 8] = [
    ("string", ArgType::String),
    ("integer", ArgType::Integer),
    ("number", ArgType::Number),
    ("boolean", ArgType::Boolean),
    ("array", ArgType::Array),
    ("object", ArgType::Object),
    ("handle", ArgType::Handle),
    ("any", ArgType::Any),
];

pub(super) fn read(root: &Fields<'_, '_>, labels: &BTreeSet<String>) -> BTreeMap<String, Tool> {
    let tables = root.tables("tool", "[[tool]]");
    if tables.len() > Limits::TOOLS {
        root.fault(1, format!("{} tools are over the limit of {}", tables.len(), Limits::TOOLS));
    }
    let mut unique = Unique::new("the tool");
    let mut tools = BTreeMap::new();
    for fields in tables {
        if let Some(tool) = read_tool(&fields, labels, &mut unique) {
            tools.insert(tool.name.clone(), tool);
        }
    }
    tools
}

fn read_tool(fields: &Fields<'_, '_>, labels: &BTreeSet<String>, unique: &mut Unique) -> Option<Tool> {
    let name = fields.need_name("name");
    if let Some(name) = &name {
        unique.check(fields, name.value.as_str(), name.line);
    }
    let effect = fields.need_word("effect", &EFFECTS);
    let shell = fields.text("shell");
    let args = fields.table("args", "[tool.args]").map(|args| read_args(&args)).unwrap_or_default();
    let extra_args = fields.flag("extra_args").unwrap_or(false);
    let cost = fields.table("cost", "[tool.cost]").map(|cost| read_cost(&cost)).unwrap_or_default();
    let given = fields.names("labels");
    check_known(fields, &given, labels, "label");
    let answers = fields.threats("answers");
    fields.end();
    if let Some(shell) = &shell {
        check_shell(fields, &shell.value, shell.line, &args);
    }
    Some(Tool {
        name: name?.value.as_str().to_owned(),
        effect: effect?,
        shell: shell.map(|shell| shell.value),
        args,
        extra_args,
        cost,
        labels: given.into_iter().map(|label| label.value).collect(),
        answers,
        line: fields.line,
    })
}

/// The argument of a command line has a row, so that a person sees it, and is there.
fn check_shell(fields: &Fields<'_, '_>, shell: &str, line: usize, args: &BTreeMap<String, ArgRule>) {
    let fits = |rule: &ArgRule| rule.required && matches!(rule.kind, ArgType::String | ArgType::Array);
    if !args.get(shell).is_some_and(fits) {
        let wanted = format!("[tool.args.{shell}] with type `string` (or `array`, for words) and `required = true`");
        fields.fault(line, format!("`shell` names the argument that is a command line; it needs {wanted}"));
    }
}

fn read_cost(fields: &Fields<'_, '_>) -> Cost {
    let mut amounts = Amounts::ZERO;
    for row in &KINDS {
        if let Some(amount) = fields.whole(row.name, 0..=i64::MAX as u64) {
            if matches!(row.kind, Kind::Calls | Kind::ToolCalls) {
                fields.fault(fields.line, format!("`{}` is counted by itself; leave it out of the cost", row.name));
            }
            amounts.set(row.kind, amount);
        }
    }
    fields.end();
    Cost(amounts)
}

fn read_args(fields: &Fields<'_, '_>) -> BTreeMap<String, ArgRule> {
    let mut args = BTreeMap::new();
    for key in fields.keys() {
        if key.value.is_empty() || key.value.len() > Limits::NAME_BYTES {
            fields.fault(key.line, format!("an argument's name has 1 to {} bytes", Limits::NAME_BYTES));
        }
        let what = format!("[tool.args.{}]", shown(&key.value));
        if let Some(rule) = fields.table(&key.value, &what).and_then(|table| read_arg(&table)) {
            args.insert(key.value, rule);
        }
    }
    args
}

fn read_arg(fields: &Fields<'_, '_>) -> Option<ArgRule> {
    let kind = fields.need_word("type", &TYPES);
    let required = fields.flag("required").unwrap_or(false);
    let (min, max) = (fields.number("min"), fields.number("max"));
    let max_len = fields.whole("max_len", 0..=Limits::JSON_BYTES as u64);
    let one_of = fields.json("one_of");
    let path_within = fields.texts("path_within");
    let host_in = fields.texts("host_in");
    fields.end();
    let kind = kind?;
    let wrong = |field: &str, wanted: &str| {
        fields.fault(fields.line, format!("`{field}` in {} needs type {wanted}", fields.what));
    };
    if (min.is_some() || max.is_some()) && !matches!(kind, ArgType::Integer | ArgType::Number) {
        wrong("min` or `max", "`integer` or `number`");
    }
    if max_len.is_some() && !matches!(kind, ArgType::String | ArgType::Array | ArgType::Object) {
        wrong("max_len", "`string`, `array` or `object`");
    }
    if (!path_within.is_empty() || !host_in.is_empty()) && kind != ArgType::String {
        wrong("path_within` or `host_in", "`string`");
    }
    if !path_within.is_empty() && !host_in.is_empty() {
        fields.fault(fields.line, format!("{} is a path or a URL, not both", fields.what));
    }
    if let (Some(min), Some(max)) = (&min, &max)
        && min.value > max.value
    {
        fields.fault(max.line, format!("`min` is above `max` in {}", fields.what));
    }
    for path in path_within.iter().filter(|path| !is_normal_path(&path.value)) {
        let wanted = "an absolute folder without `.`, `..`, `//` or a final `/`";
        fields
            .fault(path.line, format!("`path_within` in {} holds {wanted}, not `{}`", fields.what, shown(&path.value)));
    }
    for host in host_in.iter().filter(|host| !is_host(&host.value)) {
        let wanted = "host names in lower case, `*.` before one for its subdomains";
        fields.fault(host.line, format!("`host_in` in {} holds {wanted}, not `{}`", fields.what, shown(&host.value)));
    }
    let one_of = one_of.map(|value| read_one_of(fields, value.value, value.line, kind)).unwrap_or_default();
    let texts = |list: Vec<super::At<String>>| list.into_iter().map(|text| text.value).collect();
    Some(ArgRule {
        kind,
        required,
        min: min.map(|n| n.value),
        max: max.map(|n| n.value),
        max_len,
        one_of,
        path_within: texts(path_within),
        host_in: texts(host_in),
    })
}

fn read_one_of(fields: &Fields<'_, '_>, value: Value, line: usize, kind: ArgType) -> Vec<Value> {
    let Value::Array(values) = value else {
        fields.fault(line, format!("`one_of` in {} is an array", fields.what));
        return Vec::new();
    };
    if values.is_empty() {
        fields.fault(line, format!("`one_of` in {} is empty and would permit nothing", fields.what));
    }
    for value in values.iter().filter(|value| !fits(value, kind)) {
        let value = shown(&value.to_string());
        fields.fault(line, format!("`one_of` in {} holds {value}, which is not of its type", fields.what));
    }
    values
}

fn fits(value: &Value, kind: ArgType) -> bool {
    match kind {
        ArgType::String => value.is_string(),
        ArgType::Integer => value.is_i64() || value.is_u64(),
        ArgType::Number => value.is_number(),
        ArgType::Boolean => value.is_boolean(),
        ArgType::Array => value.is_array(),
        ArgType::Object => value.is_object(),
        ArgType::Handle => false,
        ArgType::Any => true,
    }
}

/// True for `/a/b`; `/` alone is the whole file system and allowed.
pub(super) fn is_normal_path(path: &str) -> bool {
    path == "/"
        || path.strip_prefix('/').is_some_and(|rest| {
            !path.contains('\0') && rest.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
        })
}

fn is_host(host: &str) -> bool {
    let name = host.strip_prefix("*.").unwrap_or(host);
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
    };
    name.len() <= 253 && name.split('.').all(label)
}
