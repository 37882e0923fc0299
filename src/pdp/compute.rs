//! Machines: jobs on rented ones and programs of this one. What the policy says of them before any rule, what they
//! are granted, and what they cost at most.
//!
//! Judged is the request as a surface has parsed it, and all of it: an argument that nothing here knows is a refusal,
//! so that nothing is forwarded that nobody looked at.

use serde_json::{Map, Value};

use super::Facts;
use super::structure::{instead, visible};
use crate::model::{Action, Amounts, Call, ExecGrant, Kind, Reason, ReasonCode};
use crate::policy::{Exec, Flavor, Jobs, Policy};

/// Every argument of a launch.
const LAUNCH: [&str; 13] = [
    "image",
    "command",
    "timeout_s",
    "namespace",
    "secrets",
    "environment",
    "labels",
    "live_micro_usd_per_hour",
    "volumes",
    "ports",
    "ssh",
    "network",
    "schedule",
];
/// Arguments of a launch that open a way into or out of a job, or start it again later: never granted.
const OPENINGS: [(&str, &str); 5] = [
    ("volumes", "volumes"),
    ("ports", "exposed ports"),
    ("ssh", "access by ssh"),
    ("network", "a network between jobs"),
    ("schedule", "a schedule"),
];
/// Every argument of a program.
const PROCESS: [&str; 3] = ["argv", "cwd", "gpus"];

/// The reason to refuse a job whatever the rules say.
pub(super) fn job(policy: &Policy, call: &Call) -> Option<Reason> {
    let Some(jobs) = &policy.jobs else {
        return Some(Reason::new(ReasonCode::NoJob, "the policy grants no jobs on rented machines"));
    };
    let flavor = call.resource.name.as_str();
    if !jobs.flavors.contains_key(flavor) {
        let detail = format!("the policy gives no price for the flavor `{flavor}`, so that its cost is unknown");
        let reason = Reason::new(ReasonCode::UnknownPrice, detail).instead(instead(policy, call));
        return Some(reason.by("jobs", &jobs.answers));
    }
    let fault = unknown(&call.args, &LAUNCH).or_else(|| opened(&call.args)).or_else(|| launched(jobs, &call.args));
    fault.map(|(detail, allowed)| Reason::new(ReasonCode::NoJob, detail).instead(allowed).by("jobs", &jobs.answers))
}

/// What is wrong, and what would be right.
type Fault = (String, String);

fn unknown(args: &Map<String, Value>, known: &[&str]) -> Option<Fault> {
    let name = args.keys().find(|name| !known.contains(&name.as_str()))?;
    Some((format!("nothing is known of `{}`", visible(name)), known.join(", ")))
}

/// A way in or out that the launch asks for.
fn opened(args: &Map<String, Value>) -> Option<Fault> {
    let closed = |value: &Value| match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(items) => items.is_empty(),
        _ => false,
    };
    let open = |key: &str| args.get(key).is_some_and(|value| !closed(value));
    let (_, what) = OPENINGS.iter().find(|(key, _)| open(key))?;
    Some((format!("a job may not have {what}"), "a job without it".to_owned()))
}

fn launched(jobs: &Jobs, args: &Map<String, Value>) -> Option<Fault> {
    let text = |key: &str| args.get(key).and_then(Value::as_str).unwrap_or_default();
    let names = |names: &std::collections::BTreeSet<String>| {
        if names.is_empty() { "none".to_owned() } else { names.iter().cloned().collect::<Vec<_>>().join(", ") }
    };
    let namespace = text("namespace");
    if !jobs.namespaces.contains(namespace) {
        let detail = format!("jobs do not run under `{}`", visible(namespace));
        return Some((detail, format!("namespaces {}", names(&jobs.namespaces))));
    }
    let image = text("image");
    if !jobs.images.contains(image) {
        return Some((
            format!("the image `{}` is not listed", visible(image)),
            format!("images {}", names(&jobs.images)),
        ));
    }
    let most = jobs.max_timeout_s;
    match args.get("timeout_s").map(Value::as_u64) {
        Some(Some(seconds)) if (1..=most).contains(&seconds) => {}
        _ => return Some(("the time of a job is stated, in whole seconds".to_owned(), format!("1 to {most} seconds"))),
    }
    commanded(jobs, args).or_else(|| {
        let listed = |secret: &Value| secret.as_str().is_some_and(|secret| jobs.secrets.contains(secret));
        let sound =
            args.get("secrets").is_none_or(|secrets| secrets.as_array().is_some_and(|all| all.iter().all(listed)));
        (!sound).then(|| {
            ("a job asks for a secret that is not listed".to_owned(), format!("secrets {}", names(&jobs.secrets)))
        })
    })
}

/// A command is words, and begins as one of the listed does.
fn commanded(jobs: &Jobs, args: &Map<String, Value>) -> Option<Fault> {
    let words = args.get("command").and_then(Value::as_array).and_then(|words| texts(words));
    let Some(words) = words.filter(|words| !words.is_empty()) else {
        return Some(("a job has a command, a list of words".to_owned(), String::new()));
    };
    let begins = |listed: &Vec<String>| {
        words.len() >= listed.len() && listed.iter().zip(&words).all(|(listed, word)| listed.as_str() == *word)
    };
    let listed = jobs.commands.is_empty() || jobs.commands.iter().any(begins);
    (!listed).then(|| {
        let known: Vec<String> = jobs.commands.iter().take(6).map(|words| words.join(" ")).collect();
        let first = words.first().copied().unwrap_or_default();
        (
            format!("no listed command begins as this one, with `{}`", visible(first)),
            format!("commands {}", known.join("; ")),
        )
    })
}

fn texts(items: &[Value]) -> Option<Vec<&str>> {
    items.iter().map(Value::as_str).collect()
}

/// What a job costs at most: the price of its flavor for its time and its start, its GPUs for its time.
pub(super) fn cost(policy: &Policy, call: &Call) -> Option<Amounts> {
    let flavor: &Flavor = policy.jobs.as_ref()?.flavors.get(call.resource.name.as_str())?;
    let number = |key: &str| call.args.get(key).and_then(Value::as_u64);
    let seconds = number("timeout_s")?;
    let money = flavor.at_most(seconds, number("live_micro_usd_per_hour").unwrap_or(0));
    let gpu = flavor.gpus.saturating_mul(seconds).saturating_mul(1_000);
    let one = Amounts::ZERO.with(Kind::Calls, 1).with(Kind::Jobs, 1);
    Some(one.with(Kind::MicroUsd, money).with(Kind::GpuMs, gpu))
}

/// The reason to refuse a program of this machine whatever the rules say.
pub(super) fn process(policy: &Policy, call: &Call) -> Option<Reason> {
    let Some(exec) = &policy.exec else {
        return Some(Reason::new(ReasonCode::NoProgram, "the policy grants no programs of this machine"));
    };
    let program = call.resource.name.as_str();
    let (detail, allowed) = if exec.programs.contains(program) {
        unknown(&call.args, &PROCESS).or_else(|| run(exec, program, &call.args))?
    } else {
        (format!("the program `{program}` is not listed"), instead(policy, call))
    };
    Some(Reason::new(ReasonCode::NoProgram, detail).instead(allowed).by("exec", &exec.answers))
}

fn run(exec: &Exec, program: &str, args: &Map<String, Value>) -> Option<Fault> {
    let words = args.get("argv").and_then(Value::as_array).and_then(|words| texts(words));
    // What is judged is what runs: the name is that of the first word.
    let named = words.as_ref().and_then(|words| words.first()).and_then(|first| first.rsplit('/').next());
    if named != Some(program) {
        return Some(("a program has a list of words, of which the first names it".to_owned(), String::new()));
    }
    if !args.get("cwd").is_none_or(Value::is_string) {
        return Some(("the folder in which a program runs is a text".to_owned(), String::new()));
    }
    let gpus = args.get("gpus").map_or(Some(0), Value::as_u64);
    let most = u64::from(exec.gpus);
    (gpus.is_none_or(|gpus| gpus > most))
        .then(|| (format!("a program may hold {most} GPUs"), format!("0 to {most} GPUs")))
}

/// The grant of one program: the policy's, attenuated to what the budgets still hold.
pub(super) fn grant(policy: &Policy, facts: &Facts, call: &Call) -> Option<ExecGrant> {
    if call.action != Action::ProcessRun {
        return None;
    }
    let exec = policy.exec.as_ref()?;
    let gpus = u32::try_from(call.args.get("gpus").and_then(Value::as_u64).unwrap_or(0)).unwrap_or(u32::MAX);
    let mut limits = exec.limits;
    let least = |limit: u64, kind: Kind| limit.min(facts.left(kind).max(1));
    let wall = facts.left(Kind::WallMs).min(facts.left(Kind::GpuMs) / u64::from(gpus.max(1)).max(1));
    let wall = if gpus == 0 { facts.left(Kind::WallMs) } else { wall };
    // Wall time and grace together are held: where little is left the grace is what goes.
    limits.wall_ms.0 = limits.wall_ms.0.min(wall.max(1));
    limits.grace_ms.0 = limits.grace_ms.0.min(wall.saturating_sub(limits.wall_ms.0));
    limits.cpu_ms.0 = least(limits.cpu_ms.0, Kind::CpuMs);
    limits.memory_bytes = least(limits.memory_bytes, Kind::MemoryBytes);
    limits.disk_bytes = limits.disk_bytes.min(facts.left(Kind::DiskBytes));
    Some(ExecGrant {
        read: exec.read.clone(),
        write: exec.write.clone(),
        env: exec.env.iter().cloned().collect(),
        network: exec.network,
        gpus,
        limits,
    })
}
