//! `weir explain`: how a call would be decided, which rules were tried, and what would be allowed.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::compose;
use crate::model::{Action, Call, Digest, Effect, Name, Resource, Subject, parse_json};
use crate::pdp::{Facts, Trace, explain};

/// Say how a call would be decided, and why.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The policy.
    #[arg(long, value_name = "FILE")]
    policy: PathBuf,
    /// Print the trace as JSON.
    #[arg(long)]
    json: bool,
    /// The call: `{"action","resource","args","labels","registry","revision","digest","delegation"}`;
    /// `-` reads standard input.
    call: PathBuf,
}

/// The file's form.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    action: Action,
    resource: Name,
    #[serde(default)]
    args: Map<String, Value>,
    #[serde(default)]
    labels: Vec<String>,
    registry: Option<Name>,
    revision: Option<Name>,
    digest: Option<Digest>,
    #[serde(default)]
    delegation: Vec<Name>,
    #[serde(default)]
    since_person: u64,
}

pub(super) fn run(args: Args) -> Result<u8, String> {
    let policy = compose::policy(&args.policy)?;
    let (facts, call) = question(&args.call)?;
    let trace = explain(&policy, &facts, &call);
    if args.json {
        let value = serde_json::to_value(&trace).map_err(|error| error.to_string())?;
        anstream::println!("{value:#}");
    } else {
        print(&trace, &call);
    }
    Ok(if trace.decision.effect == Effect::Deny { 3 } else { 0 })
}

fn question(path: &Path) -> Result<(Facts, Call), String> {
    let shown = path.display();
    let value = parse_json(&compose::read(path)?).map_err(|fault| format!("{shown}: {fault}"))?;
    let question: Question = serde_json::from_value(value).map_err(|error| format!("{shown}: {error}"))?;
    let name = |text| compose::name("name", text);
    let subject = Subject {
        org: name("local")?,
        project: None,
        agent: name("local")?,
        session: name("explain")?,
        run: name("explain")?,
        delegation: question.delegation,
    };
    let resource = Resource {
        name: question.resource,
        registry: question.registry,
        revision: question.revision,
        digest: question.digest,
    };
    let call = Call {
        id: name("explain")?,
        subject,
        action: question.action,
        resource,
        args: question.args,
        parent: None,
        surface: name("explain")?,
    };
    let labels = question.labels.into_iter().collect();
    Ok((Facts { labels, since_person: question.since_person, ..Facts::fresh() }, call))
}

fn print(trace: &Trace, call: &Call) {
    let decision = &trace.decision;
    anstream::println!("{} {} -> {}", call.action.word(), call.resource.name, decision.effect.word());
    anstream::println!("  because  {}", decision.reason);
    let answers: Vec<&str> = decision.reason.answers.iter().map(|threat| threat.as_str()).collect();
    if !answers.is_empty() {
        anstream::println!("  answers  {}", answers.join(", "));
    }
    if !trace.allowed.is_empty() {
        anstream::println!("  allowed  {}", trace.allowed);
    }
    if !decision.reserve.is_zero() {
        let held: Vec<String> =
            decision.reserve.iter().map(|(kind, amount)| format!("{amount} {}", kind.row().name)).collect();
        anstream::println!("  reserves {}", held.join(", "));
    }
    for step in &trace.steps {
        let held = match step.held {
            Some(true) => "held",
            Some(false) => "did not hold",
            None => "could not be evaluated",
        };
        anstream::println!("  rule     {} ({}): {held}", step.rule, step.effect.word());
    }
}
