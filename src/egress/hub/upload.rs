//! Commits to granted repositories: asked for, judged as what they are, counted in bytes.

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Map, Value, json};

use super::denial::{answer as reply, because, of_gate, unasked};
use super::remote::{self, ask as ask_hub};
use super::repo::{Repo, RepoKind, Revision};
use super::request::{Ask, Refused};
use super::{REGISTRY, State, commit, lfs};
use crate::egress::body::{Body, collect};
use crate::egress::door::Door;
use crate::egress::error::{Lost, Refusal};
use crate::egress::held::Held;
use crate::model::{Action, Amounts, Kind, Limits, Name, Outcome, Resource, Status, parse_json};

pub(super) const JSON: &str = "application/json";
const NDJSON: &str = "application/x-ndjson";

/// Answers a step of an upload.
pub(super) async fn answer(
    state: &State,
    door: &Door,
    ask: Ask,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let host = request.headers().get("host").and_then(|host| host.to_str().ok()).unwrap_or_default().to_owned();
    let most = if matches!(ask, Ask::Commit(..)) { commit::COMMIT_BYTES } else { Limits::JSON_BYTES };
    let body = collect(request.into_body(), most, door.bounds.read_within.saturating_mul(4)).await?;
    match ask {
        Ask::Preupload(repo, revision) => preupload(door, &repo, &revision, body).await,
        Ask::Commit(repo, revision, pull) => committed(door, &repo, &revision, pull, body).await,
        Ask::LfsBatch(repo) => lfs::batch(state, door, repo, &host, &body).await,
        Ask::Create => create(door, &body).await,
        _ => Err(Refusal::forbidden("this is no step of an upload")),
    }
}

/// Asks the gate to send `bytes` to `repo`.
pub(super) async fn admit(door: &Door, repo: &Repo, kind: &'static str, bytes: u64) -> Result<Held, Refusal> {
    let odd = || because("the repository's name is no name that a policy can hold", "Use another repository");
    let name = repo.name().ok_or_else(odd)?;
    let resource = Resource { registry: Name::new(REGISTRY).ok(), ..Resource::named(name) };
    let mut args = Map::new();
    args.insert("kind".into(), kind.into());
    args.insert("bytes".into(), bytes.into());
    let call = door.call(door.sessions.subject(None, &[]), Action::PackagePublish, resource, args)?;
    door.admit(call).await.map_err(of_gate)
}

/// Ends a call that has sent `bytes`.
pub(super) async fn end(held: Held, status: Status, bytes: u64) {
    let usage = Amounts::ZERO.with(Kind::EgressBytes, bytes);
    drop(held.complete(Outcome { usage, ..Outcome::of(status) }).await);
}

/// Sends `body` to the Hub once the gate has admitted it, and gives what came back; anything but success is a refusal.
async fn forward(
    door: &Door,
    mut held: Held,
    path: &str,
    (kind, body): (&'static str, Bytes),
) -> Result<Value, Refusal> {
    let bytes = body.len() as u64;
    held.sent();
    match ask_hub(door, Method::POST, path, Some((kind, body)), Limits::JSON_BYTES).await {
        Err(lost) => {
            let status = if lost.is_unsent() { Status::Broken } else { Status::Unknown };
            end(held, status, if lost.is_unsent() { 0 } else { bytes }).await;
            Err(lost_text(lost))
        }
        Ok(answer) if answer.status.is_success() => {
            end(held, Status::Done, bytes).await;
            let odd =
                || because("the Hub's answer cannot be read, and what was sent may be there", "Look at the repository");
            parse_json(&answer.body).map_err(|_| odd())
        }
        Ok(answer) => {
            end(held, Status::Failed, bytes).await;
            Err(refused_by_hub(&answer))
        }
    }
}

/// What a client is told of an answer of the Hub's that is no success.
pub(super) fn refused_by_hub(answer: &remote::Reply) -> Refusal {
    let header = answer.headers.get("x-error-message").and_then(|text| text.to_str().ok()).map(str::to_owned);
    let body = || Some(parse_json(&answer.body).ok()?.get("error")?.as_str()?.to_owned());
    let text: String = header.or_else(body).unwrap_or_default().chars().take(200).collect();
    let status = match answer.status {
        // The gate's own token was not good enough: the agent can do nothing about it.
        StatusCode::UNAUTHORIZED => StatusCode::FORBIDDEN,
        status if status.is_client_error() => status,
        _ => StatusCode::FORBIDDEN,
    };
    Refusal::new(status, format!("the Hub answered {} to what the gate permitted: {text}", answer.status.as_u16()))
}

fn lost_text(lost: Lost) -> Refusal {
    let what = if lost.is_unsent() { "nothing was sent" } else { "nobody knows whether it happened" };
    because(&format!("{lost}, and {what}"), "Look at the repository before you try again")
}

fn strict(body: &[u8]) -> Result<Map<String, Value>, Refusal> {
    let odd = |what: String| unasked(&Refused::new(what, "send the message as huggingface_hub does"));
    match parse_json(body) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(odd("the message is no JSON object".into())),
        Err(fault) => Err(odd(format!("the message cannot be read: {fault}"))),
    }
}

fn known(map: &Map<String, Value>, names: &[&str]) -> Result<(), Refusal> {
    let Some(name) = map.keys().find(|key| !names.contains(&key.as_str())) else { return Ok(()) };
    let shown: String = name.chars().filter(char::is_ascii_graphic).take(40).collect();
    Err(unasked(&Refused::new(format!("the gate cannot judge `{shown}` in this message"), "leave it out")))
}

async fn preupload(door: &Door, repo: &Repo, revision: &Revision, body: Bytes) -> Result<Response<Body>, Refusal> {
    known(&strict(&body)?, &["files", "gitIgnore"])?;
    let held = admit(door, repo, "preupload", body.len() as u64).await?;
    let path = format!("/api/{}/preupload/{}", repo.api(), revision.segment());
    let said = forward(door, held, &path, (JSON, body)).await?;
    let row = |file: &Value| {
        let mode = file.get("uploadMode").and_then(Value::as_str).unwrap_or("regular");
        // Xet would pass by the gate; what it carries can be sent as a large file as well.
        let mode = if mode == "regular" { "regular" } else { "lfs" };
        json!({"path": file.get("path"), "uploadMode": mode, "shouldIgnore": file.get("shouldIgnore").unwrap_or(&Value::Bool(false)),
            "oid": file.get("oid")})
    };
    let files: Vec<Value> = said.get("files").and_then(Value::as_array).into_iter().flatten().map(row).collect();
    Ok(reply(StatusCode::OK, &json!({"files": files})))
}

async fn committed(
    door: &Door,
    repo: &Repo,
    revision: &Revision,
    pull: bool,
    body: Bytes,
) -> Result<Response<Body>, Refusal> {
    commit::read(&body).map_err(|refused| unasked(&refused))?;
    let held = admit(door, repo, "commit", body.len() as u64).await?;
    let query = if pull { "?create_pr=1" } else { "" };
    let path = format!("/api/{}/commit/{}{query}", repo.api(), revision.segment());
    let said = forward(door, held, &path, (NDJSON, body)).await?;
    let mut out = Map::new();
    out.insert("success".into(), true.into());
    out.insert("hookOutput".into(), "".into());
    for name in ["commitUrl", "commitOid", "pullRequestUrl"] {
        if let Some(text) = said.get(name).and_then(Value::as_str) {
            out.insert(name.into(), text.into());
        }
    }
    Ok(reply(StatusCode::OK, &Value::Object(out)))
}

/// A new repository: private, of a name that the policy grants.
async fn create(door: &Door, body: &[u8]) -> Result<Response<Body>, Refusal> {
    let map = strict(body)?;
    known(&map, &["name", "organization", "type", "visibility", "private"])?;
    let text = |name: &str| map.get(name).and_then(Value::as_str);
    let open = text("visibility").is_some_and(|kind| kind != "private")
        || map.get("private").is_some_and(|private| !matches!(private, Value::Bool(true) | Value::Null));
    if open {
        return Err(because("a repository that is made through the gate is private", "Leave `private` out, or set it"));
    }
    let kind = match text("type") {
        None | Some("model") => RepoKind::Model,
        Some("dataset") => RepoKind::Dataset,
        Some(_) => return Err(because("only models and datasets are made through the gate", "Ask a person")),
    };
    let id: Vec<&str> = text("organization").into_iter().chain(text("name")).flat_map(|part| part.split('/')).collect();
    let repo = Repo::new(kind, &id).ok_or_else(|| because("this is no repository's id", "Write `team/name`"))?;
    let (namespace, name) = repo.id().rsplit_once('/').unwrap_or(("", repo.id()));
    let organization = if namespace.is_empty() { Value::Null } else { namespace.into() };
    let own = json!({"name": name, "organization": organization, "type": kind.word(), "visibility": "private"});
    let own = Bytes::from(own.to_string());
    let held = admit(door, &repo, "create", own.len() as u64).await?;
    let said = forward(door, held, "/api/repos/create", (JSON, own)).await?;
    let url = said.get("url").and_then(Value::as_str).map_or_else(
        || format!("https://huggingface.co/{}{}", kind.prefix(), repo.id()),
        |url| url.chars().filter(char::is_ascii_graphic).take(300).collect(),
    );
    Ok(reply(StatusCode::OK, &json!({"url": url, "name": repo.id(), "id": repo.id()})))
}
