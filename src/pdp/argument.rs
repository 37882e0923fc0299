//! Constraints on a tool's arguments: types, ranges, lengths, choices, paths, hosts.
//!
//! Arguments arrive in the tagged form of `docs/protocol.md` and are checked as they will be
//! forwarded. Paths and hosts are compared after normalisation; what cannot be normalised fails.

use std::cmp::Ordering;

use serde_json::{Map, Value};

use crate::policy::{ArgRule, ArgType, Tool};

/// What is wrong with `args` for `tool`, and what would be right.
pub(super) fn fault(tool: &Tool, args: &Map<String, Value>) -> Option<(String, String)> {
    for (name, rule) in &tool.args {
        if rule.required && !args.contains_key(name) {
            return Some((format!("argument `{name}` is missing"), expected(name, rule)));
        }
    }
    for (name, value) in args {
        let Some(rule) = tool.args.get(name) else {
            if tool.extra_args {
                continue;
            }
            let known: Vec<&str> = tool.args.keys().map(String::as_str).collect();
            return Some((
                format!("`{}` has no argument `{name}`", tool.name),
                format!("arguments {}", known.join(", ")),
            ));
        };
        if let Some(detail) = broken(name, rule, value) {
            return Some((detail, expected(name, rule)));
        }
    }
    None
}

fn broken(name: &str, rule: &ArgRule, value: &Value) -> Option<String> {
    if !is_type(rule.kind, value) {
        return Some(format!("argument `{name}` is not of type {}", word(rule.kind)));
    }
    if !rule.one_of.is_empty() && !rule.one_of.contains(value) {
        return Some(format!("argument `{name}` is not one of the permitted values"));
    }
    let below = rule.min.is_some_and(|min| !matches!(against(value, min), Some(Ordering::Greater | Ordering::Equal)));
    let above = rule.max.is_some_and(|max| !matches!(against(value, max), Some(Ordering::Less | Ordering::Equal)));
    if below || above {
        return Some(format!("argument `{name}` is out of range"));
    }
    if rule.max_len.is_some_and(|max| length(value).is_none_or(|length| length > max)) {
        return Some(format!("argument `{name}` is too long"));
    }
    if !rule.path_within.is_empty() && !value.as_str().is_some_and(|path| within(path, &rule.path_within)) {
        return Some(format!("argument `{name}` is a path outside the permitted folders"));
    }
    if !rule.host_in.is_empty() && !value.as_str().is_some_and(|url| host_in(url, &rule.host_in)) {
        return Some(format!("argument `{name}` names a host that is not permitted"));
    }
    None
}

/// How a number stands to `bound`, exactly: a large integer is not rounded to the bound first.
/// `None` for what is no number, and for a bound that is none.
fn against(value: &Value, bound: f64) -> Option<Ordering> {
    let Some(whole) = value.as_i64().map(i128::from).or_else(|| value.as_u64().map(i128::from)) else {
        return value.as_f64()?.partial_cmp(&bound);
    };
    if bound.is_nan() {
        return None;
    }
    #[expect(clippy::cast_possible_truncation, reason = "saturates beyond every 64-bit integer")]
    let floor = bound.floor() as i128;
    let fraction = if bound.fract() == 0.0 { Ordering::Equal } else { Ordering::Less };
    Some(whole.cmp(&floor).then(fraction))
}

fn is_type(kind: ArgType, value: &Value) -> bool {
    let tag = |tags: &[&str]| {
        let tagged =
            value.as_object().filter(|map| map.len() == 1).and_then(|map| map.get("$")).and_then(Value::as_array);
        tagged.and_then(|parts| parts.first()).and_then(Value::as_str).is_some_and(|tag| tags.contains(&tag))
    };
    match kind {
        ArgType::Any => true,
        ArgType::String => value.is_string(),
        ArgType::Integer => value.is_i64() || value.is_u64(),
        ArgType::Number => value.is_number(),
        ArgType::Boolean => value.is_boolean(),
        ArgType::Array => value.is_array() || tag(&["tuple", "set", "frozenset"]),
        ArgType::Object => value.as_object().is_some_and(|map| !map.contains_key("$")) || tag(&["dict"]),
        ArgType::Handle => tag(&["handle"]),
    }
}

fn length(value: &Value) -> Option<u64> {
    match value {
        Value::String(text) => Some(text.len() as u64),
        Value::Array(items) => Some(items.len() as u64),
        Value::Object(map) => match map.get("$").and_then(Value::as_array).and_then(|parts| parts.get(1)) {
            Some(inner) => length(inner),
            None => Some(map.len() as u64),
        },
        Value::Null | Value::Bool(_) | Value::Number(_) => None,
    }
}

/// Whether the absolute path `path` stays within one of `folders` without any `..`, `.`, empty
/// part, backslash or NUL: a path that needs interpreting is not within anything.
fn within(path: &str, folders: &[String]) -> bool {
    let Some(rest) = path.strip_prefix('/') else { return false };
    let plain = !path.contains(['\\', '\0'])
        && rest.trim_end_matches('/').split('/').all(|part| !matches!(part, "" | "." | ".."));
    plain
        && folders.iter().any(|folder| {
            let folder = folder.trim_end_matches('/');
            path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
}

/// Whether the host of `url` is one of `hosts`. Only `http` and `https` URLs in plain form: user
/// info, backslashes, control characters, percent signs or non-ASCII in the authority fail.
fn host_in(url: &str, hosts: &[String]) -> bool {
    let Some(host) = host_of(url) else { return false };
    hosts.iter().any(|known| match known.strip_prefix("*.") {
        Some(parent) => host.strip_suffix(parent).is_some_and(|head| head.ends_with('.') && head.len() > 1),
        None => host == *known,
    })
}

fn host_of(url: &str) -> Option<String> {
    if url.chars().any(|c| c.is_control() || c == '\\' || c.is_whitespace()) {
        return None;
    }
    let (scheme, rest) = url.split_once("://")?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return None;
    }
    let authority = rest.split(['/', '?', '#']).next()?;
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => host,
        Some(_) => return None,
        None => authority,
    };
    let plain = !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'-');
    plain.then(|| host.trim_end_matches('.').to_ascii_lowercase())
}

const fn word(kind: ArgType) -> &'static str {
    match kind {
        ArgType::String => "string",
        ArgType::Integer => "integer",
        ArgType::Number => "number",
        ArgType::Boolean => "boolean",
        ArgType::Array => "array",
        ArgType::Object => "object",
        ArgType::Handle => "handle",
        ArgType::Any => "any",
    }
}

fn expected(name: &str, rule: &ArgRule) -> String {
    let mut parts = vec![word(rule.kind).to_owned()];
    match (rule.min, rule.max) {
        (Some(min), Some(max)) => parts.push(format!("from {min} to {max}")),
        (Some(min), None) => parts.push(format!("at least {min}")),
        (None, Some(max)) => parts.push(format!("at most {max}")),
        (None, None) => {}
    }
    if let Some(max) = rule.max_len {
        parts.push(format!("at most {max} long"));
    }
    if !rule.one_of.is_empty() {
        let values: Vec<String> = rule.one_of.iter().take(8).map(Value::to_string).collect();
        parts.push(format!("one of {}", values.join(", ")));
    }
    if !rule.path_within.is_empty() {
        parts.push(format!("an absolute path within {}", rule.path_within.join(", ")));
    }
    if !rule.host_in.is_empty() {
        parts.push(format!("a URL of host {}", rule.host_in.join(", ")));
    }
    format!("`{name}`: {}", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_stand_to_a_bound_exactly() {
        use Ordering::{Equal, Greater, Less};
        let edge = 9_007_199_254_740_992.0;
        for (value, bound, order) in [
            (json!(9_007_199_254_740_993_u64), edge, Greater),
            (json!(9_007_199_254_740_992_u64), edge, Equal),
            (json!(-9_007_199_254_740_993_i64), -edge, Less),
            (json!(u64::MAX), 18_446_744_073_709_551_615.0, Less),
            (json!(u64::MAX), f64::INFINITY, Less),
            (json!(i64::MIN), f64::NEG_INFINITY, Greater),
            (json!(2), 2.5, Less),
            (json!(3), 2.5, Greater),
            (json!(-2), -2.5, Greater),
            (json!(-3), -2.5, Less),
            (json!(2.25), 2.5, Less),
            (json!(2.5), 2.5, Equal),
        ] {
            assert_eq!(against(&value, bound), Some(order), "{value} against {bound}");
        }
        assert_eq!(against(&json!(1), f64::NAN), None);
        assert_eq!(against(&json!("1"), 1.0), None);
    }

    #[test]
    fn paths_that_need_interpreting_are_within_nothing() {
        let folders = vec!["/data".to_owned(), "/srv/out/".to_owned()];
        for good in ["/data", "/data/", "/data/a/b.txt", "/srv/out/x"] {
            assert!(within(good, &folders), "{good}");
        }
        for bad in ["", "data/a", "/database", "/data/../etc", "/data/./a", "/data//a", "/data\\..", "/data/a\0", "/"] {
            assert!(!within(bad, &folders), "{bad}");
        }
    }

    #[test]
    fn only_plain_urls_have_a_host() {
        let hosts = vec!["example.test".to_owned(), "*.docs.test".to_owned()];
        for good in
            ["https://example.test", "HTTP://EXAMPLE.test:8080/a?b", "https://a.docs.test/x", "https://example.test./"]
        {
            assert!(host_in(good, &hosts), "{good}");
        }
        for bad in [
            "example.test",
            "ftp://example.test",
            "https://example.test@evil.test",
            "https://evil.test/example.test",
            "https://example.test.evil.test",
            "https://docs.test",
            "https://.docs.test",
            "https://exa%6dple.test",
            "https:\\\\example.test",
            "https://example.test\t",
            "https://[::1]/",
            "https://example.test:",
            "https://",
            "https://evil.test#@example.test",
            "https://ｅxample.test",
        ] {
            assert!(!host_in(bad, &hosts), "{bad}");
        }
    }
}
