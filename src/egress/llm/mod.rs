//! Model providers: Anthropic Messages, OpenAI Chat Completions and Responses.
//!
//! A generation is admitted by the gate with a bound of what it can cost, forwarded with the provider's
//! key, and settled by the usage that the provider reports. Everything that is no generation and costs
//! nothing passes in a short list; everything else is refused.

mod ask;
mod bound;
mod edit;
mod exchange;
mod headers;
#[cfg(test)]
mod hostile;
mod meter;
mod refusal;
mod shape;
mod sse;
mod usage;

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::{Method, Request, Response};

use self::ask::Api;
use super::body::{self, Body};
use super::door::{Door, Left, Protocol, Reply};
use super::error::Refusal;
use super::upstream::Kind;

/// One provider's protocol.
pub(super) struct Llm {
    kind: Kind,
}

impl Llm {
    pub(super) const fn new(kind: Kind) -> Self {
        Self { kind }
    }
}

impl Protocol for Llm {
    fn answer(&self, door: Arc<Door>, request: Request<Incoming>, left: Left) -> Reply {
        let kind = self.kind;
        Box::pin(async move {
            let (method, path) = (request.method().clone(), request.uri().path().to_owned());
            match (&method, path.as_str()) {
                (&Method::HEAD | &Method::GET, "/") => Ok(Response::new(body::empty())),
                (&Method::GET, path) if lists_models(path) => pass(&door, request).await,
                (&Method::POST, path) => match api(kind, path) {
                    Some(api) => exchange::forward(door, api, request, left).await,
                    None => Err(Refusal::forbidden(shape::elsewhere(kind))),
                },
                _ => Err(Refusal::forbidden(shape::elsewhere(kind))),
            }
        })
    }

    fn refuse(&self, _: &str, refusal: &Refusal) -> Response<Body> {
        shape::refused(self.kind, refusal)
    }
}

/// `/v1/models`, `/v1/models/{one}`, and the same without `/v1`.
fn lists_models(path: &str) -> bool {
    let rest = path.strip_prefix("/v1").unwrap_or(path).strip_prefix("/models");
    rest.is_some_and(|rest| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-:".contains(c);
        rest.is_empty() || rest.strip_prefix('/').is_some_and(|one| !one.starts_with('.') && one.chars().all(plain))
    })
}

/// The API that `path` is of, with or without `/v1`.
fn api(kind: Kind, path: &str) -> Option<Api> {
    match (kind, path.strip_prefix("/v1").unwrap_or(path)) {
        (Kind::Anthropic, "/messages") => Some(Api::Messages),
        (Kind::Anthropic, "/messages/count_tokens") => Some(Api::CountTokens),
        (Kind::OpenAi, "/chat/completions") => Some(Api::Chat),
        (Kind::OpenAi, "/responses") => Some(Api::Responses),
        _ => None,
    }
}

/// Forwards a request without a body that costs nothing.
async fn pass(door: &Door, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
    let upstream = headers::upstream(door, request.headers())?;
    let path = headers::path(request.uri());
    let sent = door.client.send(Method::GET, &path, upstream, body::empty()).await.map_err(refusal::lost)?;
    let (parts, mut inbound) = sent.into_parts();
    let bytes = inbound.collect(door.bounds.answer_bytes).await.map_err(refusal::lost)?;
    Ok(headers::response(door, parts.status, &parts.headers, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lists_of_models_are_lists_of_models() {
        for good in ["/v1/models", "/models", "/v1/models/claude-opus-4-8", "/models/gpt-4.1"] {
            assert!(lists_models(good), "{good}");
        }
        for bad in ["/v1/models/../files", "/v1/models/a/b", "/v1/modelsx", "/v1", "/v1/models/%2e%2e", "/v1/models/.."]
        {
            assert!(!lists_models(bad), "{bad}");
        }
    }
}
