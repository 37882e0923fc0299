//! The headers of an exchange: which go upstream and which to the client, and whose the call is.

use bytes::Bytes;
use hyper::header::HeaderMap;
use hyper::http::uri::PathAndQuery;
use hyper::{Response, StatusCode, Uri};

use super::shape;
use crate::egress::body::{Body, full};
use crate::egress::client::chosen;
use crate::egress::door::Door;
use crate::egress::error::Refusal;
use crate::model::Subject;

/// Headers of a request that go upstream, besides those that begin with one of [`ASKED_PREFIXES`].
const ASKED: &[&str] = &["accept", "content-type", "user-agent", "x-app", "x-client-request-id"];
const ASKED_PREFIXES: &[&str] = &["anthropic-beta", "anthropic-version", "openai-beta", "x-stainless-"];
/// Headers of an answer that go to the client.
const TOLD: &[&str] = &["content-type", "request-id", "x-request-id", "retry-after", "x-should-retry"];
const TOLD_PREFIXES: &[&str] = &["anthropic-ratelimit-", "x-ratelimit-", "openai-processing-", "openai-version"];

/// The path with its query as the provider knows it: clients leave `/v1` out at times.
pub(super) fn path(uri: &Uri) -> String {
    let path = uri.path_and_query().map_or("/", PathAndQuery::as_str);
    if uri.path().starts_with("/v1/") { path.to_owned() } else { format!("/v1{path}") }
}

/// The headers that go upstream, with the provider's key.
pub(super) fn upstream(door: &Door, asked: &HeaderMap) -> Result<HeaderMap, Refusal> {
    let mut headers = chosen(asked, ASKED, ASKED_PREFIXES);
    shape::sign(door.upstream.kind, &door.upstream.key, &mut headers)?;
    Ok(headers)
}

/// An answer as the client gets it. One that shows the provider's key is not shown.
pub(super) fn response(door: &Door, status: StatusCode, told: &HeaderMap, bytes: Bytes) -> Response<Body> {
    if door.upstream.key.is_in(&bytes) {
        let refusal = Refusal::forbidden("the provider's answer quotes the gate's key; it is withheld");
        return shape::refused(door.upstream.kind, &refusal);
    }
    let mut response = Response::new(full(bytes));
    *response.status_mut() = status;
    *response.headers_mut() = chosen(told, TOLD, TOLD_PREFIXES);
    response
}

/// Whose call it is. A client names its session, and Claude Code the subagent that asks.
pub(super) fn subject(door: &Door, asked: &HeaderMap) -> Result<Subject, Refusal> {
    let session = match Door::header(asked, "x-claude-code-session-id")? {
        None => Door::header(asked, "session_id")?,
        named => named,
    };
    let agent = Door::header(asked, "x-claude-code-agent-id")?;
    Ok(door.sessions.subject(session, agent.as_slice()))
}
