//! `weir policy`: derive a policy from a profile, check a policy.

use std::fmt::Write as _;

use anstyle::AnsiColor;
use serde_json::json;

use super::profile::{BOLD, DIM, emit, read_input, styled};
use crate::pdp::Compiled;
use crate::policy::{
    Faults, LayerCoverage, Options, Policy, Profile, Remark, Severity, check, coverage, derive, envelope, narrow, parse,
};

/// Exit code of a policy that must not be used.
const REFUSED: u8 = 2;

/// Policies: derive one from a profile, check one.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Derive a default-deny policy that answers every threat of a profile.
    Derive {
        /// The profile; `-` reads standard input.
        profile: String,
        /// The coding agent that it runs as: declares its tools and what its command lines may run (claude-code).
        #[arg(long, value_name = "CLIENT")]
        client: Option<String>,
        /// A program of its command lines and its effect: NAME=CLASS, or 'NAME WORD…=CLASS' for one beginning.
        #[arg(long = "program", value_name = "NAME=CLASS")]
        programs: Vec<String>,
        /// A tool of the agent and its effect: read, write, exec, network or spend.
        #[arg(long = "tool", value_name = "NAME=CLASS")]
        tools: Vec<String>,
        /// A declared tool or program that needs no person, whatever its effect; or job.launch, package.publish, process.run.
        #[arg(long, value_name = "NAME")]
        allow: Vec<String>,
        /// Another agent that this one may call.
        #[arg(long = "peer", value_name = "NAME")]
        peers: Vec<String>,
    },
    /// Report every fault, what rules do to each other, and what answers each threat.
    Check {
        /// The policy; `-` reads standard input.
        policy: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Narrow a policy to the "Budget envelope" of a program.md; it never grants more.
    ImportProgram {
        /// The program; `-` reads standard input.
        program: String,
        /// The policy that is narrowed.
        #[arg(long, value_name = "FILE")]
        policy: String,
    },
}

/// Runs the command.
///
/// # Errors
/// What is wrong with the input, for standard error.
pub fn run(args: Args) -> Result<u8, String> {
    match args.command {
        Command::Derive { profile, client, programs, tools, allow, peers } => {
            let mut options = Options::default();
            client.iter().try_for_each(|client| options.client(client))?;
            tools.iter().try_for_each(|tool| options.tool(tool))?;
            programs.iter().try_for_each(|program| options.program(program))?;
            allow.iter().try_for_each(|name| options.allow(name))?;
            peers.iter().try_for_each(|name| options.peer(name))?;
            let (bytes, name) = read_input(&profile)?;
            let profile = Profile::parse(&bytes, &name).map_err(|faults| explain(&bytes, &faults))?;
            emit(&derive(&profile, &options))?;
            Ok(0)
        }
        Command::ImportProgram { program, policy } => {
            let ((program, name), (bytes, file)) = (read_input(&program)?, read_input(&policy)?);
            let envelope = envelope(&program, &name).map_err(|faults| faults.to_string())?;
            let narrowed = narrow(&envelope, &bytes, &file).map_err(|faults| faults.to_string())?;
            narrowed.notes.iter().for_each(|note| anstream::eprintln!("note: {note}"));
            emit(&narrowed.text)?;
            Ok(0)
        }
        Command::Check { policy, json } => {
            let (bytes, name) = read_input(&policy)?;
            let verdict = parse(&bytes, &name).and_then(judge);
            if json { show_json(&name, &verdict) } else { show_text(&name, verdict) }
        }
    }
}

/// The faults, or one sentence when the input is a listing and not yet a profile.
fn explain(bytes: &[u8], faults: &Faults) -> String {
    let text = String::from_utf8_lossy(bytes);
    if text.lines().next().is_some_and(|line| line.trim_end().ends_with("agentic threat model")) {
        return "this is a listing, not a profile; run `weir profile import` on it first".to_owned();
    }
    faults.to_string()
}

/// What is to be said of a policy that could be read.
struct Verdict {
    remarks: Vec<Remark>,
    coverage: Vec<LayerCoverage>,
    summary: String,
}

impl Verdict {
    fn refused(&self) -> bool {
        self.remarks.iter().any(|remark| remark.severity == Severity::Error)
    }
}

/// Checks the whole policy, then its conditions and examples in the evaluator itself.
fn judge(policy: Policy) -> Result<Verdict, Faults> {
    let (remarks, coverage) = (check(&policy), coverage(&policy));
    let examples: usize = policy.rules.iter().map(|rule| rule.expect.len()).sum();
    let summary = format!(
        "{} rules, {examples} examples, {} tools, {} budgets",
        policy.rules.len(),
        policy.tools.len(),
        policy.budgets.len()
    );
    Compiled::new(policy)?;
    Ok(Verdict { remarks, coverage, summary })
}

fn show_json(file: &str, verdict: &Result<Verdict, Faults>) -> Result<u8, String> {
    let (value, refused) = match verdict {
        Ok(verdict) => {
            let refused = verdict.refused();
            let value = json!({
                "file": file, "ok": !refused, "faults": [], "remarks": verdict.remarks, "coverage": verdict.coverage,
            });
            (value, refused)
        }
        Err(faults) => {
            let faults: Vec<_> = faults.0.iter().map(|fault| json!({"line": fault.line, "text": fault.text})).collect();
            (json!({"file": file, "ok": false, "faults": faults, "remarks": [], "coverage": []}), true)
        }
    };
    emit(&format!("{value:#}\n"))?;
    Ok(if refused { REFUSED } else { 0 })
}

fn show_text(file: &str, verdict: Result<Verdict, Faults>) -> Result<u8, String> {
    let verdict = verdict.map_err(|faults| faults.to_string())?;
    let mut out = String::new();
    for remark in &verdict.remarks {
        let place = if remark.line == 0 { file.to_owned() } else { format!("{file}:{}", remark.line) };
        let word = match remark.severity {
            Severity::Error => styled("error", AnsiColor::Red.on_default().bold()),
            Severity::Warning => styled("warning", AnsiColor::Yellow.on_default().bold()),
        };
        let _ = writeln!(out, "{place}: {word}: {}", remark.text);
    }
    for layer in verdict.coverage.iter().filter(|layer| !layer.threats.is_empty()) {
        let _ = writeln!(out, "{} {}", styled(layer.layer.word(), BOLD), layer.layer.title());
        write_layer(layer, &mut out);
    }
    let refused = verdict.refused();
    let word = if refused {
        styled("not fit for use", AnsiColor::Red.on_default().bold())
    } else {
        styled("ok", AnsiColor::Green.on_default().bold())
    };
    let _ = writeln!(out, "{file}: {word}: {}", verdict.summary);
    emit(&out)?;
    Ok(if refused { REFUSED } else { 0 })
}

fn write_layer(layer: &LayerCoverage, out: &mut String) {
    for threat in &layer.threats {
        let assumed = if threat.assumed { styled(" assumed", DIM) } else { String::new() };
        let _ = writeln!(out, "  {}{assumed}", threat.threat);
        let by = match &threat.accepted {
            Some(reason) => format!("accepted: {reason}"),
            None if threat.answered_by.is_empty() => styled("nothing answers it", AnsiColor::Red.on_default()),
            None => threat.answered_by.join(", "),
        };
        let _ = writeln!(out, "    {by}");
    }
}
