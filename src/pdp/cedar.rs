//! The bridge to Cedar: rules as Cedar policies, calls as Cedar requests.
//!
//! Contexts are built directly, not through JSON text. This is the only file that names Cedar's
//! types, so that an upgrade touches one place. It must not combine effects: `decide` does.

use std::collections::BTreeSet;
use std::str::FromStr as _;
use std::sync::LazyLock;

use cedar_policy::{
    Authorizer, Context, Entities, EntityId, EntityTypeName, EntityUid, PolicyId, PolicySet, Request,
    RestrictedExpression,
};
use serde_json::{Map, Number, Value};

use super::Facts;
use super::command::Seen;
use crate::model::{Call, Effect, KINDS, KindRow};
use crate::policy::Rule;

static AUTHORIZER: LazyLock<Authorizer> = LazyLock::new(Authorizer::new);
static NOTHING: LazyLock<Entities> = LazyLock::new(Entities::empty);

/// What Cedar said about a set of rules.
pub(super) struct Verdict {
    /// Indices of rules that decided.
    pub held: Vec<usize>,
    /// Indices of rules whose condition could not be evaluated.
    pub failed: Vec<usize>,
}

/// Which parts of the context a set of rules reads. What none of them reads is not built: it is most
/// of what a decision costs, and Cedar cannot tell the difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reads {
    /// Whatever there is.
    All,
    /// These attributes of `context`.
    Only(BTreeSet<String>),
}

impl Reads {
    /// What the rules of `set` read, by their syntax trees.
    pub(super) fn of(set: &PolicySet) -> Self {
        let mut only = BTreeSet::new();
        let known = set.policies().all(|policy| policy.to_json().is_ok_and(|tree| reads(&tree, &mut only)));
        if known { Self::Only(only) } else { Self::All }
    }

    fn has(&self, part: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(parts) => parts.contains(part),
        }
    }
}

/// Notes each attribute of `context` that `tree` reads; false when it uses `context` in another way.
fn reads(tree: &Value, into: &mut BTreeSet<String>) -> bool {
    let context = |tree: &Value| tree.get("Var").and_then(Value::as_str) == Some("context");
    match tree {
        Value::Object(map) => {
            let access = map.get(".").or_else(|| map.get("has")).filter(|_| map.len() == 1);
            let attribute = access.filter(|access| access.get("left").is_some_and(context));
            match attribute.and_then(|access| access.get("attr")).and_then(Value::as_str) {
                Some(name) => {
                    into.insert(name.to_owned());
                    true
                }
                None => !context(tree) && map.values().all(|part| reads(part, into)),
            }
        }
        Value::Array(items) => items.iter().all(|part| reads(part, into)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
    }
}

/// The text of `rule` as one Cedar policy; its scope repeats what slicing uses.
pub(super) fn text(rule: &Rule) -> String {
    let head = if rule.effect == Effect::Deny { "forbid" } else { "permit" };
    let list = |kind: &str, names: &mut dyn Iterator<Item = &str>| {
        names.map(|name| format!("{kind}::{}", quoted(name))).collect::<Vec<_>>().join(", ")
    };
    let mut text = format!("{head}(principal, action, resource)");
    let actions = list("Action", &mut rule.actions.iter().map(|action| action.word()));
    text.push_str(&format!(" when {{ [{actions}].contains(action) }}"));
    if !rule.resources.is_empty() {
        let names = list("Resource", &mut rule.resources.iter().map(String::as_str));
        text.push_str(&format!(" when {{ [{names}].contains(resource) }}"));
    }
    if !rule.effects.is_empty() {
        let classes: Vec<String> = rule.effects.iter().map(|class| quoted(class.word())).collect();
        text.push_str(&format!(" when {{ [{}].contains(context.effect) }}", classes.join(", ")));
    }
    if !rule.except.is_empty() {
        let names = list("Resource", &mut rule.except.iter().map(String::as_str));
        text.push_str(&format!(" unless {{ [{names}].contains(resource) }}"));
    }
    if let Some(when) = &rule.when {
        // On lines of its own, so that a comment at its end cannot swallow what follows.
        text.push_str(&format!(" when {{ (\n{when}\n) }}"));
    }
    text.push(';');
    text
}

/// `name` as a Cedar string literal.
fn quoted(name: &str) -> String {
    let escaped: String = name
        .chars()
        .map(|c| match c {
            '"' => "\\\"".to_owned(),
            '\\' => "\\\\".to_owned(),
            c if c.is_control() => c.escape_unicode().to_string(),
            c => c.to_string(),
        })
        .collect();
    format!("\"{escaped}\"")
}

/// Adds `rule` under its index.
///
/// # Errors
/// Cedar's message, when the rule is not one valid policy.
pub(super) fn add(set: &mut PolicySet, index: usize, rule: &Rule) -> Result<(), String> {
    let policy = cedar_policy::Policy::parse(Some(PolicyId::new(index.to_string())), text(rule))
        .map_err(|errors| errors.to_string())?;
    set.add(policy).map_err(|error| error.to_string())
}

/// Evaluates `set` on `call`. A request that cannot be built counts as a failure of every rule.
pub(super) fn evaluate(set: &PolicySet, reads: &Reads, facts: &Facts, call: &Call, seen: &Seen) -> Verdict {
    let Some(request) = request(reads, facts, call, seen) else {
        let failed = set.policies().filter_map(|policy| index(policy.id())).collect();
        return Verdict { held: Vec::new(), failed };
    };
    let response = AUTHORIZER.is_authorized(&request, set, &NOTHING);
    let diagnostics = response.diagnostics();
    Verdict {
        held: diagnostics.reason().filter_map(index).collect(),
        failed: diagnostics
            .errors()
            .filter_map(|error| match error {
                cedar_policy::AuthorizationError::PolicyEvaluationError(error) => index(error.policy_id()),
            })
            .collect(),
    }
}

fn index(id: &PolicyId) -> Option<usize> {
    AsRef::<str>::as_ref(id).parse().ok()
}

fn request(reads: &Reads, facts: &Facts, call: &Call, seen: &Seen) -> Option<Request> {
    static TYPES: LazyLock<Option<[EntityTypeName; 3]>> = LazyLock::new(|| {
        let name = |text| EntityTypeName::from_str(text).ok();
        Some([name("Agent")?, name("Action")?, name("Resource")?])
    });
    let [agent, action, resource] = TYPES.as_ref()?;
    let entity = |kind: &EntityTypeName, id: &str| EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(id));
    Request::new(
        entity(agent, call.subject.agent.as_str()),
        entity(action, call.action.word()),
        entity(resource, call.resource.name.as_str()),
        context(reads, facts, call, seen)?,
        None,
    )
    .ok()
}

fn context(reads: &Reads, facts: &Facts, call: &Call, seen: &Seen) -> Option<Context> {
    let text = |value: &str| RestrictedExpression::new_string(value.to_owned());
    let long = |value: u64| RestrictedExpression::new_long(i64::try_from(value).unwrap_or(i64::MAX));
    let mut pairs = Vec::new();
    let mut add = |name: &str, value: &dyn Fn() -> Option<RestrictedExpression>| {
        if reads.has(name) {
            pairs.push((name.to_owned(), value()?));
        }
        Some(())
    };
    add("args", &|| record(&call.args))?;
    add("labels", &|| Some(RestrictedExpression::new_set(facts.labels.iter().map(|label| text(label)))))?;
    add("effect", &|| Some(text(seen.class.word())))?;
    add("programs", &|| Some(RestrictedExpression::new_set(seen.programs.iter().map(|program| text(program)))))?;
    add("since_person", &|| Some(long(facts.since_person)))?;
    // Every kind, also those with nothing left: a guard by `has` must not hide an empty budget.
    let left = |row: &KindRow| (row.name.to_owned(), long(facts.left(row.kind)));
    add("remaining", &|| RestrictedExpression::new_record(KINDS.iter().map(left)).ok())?;
    add("delegation", &|| Some(long(call.subject.delegation.len() as u64)))?;
    add("nested", &|| Some(RestrictedExpression::new_bool(call.parent.is_some())))?;
    if let Some(registry) = &call.resource.registry {
        add("registry", &|| Some(text(registry.as_str())))?;
    }
    if let Some(revision) = &call.resource.revision {
        add("revision", &|| Some(text(revision.as_str())))?;
    }
    Context::from_pairs(pairs).ok()
}

fn record(map: &Map<String, Value>) -> Option<RestrictedExpression> {
    RestrictedExpression::new_record(map.iter().filter_map(|(key, value)| Some((key.clone(), expression(value)?)))).ok()
}

/// `value` for Cedar. What Cedar cannot hold exactly (null, fractions, integers over 63 bits) becomes
/// a record that is neither more nor less than anything: it is there for a guard by `has`, and a
/// condition that compares it fails, so that the call is denied. Left out, it would slip past a deny
/// rule that guards.
fn expression(value: &Value) -> Option<RestrictedExpression> {
    let opaque = |kind: &str| {
        let text = RestrictedExpression::new_string(kind.to_owned());
        RestrictedExpression::new_record([("inexact".to_owned(), text)]).ok()
    };
    Some(match value {
        Value::Null => opaque("null")?,
        Value::Bool(flag) => RestrictedExpression::new_bool(*flag),
        Value::Number(number) => match whole(number) {
            Some(whole) => RestrictedExpression::new_long(whole),
            None => opaque("number")?,
        },
        Value::String(text) => RestrictedExpression::new_string(text.clone()),
        Value::Array(items) => {
            let items: Option<Vec<_>> = items.iter().map(expression).collect();
            RestrictedExpression::new_set(items?)
        }
        Value::Object(map) => record(map)?,
    })
}

/// `number` as Cedar's integer, when it is one exactly; `2.0` is 2, as it is to the host.
fn whole(number: &Number) -> Option<i64> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    number.as_i64().or_else(|| {
        let float = number.as_f64().filter(|float| float.fract() == 0.0 && float.abs() < EXACT)?;
        #[expect(clippy::cast_possible_truncation, reason = "whole and below 2^53")]
        Some(float as i64)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(when: &str) -> Reads {
        let text = format!("permit(principal, action, resource) when {{ {when} }};");
        let mut set = PolicySet::new();
        set.add(cedar_policy::Policy::parse(Some(PolicyId::new("0")), text).unwrap()).unwrap();
        Reads::of(&set)
    }

    #[test]
    fn what_rules_read_is_found_however_it_is_written() {
        let only = |names: &[&str]| Reads::Only(names.iter().map(|&name| name.to_owned()).collect());
        assert_eq!(of("true"), only(&[]));
        assert_eq!(of("context.labels.contains(\"untrusted\")"), only(&["labels"]));
        assert_eq!(of("context has args && context[\"args\"].n > 5"), only(&["args"]));
        assert_eq!(
            of("context has \"rem\\u{61}ining\" || context.since_person > 3"),
            only(&["remaining", "since_person"])
        );
        assert_eq!(of("if context.nested then resource == Resource::\"x\" else false"), only(&["nested"]));
        assert_eq!(of("[context.args.a, {\"k\": context.effect}].contains(\"x\")"), only(&["args", "effect"]));
        for whole in
            ["context == {}", "{\"c\": context}.c.args.n > 1", "(if true then context else context).args has n"]
        {
            assert_eq!(of(whole), Reads::All, "{whole}");
        }
    }
}
