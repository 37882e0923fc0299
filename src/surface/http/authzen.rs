//! `POST /access/v1/evaluation` of the OpenID AuthZEN Authorization API 1.0: what would be decided.
//!
//! It evaluates and holds nothing. A question that the gate cannot read as a call of this agent is
//! answered with a denial that says why, never with a guess.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::app::{App, blocking, name};
use super::body::Strict;
use super::error::Refusal;
use crate::model::{Action, Call, Digest, Effect, Name, Reason, ReasonCode, Resource};

/// The header by which an evaluation is recognised in both logs.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Evaluation {
    subject: Entity,
    action: Named,
    resource: Entity,
    #[serde(default)]
    context: Context,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entity {
    #[serde(rename = "type")]
    kind: String,
    id: String,
    #[serde(default)]
    properties: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    name: String,
    #[serde(default)]
    properties: Map<String, Value>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Context {
    /// The arguments of the call.
    #[serde(default)]
    args: Map<String, Value>,
    /// An open session, whose labels and balances then count.
    #[serde(default)]
    session: Option<Name>,
}

/// `POST /access/v1/evaluation`
pub(super) async fn evaluate(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    Strict(body): Strict<Evaluation>,
) -> Result<Response, Refusal> {
    let answer = match call(&app, body)? {
        Ok(call) => blocking(move || evaluated(&app, &call)).await?,
        Err(detail) => denied(&Reason::new(ReasonCode::Malformed, detail)),
    };
    let mut response = Json(answer).into_response();
    if let Some(id) = headers.get(&REQUEST_ID).filter(|id| id.len() <= 128) {
        response.headers_mut().insert(REQUEST_ID, id.clone());
    }
    Ok(response)
}

fn evaluated(app: &App, call: &Call) -> Value {
    let trace = app.gate.evaluate(call);
    let (decision, reason) = (&trace.decision, &trace.decision.reason);
    json!({
        "decision": decision.effect == Effect::Allow,
        "context": {
            "effect": decision.effect,
            "reason": reason.code,
            "rule": reason.rule,
            "answers": reason.answers,
            "detail": reason.detail,
            "instead": trace.allowed,
            "reserve": decision.reserve,
            "policy": decision.policy,
        },
    })
}

fn denied(reason: &Reason) -> Value {
    let context = json!({"effect": Effect::Deny, "reason": reason.code, "detail": reason.detail});
    json!({"decision": false, "context": context})
}

/// The call that is asked about, or why there is none.
fn call(app: &App, body: Evaluation) -> Result<Result<Call, String>, Refusal> {
    let Evaluation { subject: who, action, resource: what, context } = body;
    let agent = app.config.agent.as_str();
    if who.kind != "agent" || who.id != agent {
        return Ok(Err(format!("this token speaks for the subject of type `agent` with id `{agent}` only")));
    }
    let Some(known) = Action::from_word(&action.name) else {
        let words = Action::ALL.map(Action::word).join(", ");
        return Ok(Err(format!("the gate knows the actions {words}")));
    };
    if !action.properties.is_empty() || !who.properties.is_empty() {
        return Ok(Err(
            "properties of subject and action mean nothing to this gate; send arguments as context.args".into()
        ));
    }
    if what.kind != resource_type(known) {
        return Ok(Err(format!("a resource of `{}` has the type `{}`", known.word(), resource_type(known))));
    }
    let resource = match resource(&what) {
        Ok(resource) => resource,
        Err(detail) => return Ok(Err(detail)),
    };
    let subject = match context.session {
        Some(session) => app.sessions.subject(app, &session)?,
        None => app.subject(name("evaluation")?, name("evaluation")?, Vec::new()),
    };
    app.call(subject, known, resource, context.args).map(Ok)
}

/// The type that a resource of `action` has in an evaluation.
pub(super) const fn resource_type(action: Action) -> &'static str {
    match action {
        Action::ToolCall => "tool",
        Action::CodeRun => "guest",
        Action::CodeImport => "module",
        Action::AgentInvoke => "agent",
        Action::ModelGenerate => "model",
        Action::PackageFetch | Action::PackagePublish => "package",
        Action::JobLaunch => "flavor",
        Action::ProcessRun => "program",
    }
}

fn resource(entity: &Entity) -> Result<Resource, String> {
    let mut resource = Resource::named(Name::new(entity.id.as_str()).map_err(|fault| format!("resource.id: {fault}"))?);
    for (key, value) in &entity.properties {
        let text = value.as_str().ok_or_else(|| format!("resource.properties.{key} is not a text"))?;
        let named = || Name::new(text).map(Some).map_err(|fault| format!("resource.properties.{key}: {fault}"));
        match key.as_str() {
            "registry" => resource.registry = named()?,
            "revision" => resource.revision = named()?,
            "digest" => {
                resource.digest = Some(Digest::parse(text).ok_or("resource.properties.digest is not a sha256 digest")?)
            }
            _ => return Err("resource.properties has registry, revision and digest only".into()),
        }
    }
    Ok(resource)
}
