//! Budgets over HTTP: the statement, and what an operator may do to accounts.
//!
//! Everything here is one operation of the gate. Reading is for both roles, every change for the operator alone; an
//! account's id stands in the body, because it holds `/`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use serde_json::{Value, json};

use super::app::{App, blocking};
use super::body::Strict;
use super::error::{Fault, Refusal};
use crate::model::{Amounts, CallId};
use crate::pep::port::{AccountId, Order};
use crate::pep::{Gate, GateFault, Statement};

/// Who did it, for the record: the token is the identity.
const BY: &str = "operator";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Raise {
    budget: String,
    account: String,
    by: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OnAccount {
    account: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Reconcile {
    call: CallId,
    used: Amounts,
}

/// `GET /v1/budgets`
pub(super) async fn list(State(app): State<Arc<App>>) -> Result<Json<Statement>, Refusal> {
    on(app, Gate::statement).await.map(Json)
}

/// `POST /v1/budgets/raise`
pub(super) async fn raise(State(app): State<Arc<App>>, Strict(body): Strict<Raise>) -> Result<Json<Value>, Refusal> {
    let account = account(&body.account)?;
    on(app, move |gate| gate.raise_budget(&body.budget, &account, body.by, BY)).await.map(|()| Json(json!({})))
}

/// `POST /v1/budgets/freeze`
pub(super) async fn freeze(app: State<Arc<App>>, body: Strict<OnAccount>) -> Result<Json<Value>, Refusal> {
    order(app, body, Order::Freeze).await
}

/// `POST /v1/budgets/thaw`
pub(super) async fn thaw(app: State<Arc<App>>, body: Strict<OnAccount>) -> Result<Json<Value>, Refusal> {
    order(app, body, Order::Thaw).await
}

/// `POST /v1/budgets/revoke`
pub(super) async fn revoke(app: State<Arc<App>>, body: Strict<OnAccount>) -> Result<Json<Value>, Refusal> {
    order(app, body, Order::Revoke).await
}

async fn order(
    State(app): State<Arc<App>>,
    Strict(body): Strict<OnAccount>,
    order: Order,
) -> Result<Json<Value>, Refusal> {
    let account = account(&body.account)?;
    let reach = on(app, move |gate| gate.order(order, &account, BY)).await?;
    Ok(Json(json!({"reach": reach})))
}

/// `POST /v1/budgets/reconcile`
pub(super) async fn reconcile(
    State(app): State<Arc<App>>,
    Strict(body): Strict<Reconcile>,
) -> Result<Json<Value>, Refusal> {
    let posted = on(app, move |gate| gate.reconcile(&body.call, body.used, BY)).await?;
    Ok(Json(json!({"posted": posted})))
}

/// Does `work` on the gate, where it may block.
async fn on<T: Send + 'static>(
    app: Arc<App>,
    work: impl FnOnce(&Gate) -> Result<T, GateFault> + Send + 'static,
) -> Result<T, Refusal> {
    blocking(move || work(&app.gate)).await?.map_err(|fault| match fault {
        GateFault::Refused(why) => Refusal::new(Fault::Conflict, why),
        GateFault::Alone(why) => Refusal::new(Fault::Unreached, why),
        GateFault::Journal(_) | GateFault::Tampered(_) => Refusal::new(
            Fault::JournalFailed,
            "the journal cannot be written; every call is denied until the gate is started anew",
        ),
    })
}

fn account(text: &str) -> Result<AccountId, Refusal> {
    AccountId::parse(text).map_err(|fault| Refusal::malformed(fault.to_string()))
}
