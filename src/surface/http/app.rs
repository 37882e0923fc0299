//! What every handler shares: the gate, the configuration, open sessions and open calls.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::Bytes;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value};
use tokio::sync::{Semaphore, watch};

use super::config::Config;
use super::decide::Works;
use super::error::{Fault, Refusal};
use super::hooks::Hooks;
use super::metrics::Meters;
use super::otlp::Told;
use super::session::Sessions;
use crate::model::{Action, Call, Name, Resource, Subject};
use crate::pep::Gate;
use crate::pep::port::Executor;

/// KiB of request bodies held at the same time.
const BODY_ROOM: usize = 64 << 10;

/// The sidecar's state.
pub(super) struct App {
    pub(super) config: Config,
    pub(super) gate: Arc<Gate>,
    pub(super) executor: Arc<dyn Executor>,
    pub(super) sessions: Sessions,
    pub(super) works: Works,
    pub(super) hooks: Hooks,
    pub(super) told: Told,
    pub(super) meters: Meters,
    /// KiB left for request bodies.
    pub(super) body_room: Semaphore,
    /// Requests left.
    pub(super) requests: Semaphore,
    /// Executions whose thread has not ended.
    pub(super) active: watch::Sender<usize>,
    surface: Name,
    stopping: AtomicBool,
}

impl App {
    pub(super) fn new(config: Config, gate: Arc<Gate>, executor: Arc<dyn Executor>) -> Result<Self, Refusal> {
        Ok(Self {
            requests: Semaphore::new(config.requests),
            config,
            gate,
            executor,
            sessions: Sessions::default(),
            works: Works::default(),
            hooks: Hooks::default(),
            told: Told::default(),
            meters: Meters::default(),
            body_room: Semaphore::new(BODY_ROOM),
            active: watch::channel(0).0,
            surface: name("http")?,
            stopping: AtomicBool::new(false),
        })
    }

    /// Takes no new work from here on.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
    }

    /// True once no new work is taken.
    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Refuses new work while stopping.
    pub(super) fn check_open(&self) -> Result<(), Refusal> {
        if self.is_stopping() { Err(Refusal::stopping()) } else { Ok(()) }
    }

    /// The subject of a call in `session` and `run`; organisation and agent are the configuration's.
    pub(super) fn subject(&self, session: Name, run: Name, delegation: Vec<Name>) -> Subject {
        let (org, project, agent) = (self.config.org.clone(), self.config.project.clone(), self.config.agent.clone());
        Subject { org, project, agent, session, run, delegation }
    }

    /// A call with a fresh id.
    pub(super) fn call(
        &self,
        subject: Subject,
        action: Action,
        resource: Resource,
        args: Map<String, Value>,
    ) -> Result<Call, Refusal> {
        Ok(Call { id: fresh()?, subject, action, resource, args, parent: None, surface: self.surface.clone() })
    }
}

/// 128 random bits as a name.
pub(super) fn fresh() -> Result<Name, Refusal> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|_| Refusal::internal())?;
    name(&hex::encode(bytes))
}

/// A name that the gate itself chose.
pub(super) fn name(text: &str) -> Result<Name, Refusal> {
    Name::new(text).map_err(|_| Refusal::internal())
}

/// Runs what blocks (the gate's line) where it may block; a panic there is a refusal here.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Refusal> {
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        tracing::error!(%error, "a request failed inside the gate");
        Refusal::internal()
    })
}

/// An answer whose JSON is already written.
pub(super) fn json_bytes(status: StatusCode, bytes: Bytes) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], bytes).into_response()
}

/// No such session: unknown, closed, expired or another's. All look the same.
pub(super) fn no_session() -> Refusal {
    Refusal::new(Fault::NotFound, "no such session is open; open one with POST /v1/sessions")
}
