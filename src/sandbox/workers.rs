//! Workers as the gate sees them: started, given to one agent each, watched, ended.
//!
//! A worker never changes hands: what has run one agent's code is ended, never given to another. What a worker says
//! is parsed by `wire.rs` and believed by nobody. This file must not know what a program is.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::Child;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use super::forge::Forge;
use super::lane::Lane;
use super::wire::Terms;
use super::worker::{FORGET, LANE, WORD, Worker};
use super::{Base, SandboxFault, memory};
use crate::model::{Digest, Name};

/// Worker processes at a time, ready ones included.
const WORKERS: usize = 64;

/// What stands between a guest and the machine besides WebAssembly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wall {
    /// A locked process of its own for every agent: `program` is started with `arguments` and must call
    /// [`super::worker_main`].
    Process {
        /// The program.
        program: PathBuf,
        /// Its arguments.
        arguments: Vec<String>,
    },
    /// Nothing: guests run in this process. A flaw in the WebAssembly runtime is then a way out.
    DangerousNone,
}

/// Whose worker it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Owner {
    pub(crate) org: Name,
    pub(crate) agent: Name,
}

/// Every worker of this gate.
pub(crate) struct Workers {
    forge: Forge,
    base: Base,
    pool: Mutex<Pool>,
}

#[derive(Default)]
struct Pool {
    given: BTreeMap<Owner, Vec<Arc<Hand>>>,
    /// One that nobody has used, with the base terms.
    ready: Option<Arc<Hand>>,
    making: bool,
    turn: u64,
}

impl Workers {
    /// No workers yet but one that is being started with `base`, the terms of most.
    pub(crate) fn new(wall: Wall, base: Base) -> Arc<Self> {
        Arc::new(Self { forge: Forge::open(wall), base, pool: Mutex::default() })
    }

    /// The worker of `owner` under the terms of `base`.
    ///
    /// # Errors
    /// [`SandboxFault::Worker`].
    pub(crate) fn of(self: &Arc<Self>, owner: &Owner, base: &Base) -> Result<Arc<Hand>, SandboxFault> {
        let terms = &base.terms;
        let mut pool = self.lock();
        pool.turn += 1;
        let turn = pool.turn;
        let own = pool.given.entry(owner.clone()).or_default();
        own.retain(|hand| !hand.is_dead());
        if let Some(hand) = own.iter().find(|hand| hand.terms == *terms) {
            hand.used.store(turn, Ordering::Relaxed);
            return Ok(Arc::clone(hand));
        }
        let ready = pool.ready.take_if(|hand| hand.terms == *terms && !hand.is_dead());
        let hand = match ready {
            Some(hand) => hand,
            None => Arc::new(Hand::start(&self.forge, base)?),
        };
        hand.used.store(turn, Ordering::Relaxed);
        pool.given.entry(owner.clone()).or_default().push(Arc::clone(&hand));
        pool.end_unused();
        drop(pool);
        self.prepare();
        Ok(hand)
    }

    /// The worker that has to go before `owner` can have a new one under `terms`: the one that was used least recently
    /// and does not work.
    pub(crate) fn crowded(&self, owner: &Owner, terms: &Terms) -> Option<Arc<Hand>> {
        let pool = self.lock();
        let own = pool.given.get(owner).into_iter().flatten();
        let has = own.into_iter().any(|hand| hand.terms == *terms && !hand.is_dead());
        if has || pool.count() < WORKERS { None } else { pool.idlest() }
    }

    /// Memory that the workers have to themselves, bytes; that of this process where guests run in it.
    pub(crate) fn private_bytes(&self) -> u64 {
        let own = if self.forge.is_used() { None } else { memory::private(std::process::id()) };
        self.processes().into_iter().filter_map(memory::private).chain(own).sum()
    }

    /// The processes that serve an agent.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let pool = self.lock();
        pool.given.values().flatten().filter(|hand| !hand.is_dead()).filter_map(|hand| hand.process()).collect()
    }

    /// A worker that is nobody's and ends with its last user.
    ///
    /// # Errors
    /// [`SandboxFault::Worker`].
    pub(crate) fn alone(&self, base: &Base) -> Result<Arc<Hand>, SandboxFault> {
        Hand::start(&self.forge, base).map(Arc::new)
    }

    /// Has a worker ready for the next agent.
    pub(crate) fn prepare(self: &Arc<Self>) {
        let mut pool = self.lock();
        if pool.ready.is_some() || pool.making || !self.forge.is_used() {
            return;
        }
        pool.making = true;
        drop(pool);
        let workers = Arc::clone(self);
        let made = thread::Builder::new().name("weir-workers".into()).spawn(move || {
            let hand = Hand::start(&workers.forge, &workers.base);
            let mut pool = workers.lock();
            pool.making = false;
            pool.ready = hand.ok().map(Arc::new);
        });
        if made.is_err() {
            self.lock().making = false;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pool {
    fn count(&self) -> usize {
        self.given.values().flatten().filter(|hand| !hand.is_dead()).count()
    }

    fn idlest(&self) -> Option<Arc<Hand>> {
        let idle = self.given.values().flatten().filter(|hand| hand.is_idle() && !hand.is_dead());
        idle.min_by_key(|hand| hand.used.load(Ordering::Relaxed)).cloned()
    }

    /// Ends workers that were used least recently while there are too many; one that works is left.
    fn end_unused(&mut self) {
        while self.count() > WORKERS {
            let Some(oldest) = self.idlest() else { return };
            oldest.kill();
            self.given.values_mut().for_each(|own| own.retain(|hand| !hand.is_dead()));
            self.given.retain(|_, own| !own.is_empty());
        }
    }
}

/// One worker.
pub(crate) struct Hand {
    terms: Terms,
    build: Digest,
    body: Body,
    lanes: Mutex<Vec<Lane>>,
    /// Lanes that are in use.
    busy: AtomicU64,
    next: AtomicU64,
    used: AtomicU64,
    dead: AtomicBool,
}

enum Body {
    Process { child: Mutex<Child>, control: UnixStream },
    Thread(Arc<Worker>),
}

impl Hand {
    fn start(forge: &Forge, base: &Base) -> Result<Self, SandboxFault> {
        let terms = &base.terms;
        let body = if forge.is_used() {
            let (child, control) = forge.worker(terms)?;
            Body::Process { child: Mutex::new(child), control }
        } else {
            let worker = Worker::open(&Terms { locked: false, ..terms.clone() }, || Ok(()));
            Body::Thread(Arc::new(worker.map_err(SandboxFault::Worker)?))
        };
        let (busy, next, used) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        let (lanes, dead) = (Mutex::default(), AtomicBool::new(false));
        Ok(Self { terms: terms.clone(), build: base.build, body, lanes, busy, next, used, dead })
    }

    /// To what a stored interpreter of its guest is bound.
    pub(crate) const fn build(&self) -> Digest {
        self.build
    }

    /// A number for an interpreter that no other one of this worker has.
    pub(crate) fn seat(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// A lane for one exchange.
    ///
    /// # Errors
    /// The worker has gone.
    pub(crate) fn lane(self: &Arc<Self>) -> io::Result<Taken> {
        let kept = self.lanes.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let lane = kept.map_or_else(|| self.open_lane(), Ok)?;
        self.busy.fetch_add(1, Ordering::Relaxed);
        Ok(Taken { hand: Arc::clone(self), lane: Some(lane) })
    }

    fn open_lane(&self) -> io::Result<Lane> {
        let (ours, theirs) = UnixStream::pair()?;
        match &self.body {
            Body::Process { control, .. } => {
                let theirs = OwnedFd::from(theirs);
                say(control, LANE, 0, Some(&theirs))?;
            }
            Body::Thread(worker) => {
                let worker = Arc::clone(worker);
                thread::Builder::new().name("weir-lane".into()).spawn(move || worker.serve(theirs))?;
            }
        }
        Lane::new(ours)
    }

    /// Has the worker forget a seat.
    pub(crate) fn forget(&self, seat: u64) {
        match &self.body {
            _ if self.is_dead() => {}
            Body::Process { control, .. } => {
                if say(control, FORGET, seat, None).is_err() {
                    self.kill();
                }
            }
            Body::Thread(worker) => worker.forget(seat),
        }
    }

    /// True once it cannot be used any more.
    pub(crate) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire) || self.has_ended()
    }

    /// Looks after the process: one that has ended while nobody used it costs no step.
    fn has_ended(&self) -> bool {
        let Body::Process { child, .. } = &self.body else { return false };
        let ended = matches!(child.lock().unwrap_or_else(PoisonError::into_inner).try_wait(), Ok(Some(_)));
        self.dead.fetch_or(ended, Ordering::AcqRel) || ended
    }

    fn is_idle(&self) -> bool {
        self.busy.load(Ordering::Relaxed) == 0
    }

    /// Ends it, whatever it does; everything at its seats is gone.
    pub(crate) fn kill(&self) {
        self.dead.store(true, Ordering::Release);
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner).clear();
        if let Body::Process { child, control } = &self.body {
            let _ = control.shutdown(std::net::Shutdown::Both);
            let mut child = child.lock().unwrap_or_else(PoisonError::into_inner);
            let _ = child.kill();
            if let Ok(status) = child.wait()
                && status.signal() == Some(31)
            {
                tracing::error!("a worker was ended by the kernel for a system call that no guest may make");
            }
        }
    }

    /// The process, where it is one.
    pub(crate) fn process(&self) -> Option<u32> {
        match &self.body {
            Body::Process { child, .. } => Some(child.lock().unwrap_or_else(PoisonError::into_inner).id()),
            Body::Thread(_) => None,
        }
    }
}

impl Drop for Hand {
    fn drop(&mut self) {
        self.kill();
    }
}

/// One word on a worker's first socket.
fn say(control: &UnixStream, kind: u8, seat: u64, with: Option<&OwnedFd>) -> io::Result<()> {
    let mut word = [kind; WORD];
    let [_, number @ ..] = &mut word;
    *number = seat.to_le_bytes();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let files = with.map(|file| [file.as_fd()]);
    if let Some(files) = &files {
        ancillary.push(SendAncillaryMessage::ScmRights(files));
    }
    let flags = SendFlags::NOSIGNAL;
    let sent = rustix::io::retry_on_intr(|| sendmsg(control, &[IoSlice::new(&word)], &mut ancillary, flags))?;
    if sent == WORD { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// A lane while it is used.
pub(crate) struct Taken {
    hand: Arc<Hand>,
    lane: Option<Lane>,
}

impl Taken {
    /// The lane.
    pub(crate) fn lane(&mut self) -> io::Result<&mut Lane> {
        self.lane.as_mut().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// The exchange went well and has ended: the lane can be used for another.
    pub(crate) fn give_back(mut self) {
        if let Some(lane) = self.lane.take()
            && !self.hand.is_dead()
        {
            self.hand.lanes.lock().unwrap_or_else(PoisonError::into_inner).push(lane);
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.hand.busy.fetch_sub(1, Ordering::Relaxed);
    }
}
