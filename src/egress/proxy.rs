//! The life of the proxies: bind, serve on threads of their own, stop.
//!
//! A stop refuses new connections, lets what is open go on for a while, then cuts it: what was forwarded
//! and has no end is settled as unknown before the proxies are gone.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::body::Room;
use super::client::{Client, Patience};
use super::door::{Door, Protocol};
use super::error::{EgressFault, io_fault};
use super::held::{Open, fresh};
use super::hub::Hub;
use super::listener::{self, Served};
use super::llm::Llm;
use super::session::{Sessions, Who};
use super::upstream::{Kind, Upstream};
use crate::model::{Limits, Name, Secret};
use crate::pep::Gate;

/// How long what was cut may take to be settled.
const LAST: Duration = Duration::from_secs(2);

/// Bounds of the proxies.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Connections at the same time.
    pub connections: usize,
    /// How long a request's head, and then its body, may take to arrive.
    pub read_within: Duration,
    /// Bytes of a request that is read whole.
    pub body_bytes: usize,
    /// Bytes of all requests of one upstream that are read whole at the same time; others wait.
    pub room_bytes: usize,
    /// Bytes of an answer that is read whole.
    pub answer_bytes: usize,
    /// How long an upstream may take to accept a connection.
    pub connect_within: Duration,
    /// How long an upstream may take to begin its answer.
    pub head_within: Duration,
    /// How long an upstream may be silent in the middle of its answer.
    pub idle_within: Duration,
    /// How long what is open may go on after a stop.
    pub grace: Duration,
}

impl Bounds {
    /// How long upstreams may take.
    pub(super) const fn patience(&self) -> Patience {
        Patience { connect: self.connect_within, head: self.head_within, idle: self.idle_within }
    }
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            connections: 512,
            read_within: Duration::from_secs(30),
            body_bytes: Limits::JSON_BYTES,
            room_bytes: 8 * Limits::JSON_BYTES,
            answer_bytes: Limits::JSON_BYTES,
            connect_within: Duration::from_secs(10),
            // A generation that is not streamed begins its answer when it has ended.
            head_within: Duration::from_secs(900),
            idle_within: Duration::from_secs(300),
            grace: Duration::from_secs(5),
        }
    }
}

/// What the proxies are told at start. The identity of every call comes from here.
pub struct Config {
    /// The organisation that pays.
    pub org: Name,
    /// The project on whose account the agent works, where there is one.
    pub project: Option<Name>,
    /// The agent that the token stands for.
    pub agent: Name,
    /// The agent's token.
    pub token: Secret,
    /// Bounds.
    pub bounds: Bounds,
}

/// Proxies that are bound and do not serve yet.
pub struct Proxy {
    config: Config,
    bound: Vec<(Upstream, TcpListener, SocketAddr)>,
}

/// Proxies that serve. Dropping it stops them.
pub struct Running {
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Binds a listener for each upstream.
    ///
    /// # Errors
    /// [`EgressFault`]; nothing is left behind.
    pub fn bind(config: Config, upstreams: Vec<Upstream>) -> Result<Self, EgressFault> {
        let bound = upstreams.into_iter().map(|upstream| {
            let listener = listener::bind(upstream.listen)?;
            let address = listener.local_addr().map_err(io_fault("read the bound address"))?;
            Ok((upstream, listener, address))
        });
        Ok(Self { config, bound: bound.collect::<Result<_, _>>()? })
    }

    /// Where the proxy of each upstream listens, in the order of the file.
    #[must_use]
    pub fn addresses(&self) -> Vec<(Name, SocketAddr)> {
        self.bound.iter().map(|(upstream, _, address)| (upstream.name.clone(), *address)).collect()
    }

    /// What the upstreams speak, in the order of the file.
    #[must_use]
    pub fn kinds(&self) -> Vec<Kind> {
        self.bound.iter().map(|(upstream, ..)| upstream.kind).collect()
    }

    /// Serves on threads of its own until it is stopped.
    ///
    /// # Errors
    /// [`EgressFault`] when it could not start.
    pub fn start(self, gate: Arc<Gate>) -> Result<Running, EgressFault> {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(2).max_blocking_threads(256).thread_name("weir-egress").enable_all();
        let runtime = runtime.build().map_err(io_fault("start the proxies' threads"))?;
        let Config { org, project, agent, token, bounds } = self.config;
        let own = fresh().ok_or_else(|| io_fault("draw a session's name")(std::io::ErrorKind::Unsupported.into()))?;
        let sessions = Arc::new(Sessions::new(Who { org, project, agent }, own));
        let (open, (cutter, cut)) = (Open::new(), watch::channel(false));
        let patience = bounds.patience();
        let mut doors = Vec::new();
        for (upstream, listener, _) in self.bound {
            let (client, protocol) = (Client::new(&upstream, patience)?, protocol(&upstream));
            let (gate, sessions, token) = (gate.clone(), sessions.clone(), token.clone());
            let (open, cut) = (open.clone(), cut.clone());
            let room = Room::new(bounds.room_bytes.max(bounds.body_bytes));
            let door = Door { upstream, gate, client, sessions, room, bounds, protocol, token, open, cut };
            doors.push((Arc::new(door), listener));
        }
        let (stop, stopping) = watch::channel(false);
        let thread = std::thread::Builder::new().name("weir-egress".into()).spawn(move || {
            runtime.block_on(run(doors, bounds, open, cutter, stopping));
            runtime.shutdown_timeout(LAST);
        });
        let thread = thread.map_err(io_fault("start the proxies' thread"))?;
        Ok(Running { stop, thread: Some(thread) })
    }
}

/// What an upstream of this kind speaks.
fn protocol(upstream: &Upstream) -> Box<dyn Protocol> {
    match upstream.kind {
        Kind::Anthropic | Kind::OpenAi => Box::new(Llm::new(upstream.kind)),
        Kind::Hub => Box::new(Hub::default()),
    }
}

async fn run(
    doors: Vec<(Arc<Door>, TcpListener)>,
    bounds: Bounds,
    open: Open,
    cutter: watch::Sender<bool>,
    mut stopping: watch::Receiver<bool>,
) {
    let (drain, draining) = watch::channel(false);
    let places = Arc::new(Semaphore::new(bounds.connections.max(1)));
    let mut listeners = JoinSet::new();
    for (door, listener) in doors {
        door.protocol.begin(&door);
        let (places, draining) = (places.clone(), draining.clone());
        listeners.spawn(listener::accept(Served { door, places, draining, read_within: bounds.read_within }, listener));
    }
    // A sender that is gone has stopped, too.
    drop(stopping.wait_for(|stop| *stop).await);
    listeners.abort_all();
    drain.send_replace(true);
    drop(tokio::time::timeout(bounds.grace, open.none()).await);
    cutter.send_replace(true);
    if tokio::time::timeout(LAST, open.none()).await.is_err() {
        tracing::error!("a forwarded call did not end; it ends as unknown at the next start");
    }
    let all = u32::try_from(bounds.connections.max(1)).unwrap_or(u32::MAX);
    drop(tokio::time::timeout(LAST, places.acquire_many(all)).await);
}

impl Running {
    /// Stops the proxies; returns once everything that was forwarded is settled.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the proxies' thread failed; what was open ends as unknown at the next start");
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}
