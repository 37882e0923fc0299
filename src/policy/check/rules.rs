//! Rules against each other: what cannot match, what another covers wholly, what contradicts.
//!
//! A rule's reach is worked out over the finite world of the policy: its tools, imports, peers,
//! pins and the names in its rules, and for each open choice one name that stands for any other.

use std::collections::{BTreeSet, HashMap};

use super::super::reader::nearest;
use super::super::{Policy, Rule};
use super::Remarks;
use crate::model::{Action, Effect, EffectClass};

/// The name that stands for any other.
const ANY_OTHER: &str = "";

/// One thing that a call can be about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Target<'p> {
    action: Action,
    name: &'p str,
    class: Option<EffectClass>,
}

pub(super) fn check(policy: &Policy, remarks: &mut Remarks) {
    let world = World::of(policy);
    let reaches: Vec<_> = policy.rules.iter().map(|rule| world.reach(rule)).collect();
    for (rule, reach) in policy.rules.iter().zip(&reaches) {
        unknown_names(policy, rule, remarks);
        if reach.is_empty() {
            remarks.warning(rule.line, format!("the rule `{}` can match nothing; {}", rule.id, why_empty(rule)));
        }
    }
    contradictions(policy, &reaches, remarks);
    covered(policy, &reaches, remarks);
}

/// True when some rule allows `name` or asks about it.
pub(super) fn may_pass(policy: &Policy, action: Action, name: &str) -> bool {
    let classes: Vec<_> = policy.tools.get(name).map_or(vec![None], |tool| tool.classes().map(Some).collect());
    let passes = |class| {
        policy.rules.iter().any(|rule| rule.effect != Effect::Deny && matches(rule, Target { action, name, class }))
    };
    classes.into_iter().any(passes)
}

/// Everything that a call can be about.
struct World<'p>(Vec<Target<'p>>);

impl<'p> World<'p> {
    fn of(policy: &'p Policy) -> Self {
        let mut targets = BTreeSet::new();
        for tool in policy.tools.values() {
            let of = |class| Target { action: Action::ToolCall, name: tool.name.as_str(), class: Some(class) };
            targets.extend(tool.classes().map(of));
        }
        for class in EffectClass::ALL {
            targets.insert(Target { action: Action::ToolCall, name: ANY_OTHER, class: Some(class) });
        }
        let mut name = |action, name: &'p str| {
            targets.insert(Target { action, name, class: None });
        };
        let imports = policy.code.iter().flat_map(|code| &code.imports);
        imports.for_each(|module| name(Action::CodeImport, module));
        policy.peers.names.iter().for_each(|peer| name(Action::AgentInvoke, peer));
        let pins = policy.registries.values().flat_map(|registry| &registry.pins);
        pins.for_each(|pin| name(Action::PackageFetch, &pin.name));
        let writable = policy.registries.values().flat_map(|registry| &registry.writable);
        writable.for_each(|open| name(Action::PackagePublish, open));
        let flavors = policy.jobs.iter().flat_map(|jobs| jobs.flavors.keys());
        flavors.for_each(|flavor| name(Action::JobLaunch, flavor));
        let programs = policy.exec.iter().flat_map(|exec| &exec.programs);
        programs.for_each(|program| name(Action::ProcessRun, program));
        for action in Action::ALL.into_iter().filter(|action| *action != Action::ToolCall) {
            name(action, ANY_OTHER);
        }
        for rule in &policy.rules {
            for action in rule.actions.iter().filter(|action| is_open(**action)) {
                rule.resources.iter().chain(&rule.except).for_each(|resource| name(*action, resource));
            }
        }
        Self(targets.into_iter().collect())
    }

    fn reach(&self, rule: &Rule) -> BTreeSet<Target<'p>> {
        self.0.iter().copied().filter(|target| matches(rule, *target)).collect()
    }
}

/// Actions whose resources are not listed anywhere else in a policy.
const fn is_open(action: Action) -> bool {
    matches!(action, Action::CodeRun | Action::ModelGenerate)
}

fn matches(rule: &Rule, target: Target<'_>) -> bool {
    let named = |list: &[String]| list.iter().any(|name| name == target.name);
    let below = |list: &[String]| {
        let inside = |name: &String| target.name.strip_prefix(name.as_str()).is_some_and(|rest| rest.starts_with('.'));
        target.action == Action::CodeImport && list.iter().any(inside)
    };
    rule.actions.contains(&target.action)
        && (rule.resources.is_empty() || named(&rule.resources) || below(&rule.resources))
        && (rule.effects.is_empty() || target.class.is_some_and(|class| rule.effects.contains(&class)))
        && !named(&rule.except)
}

fn why_empty(rule: &Rule) -> &'static str {
    if !rule.resources.is_empty() && rule.resources.iter().all(|name| rule.except.contains(name)) {
        "`except` takes back everything in `resources`"
    } else {
        "no call has such an action, resource and class"
    }
}

/// Names in a rule that the policy does not have: a typing error in a deny would let calls pass.
fn unknown_names(policy: &Policy, rule: &Rule, remarks: &mut Remarks) {
    let known = |name: &str| {
        rule.actions.iter().any(|action| match action {
            Action::ToolCall => policy.tools.contains_key(name),
            Action::AgentInvoke => policy.peers.names.contains(name),
            Action::CodeImport => policy.code.as_ref().is_some_and(|code| covers_import(&code.imports, name)),
            Action::PackageFetch => policy.registries.values().any(|r| r.pins.iter().any(|pin| pin.name == name)),
            Action::PackagePublish => policy.registries.values().any(|registry| registry.writable.contains(name)),
            Action::JobLaunch => policy.jobs.as_ref().is_some_and(|jobs| jobs.flavors.contains_key(name)),
            Action::ProcessRun => policy.exec.as_ref().is_some_and(|exec| exec.programs.contains(name)),
            Action::CodeRun | Action::ModelGenerate => true,
        })
    };
    for name in rule.resources.iter().chain(&rule.except).filter(|name| !known(name)) {
        let hint = nearest(name, policy.tools.keys().map(String::as_str));
        let text = format!("the rule `{}` speaks of `{name}`, which the policy does not have{hint}", rule.id);
        let only_tools = rule.actions.iter().all(|action| *action == Action::ToolCall);
        if only_tools { remarks.error(rule.line, text) } else { remarks.warning(rule.line, text) }
    }
}

/// True when `imports` grants `name`: itself or a package above it.
fn covers_import(imports: &[String], name: &str) -> bool {
    imports
        .iter()
        .any(|module| module == name || name.strip_prefix(module.as_str()).is_some_and(|rest| rest.starts_with('.')))
}

/// Two rules that match the same under the same condition and decide differently.
fn contradictions(policy: &Policy, reaches: &[BTreeSet<Target<'_>>], remarks: &mut Remarks) {
    let mut first: HashMap<(&BTreeSet<Target<'_>>, Option<&str>), &Rule> = HashMap::new();
    for (rule, reach) in policy.rules.iter().zip(reaches).filter(|(_, reach)| !reach.is_empty()) {
        let earlier = *first.entry((reach, rule.when.as_deref())).or_insert(rule);
        if earlier.effect != rule.effect {
            let strict = earlier.effect.max(rule.effect).word();
            let text = format!(
                "the rules `{}` (line {}, {}) and `{}` ({}) match the same calls; the strictest wins: {strict}",
                earlier.id,
                earlier.line,
                earlier.effect.word(),
                rule.id,
                rule.effect.word()
            );
            remarks.warning(rule.line, text);
        }
    }
}

/// Rules none of whose calls they can ever decide, because stricter rules always match too.
fn covered(policy: &Policy, reaches: &[BTreeSet<Target<'_>>], remarks: &mut Remarks) {
    let mut strictest: HashMap<Target<'_>, &Rule> = HashMap::new();
    let always = policy.rules.iter().zip(reaches).filter(|(rule, _)| rule.when.is_none());
    for (rule, reach) in always {
        for target in reach {
            let held = strictest.entry(*target).or_insert(rule);
            if rule.effect > held.effect {
                *held = rule;
            }
        }
    }
    for (rule, reach) in policy.rules.iter().zip(reaches).filter(|(_, reach)| !reach.is_empty()) {
        let over = |target| strictest.get(target).filter(|other| other.effect > rule.effect);
        let by: Option<BTreeSet<&str>> =
            reach.iter().map(|target| over(target).map(|other| other.id.as_str())).collect();
        if let Some(by) = by {
            let names: Vec<_> = by.into_iter().take(4).map(|id| format!("`{id}`")).collect();
            let text = format!(
                "the rule `{}` never decides: {} always matches too and is stricter",
                rule.id,
                names.join(" or ")
            );
            remarks.warning(rule.line, text);
        }
    }
}
