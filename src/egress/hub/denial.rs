//! How a client of the Hub is told of a refusal: in the form in which it shows one to a person.
//!
//! The client retries 429 and every 5xx, takes 401 for a missing repository, and hides why a file was refused unless it is
//! said to be gated. So: 402 for money, 403 for everything else, and the text where the client looks for it.

use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use serde_json::{Value, json};

use super::request::Refused;
use crate::egress::body::{Body, full};
use crate::egress::error::Refusal;
use crate::egress::held::Denial;
use crate::model::{Limits, ReasonCode};

/// Where the client looks for a text, and for what sort of refusal it is.
const MESSAGE: HeaderName = HeaderName::from_static("x-error-message");
const CODE: HeaderName = HeaderName::from_static("x-error-code");

/// The answer to a request at `path` that is refused.
pub(super) fn refuse(path: &str, refusal: &Refusal) -> Response<Body> {
    let status = match refusal.status {
        // A client would try again, up to five times.
        StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => StatusCode::FORBIDDEN,
        status if status.is_server_error() => StatusCode::FORBIDDEN,
        status => status,
    };
    let mut response = answer(status, &json!({"error": refusal.text}));
    let headers = response.headers_mut();
    if status == StatusCode::UNAUTHORIZED {
        // With any other text the client says that the repository is missing.
        headers.insert(MESSAGE, HeaderValue::from_static("Invalid credentials in Authorization header"));
    } else {
        headers.insert(MESSAGE, line(&refusal.text));
    }
    if status == StatusCode::FORBIDDEN && (path.contains("/resolve/") || path.contains("/resolve-cache/")) {
        headers.insert(CODE, HeaderValue::from_static("GatedRepo"));
    }
    response
}

/// The answer for a file that is not there.
pub(super) fn missing(commit: &str, path: &str) -> Response<Body> {
    let text = format!("the repository has no file `{path}` at the pinned commit");
    let mut response = answer(StatusCode::NOT_FOUND, &json!({"error": text}));
    let headers = response.headers_mut();
    headers.insert(CODE, HeaderValue::from_static("EntryNotFound"));
    headers.insert(MESSAGE, line(&text));
    headers.insert("x-repo-commit", line(commit));
    response
}

/// An answer in JSON.
pub(super) fn answer(status: StatusCode, value: &Value) -> Response<Body> {
    let mut response = Response::new(full(value.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// `text` as a header: one line of visible ASCII characters, bounded.
pub(super) fn line(text: &str) -> HeaderValue {
    let plain = |c: char| if c == ' ' || c.is_ascii_graphic() { c } else { '?' };
    let line: String = text.chars().take(Limits::DENIAL_BYTES).map(plain).collect();
    HeaderValue::from_str(&line).unwrap_or_else(|_| HeaderValue::from_static("refused"))
}

/// What the gate denied.
pub(super) fn of_gate(denial: Denial) -> Refusal {
    let status = match denial.code {
        ReasonCode::BudgetExhausted => StatusCode::PAYMENT_REQUIRED,
        _ => StatusCode::FORBIDDEN,
    };
    Refusal::new(status, denial.text)
}

/// What was refused before the gate was asked.
pub(super) fn unasked(refused: &Refused) -> Refusal {
    Refusal::forbidden(format!(
        "[weir] denied by the Hub's gate: {}. Instead: {}. Do not retry unchanged.",
        refused.what, refused.instead
    ))
}

/// A refusal in the gate's form with a sentence on what is wrong and one on what to do.
pub(super) fn because(what: &str, instead: &str) -> Refusal {
    Refusal::forbidden(format!("[weir] denied by the Hub's gate: {what}. {instead}."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_never_retried_and_always_shown() {
        for status in [429, 408, 500, 502, 503, 504] {
            let status = StatusCode::from_u16(status).unwrap();
            let response = refuse("/api/models/a", &Refusal::new(status, "no\nway é"));
            assert_eq!(response.status(), StatusCode::FORBIDDEN);
            assert_eq!(response.headers()["x-error-message"], "no?way ?");
            assert!(!response.headers().contains_key("x-error-code"));
        }
        let file = refuse("/gpt2/resolve/main/a", &Refusal::forbidden("x"));
        assert_eq!(file.headers()["x-error-code"], "GatedRepo");
        let budget = of_gate(Denial { code: ReasonCode::BudgetExhausted, text: "t".into() });
        assert_eq!(refuse("/api/jobs/a", &budget).status(), StatusCode::PAYMENT_REQUIRED);
        let stranger = refuse("/api/models/a", &Refusal::new(StatusCode::UNAUTHORIZED, "the gate takes its own token"));
        assert_eq!(stranger.headers()["x-error-message"], "Invalid credentials in Authorization header");
    }
}
