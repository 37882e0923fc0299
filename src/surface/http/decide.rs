//! Calls that the host runs itself: decide before, outcome after.
//!
//! Between the two the amounts are held and the work waits here. A call whose outcome nobody reports
//! ends as unknown, which costs what it held of every paid kind.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::sync::oneshot;

use super::app::{App, blocking};
use super::body::Strict;
use super::error::{Fault, Refusal};
use super::tagged;
use crate::model::{Action, Amounts, Call, CallId, Digest, Name, Outcome, ReasonCode, Resource, Status};
use crate::pep::{Answer, Durable, Reserved};
use crate::surface::lock;

/// Calls without an outcome at the same time.
const OPEN: usize = 1024;

/// Allowed calls that the host is running.
#[derive(Default)]
pub(super) struct Works(Mutex<Table>);

#[derive(Default)]
struct Table {
    open: HashMap<CallId, Work>,
    /// Calls that are being decided and may become open.
    deciding: usize,
}

struct Work {
    durable: Durable<Reserved>,
    since: Instant,
}

impl Works {
    /// Calls without an outcome.
    pub(super) fn count(&self) -> usize {
        lock(&self.0).open.len()
    }

    pub(super) fn begin(&self) -> Result<(), Refusal> {
        let mut table = lock(&self.0);
        if table.open.len() + table.deciding >= OPEN {
            return Err(Refusal::new(Fault::Busy, format!("{OPEN} calls have no outcome yet; report outcomes first")));
        }
        table.deciding += 1;
        Ok(())
    }

    /// Ends what [`Works::begin`] began.
    fn decided(&self, durable: Option<Durable<Reserved>>) {
        let mut table = lock(&self.0);
        table.deciding = table.deciding.saturating_sub(1);
        if let Some(durable) = durable {
            table.open.insert(durable.call().id.clone(), Work { durable, since: Instant::now() });
        }
    }

    pub(super) fn take(&self, call: &CallId) -> Option<Durable<Reserved>> {
        lock(&self.0).open.remove(call).map(|work| work.durable)
    }

    /// Takes every call that has waited for `span`.
    pub(super) fn take_older(&self, span: Duration) -> Vec<Durable<Reserved>> {
        let mut table = lock(&self.0);
        table.open.extract_if(|_, work| work.since.elapsed() >= span).map(|(_, work)| work.durable).collect()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Decide {
    session: Name,
    action: Action,
    resource: Name,
    #[serde(default)]
    args: Map<String, Value>,
    #[serde(default)]
    registry: Option<Name>,
    #[serde(default)]
    revision: Option<Name>,
    #[serde(default)]
    digest: Option<Digest>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Report {
    call: CallId,
    status: Reported,
    #[serde(default)]
    usage: Option<Amounts>,
    #[serde(default)]
    result_digest: Option<Digest>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Reported {
    Done,
    Failed,
    Unknown,
}

/// `POST /v1/decide`
pub(super) async fn decide(State(app): State<Arc<App>>, Strict(body): Strict<Decide>) -> Result<Json<Value>, Refusal> {
    app.check_open()?;
    if let Some(where_to) = elsewhere(body.action) {
        return Err(Refusal::malformed(where_to));
    }
    tagged::check_all(&body.args).map_err(|fault| Refusal::malformed(format!("args: {fault}")))?;
    let subject = app.sessions.subject(&app, &body.session)?;
    let (registry, revision, digest) = (body.registry, body.revision, body.digest);
    let resource = Resource { name: body.resource, registry, revision, digest };
    let call = app.call(subject, body.action, resource, body.args)?;
    app.works.begin()?;
    let (sender, receiver) = oneshot::channel();
    let mut asked = Asking { app: app.clone(), call: Some(call.id.clone()) };
    tokio::task::spawn_blocking(move || admit(&app, call, sender, Admitted::answer));
    let answer = receiver.await.map_err(|_| Refusal::internal());
    asked.call = None;
    answer.map(Json)
}

/// Where a call is made that no host may run itself: what it uses is what the gate finds, not what somebody reports.
pub(super) const fn elsewhere(action: Action) -> Option<&'static str> {
    match action {
        Action::CodeRun => Some("generated code runs in the sandbox only: use POST /v1/sessions/{s}/execute"),
        Action::JobLaunch => Some("jobs are started through the gate's proxy of their provider only"),
        Action::PackagePublish => Some("registries are changed through the gate's proxy of them only"),
        Action::ProcessRun => Some("programs of this machine run under `weir exec` only"),
        Action::ToolCall | Action::CodeImport | Action::AgentInvoke | Action::ModelGenerate | Action::PackageFetch => {
            None
        }
    }
}

/// A decision that a client waits for; when the client goes, a question to a person is taken back.
struct Asking {
    app: Arc<App>,
    call: Option<CallId>,
}

impl Drop for Asking {
    fn drop(&mut self) {
        if let Some(call) = &self.call {
            self.app.config.desk.withdraw(call);
        }
    }
}

/// What came of the first half of the line.
pub(super) enum Admitted {
    /// The work is kept under this id.
    Allowed(CallId),
    /// It was refused.
    Denied { call: CallId, denial: String, reason: ReasonCode, receipt: Option<Name> },
}

impl Admitted {
    fn answer(self) -> Value {
        match self {
            Self::Allowed(call) => {
                json!({"call": call, "effect": "allow", "denial": null, "reason": null, "receipt": null})
            }
            Self::Denied { call, denial, reason, receipt } => {
                json!({"call": call, "effect": "deny", "denial": denial, "reason": reason, "receipt": receipt})
            }
        }
    }
}

/// Walks the first half of the line and keeps the work, unless whoever asked has gone: then the
/// call cannot have begun.
pub(super) fn admit<T>(app: &App, call: Call, sender: oneshot::Sender<T>, encode: impl FnOnce(Admitted) -> T) {
    let (id, action) = (call.id.clone(), call.action);
    let what = format!("{} {}", action.word(), call.resource.name);
    let deciding = Deciding(app);
    match app.meters.admitted(action, || app.gate.admit(call)) {
        Ok(durable) => {
            deciding.end(Some(durable));
            if sender.send(encode(Admitted::Allowed(id.clone()))).is_err()
                && let Some(durable) = app.works.take(&id)
            {
                drop(app.gate.complete(durable, Outcome::of(Status::Broken)));
            }
        }
        Err(answer) => {
            deciding.end(None);
            let Answer { decision, denial, receipt, .. } = *answer;
            let denial = denial.unwrap_or_else(|| decision.reason.denial(&what));
            let (receipt, reason) = (receipt.map(|receipt| receipt.receipt_id), decision.reason.code);
            drop(sender.send(encode(Admitted::Denied { call: id, denial, reason, receipt })));
        }
    }
}

/// A place among the calls being decided; given back even if the gate panics.
struct Deciding<'a>(&'a App);

impl Deciding<'_> {
    fn end(self, durable: Option<Durable<Reserved>>) {
        self.0.works.decided(durable);
        std::mem::forget(self);
    }
}

impl Drop for Deciding<'_> {
    fn drop(&mut self) {
        self.0.works.decided(None);
    }
}

/// `POST /v1/outcome`
pub(super) async fn outcome(State(app): State<Arc<App>>, Strict(body): Strict<Report>) -> Result<Json<Value>, Refusal> {
    let nothing = "no such call is open: it was denied, its outcome is on record, or its time is over";
    let durable = app.works.take(&body.call).ok_or_else(|| Refusal::new(Fault::NotFound, nothing))?;
    let answer = blocking(move || app.gate.complete(durable, told(&body)));
    let receipt = answer.await?.receipt.ok_or_else(|| {
        Refusal::new(Fault::JournalFailed, "the outcome could not be recorded; the call counts as unknown")
    })?;
    Ok(Json(json!({"receipt": receipt.receipt_id})))
}

/// The outcome as the host tells it. What it does not say of paid kinds, the gate takes at the worst.
fn told(report: &Report) -> Outcome {
    let status = match report.status {
        Reported::Done => Status::Done,
        Reported::Failed => Status::Failed,
        Reported::Unknown => Status::Unknown,
    };
    let usage = report.usage.unwrap_or_default();
    Outcome { usage, result: report.result_digest, ..Outcome::of(status) }
}

/// Ends calls whose outcome nobody reported.
pub(super) fn expire(app: &App, works: Vec<Durable<Reserved>>) {
    for durable in works {
        tracing::warn!(call = %durable.call().id, "no outcome was reported in time; the call ends as unknown");
        drop(app.gate.complete(durable, Outcome::of(Status::Unknown)));
    }
}
