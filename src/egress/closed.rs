//! A kind of upstream that this build cannot speak: every request is refused.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Request, Response};

use super::body::{Body, full};
use super::door::{Door, Left, Protocol, Reply};
use super::error::Refusal;

/// Refuses.
pub(super) struct Closed;

impl Protocol for Closed {
    fn answer(&self, door: Arc<Door>, _: Request<Incoming>, _: Left) -> Reply {
        let text = format!("this gate does not speak to upstreams of the kind of `{}`", door.upstream.name);
        Box::pin(async move { Err(Refusal::forbidden(text)) })
    }

    fn refuse(&self, _: &str, refusal: &Refusal) -> Response<Body> {
        let mut response = Response::new(full(refusal.text.clone()));
        *response.status_mut() = refusal.status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        response
    }
}
