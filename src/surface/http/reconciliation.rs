//! `GET /v1/reconciliation`: what clients report of themselves beside what the gate metered itself.
//!
//! Whole numbers of both, and the difference. It is told to whoever asks and changes nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::app::{App, blocking};
use super::error::{Fault, Refusal};
use crate::model::{Name, Subject};
use crate::pep::Meter;
use crate::pep::port::AccountId;
use crate::surface::otlp::{Excess, Told, excess, is_past};

/// `GET /v1/reconciliation`
pub(super) async fn list(State(app): State<Arc<App>>) -> Result<Json<Value>, Refusal> {
    if app.gate.health().is_some() {
        let text = "the journal cannot be written; every call is denied until the gate is started anew";
        return Err(Refusal::new(Fault::JournalFailed, text));
    }
    blocking(move || Json(table(&app))).await
}

fn table(app: &App) -> Value {
    let subject = |session: &Name| app.subject(session.clone(), session.clone(), Vec::new());
    let mut metered: BTreeMap<AccountId, Meter> = app.gate.metered().into_iter().collect();
    let bars: BTreeMap<AccountId, bool> =
        app.gate.bars().into_iter().map(|(account, bar)| (account, bar.revoked)).collect();
    let mut sessions = Vec::new();
    for (session, told) in app.told.telemetry.all() {
        let subject: Subject = subject(&session);
        let account = AccountId::session(&subject);
        let meter = metered.remove(&account).unwrap_or_default();
        let closed = bars.get(&account).map(|revoked| if *revoked { "revoked" } else { "frozen" });
        sessions.push(line(app, &session, &told, &meter, closed));
    }
    let clients: Vec<&str> = app.config.metered.iter().map(|client| client.word()).collect();
    json!({
        "since_ms": app.told.since_ms(),
        "metered_clients": clients,
        "sessions": sessions,
        "untold": untold(metered.into_values()),
    })
}

fn line(app: &App, session: &Name, told: &Told, meter: &Meter, closed: Option<&str>) -> Value {
    let reported = told.usage();
    let found = excess(&reported, meter);
    let missing = Excess {
        requests: meter.requests.saturating_sub(reported.requests),
        tokens_in: meter.tokens_in.saturating_sub(reported.tokens_in),
        tokens_out: meter.tokens_out.saturating_sub(reported.tokens_out),
    };
    let shown =
        |part: &Excess| json!({"requests": part.requests, "tokens_in": part.tokens_in, "tokens_out": part.tokens_out});
    json!({
        "session": session,
        "client": told.client.word(),
        "state": state(app.config.metered.contains(&told.client), told, meter, &found, &missing),
        "reported": {
            "requests": reported.requests, "tokens_in": reported.tokens_in, "tokens_out": reported.tokens_out,
            "micro_usd": reported.micro_usd, "unpriced": reported.unpriced,
        },
        "metered": meter,
        "excess": shown(&found),
        "missing": shown(&missing),
        "tools": {"results": told.results, "unhooked": told.unhooked, "unproven": told.unproven, "bypasses": told.bypasses},
        "closed": closed,
    })
}

/// One word for how the two stand.
fn state(meters: bool, told: &Told, meter: &Meter, found: &Excess, missing: &Excess) -> &'static str {
    match () {
        () if told.bypasses > 0 => "bypassed",
        () if !meters => "not_metered",
        () if is_past(found, meter) => "past_the_gate",
        () if *missing != Excess::default() || *found != Excess::default() => "differs",
        () => "agrees",
    }
}

/// Sessions that the gate metered and of which no client has told since its start.
fn untold(meters: impl Iterator<Item = Meter>) -> Value {
    let (mut sessions, mut requests, mut micro_usd) = (0_u64, 0_u64, 0_u64);
    for meter in meters {
        sessions += 1;
        requests = requests.saturating_add(meter.requests);
        micro_usd = micro_usd.saturating_add(meter.micro_usd);
    }
    json!({"sessions": sessions, "requests": requests, "micro_usd": micro_usd})
}
