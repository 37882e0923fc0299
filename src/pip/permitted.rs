//! The most that a policy lets happen, per risk factor: structure only, no statistics.
//!
//! Every value is an upper bound on the level that evidence of calls under this policy can show, by
//! the same rubric (`risk::FACTOR_SIGNALS`). Where a rule's condition leaves it open, an allow counts
//! as given and a denial as not given. Nothing here decides a call.

use crate::{
    model::{Access, Action, Effect, EffectClass, Factor, Level},
    policy::{Policy, Rule},
    risk::{Source, grade},
};

/// Fewest peers, or kinds of sources, that are "many" in the rubric.
const MANY: usize = 3;

/// What may become of a call, at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Reach {
    /// Always refused.
    Never,
    /// It runs after a person has said yes.
    Asked,
    /// It may run without a person.
    Free,
}

/// One kind of call that a policy may let run.
#[derive(Clone, Copy, Debug)]
struct Way {
    action: Action,
    effect: Option<EffectClass>,
    reach: Reach,
}

/// The most that `policy` permits per factor, in table order; `None` where a policy cannot say.
#[must_use]
pub fn permitted(policy: &Policy) -> [Option<Level>; 10] {
    let ways = ways(policy);
    let persistence = persistence(policy, &ways);
    let peers = ways.iter().filter(|way| way.action == Action::AgentInvoke).count();
    crate::model::FACTORS.map(|row| match row.factor {
        Factor::Autonomy => Some(highest(ways.iter().filter(|way| way.reach == Reach::Free))),
        Factor::SelfModification => Some(self_modification(policy, &ways)),
        Factor::Tools => Some(highest(ways.iter())),
        Factor::Persistence => Some(persistence),
        Factor::Context => Some(context(policy, &ways, persistence)),
        Factor::Identity => Some(delegated(policy)),
        Factor::MultiAgent => Some(if peers >= MANY { Level::FULL } else { delegated(policy) }),
        // How an agent plans and varies, and what stays untraced, is not up to a policy.
        Factor::Planning | Factor::NonDeterminism | Factor::Opacity => None,
    })
}

/// Every kind of call that may run.
fn ways(policy: &Policy) -> Vec<Way> {
    let way = |action, resource: Option<&str>, effect| {
        let reach = reach(policy, action, resource, effect);
        (reach > Reach::Never).then_some(Way { action, effect, reach })
    };
    let tools = policy
        .tools
        .values()
        .flat_map(|tool| tool.classes().map(|class| way(Action::ToolCall, Some(tool.name.as_str()), Some(class))));
    let code = policy.code.iter().map(|_| way(Action::CodeRun, None, Some(EffectClass::Exec)));
    let peers = policy.peers.names.iter().filter(|_| policy.peers.max_depth > 0).map(|name| {
        let effect = policy.tools.get(name).map(|tool| tool.effect);
        way(Action::AgentInvoke, Some(name.as_str()), effect)
    });
    let pins = policy.registries.values().flat_map(|registry| &registry.pins);
    let packages = pins.map(|pin| way(Action::PackageFetch, Some(pin.name.as_str()), None));
    tools.chain(code).chain(peers).chain(packages).chain(outside(policy)).flatten().collect()
}

/// What may be changed in registries, and machines: rented ones and this one.
fn outside(policy: &Policy) -> impl Iterator<Item = Option<Way>> + '_ {
    let way = |action, resource: &str| {
        let reach = reach(policy, action, Some(resource), None);
        (reach > Reach::Never).then_some(Way { action, effect: None, reach })
    };
    let open = policy.registries.values().flat_map(|registry| &registry.writable);
    let flavors = policy.jobs.iter().flat_map(|jobs| jobs.flavors.keys());
    let programs = policy.exec.iter().flat_map(|exec| &exec.programs);
    open.map(move |name| way(Action::PackagePublish, name))
        .chain(flavors.map(move |name| way(Action::JobLaunch, name)))
        .chain(programs.map(move |name| way(Action::ProcessRun, name)))
}

/// The best that rules can do for a call; the strictest that certainly holds wins.
fn reach(policy: &Policy, action: Action, resource: Option<&str>, effect: Option<EffectClass>) -> Reach {
    let may =
        |wanted| policy.rules.iter().any(|rule| rule.effect == wanted && may_hold(rule, action, resource, effect));
    let must =
        |wanted| policy.rules.iter().any(|rule| rule.effect == wanted && must_hold(rule, action, resource, effect));
    if must(Effect::Deny) || !(may(Effect::Allow) || may(Effect::Ask)) {
        Reach::Never
    } else if must(Effect::Ask) || !may(Effect::Allow) {
        Reach::Asked
    } else {
        Reach::Free
    }
}

/// True when some such call may fall under the rule.
fn may_hold(rule: &Rule, action: Action, resource: Option<&str>, effect: Option<EffectClass>) -> bool {
    rule.actions.contains(&action)
        && resource.is_none_or(|name| rule.resources.is_empty() || rule.resources.iter().any(|known| known == name))
        && resource.is_none_or(|name| !rule.except.iter().any(|known| known == name))
        && effect_fits(rule, action, effect).unwrap_or(true)
}

/// True when every such call certainly falls under the rule.
fn must_hold(rule: &Rule, action: Action, resource: Option<&str>, effect: Option<EffectClass>) -> bool {
    rule.when.is_none()
        && (resource.is_some() || (rule.resources.is_empty() && rule.except.is_empty()))
        && effect_fits(rule, action, effect).unwrap_or(false)
        && may_hold(rule, action, resource, effect)
}

/// Whether the rule's effect classes take the call in; `None` where the class is not certain (rules
/// speak of classes of tools only).
fn effect_fits(rule: &Rule, action: Action, effect: Option<EffectClass>) -> Option<bool> {
    match (rule.effects.is_empty(), action, effect) {
        (true, ..) => Some(true),
        (false, Action::ToolCall, Some(class)) => Some(rule.effects.contains(&class)),
        (false, ..) => None,
    }
}

/// The highest grade of any way.
fn highest<'a>(ways: impl Iterator<Item = &'a Way>) -> Level {
    ways.filter_map(|way| grade(way.action, way.effect)).max().unwrap_or(Level::NONE)
}

fn any(ways: &[Way], test: impl Fn(&Way) -> bool) -> bool {
    ways.iter().any(test)
}

fn self_modification(policy: &Policy, ways: &[Way]) -> Level {
    let tool = |way: &Way, class| way.action == Action::ToolCall && way.effect == Some(class);
    let writes = any(ways, |way| tool(way, EffectClass::Write));
    let program = |way: &Way| matches!(way.action, Action::CodeRun | Action::ProcessRun);
    let runs = any(ways, |way| program(way) || tool(way, EffectClass::Exec));
    if runs || (writes && policy.protected.is_empty()) {
        Level::FULL
    } else if writes || any(ways, |way| way.action == Action::PackageFetch) {
        Level::PARTIAL
    } else {
        Level::NONE
    }
}

fn persistence(policy: &Policy, ways: &[Way]) -> Level {
    let runs_code = any(ways, |way| way.action == Action::CodeRun);
    let folders = policy.code.iter().flat_map(|code| &code.files);
    let writable = runs_code && folders.into_iter().any(|folder| folder.access == Access::Write);
    let leaves_traces = |way: &Way| match way.action {
        Action::ToolCall => way.effect != Some(EffectClass::Read),
        Action::AgentInvoke | Action::PackagePublish | Action::JobLaunch | Action::ProcessRun => true,
        _ => false,
    };
    if writable || any(ways, leaves_traces) {
        Level::FULL
    } else if runs_code {
        // Even where `memory` keeps nothing: evidence does not say whether variables lived between two
        // programs, and this must bound what evidence can show.
        Level::PARTIAL
    } else {
        Level::NONE
    }
}

fn context(policy: &Policy, ways: &[Way], persistence: Level) -> Level {
    let mut sources: std::collections::BTreeSet<Source> =
        ways.iter().filter_map(|way| Source::of(way.action, way.effect)).collect();
    if persistence == Level::FULL {
        sources.insert(Source::Earlier);
    }
    match sources.len().max(policy.labels.len()) {
        0 => Level::NONE,
        MANY.. if highest(ways.iter()) > Level::NONE => Level::FULL,
        _ => Level::PARTIAL,
    }
}

/// What delegation permits: a call under deeper delegation than `max_depth` is refused, whatever it is.
fn delegated(policy: &Policy) -> Level {
    match policy.peers.max_depth {
        0 => Level::NONE,
        1 => Level::PARTIAL,
        _ => Level::FULL,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::{
        model::{
            Checkpoint, Clock, CodeLimits, Digest, Evidence, FACTORS, Happened, Keep, Millis, Name, Preopen,
            Randomness, Record, Timestamp,
        },
        policy::{Approvals, Code, Cost, Memory, Peers, Pin, Registry, Tool},
        risk::Posterior,
    };

    fn closed() -> Policy {
        Policy {
            id: name("test"),
            digest: Digest::ZERO,
            file: "test.toml".into(),
            provenance: None,
            tools: BTreeMap::new(),
            programs: BTreeMap::new(),
            code: None,
            models: BTreeMap::new(),
            registries: BTreeMap::new(),
            jobs: None,
            exec: None,
            peers: Peers::default(),
            budgets: Vec::new(),
            approvals: Approvals { timeout: Millis(1) },
            labels: Default::default(),
            memory: Memory { survive: Keep::Nothing, answers: Vec::new() },
            protected: Vec::new(),
            protected_answers: Vec::new(),
            answers: Vec::new(),
            accepted: BTreeMap::new(),
            rules: Vec::new(),
        }
    }

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    fn with_tools(mut policy: Policy, tools: &[(&str, EffectClass)]) -> Policy {
        for (name, effect) in tools {
            let tool = Tool {
                name: (*name).into(),
                effect: *effect,
                shell: None,
                args: BTreeMap::new(),
                extra_args: true,
                cost: Cost::default(),
                labels: Vec::new(),
                answers: Vec::new(),
                line: 1,
            };
            policy.tools.insert((*name).into(), tool);
        }
        policy
    }

    fn with_code(mut policy: Policy, access: Option<Access>) -> Policy {
        let limits = CodeLimits {
            memory_bytes: 1,
            wall_ms: Millis(1),
            fuel: 1,
            stack_bytes: 1,
            output_bytes: 1,
            result_bytes: 1,
            callbacks: 1,
            tool_ms: Millis(1),
        };
        let folder = |access| Preopen { guest: "/data".into(), host: "data".into(), access, quota: None };
        policy.code = Some(Code {
            imports: Vec::new(),
            files: access.map(folder).into_iter().collect(),
            scratch: None,
            packages: Vec::new(),
            checkpoint: Checkpoint::Asked,
            record: Record::Nothing,
            clock: Clock::Frozen,
            randomness: Randomness::Seeded,
            limits,
            answers: Vec::new(),
        });
        policy
    }

    fn with_peers(mut policy: Policy, names: &[&str], max_depth: u8) -> Policy {
        policy.peers = Peers { names: names.iter().map(|n| (*n).into()).collect(), max_depth, answers: Vec::new() };
        policy
    }

    fn with_pin(mut policy: Policy) -> Policy {
        let pins = vec![Pin { name: "pack".into(), revision: "1".into(), digest: None, code: false }];
        policy.registries.insert(
            "python".into(),
            Registry { name: "python".into(), pins, writable: BTreeSet::new(), answers: Vec::new() },
        );
        policy
    }

    fn rule(effect: Effect, actions: &[Action]) -> Rule {
        Rule {
            id: "r".into(),
            effect,
            actions: actions.to_vec(),
            resources: Vec::new(),
            effects: Vec::new(),
            except: Vec::new(),
            when: None,
            answers: Vec::new(),
            assumed: false,
            reason: String::new(),
            expect: Vec::new(),
            line: 1,
        }
    }

    fn ruled(mut policy: Policy, rules: Vec<Rule>) -> Policy {
        policy.rules = rules;
        policy
    }

    fn of(policy: &Policy, factor: Factor) -> f64 {
        permitted(policy)[factor as usize].unwrap().fraction()
    }

    #[test]
    fn a_policy_without_rules_permits_nothing() {
        let policy = with_tools(with_code(closed(), Some(Access::Write)), &[("pay", EffectClass::Spend)]);
        for factor in [Factor::Autonomy, Factor::Tools, Factor::SelfModification, Factor::Persistence, Factor::Context]
        {
            assert_eq!(of(&policy, factor), 0.0, "{factor:?}");
        }
        for factor in [Factor::Planning, Factor::NonDeterminism, Factor::Opacity] {
            assert_eq!(permitted(&policy)[factor as usize], None, "{factor:?}");
        }
    }

    #[test]
    fn a_person_takes_autonomy_away_but_not_the_tool() {
        let tools = with_tools(closed(), &[("pay", EffectClass::Spend)]);
        let free = ruled(tools.clone(), vec![rule(Effect::Allow, &[Action::ToolCall])]);
        assert_eq!((of(&free, Factor::Autonomy), of(&free, Factor::Tools)), (1.0, 1.0));
        let both = vec![rule(Effect::Allow, &[Action::ToolCall]), rule(Effect::Ask, &[Action::ToolCall])];
        let asked = ruled(tools.clone(), both.clone());
        assert_eq!((of(&asked, Factor::Autonomy), of(&asked, Factor::Tools)), (0.0, 1.0));
        let mut sometimes = both;
        sometimes[1].when = Some("context.since_person > 5".into());
        assert_eq!(of(&ruled(tools, sometimes), Factor::Autonomy), 1.0, "a condition may not hold");
    }

    #[test]
    fn only_an_unconditional_denial_takes_away() {
        let tools = with_tools(closed(), &[("pay", EffectClass::Spend), ("save", EffectClass::Write)]);
        let mut deny = rule(Effect::Deny, &[Action::ToolCall]);
        deny.effects = vec![EffectClass::Spend];
        let rules = |deny: Rule| vec![rule(Effect::Allow, &[Action::ToolCall]), deny];
        assert_eq!(of(&ruled(tools.clone(), rules(deny.clone())), Factor::Tools), 0.5);
        let conditional = Rule { when: Some("true".into()), ..deny.clone() };
        assert_eq!(of(&ruled(tools.clone(), rules(conditional)), Factor::Tools), 1.0);
        let spared = Rule { except: vec!["pay".into()], ..deny };
        assert_eq!(of(&ruled(tools, rules(spared)), Factor::Tools), 1.0);
    }

    #[test]
    fn protected_paths_bound_what_writing_tools_can_change() {
        let mut policy = with_tools(closed(), &[("save", EffectClass::Write)]);
        policy.rules = vec![rule(Effect::Allow, &[Action::ToolCall])];
        assert_eq!(of(&policy, Factor::SelfModification), 1.0);
        policy.protected = vec!["/etc/agent".into()];
        assert_eq!(of(&policy, Factor::SelfModification), 0.5);
    }

    #[test]
    fn code_persists_only_where_it_may_write() {
        let allow = || vec![rule(Effect::Allow, &[Action::CodeRun])];
        for (access, level) in [(None, 0.5), (Some(Access::Read), 0.5), (Some(Access::Write), 1.0)] {
            let policy = ruled(with_code(closed(), access), allow());
            assert_eq!(of(&policy, Factor::Persistence), level, "{access:?}");
            assert_eq!(of(&policy, Factor::SelfModification), 1.0, "row 10: executing code is full");
        }
    }

    #[test]
    fn peers_and_depth_bound_the_company() {
        let allow = || vec![rule(Effect::Allow, &[Action::AgentInvoke])];
        let level = |names: &[&str], depth| of(&ruled(with_peers(closed(), names, depth), allow()), Factor::MultiAgent);
        assert_eq!(level(&["a", "b"], 1), 0.5);
        assert_eq!(level(&["a", "b", "c"], 1), 1.0);
        assert_eq!(level(&["a"], 2), 1.0);
        assert_eq!(level(&["a", "b", "c"], 0), 0.0, "depth 0 calls nobody and is called by nobody");
    }

    /// Every kind of call, done twenty times in one session under a policy that lets it.
    #[test]
    fn no_evidence_under_a_policy_shows_more_than_it_permits() {
        let all = [
            ("look", EffectClass::Read),
            ("save", EffectClass::Write),
            ("sh", EffectClass::Exec),
            ("get", EffectClass::Network),
            ("pay", EffectClass::Spend),
        ];
        let actions = [Action::ToolCall, Action::CodeRun, Action::AgentInvoke, Action::PackageFetch];
        for bits in 0..512_u16 {
            let chosen: Vec<_> =
                all.into_iter().enumerate().filter(|(i, _)| bits & (1 << i) != 0).map(|(_, t)| t).collect();
            let mut policy = with_tools(closed(), &chosen);
            if bits & 32 != 0 {
                policy = with_code(policy, None);
            }
            if bits & 64 != 0 {
                policy = with_peers(policy, &["p", "q", "r"], 1);
            }
            if bits & 128 != 0 {
                policy = with_pin(policy);
            }
            let mut rules = vec![rule(Effect::Allow, &actions)];
            let asks = bits & 256 != 0;
            if asks {
                rules.push(rule(Effect::Ask, &actions));
            }
            policy.rules = rules;
            let mut posterior = Posterior::default();
            for evidence in evidence_under(&policy, asks) {
                (0..20).for_each(|_| posterior.observe(&evidence));
            }
            let ceiling = permitted(&policy);
            for (row, score) in FACTORS.iter().zip(posterior.scores(None, &ceiling)) {
                if let (Some(permitted), Some(seen)) = (score.permitted, score.high_water) {
                    assert!(seen <= permitted, "{}: {seen} seen, {permitted} permitted, {bits:b}", row.key);
                }
            }
        }
    }

    fn evidence_under(policy: &Policy, asked: bool) -> Vec<Evidence> {
        let one = |action, resource: &str, effect| Evidence {
            session: name("s"),
            at: Timestamp(0),
            action,
            effect,
            resource: name(resource),
            happened: if asked { Happened::Approved } else { Happened::Executed },
            labels: policy.labels.iter().cloned().collect(),
            action_digest: Digest::ZERO,
            input_digest: Digest::ZERO,
            delegation: policy.peers.max_depth,
            protected_path: false,
            earlier_state: matches!((action, effect), (Action::ToolCall, Some(EffectClass::Write))),
            traceable: true,
        };
        let tools = policy.tools.values().map(|tool| one(Action::ToolCall, &tool.name, Some(tool.effect)));
        let code = policy.code.iter().map(|_| one(Action::CodeRun, "python", Some(EffectClass::Exec)));
        let peers = policy.peers.names.iter().map(|peer| one(Action::AgentInvoke, peer, None));
        let pins =
            policy.registries.values().flat_map(|r| &r.pins).map(|pin| one(Action::PackageFetch, &pin.name, None));
        tools.chain(code).chain(peers).chain(pins).collect()
    }
}
