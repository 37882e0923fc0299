//! `weir exec`: one program of this machine under a policy, behind its walls, with its budget on the terminal.

mod remote;

use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value, json};

use super::{compose, shared};
use crate::model::{Action, Call, CallId, Kind, Millis, Outcome, Resource, Status, Subject};
use crate::native::{Door, Launcher, Posting, Progress, Wall, Way, exit_code, summary};
use crate::pep::Answer;
use crate::pep::port::{Nobody, ToolHost, ToolSpec};

/// Signals that are handed on to the program: once, and a second one ends everything.
const SIGNALS: [i32; 3] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];

/// Run a program of this machine under a budget, behind walls.
///
/// Exit codes: the program's own; 124 when it was stopped at a limit; 125 when it was refused or its walls cannot be put
/// up; 126 when it cannot be run, 127 when it is not there.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The policy, with an [exec] section.
    #[arg(long, value_name = "FILE", required_unless_present = "gate")]
    policy: Option<PathBuf>,
    /// A running gate that runs the program, in its one ledger: the socket of its `weir serve --exec`.
    #[arg(long, value_name = "unix:PATH", value_parser = socket, conflicts_with_all = [
        "policy", "store", "org", "project", "agent", "without", "cgroup", "url", "ca", "passfile",
    ])]
    gate: Option<PathBuf>,
    /// File with the agent's token for that gate [default: `$WEIR_TOKEN`].
    #[arg(long, value_name = "FILE", requires = "gate", conflicts_with = "policy")]
    token_file: Option<PathBuf>,
    /// Folder of the journal and its key [default: `$WEIR_HOME`, or the user's state folder].
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
    /// Name of the organisation that pays.
    #[arg(long, default_value = "local")]
    org: String,
    /// Name of the project, where there are projects.
    #[arg(long)]
    project: Option<String>,
    /// Name of the agent in accounts and receipts.
    #[arg(long, default_value = "local")]
    agent: String,
    /// Name of the session; its budgets go on over runs with the same name.
    #[arg(long)]
    session: Option<String>,
    /// GPUs that it holds while it runs.
    #[arg(long, default_value_t = 0, value_name = "N")]
    gpus: u32,
    /// Run although this wall is missing: network, landlock, seccomp, memory, processes, cpu.
    #[arg(long, value_name = "WALL", value_delimiter = ',')]
    without: Vec<Wall>,
    /// A port inside that leads to the gate, where the policy says `network = "gate"`: PORT (the same port of this
    /// machine's loopback), PORT=HOST:PORT, or PORT=unix:PATH. With --gate a PORT of which that gate says where it leads.
    #[arg(long, value_name = "DOOR", value_parser = door)]
    door: Vec<Door>,
    /// A folder of the control group hierarchy (version 2) that is delegated to this user.
    #[arg(long, value_name = "DIR")]
    cgroup: Option<PathBuf>,
    #[command(flatten)]
    shared: shared::Place,
    /// Say nothing of progress.
    #[arg(long, short)]
    quiet: bool,
    /// The program and its arguments, after `--`.
    #[arg(last = true, required = true, value_name = "PROGRAM")]
    argv: Vec<String>,
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
    let Some(policy) = &args.policy else { return remote::run(args) };
    let policy = compose::policy(policy)?;
    let folder = compose::home(args.store.clone())?;
    let address = args.shared.address()?;
    let gate = compose::gate(policy.clone(), &folder, Box::new(Nobody))?;
    let (gate, _keeper) = shared::share(gate, policy.policy(), &folder, address)?;
    let call = call(&args)?;
    let terminal = is_watched(&args);
    let bar = terminal.then(Bar::new);
    let launcher = launcher(&args, bar.clone())?;
    hear(&launcher.signal)?;
    let answer = gate.handle(call, &Posting { gate: &gate, launcher: &launcher }, &NoTools);
    if let Some(bar) = bar {
        bar.end();
    }
    told(&answer, terminal);
    Ok(exit_code(&answer))
}

/// Whether somebody watches, to whom progress is shown.
fn is_watched(args: &Args) -> bool {
    std::io::stderr().is_terminal() && !args.quiet
}

/// Has signals put into `signal`, instead of ending this process.
fn hear(signal: &Arc<AtomicUsize>) -> Result<(), String> {
    let fault = |error: std::io::Error| format!("signals cannot be taken: {error}");
    for number in SIGNALS {
        let value = usize::try_from(number).unwrap_or_default();
        signal_hook::flag::register_usize(number, Arc::clone(signal), value).map_err(fault)?;
    }
    // A launcher that stands still keeps no limit: Ctrl-Z does nothing.
    signal_hook::flag::register(libc::SIGTSTP, Arc::default()).map_err(fault)?;
    Ok(())
}

/// The environment of this process; what is not UTF-8 cannot be granted by name and value.
fn environment() -> BTreeMap<String, String> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

fn call(args: &Args) -> Result<Call, String> {
    let session = match &args.session {
        Some(session) => compose::name("session", session)?,
        None => compose::fresh("exec")?,
    };
    let subject = Subject {
        org: compose::name("organisation", &args.org)?,
        project: args.project.as_deref().map(|project| compose::name("project", project)).transpose()?,
        agent: compose::name("agent", &args.agent)?,
        session,
        run: compose::fresh("run")?,
        delegation: Vec::new(),
    };
    let program = args.argv.first().and_then(|word| Path::new(word).file_name()?.to_str()).unwrap_or_default();
    let arguments = json!({ "argv": args.argv, "gpus": args.gpus });
    Ok(Call {
        id: compose::fresh("call")?,
        subject,
        action: Action::ProcessRun,
        resource: Resource::named(compose::name("program", program)?),
        args: arguments.as_object().cloned().unwrap_or_default(),
        parent: None,
        surface: compose::name("surface", "exec")?,
    })
}

fn launcher(args: &Args, bar: Option<Bar>) -> Result<Launcher, String> {
    let place = |error: std::io::Error| format!("where this program is cannot be told: {error}");
    let program = std::env::current_exe().map_err(place)?;
    let cwd = std::env::current_dir().map_err(place)?;
    let launcher = Launcher::new(program, vec!["exec-init".to_owned()], cwd);
    Ok(Launcher {
        environment: environment(),
        doors: args.door.clone(),
        without: args.without.iter().copied().collect(),
        cgroup: args.cgroup.clone(),
        watch: Box::new(move |progress| {
            if let Some(bar) = &bar {
                bar.show(progress);
            }
        }),
        ..launcher
    })
}

pub(super) fn door(text: &str) -> Result<Door, String> {
    let (port, way) = text.split_once('=').map_or((text, None), |(port, way)| (port, Some(way)));
    let port: u16 = port.parse().map_err(|_| format!("`{port}` is no port"))?;
    let way = match way {
        None => Way::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
        Some(way) => match way.strip_prefix("unix:") {
            Some(path) => Way::Unix(PathBuf::from(path)),
            None => {
                Way::Tcp(way.parse().map_err(|_| format!("`{way}` is neither HOST:PORT in numbers nor unix:PATH"))?)
            }
        },
    };
    Ok(Door { port, way })
}

/// The path of a Unix socket, with or without `unix:` in front.
pub(super) fn socket(text: &str) -> Result<PathBuf, String> {
    match text.strip_prefix("unix:").unwrap_or(text) {
        "" => Err("a path is missing behind `unix:`".to_owned()),
        path => Ok(PathBuf::from(path)),
    }
}

/// The line of spend against budget, and the warnings above it, each once.
#[derive(Clone)]
struct Bar {
    bar: ProgressBar,
    warned: Arc<Mutex<BTreeSet<Kind>>>,
}

impl Bar {
    fn new() -> Self {
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} weir: {msg}") {
            bar.set_style(style);
        }
        Self { bar, warned: Arc::default() }
    }

    fn show(&self, progress: &Progress) {
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        for (kind, name) in progress.near() {
            if warned.insert(kind) {
                self.bar.println(format!("weir: more than 80 % of its {name} is spent"));
            }
        }
        let saving = if progress.saving.is_some() { "saving its state, then it is ended | " } else { "" };
        self.bar.set_message(format!("{saving}{progress}"));
        self.bar.tick();
    }

    fn end(&self) {
        self.bar.finish_and_clear();
    }
}

fn told(answer: &Answer, terminal: bool) {
    match (&answer.outcome, &answer.denial) {
        (Some(outcome), _) => {
            for notice in &outcome.notices {
                anstream::eprintln!("weir: {notice}");
            }
            if terminal || matches!(outcome.status, Status::Broken | Status::Exhausted | Status::Unknown) {
                anstream::eprintln!("weir: {}", summary(outcome));
            }
        }
        (None, Some(denial)) => anstream::eprintln!("{denial}"),
        (None, None) => anstream::eprintln!("weir: {}", answer.decision.reason.detail),
    }
}
