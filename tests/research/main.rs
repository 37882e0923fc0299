//! A research loop as data: the lines that its agent types and the launches that they send, under one derived policy.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use weir::model::{Action, Call, Effect, Name, Obligation, Resource, Subject};
use weir::pdp::{Compiled, Facts, decide};
use weir::policy::{Options, Profile, Severity, check, derive, envelope, narrow, parse};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Steps {
    step: Vec<Step>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    line: String,
    hook: Effect,
    says: Option<String>,
    flavor: Option<String>,
    seconds: Option<u64>,
    image: Option<String>,
    command: Option<Vec<String>>,
    #[serde(default)]
    more: Map<String, Value>,
    launch: Option<Effect>,
    why: String,
}

const PROFILE: &[u8] = include_bytes!("../../policies/profiles/ml-research.toml");
const MACHINES: &str = include_str!("../../examples/training/machines.toml");
const PROGRAM: &[u8] = include_bytes!("program.md");

/// The policy for Claude Code with what `granted` names.
fn derived(programs: &[&str], granted: &[&str]) -> String {
    let profile = Profile::parse(PROFILE, "ml-research.toml").unwrap_or_else(|faults| panic!("{faults}"));
    let mut options = Options::default();
    options.client("claude-code").unwrap();
    programs.iter().for_each(|program| options.program(program).unwrap());
    granted.iter().for_each(|name| options.allow(name).unwrap());
    derive(&profile, &options)
}

fn compiled(text: &str) -> Arc<Compiled> {
    let policy = parse(text.as_bytes(), "policy.toml").unwrap_or_else(|faults| panic!("{faults}"));
    let errors: Vec<_> = check(&policy).into_iter().filter(|remark| remark.severity == Severity::Error).collect();
    assert_eq!(errors, Vec::new());
    Compiled::new(policy).unwrap_or_else(|faults| panic!("{faults}"))
}

fn call(action: Action, resource: &str, args: Value) -> Call {
    let name = |text: &str| Name::new(text).unwrap();
    let subject = Subject {
        org: name("o"),
        project: None,
        agent: name("a"),
        session: name("s"),
        run: name("r"),
        delegation: Vec::new(),
    };
    let Value::Object(args) = args else { panic!("arguments are an object") };
    let resource = Resource::named(name(resource));
    Call { id: name("c"), subject, action, resource, args, parent: None, surface: name("test") }
}

fn bash(line: &str) -> Call {
    call(Action::ToolCall, "Bash", json!({"command": line, "description": "next"}))
}

/// The launch as the proxy reads it off the wire; `None` where the line sends none.
fn launch(step: &Step) -> Option<Call> {
    let mut args = json!({
        "image": step.image.as_deref().unwrap_or("python:3.12"),
        "command": step.command.clone().unwrap_or(vec!["python".into(), "train.py".into()]),
        "timeout_s": step.seconds?,
        "namespace": "team",
    });
    step.more.iter().for_each(|(key, value)| args[key] = value.clone());
    Some(call(Action::JobLaunch, step.flavor.as_deref().unwrap_or("t4-small"), args))
}

/// What is wrong with the decision on `call`.
fn fault(policy: &Compiled, call: &Call, wanted: Effect, says: Option<&str>) -> Option<String> {
    let decision = decide(policy, &Facts::fresh(), call);
    let text = decision.reason.denial("it");
    let told = decision.effect != Effect::Deny || (text.len() < 400 && says.is_none_or(|words| text.contains(words)));
    let right = decision.effect == wanted && told;
    (!right).then(|| format!("{} and not {}: {text}", decision.effect.word(), wanted.word()))
}

#[test]
fn every_step_of_a_research_loop_is_judged_as_it_should_be() {
    let steps: Steps = toml::from_str(include_str!("steps.toml")).unwrap();
    assert!(steps.step.len() >= 20);
    let text = format!("{}{MACHINES}", derived(&[], &["hf", "job.launch"]));
    let narrowed = narrow(&envelope(PROGRAM, "program.md").unwrap(), text.as_bytes(), "policy.toml").unwrap();
    assert_eq!(narrowed.notes.len(), 1, "the envelope names a machine that the policy lacks: {:?}", narrowed.notes);
    let policy = compiled(&narrowed.text);
    let (mut faults, mut launched) = (Vec::new(), 0);
    for step in &steps.step {
        assert_eq!(step.seconds.is_some(), step.launch.is_some(), "{}", step.line);
        // Words of a denial belong to the first place that denies.
        let at_hook = step.says.as_deref().filter(|_| step.hook == Effect::Deny);
        let mut wrong: Vec<String> = fault(&policy, &bash(&step.line), step.hook, at_hook).into_iter().collect();
        if let (Some(call), Some(wanted)) = (launch(step), step.launch) {
            launched += 1;
            wrong.extend(fault(&policy, &call, wanted, step.says.as_deref().filter(|_| at_hook.is_none())));
        }
        faults.extend(wrong.into_iter().map(|wrong| format!("{:?} ({}): {wrong}", step.line, step.why)));
    }
    assert!(launched >= 10, "{launched}");
    assert!(faults.is_empty(), "{} wrong:\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn without_a_grant_a_person_is_asked_or_nothing_runs() {
    let steps: Steps = toml::from_str(include_str!("steps.toml")).unwrap();
    let (granted, plain) = (compiled(&derived(&[], &["hf", "job.launch"])), compiled(&derived(&[], &[])));
    let of = |policy: &Compiled, line: &str| decide(policy, &Facts::fresh(), &bash(line)).effect;
    let mut freed = 0;
    for Step { line, .. } in &steps.step {
        match (of(&granted, line), of(&plain, line)) {
            (Effect::Allow, Effect::Ask) => freed += 1,
            (with, without) => assert_eq!(with, without, "{line}"),
        }
    }
    assert!(freed >= 10, "{freed}");
}

#[test]
fn a_grant_of_programs_is_for_lines_of_them_alone() {
    let policy = compiled(&derived(&["nvidia-smi=read", "make data=exec", "hf jobs labels=network"], &["make", "hf"]));
    let tainted = Facts { labels: ["untrusted".to_owned()].into(), ..Facts::fresh() };
    for (line, wanted) in [
        ("make data", Effect::Allow),
        ("make data && hf jobs labels x && ls", Effect::Allow),
        ("nvidia-smi", Effect::Allow),
        ("make data > log.txt", Effect::Allow),
        ("make data; mkdir x", Effect::Deny),
        ("make data; python x.py", Effect::Deny),
        ("make all", Effect::Deny),
        ("ls > x", Effect::Ask),
        ("hf jobs ps > x", Effect::Allow),
        // A word that only the run shows is stricter than `hf`, and no program of that class is in the line.
        ("hf jobs ps $x", Effect::Deny),
        ("ls $x", Effect::Deny),
        ("make data $x", Effect::Allow),
    ] {
        for facts in [&Facts::fresh(), &tainted] {
            assert_eq!(decide(&policy, facts, &bash(line)).effect, wanted, "{line}");
        }
    }
}

#[test]
fn lines_that_bring_something_from_outside_label_the_session() {
    let policy = compiled(&derived(&[], &["hf", "python"]));
    let labels = |line: &str| decide(&policy, &Facts::fresh(), &bash(line)).obligations;
    let untrusted = vec![Obligation::AddLabel("untrusted".to_owned())];
    assert_eq!(labels("git log"), Vec::new());
    assert_eq!(labels("hf jobs logs 0123"), untrusted);
    assert_eq!(labels("git log | python report.py"), untrusted);
    assert_eq!(labels("pip install x"), Vec::new(), "what is denied brings nothing");
}

#[test]
fn what_makes_no_sense_for_a_client_is_refused() {
    let mut options = Options::default();
    assert!(options.program("make=exec").unwrap_err().contains("name the client"));
    assert!(options.client("claude").unwrap_err().contains("`claude-code`"));
    options.client("claude-code").unwrap();
    for (text, says) in [
        ("make", "NAME=CLASS"),
        ("=exec", "NAME=CLASS"),
        ("make=spend", "is one of"),
        ("make=read", "runs what it is given"),
        ("sudo ls=read", "whatever a row says"),
        ("echo=read", "needs no row"),
        ("xargs=exec", "looked through"),
        ("a\"b=read", "ASCII"),
        ("git commit=write", "a program has one"),
        ("hf=exec", "a program has one"),
        ("git=exec", "a program has one"),
    ] {
        let fault = options.program(text).unwrap_err();
        assert!(fault.contains(says), "{text}: {fault}");
    }
    assert!(options.allow("Bash").unwrap_err().contains("allow programs by name"));
    assert!(options.allow("pithon").unwrap_err().contains("not a declared tool"));
    assert!(options.tool("Bash=exec").unwrap_err().contains("declared already"));
    options.allow("Agent").unwrap();
    assert!(options.client("claude-code").unwrap_err().contains("comes before"));
    let policy = compiled(&derived(&[], &["Agent"]));
    let agent = call(Action::ToolCall, "Agent", json!({"description": "d", "prompt": "p"}));
    assert_eq!(decide(&policy, &Facts::fresh(), &agent).effect, Effect::Allow);
}
