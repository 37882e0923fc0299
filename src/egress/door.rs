//! One upstream as its proxy sees it: the gate, the way out, the sessions, and who is let in.
//!
//! A [`Protocol`] knows the requests of one kind of upstream and how its clients are told of a refusal;
//! everything before it (Host, Origin, token) and around it (a panic) is the same for all.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use hyper::body::Incoming;
use hyper::header::HeaderMap;
use hyper::{Request, Response, StatusCode};
use tokio::sync::{oneshot, watch};

use super::auth;
use super::body::Body;
use super::client::{Client, Patience};
use super::error::Refusal;
use super::held::{self, Denial, Held, Open};
use super::proxy::Bounds;
use super::session::Sessions;
use super::upstream::Upstream;
use crate::model::{Action, Call, Name, Resource, Secret, Subject};
use crate::pep::Gate;

/// An answer to a client, to come.
pub(crate) type Reply = Pin<Box<dyn Future<Output = Result<Response<Body>, Refusal>> + Send>>;

/// Tells that the client has gone before its answer began; from then on the answer's body tells.
pub(crate) struct Left(oneshot::Receiver<Infallible>);

impl Left {
    /// Waits until it has.
    pub(crate) async fn wait(&mut self) {
        drop((&mut self.0).await);
    }

    /// Whether it has.
    pub(crate) fn is_gone(&mut self) -> bool {
        !matches!(self.0.try_recv(), Err(oneshot::error::TryRecvError::Empty))
    }
}

/// What one kind of upstream speaks.
pub(crate) trait Protocol: Send + Sync {
    /// Answers a request that carried the agent's token. It runs on a task of its own, which goes on when the
    /// client has `left` before the answer began.
    fn answer(&self, door: Arc<Door>, request: Request<Incoming>, left: Left) -> Reply;

    /// How a client of this protocol is told of a refusal.
    fn refuse(&self, path: &str, refusal: &Refusal) -> Response<Body>;

    /// Whether requests to `path` carry, instead of the token, a ticket that the protocol itself gave out.
    fn takes_ticket(&self, path: &str) -> bool {
        let _ = path;
        false
    }

    /// Takes up, at the start, what goes on besides requests.
    fn begin(&self, door: &Arc<Door>) {
        let _ = door;
    }
}

/// One upstream with everything that its requests need.
pub(crate) struct Door {
    pub upstream: Upstream,
    pub gate: Arc<Gate>,
    pub client: Client,
    pub sessions: Arc<Sessions>,
    pub bounds: Bounds,
    pub(super) protocol: Box<dyn Protocol>,
    pub(super) token: Secret,
    pub(super) open: Open,
    /// True once the proxies end, and what is still open must, too.
    pub(super) cut: watch::Receiver<bool>,
}

impl Door {
    /// Answers a request, whatever it is.
    pub(super) async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        let path = request.uri().path().to_owned();
        let refused = |refusal: Refusal| self.protocol.refuse(&path, &refusal);
        let token = (!self.protocol.takes_ticket(&path)).then_some(&self.token);
        if let Err(refusal) = auth::check(request.headers(), request.uri(), token) {
            return refused(refusal);
        }
        // Dropped with this future, which is what becomes of it when the client goes.
        let (_waiting, left) = oneshot::channel();
        match tokio::spawn(self.protocol.answer(self.clone(), request, Left(left))).await {
            Ok(Ok(response)) => response,
            Ok(Err(refusal)) => refused(refusal),
            Err(error) => {
                tracing::error!(panicked = error.is_panic(), "a proxy failed on a request; it was refused");
                refused(Refusal::new(StatusCode::FORBIDDEN, "the gate failed on this request and refused it"))
            }
        }
    }

    /// The one value of a request's header.
    pub(crate) fn header<'h>(headers: &'h HeaderMap, name: &str) -> Result<Option<&'h str>, Refusal> {
        auth::single(headers, name)
    }

    /// A call of this proxy's.
    pub(crate) fn call(
        &self,
        subject: Subject,
        action: Action,
        resource: Resource,
        args: serde_json::Map<String, serde_json::Value>,
    ) -> Result<Call, Refusal> {
        let id = held::fresh().ok_or_else(|| Refusal::forbidden("the gate has no random bytes for an id"))?;
        let surface: Name = self.upstream.name.clone();
        Ok(Call { id, subject, action, resource, args, parent: None, surface })
    }

    /// Decides on `call`, holds what it may use and records the intent.
    pub(crate) async fn admit(&self, call: Call) -> Result<Held, Denial> {
        held::admit(&self.gate, &self.open, call).await
    }

    /// How long upstreams may take.
    pub(crate) const fn patience(&self) -> Patience {
        self.bounds.patience()
    }

    /// Waits until the proxies end.
    pub(crate) async fn cut(&self) {
        drop(self.cut.clone().wait_for(|cut| *cut).await);
    }
}
