//! Jobs as a client asks for them: a launch walks the gate's line, what follows is about jobs that this gate launched.
//!
//! The hold is there before the Hub hears of a launch. A refusal of the Hub's frees it; where nobody knows what became of
//! a launch, it stays, and the watcher looks for the job by its label.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use tokio::sync::Mutex;

use super::book::{Seen, shown};
use super::denial::{answer, because, of_gate, unasked};
use super::launch::{self, Launch};
use super::prices::{Catalogue, Rate};
use super::remote::{self, ask};
use super::request::Refused;
use super::upload::{JSON, refused_by_hub};
use super::watch::{self, Watch};
use super::{REGISTRY, State};
use crate::egress::body::{Body, Inbound, collect, flowing};
use crate::egress::door::Door;
use crate::egress::error::{Lost, Refusal};
use crate::model::{Action, Limits, Name, Outcome, Resource, Status, parse_json};
use crate::pep::{Durable, Reserved};

/// Bytes of a launch.
const LAUNCH_BYTES: usize = 1 << 20;
/// How long the Hub's prices are taken for those of now.
const FRESH: Duration = Duration::from_secs(60);

/// The Hub's prices, and when they were read.
#[derive(Default)]
pub(super) struct Prices(Mutex<Option<(Instant, Arc<Catalogue>)>>);

impl Prices {
    /// What the Hub takes now; `None` when it does not say so in a way that can be read.
    pub(super) async fn now(&self, door: &Door) -> Option<Arc<Catalogue>> {
        // Held while they are read, so that many launches at once ask once.
        let mut known = self.0.lock().await;
        if let Some((at, catalogue)) = known.as_ref()
            && at.elapsed() < FRESH
        {
            return Some(catalogue.clone());
        }
        let reply = ask(door, Method::GET, "/api/jobs/hardware", None, Limits::JSON_BYTES).await.ok()?;
        let catalogue =
            (reply.status == StatusCode::OK).then(|| Catalogue::read(&reply.body)).flatten().map(Arc::new)?;
        *known = Some((Instant::now(), catalogue.clone()));
        Some(catalogue)
    }
}

/// What machines cost, as the Hub says.
pub(super) async fn hardware(door: &Door) -> Result<Response<Body>, Refusal> {
    let reply = ask(door, Method::GET, "/api/jobs/hardware", None, Limits::JSON_BYTES).await;
    let reply = reply.map_err(|lost| because(&lost.to_string(), "Try again later"))?;
    let value = parse_json(&reply.body).ok().filter(|_| reply.status == StatusCode::OK);
    let odd = || because("the Hub's prices cannot be read", "Try again later");
    value.map(|value| answer(StatusCode::OK, &value)).ok_or_else(odd)
}

/// Launches a job in `namespace`.
pub(super) async fn launch(
    state: &Arc<State>,
    door: &Arc<Door>,
    namespace: String,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let body = collect(request.into_body(), LAUNCH_BYTES, door.bounds.read_within).await?;
    let launch = launch::read(&namespace, &body).map_err(|refused| unasked(&refused))?;
    let terms = terms(state, door, &launch).await?;
    let odd = || unasked(&Refused::new("the flavor is no name", "name a flavor that the policy lists"));
    let flavor = Name::new(launch.flavor.as_str()).map_err(|_| odd())?;
    let resource = Resource { registry: Name::new(REGISTRY).ok(), ..Resource::named(flavor) };
    let args = launch.args(terms.timeout_s, terms.live);
    let call = door.call(door.sessions.subject(None, &[]), Action::JobLaunch, resource, args)?;
    // Not as a call that ends with the proxies: a job goes on without them.
    let held = door.admit(call).await.map_err(of_gate)?;
    let work = held.keep().ok_or_else(|| because("the gate is stopping", "Try again later"))?;
    forward(state, door, (launch, terms), work).await
}

/// What a launch is judged by besides itself.
struct Terms {
    timeout_s: u64,
    live: Option<u64>,
    rate: Rate,
}

async fn terms(state: &State, door: &Door, launch: &Launch) -> Result<Terms, Refusal> {
    let compiled = door.gate.policy();
    let Some(jobs) = &compiled.policy().jobs else {
        return Ok(Terms { timeout_s: launch.timeout_s.unwrap_or(1_800), live: None, rate: Rate::new(0, 0) });
    };
    let timeout_s = launch.timeout_s.unwrap_or(jobs.default_timeout_s);
    // The gate says what it thinks of a machine that the policy does not know.
    let Some(flavor) = jobs.flavors.get(&launch.flavor) else {
        return Ok(Terms { timeout_s, live: None, rate: Rate::new(0, 0) });
    };
    let listed = launch.secrets.iter().all(|name| jobs.secrets.contains(name));
    if let (true, Some(name)) = (listed, launch.unheld()) {
        let what = format!(
            "the gate holds no value for the secret `{name}`: it has a token of the Hub's for jobs and no more"
        );
        return Err(because(&what, "Leave the secret out"));
    }
    if listed && !launch.secrets.is_empty() && door.upstream.job_token.is_none() {
        let what = "the gate has no token for jobs, and never gives its own or the agent's into one";
        return Err(because(what, "Launch without secrets, or ask a person to set `job_token_file`"));
    }
    let unreadable = || because("the Hub's prices cannot be read, so that the cost is unknown", "Try again later");
    let catalogue = state.prices.now(door).await.ok_or_else(unreadable)?;
    let gone = || because(&format!("the Hub has no machine `{}` now", launch.flavor), "Name another flavor");
    let live = catalogue.of(&launch.flavor).ok_or_else(gone)?;
    Ok(Terms { timeout_s, live: Some(live), rate: Rate::new(flavor.micro_usd_per_hour.max(live), flavor.gpus) })
}

/// Sends a launch that was admitted, and sees to it that somebody watches what comes of it.
async fn forward(
    state: &Arc<State>,
    door: &Arc<Door>,
    (launch, terms): (Launch, Terms),
    work: Durable<Reserved>,
) -> Result<Response<Body>, Refusal> {
    let id = work.call().id.clone();
    let token = door.upstream.job_token.as_ref().map(crate::egress::upstream::Key::expose);
    let body = Bytes::from(launch.body(terms.timeout_s, &id, token).to_string());
    let path = format!("/api/jobs/{}", launch.namespace);
    let watch = Watch::new(work, &launch.namespace, terms.rate, Some(terms.timeout_s));
    let unknown = "Look with `hf jobs ps` before you try again; the amount stays held until the job is found";
    match ask(door, Method::POST, &path, Some((JSON, body)), Limits::JSON_BYTES).await {
        Err(lost @ Lost::Unreached) => {
            watch.void(door).await;
            Err(because(&lost.to_string(), "Nothing was launched and nothing is held; try again later"))
        }
        Err(lost) => {
            watch::start(state, door, watch);
            Err(because(&format!("{lost}, and nobody knows whether the job runs"), unknown))
        }
        Ok(reply) if reply.status.is_client_error() => {
            watch.void(door).await;
            Err(refused_by_hub(&reply))
        }
        Ok(reply) => {
            let job = parse_json(&reply.body).ok().filter(|_| reply.status.is_success());
            match job.as_ref().and_then(|job| Some((job, Seen::read(job)?))) {
                Some((job, seen)) => {
                    state.book.note(&launch.namespace, job);
                    watch::start(state, door, watch.of(&launch.namespace, &seen));
                    Ok(answer(StatusCode::OK, &shown(job, &launch.namespace)))
                }
                None => {
                    watch::start(state, door, watch);
                    let what = format!("the Hub answered {} and names no job", reply.status.as_u16());
                    Err(because(&what, unknown))
                }
            }
        }
    }
}

/// The jobs of this gate in `namespace`.
pub(super) fn list(state: &State, namespace: &str, stages: &[String]) -> Response<Body> {
    answer(StatusCode::OK, &state.book.list(namespace, stages))
}

fn own(state: &State, namespace: &str, id: &str) -> Result<(), Refusal> {
    let what = format!("the job `{id}` was not launched through this gate, or before its last start");
    if state.book.has(namespace, id) { Ok(()) } else { Err(because(&what, "Ask a person to look at it")) }
}

/// One job, as it is now.
pub(super) async fn inspect(state: &State, door: &Door, namespace: &str, id: &str) -> Result<Response<Body>, Refusal> {
    own(state, namespace, id)?;
    let reply = ask(door, Method::GET, &format!("/api/jobs/{namespace}/{id}"), None, Limits::JSON_BYTES).await;
    let reply = reply.map_err(|lost| because(&lost.to_string(), "Try again later"))?;
    if reply.status != StatusCode::OK {
        return Err(refused_by_hub(&reply));
    }
    let odd = || because("the Hub's answer about the job cannot be read", "Try again later");
    let job = parse_json(&reply.body).ok().filter(|job| Seen::read(job).is_some_and(|seen| seen.id == id));
    let job = job.ok_or_else(odd)?;
    state.book.note(namespace, &job);
    Ok(answer(StatusCode::OK, &shown(&job, namespace)))
}

/// Stops a job: what frees money needs no permission.
pub(super) async fn cancel(state: &State, door: &Door, namespace: &str, id: &str) -> Result<Response<Body>, Refusal> {
    own(state, namespace, id)?;
    let reply = ask(door, Method::POST, &format!("/api/jobs/{namespace}/{id}/cancel"), None, Limits::JSON_BYTES).await;
    let reply = reply.map_err(|lost| because(&format!("{lost}, and the job may still run"), "Cancel it again"))?;
    if !reply.status.is_success() {
        return Err(refused_by_hub(&reply));
    }
    inspect(state, door, namespace, id).await
}

/// What a job prints, as it comes.
pub(super) async fn logs(
    state: &State,
    door: &Arc<Door>,
    (namespace, id): (&str, &str),
    tail: Option<u32>,
) -> Result<Response<Body>, Refusal> {
    own(state, namespace, id)?;
    let query = tail.map_or_else(String::new, |tail| format!("?tail={tail}"));
    events(door, &format!("/api/jobs/{namespace}/{id}/logs{query}")).await
}

/// What a job uses, as it comes.
pub(super) async fn metrics(
    state: &State,
    door: &Arc<Door>,
    (namespace, id): (&str, &str),
) -> Result<Response<Body>, Refusal> {
    own(state, namespace, id)?;
    events(door, &format!("/api/jobs/{namespace}/{id}/metrics")).await
}

async fn events(door: &Arc<Door>, path: &str) -> Result<Response<Body>, Refusal> {
    let response = remote::stream(door, path).await.map_err(|lost| because(&lost.to_string(), "Try again later"))?;
    let (parts, mut body) = response.into_parts();
    if parts.status != StatusCode::OK {
        let body = body.collect(Limits::JSON_BYTES).await.unwrap_or_default();
        return Err(refused_by_hub(&remote::Reply { status: parts.status, headers: parts.headers, body }));
    }
    let (outlet, out) = flowing();
    let door = door.clone();
    tokio::spawn(async move {
        let flow = async {
            while let Ok(Some(piece)) = Inbound::next(&mut body).await {
                if outlet.send(piece).await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            () = flow => {}
            () = outlet.gone() => {}
            () = door.cut() => {}
        }
    });
    let mut response = Response::new(out);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    Ok(response)
}

/// The outcome of a launch that never was.
pub(super) fn never() -> Outcome {
    Outcome::of(Status::Broken)
}
