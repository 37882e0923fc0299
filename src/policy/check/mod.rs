//! Whether a policy makes sense as a whole: every threat answered, every rule able to decide.
//!
//! `parse` has made sure that each table is right by itself. What `check` says never changes a
//! decision; errors are for the author, before the policy is put to use.

mod coverage;
mod rules;

use serde::Serialize;

use super::{Policy, Tool};
use crate::model::{Action, Effect, EffectClass, Kind};

pub use coverage::{LayerCoverage, ThreatCoverage, coverage};

/// How serious a remark is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The policy is not fit for use.
    Error,
    /// It is, and something in it does not do what it seems to.
    Warning,
}

/// One thing to know about a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Remark {
    /// How serious.
    pub severity: Severity,
    /// Line of the file, 0 for the whole.
    pub line: usize,
    /// What, and what to do about it.
    pub text: String,
}

/// Collects remarks.
#[derive(Default)]
struct Remarks(Vec<Remark>);

impl Remarks {
    fn error(&mut self, line: usize, text: String) {
        self.0.push(Remark { severity: Severity::Error, line, text });
    }

    fn warning(&mut self, line: usize, text: String) {
        self.0.push(Remark { severity: Severity::Warning, line, text });
    }
}

/// Everything to know about `policy`, errors first, then by line.
#[must_use]
pub fn check(policy: &Policy) -> Vec<Remark> {
    let mut remarks = Remarks::default();
    unanswered(policy, &mut remarks);
    rules::check(policy, &mut remarks);
    unused(policy, &mut remarks);
    starved(policy, &mut remarks);
    remarks.0.sort_by(|a, b| (a.severity, a.line, &a.text).cmp(&(b.severity, b.line, &b.text)));
    remarks.0
}

fn unanswered(policy: &Policy, remarks: &mut Remarks) {
    for layer in coverage(policy) {
        for threat in layer.threats.iter().filter(|threat| threat.accepted.is_none() && threat.answered_by.is_empty()) {
            let advice =
                "name it in `answers` of the rule or table that answers it, or accept it with a reason in [accepted]";
            remarks.error(0, format!("no part of the policy answers the threat {}; {advice}", threat.threat));
        }
    }
    if policy.provenance.is_none() {
        let text = "the policy has no [profile]: no threats to answer are known, and scores have nothing declared to compare with";
        remarks.warning(0, text.to_owned());
    }
    for (threat, _) in policy.accepted.iter().filter(|(threat, _)| !coverage::answerers(policy, **threat).is_empty()) {
        remarks.warning(0, format!("{threat} is accepted although the policy answers it; take it out of [accepted]"));
    }
}

/// Things that are declared and that nothing can use.
fn unused(policy: &Policy, remarks: &mut Remarks) {
    for tool in policy.tools.values().filter(|tool| !rules::may_pass(policy, Action::ToolCall, &tool.name)) {
        remarks.warning(
            tool.line,
            format!("no rule allows the tool `{}` or asks about it; it is always denied", tool.name),
        );
    }
    for tool in policy.tools.values().filter(|tool| tool.effect == EffectClass::Spend && tool.cost.0.is_zero()) {
        let text = "spends and has no [tool.cost]; an unknown price is denied, so every call of it is";
        remarks.warning(tool.line, format!("the tool `{}` {text}", tool.name));
    }
    unbounded(policy, remarks);
    programs(policy, remarks);
    let idle = |action, declared: bool, what: &str, remarks: &mut Remarks| {
        if declared && !policy.rules.iter().any(|rule| rule.effect != Effect::Deny && rule.actions.contains(&action)) {
            remarks.warning(0, format!("{what}, and no rule allows `{}`", action.word()));
        }
    };
    idle(Action::CodeRun, policy.code.is_some(), "there is a [code] section", remarks);
    idle(
        Action::CodeImport,
        policy.code.as_ref().is_some_and(|code| !code.imports.is_empty()),
        "[code] lists imports",
        remarks,
    );
    idle(Action::AgentInvoke, !policy.peers.names.is_empty(), "[peers] names agents", remarks);
    let pinned = policy.registries.values().any(|registry| !registry.pins.is_empty());
    idle(Action::PackageFetch, pinned, "[[registry]] pins packages", remarks);
    let open = policy.registries.values().any(|registry| !registry.writable.is_empty());
    idle(Action::PackagePublish, open, "[[registry]] names what is writable", remarks);
    idle(Action::JobLaunch, policy.jobs.is_some(), "there is a [jobs] section", remarks);
    idle(Action::ProcessRun, policy.exec.is_some(), "there is an [exec] section", remarks);
    if !policy.peers.names.is_empty() && policy.peers.max_depth == 0 {
        remarks.warning(0, "[peers] names agents, and `max_depth = 0` lets none be called".to_owned());
    }
}

/// Programs that no tool runs or may run, and command lines without any.
fn programs(policy: &Policy, remarks: &mut Remarks) {
    let most = policy.tools.values().filter(|tool| tool.shell.is_some()).map(|tool| tool.effect.strictness()).max();
    for program in policy.programs.values() {
        match most {
            None => remarks.warning(program.line, format!("no tool has `shell`, so `{}` runs nowhere", program.name)),
            Some(most) if program.effect.strictness() > most => {
                let text = "is stricter than any tool with `shell` may be; command lines with it are always denied";
                remarks.warning(program.line, format!("the program `{}` {text}", program.name));
            }
            Some(_) => {}
        }
    }
    for tool in policy.tools.values().filter(|tool| tool.shell.is_some() && policy.programs.is_empty()) {
        let text = "takes command lines and there is no [[program]]; only what is part of the shell runs";
        remarks.warning(tool.line, format!("the tool `{}` {text}", tool.name));
    }
}

/// Things whose amounts a budget limits and the policy does not bound: the gate denies them.
fn unbounded(policy: &Policy, remarks: &mut Remarks) {
    let limits = |kind| policy.budgets.iter().any(|budget| budget.kind == kind);
    let silent = |tool: &&Tool| tool.effect == EffectClass::Network && tool.cost.0.of(Kind::EgressBytes) == 0;
    for tool in policy.tools.values().filter(|_| limits(Kind::EgressBytes)).filter(silent) {
        let text =
            "sends bytes that a budget limits and has no `egress_bytes` in [tool.cost]; every call of it is denied";
        remarks.warning(tool.line, format!("the tool `{}` {text}", tool.name));
    }
    for model in policy.models.values().filter(|model| limits(Kind::MicroUsd) && model.price.is_none()) {
        let text = "has no [model.price] and a budget limits money; every generation by it is denied";
        remarks.warning(model.line, format!("the model `{}` {text}", model.name));
    }
}

/// Budgets that are too small for a single execution.
fn starved(policy: &Policy, remarks: &mut Remarks) {
    let Some(code) = &policy.code else { return };
    let disk = code.scratch.as_ref().map_or(0, |scratch| scratch.quota.bytes);
    let worst = code.limits.worst_case().with(Kind::DiskBytes, disk);
    for budget in
        policy.budgets.iter().filter(|budget| budget.at_cap == Effect::Deny && worst.of(budget.kind) > budget.limit)
    {
        let (need, kind) = (worst.of(budget.kind), budget.kind.row());
        let text = format!(
            "the budget `{}` holds {} {} and one execution of code reserves {need}; raise it or lower [code.limits]",
            budget.id, budget.limit, kind.unit
        );
        remarks.error(budget.line, text);
    }
}
