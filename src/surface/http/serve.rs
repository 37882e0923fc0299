//! The sidecar's life: bind, accept, sweep, stop.
//!
//! A stop refuses new work, lets executions finish for a while, cancels the rest, ends what is open
//! as unknown, parts with every session and takes the socket away.

use std::convert::Infallible;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tower::ServiceExt as _;

use super::app::{App, blocking};
use super::auth::{Via, is_loopback_origin};
use super::config::{Config, Shutdown};
use super::decide::expire;
use super::execution::Parting;
use super::listener::{Addresses, ServeFault, Socket, bind_tcp, bind_unix, io_fault};
use super::routes::router;
use super::session::{cancel, close};
use crate::pep::Gate;
use crate::pep::port::Executor;

/// Bytes of a request's head.
const HEAD: usize = 32 << 10;
/// Headers of a request.
const HEADERS: usize = 64;
/// How often idle sessions, lost executions and calls without an outcome are looked for.
const SWEEP: Duration = Duration::from_millis(200);
/// How long what was cancelled may take to end, and answers to leave.
const LAST: Duration = Duration::from_secs(2);

/// A sidecar that is bound and does not serve yet.
pub struct Sidecar {
    config: Config,
    unix: Option<Socket>,
    tcp: Option<TcpListener>,
    addresses: Addresses,
}

/// Binds and serves until `shutdown`.
///
/// # Errors
/// [`ServeFault`].
pub fn serve(
    config: Config,
    gate: Arc<Gate>,
    executor: Arc<dyn Executor>,
    shutdown: Shutdown,
) -> Result<(), ServeFault> {
    Sidecar::bind(config)?.serve(gate, executor, shutdown)
}

impl Sidecar {
    /// Checks the configuration and binds its listeners.
    ///
    /// # Errors
    /// [`ServeFault`]; nothing is left behind.
    pub fn bind(config: Config) -> Result<Self, ServeFault> {
        if let Some(origin) = config.origins.iter().find(|origin| !is_loopback_origin(origin)) {
            return Err(ServeFault::Origin(origin.clone()));
        }
        if config.operator_token.as_ref().is_some_and(|operator| config.token.matches(operator.expose().as_bytes())) {
            return Err(ServeFault::SameToken);
        }
        let tcp = config.tcp.map(bind_tcp).transpose()?;
        let unix = config.unix.as_deref().map(bind_unix).transpose()?;
        if unix.is_none() && tcp.is_none() {
            return Err(ServeFault::Nowhere);
        }
        let bound =
            tcp.as_ref().map(TcpListener::local_addr).transpose().map_err(io_fault("read the bound address"))?;
        let addresses = Addresses { unix: config.unix.clone(), tcp: bound };
        Ok(Self { config, unix, tcp, addresses })
    }

    /// Where it listens.
    #[must_use]
    pub const fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Serves until `shutdown`, on threads of its own; returns once everything has ended.
    ///
    /// # Errors
    /// [`ServeFault`] when it could not start.
    pub fn serve(self, gate: Arc<Gate>, executor: Arc<dyn Executor>, shutdown: Shutdown) -> Result<(), ServeFault> {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime =
            builder.worker_threads(2).max_blocking_threads(256).thread_name("weir-serve").enable_all().build();
        let runtime = runtime.map_err(io_fault("start the sidecar's threads"))?;
        let Self { config, unix, tcp, .. } = self;
        let app = App::new(config, gate, executor).map_err(|refusal| ServeFault::Start(refusal.message))?;
        let result = runtime.block_on(run(Arc::new(app), unix, tcp, shutdown));
        runtime.shutdown_timeout(LAST);
        result
    }
}

async fn run(
    app: Arc<App>,
    unix: Option<Socket>,
    tcp: Option<TcpListener>,
    shutdown: Shutdown,
) -> Result<(), ServeFault> {
    let (drain, draining) = watch::channel(false);
    // Each listener keeps one place for itself, so that neither can starve the other.
    let connections = app.config.connections.max(2);
    let places = Arc::new(Semaphore::new(connections));
    let router = router(app.clone());
    let mut tasks = JoinSet::new();
    // Before the first call can come: it would be told that nobody can be asked.
    if app.config.operator_token.is_some() {
        app.config.desk.open(&app.gate);
    }
    let served = Served { router, places: places.clone(), draining, read_within: app.config.read_within };
    if let Some(socket) = &unix {
        let listener = socket.listener.try_clone().and_then(tokio::net::UnixListener::from_std);
        let listener = listener.map_err(io_fault("listen on the Unix socket"))?;
        tasks.spawn(accept(served.clone(), Via::Unix, async move || listener.accept().await.map(|(stream, _)| stream)));
    }
    if let Some(listener) = tcp {
        let listener = tokio::net::TcpListener::from_std(listener).map_err(io_fault("listen on TCP"))?;
        tasks.spawn(accept(served.clone(), Via::Tcp, async move || listener.accept().await.map(|(stream, _)| stream)));
    }
    tasks.spawn(sweep(app.clone()));
    shutdown.wait().await;
    wind_down(&app).await;
    // Connections finish the answer that they are writing; whoever hangs is cut off.
    drain.send_replace(true);
    tasks.abort_all();
    let all = u32::try_from(connections).unwrap_or(u32::MAX);
    drop(tokio::time::timeout(LAST, places.acquire_many(all)).await);
    drop(unix);
    Ok(())
}

/// Ends everything that is open.
async fn wind_down(app: &Arc<App>) {
    app.stop();
    app.config.desk.shut();
    let finished = async {
        while app.sessions.executing() > 0 || app.works.count() > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    if tokio::time::timeout(app.config.grace, finished).await.is_err() {
        app.sessions.unfinished().iter().for_each(|execution| cancel(app, execution));
    }
    let mut active = app.active.subscribe();
    if tokio::time::timeout(LAST, active.wait_for(|active| *active == 0)).await.is_err() {
        tracing::error!("an execution did not end when it was cancelled; its calls end as unknown at the next start");
    }
    let rest = app.clone();
    drop(blocking(move || expire(&rest, rest.works.take_older(Duration::ZERO))).await);
    let mut closing = JoinSet::new();
    for id in app.sessions.ids() {
        let app = app.clone();
        closing.spawn(async move { close(&app, id, Parting::Rest).await });
    }
    drop(tokio::time::timeout(LAST, closing.join_all()).await);
}

/// Looks for what nobody will come back for.
async fn sweep(app: Arc<App>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        for execution in app.sessions.unfinished() {
            if execution.is_abandoned(app.config.lost_after) {
                tracing::info!(execution = %execution.id(), "nobody waits for the execution any more; it is cancelled");
                cancel(&app, &execution);
            }
        }
        for id in app.sessions.idle(app.config.idle) {
            drop(close(&app, id, Parting::Rest).await);
        }
        let works = app.works.take_older(app.config.outcome_within);
        if !works.is_empty() {
            let app = app.clone();
            drop(blocking(move || expire(&app, works)).await);
        }
    }
}

/// What every connection needs.
#[derive(Clone)]
struct Served {
    router: Router,
    places: Arc<Semaphore>,
    draining: watch::Receiver<bool>,
    read_within: Duration,
}

/// Accepts connections as long as there are places for them.
async fn accept<S, F>(served: Served, via: Via, next: F)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: AsyncFn() -> std::io::Result<S>,
{
    while let Ok(place) = served.places.clone().acquire_owned().await {
        match next().await {
            Ok(stream) => {
                let connection = connect(served.clone(), via, stream);
                tokio::spawn(async move {
                    connection.await;
                    drop(place);
                });
            }
            Err(error) => {
                // Out of file descriptors and the like: wait for others to end.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Serves one connection until it ends or the sidecar drains.
async fn connect<S>(mut served: Served, via: Via, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let router = served.router.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(via);
        answer(router.clone(), request)
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(served.read_within).max_buf_size(HEAD).max_headers(HEADERS);
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    let draining = async { drop(served.draining.wait_for(|draining| *draining).await) };
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = draining => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

async fn answer(router: Router, request: Request<Body>) -> Result<Response<Body>, Infallible> {
    router.oneshot(request).await
}
