//! Jobs on rented machines, programs of this one, what may be changed in a registry: what a policy says of them, what they
//! cost at most, and that a job's hold stays over a restart of the gate.

#[path = "support/mod.rs"]
mod support;

use serde_json::{Value, json};
use support::{World, call, key, name, subject};
use weir::audit::verify;
use weir::model::{Action, Amounts, Call, Effect, Kind, Name, Outcome, ReasonCode, Resource, Status};
use weir::pdp::{Compiled, Facts, decide};
use weir::policy::{Policy, parse};

const POLICY: &str = r#"
[policy]
id = "training"

[[registry]]
name = "hub"
writable = ["model:team/out"]
[[registry.pin]]
name = "model:team/base"
revision = "0123456789abcdef0123456789abcdef01234567"
[[registry.pin]]
name = "model:team/old"
revision = "0123456789abcdef0123456789abcdef01234567"
code = true

[jobs]
namespaces = ["team"]
images = ["python:3.12"]
commands = [["uv", "run"], ["python", "train.py"]]
secrets = ["HF_TOKEN"]
max_timeout = "4h"
[[jobs.flavor]]
name = "t4-small"
micro_usd_per_hour = 400_000
gpus = 1
source = "the provider's page"
as_of = "2026-11-01"
[[jobs.flavor]]
name = "cpu-basic"
micro_usd_per_hour = 10_000
gpus = 0
source = "the provider's page"
as_of = "2026-11-01"

[exec]
programs = ["python3"]
read = ["data"]
write = ["runs"]
env = ["HOME"]
gpus = 2
[exec.limits]
wall_ms = 60_000
cpu_ms = 100_000
memory_bytes = 1_073_741_824
processes = 64
disk_bytes = 1_000_000
grace_ms = 5_000

[[budget]]
id = "money"
scope = "agent"
kind = "micro_usd"
limit = 1_000_000
[[budget]]
id = "at-once"
scope = "agent"
kind = "jobs"
limit = 2

[[rule]]
id = "all"
effect = "allow"
actions = ["package.fetch", "package.publish", "job.launch", "process.run"]
"#;

fn policy() -> Policy {
    parse(POLICY.as_bytes(), "p.toml").unwrap_or_else(|faults| panic!("{faults}"))
}

fn launch(id: &str, flavor: &str, change: &Value) -> Call {
    let mut args = json!({
        "image": "python:3.12", "command": ["uv", "run", "x.py"], "timeout_s": 3_600, "namespace": "team",
        "secrets": ["HF_TOKEN"], "environment": {"A": "b"}, "volumes": [], "ports": [], "ssh": false, "network": null,
        "schedule": null,
    });
    for (key, value) in change.as_object().unwrap() {
        args[key] = value.clone();
    }
    call(id, Action::JobLaunch, flavor, args)
}

fn fetch(repo: &str, args: Value) -> Call {
    let pin = name("0123456789abcdef0123456789abcdef01234567");
    let resource = Resource { registry: Some(name("hub")), revision: Some(pin), ..Resource::named(name(repo)) };
    Call { resource, ..call("f", Action::PackageFetch, "x", args) }
}

fn publish(repo: &str, registry: &str) -> Call {
    let resource = Resource { registry: Some(name(registry)), ..Resource::named(name(repo)) };
    Call { resource, ..call("p", Action::PackagePublish, "x", json!({"bytes": 12})) }
}

fn process(program: &str, args: Value) -> Call {
    call("r", Action::ProcessRun, program, args)
}

#[test]
fn what_is_not_listed_of_a_machine_or_a_registry_is_refused_with_what_is() {
    let policy = Compiled::new(policy()).unwrap();
    let job = |change: Value| launch("j", "t4-small", &change);
    let cases = [
        (job(json!({})), None, ""),
        (launch("j", "a100x8", &json!({})), Some(ReasonCode::UnknownPrice), "flavors cpu-basic, t4-small"),
        (job(json!({"timeout_s": 14_401})), Some(ReasonCode::NoJob), "1 to 14400 seconds"),
        (job(json!({"timeout_s": 0})), Some(ReasonCode::NoJob), "1 to 14400 seconds"),
        (job(json!({"timeout_s": "90000.0s"})), Some(ReasonCode::NoJob), "1 to 14400 seconds"),
        (job(json!({"timeout_s": null})), Some(ReasonCode::NoJob), "1 to 14400 seconds"),
        (job(json!({"timeout_s": 3_600.5})), Some(ReasonCode::NoJob), "1 to 14400 seconds"),
        (job(json!({"timeout_s": -1})), Some(ReasonCode::NoJob), "1 to 14400 seconds"),
        (job(json!({"image": "python:3.13"})), Some(ReasonCode::NoJob), "images python:3.12"),
        (job(json!({"namespace": "other"})), Some(ReasonCode::NoJob), "namespaces team"),
        (job(json!({"secrets": ["HF_TOKEN", "OTHER"]})), Some(ReasonCode::NoJob), "secrets HF_TOKEN"),
        (job(json!({"secrets": {"HF_TOKEN": "x"}})), Some(ReasonCode::NoJob), "secrets HF_TOKEN"),
        (job(json!({"command": ["bash", "-c", "uv run"]})), Some(ReasonCode::NoJob), "uv run; python train.py"),
        (job(json!({"command": ["uv"]})), Some(ReasonCode::NoJob), "uv run; python train.py"),
        (job(json!({"command": []})), Some(ReasonCode::NoJob), ""),
        (job(json!({"command": "uv run x.py"})), Some(ReasonCode::NoJob), ""),
        (job(json!({"ssh": true})), Some(ReasonCode::NoJob), "a job without it"),
        (job(json!({"ports": [8080]})), Some(ReasonCode::NoJob), "a job without it"),
        (job(json!({"volumes": [{"a": 1}]})), Some(ReasonCode::NoJob), "a job without it"),
        (job(json!({"network": {"group": "g"}})), Some(ReasonCode::NoJob), "a job without it"),
        (job(json!({"schedule": "@daily"})), Some(ReasonCode::NoJob), "a job without it"),
        (job(json!({"resourceGroupId": "x"})), Some(ReasonCode::NoJob), "timeout_s"),
        (fetch("model:team/base", json!({"path": "a.safetensors", "code": false})), None, ""),
        (
            fetch("model:team/base", json!({"path": "a.pkl", "code": true})),
            Some(ReasonCode::UnpinnedPackage),
            "safetensors",
        ),
        (
            fetch("model:team/base", json!({"path": "a.pkl", "code": null})),
            Some(ReasonCode::UnpinnedPackage),
            "safetensors",
        ),
        (fetch("model:team/old", json!({"path": "a.pkl", "code": true})), None, ""),
        (fetch("model:team/none", json!({})), Some(ReasonCode::UnpinnedPackage), "model:team/base"),
        (publish("model:team/out", "hub"), None, ""),
        (
            Call { args: serde_json::Map::new(), ..publish("model:team/out", "hub") },
            Some(ReasonCode::BadArgument),
            "bytes as a whole number",
        ),
        (publish("model:team/base", "hub"), Some(ReasonCode::NotWritable), "names model:team/out"),
        (publish("model:team/out", "python"), Some(ReasonCode::NotWritable), ""),
        (process("python3", json!({"argv": ["/usr/bin/python3", "train.py"], "cwd": ".", "gpus": 2})), None, ""),
        (process("python3", json!({"argv": ["bash"]})), Some(ReasonCode::NoProgram), ""),
        (process("python3", json!({"argv": []})), Some(ReasonCode::NoProgram), ""),
        (process("python3", json!({"argv": "python3"})), Some(ReasonCode::NoProgram), ""),
        (process("bash", json!({"argv": ["bash"]})), Some(ReasonCode::NoProgram), "programs python3"),
        (process("python3", json!({"argv": ["python3"], "gpus": 3})), Some(ReasonCode::NoProgram), "0 to 2 GPUs"),
        (process("python3", json!({"argv": ["python3"], "gpus": -1})), Some(ReasonCode::NoProgram), "0 to 2 GPUs"),
        (
            process("python3", json!({"argv": ["python3"], "root": true})),
            Some(ReasonCode::NoProgram),
            "argv, cwd, gpus",
        ),
    ];
    for (call, refused, instead) in cases {
        let decision = decide(&policy, &Facts::fresh(), &call);
        let text = decision.reason.denial("it");
        let asked = format!("{:?} {:?} {:?}: {text}", call.action, call.resource.name, call.args);
        assert_eq!(decision.effect, if refused.is_some() { Effect::Deny } else { Effect::Allow }, "{asked}");
        assert!(refused.is_none_or(|code| decision.reason.code == code), "{asked}");
        assert!(text.contains(instead) && text.len() <= 400, "{asked}");
    }
}

#[test]
fn a_policy_without_machines_grants_none() {
    let bare = "[policy]\nid = \"p\"\n[[rule]]\nid = \"all\"\neffect = \"allow\"\nactions = [\"job.launch\", \"process.run\"]\n";
    let policy = Compiled::new(parse(bare.as_bytes(), "p.toml").unwrap()).unwrap();
    let calls = [launch("j", "t4-small", &json!({})), process("python3", json!({"argv": ["python3"]}))];
    for (call, code) in calls.iter().zip([ReasonCode::NoJob, ReasonCode::NoProgram]) {
        let decision = decide(&policy, &Facts::fresh(), call);
        assert_eq!((decision.effect, decision.reason.code), (Effect::Deny, code));
    }
}

#[test]
fn a_job_holds_its_price_for_all_its_minutes_and_its_start() {
    let policy = Compiled::new(policy()).unwrap();
    let reserve = |flavor, change: &Value| decide(&policy, &Facts::fresh(), &launch("j", flavor, change)).reserve;
    let minute = |hour: u64| hour.div_ceil(60);
    let expected = |minutes, hour, gpu_ms| {
        let one = Amounts::ZERO.with(Kind::Calls, 1).with(Kind::Jobs, 1).with(Kind::GpuMs, gpu_ms);
        one.with(Kind::MicroUsd, minutes * minute(hour))
    };
    assert_eq!(reserve("t4-small", &json!({})), expected(62, 400_000, 3_600_000));
    assert_eq!(reserve("t4-small", &json!({"timeout_s": 61})), expected(4, 400_000, 61_000), "a started minute counts");
    assert_eq!(reserve("cpu-basic", &json!({})), expected(62, 10_000, 0));
    let live = |price: u64| reserve("t4-small", &json!({"live_micro_usd_per_hour": price}));
    assert_eq!(live(900_000), expected(62, 900_000, 3_600_000), "the dearer price counts");
    assert_eq!(live(1), expected(62, 400_000, 3_600_000));
}

#[test]
fn a_program_is_granted_what_the_budgets_still_hold() {
    let policy = Compiled::new(policy()).unwrap();
    let run = process("python3", json!({"argv": ["python3"], "gpus": 2}));
    let fresh = decide(&policy, &Facts::fresh(), &run);
    let grant = fresh.exec.unwrap();
    assert_eq!((grant.gpus, grant.limits.wall_ms.0, grant.limits.grace_ms.0), (2, 60_000, 5_000));
    let held = fresh.reserve;
    assert_eq!([Kind::WallMs, Kind::GpuMs, Kind::CpuMs].map(|kind| held.of(kind)), [65_000, 130_000, 100_000]);
    assert_eq!([Kind::Jobs, Kind::DiskBytes].map(|kind| held.of(kind)), [1, 1_000_000]);
    let mut facts = Facts::fresh();
    for (kind, left) in [(Kind::GpuMs, 40_001), (Kind::CpuMs, 7), (Kind::DiskBytes, 0), (Kind::MemoryBytes, 1 << 20)] {
        facts.remaining.set(kind, left);
    }
    let tight = decide(&policy, &facts, &run);
    let limits = tight.exec.unwrap().limits;
    assert_eq!((limits.wall_ms.0, limits.grace_ms.0, limits.cpu_ms.0, limits.disk_bytes), (20_000, 0, 7, 0));
    let within = tight.reserve.iter().all(|(kind, held)| held <= facts.left(kind));
    assert!(within, "{:?}", tight.reserve);
}

#[test]
fn a_jobs_hold_and_place_stay_over_a_restart_until_its_outcome() {
    for snapshots in [0, 1] {
        let world = World::default();
        if snapshots > 0 {
            world.store.snapshots_every(snapshots);
        }
        let gate = world.open(policy());
        let works: Vec<_> = ["one", "two"].map(|id| gate.admit(launch(id, "t4-small", &json!({}))).unwrap()).into();
        gate.post_part(&works[0], 1, Amounts::ZERO.with(Kind::MicroUsd, 500)).unwrap();
        assert!(gate.lasting().is_empty(), "what this process watches is not adrift");
        drop((works, gate));

        let gate = world.open(policy());
        let third = gate.admit(launch("three", "t4-small", &json!({}))).unwrap_err();
        assert_eq!(
            third.decision.reason.code,
            ReasonCode::BudgetExhausted,
            "both places are taken: {:?}",
            third.denial
        );
        assert_eq!(gate.lasting().iter().map(|call| call.id.as_str()).collect::<Vec<_>>(), ["one", "two"]);
        let one = gate.resume(&name("one")).unwrap();
        assert_eq!((one.parts, one.posted.of(Kind::MicroUsd)), (1, 500));
        assert!(gate.resume(&name("one")).is_none(), "once");
        gate.post_part(&one.work, 2, Amounts::ZERO.with(Kind::MicroUsd, 250)).unwrap();
        let usage = Amounts::ZERO.with(Kind::Calls, 1).with(Kind::MicroUsd, 1_000);
        let done = gate.complete(one.work, Outcome { usage, ..Outcome::of(Status::Done) });
        assert!(done.receipt.unwrap().verifies(&key().public()));
        gate.give_up(&name("two")).unwrap();
        let held = Amounts::ZERO.with(Kind::MicroUsd, 62 * 400_000_u64.div_ceil(60));
        assert_eq!(
            gate.doubts().iter().map(|(id, posted)| (id.as_str(), posted.of(Kind::MicroUsd))).collect::<Vec<_>>(),
            [("two", held.of(Kind::MicroUsd))]
        );
        let spent = 1_000 + held.of(Kind::MicroUsd);
        let posted = |gate: &weir::pep::Gate| {
            let agent = gate.balances().into_iter().find(|balance| balance.account.as_str() == "acme/coder").unwrap();
            (agent.posted.of(Kind::MicroUsd), agent.pending.of(Kind::Jobs))
        };
        assert_eq!(posted(&gate), (spent, 0));
        drop(gate);
        let texts = world.store.texts();
        verify(texts.into_iter(), None, &key().public(), |_| {}).unwrap();
        assert_eq!(posted(&world.open(policy())), (spent, 0), "replay is the state");
    }
}

#[test]
fn only_jobs_of_an_earlier_life_can_be_taken_up() {
    let world = World::default();
    let gate = world.open(policy());
    let run = gate.admit(process("python3", json!({"argv": ["python3"]}))).unwrap();
    let job = gate.admit(launch("job", "cpu-basic", &json!({}))).unwrap();
    let resumes = |gate: &weir::pep::Gate, id: &Name| gate.resume(id).is_some();
    assert!(!resumes(&gate, &name("r")) && !resumes(&gate, &name("job")) && !resumes(&gate, &name("none")));
    assert!(gate.give_up(&name("job")).is_err(), "somebody watches it");
    drop((run, job, gate));
    let gate = world.open(policy());
    assert!(!resumes(&gate, &name("r")), "a program ends with its gate");
    assert_eq!(gate.doubts().len(), 1);
    assert_eq!(gate.lasting()[0].subject, subject());
    assert!(resumes(&gate, &name("job")));
}

#[test]
fn an_amount_that_a_job_did_not_use_is_not_taken_at_the_worst() {
    let gate = World::default().open(policy());
    let work = gate.admit(launch("j", "t4-small", &json!({}))).unwrap();
    let answer = gate.complete(work, Outcome { usage: Amounts::ZERO, ..Outcome::of(Status::Failed) });
    assert_eq!(answer.receipt.unwrap().execution.unwrap().usage.of(Kind::MicroUsd), 0);
}

#[track_caller]
fn refused(from: &str, to: &str, words: &str) {
    let text = POLICY.replacen(from, to, 1);
    assert_ne!(text, POLICY, "`{from}` is in the policy");
    let faults = parse(text.as_bytes(), "p.toml").expect_err("must be refused");
    assert!(faults.0.iter().any(|fault| fault.text.contains(words)), "no `{words}` in:\n{faults}");
}

#[test]
fn faults_of_jobs_and_programs_are_told() {
    refused("max_timeout = \"4h\"", "", "lacks `max_timeout`");
    refused("max_timeout = \"4h\"", "max_timeout = \"8d\"", "a span");
    refused("max_timeout = \"4h\"", "max_timeout = \"1h\"\ndefault_timeout = \"2h\"", "is over `max_timeout`");
    refused("micro_usd_per_hour = 400_000", "micro_usd_per_hour = 0", "is 1 to");
    refused("micro_usd_per_hour = 400_000", "", "lacks `micro_usd_per_hour`");
    refused("as_of = \"2026-11-01\"", "as_of = \"yesterday\"", "the day on which");
    refused("name = \"cpu-basic\"", "name = \"t4-small\"", "the flavor `t4-small` stands twice");
    refused("[\"uv\", \"run\"]", "[]", "none of them empty");
    refused("[\"uv\", \"run\"]", "\"uv run\"", "an array of arrays of strings");
    refused("\"python:3.12\"", "\"python 3.12\"", "references such as");
    refused("programs = [\"python3\"]", "programs = []", "names no program");
    refused("programs = [\"python3\"]", "programs = [\"/usr/bin/python3\"]", "base names");
    refused("read = [\"data\"]", "read = [\"../data\"]", "paths without");
    refused("write = [\"runs\"]", "write = [\"/\"]", "paths without");
    refused("env = [\"HOME\"]", "env = [\"HOME=x\"]", "names of variables");
    refused("env = [\"HOME\"]", "env = [\"HOME\", \"HOME\"]", "stands twice");
    refused("gpus = 2", "gpus = 65", "is 0 to 64");
    refused("cpu_ms = 100_000", "", "lacks `cpu_ms`");
    refused("programs = [\"python3\"]", "programs = [\"python3\"]\nshell = true", "unknown field `shell`");
    refused("code = true", "code = 1", "true or false");
}
