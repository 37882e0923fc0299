//! What can be read: receipts, scores, health and metrics. Nothing here changes anything.

use std::sync::Arc;

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::app::{App, blocking};
use super::body::{Id, query};
use super::error::{Fault, Refusal};
use super::metrics;
use crate::model::Name;

/// Receipts in one answer unless asked otherwise.
const RECEIPTS: usize = 100;
/// Receipts in one answer at most: what the gate keeps at hand.
const MOST_RECEIPTS: usize = 1000;

/// `GET /v1/receipts`
pub(super) async fn receipts(State(app): State<Arc<App>>, RawQuery(text): RawQuery) -> Result<Json<Value>, Refusal> {
    let query = query(text.as_deref(), &["session", "limit"])?;
    let session = query.get("session").map(|text| Name::new(text.as_str())).transpose();
    let session = session.map_err(|fault| Refusal::malformed(format!("session: {fault}")))?;
    let limit = query.get("limit").map_or(Ok(RECEIPTS), |text| text.parse());
    let limit = limit.ok().filter(|limit| (1..=MOST_RECEIPTS).contains(limit));
    let limit = limit.ok_or_else(|| Refusal::malformed(format!("limit is a number from 1 to {MOST_RECEIPTS}")))?;
    check_journal(&app)?;
    let receipts = blocking(move || app.gate.receipts(session.as_ref(), limit)).await?;
    Ok(Json(json!({"receipts": receipts})))
}

/// `GET /v1/receipts/{id}`
pub(super) async fn receipt(State(app): State<Arc<App>>, Id(id): Id) -> Result<Json<Value>, Refusal> {
    check_journal(&app)?;
    let receipts = blocking(move || app.gate.receipts(None, MOST_RECEIPTS)).await?;
    let found = receipts.into_iter().find(|receipt| receipt.receipt_id == id);
    let nothing = "no such receipt among the newest 1,000; older ones are in the journal (`weir audit show`)";
    found.map(|receipt| Json(json!(receipt))).ok_or_else(|| Refusal::new(Fault::NotFound, nothing))
}

/// `GET /v1/scores`
pub(super) async fn scores(State(app): State<Arc<App>>) -> Result<Json<Value>, Refusal> {
    check_journal(&app)?;
    blocking(move || Json(json!({"policy": app.gate.policy().policy().id, "factors": app.gate.scores()}))).await
}

/// `GET /health/live`
pub(super) async fn live() -> Json<Value> {
    Json(json!({"live": true}))
}

/// `GET /health/ready`
pub(super) async fn ready(State(app): State<Arc<App>>) -> Result<Json<Value>, Refusal> {
    app.check_open()?;
    check_journal(&app)?;
    Ok(Json(json!({"ready": true})))
}

/// `GET /metrics`
pub(super) async fn prometheus(State(app): State<Arc<App>>) -> Result<Response, Refusal> {
    let text = blocking(move || metrics::text(&app)).await?.map_err(|_| Refusal::internal())?;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok((StatusCode::OK, [(header::CONTENT_TYPE, kind)], text).into_response())
}

fn check_journal(app: &App) -> Result<(), Refusal> {
    let text = "the journal cannot be written; every call is denied until the gate is started anew";
    app.gate.health().map_or(Ok(()), |_| Err(Refusal::new(Fault::JournalFailed, text)))
}
