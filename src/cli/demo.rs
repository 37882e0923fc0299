//! `weir demo`: the whole job on a recorded agent run, executed for real. No network, no key.
//!
//! Profile in, policy out; every step through the line; receipts verified, one byte flipped and
//! found; declared against observed. The store is a temporary folder that is removed at the end.

mod show;
mod tools;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::compose;
use crate::audit::{self, PublicKey};
use crate::journal;
use crate::model::{Action, Call, Resource, Status, Subject};
use crate::pdp::Compiled;
use crate::pep::port::Nobody;
use crate::pep::{Answer, Gate};
use crate::policy::{self, Certainty, Profile, Severity};
use crate::risk::FactorScore;
use crate::sandbox::Sandbox;
use tools::Tools;

const LISTING: &str = include_str!("../../examples/demo/listing.txt");
const POLICY: &str = include_str!("../../examples/demo/policy.toml");
const RUN: &str = include_str!("../../examples/demo/run.toml");

/// Show the whole job on a recorded agent run: no network, no key.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print what happened as JSON.
    #[arg(long)]
    json: bool,
    /// Keep the journal in this folder instead of a temporary one.
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

/// A recorded run.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Recorded {
    task: String,
    step: Vec<RecordedStep>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RecordedStep {
    says: String,
    code: String,
    expect: Status,
}

/// Everything that the demo shows.
#[derive(Serialize)]
struct Report {
    profile: ProfileShown,
    policy: PolicyShown,
    task: String,
    steps: Vec<Step>,
    audit: Audit,
    scores: Vec<FactorScore>,
    took_ms: u128,
}

#[derive(Serialize)]
struct ProfileShown {
    id: String,
    factor_sum: f64,
    threats: usize,
    uncertain_layers: usize,
}

#[derive(Serialize)]
struct PolicyShown {
    rules: usize,
    budgets: usize,
    unanswered: usize,
}

/// One step as it went.
#[derive(Serialize)]
struct Step {
    says: String,
    code: String,
    status: Status,
    expected: Status,
    logs: String,
    answer: Option<Value>,
    stopped: Option<String>,
    error: Option<String>,
    notices: Vec<String>,
    calls: Vec<String>,
    fuel: u64,
}

#[derive(Serialize)]
struct Audit {
    entries: u64,
    receipts: u64,
    denials: u64,
    flipped: String,
    found: String,
}

pub(super) fn run(args: Args) -> Result<u8, String> {
    let started = Instant::now();
    let temporary = tempdir(args.keep.as_deref())?;
    let sandbox = compose::plain()?;
    let report = play(&sandbox, temporary.path(), started);
    temporary.close();
    let report = report?;
    if args.json {
        let value = serde_json::to_value(&report).map_err(|error| error.to_string())?;
        anstream::println!("{value:#}");
    } else {
        show::print(&report);
    }
    let held = report.steps.iter().all(|step| step.status == step.expected) && !report.audit.found.is_empty();
    Ok(u8::from(!held))
}

fn play(sandbox: &Sandbox, folder: &Path, started: Instant) -> Result<Report, String> {
    let profile = policy::import(LISTING.as_bytes(), "listing.txt").map_err(|faults| faults.to_string())?;
    let policy = policy::parse(POLICY.as_bytes(), "policy.toml").map_err(|faults| faults.to_string())?;
    let remarks = policy::check(&policy);
    let shown = (
        profile_shown(&profile),
        PolicyShown {
            rules: policy.rules.len(),
            budgets: policy.budgets.len(),
            unanswered: remarks.iter().filter(|remark| remark.severity == Severity::Error).count(),
        },
    );
    let compiled = Compiled::new(policy).map_err(|faults| faults.to_string())?;
    let recorded: Recorded = toml::from_str(RUN).map_err(|error| error.to_string())?;

    let gate = compose::gate(compiled, folder, Box::new(Nobody))?;
    let subject = subject()?;
    let tools = Arc::new(Tools::default());
    let mut steps = Vec::new();
    for step in recorded.step {
        steps.push(execute(&gate, sandbox, &tools, &subject, step)?);
    }
    let scores = gate.scores();
    drop(gate);
    let audit = tamper(folder)?;
    let (profile, policy) = shown;
    Ok(Report { profile, policy, task: recorded.task, steps, audit, scores, took_ms: started.elapsed().as_millis() })
}

fn subject() -> Result<Subject, String> {
    Ok(Subject {
        org: compose::name("organisation", "demo")?,
        agent: compose::name("agent", "smolagents")?,
        session: compose::name("session", "demo-session")?,
        run: compose::name("run", "demo-run")?,
        delegation: Vec::new(),
        project: None,
    })
}

fn profile_shown(profile: &Profile) -> ProfileShown {
    ProfileShown {
        id: profile.id.to_string(),
        factor_sum: f64::from(profile.factors.sum_hundredths()) / 100.0,
        threats: profile.threats().len(),
        uncertain_layers: profile.layers.iter().filter(|layer| layer.certainty == Certainty::Uncertain).count(),
    }
}

fn execute(
    gate: &Gate,
    sandbox: &Sandbox,
    tools: &Arc<Tools>,
    subject: &Subject,
    step: RecordedStep,
) -> Result<Step, String> {
    let mut arguments = Map::new();
    arguments.insert("code".to_owned(), Value::String(step.code.clone()));
    let call = Call {
        id: compose::fresh("call")?,
        subject: subject.clone(),
        action: Action::CodeRun,
        resource: Resource::named(compose::name("guest", "python")?),
        args: arguments,
        parent: None,
        surface: compose::name("surface", "demo")?,
    };
    let answer = gate.handle(call, sandbox, tools.as_ref());
    let calls = tools.take();
    Ok(as_step(step, answer, calls))
}

fn as_step(step: RecordedStep, answer: Answer, calls: Vec<String>) -> Step {
    let denial = answer.denial;
    let Some(outcome) = answer.outcome else {
        let status = Status::Denied;
        let RecordedStep { says, code, expect } = step;
        return Step {
            says,
            code,
            status,
            expected: expect,
            logs: String::new(),
            answer: None,
            stopped: denial,
            error: None,
            notices: Vec::new(),
            calls,
            fuel: 0,
        };
    };
    let message = outcome.error.map(|error| error.message);
    let refused = message.as_ref().is_some_and(|message| message.starts_with("[weir]"));
    Step {
        says: step.says,
        code: step.code,
        status: outcome.status,
        expected: step.expect,
        logs: outcome.logs,
        answer: outcome.is_final.then_some(outcome.output),
        stopped: if refused { message.clone() } else { denial },
        error: if refused || outcome.stopped.is_some() { None } else { message },
        notices: outcome.notices,
        calls,
        fuel: outcome.usage.of(crate::model::Kind::Fuel),
    }
}

/// Verifies the journal, then flips one byte of a copy and verifies that.
fn tamper(folder: &Path) -> Result<Audit, String> {
    let store = journal::Reader::open(folder).map_err(|fault| fault.to_string())?;
    let mut texts = Vec::new();
    let head = store.replay(&mut |text| texts.push(text)).map_err(|fault| fault.to_string())?;
    let key = journal::public_key(folder)?;
    let sound = check(texts.clone(), head.as_ref(), &key).map_err(|bad| bad.to_string())?;
    let middle = texts.len() / 2;
    let flipped = format!("one byte of entry {middle}");
    if let Some(text) = texts.get_mut(middle) {
        // A digit of the entry's time: still valid JSON, still plausible.
        *text = text.replacen("\"at\":1", "\"at\":2", 1);
    }
    let found = match check(texts, head.as_ref(), &key) {
        Ok(_) => String::new(),
        Err(bad) => bad.to_string(),
    };
    Ok(Audit { entries: sound.entries, receipts: sound.receipts, denials: sound.denials, flipped, found })
}

fn check(texts: Vec<String>, head: Option<&audit::Head>, key: &PublicKey) -> Result<audit::Verified, audit::Bad> {
    audit::verify(texts.into_iter(), head, key, |_| {})
}

/// A folder that is removed at the end, unless the user named it.
struct Folder {
    path: PathBuf,
    remove: bool,
}

impl Folder {
    fn path(&self) -> &Path {
        &self.path
    }

    fn close(self) {
        if self.remove {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

fn tempdir(keep: Option<&Path>) -> Result<Folder, String> {
    if let Some(path) = keep {
        return Ok(Folder { path: path.to_path_buf(), remove: false });
    }
    let path = std::env::temp_dir().join(compose::fresh("weir-demo")?.as_str());
    Ok(Folder { path, remove: true })
}
