//! Checks a rule's `when`: exactly one Cedar expression over the facts that a decision has.
//!
//! Evaluation is `pdp`'s. A fact that is never there would be an evaluation error, and so a deny of
//! every call; it is refused here, where its line is known.

use std::str::FromStr;

use serde_json::Value;

use super::super::reader::{list, nearest, shown};
use crate::model::Action;

/// Facts under `context`, as `docs/policy.md` lists them.
const FACTS: [&str; 10] = [
    "args",
    "labels",
    "effect",
    "programs",
    "since_person",
    "remaining",
    "delegation",
    "nested",
    "registry",
    "revision",
];
/// Facts that only `package.fetch` has.
const PACKAGE_FACTS: [&str; 2] = ["registry", "revision"];
/// Longest condition, bytes; also bounds its nesting.
const WHEN_BYTES: usize = 2000;
/// Deepest nesting of brackets.
const WHEN_DEPTH: usize = 32;

/// Every fault of a condition.
pub(super) fn check(text: &str, actions: &[Action]) -> Vec<String> {
    if text.len() > WHEN_BYTES || depth(text) > WHEN_DEPTH {
        return vec![format!("`when` has at most {WHEN_BYTES} bytes and {WHEN_DEPTH} levels of brackets")];
    }
    if let Err(error) = cedar_policy::Expression::from_str(text) {
        return vec![format!("`when` is not a Cedar expression: {}", flat(&error.to_string()))];
    }
    let whole = format!("permit(principal, action, resource) when {{ {text}\n}};");
    let parsed = cedar_policy::Policy::parse(None, whole).map_err(|error| error.to_string());
    let tree = parsed.and_then(|policy| policy.to_json().map_err(|error| error.to_string()));
    match tree {
        Err(error) => vec![format!("`when` is not one Cedar condition: {}", flat(&error))],
        Ok(tree) => {
            let mut used = Vec::new();
            facts(&tree, &mut used);
            used.iter().filter_map(|fact| check_fact(fact, actions)).collect()
        }
    }
}

/// Nesting of brackets and of prefix operators, strings not excepted: a bound, not a parse.
fn depth(text: &str) -> usize {
    let (mut open, mut deepest, mut prefixes) = (0_usize, 0, 0_usize);
    for c in text.chars() {
        match c {
            '(' | '[' | '{' => open += 1,
            ')' | ']' | '}' => open = open.saturating_sub(1),
            '!' | '-' => prefixes += 1,
            _ => {}
        }
        deepest = deepest.max(open);
    }
    deepest.max(prefixes / 2)
}

/// Every fact that `tree` reads off `context`.
fn facts(tree: &Value, used: &mut Vec<String>) {
    match tree {
        Value::Array(items) => items.iter().for_each(|item| facts(item, used)),
        Value::Object(object) => {
            let of_context = object.get("left").is_some_and(|left| left.get("Var").is_some_and(|var| var == "context"));
            if let (true, Some(Value::String(attr))) = (of_context, object.get("attr"))
                && !used.contains(attr)
            {
                used.push(attr.clone());
            }
            object.values().for_each(|value| facts(value, used));
        }
        _ => {}
    }
}

fn check_fact(fact: &str, actions: &[Action]) -> Option<String> {
    if !FACTS.contains(&fact) {
        let hint = nearest(fact, FACTS.into_iter());
        let hint = if hint.is_empty() { format!("; it has {}", list(FACTS.into_iter())) } else { hint };
        return Some(format!("`context` has no `{}`{hint}", shown(fact)));
    }
    let only_packages = actions.iter().all(|action| *action == Action::PackageFetch);
    (PACKAGE_FACTS.contains(&fact) && !only_packages)
        .then(|| format!("`context.{fact}` is there for `package.fetch` only; give it a rule of its own"))
}

/// One line of at most 160 characters.
fn flat(text: &str) -> String {
    let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() > 160 { format!("{}…", line.chars().take(160).collect::<String>()) } else { line }
}
