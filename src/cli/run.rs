//! `weir run`: one program under a policy, through the whole line.

use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use serde_json::{Map, Value, json};

use super::compose;
use crate::model::{Action, Call, CallId, Millis, Outcome, ReasonCode, Resource, Status, Subject};
use crate::pep::Answer;
use crate::pep::port::{Executor as _, Nobody, ToolHost, ToolSpec};
use crate::sandbox::Guest;

/// Run a program under a policy.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The policy.
    #[arg(long, value_name = "FILE")]
    policy: PathBuf,
    /// Folder of the journal and its key [default: `$WEIR_HOME`, or the user's state folder].
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
    /// Name of the agent in accounts and receipts.
    #[arg(long, default_value = "local")]
    agent: String,
    /// Name of the session; its budgets, and its variables where the policy keeps them, go on over runs with the same
    /// name.
    #[arg(long)]
    session: Option<String>,
    /// Language of the program: a guest that is built (`weir guest ls`) and that the policy lets run.
    #[arg(long, value_name = "NAME", default_value = "python", value_parser = PossibleValuesParser::new(Guest::names()))]
    language: String,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
    /// The program; `-` reads standard input.
    program: PathBuf,
}

/// A host without tools.
struct NoTools;

impl ToolHost for NoTools {
    fn tools(&self) -> Vec<ToolSpec> {
        Vec::new()
    }

    fn call(&self, _: &CallId, _: &str, _: &Map<String, Value>, _: Millis) -> Outcome {
        Outcome::of(Status::Broken)
    }
}

pub(super) fn run(args: Args) -> Result<u8, String> {
    let policy = compose::policy(&args.policy)?;
    let code = String::from_utf8(compose::read(&args.program)?)
        .map_err(|_| format!("{}: not UTF-8", args.program.display()))?;
    let session = match &args.session {
        Some(session) => compose::name("session", session)?,
        None => compose::fresh("run")?,
    };
    let subject = Subject {
        org: compose::name("organisation", "local")?,
        agent: compose::name("agent", &args.agent)?,
        session,
        run: compose::fresh("run")?,
        delegation: Vec::new(),
        project: None,
    };
    let folder = compose::home(args.store)?;
    let gate = compose::gate(policy.clone(), &folder, Box::new(Nobody))?;
    let sandbox = compose::sandbox(&policy, &args.policy, &folder)?;
    let seat = subject.seat();
    let answer = gate.handle(call(subject, &args.language, &code)?, &sandbox, &NoTools);
    if args.session.is_none() {
        // Nobody knows its name: nobody can come back to it.
        sandbox.close(&seat);
    }
    if args.json {
        print_json(&answer)
    } else {
        print_plain(&answer)
    }
    Ok(exit_code(&answer))
}

fn call(subject: Subject, language: &str, code: &str) -> Result<Call, String> {
    let mut arguments = Map::new();
    arguments.insert("code".to_owned(), Value::String(code.to_owned()));
    Ok(Call {
        id: compose::fresh("call")?,
        subject,
        action: Action::CodeRun,
        resource: Resource::named(compose::name("guest", language)?),
        args: arguments,
        parent: None,
        surface: compose::name("surface", "run")?,
    })
}

/// 0 done, 1 guest error, 3 denied, 4 budget or limit; 2 is usage and policy.
fn exit_code(answer: &Answer) -> u8 {
    match &answer.outcome {
        None if answer.decision.reason.code == ReasonCode::BudgetExhausted => 4,
        None => 3,
        Some(outcome) => match outcome.status {
            Status::Done => 0,
            Status::Failed | Status::Broken | Status::Unknown => 1,
            Status::Denied => 3,
            Status::Exhausted => 4,
        },
    }
}

fn print_plain(answer: &Answer) {
    if let Some(outcome) = &answer.outcome {
        anstream::print!("{}", outcome.logs);
        if let Some(error) = &outcome.error {
            let text = if error.traceback.is_empty() {
                format!("{}: {}", error.kind, error.message)
            } else {
                error.traceback.trim_end().to_owned()
            };
            anstream::eprintln!("{text}");
        }
        for notice in &outcome.notices {
            anstream::eprintln!("note: {notice}");
        }
    }
    // The traceback of a denial that nobody caught ends with its text already.
    let shown = |text: &str| {
        answer.outcome.iter().flat_map(|outcome| &outcome.error).any(|error| error.traceback.contains(text))
    };
    if let Some(denial) = answer.denial.as_deref().filter(|text| !shown(text)) {
        anstream::eprintln!("{denial}");
    }
}

fn print_json(answer: &Answer) {
    let outcome = answer.outcome.as_ref();
    let value = json!({
        "call": answer.call,
        "effect": answer.decision.effect,
        "reason": answer.decision.reason,
        "denial": answer.denial,
        "status": outcome.map(|outcome| outcome.status),
        "output": outcome.map(|outcome| &outcome.output),
        "logs": outcome.map(|outcome| &outcome.logs),
        "error": outcome.and_then(|outcome| outcome.error.as_ref()),
        "notices": outcome.map(|outcome| &outcome.notices),
        "usage": outcome.map(|outcome| outcome.usage),
        "receipt": answer.receipt,
    });
    anstream::println!("{value:#}");
}
