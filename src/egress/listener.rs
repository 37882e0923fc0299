//! One loopback listener: bounded connections, bounded heads, and an end that lets answers leave.

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};

use super::auth::HEAD;
use super::body::Body;
use super::door::Door;
use super::error::{EgressFault, io_fault};

/// Connections that wait to be accepted.
const QUEUE: i32 = 2_048;
/// Headers of a request.
const HEADERS: usize = 64;

/// Binds `address`, which must be loopback.
pub(super) fn bind(address: SocketAddr) -> Result<TcpListener, EgressFault> {
    if !address.ip().is_loopback() {
        return Err(EgressFault::NotLoopback(address));
    }
    let listener = TcpListener::bind(address).map_err(io_fault(format!("listen on {address}")))?;
    // Clients that come all at once wait; with the usual queue the kernel would reset some of them.
    rustix::net::listen(&listener, QUEUE).map_err(|error| io_fault(format!("listen on {address}"))(error.into()))?;
    listener.set_nonblocking(true).map_err(io_fault(format!("listen on {address}")))?;
    Ok(listener)
}

/// What every connection of a listener shares.
#[derive(Clone)]
pub(super) struct Served {
    pub door: Arc<Door>,
    pub places: Arc<Semaphore>,
    pub draining: watch::Receiver<bool>,
    pub read_within: Duration,
}

/// Accepts connections as long as there are places for them.
pub(super) async fn accept(served: Served, listener: TcpListener) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "a proxy could not listen");
            return;
        }
    };
    while let Ok(place) = served.places.clone().acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let connection = connect(served.clone(), stream);
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

/// Serves one connection until it ends or the proxies drain.
async fn connect(mut served: Served, stream: TcpStream) {
    let door = served.door.clone();
    let service = service_fn(move |request: Request<Incoming>| answer(door.clone(), request));
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(served.read_within).max_buf_size(HEAD).max_headers(HEADERS);
    drop(stream.set_nodelay(true));
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

async fn answer(door: Arc<Door>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    Ok(door.answer(request).await)
}
