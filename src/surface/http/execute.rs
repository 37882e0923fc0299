//! Running generated code: a thread per execution, an event per request.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::app::{App, json_bytes, name};
use super::body::{Id, Strict, present};
use super::error::{Fault, Refusal};
use super::execution::{Execution, Hosted};
use super::metrics::Metered;
use super::session::{Begun, cancel};
use super::tagged;
use crate::model::{
    Action, Call, CallId, Fault as Doing, GuestError, Limits, Name, Outcome, Reason, ReasonCode, Resource, Status,
};
use crate::pep::Answer;
use crate::surface::visible;

/// Bytes of a tool's error text that generated code gets to see.
const ERROR_BYTES: usize = 64 << 10;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Execute {
    code: String,
    #[serde(default)]
    variables: Map<String, Value>,
    /// The guest that runs it; the usual one when absent.
    language: Option<String>,
    /// An id that the client has drawn for it, so that it can be cancelled before its first event.
    execution: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Resume {
    call: CallId,
    #[serde(default, deserialize_with = "present")]
    value: Option<Value>,
    #[serde(default)]
    error: Option<ToolError>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ToolError {
    #[serde(rename = "type")]
    kind: String,
    message: String,
}

/// `POST /v1/sessions/{s}/execute`
pub(super) async fn execute(
    State(app): State<Arc<App>>,
    Id(session): Id,
    Strict(body): Strict<Execute>,
) -> Result<Response, Refusal> {
    app.check_open()?;
    if body.code.len() > Limits::CODE_BYTES {
        return Err(Refusal::new(Fault::TooLarge, format!("a program has at most {} bytes", Limits::CODE_BYTES)));
    }
    tagged::check_all(&body.variables).map_err(|fault| Refusal::malformed(format!("variables: {fault}")))?;
    let subject = app.sessions.subject(&app, &session)?;
    let mut args = Map::new();
    args.insert("code".into(), body.code.into());
    args.insert("variables".into(), body.variables.into());
    let guest = guest(&app, body.language.as_deref())?;
    let mut call = app.call(subject, Action::CodeRun, Resource::named(guest), args)?;
    if let Some(id) = body.execution {
        call.id = drawn(&id)?;
    }
    let begun = app.sessions.begin(&app, &session, Execution::new(call.id.clone()))?;
    call.subject = begun.subject.clone();
    let execution = begun.execution.clone();
    start(&app, begun, call)?;
    answer(&execution).await
}

/// The guest that `language` names.
fn guest(app: &App, language: Option<&str>) -> Result<Name, Refusal> {
    let guests = app.executor.guests();
    let found = match language {
        None => guests.first(),
        Some(asked) => guests.iter().find(|guest| **guest == asked),
    };
    let found = found.ok_or_else(|| {
        let asked = visible(language.unwrap_or_default(), 40);
        Refusal::malformed(format!("there is no language `{asked}`; there are: {}", guests.join(", ")))
    })?;
    name(found)
}

/// An id that a client has drawn, of the form of the gate's own, so that it cannot be that of a nested call. One that
/// is on record already is refused by the gate itself.
fn drawn(id: &str) -> Result<CallId, Refusal> {
    if id.len() != 32 || !id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        let text = "`execution` is 32 lower-case hexadecimal digits, drawn at random for this program alone";
        return Err(Refusal::malformed(text));
    }
    name(id)
}

/// `POST /v1/executions/{e}/resume`
pub(super) async fn resume(
    State(app): State<Arc<App>>,
    Id(id): Id,
    Strict(body): Strict<Resume>,
) -> Result<Response, Refusal> {
    let execution = app.sessions.execution(&id)?;
    let call = body.call.clone();
    execution.resume(&call, outcome(body)?)?;
    answer(&execution).await
}

/// `GET /v1/sessions/{s}/event`
pub(super) async fn event(State(app): State<Arc<App>>, Id(session): Id) -> Result<Response, Refusal> {
    answer(&app.sessions.execution_of(&session)?).await
}

/// `DELETE /v1/executions/{e}`
pub(super) async fn stop(State(app): State<Arc<App>>, Id(id): Id) -> Result<Json<Value>, Refusal> {
    let execution = app.sessions.execution(&id)?;
    cancel(&app, &execution);
    execution.ended_within(app.config.grace).await;
    Ok(Json(json!({})))
}

async fn answer(execution: &Arc<Execution>) -> Result<Response, Refusal> {
    execution.event().await.map(|event| json_bytes(StatusCode::OK, event))
}

/// What the host says came of a tool call.
fn outcome(body: Resume) -> Result<Outcome, Refusal> {
    match (body.value, body.error) {
        (Some(output), None) => {
            tagged::check(&output).map_err(|fault| Refusal::malformed(format!("value: {fault}")))?;
            Ok(Outcome { output, ..Outcome::of(Status::Done) })
        }
        (None, Some(error)) => {
            let (kind, message) = (visible(&error.kind, 200), clip(error.message));
            let error = GuestError { kind, message, traceback: String::new() };
            Ok(Outcome { error: Some(error), ..Outcome::of(Status::Failed) })
        }
        _ => Err(Refusal::malformed("a resume has either `value` or `error`")),
    }
}

fn clip(mut text: String) -> String {
    if text.len() > ERROR_BYTES {
        let end = (0..=ERROR_BYTES).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

/// Starts the thread that walks the line for `call`.
fn start(app: &Arc<App>, begun: Begun, call: Call) -> Result<(), Refusal> {
    let Begun { execution, tools, subject } = begun;
    app.active.send_modify(|active| *active += 1);
    let thread = std::thread::Builder::new().name("weir-execution".into());
    let (inner, ended) = (app.clone(), execution.clone());
    let spawned = thread.spawn(move || {
        let host = Hosted { execution: execution.clone(), tools };
        let event = catch_unwind(AssertUnwindSafe(|| walk(&inner, call, &host)));
        let close = execution.end(event.unwrap_or_else(|_| broken(execution.id())));
        if let Some(parting) = close {
            drop(catch_unwind(AssertUnwindSafe(|| parting.tell(&*inner.executor, &subject.seat()))));
        }
        inner.active.send_modify(|active| *active -= 1);
    });
    spawned.map(drop).map_err(|error| {
        tracing::error!(%error, "no thread could be started for an execution");
        app.active.send_modify(|active| *active -= 1);
        ended.end(broken(ended.id()));
        Refusal::internal()
    })
}

fn walk(app: &App, call: Call, host: &Hosted) -> Bytes {
    let id = call.id.clone();
    let carried = call.args.contains_key("variables");
    let executor = Metered { executor: &*app.executor, meters: &app.meters };
    let answer = app.meters.timed(Action::CodeRun, || app.gate.handle(call, &executor, host));
    done(&id, carried, answer)
}

/// The last event of an execution; `carried` when variables came with the program.
fn done(id: &CallId, carried: bool, answer: Answer) -> Bytes {
    let code = answer.decision.reason.code;
    let ran = answer.outcome.is_some();
    let mut outcome = answer.outcome.unwrap_or_else(|| Outcome::of(refused(code)));
    if outcome.status == Status::Unknown {
        // Of its own code the gate is never in doubt for the caller: it did not end as it should.
        outcome.status = Status::Broken;
    }
    let refusal = || (!ran).then(|| answer.decision.reason.denial("code"));
    let denial = answer.denial.clone().or_else(refusal);
    let reason = outcome.stopped.or((!ran).then_some(code));
    let event = json!({
        "event": "done",
        "execution": id,
        "status": outcome.status,
        "output": outcome.output,
        "logs": outcome.logs,
        "is_final": outcome.is_final,
        "error": outcome.error,
        "denial": denial,
        "reason": reason,
        // Refused before it began: what it has of earlier steps stays, what came along was not set.
        "replaced": outcome.replaced || (!ran && carried),
        "notices": outcome.notices,
        "files": outcome.files,
        "tape": outcome.tape,
        "usage": outcome.usage,
        "receipt": answer.receipt.map(|receipt| receipt.receipt_id),
    });
    Bytes::from(event.to_string())
}

/// The status of an execution that was refused before it began.
fn refused(code: ReasonCode) -> Status {
    match code.row().fault {
        Doing::Budget => Status::Exhausted,
        Doing::Caller | Doing::Policy => Status::Denied,
        Doing::Gate => Status::Broken,
    }
}

/// The last event of an execution in which the gate itself failed.
fn broken(id: &CallId) -> Bytes {
    tracing::error!(execution = %id, "the gate failed in an execution; it was refused");
    let reason = Reason::new(ReasonCode::Internal, "the gate failed while this ran");
    let event = json!({
        "event": "done",
        "execution": id,
        "status": Status::Broken,
        "output": null,
        "logs": "",
        "is_final": false,
        "error": null,
        "denial": reason.denial("code"),
        "reason": reason.code,
        "replaced": true,
        "notices": [],
        "files": [],
        "tape": null,
        "usage": {},
        "receipt": null,
    });
    Bytes::from(event.to_string())
}
