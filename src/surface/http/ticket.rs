//! A question answered by link: one page for one question, for a person who has no token at hand.
//!
//! The link carries a signature over the question and the call that it binds, made with the operator's token, so that
//! whoever holds it may answer this one question and nothing else. Only an operator is told links. The page is built from
//! the card's parsed fields, all of them escaped; it has no script and loads nothing.

use std::fmt::Write as _;
use std::sync::{Arc, LazyLock};

use axum::extract::{FromRequest, RawQuery, Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};

use super::app::{App, blocking};
use super::approvals::told;
use super::body::{Id, query, receive};
use super::error::{Fault, Refusal};
use super::page::{STYLE, plain};
use crate::model::Name;
use crate::pep::Reply;
use crate::surface::{Asked, Secret};

/// Bytes of an answered form.
const FORM: usize = 1 << 10;

/// Nothing but this page's own style, and forms back to where it came from.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let hash = STANDARD.encode(Sha256::digest(STYLE.as_bytes()));
    format!(
        "default-src 'none'; style-src 'sha256-{hash}'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    )
});

/// Path and query under which the question on `card` can be answered.
pub(super) fn link(card: &Asked, operator: &Secret) -> Option<String> {
    let signature = signature(card, operator)?.finalize().into_bytes();
    Some(format!("/approve/{}?s={}", card.id, hex::encode(signature)))
}

/// HMAC-SHA-256 (RFC 2104), which takes a key of any length.
fn signature(card: &Asked, operator: &Secret) -> Option<Hmac<Sha256>> {
    let mut mac = Hmac::<Sha256>::new_from_slice(operator.expose().as_bytes()).ok()?;
    mac.update(format!("weir approval\n{}\n{}", card.id, card.digest).as_bytes());
    Some(mac)
}

/// What the page's form sends.
pub(super) struct Answer {
    signature: Vec<u8>,
    reply: Reply,
}

impl FromRequest<Arc<App>> for Answer {
    type Rejection = Refusal;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, Refusal> {
        let form = HeaderValue::from_static("application/x-www-form-urlencoded");
        if request.headers().get(header::CONTENT_TYPE) != Some(&form) {
            return Err(Refusal::new(Fault::MediaType, "send the form of the page"));
        }
        let (bytes, _room) = receive(request, app, FORM).await?;
        Self::parse(&bytes).ok_or_else(|| Refusal::malformed("this is not what the form of the page sends"))
    }
}

impl Answer {
    /// Every field at most once and none besides; `None` otherwise.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let (mut signature, mut verdict, mut add) = (None, None, None);
        for (key, value) in text.split('&').map(|pair| pair.split_once('=')).collect::<Option<Vec<_>>>()? {
            let slot = match key {
                "s" => &mut signature,
                "verdict" => &mut verdict,
                "add" => &mut add,
                _ => return None,
            };
            if slot.replace(value).is_some() {
                return None;
            }
        }
        let reply = match (verdict?, add.filter(|add| !add.is_empty())) {
            ("approve", None) => Reply::Yes,
            ("approve", Some(add)) => Reply::YesBy(add.parse().ok()?),
            ("refuse", _) => Reply::No,
            _ => return None,
        };
        Some(Self { signature: hex::decode(signature?).ok()?, reply })
    }
}

/// `GET /approve/{approval}`
pub(super) async fn show(
    State(app): State<Arc<App>>,
    Id(id): Id,
    RawQuery(text): RawQuery,
) -> Result<Response, Refusal> {
    let given = query(text.as_deref(), &["s"])?.get("s").and_then(|text| hex::decode(text).ok()).unwrap_or_default();
    blocking(move || match signed(&app, &id, &given) {
        Some(card) => page(StatusCode::OK, &question(&card, &hex::encode(&given))),
        None => gone(),
    })
    .await
}

/// `POST /approve/{approval}`
pub(super) async fn answer(State(app): State<Arc<App>>, Id(id): Id, answer: Answer) -> Result<Response, Refusal> {
    blocking(move || {
        if signed(&app, &id, &answer.signature).is_none() {
            return gone();
        }
        let by = format!("operator, approval {id} by link");
        let done = match answer.reply {
            Reply::No => "Refused. The agent is told so.",
            Reply::Yes | Reply::YesBy(_) => "Approved, once, for exactly this call.",
        };
        match told(app.config.desk.answer(&app.gate, &id, answer.reply, &by)) {
            Ok(()) => page(StatusCode::OK, &format!("<h1>{done}</h1><p>You can close this page.</p>")),
            Err(refusal) => page(StatusCode::CONFLICT, &format!("<h1>Not done</h1><p>{}</p>", plain(&refusal.message))),
        }
    })
    .await
}

/// The card of a question that waits, when `given` is the signature of its link.
fn signed(app: &App, id: &Name, given: &[u8]) -> Option<Asked> {
    let operator = app.config.operator_token.as_ref()?;
    let card = app.config.desk.list(&app.gate).into_iter().find(|card| card.id == *id)?;
    signature(&card, operator)?.verify_slice(given).is_ok().then_some(card)
}

/// Unknown, answered, expired and wrongly signed look the same.
fn gone() -> Response {
    let text = "<h1>Nothing to answer</h1><p>This question was answered, has expired, or the link is not whole.</p>";
    page(StatusCode::NOT_FOUND, text)
}

fn question(card: &Asked, signature: &str) -> String {
    let mut html = format!(
        "<h1>{agent} asks: {action} <code>{resource}</code></h1><p>{why}</p><pre>{args}</pre>",
        agent = plain(card.agent.as_str()),
        action = plain(card.action),
        resource = plain(card.resource.as_str()),
        why = plain(&card.why),
        args = plain(&card.args),
    );
    for note in &card.notes {
        let _ = write!(html, "<p><b>{}</b></p>", plain(note));
    }
    if let Some(raise) = &card.raise {
        let by: Vec<String> =
            raise.by.iter().filter(|(_, by)| *by > 0).map(|(kind, by)| format!("{by} {}", kind.row().unit)).collect();
        let _ = write!(
            html,
            "<p>A yes adds {} to the budget <code>{}</code> of <code>{}</code>.</p>",
            plain(&by.join(", ")),
            plain(&raise.budget),
            plain(&raise.account)
        );
    }
    let _ = write!(
        html,
        "<p>session <code>{session}</code>, digest <code>{digest}</code>, {seconds} s left</p>\
         <form method=\"post\"><input type=\"hidden\" name=\"s\" value=\"{signature}\">",
        session = plain(card.session.as_str()),
        digest = plain(&card.digest.to_string()),
        seconds = card.expires_in_ms / 1_000,
        signature = plain(signature),
    );
    if card.approvable {
        html.push_str("<button name=\"verdict\" value=\"approve\">Approve once</button> ");
    }
    html.push_str("<button name=\"verdict\" value=\"refuse\">Refuse</button></form>");
    html
}

fn page(status: StatusCode, body: &str) -> Response {
    let html = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>Weir: a question</title><style>{STYLE}</style>{body}</html>\n"
    );
    // The origin is told to this page's own form alone, where it is compared with the host.
    let headers: [(HeaderName, &str); 3] = [
        (header::CONTENT_SECURITY_POLICY, POLICY.as_str()),
        (header::REFERRER_POLICY, "same-origin"),
        (header::X_FRAME_OPTIONS, "DENY"),
    ];
    (status, headers, Html(html)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_has_each_field_once_and_no_other() {
        let parse = |text: &str| Answer::parse(text.as_bytes()).map(|answer| (answer.signature, answer.reply));
        assert_eq!(parse("s=00ff&verdict=approve"), Some((vec![0, 255], Reply::Yes)));
        assert_eq!(parse("verdict=approve&add=5&s=00"), Some((vec![0], Reply::YesBy(5))));
        assert_eq!(parse("s=00&verdict=refuse&add="), Some((vec![0], Reply::No)));
        for bad in [
            "",
            "s=00",
            "verdict=approve",
            "s=00&s=00&verdict=refuse",
            "s=0g&verdict=refuse",
            "s=00&verdict=yes",
            "s=00&verdict=approve&add=-1",
            "s=00&verdict=refuse&x=1",
            "s=00&verdict",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
