//! The operator's side of the desk, over HTTP.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use serde_json::{Value, json};

use super::app::App;
use super::body::{Id, Strict};
use super::error::{Fault, Refusal};
use crate::surface::Answered;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Verdict {
    approve: bool,
}

/// `GET /v1/approvals`
pub(super) async fn list(State(app): State<Arc<App>>) -> Json<Value> {
    Json(json!({"approvals": app.config.desk.list()}))
}

/// `POST /v1/approvals/{id}`
pub(super) async fn answer(
    State(app): State<Arc<App>>,
    Id(id): Id,
    Strict(body): Strict<Verdict>,
) -> Result<Json<Value>, Refusal> {
    match app.config.desk.answer(id.as_str(), body.approve) {
        Answered::Taken => Ok(Json(json!({}))),
        Answered::Gone => Err(Refusal::new(
            Fault::NotFound,
            "nothing with this id waits for an answer: it was answered, taken back, or has expired",
        )),
        Answered::NotApprovable => {
            Err(Refusal::new(Fault::Conflict, "this call cannot be shown whole, so it can only be refused"))
        }
    }
}
