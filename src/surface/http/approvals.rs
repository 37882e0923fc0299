//! The operator's side of the desk, over HTTP.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use serde_json::{Value, json};

use super::app::{App, blocking};
use super::body::{Id, Strict};
use super::error::{Fault, Refusal};
use super::ticket;
use crate::pep::{AnswerFault, Reply};
use crate::surface::{Answered, Asked};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Verdict {
    approve: bool,
    /// At a budget's cap: how much to add instead of what the question names.
    add: Option<u64>,
}

/// `GET /v1/approvals`
pub(super) async fn list(State(app): State<Arc<App>>) -> Result<Json<Value>, Refusal> {
    blocking(move || {
        let cards = app.config.desk.list(&app.gate);
        let linked = |card: &Asked| {
            let mut told = json!(card);
            told["link"] = app.config.operator_token.as_ref().and_then(|operator| ticket::link(card, operator)).into();
            told
        };
        Json(json!({"approvals": cards.iter().map(linked).collect::<Vec<_>>()}))
    })
    .await
}

/// `POST /v1/approvals/{id}`
pub(super) async fn answer(
    State(app): State<Arc<App>>,
    Id(id): Id,
    Strict(body): Strict<Verdict>,
) -> Result<Json<Value>, Refusal> {
    let reply = match (body.approve, body.add) {
        (true, None) => Reply::Yes,
        (true, Some(add)) => Reply::YesBy(add),
        (false, None) => Reply::No,
        (false, Some(_)) => return Err(Refusal::malformed("`add` stands with a yes; a refusal adds nothing")),
    };
    let by = format!("operator, approval {id}");
    told(blocking(move || app.config.desk.answer(&app.gate, &id, reply, &by)).await?)?;
    Ok(Json(json!({})))
}

/// What became of an answer.
pub(super) fn told(answered: Answered) -> Result<(), Refusal> {
    match answered {
        Answered::Taken => Ok(()),
        Answered::Gone => Err(Refusal::new(Fault::NotFound, AnswerFault::Gone.to_string())),
        Answered::NotApprovable => {
            Err(Refusal::new(Fault::Conflict, "this call cannot be shown whole, so it can only be refused"))
        }
        Answered::Failed(AnswerFault::Unrecorded) => {
            Err(Refusal::new(Fault::JournalFailed, AnswerFault::Unrecorded.to_string()))
        }
        Answered::Failed(fault) => Err(Refusal::new(Fault::Conflict, fault.to_string())),
    }
}
