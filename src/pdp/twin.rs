//! A slow, obvious twin of `decide`: every rule in one Cedar set, no slices, no shortcut. It is the
//! oracle of the property tests below and exists only for them.

use std::collections::{BTreeMap, BTreeSet};

use cedar_policy::PolicySet;
use proptest::prelude::*;
use serde_json::json;

use super::{Compiled, Facts, cedar, decide};
use crate::model::Keep;
use crate::model::{Action, Amounts, Call, Digest, Effect, EffectClass, Kind, Millis, Name, Resource, Subject};
use crate::policy::{Approvals, ArgRule, ArgType, Cost, Memory, Peers, Policy, Rule, Tool};

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn tool(text: &str, effect: EffectClass) -> (String, Tool) {
    let argument = ArgRule {
        kind: ArgType::Any,
        required: false,
        min: None,
        max: None,
        max_len: None,
        one_of: Vec::new(),
        path_within: Vec::new(),
        host_in: Vec::new(),
    };
    let tool = Tool {
        name: text.to_owned(),
        effect,
        shell: None,
        args: BTreeMap::from([("n".to_owned(), argument)]),
        extra_args: false,
        cost: Cost(Amounts::ZERO.with(Kind::MicroUsd, 5)),
        labels: vec!["untrusted".to_owned()],
        answers: Vec::new(),
        line: 1,
    };
    (text.to_owned(), tool)
}

pub(super) fn policy(rules: Vec<Rule>) -> Policy {
    Policy {
        id: name("test"),
        digest: Digest::of(b"test"),
        file: "test.toml".to_owned(),
        provenance: None,
        tools: BTreeMap::from([
            tool("look", EffectClass::Read),
            tool("save", EffectClass::Write),
            tool("send", EffectClass::Network),
        ]),
        programs: BTreeMap::new(),
        code: None,
        models: BTreeMap::new(),
        registries: BTreeMap::new(),
        jobs: None,
        exec: None,
        peers: Peers { names: BTreeSet::from(["helper".to_owned()]), max_depth: 1, answers: Vec::new() },
        budgets: Vec::new(),
        approvals: Approvals { timeout: Millis(1) },
        labels: BTreeSet::from(["untrusted".to_owned()]),
        memory: Memory { survive: Keep::Session, answers: Vec::new() },
        protected: Vec::new(),
        protected_answers: Vec::new(),
        answers: Vec::new(),
        accepted: BTreeMap::new(),
        rules,
    }
}

fn rule(
    id: usize,
    effect: Effect,
    actions: Vec<Action>,
    resources: Vec<&str>,
    effects: Vec<EffectClass>,
    except: Vec<&str>,
    when: Option<&str>,
) -> Rule {
    Rule {
        id: format!("r{id}"),
        effect,
        actions,
        resources: resources.into_iter().map(str::to_owned).collect(),
        effects,
        except: except.into_iter().map(str::to_owned).collect(),
        when: when.map(str::to_owned),
        answers: Vec::new(),
        assumed: false,
        reason: String::new(),
        expect: Vec::new(),
        line: id + 1,
    }
}

pub(super) fn call(action: Action, resource: &str, n: Option<i64>) -> Call {
    let mut args = serde_json::Map::new();
    if let Some(n) = n {
        args.insert("n".to_owned(), json!(n));
    }
    let subject = Subject {
        org: name("o"),
        agent: name("a"),
        session: name("s"),
        run: name("r"),
        delegation: Vec::new(),
        project: None,
    };
    Call {
        id: name("c"),
        subject,
        action,
        resource: Resource::named(name(resource)),
        args,
        parent: None,
        surface: name("test"),
    }
}

/// What the whole set says, in the words of the law: an error denies, then the strictest wins.
fn whole(policy: &Compiled, facts: &Facts, call: &Call) -> Effect {
    let Ok(seen) = super::decide::judged(policy, call) else { return Effect::Deny };
    let mut set = PolicySet::new();
    for (index, rule) in policy.policy().rules.iter().enumerate() {
        cedar::add(&mut set, index, rule).unwrap();
    }
    let verdict = cedar::evaluate(&set, &cedar::Reads::All, facts, call, &seen);
    if !verdict.failed.is_empty() {
        return Effect::Deny;
    }
    verdict.held.iter().map(|index| policy.policy().rules[*index].effect).max().unwrap_or(Effect::Deny)
}

fn any_rule(id: usize) -> impl Strategy<Value = Rule> {
    let effect = prop_oneof![Just(Effect::Allow), Just(Effect::Ask), Just(Effect::Deny)];
    let actions = proptest::sample::subsequence(Action::ALL.to_vec(), 1..=3);
    let resources = proptest::sample::subsequence(vec!["look", "save", "send", "helper", "other"], 0..=2);
    let effects = proptest::sample::subsequence(EffectClass::ALL.to_vec(), 0..=2);
    let except = proptest::sample::subsequence(vec!["look", "send"], 0..=1);
    let when = prop_oneof![
        3 => Just(None),
        1 => Just(Some("context.labels.contains(\"untrusted\")")),
        1 => Just(Some("context.args has n && context.args.n > 5")),
        1 => Just(Some("context.args.n > 5")),
        1 => Just(Some("context.missing == 1")),
        1 => Just(Some("context.since_person >= 3")),
        1 => Just(Some("context has args.n && context.remaining.calls > 3")),
        1 => Just(Some("context.nested || context == {}")),
        1 => Just(Some("context.effect == \"read\" && context.delegation == 0")),
        1 => Just(Some("context has registry")),
        1 => Just(Some("principal == Agent::\"a\"")),
    ];
    (effect, actions, resources, effects, except, when).prop_map(
        move |(effect, actions, resources, effects, except, when)| {
            rule(id, effect, actions, resources, effects, except, when)
        },
    )
}

fn any_rules() -> impl Strategy<Value = Vec<Rule>> {
    proptest::collection::vec(any_rule(0), 0..8).prop_map(|mut rules| {
        for (index, rule) in rules.iter_mut().enumerate() {
            rule.id = format!("r{index}");
        }
        rules
    })
}

fn any_call() -> impl Strategy<Value = (Facts, Call)> {
    let resource = prop_oneof![Just("look"), Just("save"), Just("send"), Just("helper"), Just("other"), Just("new")];
    let n = proptest::option::of(0_i64..10);
    (proptest::sample::select(Action::ALL.to_vec()), resource, n, any::<bool>(), 0_u64..6).prop_map(
        |(action, resource, n, tainted, since_person)| {
            let labels = if tainted { BTreeSet::from(["untrusted".to_owned()]) } else { BTreeSet::new() };
            (Facts { labels, since_person, ..Facts::fresh() }, call(action, resource, n))
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn the_slice_decides_as_the_whole_does(rules in any_rules(), (facts, call) in any_call()) {
        let compiled = Compiled::new(policy(rules)).unwrap();
        prop_assert_eq!(decide(&compiled, &facts, &call).effect, whole(&compiled, &facts, &call));
    }

    #[test]
    fn the_order_of_rules_never_matters(rules in any_rules(), (facts, call) in any_call()) {
        let mut reversed = rules.clone();
        reversed.reverse();
        let (left, right) = (Compiled::new(policy(rules)).unwrap(), Compiled::new(policy(reversed)).unwrap());
        prop_assert_eq!(decide(&left, &facts, &call).effect, decide(&right, &facts, &call).effect);
    }

    #[test]
    fn a_further_deny_rule_never_allows_more(rules in any_rules(), extra in any_rule(99), (facts, call) in any_call()) {
        let mut more = rules.clone();
        more.push(Rule { effect: Effect::Deny, ..extra });
        let (before, after) = (Compiled::new(policy(rules)).unwrap(), Compiled::new(policy(more)).unwrap());
        prop_assert!(decide(&after, &facts, &call).effect >= decide(&before, &facts, &call).effect);
    }

    #[test]
    fn explain_decides_as_decide_does(rules in any_rules(), (facts, call) in any_call()) {
        let compiled = Compiled::new(policy(rules)).unwrap();
        let trace = super::explain(&compiled, &facts, &call);
        prop_assert_eq!(&trace.decision, &decide(&compiled, &facts, &call));
        if let Some(rule) = &trace.decision.reason.rule
            && trace.decision.effect == Effect::Allow
        {
            prop_assert!(trace.steps.iter().any(|step| &step.rule == rule && step.held == Some(true)));
        }
    }
}

#[test]
fn law_1_default_deny() {
    let compiled = Compiled::new(policy(Vec::new())).unwrap();
    for action in Action::ALL {
        let decision = decide(&compiled, &Facts::fresh(), &call(action, "look", None));
        assert_eq!(decision.effect, Effect::Deny, "{}", action.word());
        assert!(decision.reserve.is_zero() && decision.grant.is_none() && decision.obligations.is_empty());
    }
}

#[test]
fn an_erroring_condition_denies_even_beside_an_allow() {
    let allow = rule(0, Effect::Allow, vec![Action::ToolCall], vec![], vec![], vec![], None);
    for when in ["context.args.n > 5", "context.args.n", "context.labels > 3", "context.nothing"] {
        for effect in [Effect::Allow, Effect::Ask, Effect::Deny] {
            let failing = rule(1, effect, vec![Action::ToolCall], vec![], vec![], vec![], Some(when));
            let compiled = Compiled::new(policy(vec![allow.clone(), failing])).unwrap();
            let decision = decide(&compiled, &Facts::fresh(), &call(Action::ToolCall, "look", None));
            assert_eq!(decision.effect, Effect::Deny, "{when}");
            assert_eq!(decision.reason.code, crate::model::ReasonCode::RuleError);
        }
    }
}

#[test]
fn a_condition_that_escapes_its_braces_is_refused_at_load() {
    for when in ["true }; permit(principal, action, resource); //", "true } unless { false", "1 +", "", "true /*"] {
        let rule = rule(0, Effect::Deny, vec![Action::ToolCall], vec![], vec![], vec![], Some(when));
        assert!(Compiled::new(policy(vec![rule])).is_err(), "{when}");
    }
}

#[test]
fn an_allowed_call_reserves_what_it_costs_and_carries_its_labels() {
    let allow = rule(0, Effect::Allow, vec![Action::ToolCall], vec![], vec![], vec![], None);
    let compiled = Compiled::new(policy(vec![allow])).unwrap();
    let decision = decide(&compiled, &Facts::fresh(), &call(Action::ToolCall, "send", Some(1)));
    assert_eq!(decision.effect, Effect::Allow);
    assert_eq!(decision.reserve.of(Kind::MicroUsd), 5);
    assert_eq!(decision.reserve.of(Kind::ToolCalls), 1);
    assert_eq!(decision.obligations, vec![crate::model::Obligation::AddLabel("untrusted".to_owned())]);
}
