//! Sessions that last: checkpoints, going back, copies, coming back after a restart of the gate.
//!
//! An agent reaches its own sessions, an operator all of them. What is kept is the keeper's; this file only
//! says whose it is. A copy begins with the labels of its source, recorded before the copy is made.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::app::{App, blocking, fresh};
use super::auth::Caller;
use super::body::{Id, Strict};
use super::error::{Fault, Refusal};
use super::session::{Nothing, begin, unopen};
use crate::model::{Name, Seat};
use crate::pep::port::{KeepFault, Keeper, Kept, Point};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ToPoint {
    /// The newest one when absent.
    checkpoint: Option<String>,
}

/// `GET /v1/kept`
pub(super) async fn list(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Value>, Refusal> {
    blocking(move || {
        let kept = app.executor.keeper().map(Keeper::list).unwrap_or_default();
        let open = open_seats(&app);
        let rows = kept.iter().filter(|kept| may(&app, caller, &kept.seat)).map(|kept| row(kept, &open));
        Json(json!({"sessions": rows.collect::<Vec<Value>>()}))
    })
    .await
}

/// `DELETE /v1/kept/{session}`
pub(super) async fn remove(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Id(id): Id,
) -> Result<Json<Value>, Refusal> {
    with(app, caller, id, |keeper, seat| keeper.remove(seat)).await.map(|()| Json(json!({})))
}

/// `GET /v1/sessions/{s}/checkpoints`
pub(super) async fn points(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Id(id): Id,
) -> Result<Json<Value>, Refusal> {
    blocking(move || {
        let seat = locate(&app, caller, &id)?;
        let kept = app.executor.keeper().map(Keeper::list).unwrap_or_default();
        let points = kept.into_iter().find(|kept| kept.seat == seat).map(|kept| kept.checkpoints);
        Ok(Json(json!({"checkpoints": points.unwrap_or_default()})))
    })
    .await?
}

/// `POST /v1/sessions/{s}/checkpoints`
pub(super) async fn checkpoint(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Id(id): Id,
    Strict(Nothing {}): Strict<Nothing>,
) -> Result<(StatusCode, Json<Point>), Refusal> {
    app.check_open()?;
    with(app, caller, id, |keeper, seat| keeper.checkpoint(seat)).await.map(|point| (StatusCode::CREATED, Json(point)))
}

/// `POST /v1/sessions/{s}/rollback`
pub(super) async fn roll_back(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Id(id): Id,
    Strict(body): Strict<ToPoint>,
) -> Result<Json<Point>, Refusal> {
    app.check_open()?;
    with(app, caller, id, move |keeper, seat| keeper.roll_back(seat, body.checkpoint.as_deref())).await.map(Json)
}

/// `POST /v1/sessions/{s}/fork`
pub(super) async fn fork(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Id(id): Id,
    Strict(body): Strict<ToPoint>,
) -> Result<(StatusCode, Json<Value>), Refusal> {
    app.check_open()?;
    let answer = blocking(move || copy(&app, caller, &id, body.checkpoint.as_deref())).await??;
    Ok((StatusCode::CREATED, Json(answer)))
}

fn copy(app: &App, caller: Caller, id: &Name, point: Option<&str>) -> Result<Value, Refusal> {
    let keeper = app.executor.keeper().ok_or_else(keeps_nothing)?;
    let tools = app.sessions.at_rest(id)?.unwrap_or_default();
    let seat = locate(app, caller, id)?;
    if !is_own(app, &seat) {
        return Err(conflict("a session can be copied by its own agent's gate only"));
    }
    if seat.name != *id || is_below(id) {
        return Err(conflict("this session works for another one; copy that one, or hand the task on again"));
    }
    let to = fresh()?;
    // Labels first: no variable is ever anywhere where its labels are not.
    let subject = app.subject(to.clone(), fresh()?, Vec::new());
    let unrecorded = "the journal cannot be written; nothing was copied";
    app.gate.fork(&subject, id).map_err(|_| Refusal::new(Fault::JournalFailed, unrecorded))?;
    let mut answer = begin(app, to.clone(), tools, None)?;
    match keeper.fork(&seat, point, &subject.seat()) {
        Ok(point) => {
            if let Value::Object(answer) = &mut answer {
                answer.insert("checkpoint".into(), json!(point));
            }
            Ok(answer)
        }
        Err(fault) => {
            unopen(app, &to);
            Err(refusal(&fault))
        }
    }
}

/// Checks that a session of this gate's agent is kept under `id`.
///
/// # Errors
/// Nothing is kept under this id. That it may be open is found out when it is opened.
pub(super) async fn resumable(app: &Arc<App>, id: &Name) -> Result<(), Refusal> {
    let (app, id) = (app.clone(), id.clone());
    blocking(move || {
        let kept = app.executor.keeper().map(Keeper::list).unwrap_or_default();
        let there = kept.iter().any(|kept| kept.seat.name == id && is_own(&app, &kept.seat));
        // What a person was asked for a session is kept by the gate itself, whatever becomes of the interpreter.
        let asked = || Ok::<_, Refusal>(app.gate.has_matter(&app.subject(id.clone(), fresh()?, Vec::new())));
        if (there || asked()?) && !is_below(&id) { Ok(()) } else { Err(nothing_kept()) }
    })
    .await?
}

/// Does `work` on the seat of session `id`, where it may block.
async fn with<T: Send + 'static>(
    app: Arc<App>,
    caller: Caller,
    id: Name,
    work: impl FnOnce(&dyn Keeper, &Seat) -> Result<T, KeepFault> + Send + 'static,
) -> Result<T, Refusal> {
    blocking(move || {
        let keeper = app.executor.keeper().ok_or_else(keeps_nothing)?;
        app.sessions.at_rest(&id)?;
        let seat = locate(&app, caller, &id)?;
        work(keeper, &seat).map_err(|fault| refusal(&fault))
    })
    .await?
}

/// The seat that `caller` means by `id`: an open session's, or a kept one's.
fn locate(app: &App, caller: Caller, id: &Name) -> Result<Seat, Refusal> {
    if let Some(subject) = app.sessions.peek(app, id) {
        return Ok(subject.seat());
    }
    let kept = app.executor.keeper().map(Keeper::list).unwrap_or_default();
    let named = kept.into_iter().map(|kept| kept.seat).filter(|seat| seat.name == *id && may(app, caller, seat));
    let mut seats: Vec<Seat> = named.collect();
    // Ids are made at random; where agents chose the same name, this gate's own agent is meant.
    seats.sort_by_key(|seat| !is_own(app, seat));
    seats.into_iter().next().ok_or_else(nothing_kept)
}

/// True when `caller` may see what is kept of `seat`.
fn may(app: &App, caller: Caller, seat: &Seat) -> bool {
    caller == Caller::Operator || is_own(app, seat)
}

fn is_own(app: &App, seat: &Seat) -> bool {
    (&seat.org, &seat.agent) == (&app.config.org, &app.config.agent)
}

/// True for the seat of an agent below a session's own.
fn is_below(name: &Name) -> bool {
    name.as_str().starts_with("seat:")
}

/// Open sessions by their seats.
fn open_seats(app: &App) -> Vec<(Seat, Name)> {
    let ids = app.sessions.ids().into_iter();
    ids.filter_map(|id| app.sessions.peek(app, &id).map(|subject| (subject.seat(), id))).collect()
}

fn row(kept: &Kept, open: &[(Seat, Name)]) -> Value {
    let here = open.iter().find(|(seat, _)| *seat == kept.seat).map(|(_, id)| id);
    let Kept { seat, guest, live, steps, memory_bytes, checkpoints } = kept;
    json!({
        "session": here.unwrap_or(&seat.name),
        "org": seat.org,
        "agent": seat.agent,
        "guest": guest,
        "open": here.is_some(),
        "live": live,
        "steps": steps,
        "memory_bytes": memory_bytes,
        "checkpoints": checkpoints,
    })
}

fn refusal(fault: &KeepFault) -> Refusal {
    let kind = match fault {
        KeepFault::Absent(_) => Fault::NotFound,
        KeepFault::Busy | KeepFault::Full(_) | KeepFault::Refused(_) => Fault::Conflict,
        KeepFault::Failed(_) => Fault::Internal,
    };
    Refusal::new(kind, fault.to_string())
}

fn conflict(text: &str) -> Refusal {
    Refusal::new(Fault::Conflict, text)
}

fn keeps_nothing() -> Refusal {
    conflict("this gate keeps no sessions: its executor has nothing to put aside")
}

fn nothing_kept() -> Refusal {
    Refusal::new(Fault::NotFound, "no such session is open or kept; GET /v1/kept lists those that are")
}
