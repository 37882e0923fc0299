//! What the sidecar is told at start, and how it is told to stop.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::watch;

use crate::model::Name;
use crate::surface::hook::Client;
use crate::surface::{Desk, Secret};

/// The sidecar's configuration. The identity of every call comes from here, never from a request.
pub struct Config {
    /// The organisation that pays.
    pub org: Name,
    /// The project on whose account the agent works, where there is one.
    pub project: Option<Name>,
    /// The agent that the token stands for.
    pub agent: Name,
    /// Path of the Unix socket, if there is to be one.
    pub unix: Option<PathBuf>,
    /// Loopback address, if there is to be one; port 0 takes a free one.
    pub tcp: Option<SocketAddr>,
    /// The agent's token.
    pub token: Secret,
    /// The operator's token; without one nobody can approve anything.
    pub operator_token: Option<Secret>,
    /// The desk that was given to the gate as its approver.
    pub desk: Desk,
    /// Clients whose models are behind this gate's proxies, so that a generation which those have not metered went past
    /// the gate; none by default.
    pub metered: Vec<Client>,
    /// Loopback origins (`http://127.0.0.1:8000`) from which a browser may call; none by default.
    pub origins: Vec<String>,
    /// A session without a request for this long is closed.
    pub idle: Duration,
    /// A call that the host runs ends as unknown after this long.
    pub outcome_within: Duration,
    /// An execution for which nobody waits is cancelled after this long.
    pub lost_after: Duration,
    /// How long executions may go on after a stop.
    pub grace: Duration,
    /// How long a request's head, and then its body, may take to arrive. A connection that is idle
    /// between requests is closed after this long too.
    pub read_within: Duration,
    /// Connections at the same time.
    pub connections: usize,
    /// Requests at the same time.
    pub requests: usize,
}

impl Config {
    /// A configuration without any listener and with the documented defaults.
    #[must_use]
    pub fn new(org: Name, agent: Name, token: Secret) -> Self {
        Self {
            org,
            project: None,
            agent,
            unix: None,
            tcp: None,
            token,
            operator_token: None,
            desk: Desk::default(),
            metered: Vec::new(),
            origins: Vec::new(),
            idle: Duration::from_secs(3600),
            outcome_within: Duration::from_secs(600),
            lost_after: Duration::from_secs(10),
            grace: Duration::from_secs(5),
            read_within: Duration::from_secs(30),
            connections: 512,
            requests: 512,
        }
    }
}

/// Tells a sidecar to stop. Dropping it stops too.
#[derive(Debug)]
pub struct Stop(watch::Sender<bool>);

impl Stop {
    /// Stops the sidecar; returns at once.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

/// When a sidecar stops.
#[derive(Debug)]
pub struct Shutdown(When);

#[derive(Debug)]
enum When {
    Told(watch::Receiver<bool>),
    Signal,
}

impl Shutdown {
    /// A shutdown and what triggers it.
    #[must_use]
    pub fn pair() -> (Stop, Self) {
        let (sender, receiver) = watch::channel(false);
        (Stop(sender), Self(When::Told(receiver)))
    }

    /// On SIGINT or SIGTERM.
    #[must_use]
    pub const fn on_signals() -> Self {
        Self(When::Signal)
    }

    /// Waits for it.
    pub(super) async fn wait(self) {
        match self.0 {
            When::Told(mut receiver) => drop(receiver.wait_for(|stop| *stop).await),
            When::Signal => signalled().await,
        }
    }
}

async fn signalled() {
    use tokio::signal::unix::{SignalKind, signal};
    match (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) {
        (Ok(mut interrupt), Ok(mut terminate)) => {
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
        }
        (Err(error), _) | (_, Err(error)) => {
            tracing::error!(%error, "signals cannot be watched; stop the gate by ending its process");
            std::future::pending().await
        }
    }
}
