//! Files and what is known of them: only of pinned repositories, every byte held to the list of files.
//!
//! A file's answer begins only when its first bytes have been looked at, and its last piece leaves only when the whole is
//! what was promised: a client never holds a whole file that is not.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use hyper::body::Incoming;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderName, HeaderValue};
use hyper::{Request, Response, StatusCode};
use serde_json::{Value, json};

use super::State;
use super::content::{Check, HEAD_BYTES, disguise};
use super::denial::{answer, because, line, missing, unasked};
use super::manifest::{Entry, Manifest};
use super::pins::{self, Admitted};
use super::remote::{fetch, told};
use super::repo::{Repo, Revision, escaped};
use super::request::{Ask, Refused};
use crate::egress::body::{Body, Inbound, Outlet, collect, empty, flowing, full};
use crate::egress::door::Door;
use crate::egress::error::Refusal;
use crate::model::{GuestError, Outcome, Status};

/// Bytes of a request that names paths.
const PATHS_BYTES: usize = 1 << 20;

/// Answers what a client wants to know of a repository.
pub(super) async fn described(
    state: &State,
    door: &Door,
    ask: Ask,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let blobs = request.uri().query().is_some_and(|query| query.contains("blobs=true") || query.contains("blobs=True"));
    let (repo, revision, paths) = match &ask {
        Ask::Info(repo, revision) => (repo, revision.as_ref(), None),
        Ask::Tree(repo, revision, ..) => (repo, Some(revision), None),
        Ask::PathsInfo(repo, revision) => {
            let kind = request.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
            let json = kind.starts_with("application/json");
            let body = collect(request.into_body(), PATHS_BYTES, door.bounds.read_within).await?;
            let odd = || unasked(&Refused::new("the paths cannot be read", "send them as a form"));
            (repo, Some(revision), Some(pins::paths_of(&body, json).ok_or_else(odd)?))
        }
        Ask::Refs(repo) => (repo, None, None),
        _ => return Err(Refusal::forbidden("this is no question about a repository")),
    };
    let admitted = pins::admit(door, repo, revision, "").await?;
    let (admitted, manifest) = admitted.manifest(&state.manifests, door, repo).await?;
    let said = match &ask {
        Ask::Tree(_, _, folder, deep) => manifest.tree(folder.as_deref(), *deep),
        Ask::PathsInfo(..) => Some(manifest.paths(paths.as_deref().unwrap_or_default())),
        // Which branches there are is not known here; the pin stands where `main` may.
        Ask::Refs(_) => Some(refs(&manifest)),
        _ => Some(manifest.info(blobs)),
    };
    admitted.end(Status::Done).await;
    match said {
        Some(said) => {
            let mut response = answer(StatusCode::OK, &said);
            response.headers_mut().insert("x-repo-commit", line(manifest.commit()));
            Ok(response)
        }
        None => Ok(missing(manifest.commit(), "in this folder")),
    }
}

fn refs(manifest: &Manifest) -> Value {
    let main = json!({"name": "main", "ref": "refs/heads/main", "targetCommit": manifest.commit()});
    json!({"branches": [main], "tags": [], "converts": [], "pullRequests": []})
}

/// Answers a request for one file; with `head` for its headers only.
pub(super) async fn file(
    state: &State,
    door: &Arc<Door>,
    (repo, revision, path): (Repo, Revision, String),
    head: bool,
) -> Result<Response<Body>, Refusal> {
    let admitted = pins::admit(door, &repo, Some(&revision), &path).await?;
    let (admitted, manifest) = admitted.manifest(&state.manifests, door, &repo).await?;
    let Some(entry) = manifest.file(&path) else {
        admitted.end(Status::Failed).await;
        return Ok(missing(manifest.commit(), &path));
    };
    if head {
        let response = described_file(entry, manifest.commit(), empty());
        admitted.end(Status::Done).await;
        return Ok(response);
    }
    let at = format!("/{}{}/resolve/{}/{}", repo.kind.prefix(), repo.id(), manifest.commit(), escaped(&path));
    let body = match fetch(door, &state.hosts, &at).await {
        Ok(response) => response.into_body(),
        Err(fault) => {
            broken(admitted, "Unreachable", &told(&fault)).await;
            return Err(because(&format!("`{path}` cannot be had: {}", told(&fault)), "Try again later"));
        }
    };
    let file = File { path, entry: entry.clone(), commit: manifest.commit().to_owned() };
    file.flow(door.clone(), admitted, body).await
}

/// A file on its way.
struct File {
    path: String,
    entry: Entry,
    commit: String,
}

impl File {
    /// Looks at the beginning, and lets the rest flow behind its headers.
    async fn flow(self, door: Arc<Door>, admitted: Admitted, mut body: Inbound) -> Result<Response<Body>, Refusal> {
        let mut check = Check::new(self.entry.promise(), self.entry.size);
        let mut head = BytesMut::new();
        while head.len() < HEAD_BYTES {
            let piece = match body.next().await {
                Ok(Some(piece)) => piece,
                Ok(None) => break,
                Err(lost) => return Err(self.refuse(admitted, "Unreachable", &lost.to_string()).await),
            };
            if !check.take(&piece) {
                return Err(self.refuse(admitted, "Mismatch", "it is longer than its list of files says").await);
            }
            head.extend_from_slice(&piece);
        }
        if let (Some(what), false) = (disguise(&head), admitted.code) {
            return Err(self.refuse(admitted, "Code", &format!("its bytes are {what}, whatever its name says")).await);
        }
        let head = head.freeze();
        if check.left() == 0 || head.len() < HEAD_BYTES {
            // All of it is here: nothing leaves unless it is right.
            return if check.holds() {
                admitted.end(Status::Done).await;
                Ok(described_file(&self.entry, &self.commit, full(head)))
            } else {
                Err(self.refuse(admitted, "Mismatch", "its bytes are not those that its digest promises").await)
            };
        }
        let (outlet, out) = flowing();
        let response = described_file(&self.entry, &self.commit, out);
        let rest = Rest { body, check, last: head, outlet };
        tokio::spawn(async move {
            let cut = door.clone();
            tokio::select! {
                () = rest.flow(admitted, &self.path) => {}
                // What it held ends as unknown.
                () = cut.cut() => {}
            }
        });
        Ok(response)
    }

    async fn refuse(&self, admitted: Admitted, kind: &str, what: &str) -> Refusal {
        broken(admitted, kind, what).await;
        because(&format!("`{}` is not delivered: {what}", self.path), "Do not retry; ask a person")
    }
}

/// What is still to come of a file, one piece behind what has been read.
struct Rest {
    body: Inbound,
    check: Check,
    last: Bytes,
    outlet: Outlet,
}

impl Rest {
    async fn flow(mut self, admitted: Admitted, path: &str) {
        let fault = loop {
            match self.body.next().await {
                Ok(Some(piece)) => {
                    if !self.check.take(&piece) {
                        break "it is longer than its list of files says".to_owned();
                    }
                    let before = std::mem::replace(&mut self.last, piece);
                    if self.outlet.send(before).await.is_err() {
                        // The client has gone; what it got is not the whole.
                        return admitted.end(Status::Failed).await;
                    }
                }
                Ok(None) if self.check.left() > 0 => break "it ended early".to_owned(),
                Ok(None) => {
                    if self.check.holds() {
                        let sent = self.outlet.send(self.last).await;
                        return admitted.end(if sent.is_ok() { Status::Done } else { Status::Failed }).await;
                    }
                    self.outlet.cut().await;
                    return wrong(admitted, path, "its bytes are not those that its digest promises").await;
                }
                Err(lost) => break lost.to_string(),
            }
        };
        self.outlet.cut().await;
        wrong(admitted, path, &fault).await;
    }
}

async fn wrong(admitted: Admitted, path: &str, what: &str) {
    tracing::warn!(what, path, "a file was cut off");
    broken(admitted, "Mismatch", what).await;
}

async fn broken(admitted: Admitted, kind: &str, what: &str) {
    let error = GuestError { kind: kind.to_owned(), message: what.to_owned(), traceback: String::new() };
    drop(admitted.held.complete(Outcome { error: Some(error), ..Outcome::of(Status::Broken) }).await);
}

/// An answer with everything that a client reads about a file.
fn described_file(entry: &Entry, commit: &str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(entry.size));
    headers.insert(ETAG, line(&format!("\"{}\"", entry.etag())));
    headers.insert(HeaderName::from_static("x-repo-commit"), line(commit));
    if entry.lfs.is_some() {
        headers.insert(HeaderName::from_static("x-linked-etag"), line(&format!("\"{}\"", entry.etag())));
        headers.insert(HeaderName::from_static("x-linked-size"), HeaderValue::from(entry.size));
    }
    response
}
