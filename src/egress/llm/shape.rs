//! What each provider's clients look like from outside: where the key stands, and how a refusal is read.

use hyper::Response;
use hyper::StatusCode;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use serde_json::json;

use crate::egress::body::{Body, full};
use crate::egress::error::Refusal;
use crate::egress::upstream::{Key, Kind};

/// Puts the provider's key into `headers`.
pub(super) fn sign(kind: Kind, key: &Key, headers: &mut HeaderMap) -> Result<(), Refusal> {
    let (name, prefix) = match kind {
        Kind::Anthropic => (HeaderName::from_static("x-api-key"), ""),
        Kind::OpenAi | Kind::Hub => (AUTHORIZATION, "Bearer "),
    };
    let value = key.header(prefix).ok_or_else(|| Refusal::forbidden("the gate has no key for this provider"))?;
    headers.insert(name, value);
    Ok(())
}

/// A refusal in the shape of the provider's own errors. Clients show its message and do not try again.
pub(super) fn refused(kind: Kind, refusal: &Refusal) -> Response<Body> {
    let word = match refusal.status {
        StatusCode::PAYMENT_REQUIRED => "billing_error",
        StatusCode::UNAUTHORIZED => "authentication_error",
        StatusCode::FORBIDDEN => "permission_error",
        StatusCode::PAYLOAD_TOO_LARGE => "request_too_large",
        status if status.is_server_error() => "api_error",
        _ => "invalid_request_error",
    };
    let text = &refusal.text;
    let value = match (kind, refusal.status) {
        (Kind::Anthropic, _) => json!({"type": "error", "error": {"type": word, "message": text}}),
        (_, StatusCode::PAYMENT_REQUIRED) => {
            json!({"error": {"message": text, "type": "insufficient_quota", "param": null, "code": "insufficient_quota"}})
        }
        _ => json!({"error": {"message": text, "type": word, "param": null, "code": null}}),
    };
    let mut response = Response::new(full(value.to_string()));
    *response.status_mut() = refusal.status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    // Of nothing that was sent nothing is lost: only then may a client try again.
    if refusal.status != StatusCode::BAD_GATEWAY {
        headers.insert("x-should-retry", HeaderValue::from_static("false"));
    }
    response
}

/// What to say of a request that is none of those that a proxy forwards.
pub(super) const fn elsewhere(kind: Kind) -> &'static str {
    match kind {
        Kind::Anthropic => {
            "[weir] denied: the gate forwards POST /v1/messages, POST /v1/messages/count_tokens and GET /v1/models, \
             because only of those it knows what they cost. Do not retry."
        }
        Kind::OpenAi | Kind::Hub => {
            "[weir] denied: the gate forwards POST /v1/chat/completions, POST /v1/responses and GET /v1/models, \
             because only of those it knows what they cost. Do not retry."
        }
    }
}
