//! Model providers: Anthropic Messages, OpenAI Chat Completions and Responses.
//!
//! A generation is admitted by the gate with a bound of what it can cost, forwarded with the provider's
//! key, and settled by the usage that the provider reports. Everything that is no generation and costs
//! nothing passes in a short list; everything else is refused.

mod shape;

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};

use super::body::{self, Body};
use super::client::chosen;
use super::door::{Door, Left, Protocol, Reply};
use super::error::Refusal;
use super::upstream::Kind;

/// Headers of a request that go upstream, besides those with a prefix of [`ASKED_PREFIXES`].
const ASKED: &[&str] = &["accept", "content-type", "user-agent", "x-app", "x-client-request-id"];
const ASKED_PREFIXES: &[&str] = &["anthropic-beta", "anthropic-version", "openai-beta", "x-stainless-"];
/// Headers of an answer that go to the client.
const TOLD: &[&str] = &["content-type", "request-id", "x-request-id", "retry-after", "x-should-retry"];
const TOLD_PREFIXES: &[&str] = &["anthropic-ratelimit-", "x-ratelimit-", "openai-processing-", "openai-version"];

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
    fn answer(&self, door: Arc<Door>, request: Request<Incoming>, _: Left) -> Reply {
        let kind = self.kind;
        Box::pin(async move {
            let (method, path) = (request.method().clone(), request.uri().path().to_owned());
            match (&method, path.as_str()) {
                (&Method::HEAD | &Method::GET, "/") => Ok(Response::new(body::empty())),
                (&Method::GET, path) if lists_models(path) => pass(&door, kind, request).await,
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

/// Forwards a request without a body that costs nothing.
async fn pass(door: &Door, kind: Kind, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
    let mut headers = chosen(request.headers(), ASKED, ASKED_PREFIXES);
    shape::sign(kind, &door.upstream.key, &mut headers)?;
    let path = request.uri().path_and_query().map_or("/", hyper::http::uri::PathAndQuery::as_str);
    let lost = |lost: super::error::Lost| Refusal::new(StatusCode::FORBIDDEN, format!("{lost}; ask the user"));
    let (parts, mut inbound) =
        door.client.send(Method::GET, path, headers, body::empty()).await.map_err(lost)?.into_parts();
    let bytes = inbound.collect(door.bounds.answer_bytes).await.map_err(lost)?;
    let mut response = Response::new(body::full(bytes));
    *response.status_mut() = parts.status;
    *response.headers_mut() = chosen(&parts.headers, TOLD, TOLD_PREFIXES);
    Ok(response)
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
