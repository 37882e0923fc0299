//! The decision: structure first (tools, arguments, modules, packages, peers), then rules.
//!
//! Strictest wins; no rule means deny; what cannot be evaluated is a deny. Order of rules never
//! matters. Pure and total.

use std::collections::BTreeSet;

use super::command::{Seen, seen};
use super::compile::strictest;
use super::tokens::{TokenBound, token_bound};
use super::{Compiled, Facts, cedar, compute, structure};
use crate::model::{
    Action, Amounts, Call, CodeGrant, Decision, Effect, Kind, Obligation, Reason, ReasonCode, memory_ms,
};
use crate::policy::Rule;

/// Decides `call` under `policy` and `facts`.
#[must_use]
pub fn decide(policy: &Compiled, facts: &Facts, call: &Call) -> Decision {
    let (effect, reason, obligations) = match judged(policy, call) {
        Err(reason) => (Effect::Deny, reason, Vec::new()),
        Ok(seen) => match by_rules(policy, facts, call, &seen) {
            (Effect::Deny, reason) => (Effect::Deny, reason, Vec::new()),
            (effect, reason) => (effect, reason, obligations(policy, call, &seen)),
        },
    };
    let grant = (effect != Effect::Deny).then(|| grant(policy, facts, call)).flatten();
    let exec = (effect != Effect::Deny).then(|| compute::grant(policy.policy(), facts, call)).flatten();
    let reserve = match (effect, &exec) {
        (Effect::Deny, _) => Amounts::ZERO,
        (_, Some(exec)) => exec.worst_case(),
        (Effect::Allow | Effect::Ask, None) => reserve(policy, call, grant.as_ref()),
    };
    Decision { effect, reason, obligations, reserve, grant, exec, policy: policy.policy().digest }
}

/// What rules see of `call`, unless the policy's tables refuse it.
pub(super) fn judged(policy: &Compiled, call: &Call) -> Result<Seen, Reason> {
    if let Some(reason) = structure::refusal(policy.policy(), call) {
        return Err(reason);
    }
    seen(policy.policy(), call).unwrap_or_else(|| Ok(Seen::plain(policy.effect_class(call))))
}

fn by_rules(policy: &Compiled, facts: &Facts, call: &Call, seen: &Seen) -> (Effect, Reason) {
    let rules = &policy.policy().rules;
    let Some(slice) = policy.slice(call, seen.class) else { return none(policy, call) };
    let effect_of = |index: usize| rules.get(index).map(|rule| (rule.effect, index));
    let mut best = slice.fixed.and_then(effect_of);
    if !slice.conditional.is_empty() {
        let verdict = cedar::evaluate(&slice.conditional, &slice.reads, facts, call, seen);
        if let Some(rule) = verdict.failed.iter().min().and_then(|index| rules.get(*index)) {
            let detail = "the rule's condition could not be evaluated on this call";
            return (Effect::Deny, Reason::new(ReasonCode::RuleError, detail).by(&rule.id, &rule.answers));
        }
        for held in verdict.held.iter().copied().filter_map(effect_of) {
            best = strictest(best, held);
        }
    }
    match best.and_then(|(effect, index)| Some((effect, rules.get(index)?))) {
        Some((effect, rule)) => (effect, by(rule, effect, policy, call)),
        None => none(policy, call),
    }
}

fn by(rule: &Rule, effect: Effect, policy: &Compiled, call: &Call) -> Reason {
    let code = if effect == Effect::Allow { ReasonCode::Allowed } else { ReasonCode::Rule };
    let reason = Reason::new(code, rule.reason.trim_end_matches('.')).by(&rule.id, &rule.answers);
    match effect {
        Effect::Allow => reason,
        Effect::Ask | Effect::Deny => reason.instead(structure::instead(policy.policy(), call)),
    }
}

fn none(policy: &Compiled, call: &Call) -> (Effect, Reason) {
    let detail = match call.action {
        Action::CodeRun => format!("no rule of the policy allows code.run in {}", call.resource.name),
        action => format!("no rule of the policy allows {}", action.word()),
    };
    (Effect::Deny, Reason::new(ReasonCode::NoRule, detail).instead(structure::instead(policy.policy(), call)))
}

/// The labels of the tool and of the programs that its command line runs.
fn obligations(policy: &Compiled, call: &Call, seen: &Seen) -> Vec<Obligation> {
    if call.action != Action::ToolCall {
        return Vec::new();
    }
    let policy = policy.policy();
    let of_tool = policy.tools.get(call.resource.name.as_str()).into_iter().flat_map(|tool| &tool.labels);
    let rows = seen.programs.iter().filter_map(|name| policy.programs.get(name));
    let labels: BTreeSet<&String> = of_tool.chain(rows.flat_map(|row| &row.labels)).collect();
    labels.into_iter().cloned().map(Obligation::AddLabel).collect()
}

/// The grant of one execution: the policy's, attenuated to what the budgets still hold.
fn grant(policy: &Compiled, facts: &Facts, call: &Call) -> Option<CodeGrant> {
    if call.action != Action::CodeRun {
        return None;
    }
    let code = policy.policy().code.as_ref()?;
    let mut limits = code.limits;
    let least = |limit: u64, kind: Kind| limit.min(facts.left(kind).max(1));
    limits.fuel = least(limits.fuel, Kind::Fuel);
    limits.memory_bytes = least(limits.memory_bytes, Kind::MemoryBytes);
    let by_memory = facts.left(Kind::MemoryMs) / memory_ms(limits.memory_bytes, 1).max(1);
    limits.wall_ms.0 = least(limits.wall_ms.0, Kind::WallMs).min(by_memory.max(1));
    let output = facts.left(Kind::OutputBytes).max(1);
    limits.result_bytes = limits.result_bytes.min(output / 2);
    limits.output_bytes = limits.output_bytes.min(output - limits.result_bytes);
    Some(CodeGrant {
        limits,
        imports: code.imports.clone(),
        files: code.files.clone(),
        scratch: code.scratch.clone(),
        packages: code.packages.clone(),
        clock: code.clock,
        randomness: code.randomness,
        keep: policy.policy().memory.survive,
        checkpoint: code.checkpoint,
        record: code.record,
    })
}

/// What must be held before the call may run.
fn reserve(policy: &Compiled, call: &Call, grant: Option<&CodeGrant>) -> Amounts {
    let one = Amounts::ZERO.with(Kind::Calls, 1);
    match call.action {
        Action::CodeRun => grant.map_or(one, CodeGrant::worst_case),
        Action::ToolCall => {
            let cost = policy.policy().tools.get(call.resource.name.as_str()).map_or(Amounts::ZERO, |tool| tool.cost.0);
            cost.with(Kind::Calls, 1).with(Kind::ToolCalls, 1)
        }
        Action::AgentInvoke => one.with(Kind::ToolCalls, 1),
        Action::ModelGenerate => {
            let bound = token_bound(policy.policy(), call).unwrap_or(TokenBound::UNKNOWN);
            // A bound of what is read bounds each sort of it; they are told apart where a budget does.
            let limited = bound.sorts().into_iter().filter(|(kind, _)| structure::limits(policy.policy(), *kind));
            let held = limited.fold(one.with(Kind::Tokens, bound.all), |held, (kind, most)| held.with(kind, most));
            let model = policy.policy().models.get(call.resource.name.as_str());
            match model.and_then(|model| model.price.as_ref()) {
                Some(price) => held.with(Kind::MicroUsd, bound.cost(price)),
                None => held,
            }
        }
        // A cost that nobody can tell is one that no budget holds.
        Action::JobLaunch => compute::cost(policy.policy(), call).unwrap_or(one.with(Kind::MicroUsd, u64::MAX)),
        Action::PackagePublish => {
            let bytes = call.args.get("bytes").and_then(serde_json::Value::as_u64);
            one.with(Kind::EgressBytes, bytes.unwrap_or(u64::MAX))
        }
        // A program has a grant, which says what it costs.
        Action::CodeImport | Action::PackageFetch | Action::ProcessRun => one,
    }
}
