//! One generation: read, held, forwarded, metered, settled.
//!
//! The client's last event waits until the gate has settled the call, so that a client that has its
//! answer finds its budget as it is. Whoever leaves early is billed for what was seen.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Map, Value, json};

use super::ask::{Api, Asking};
use super::meter::{self, Cut, Event, Meter};
use super::sse::{self, Events};
use super::{bound, edit, headers, refusal};
use crate::egress::body::{self, Body, Inbound, Outlet, collect, flowing};
use crate::egress::door::{Door, Left};
use crate::egress::error::{Lost, Refusal};
use crate::egress::held::Held;
use crate::model::{Action, Digest, Outcome, Resource, parse_json};

/// Bytes of one event of a stream, and of an error.
const EVENT_BYTES: usize = 8 << 20;
const ERROR_BYTES: usize = 1 << 20;
/// How often a revocation is looked for while nothing comes.
const LOOK: Duration = Duration::from_millis(200);
/// How long what comes after the last event may take.
const AFTER: Duration = Duration::from_secs(1);

/// Forwards a request of `api` and answers it.
pub(super) async fn forward(
    door: Arc<Door>,
    api: Api,
    request: Request<Incoming>,
    mut left: Left,
) -> Result<Response<Body>, Refusal> {
    let (parts, incoming) = request.into_parts();
    let path = headers::path(&parts.uri);
    if parts.headers.contains_key(CONTENT_ENCODING) {
        return Err(Refusal::malformed("a request's body is plain JSON, without a content encoding"));
    }
    let room = door.room.take(body::at_most(&incoming, door.bounds.body_bytes)).await;
    let bytes = collect(incoming, door.bounds.body_bytes, door.bounds.read_within).await?;
    let upstream = headers::upstream(&door, &parts.headers)?;
    let asking = read(&door, api, &bytes)?;
    if api == Api::CountTokens {
        return free(&door, &path, upstream, body::kept(bytes, room)).await;
    }
    let (mut held, bytes, most) = hold(&door, &parts.headers, &asking, bytes).await?;
    if left.is_gone() {
        // A person may have been asked, and the client has not waited.
        held.complete(meter::nothing("the client had gone before anything was sent")).await;
        return Err(Refusal::forbidden("the client has gone"));
    }
    held.sent();
    let sending = door.client.send(Method::POST, &path, upstream, body::kept(bytes, room));
    let answered = tokio::select! {
        answered = sending => answered,
        cut = interrupted(&door, &held, &mut left) => return Err(interrupt(held, cut).await),
    };
    let meter = Meter::new(api, asking.write, asking.add_usage, most);
    match answered {
        Err(lost) => {
            let text = lost.to_string();
            held.complete(if lost.is_unsent() { meter::nothing(&text) } else { meter::unknown(&text) }).await;
            Err(refusal::lost(lost))
        }
        Ok(response) => answer(door, held, meter, response, left).await,
    }
}

fn read(door: &Door, api: Api, bytes: &[u8]) -> Result<Asking, Refusal> {
    let body = match parse_json(bytes) {
        Ok(Value::Object(body)) => body,
        Ok(_) => return Err(Refusal::malformed("a request is a JSON object")),
        Err(fault) => return Err(Refusal::malformed(format!("the body is not JSON: {fault}"))),
    };
    Asking::read(api, &body, &door.upstream.extra_fields, door.upstream.bytes_per_token)
}

/// Admits the call; gives what is held, what goes upstream, and the most tokens that it can read and write.
async fn hold(
    door: &Arc<Door>,
    asked: &HeaderMap,
    asking: &Asking,
    bytes: Bytes,
) -> Result<(Held, Bytes, (u64, u64)), Refusal> {
    let subject = headers::subject(door, asked)?;
    let granted = bound::granted(&door.gate, &subject, asking);
    let bytes =
        edit::limited(asking, granted, bytes).ok_or_else(|| Refusal::malformed("the body is not a JSON object"))?;
    let written = granted.saturating_mul(asking.copies);
    let mut args = Map::new();
    for (key, value) in [
        ("max_input_tokens", json!(asking.read)),
        ("max_output_tokens", json!(written)),
        ("max_tokens", json!(asking.read.saturating_add(written))),
        ("cache_write", json!(asking.write.word())),
        ("stream", json!(asking.stream)),
        // An approval is for these bytes and no others.
        ("request", json!(Digest::of(&bytes))),
    ] {
        args.insert(key.into(), value);
    }
    let call = door.call(subject, Action::ModelGenerate, Resource::named(asking.model.clone()), args)?;
    let held = door.admit(call).await.map_err(refusal::denied)?;
    Ok((held, bytes, (asking.read, written)))
}

/// Forwards what costs nothing and holds nothing.
async fn free(door: &Door, path: &str, upstream: HeaderMap, body: Body) -> Result<Response<Body>, Refusal> {
    let response = door.client.send(Method::POST, path, upstream, body).await.map_err(refusal::lost)?;
    whole(response, door.bounds.answer_bytes, door).await.map_err(refusal::lost)
}

/// The whole of an answer, as it goes to the client.
async fn whole(response: Response<Inbound>, most: usize, door: &Door) -> Result<Response<Body>, Lost> {
    let (parts, mut inbound) = response.into_parts();
    let bytes = inbound.collect(most).await?;
    Ok(headers::response(door, parts.status, &parts.headers, bytes))
}

/// Waits until the exchange must end although the upstream has not answered.
async fn interrupted(door: &Door, held: &Held, left: &mut Left) -> Cut {
    tokio::select! {
        () = left.wait() => Cut::Client,
        () = door.cut() => Cut::Stopped,
        () = revoked(held) => Cut::Revoked,
    }
}

async fn revoked(held: &Held) {
    while !held.is_revoked() {
        tokio::time::sleep(LOOK).await;
    }
}

/// Ends a request of which nothing was seen: nobody knows what it used.
async fn interrupt(held: Held, cut: Cut) -> Refusal {
    let text = match cut {
        Cut::Revoked => "an account was revoked while the request was running; it was cut. Do not retry.",
        Cut::Client | Cut::Upstream | Cut::Stopped => "the gate stops; the request was cut. Do not retry now.",
    };
    held.complete(meter::unknown(text)).await;
    Refusal::forbidden(format!("[weir] denied: {text}"))
}

async fn answer(
    door: Arc<Door>,
    held: Held,
    mut meter: Meter,
    response: Response<Inbound>,
    mut left: Left,
) -> Result<Response<Body>, Refusal> {
    let (status, encoded) = (response.status(), encoded(response.headers()));
    if !status.is_success() {
        return failed(&door, held, response, encoded).await;
    }
    if encoded {
        held.complete(meter::unknown("the provider's answer is compressed and cannot be metered")).await;
        let text = "the provider sent a compressed answer, which the gate cannot meter; what was held counts as spent";
        return Err(Refusal::new(StatusCode::GATEWAY_TIMEOUT, text));
    }
    if is_stream(response.headers()) {
        let (parts, inbound) = response.into_parts();
        let (outlet, stream) = flowing();
        let reply = headers::response(&door, parts.status, &parts.headers, Bytes::new()).map(|_| stream);
        tokio::spawn(async move { Pump { door, held, meter, inbound, outlet }.run().await });
        return Ok(reply);
    }
    let (parts, mut inbound) = response.into_parts();
    let collected = tokio::select! {
        collected = inbound.collect(door.bounds.answer_bytes) => collected,
        cut = interrupted(&door, &held, &mut left) => return Err(interrupt(held, cut).await),
    };
    match collected {
        Err(lost) => {
            held.complete(meter::unknown(&lost.to_string())).await;
            Err(refusal::lost(lost))
        }
        Ok(bytes) => {
            meter.whole(&bytes);
            let outcome = Outcome { result: Some(Digest::of(&bytes)), ..meter.end() };
            settle(held, outcome).await?;
            Ok(headers::response(&door, parts.status, &parts.headers, bytes))
        }
    }
}

/// An answer that says that nothing was generated; a failure that is not the provider's own says nothing.
async fn failed(
    door: &Door,
    held: Held,
    response: Response<Inbound>,
    encoded: bool,
) -> Result<Response<Body>, Refusal> {
    let status = response.status();
    let (parts, mut inbound) = response.into_parts();
    let collected = inbound.collect(ERROR_BYTES).await;
    let own = collected.as_ref().is_ok_and(|bytes| {
        !encoded && parse_json(bytes).is_ok_and(|value| value.get("error").is_some_and(|error| !error.is_null()))
    });
    let outcome = if status.is_server_error() && !own {
        meter::unknown("the way to the provider failed")
    } else {
        meter::nothing("the provider refused the request")
    };
    held.complete(outcome).await;
    let bytes = collected.map_err(refusal::lost)?;
    if status == StatusCode::UNAUTHORIZED || status.is_redirection() || encoded {
        let text =
            "the provider did not take the gate's key or address; the operator must look at the file of upstreams";
        return Err(Refusal::forbidden(text));
    }
    Ok(headers::response(door, status, &parts.headers, bytes))
}

/// Completes the call. What could not be put on record did not happen for the client either.
async fn settle(held: Held, outcome: Outcome) -> Result<(), Refusal> {
    let answer = held.complete(outcome).await;
    if answer.as_ref().is_some_and(|answer| answer.receipt.is_some()) {
        return Ok(());
    }
    let text =
        answer.and_then(|answer| answer.denial).unwrap_or_else(|| "the gate stopped before it had settled this".into());
    Err(Refusal::forbidden(text))
}

fn encoded(headers: &HeaderMap) -> bool {
    headers.get_all(CONTENT_ENCODING).iter().any(|value| value.as_bytes() != b"identity")
}

fn is_stream(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    kind.trim_start().to_ascii_lowercase().starts_with("text/event-stream")
}

/// A stream on its way to the client.
struct Pump {
    door: Arc<Door>,
    held: Held,
    meter: Meter,
    inbound: Inbound,
    outlet: Outlet,
}

/// How a stream came to its end.
enum End {
    /// At its last event, which has not gone out yet.
    Last(Bytes),
    /// Without one.
    Whole,
    Cut(Cut),
    TooLong,
}

impl Pump {
    async fn run(mut self) {
        let mut events = Events::new(EVENT_BYTES);
        let end = self.flow(&mut events).await;
        let outcome = match &end {
            End::Last(_) | End::Whole => self.meter.end(),
            End::Cut(cut) => self.meter.cut(*cut),
            End::TooLong => meter::unknown("an event of the provider's stream is too long"),
        };
        let Self { held, mut inbound, outlet, .. } = self;
        // Whatever the client does: first it is settled.
        let settled = settle(held, outcome).await.is_ok();
        match end {
            End::Last(_) | End::Whole if !settled => outlet.cut().await,
            End::Last(last) => {
                if outlet.send(last).await.is_ok() && outlet.send(events.rest()).await.is_ok() {
                    drop(tokio::time::timeout(AFTER, rest(&mut inbound, &outlet)).await);
                }
            }
            End::Whole => {}
            End::Cut(_) | End::TooLong => outlet.cut().await,
        }
    }

    /// Passes an event on; what ends the stream while the client does not take it. One that takes nothing for
    /// as long as an upstream may be silent has gone.
    async fn pass(&self, event: Bytes) -> Option<Cut> {
        tokio::select! {
            sent = self.outlet.send(event) => sent.is_err().then_some(Cut::Client),
            () = self.door.cut() => Some(Cut::Stopped),
            () = revoked(&self.held) => Some(Cut::Revoked),
            () = tokio::time::sleep(self.door.bounds.idle_within) => Some(Cut::Client),
        }
    }

    /// Passes events on until the last one, or until something ends it.
    async fn flow(&mut self, events: &mut Events) -> End {
        loop {
            while let Some(event) = events.next() {
                let met = sse::data(&event).map_or(Event::Pass, |data| self.meter.event(&data));
                match met {
                    Event::Hide => {}
                    Event::Last => return End::Last(event),
                    Event::Pass => {
                        if let Some(cut) = self.pass(event).await {
                            return End::Cut(cut);
                        }
                    }
                }
            }
            let next = tokio::select! {
                next = self.inbound.next() => next,
                () = self.outlet.gone() => return End::Cut(Cut::Client),
                () = self.door.cut() => return End::Cut(Cut::Stopped),
                () = revoked(&self.held) => return End::Cut(Cut::Revoked),
            };
            match next {
                Ok(Some(bytes)) if events.push(&bytes).is_err() => return End::TooLong,
                Ok(Some(_)) => {}
                Ok(None) => {
                    let rest = events.rest();
                    if let Some(data) = sse::data(&rest) {
                        self.meter.event(&data);
                    }
                    return self.pass(rest).await.map_or(End::Whole, End::Cut);
                }
                Err(_) => return End::Cut(Cut::Upstream),
            }
        }
    }
}

/// What an upstream sends after the last event; read to its end, the connection serves again.
async fn rest(inbound: &mut Inbound, outlet: &Outlet) {
    while let Ok(Some(bytes)) = inbound.next().await {
        if outlet.send(bytes).await.is_err() {
            return;
        }
    }
}
