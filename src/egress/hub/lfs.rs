//! Large files on their way up: the Hub says where to send them, the gate gives out tickets and sends them itself.
//!
//! The client follows the addresses without its token. A ticket is an address of the gate that nobody can guess, for one
//! step of one file of one repository, and it ends with the hour.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Map, Value, json};

use super::content::{Check, Promise};
use super::denial::{answer, because, unasked};
use super::plan::{Object, objects, plan};
use super::remote::{self, Reply, ask, send, told};
use super::repo::Repo;
use super::upload::{JSON, admit, end, refused_by_hub};
use super::{State, TICKETS, commit::is_sha256};
use crate::egress::body::{Body, Inbound, Outlet, collect, empty, flowing, full};
use crate::egress::door::Door;
use crate::egress::error::Refusal;
use crate::egress::held::fresh;
use crate::model::{Limits, Status, parse_json};

/// Tickets at once.
const KEPT: usize = 100_000;
/// How long a ticket holds.
const HOUR: Duration = Duration::from_secs(3600);
/// How long a client may be silent while it sends a file.
const IDLE: Duration = Duration::from_secs(60);

/// What a ticket is for.
#[derive(Clone)]
struct Ticket {
    repo: Repo,
    address: String,
    step: Step,
    until: Instant,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// Send so many bytes at most; all of a file where its digest is given.
    Put(u64, Option<String>),
    /// Tell that all parts are there, or that the file is.
    Post,
}

/// Whether `text` has the form of a ticket.
pub(super) fn is_ticket(text: &str) -> bool {
    is_sha256(text)
}

/// Tickets that hold.
#[derive(Default)]
pub(super) struct Tickets(Mutex<HashMap<String, Ticket>>);

impl Tickets {
    fn give(&self, ticket: Ticket) -> Option<String> {
        // Two names of 128 random bits each: whoever has the address may send, and nobody else.
        let id = format!("{}{}", fresh()?, fresh()?);
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT {
            let now = Instant::now();
            kept.retain(|_, ticket| ticket.until > now);
        }
        if kept.len() >= KEPT {
            return None;
        }
        kept.insert(id.clone(), ticket);
        Some(id)
    }

    fn find(&self, id: &str) -> Option<Ticket> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.get(id).filter(|ticket| ticket.until > Instant::now()).cloned()
    }
}

/// Asks the Hub where to send large files, and gives tickets instead of its addresses.
pub(super) async fn batch(
    state: &State,
    door: &Door,
    repo: Repo,
    host: &str,
    body: &[u8],
) -> Result<Response<Body>, Refusal> {
    let wanted = objects(body).map_err(|refused| unasked(&refused))?;
    let rows: Vec<Value> = wanted.iter().map(|(oid, size)| json!({"oid": oid, "size": size})).collect();
    let own =
        json!({"operation": "upload", "transfers": ["basic", "multipart"], "objects": rows, "hash_algo": "sha256"});
    let own = Bytes::from(own.to_string());
    let bytes = own.len() as u64;
    let mut held = admit(door, &repo, "lfs", bytes).await?;
    held.sent();
    let path = format!("/{}{}.git/info/lfs/objects/batch", repo.kind.prefix(), repo.id());
    let said = ask(door, Method::POST, &path, Some(("application/vnd.git-lfs+json", own)), Limits::JSON_BYTES).await;
    let said = match said {
        Ok(said) => said,
        Err(lost) => {
            end(held, if lost.is_unsent() { Status::Broken } else { Status::Unknown }, bytes).await;
            return Err(because(&lost.to_string(), "Try again later"));
        }
    };
    end(held, if said.status.is_success() { Status::Done } else { Status::Failed }, bytes).await;
    if !said.status.is_success() {
        return Err(refused_by_hub(&said));
    }
    let odd = || because("the Hub's plan for large files cannot be read", "Set HF_HUB_DISABLE_XET=1, or ask a person");
    let plan = plan(&said.body, &wanted).ok_or_else(odd)?;
    let give = |address: String, step: Step| {
        let until = Instant::now() + HOUR;
        let id = state.tickets.give(Ticket { repo: repo.clone(), address, step, until })?;
        Some(Value::from(format!("http://{host}{TICKETS}{id}")))
    };
    let rows: Option<Vec<Value>> = plan.into_iter().map(|object| object.ticketed(&give)).collect();
    let full = || because("too many large files are on their way", "Try again in an hour");
    Ok(answer(StatusCode::OK, &json!({"transfer": "basic", "objects": rows.ok_or_else(full)?})))
}

impl Object {
    /// The plan as the client gets it.
    fn ticketed(self, give: &impl Fn(String, Step) -> Option<Value>) -> Option<Value> {
        let mut actions = Map::new();
        match self.upload {
            None => {}
            Some((address, None)) => {
                let href = give(address, Step::Put(self.size, Some(self.oid.clone())))?;
                actions.insert("upload".into(), json!({"href": href, "header": {}}));
            }
            Some((address, Some((chunk, addresses)))) => {
                let mut header = Map::new();
                for (index, address) in addresses.into_iter().enumerate() {
                    header.insert((index + 1).to_string(), give(address, Step::Put(chunk, None))?);
                }
                header.insert("chunk_size".into(), chunk.to_string().into());
                actions.insert("upload".into(), json!({"href": give(address, Step::Post)?, "header": header}));
            }
        }
        if let Some(address) = self.verify {
            actions.insert("verify".into(), json!({"href": give(address, Step::Post)?, "header": {}}));
        }
        let mut row = json!({"oid": self.oid, "size": self.size});
        if let (false, Some(row)) = (actions.is_empty(), row.as_object_mut()) {
            row.insert("actions".into(), Value::Object(actions));
        }
        Some(row)
    }
}

/// One step of sending a large file.
pub(super) async fn step(
    state: &State,
    door: &Door,
    id: &str,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let gone = || because("this address for a large file is not known, or its hour is over", "Upload the file anew");
    let ticket = state.tickets.find(id).ok_or_else(gone)?;
    match (request.method().as_str(), &ticket.step) {
        ("PUT", Step::Put(most, digest)) => {
            let length = request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
            let whole = digest.is_some();
            match length {
                Some(length) if length == *most || (!whole && length <= *most) => {
                    let promise = digest.clone().map(Promise::Sha256);
                    put(state, door, &ticket, request, (length, promise)).await
                }
                _ => Err(because("a large file is sent with the size that was announced", "Upload the file anew")),
            }
        }
        ("POST", Step::Post) => {
            let body = collect(request.into_body(), Limits::JSON_BYTES, door.bounds.read_within).await?;
            parse_json(&body).map_err(|_| because("the message cannot be read", "Upload the file anew"))?;
            let bytes = body.len() as u64;
            let mut extra = HeaderMap::new();
            extra.insert(CONTENT_TYPE, HeaderValue::from_static(JSON));
            let mut held = admit(door, &ticket.repo, "lfs", bytes).await?;
            held.sent();
            let sent = send(door, &state.hosts, Method::POST, &ticket.address, extra, full(body)).await;
            finish(held, sent, bytes).await
        }
        _ => Err(gone()),
    }
}

/// Sends a file, or a part of one, on while it comes; the last piece only if the whole is what was announced.
async fn put(
    state: &State,
    door: &Door,
    ticket: &Ticket,
    request: Request<Incoming>,
    (length, promise): (u64, Option<Promise>),
) -> Result<Response<Body>, Refusal> {
    let mut held = admit(door, &ticket.repo, "lfs", length).await?;
    held.sent();
    let mut extra = HeaderMap::new();
    extra.insert(CONTENT_LENGTH, HeaderValue::from(length));
    let body = Inbound::new(request.into_body(), IDLE);
    let (outlet, out) = if length == 0 {
        (None, empty())
    } else {
        Some(flowing()).map_or((None, empty()), |(outlet, out)| (Some(outlet), out))
    };
    let pumping = pump(body, outlet, length, promise);
    let sending = send(door, &state.hosts, Method::PUT, &ticket.address, extra, out);
    let (sound, sent) = tokio::join!(pumping, sending);
    if !sound {
        end(held, Status::Failed, length).await;
        return Err(because("what was sent is not the file that was announced", "Upload the file anew"));
    }
    finish(held, sent, length).await
}

async fn pump(mut body: Inbound, outlet: Option<Outlet>, length: u64, promise: Option<Promise>) -> bool {
    let Some(outlet) = outlet else { return true };
    let mut check = promise.map(|promise| Check::new(promise, length));
    let (mut last, mut seen) = (Bytes::new(), 0_u64);
    loop {
        match body.next().await {
            Ok(Some(piece)) => {
                seen = seen.saturating_add(piece.len() as u64);
                let sound = check.as_mut().is_none_or(|check| check.take(&piece));
                if !sound || seen > length {
                    break;
                }
                if outlet.send(std::mem::replace(&mut last, piece)).await.is_err() {
                    // The other side has answered or gone: its answer tells.
                    return true;
                }
            }
            Ok(None) if seen == length && check.is_none_or(Check::holds) => return outlet.send(last).await.is_ok(),
            Ok(None) | Err(_) => break,
        }
    }
    outlet.cut().await;
    false
}

/// Settles a step and hands the client what it needs of the answer: whether it succeeded, and a part's tag.
async fn finish(
    held: crate::egress::held::Held,
    sent: Result<Response<Inbound>, remote::RemoteFault>,
    bytes: u64,
) -> Result<Response<Body>, Refusal> {
    let response = match sent {
        Ok(response) => response,
        Err(fault) => {
            let unsent = match &fault {
                remote::RemoteFault::Lost(lost) => lost.is_unsent(),
                remote::RemoteFault::Host => true,
                remote::RemoteFault::Status(_) | remote::RemoteFault::Odd => false,
            };
            end(held, if unsent { Status::Broken } else { Status::Unknown }, if unsent { 0 } else { bytes }).await;
            return Err(because(&told(&fault), "Upload the file anew"));
        }
    };
    let (parts, mut body) = response.into_parts();
    let body = body.collect(Limits::JSON_BYTES).await.unwrap_or_default();
    end(held, if parts.status.is_success() { Status::Done } else { Status::Failed }, bytes).await;
    if !parts.status.is_success() {
        return Err(refused_by_hub(&Reply { status: parts.status, headers: parts.headers, body }));
    }
    let mut reply = answer(StatusCode::OK, &json!({}));
    if let Some(etag) = parts.headers.get(ETAG) {
        reply.headers_mut().insert(ETAG, etag.clone());
    }
    Ok(reply)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(value: &Value) -> Vec<u8> {
        value.to_string().into_bytes()
    }

    #[test]
    fn only_what_was_asked_for_gets_a_ticket() {
        let wanted = [("a".repeat(64), 10)];
        let upload = |oid: &str, header: Value| json!({"objects": [{"oid": oid, "size": 10, "actions": {"upload": {"href": "https://x/y", "header": header}}}]});
        let one = plan(&said(&upload(&wanted[0].0, json!({}))), &wanted).unwrap();
        assert_eq!(one[0].upload, Some(("https://x/y".into(), None)));
        let two = plan(
            &said(&upload(&wanted[0].0, json!({"chunk_size": "6", "2": "https://x/2", "1": "https://x/1"}))),
            &wanted,
        );
        assert_eq!(
            two.unwrap()[0].upload.as_ref().unwrap().1,
            Some((6, vec!["https://x/1".into(), "https://x/2".into()]))
        );
        assert_eq!(plan(&said(&upload(&"b".repeat(64), json!({}))), &wanted), None);
        assert_eq!(plan(&said(&upload(&wanted[0].0, json!({"chunk_size": "6", "1": "https://x/1"}))), &wanted), None);
        assert_eq!(plan(&said(&json!({"transfer": "xet", "objects": []})), &wanted), None);
        let given = one.into_iter().next().unwrap().ticketed(&|_, step| {
            assert_eq!(step, Step::Put(10, Some("a".repeat(64))));
            Some("http://gate/1".into())
        });
        assert!(!given.unwrap().to_string().contains("https://x"));
    }

    #[test]
    fn large_files_are_only_sent() {
        assert!(objects(br#"{"operation": "download", "objects": []}"#).is_err());
        assert!(objects(br#"{"operation": "upload", "objects": [{"oid": "x", "size": 1}]}"#).is_err());
        let oid = "a".repeat(64);
        let body = json!({"operation": "upload", "objects": [{"oid": oid, "size": 1}], "hash_algo": "sha256"});
        assert_eq!(objects(body.to_string().as_bytes()), Ok(vec![(oid, 1)]));
    }

    #[test]
    fn a_ticket_is_not_guessed_and_ends() {
        let tickets = Tickets::default();
        let repo = Repo::parse(super::super::repo::RepoKind::Model, "t/n").unwrap();
        let until = Instant::now() + HOUR;
        let ticket = Ticket { repo, address: "https://x".into(), step: Step::Post, until };
        let id = tickets.give(ticket.clone()).unwrap();
        assert!(id.len() == 64 && tickets.find(&id).is_some() && tickets.find(&id[..63]).is_none());
        let old = tickets.give(Ticket { until: Instant::now(), ..ticket }).unwrap();
        assert!(tickets.find(&old).is_none());
    }
}
