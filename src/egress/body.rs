//! Bodies in both directions: bounded where they are read whole, piece by piece where they flow.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Empty, Full, Limited};
use hyper::StatusCode;
use hyper::body::{Body as HttpBody, Frame, Incoming};
use tokio::sync::mpsc;

use super::error::{Lost, Refusal};

/// A body that goes out, to a client or to an upstream.
pub(crate) type Body = BoxBody<Bytes, io::Error>;

/// A body of these bytes.
pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(never).boxed()
}

/// No body.
pub(crate) fn empty() -> Body {
    Empty::new().map_err(never).boxed()
}

fn never(never: Infallible) -> io::Error {
    match never {}
}

/// Reads a request's body whole: at most `most` bytes, within `within`.
pub(crate) async fn collect(body: Incoming, most: usize, within: Duration) -> Result<Bytes, Refusal> {
    let too_large = || Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, format!("a request has at most {most} bytes"));
    if body.size_hint().lower() > u64::try_from(most).unwrap_or(u64::MAX) {
        return Err(too_large());
    }
    match tokio::time::timeout(within, Limited::new(body, most).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) => Err(Refusal::malformed("the body did not arrive whole")),
        Err(_) => Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time")),
    }
}

/// What arrives from an upstream, piece by piece.
pub(crate) struct Inbound {
    body: Incoming,
    idle: Duration,
}

impl Inbound {
    pub(super) const fn new(body: Incoming, idle: Duration) -> Self {
        Self { body, idle }
    }

    /// The next piece; `None` at the end. Trailers are passed over.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Lost> {
        loop {
            let frame = match tokio::time::timeout(self.idle, self.body.frame()).await {
                Err(_) => return Err(Lost::Silent),
                Ok(None) => return Ok(None),
                Ok(Some(frame)) => frame.map_err(|_| Lost::Broken)?,
            };
            if let Ok(bytes) = frame.into_data() {
                return Ok(Some(bytes));
            }
        }
    }

    /// All of it, at most `most` bytes.
    pub(crate) async fn collect(&mut self, most: usize) -> Result<Bytes, Lost> {
        let mut all = Vec::new();
        while let Some(bytes) = self.next().await? {
            if all.len() + bytes.len() > most {
                return Err(Lost::TooLarge);
            }
            all.extend_from_slice(&bytes);
        }
        Ok(all.into())
    }
}

/// The writing end of a body that flows to a client. It is closed once the client has gone.
pub(crate) struct Outlet(mpsc::Sender<io::Result<Bytes>>);

/// A body that flows, with its writing end. Few pieces wait in between, so that a slow client slows the upstream.
pub(crate) fn flowing() -> (Outlet, Body) {
    let (sender, receiver) = mpsc::channel(4);
    (Outlet(sender), Flow(receiver).boxed())
}

impl Outlet {
    /// Sends a piece.
    ///
    /// # Errors
    /// The client has gone.
    pub(crate) async fn send(&self, bytes: Bytes) -> Result<(), Gone> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.0.send(Ok(bytes)).await.map_err(|_| Gone)
    }

    /// Waits until the client has gone.
    pub(crate) async fn gone(&self) {
        self.0.closed().await;
    }

    /// Breaks the connection, so that the client cannot take what it has for the whole.
    pub(crate) async fn cut(self) {
        drop(self.0.send(Err(io::Error::from(io::ErrorKind::ConnectionAborted))).await);
    }
}

/// The client has closed the connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gone;

struct Flow(mpsc::Receiver<io::Result<Bytes>>);

impl HttpBody for Flow {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|bytes| bytes.map(Frame::data)))
    }
}
