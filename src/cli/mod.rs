//! The commands: one file each, and one row each in `Command`.
//!
//! This is the composition root, the only place that names concrete edges. Exit codes: 0 done,
//! 1 the program or the check failed, 2 usage or policy, 3 denied, 4 budget or limit.

mod approve;
mod audit;
mod budget;
mod client;
mod compose;
mod demo;
mod exec;
mod explain;
mod guest;
mod hook;
mod install;
mod policy;
mod profile;
mod replay;
mod run;
mod score;
mod serve;
mod session;
mod shared;
mod store;
mod table;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

/// A policy-enforcing runtime gate for AI agents.
#[derive(Parser)]
#[command(name = "weir", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show the whole job on a recorded agent run: no network, no key.
    Demo(demo::Args),
    /// Run a Python program under a policy.
    Run(run::Args),
    /// Run a program of this machine under a budget, behind walls.
    Exec(exec::Args),
    /// Serve the gate on a Unix socket or on loopback TCP.
    Serve(serve::Args),
    /// Import or show a threat profile.
    Profile(profile::Args),
    /// Derive or check a policy.
    Policy(policy::Args),
    /// Say how a call would be decided, and why.
    Explain(explain::Args),
    /// Verify, show or export the journal.
    Audit(audit::Args),
    /// Check the store, back it up, restore it.
    Store(store::Args),
    /// Run a recorded execution again and compare it with its receipt.
    Replay(replay::Args),
    /// Show the risk factors as declared, permitted and observed.
    Score(score::Args),
    /// Show budgets; raise, freeze, thaw, revoke, approve, reconcile.
    Budget(budget::Args),
    /// Answer what waits for a person: yes, or no.
    Approve(approve::Args),
    /// Show, copy, roll back or remove sessions that are kept.
    Session(session::Args),
    /// Make Claude Code or Codex ask the gate before every tool.
    Install(install::Args),
    /// Carry one event of a coding agent's hook to a gate; the client runs this.
    Hook(hook::Args),
    /// Build the Python guest ahead of time, or list what is cached.
    Guest(guest::Args),
    /// Run guests behind the second wall; started by the gate alone.
    #[command(hide = true)]
    Worker,
    /// Put up the walls around a program; started by `weir exec` alone.
    #[command(hide = true)]
    ExecInit {
        /// Which of its processes this is.
        role: String,
    },
}

/// Parses the command line, runs the command and gives its exit code.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    log();
    let result = match cli.command {
        Command::Demo(args) => demo::run(args),
        Command::Run(args) => run::run(args),
        Command::Exec(args) => exec::run(args),
        Command::Serve(args) => serve::run(args),
        Command::Profile(args) => profile::run(args),
        Command::Policy(args) => policy::run(args),
        Command::Explain(args) => explain::run(args),
        Command::Audit(args) => audit::run(args),
        Command::Store(args) => store::run(args),
        Command::Replay(args) => replay::run(args),
        Command::Score(args) => score::run(args),
        Command::Budget(args) => budget::run(args),
        Command::Approve(args) => approve::run(args),
        Command::Session(args) => session::run(args),
        Command::Install(args) => install::run(args),
        Command::Hook(args) => hook::run(args),
        Command::Guest(args) => guest::run(args),
        Command::Worker => return crate::sandbox::worker_main(),
        Command::ExecInit { .. } => return crate::native::exec_main(),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(text) => {
            anstream::eprintln!("{text}");
            ExitCode::from(2)
        }
    }
}

/// Log lines on standard error: warnings and worse, or what `WEIR_LOG` says (`info`, `weir=debug`, …).
fn log() {
    let filter = EnvFilter::try_from_env("WEIR_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false).init();
}
