//! What is said when a request is refused before the gate had anything to decide.
//!
//! A denial by the policy is an answer, not an error. Texts are for a person or a model, under 400
//! characters, and name nothing inside the gate.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::model::Limits;
use crate::surface::visible;

/// Why a request was refused; each is one row of [`Fault::row`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Malformed,
    Unauthorized,
    Forbidden,
    NotFound,
    Method,
    Slow,
    Conflict,
    TooLarge,
    MediaType,
    SessionLimit,
    Busy,
    Internal,
    JournalFailed,
    Unreached,
    Stopping,
}

impl Fault {
    /// Every fault.
    pub(super) const ALL: [Self; 15] = [
        Self::Malformed,
        Self::Unauthorized,
        Self::Forbidden,
        Self::NotFound,
        Self::Method,
        Self::Slow,
        Self::Conflict,
        Self::TooLarge,
        Self::MediaType,
        Self::SessionLimit,
        Self::Busy,
        Self::Internal,
        Self::JournalFailed,
        Self::Unreached,
        Self::Stopping,
    ];

    /// Status, code and meaning.
    pub(super) const fn row(self) -> (u16, &'static str, &'static str) {
        match self {
            Self::Malformed => (400, "malformed", "not one strict JSON value of the documented form"),
            Self::Unauthorized => (401, "unauthorized", "no token, or a wrong one"),
            Self::Forbidden => (403, "forbidden", "wrong Host or Origin, or another role's token is needed"),
            Self::NotFound => (404, "not_found", "no such path, session, execution, call, approval or file"),
            Self::Method => (405, "method", "the path has no such method"),
            Self::Slow => (408, "slow", "the body did not arrive in time"),
            Self::Conflict => (409, "conflict", "not possible in this state; nothing changed"),
            Self::TooLarge => (413, "too_large", "over a limit on size"),
            Self::MediaType => (415, "media_type", "not of the type that the path takes, or compressed"),
            Self::SessionLimit => (429, "session_limit", "too many sessions are open"),
            Self::Busy => (429, "busy", "too many requests or open calls at once"),
            Self::Internal => (500, "internal", "the gate failed; the call was refused"),
            Self::JournalFailed => (503, "journal_failed", "the journal cannot be read or written"),
            Self::Unreached => (503, "gates_unreached", "done at this gate; other gates may not know of it"),
            Self::Stopping => (503, "stopping", "the gate is stopping and takes no new work"),
        }
    }
}

/// A refused request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) fault: Fault,
    pub(super) message: String,
}

impl Refusal {
    pub(super) fn new(fault: Fault, message: impl AsRef<str>) -> Self {
        let mut message = visible(message.as_ref(), Limits::DENIAL_BYTES - 40);
        while message.len() >= Limits::DENIAL_BYTES {
            message.pop();
        }
        Self { fault, message }
    }

    pub(super) fn malformed(message: impl AsRef<str>) -> Self {
        Self::new(Fault::Malformed, message)
    }

    pub(super) fn internal() -> Self {
        Self::new(Fault::Internal, "the gate failed and refused the request; the reason is in its log")
    }

    pub(super) fn stopping() -> Self {
        Self::new(Fault::Stopping, "the gate is stopping and takes no new work")
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, code, _) = self.fault.row();
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(json!({"error": {"code": code, "message": self.message}}))).into_response();
        let headers = response.headers_mut();
        if self.fault == Fault::Unauthorized {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        // What follows on such a connection was not read, or comes from a stranger.
        if matches!(self.fault, Fault::Unauthorized | Fault::Forbidden | Fault::TooLarge | Fault::Slow) {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_short_and_harmless_whatever_it_quotes() {
        for text in ["\u{1b}[31m".repeat(300), "é".repeat(500), "x".repeat(5000), "\u{e0041}".repeat(90)] {
            let refusal = Refusal::malformed(text);
            assert!(refusal.message.len() < Limits::DENIAL_BYTES, "{} bytes", refusal.message.len());
            assert!(!refusal.message.contains('\u{1b}'));
        }
    }
}
