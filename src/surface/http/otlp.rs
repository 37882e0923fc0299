//! `POST /otlp/{client}/v1/logs` and `/v1/metrics`: what a coding agent tells of itself, as OTLP/HTTP JSON.
//!
//! The path says which client it is whose hooks are installed; whoever installed them wrote it. A result of a tool that the
//! gate has not decided is a bypass, as it is for hooks. Everything told here is a claim: it can close a session, and that
//! is all that it can change.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract::{FromRequest, Request, State};
use axum::http::header;
use serde_json::{Value, json};

use super::alarm::{Alarm, Closing, raise};
use super::app::{App, blocking, name};
use super::body::{Id, receive};
use super::error::{Fault, Refusal};
use super::hooks::{Standing, standing};
use crate::model::{Action, Name, Subject, parse_json};
use crate::surface::hook::Client;
use crate::surface::otlp::{
    BODY_BYTES, Claim, Entered, Pace, Telemetry, Usage, What, excess, is_past, logs, read, read_sum, sums, wanted,
};

/// What clients have told, and how fast they may tell.
pub(super) struct Told {
    pub(super) telemetry: Telemetry,
    requests: Pace,
    alarms: Pace,
    /// When this process began, nanoseconds since 1970.
    began: u64,
}

impl Default for Told {
    fn default() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        Self {
            telemetry: Telemetry::default(),
            requests: Pace::new(128, Duration::from_millis(25)),
            alarms: Pace::new(16, Duration::from_secs(2)),
            began: u64::try_from(now).unwrap_or(u64::MAX),
        }
    }
}

impl Told {
    /// Since when it is known what clients told, milliseconds since 1970.
    pub(super) const fn since_ms(&self) -> u64 {
        self.began / 1_000_000
    }
}

/// A body of OTLP.
pub(super) struct Export(Value);

impl FromRequest<Arc<App>> for Export {
    type Rejection = Refusal;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, Refusal> {
        let wrong = |text: &str| Err(Refusal::new(Fault::MediaType, text));
        let mut kinds = request.headers().get_all(header::CONTENT_TYPE).iter();
        let kind = kinds.next().and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let media = kind.split(';').next().unwrap_or_default().trim();
        if kinds.next().is_some() || !media.eq_ignore_ascii_case("application/json") {
            return wrong("telemetry is taken as OTLP/HTTP JSON: set OTEL_EXPORTER_OTLP_PROTOCOL=http/json");
        }
        if request.headers().contains_key(header::CONTENT_ENCODING) {
            return wrong("telemetry is taken uncompressed: unset OTEL_EXPORTER_OTLP_COMPRESSION");
        }
        if !app.told.requests.take() {
            return Err(Refusal::new(Fault::Busy, "too many reports at once; send them again later"));
        }
        let (bytes, _room) = receive(request, app, BODY_BYTES).await?;
        let parsed = parse_json(&bytes);
        parsed.map(Self).map_err(|fault| Refusal::malformed(format!("the body is not strict JSON: {fault}")))
    }
}

/// `POST /otlp/{client}/v1/logs`
pub(super) async fn take_logs(
    State(app): State<Arc<App>>,
    Id(client): Id,
    Export(body): Export,
) -> Result<Json<Value>, Refusal> {
    let client = known(&client)?;
    blocking(move || {
        let mut walked = logs(&body).map_err(Refusal::malformed)?;
        let records = std::mem::take(&mut walked.records);
        for record in &records {
            match read(client, record).and_then(|claim| claim.map_or(Ok(Ok(())), |claim| enter(&app, client, claim))) {
                Ok(done) => done?,
                Err(why) => walked.reject(why),
            }
        }
        app.meters.told(client.word(), "log", records.len() as u64, walked.rejected);
        Ok(Json(partial("rejectedLogRecords", walked.rejected, walked.why)))
    })
    .await?
}

/// `POST /otlp/{client}/v1/metrics`
pub(super) async fn take_metrics(
    State(app): State<Arc<App>>,
    Id(client): Id,
    Export(body): Export,
) -> Result<Json<Value>, Refusal> {
    let client = known(&client)?;
    blocking(move || {
        let mut walked = sums(&body, &wanted()).map_err(Refusal::malformed)?;
        let records = std::mem::take(&mut walked.records);
        for record in &records {
            let measured = read_sum(record).and_then(|claim| measure(&app, client, &claim));
            match measured {
                Ok(done) => done?,
                Err(why) => walked.reject(why),
            }
        }
        app.meters.told(client.word(), "metric", records.len() as u64, walked.rejected);
        Ok(Json(partial("rejectedDataPoints", walked.rejected, walked.why)))
    })
    .await?
}

/// `POST /otlp/{client}/v1/traces`
pub(super) async fn no_traces(Id(client): Id) -> Result<Json<Value>, Refusal> {
    known(&client)?;
    Err(Refusal::new(
        Fault::NotFound,
        "spans are not taken: send logs and metrics, and leave OTEL_TRACES_EXPORTER unset",
    ))
}

fn known(client: &Name) -> Result<Client, Refusal> {
    let client = Client::from_word(client.as_str());
    client.ok_or_else(|| Refusal::new(Fault::NotFound, "clients are `claude-code` and `codex`"))
}

/// The answer of the protocol: empty when everything was taken.
fn partial(key: &str, rejected: u64, why: Option<&str>) -> Value {
    match rejected {
        0 => json!({}),
        _ => json!({"partialSuccess": {key: rejected.to_string(), "errorMessage": why.unwrap_or_default()}}),
    }
}

/// Why a record was not taken, in a partial success; or why the whole request was not, so that it is sent again.
type Taken = Result<Result<(), Refusal>, &'static str>;

const FULL: &str = "too many sessions are being told of";

/// Takes one claim of a log. A tool's result is looked at even where there is no room to remember the session.
fn enter(app: &App, client: Client, claim: Claim) -> Taken {
    let entered = app.told.telemetry.enter(&claim.session, client, claim.print, app.config.idle);
    let telemetry = &app.told.telemetry;
    match (claim.what, entered) {
        (_, Entered::Again) => Ok(Ok(())),
        (What::Ran { id, tool, hooked, doubtful }, entered) => {
            let ran = Ran { session: &claim.session, time: claim.time, id, tool, hooked, doubtful };
            let done = ran.check(app, client);
            match &done {
                Ok(()) => drop(telemetry.note(&claim.session, |told| told.results = told.results.saturating_add(1))),
                // It comes again.
                Err(_) => telemetry.withdraw(&claim.session, claim.print),
            }
            if done.is_ok() && entered == Entered::Full { Err(FULL) } else { Ok(done) }
        }
        (_, Entered::Full) => Err(FULL),
        (What::Approved(id), Entered::New) => {
            telemetry.approve(&claim.session, id);
            Ok(Ok(()))
        }
        (What::Generated(usage), Entered::New) => {
            telemetry.note(&claim.session, |told| told.logged = told.logged.plus(usage));
            Ok(weigh(app, client, &claim.session))
        }
    }
}

/// Takes one point of a metric.
fn measure(app: &App, client: Client, claim: &Claim) -> Taken {
    let What::Generated(usage) = claim.what else { return Ok(Ok(())) };
    let telemetry = &app.told.telemetry;
    match telemetry.enter(&claim.session, client, claim.print, app.config.idle) {
        Entered::Again => Ok(Ok(())),
        Entered::Full => Err(FULL),
        Entered::New => {
            telemetry.note(&claim.session, |told| told.measured = told.measured.plus(usage));
            Ok(weigh(app, client, &claim.session))
        }
    }
}

/// The subject of a session that a client names; there is no run of it here.
fn subject(app: &App, session: &Name) -> Subject {
    app.subject(session.clone(), session.clone(), Vec::new())
}

/// A tool that ran, as a client tells.
struct Ran<'a> {
    session: &'a Name,
    time: u64,
    id: Option<String>,
    tool: Name,
    hooked: bool,
    doubtful: bool,
}

impl Ran<'_> {
    /// Looks for the decision that let it run. Hooks come before a tool and telemetry after it, so that there is one by now.
    fn check(self, app: &App, client: Client) -> Result<(), Refusal> {
        let telemetry = &app.told.telemetry;
        if !self.hooked {
            telemetry.note(self.session, |told| told.unhooked = told.unhooked.saturating_add(1));
            return Ok(());
        }
        let found = match &self.id {
            Some(id) => standing(app, &(self.session.clone(), id.clone())),
            None => self.counted(app),
        };
        let approved = || self.id.as_deref().is_some_and(|id| telemetry.is_approved(self.session, id));
        match found {
            Standing::Allowed => Ok(()),
            Standing::Unknown => self.unproven(app),
            Standing::Unheard | Standing::Defied if self.doubtful && !approved() => self.unproven(app),
            Standing::Unheard => self.bypass(app, client, "without a decision of the gate"),
            Standing::Defied => self.bypass(app, client, "although the gate had not allowed it"),
        }
    }

    /// Without an id: more results of a tool than the gate allowed uses of it in the session.
    fn counted(&self, app: &App) -> Standing {
        if self.time < app.told.began {
            return Standing::Unknown;
        }
        let told = app.told.telemetry.nameless(self.session, &self.tool);
        match app.hooks.allowed(self.session, &self.tool) {
            Some(allowed) if told <= allowed => Standing::Allowed,
            Some(_) => Standing::Unheard,
            None => Standing::Unknown,
        }
    }

    fn unproven(&self, app: &App) -> Result<(), Refusal> {
        app.told.telemetry.note(self.session, |told| told.unproven = told.unproven.saturating_add(1));
        Ok(())
    }

    fn bypass(&self, app: &App, client: Client, how: &str) -> Result<(), Refusal> {
        let text = format!("bypass: {} has run {how}, as the telemetry of {} tells", self.tool, client.word());
        let subject = subject(app, self.session);
        alarm(
            app,
            &Alarm {
                subject: &subject,
                action: Action::ToolCall,
                what: &self.tool,
                text: &text,
                closing: Closing::Revoke,
            },
        )?;
        app.meters.bypassed("telemetry");
        app.told.telemetry.note(self.session, |told| told.bypasses = told.bypasses.saturating_add(1));
        Ok(())
    }
}

/// Compares what a session's client reports of generations with what the gate metered.
fn weigh(app: &App, client: Client, session: &Name) -> Result<(), Refusal> {
    if !app.config.metered.contains(&client) {
        return Ok(());
    }
    let subject = subject(app, session);
    let metered = app.gate.meter(&subject);
    let look = |told: &mut crate::surface::otlp::Told| (told.usage(), told.alarmed);
    let Some((reported, alarmed)) = app.told.telemetry.note(session, look) else { return Ok(()) };
    let found = excess(&reported, &metered);
    if !is_past(&found, &metered) || !found.exceeds(&alarmed) {
        return Ok(());
    }
    let text = past(client, &reported, metered.requests);
    let what = name("model")?;
    alarm(
        app,
        &Alarm { subject: &subject, action: Action::ModelGenerate, what: &what, text: &text, closing: Closing::Freeze },
    )?;
    app.meters.bypassed("model");
    app.told.telemetry.note(session, |told| told.alarmed = found);
    Ok(())
}

fn past(client: Client, reported: &Usage, metered: u64) -> String {
    let (requests, client) = (reported.requests, client.word());
    format!(
        "model past the gate: the telemetry of {client} tells of {requests} generations and their tokens, of which the gate metered {metered}"
    )
}

/// Raises an alarm, no faster than they may come; what is refused is sent again by the client.
fn alarm(app: &App, alarm: &Alarm<'_>) -> Result<(), Refusal> {
    if !app.told.alarms.take() {
        return Err(Refusal::new(Fault::Busy, "too many alarms at once; send the report again later"));
    }
    let failed = |_| Refusal::new(Fault::JournalFailed, "the session could not be closed; stop the client");
    raise(app, alarm).map_err(failed)
}
