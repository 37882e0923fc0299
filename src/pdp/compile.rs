//! A policy made ready for decisions: rules as Cedar policies, sliced by action and resource.
//!
//! Cedar's authorizer visits every policy of a set, so a decision hands it only the rules that can
//! speak of the call, and of those only the ones with a condition. `tests` prove that the slice
//! decides as the whole does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cedar_policy::PolicySet;

use super::cedar::Reads;
use super::command::seen;
use super::{Facts, cedar, decide};
use crate::model::{Action, Amounts, Call, Effect, EffectClass, Kind, Name, Resource, Subject};
use crate::policy::{Expect, Faults, Policy, Rule};

/// A policy with its rules compiled and sliced. Immutable; made only when every example holds.
#[derive(Debug)]
pub struct Compiled {
    policy: Policy,
    slices: BTreeMap<Action, Slices>,
}

#[derive(Debug)]
struct Slices {
    named: BTreeMap<String, Slice>,
    /// Of tools whose calls are command lines, for each class that one may have.
    by_class: BTreeMap<(String, EffectClass), Slice>,
    other: Slice,
}

/// The rules that can speak of one action on one resource.
#[derive(Debug)]
pub(super) struct Slice {
    /// Strictest rule without a condition.
    pub fixed: Option<usize>,
    /// Rules with a condition.
    pub conditional: PolicySet,
    /// What those read.
    pub reads: Reads,
    /// Every rule of the slice, in file order.
    pub rules: Vec<usize>,
}

impl Compiled {
    /// Compiles `policy` and runs the examples inside its rules.
    ///
    /// # Errors
    /// Every condition that Cedar refuses and every example that does not hold, with its line.
    pub fn new(policy: Policy) -> Result<Arc<Self>, Faults> {
        let mut faults = Faults::default();
        let mut slices = BTreeMap::new();
        for action in Action::ALL {
            slices.insert(action, sliced(&policy, action, &mut faults));
        }
        let compiled = faults.or(Self { policy, slices })?;
        compiled.hold_examples()?;
        Ok(Arc::new(compiled))
    }

    /// The policy.
    #[must_use]
    pub const fn policy(&self) -> &Policy {
        &self.policy
    }

    pub(super) fn slice(&self, call: &Call, class: EffectClass) -> Option<&Slice> {
        let slices = self.slices.get(&call.action)?;
        if !slices.by_class.is_empty()
            && let Some(slice) = slices.by_class.get(&(call.resource.name.as_str().to_owned(), class))
        {
            return Some(slice);
        }
        Some(slices.named.get(call.resource.name.as_str()).unwrap_or(&slices.other))
    }

    /// The class of effect that rules see for `call`; of a command line that is refused, the strictest that its tool
    /// may have.
    #[must_use]
    pub fn effect_class(&self, call: &Call) -> EffectClass {
        if let Some(Ok(seen)) = seen(&self.policy, call) {
            return seen.class;
        }
        class_of(&self.policy, call.action, call.resource.name.as_str())
    }

    fn hold_examples(&self) -> Result<(), Faults> {
        let mut faults = Faults::default();
        for rule in &self.policy.rules {
            for expect in &rule.expect {
                self.hold(rule, expect, &mut faults);
            }
        }
        faults.or(())
    }

    fn hold(&self, rule: &Rule, expect: &Expect, faults: &mut Faults) {
        let Some((facts, call)) = example(expect) else {
            let text = format!("rule `{}`: `{}` cannot be the name of a resource", rule.id, expect.resource);
            return faults.push(&self.policy.file, expect.line, text);
        };
        let decision = decide(self, &facts, &call);
        if decision.effect != expect.decision {
            let text = format!(
                "rule `{}` expects {} for {} {}, but the policy says {} ({})",
                rule.id,
                expect.decision.word(),
                expect.action.word(),
                expect.resource,
                decision.effect.word(),
                decision.reason,
            );
            faults.push(&self.policy.file, expect.line, text);
        }
    }
}

fn class_of(policy: &Policy, action: Action, resource: &str) -> EffectClass {
    match action {
        Action::ToolCall => policy.tools.get(resource).map_or(EffectClass::Exec, |tool| tool.effect),
        Action::CodeRun | Action::ProcessRun => EffectClass::Exec,
        Action::PackagePublish => EffectClass::Network,
        Action::JobLaunch => EffectClass::Spend,
        Action::CodeImport | Action::AgentInvoke | Action::ModelGenerate | Action::PackageFetch => EffectClass::Read,
    }
}

/// One example as a call of a subject of its own, with nothing spent yet.
pub(super) fn example(expect: &Expect) -> Option<(Facts, Call)> {
    let name = |text: &str| Name::new(text).ok();
    let subject = Subject {
        org: name("example")?,
        agent: name("example")?,
        session: name("example")?,
        run: name("example")?,
        delegation: Vec::new(),
        project: None,
    };
    let mut resource = Resource::named(name(&expect.resource)?);
    let text = |key: &str| expect.args.get(key).and_then(serde_json::Value::as_str);
    if expect.action == Action::PackageFetch {
        resource.registry = text("registry").and_then(name);
        resource.revision = text("revision").and_then(name);
    }
    let call = Call {
        id: name("example")?,
        subject,
        action: expect.action,
        resource,
        args: expect.args.clone(),
        parent: None,
        surface: name("example")?,
    };
    let facts = Facts { labels: expect.labels.iter().cloned().collect(), ..Facts::fresh() };
    Some((facts, call))
}

fn sliced(policy: &Policy, action: Action, faults: &mut Faults) -> Slices {
    let speaking = || policy.rules.iter().enumerate().filter(|(_, rule)| rule.actions.contains(&action));
    let mut names: BTreeSet<&str> =
        speaking().flat_map(|(_, rule)| rule.resources.iter().chain(&rule.except)).map(String::as_str).collect();
    if action == Action::ToolCall {
        names.extend(policy.tools.keys().map(String::as_str));
    }
    let mut slice = |name: Option<&str>, class: Option<EffectClass>| {
        let class = class.unwrap_or_else(|| class_of(policy, action, name.unwrap_or_default()));
        let rules = speaking().filter(|(_, rule)| speaks_of(rule, name, class)).map(|(index, _)| index).collect();
        slice_of(policy, rules, faults)
    };
    let mut by_class = BTreeMap::new();
    for tool in policy.tools.values().filter(|tool| action == Action::ToolCall && tool.shell.is_some()) {
        for class in tool.classes() {
            by_class.insert((tool.name.clone(), class), slice(Some(&tool.name), Some(class)));
        }
    }
    let named = names.into_iter().map(|name| (name.to_owned(), slice(Some(name), None))).collect();
    Slices { other: slice(None, None), named, by_class }
}

/// Whether `rule` can speak of a resource of this name and class; `None` is any unmentioned name.
fn speaks_of(rule: &Rule, name: Option<&str>, class: EffectClass) -> bool {
    let in_list = |list: &[String]| name.is_some_and(|name| list.iter().any(|item| item == name));
    (rule.resources.is_empty() || in_list(&rule.resources))
        && (rule.effects.is_empty() || rule.effects.contains(&class))
        && !in_list(&rule.except)
}

fn slice_of(policy: &Policy, rules: Vec<usize>, faults: &mut Faults) -> Slice {
    let mut slice = Slice { fixed: None, conditional: PolicySet::new(), reads: Reads::All, rules: Vec::new() };
    for &index in &rules {
        let Some(rule) = policy.rules.get(index) else { continue };
        if rule.when.is_none() {
            let stricter = |best: usize| policy.rules.get(best).is_some_and(|best| rule.effect > best.effect);
            if slice.fixed.is_none_or(stricter) {
                slice.fixed = Some(index);
            }
        } else if let Err(text) = cedar::add(&mut slice.conditional, index, rule) {
            let text = format!("rule `{}`: {text}", rule.id);
            if !faults.0.iter().any(|fault| fault.text == text) {
                faults.push(&policy.file, rule.line, text);
            }
        }
    }
    slice.reads = Reads::of(&slice.conditional);
    slice.rules = rules;
    slice
}

impl Facts {
    /// Facts of a session in which nothing has happened and nothing limits.
    #[must_use]
    pub fn fresh() -> Self {
        let mut remaining = Amounts::ZERO;
        for row in &crate::model::KINDS {
            remaining.set(row.kind, u64::MAX);
        }
        Self { labels: BTreeSet::new(), remaining, since_person: 0 }
    }

    /// What is left of `kind`.
    #[must_use]
    pub const fn left(&self, kind: Kind) -> u64 {
        self.remaining.of(kind)
    }
}

/// The strictest of two effects on the same call.
pub(super) fn strictest(left: Option<(Effect, usize)>, right: (Effect, usize)) -> Option<(Effect, usize)> {
    match left {
        Some(left) if left.0 > right.0 || (left.0 == right.0 && left.1 <= right.1) => Some(left),
        _ => Some(right),
    }
}
