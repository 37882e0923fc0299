//! A running gate that runs programs for whoever has its agent's token: `weir serve --exec`, asked by `weir exec --gate`.
//!
//! The gate itself starts, meters, holds and settles, in its one ledger: whoever asks is not believed about what was used.
//! Who asks, what may be missing of the walls, where doors lead and under which policy is this side's word alone. Threads
//! and no more: bounded in number, in what they read and in how long they wait for a word.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::json;

use super::caller::{Caller, Closing};
use super::clock::Watch;
use super::gpu::{Board, Card, Driver};
use super::place::StartFault;
use super::socket::{ServiceFault, Socket, is_own};
use super::talk::{Ended, Event, Wanted};
use super::{Door, Launcher, Posting, Wall, report};
use crate::model::{Action, Call, Millis, Name, Outcome, Resource, Secret, Subject};
use crate::pep::port::{Executor, Inner};
use crate::pep::{Answer, Durable, Gate, Reserved};

/// How often the listener looks whether it is over, and how long it rests when nothing can be accepted.
const PAUSE_MS: u64 = 50;
const REST: Duration = Duration::from_millis(100);

/// Under which conditions a gate runs programs. None of it comes from a request.
pub struct Terms {
    /// The organisation that pays.
    pub org: Name,
    /// The project on whose account the agent works, where there is one.
    pub project: Option<Name>,
    /// The agent that the token stands for.
    pub agent: Name,
    /// The agent's token.
    pub token: Secret,
    /// The program that puts up the walls: see [`Launcher::again`].
    pub again: (PathBuf, Vec<String>),
    /// Where doors may lead; a request names ports of these.
    pub doors: Vec<Door>,
    /// Walls that may be missing.
    pub without: BTreeSet<Wall>,
    /// A folder of the unified control group hierarchy that is delegated to this process.
    pub cgroup: Option<PathBuf>,
    /// Where GPUs are asked for.
    pub board: Arc<dyn Board>,
    /// Callers at the same time, those that are still being read included; further ones are refused.
    pub callers: usize,
    /// How long programs may take to end by themselves when the gate stops.
    pub grace: Millis,
}

impl Terms {
    /// Terms with every wall, no doors, the GPUs of this machine, 64 callers and five seconds of grace; `program` and
    /// `arguments` are as in [`Launcher::new`].
    #[must_use]
    pub fn new(org: Name, agent: Name, token: Secret, program: PathBuf, arguments: Vec<String>) -> Self {
        Self {
            org,
            project: None,
            agent,
            token,
            again: (program, arguments),
            doors: Vec::new(),
            without: BTreeSet::new(),
            cgroup: None,
            board: Arc::new(Driver::find()),
            callers: 64,
            grace: Millis(5_000),
        }
    }
}

impl fmt::Debug for Terms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Terms").field("agent", &self.agent).field("doors", &self.doors).finish_non_exhaustive()
    }
}

/// A bound socket that nobody is served on yet.
#[derive(Debug)]
pub struct Service {
    socket: Socket,
}

/// A service that serves; dropping it lets programs end for the grace of its terms, ends the rest, and waits until all
/// of them are settled.
#[derive(Debug)]
pub struct Serving {
    closing: Arc<Closing>,
    listener: Option<JoinHandle<()>>,
}

impl Service {
    /// Binds the Unix socket `path`, which carries whole messages, mode 0600 in a folder of mode 0700.
    ///
    /// # Errors
    /// [`ServiceFault`].
    pub fn bind(path: &Path) -> Result<Self, ServiceFault> {
        Socket::bind(path).map(|socket| Self { socket })
    }

    /// Where it listens.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.socket.path()
    }

    /// Serves programs of `gate` on `terms`, on threads of its own.
    ///
    /// # Errors
    /// No thread can be had.
    pub fn start(self, gate: Arc<Gate>, terms: Terms) -> io::Result<Serving> {
        let closing = Arc::new(Closing { since: OnceLock::new(), grace: terms.grace });
        let (over, site) = (Arc::clone(&closing), Arc::new(Site { gate, terms, busy: AtomicUsize::new(0) }));
        let listen = move || listen(&self.socket, &site, &over);
        let listener = thread::Builder::new().name("weir-exec".into()).spawn(listen)?;
        Ok(Serving { closing, listener: Some(listener) })
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.closing.since.set(Watch::start());
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
    }
}

/// What every caller is served with.
struct Site {
    gate: Arc<Gate>,
    terms: Terms,
    busy: AtomicUsize,
}

/// Accepts until it is over, and waits for those who run then.
fn listen(socket: &Socket, site: &Arc<Site>, closing: &Arc<Closing>) {
    let mut threads: Vec<JoinHandle<()>> = Vec::new();
    while closing.since.get().is_none() {
        threads.retain(|thread| !thread.is_finished());
        match socket.accept(PAUSE_MS) {
            Ok(None) => {}
            // Whoever it is must not learn more than that.
            Ok(Some(peer)) if !is_own(&peer) => tracing::warn!("another user asked for a program and was turned away"),
            Ok(Some(peer)) => threads.extend(admit(peer, site, closing)),
            Err(error) => {
                tracing::warn!(%error, "a caller could not be accepted");
                thread::sleep(REST);
            }
        }
    }
    for thread in threads {
        let _ = thread.join();
    }
}

fn admit(peer: OwnedFd, site: &Arc<Site>, closing: &Arc<Closing>) -> Option<JoinHandle<()>> {
    let caller = Arc::new(Caller::new(peer, Arc::clone(closing)));
    let place = Place::take(site);
    let Some(place) = place else {
        let most = site.terms.callers;
        let denial = format!("the gate runs programs for {most} callers at once and not for more; try again later");
        caller.refuse(denial);
        return None;
    };
    let served = move || {
        serve(&place.0, &caller);
        drop(place);
    };
    thread::Builder::new().name("weir-exec".into()).spawn(served).ok()
}

/// One of the places for callers.
struct Place(Arc<Site>);

impl Place {
    fn take(site: &Arc<Site>) -> Option<Self> {
        let place = Self(Arc::clone(site));
        (site.busy.fetch_add(1, Ordering::AcqRel) < site.terms.callers).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::AcqRel);
    }
}

fn serve(site: &Site, caller: &Arc<Caller>) {
    match asked(site, caller) {
        Err(denial) => caller.refuse(denial),
        Ok((call, order)) => {
            let answer = site.gate.handle(call, &order, &**caller);
            // The program's streams are closed before its end is told.
            drop(order);
            caller.say(&told(&answer, caller.is_closing()));
        }
    }
}

/// The call that a caller asks for, and what it takes to run it.
fn asked<'a>(site: &'a Site, caller: &Arc<Caller>) -> Result<(Call, Order<'a>), String> {
    let (wanted, streams) = caller.wanted()?;
    if !site.terms.token.matches(wanted.token.as_bytes()) {
        return Err("the token is not this gate's agent's; give the file of `weir serve --token-file`".into());
    }
    let doors = doors(&site.terms.doors, &wanted.doors)?;
    let call = call(&site.terms, wanted)?;
    let (caller, streams) = (Arc::clone(caller), Mutex::new(Some(streams)));
    Ok((call, Order { site, caller, doors, streams }))
}

/// The doors to the ports `wanted`: where they lead is not the caller's word.
fn doors(known: &[Door], wanted: &[u16]) -> Result<Vec<Door>, String> {
    let unique: BTreeSet<u16> = wanted.iter().copied().collect();
    let found = unique.into_iter().map(|port| {
        known.iter().find(|door| door.port == port).cloned().ok_or_else(|| {
            let ports: Vec<String> = known.iter().take(8).map(|door| door.port.to_string()).collect();
            let there = if ports.is_empty() { "none".to_owned() } else { ports.join(", ") };
            format!("this gate has no door at port {port}; it has: {there}")
        })
    });
    found.collect()
}

fn call(terms: &Terms, wanted: Wanted) -> Result<Call, String> {
    let program = wanted.argv.first().and_then(|word| word.rsplit('/').next()).unwrap_or_default();
    let program = Name::new(program).map_err(|fault| format!("the program's name cannot be one: {fault}"))?;
    if !Path::new(&wanted.cwd).is_absolute() {
        return Err("the folder in which a program runs is named from the root".into());
    }
    let session = match wanted.session {
        Some(session) => Name::new(session).map_err(|fault| format!("the session's name cannot be one: {fault}"))?,
        None => fresh("exec")?,
    };
    let subject = Subject {
        org: terms.org.clone(),
        project: terms.project.clone(),
        agent: terms.agent.clone(),
        session,
        run: fresh("run")?,
        delegation: Vec::new(),
    };
    let args = json!({ "argv": wanted.argv, "gpus": wanted.gpus, "cwd": wanted.cwd });
    Ok(Call {
        id: fresh("call")?,
        subject,
        action: Action::ProcessRun,
        resource: Resource::named(program),
        args: args.as_object().cloned().unwrap_or_default(),
        parent: None,
        surface: Name::new("exec").map_err(|fault| fault.to_string())?,
    })
}

/// A fresh name: `prefix` and 128 random bits.
fn fresh(prefix: &str) -> Result<Name, String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|_| "the gate has no randomness for a name; try again".to_owned())?;
    Name::new(format!("{prefix}-{}", hex::encode(bytes))).map_err(|fault| fault.to_string())
}

/// What a caller is told at the end.
fn told(answer: &Answer, closing: bool) -> Event {
    let Some(outcome) = &answer.outcome else {
        let denial = answer.denial.clone().unwrap_or_else(|| answer.decision.reason.detail.clone());
        return Event::Refused { denial };
    };
    let mut notices = outcome.notices.clone();
    if closing {
        notices.push("the gate was told to stop, and programs end with it".into());
    }
    Event::Ended(Ended {
        exit: report::exit_code(answer),
        status: outcome.status,
        summary: report::summary(outcome),
        notices,
        call: answer.call.to_string(),
    })
}

/// One program for one caller.
struct Order<'a> {
    site: &'a Site,
    caller: Arc<Caller>,
    doors: Vec<Door>,
    streams: Mutex<Option<[OwnedFd; 3]>>,
}

impl Executor for Order<'_> {
    fn execute(&self, work: &Durable<Reserved>, inner: &dyn Inner) -> Outcome {
        match self.launcher(work, inner) {
            Ok(launcher) => Posting { gate: &self.site.gate, launcher: &launcher }.execute(work, inner),
            Err(why) => report::not_started(&StartFault::Failed(why)),
        }
    }
}

impl Order<'_> {
    fn launcher(&self, work: &Durable<Reserved>, inner: &dyn Inner) -> Result<Launcher, String> {
        // A person may have been asked meanwhile, and whoever asked may have given up.
        if inner.cancelled() || self.caller.is_closing() {
            return Err("whoever asked for it has gone, or the gate stops".into());
        }
        let names = work.exec().map(|grant| grant.env.clone()).unwrap_or_default();
        let environment = self.caller.environment(&names)?;
        let streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (terms, caller) = (&self.site.terms, Arc::clone(&self.caller));
        let board = Box::new(Shared(Arc::clone(&terms.board)));
        Ok(Launcher {
            environment,
            doors: self.doors.clone(),
            without: terms.without.clone(),
            cgroup: terms.cgroup.clone(),
            streams: Some(streams.ok_or("its streams are gone")?),
            signal: Arc::clone(&self.caller.signal),
            watch: Box::new(move |progress| caller.tell(progress)),
            ..Launcher::on_board(terms.again.clone(), PathBuf::from("/"), board)
        })
    }
}

/// The one board of a service.
struct Shared(Arc<dyn Board>);

impl Board for Shared {
    fn cards(&self) -> Result<Vec<Card>, String> {
        self.0.cards()
    }

    fn load(&self, uuid: &str) -> Option<u32> {
        self.0.load(uuid)
    }
}
