//! Workers as the gate sees them: started, given to one agent each, watched, ended.
//!
//! A worker never changes hands: what has run one agent's code is ended, never given to another. What a worker says
//! is parsed by `wire.rs` and believed by nobody. This file must not know what a program is.

use std::collections::BTreeMap;
use std::io::{self, BufReader, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use super::SandboxFault;
use super::wire::{Order, Report, Terms, receive, send};
use super::worker::{FORGET, LANE, WORD, Worker};
use crate::model::Name;

/// How long a worker may take to start: the first one reads its guest from disk.
const START: Duration = Duration::from_secs(60);
/// How long it may take to finish a frame that it has begun, or to take one; a byte now and then does not help it.
const STALL: Duration = Duration::from_secs(10);
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
    base: Terms,
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
    pub(crate) fn new(wall: Wall, base: Terms) -> Arc<Self> {
        Arc::new(Self { forge: Forge::open(wall), base, pool: Mutex::default() })
    }

    /// The worker of `owner` under `terms`.
    ///
    /// # Errors
    /// [`SandboxFault::Worker`].
    pub(crate) fn of(self: &Arc<Self>, owner: &Owner, terms: &Terms) -> Result<Arc<Hand>, SandboxFault> {
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
            None => Arc::new(Hand::start(&self.forge, terms)?),
        };
        hand.used.store(turn, Ordering::Relaxed);
        pool.given.entry(owner.clone()).or_default().push(Arc::clone(&hand));
        pool.end_unused();
        drop(pool);
        self.prepare();
        Ok(hand)
    }

    /// Has a worker ready for the next agent.
    pub(crate) fn prepare(self: &Arc<Self>) {
        let mut pool = self.lock();
        if pool.ready.is_some() || pool.making || self.forge.starts.is_none() {
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
    /// Ends workers that were used least recently while there are too many; one that works is left.
    fn end_unused(&mut self) {
        while self.given.values().map(Vec::len).sum::<usize>() >= WORKERS {
            let idle = self.given.values().flatten().filter(|hand| hand.is_idle());
            let Some(oldest) = idle.min_by_key(|hand| hand.used.load(Ordering::Relaxed)).cloned() else { return };
            oldest.kill();
            self.given.values_mut().for_each(|own| own.retain(|hand| !hand.is_dead()));
            self.given.retain(|_, own| !own.is_empty());
        }
    }
}

/// One worker.
pub(crate) struct Hand {
    terms: Terms,
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
    fn start(forge: &Forge, terms: &Terms) -> Result<Self, SandboxFault> {
        let body = match &forge.starts {
            Some(_) => spawn(forge, terms)?,
            None => {
                let worker = Worker::open(&Terms { locked: false, ..terms.clone() }, || Ok(()));
                Body::Thread(Arc::new(worker.map_err(SandboxFault::Worker)?))
            }
        };
        let (busy, next, used) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        let (lanes, dead) = (Mutex::default(), AtomicBool::new(false));
        Ok(Self { terms: terms.clone(), body, lanes, busy, next, used, dead })
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
    #[cfg(test)]
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

type Started = io::Result<(Child, UnixStream)>;

/// The thread that starts the processes: the kernel ends a worker together with the thread that started it.
struct Forge {
    /// `None` where there are no processes.
    starts: Option<Mutex<Sender<Sender<Started>>>>,
}

impl Forge {
    fn open(wall: Wall) -> Self {
        let Wall::Process { program, arguments } = wall else { return Self { starts: None } };
        let (starts, asked) = channel::<Sender<Started>>();
        let work = move || {
            while let Ok(reply) = asked.recv() {
                // Nobody who waits any more is no reason to stop: the process ends with its socket.
                let _ = reply.send(start(&program, &arguments));
            }
        };
        // Without the thread every start is answered by a closed channel.
        let _ = thread::Builder::new().name("weir-forge".into()).spawn(work);
        Self { starts: Some(Mutex::new(starts)) }
    }

    fn start(&self) -> Started {
        let gone = || io::Error::other("the thread that starts workers has gone");
        let (reply, started) = channel();
        let starts = self.starts.as_ref().ok_or_else(gone)?;
        starts.lock().unwrap_or_else(PoisonError::into_inner).send(reply).map_err(|_| gone())?;
        started.recv().map_err(|_| gone())?
    }
}

fn start(program: &PathBuf, arguments: &[String]) -> Started {
    let (control, theirs) = UnixStream::pair()?;
    let mut command = Command::new(program);
    command.args(arguments).env_clear().current_dir("/").stdout(Stdio::null()).stderr(Stdio::null());
    command.stdin(OwnedFd::from(theirs));
    Ok((command.spawn()?, control))
}

/// Starts a process and waits until it is behind its lock.
fn spawn(forge: &Forge, terms: &Terms) -> Result<Body, SandboxFault> {
    let told = |what: &str| SandboxFault::Worker(what.to_owned());
    let started = forge.start().map_err(|error| told(&format!("its process does not start: {error}")));
    let (child, mut control) = started?;
    let body = |control| Body::Process { child: Mutex::new(child), control };
    let ready = send(&mut control, terms).and_then(|()| {
        control.set_read_timeout(Some(START))?;
        let report = receive::<Report>(&mut control)?;
        control.set_write_timeout(Some(STALL))?;
        Ok(report)
    });
    // Made now, so that a process that did not start well is ended and waited for.
    let body = body(control);
    let fault = match ready {
        Ok(Report::Ready(held)) => {
            tracing::debug!("a worker is ready: {held}");
            return Ok(body);
        }
        Ok(Report::Unfit(why)) => SandboxFault::Worker(why.chars().take(300).collect()),
        Ok(_) => told("it said something else than that it is ready"),
        Err(error) => told(&format!("it ended before it was ready ({error})")),
    };
    if let Body::Process { child, .. } = &body {
        let mut child = child.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = child.kill();
        let _ = child.wait();
    }
    Err(fault)
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

/// The gate's end of a lane.
pub(crate) struct Lane {
    stream: Paced,
    heard: BufReader<Paced>,
}

/// A stream on which one frame has a time to be over, however its bytes come.
struct Paced {
    stream: UnixStream,
    until: Instant,
}

impl Paced {
    fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_read_timeout(Some(STALL))?;
        stream.set_write_timeout(Some(STALL))?;
        Ok(Self { stream, until: Instant::now() })
    }

    /// A frame begins.
    fn begin(&mut self) {
        self.until = Instant::now() + STALL;
    }

    /// The stream, while there is time.
    fn timely(&mut self) -> io::Result<&mut UnixStream> {
        if Instant::now() < self.until { Ok(&mut self.stream) } else { Err(io::ErrorKind::WouldBlock.into()) }
    }
}

impl Read for Paced {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.timely()?.read(into)
    }
}

impl Write for Paced {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.timely()?.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Lane {
    fn new(stream: UnixStream) -> io::Result<Self> {
        let heard = BufReader::with_capacity(16 << 10, Paced::new(stream.try_clone()?)?);
        Ok(Self { stream: Paced::new(stream)?, heard })
    }

    /// Tells the worker something.
    ///
    /// # Errors
    /// It has gone or does not listen.
    pub(crate) fn order(&mut self, order: &Order) -> io::Result<()> {
        self.stream.begin();
        send(&mut self.stream, order)
    }

    /// What the worker says next; `None` when it has said nothing within `patience`.
    ///
    /// # Errors
    /// It has gone, stopped within a frame, or said what is no report.
    pub(crate) fn report(&mut self, patience: Duration) -> io::Result<Option<Report>> {
        if self.heard.buffer().is_empty() && !self.readable(patience)? {
            return Ok(None);
        }
        self.heard.get_mut().begin();
        receive(&mut self.heard).map(Some)
    }

    fn readable(&self, patience: Duration) -> io::Result<bool> {
        let until = Instant::now() + patience;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let wait = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
            match poll(&mut [PollFd::new(&self.stream.stream, PollFlags::IN)], Some(&wait)) {
                Ok(ready) => return Ok(ready > 0),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
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
