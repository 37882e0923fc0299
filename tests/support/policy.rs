//! Small policies, built by hand so that these tests stand on nothing but the gate.

use std::collections::{BTreeMap, BTreeSet};

use weir::model::{
    Access, Action, Amounts, Checkpoint, Clock, CodeLimits, Digest, Effect, EffectClass, Keep, Kind, Millis, Preopen,
    Randomness, Record, Window,
};
use weir::policy::{
    Approvals, ArgRule, ArgType, Budget, Code, Cost, Memory, Peers, Pin, Policy, Registry, Rule, Scope, Tool,
};

/// An argument that nothing constrains.
pub fn unconstrained() -> ArgRule {
    ArgRule {
        kind: ArgType::Any,
        required: false,
        min: None,
        max: None,
        max_len: None,
        one_of: Vec::new(),
        path_within: Vec::new(),
        host_in: Vec::new(),
    }
}

/// A tool whose arguments nothing constrains.
pub fn tool(name: &str, effect: EffectClass) -> Tool {
    Tool {
        name: name.to_owned(),
        effect,
        shell: None,
        args: BTreeMap::new(),
        extra_args: true,
        cost: Cost::default(),
        labels: Vec::new(),
        answers: Vec::new(),
        line: 1,
    }
}

pub fn rule(id: &str, effect: Effect, actions: &[Action], resources: &[&str], when: Option<&str>) -> Rule {
    Rule {
        id: id.to_owned(),
        effect,
        actions: actions.to_vec(),
        resources: resources.iter().map(|&text| text.to_owned()).collect(),
        effects: Vec::new(),
        except: Vec::new(),
        when: when.map(str::to_owned),
        answers: Vec::new(),
        assumed: false,
        reason: format!("rule {id}"),
        expect: Vec::new(),
        line: 1,
    }
}

pub fn budget(id: &str, scope: Scope, kind: Kind, limit: u64, at_cap: Effect) -> Budget {
    Budget {
        id: id.to_owned(),
        scope,
        kind,
        limit,
        window: Window::Total,
        shared: None,
        at_cap,
        answers: Vec::new(),
        assumed: false,
        line: 1,
    }
}

/// A policy of nothing: everything is denied.
pub fn empty() -> Policy {
    Policy {
        id: super::name("empty"),
        digest: Digest::of(b"empty"),
        file: "test.toml".to_owned(),
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
        labels: BTreeSet::new(),
        memory: Memory { survive: Keep::Session, answers: Vec::new() },
        protected: Vec::new(),
        protected_answers: Vec::new(),
        rules: Vec::new(),
        answers: Vec::new(),
        accepted: BTreeMap::new(),
    }
}

pub fn code() -> Code {
    Code {
        imports: vec!["math".into(), "json".into()],
        files: vec![Preopen { guest: "/data".into(), host: "data".into(), access: Access::Read, quota: None }],
        scratch: None,
        packages: Vec::new(),
        checkpoint: Checkpoint::Asked,
        record: Record::Nothing,
        clock: Clock::Frozen,
        randomness: Randomness::Seeded,
        limits: CodeLimits {
            memory_bytes: 64 << 20,
            wall_ms: Millis(1_000),
            fuel: 100_000,
            stack_bytes: 1 << 20,
            output_bytes: 10_000,
            result_bytes: 10_000,
            callbacks: 100,
            tool_ms: Millis(1_000),
        },
        answers: Vec::new(),
    }
}

/// The policy of most tests: `look` reads, `web` taints, `save` is denied once tainted, `mail` asks,
/// `buy` costs 100 micro-USD; programs, two modules, a peer and a pinned package.
pub fn busy() -> Policy {
    let mut policy = Policy { id: super::name("busy"), digest: Digest::of(b"busy"), ..empty() };
    let mut web = tool("web", EffectClass::Network);
    web.labels = vec!["untrusted".into()];
    let mut buy = tool("buy", EffectClass::Spend);
    buy.cost = Cost(Amounts::ZERO.with(Kind::MicroUsd, 100));
    let tools = [
        tool("look", EffectClass::Read),
        web,
        tool("save", EffectClass::Write),
        tool("mail", EffectClass::Network),
        buy,
    ];
    policy.tools = tools.into_iter().map(|tool| (tool.name.clone(), tool)).collect();
    policy.labels.insert("untrusted".into());
    policy.code = Some(code());
    policy.peers = Peers { names: BTreeSet::from(["helper".to_owned()]), max_depth: 1, answers: Vec::new() };
    let pin = Pin { name: "left-pad".into(), revision: "1.0.0".into(), digest: None, code: false };
    let registry = Registry { name: "python".into(), pins: vec![pin], writable: BTreeSet::new(), answers: Vec::new() };
    policy.registries.insert("python".into(), registry);
    let call = &[Action::ToolCall];
    let tainted = Some("context.labels.contains(\"untrusted\")");
    policy.rules = vec![
        rule("tools", Effect::Allow, call, &["look", "web", "save", "buy"], None),
        rule("tainted", Effect::Deny, call, &["save"], tainted),
        rule("mail", Effect::Ask, call, &["mail"], None),
        rule("run", Effect::Allow, &[Action::CodeRun, Action::CodeImport], &[], None),
        rule("peers", Effect::Allow, &[Action::AgentInvoke], &["helper"], None),
        rule("models", Effect::Allow, &[Action::ModelGenerate], &["small"], None),
        rule("packages", Effect::Allow, &[Action::PackageFetch], &[], None),
        rule("tired", Effect::Ask, call, &["look"], Some("context.since_person >= 40")),
    ];
    policy
}

/// `tight` with budgets over time, short enough that a life of a gate sees them come and go.
pub fn timed() -> Policy {
    let mut policy = Policy { id: super::name("timed"), digest: Digest::of(b"timed"), ..tight() };
    let over = |id, scope, limit, window, at_cap| Budget { window, ..budget(id, scope, Kind::MicroUsd, limit, at_cap) };
    policy.budgets.extend([
        over("money-each", Scope::Session, 200, Window::Every(Millis(30_000)), Effect::Ask),
        over("money-rolling", Scope::Org, 400, Window::Rolling(Millis(60_000)), Effect::Deny),
        over("money-refilled", Scope::Agent, 300, Window::Refill(Millis(40_000)), Effect::Deny),
    ]);
    policy.budgets.push(budget("programs", Scope::Agent, Kind::Jobs, 1, Effect::Deny));
    policy
}

/// `busy` with budgets in every scope, of every way to end.
pub fn tight() -> Policy {
    let mut policy = Policy { id: super::name("tight"), digest: Digest::of(b"tight"), ..busy() };
    policy.budgets = vec![
        budget("money", Scope::Org, Kind::MicroUsd, 1_500, Effect::Deny),
        budget("money-session", Scope::Session, Kind::MicroUsd, 600, Effect::Ask),
        budget("calls", Scope::Agent, Kind::Calls, 60, Effect::Deny),
        budget("tools-run", Scope::Run, Kind::ToolCalls, 12, Effect::Ask),
        budget("tokens", Scope::Session, Kind::Tokens, 500, Effect::Deny),
        budget("fuel", Scope::Session, Kind::Fuel, 150_000, Effect::Deny),
        budget("memory", Scope::Agent, Kind::MemoryBytes, 64 << 20, Effect::Deny),
    ];
    policy
}
