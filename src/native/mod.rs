//! Programs of this machine under a budget: started behind walls, metered from outside, ended as one tree.
//!
//! A program runs in namespaces of its own, in a file system that has nothing but what is granted, without a network
//! or with doors to the gate only. Three processes of this program put that up from inside, so that no unsafe code is
//! needed between fork and exec; the launcher keeps a handle of the first process of the namespace, whose end is the
//! end of all. Nothing here decides whether a program may run: an [`ExecGrant`] says that it may, and with what.
//! A running gate runs programs for others through its [`Service`], which [`Errand`] asks.

mod caller;
mod cgroup;
mod channel;
mod clock;
mod disk;
mod door;
mod errand;
mod filter;
mod gpu;
mod init;
mod loopback;
mod meter;
mod outer;
mod place;
mod plan;
mod report;
mod root;
mod run;
mod seal;
mod service;
mod socket;
mod talk;
mod tree;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use serde_json::Value;

pub use door::{Door, Way};
pub use errand::{Errand, Told};
pub use gpu::{Board, Card, Driver};
pub use place::StartFault;
pub use plan::Wall;
pub use report::{Progress, exit_code, summary};
pub use service::{Service, Serving, Terms};
pub use socket::ServiceFault;
pub use talk::Ended;

use crate::model::{Amounts, Call, ExecGrant, Outcome};
use crate::pep::port::{Executor, Inner};
use crate::pep::{Durable, Gate, Reserved};

/// The roles of the processes that put up the walls, and the names under which they run.
const OUTER: &str = "weir-outer";
const INIT: &str = "weir-init";
const SEAL: &str = "weir-seal";

/// What the processes that put up the walls do: a program that has a [`Launcher`] calls this, before anything else,
/// when it is started with the launcher's `again` arguments. The role is the last argument.
#[must_use]
pub fn exec_main() -> ExitCode {
    match std::env::args_os().next_back().as_deref().and_then(|role| role.to_str()) {
        Some(OUTER) => outer::main(),
        Some(INIT) => init::main(),
        Some(SEAL) => seal::main(),
        _ => ExitCode::from(2),
    }
}

/// Runs programs of this machine.
pub struct Launcher {
    /// The program that puts up the walls: this one, and the arguments with which it calls [`exec_main`]; the role is
    /// added to them.
    pub again: (PathBuf, Vec<String>),
    /// The folder in which a program runs when its call names none.
    pub cwd: PathBuf,
    /// The environment from which granted variables are taken.
    pub environment: BTreeMap<String, String>,
    /// The gate's ports, for programs that may reach them.
    pub doors: Vec<Door>,
    /// Walls that may be missing.
    pub without: BTreeSet<Wall>,
    /// Walls that are not even tried, as on a machine that does not have them.
    pub avoid: BTreeSet<Wall>,
    /// A folder of the unified control group hierarchy that is delegated to this process.
    pub cgroup: Option<PathBuf>,
    /// Where GPUs are asked for.
    pub board: Box<dyn Board>,
    /// Standard input, output and error of the program; this process's own where there are none.
    pub streams: Option<[OwnedFd; 3]>,
    /// The number of a signal that came for the program, put there by a handler: the first is handed on, a second
    /// ends everything.
    pub signal: Arc<AtomicUsize>,
    /// Told five times a second what is spent.
    pub watch: Box<dyn Fn(&Progress) + Send + Sync>,
}

impl Launcher {
    /// A launcher that starts `program` with `arguments` for its walls, with every wall, no doors, an empty
    /// environment, and the GPUs of this machine.
    #[must_use]
    pub fn new(program: PathBuf, arguments: Vec<String>, cwd: PathBuf) -> Self {
        Self::on_board((program, arguments), cwd, Box::new(Driver::find()))
    }

    /// The same with the GPUs of `board`; `again` is the program and its arguments.
    pub(crate) fn on_board(again: (PathBuf, Vec<String>), cwd: PathBuf, board: Box<dyn Board>) -> Self {
        Self {
            again,
            cwd,
            environment: BTreeMap::new(),
            doors: Vec::new(),
            without: BTreeSet::new(),
            avoid: BTreeSet::new(),
            cgroup: None,
            board,
            streams: None,
            signal: Arc::default(),
            watch: Box::new(|_| {}),
        }
    }

    /// Runs what `call` asks for within `grant`, until it ends, reaches a limit, or `asks` to stop.
    #[must_use]
    pub fn launch(&self, call: &Call, grant: &ExecGrant, asks: &dyn Asks) -> Outcome {
        match self.request(call) {
            Ok(request) => run::launch(self, &request, grant, asks, call.id.as_str()),
            Err(fault) => report::not_started(&fault),
        }
    }

    fn request(&self, call: &Call) -> Result<place::Request, StartFault> {
        let words = call.args.get("argv").and_then(Value::as_array).into_iter().flatten();
        let argv: Option<Vec<String>> = words.map(|word| word.as_str().map(str::to_owned)).collect();
        let argv = argv.ok_or_else(|| StartFault::Absent(126, "the words of a program are texts".into()))?;
        let cwd = call.args.get("cwd").and_then(Value::as_str);
        Ok(place::Request { argv, cwd: cwd.map_or_else(|| self.cwd.clone(), |cwd| self.cwd.join(cwd)) })
    }
}

impl fmt::Debug for Launcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Launcher").field("again", &self.again).field("without", &self.without).finish_non_exhaustive()
    }
}

impl Executor for Launcher {
    fn execute(&self, work: &Durable<Reserved>, inner: &dyn Inner) -> Outcome {
        self.run_work(work, &Silent(inner))
    }
}

impl Launcher {
    fn run_work(&self, work: &Durable<Reserved>, asks: &dyn Asks) -> Outcome {
        match work.exec() {
            Some(grant) => self.launch(work.call(), grant, asks),
            None => report::not_started(&StartFault::Failed("the call grants no program of this machine".into())),
        }
    }
}

/// What a run asks whoever ordered it.
pub trait Asks {
    /// Whether it must stop: its account was revoked, or its caller has gone.
    fn cancelled(&self) -> bool;

    /// Posts part number `part` of what it uses; false when that cannot be recorded, and it must stop.
    fn post(&self, part: u64, used: Amounts) -> bool;
}

struct Silent<'a>(&'a dyn Inner);

impl Asks for Silent<'_> {
    fn cancelled(&self) -> bool {
        self.0.cancelled()
    }

    fn post(&self, _: u64, _: Amounts) -> bool {
        true
    }
}

/// A launcher whose runs are posted while they run: what was used so far is on record should the gate be lost.
#[derive(Debug)]
pub struct Posting<'a> {
    /// The gate.
    pub gate: &'a Gate,
    /// The launcher.
    pub launcher: &'a Launcher,
}

struct Posted<'a> {
    gate: &'a Gate,
    work: &'a Durable<Reserved>,
    inner: &'a dyn Inner,
}

impl Asks for Posted<'_> {
    fn cancelled(&self) -> bool {
        self.inner.cancelled()
    }

    fn post(&self, part: u64, used: Amounts) -> bool {
        self.gate.post_part(self.work, part, used).is_ok()
    }
}

impl Executor for Posting<'_> {
    fn execute(&self, work: &Durable<Reserved>, inner: &dyn Inner) -> Outcome {
        self.launcher.run_work(work, &Posted { gate: self.gate, work, inner })
    }
}
