//! The watcher of one launch: it looks at the job, posts what it has cost, stops it, and settles it in the end.
//!
//! Nothing is settled because the gate stops: the hold stays in the journal, and the next start takes the job up by its
//! label. A job that cannot be stopped keeps its hold, and the log says what a person has to do.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::{Method, StatusCode};

use super::book::{Seen, Tracked, cost, is_of};
use super::launch::LABEL;
use super::prices::Rate;
use super::remote::ask;
use super::{State, jobs};
use crate::egress::door::Door;
use crate::model::{Action, Amounts, Call, GuestError, Kind, Limits, Outcome, ReasonCode, Status, parse_json};
use crate::pep::port::AccountId;
use crate::pep::{Durable, Reserved, Resumed};

/// How long a job may run, by the gate's own clock, beyond its time: the Hub's clock may lie.
const SLACK: Duration = Duration::from_secs(180);
/// How long a job of which nobody knows whether it exists is looked for, beyond the time that it could run.
const LOOKED_FOR: Duration = Duration::from_secs(3600);
/// Looks at a job that the Hub does not know any more before that counts as its end.
const MISSES: u32 = 5;
/// The longest pause between two tries, in looks.
const BACKOFF: u32 = 32;

/// One launch under watch.
pub(super) struct Watch {
    work: Option<Durable<Reserved>>,
    call: Call,
    /// Where the job may be, as long as it has not been found.
    namespaces: Vec<String>,
    found: Vec<Tracked>,
    rate: Rate,
    /// Seconds of running after which it is stopped.
    limit_s: u64,
    parts: u64,
    posted: Amounts,
    begun: Instant,
    /// True for a launch of an earlier life: when it began is not known.
    resumed: bool,
    running_since: Option<Instant>,
    cancel: Cancel,
    misses: u32,
}

/// How far the stopping of a job is.
#[derive(Default)]
struct Cancel {
    why: Option<&'static str>,
    tries: u32,
    /// Looks to wait before the next try.
    wait: u32,
}

impl Watch {
    /// Of `work`, launched in `namespace`, with the time that it was given.
    pub(super) fn new(work: Durable<Reserved>, namespace: &str, rate: Rate, timeout_s: Option<u64>) -> Self {
        let held = work.reservation().held();
        // The last minute that the hold pays for is left for the stopping itself.
        let paid = rate.minutes(&held).saturating_sub(1).saturating_mul(60);
        let limit_s = timeout_s.unwrap_or(paid).min(paid);
        Self {
            call: work.call().bare(),
            work: Some(work),
            namespaces: vec![namespace.to_owned()],
            found: Vec::new(),
            rate,
            limit_s,
            parts: 0,
            posted: Amounts::ZERO,
            begun: Instant::now(),
            resumed: timeout_s.is_none(),
            running_since: None,
            cancel: Cancel::default(),
            misses: 0,
        }
    }

    /// The same watch, of a job that the Hub named.
    pub(super) fn of(mut self, namespace: &str, seen: &Seen) -> Self {
        self.found.push(Tracked::new(namespace, seen));
        self
    }

    /// Ends it: there never was a job.
    pub(super) async fn void(mut self, door: &Door) {
        self.complete(door, jobs::never()).await;
    }

    async fn complete(&mut self, door: &Door, outcome: Outcome) {
        let (gate, Some(work)) = (door.gate.clone(), self.work.take()) else { return };
        let status = outcome.status;
        let completed = tokio::task::spawn_blocking(move || gate.complete(work, outcome)).await;
        if completed.is_ok() {
            tracing::info!(call = %self.call.id, ?status, "a job is settled");
        }
    }
}

/// Watches a launch until it is settled or the proxies end.
pub(super) fn start(state: &Arc<State>, door: &Arc<Door>, watch: Watch) {
    let (state, door) = (state.clone(), door.clone());
    tokio::spawn(async move {
        let cut = door.clone();
        tokio::select! {
            () = watch.run(&state, &door) => {}
            () = cut.cut() => {}
        }
    });
}

/// Takes up the launches of an earlier life of the gate.
pub(super) fn take_up(state: &Arc<State>, door: &Arc<Door>) {
    let (state, door) = (state.clone(), door.clone());
    tokio::spawn(async move {
        let gate = door.gate.clone();
        let name = door.upstream.name.clone();
        let own = move |call: &Call| call.action == Action::JobLaunch && call.surface == name;
        let resumed = tokio::task::spawn_blocking(move || {
            let calls: Vec<Call> = gate.lasting().into_iter().filter(own).collect();
            calls.iter().filter_map(|call| gate.resume(&call.id)).collect::<Vec<Resumed>>()
        });
        for Resumed { work, parts, posted } in resumed.await.unwrap_or_default() {
            let rate = rate_of(&state, &door, &work).await;
            let mut watch = Watch::new(work, "", rate, None);
            (watch.parts, watch.posted) = (parts, posted);
            watch.namespaces =
                door.gate.policy().policy().jobs.iter().flat_map(|jobs| jobs.namespaces.clone()).collect();
            tracing::info!(call = %watch.call.id, "a job of an earlier start is taken up again");
            start(&state, &door, watch);
        }
    });
}

/// What a minute of an earlier life's job costs: from its hold where that says how long it was for, else the dearer of the
/// policy's price and the Hub's.
async fn rate_of(state: &State, door: &Door, work: &Durable<Reserved>) -> Rate {
    let (held, flavor) = (work.reservation().held(), work.call().resource.name.as_str());
    let policy = door.gate.policy();
    let known = policy.policy().jobs.as_ref().and_then(|jobs| jobs.flavors.get(flavor)).cloned();
    let live = state.prices.now(door).await.and_then(|prices| prices.of(flavor));
    let gpus = known.as_ref().map_or(0, |flavor| flavor.gpus);
    let seconds = held.of(Kind::GpuMs).checked_div(gpus.saturating_mul(1000));
    if let Some(seconds) = seconds.filter(|seconds| *seconds > 0) {
        let minutes = seconds.div_ceil(60).saturating_add(2);
        return Rate { per_minute: held.of(Kind::MicroUsd).div_ceil(minutes), gpus };
    }
    match known.map(|flavor| flavor.micro_usd_per_hour).max(live) {
        Some(hour) => Rate::new(hour, gpus),
        // Nobody knows the price any more: the first minute takes all that is held.
        None => Rate { per_minute: held.of(Kind::MicroUsd), gpus },
    }
}

impl Watch {
    async fn run(mut self, state: &State, door: &Door) {
        loop {
            tokio::time::sleep(door.upstream.look_every).await;
            if self.found.is_empty() {
                self.find(door).await;
                if self.found.is_empty() && self.begun.elapsed() > self.patience() {
                    let what = "no job with its label was found; what it held counts as spent until it is reconciled";
                    tracing::error!(call = %self.call.id, "{what}");
                    let outcome = Outcome { error: Some(error("Lost", what)), ..Outcome::of(Status::Unknown) };
                    return self.complete(door, outcome).await;
                }
            }
            self.look(state, door).await;
            self.post(door).await;
            if self.misses >= MISSES && !self.bound() {
                let what =
                    "the Hub does not know the job any more; what it held counts as spent until it is reconciled";
                tracing::error!(call = %self.call.id, "{what}");
                let outcome = Outcome { error: Some(error("Lost", what)), ..Outcome::of(Status::Unknown) };
                return self.complete(door, outcome).await;
            }
            if !self.found.is_empty() && self.found.iter().all(|job| job.stage.is_end() && job.timed) {
                return self.settle(door).await;
            }
            self.cancel.why = self.cancel.why.or_else(|| self.reason(is_revoked(door, &self.call)));
            if self.cancel.why.is_some() {
                self.stop(door).await;
            }
        }
    }

    /// How long a job is looked for of which nobody knows whether it exists.
    fn patience(&self) -> Duration {
        Duration::from_secs(self.limit_s).saturating_add(LOOKED_FOR)
    }

    /// Looks for jobs with this call's label.
    async fn find(&mut self, door: &Door) {
        for namespace in &self.namespaces {
            let path = format!("/api/jobs/{namespace}?label={LABEL}%3D{}", self.call.id);
            let Ok(reply) = ask(door, Method::GET, &path, None, Limits::JSON_BYTES).await else { continue };
            if reply.status != StatusCode::OK {
                continue;
            }
            let seen = Seen::read_all(&reply.body).unwrap_or_default();
            // The filter is the Hub's; the label is looked at here.
            let own = seen.iter().filter(|seen| is_of(seen, &self.call.id));
            self.found.extend(own.map(|seen| Tracked::new(namespace, seen)));
        }
    }

    /// Asks the Hub how the jobs stand.
    async fn look(&mut self, state: &State, door: &Door) {
        let flavor = self.call.resource.name.as_str().to_owned();
        let mut missed = false;
        for job in self.found.iter_mut().filter(|job| !job.stage.is_end() || !job.timed) {
            let path = format!("/api/jobs/{}/{}", job.namespace, job.id);
            let Ok(reply) = ask(door, Method::GET, &path, None, Limits::JSON_BYTES).await else { continue };
            missed |= reply.status == StatusCode::NOT_FOUND || job.stage.is_end();
            let Some(value) = parse_json(&reply.body).ok().filter(|_| reply.status == StatusCode::OK) else { continue };
            if let Some(seen) = Seen::read(&value).filter(|seen| seen.id == job.id) {
                job.look(&seen, &flavor);
                state.book.note(&job.namespace, &value);
            }
        }
        self.misses = if missed { self.misses + 1 } else { 0 };
        let running = self.found.iter().any(|job| job.stage == super::book::Stage::Running);
        if running && self.running_since.is_none() {
            self.running_since = Some(Instant::now());
        }
    }

    /// Takes, of jobs that have ended and of which the Hub does not say how long they ran, the time since their launch: they
    /// cannot have run longer. False where that is not known, or where a job has not ended.
    fn bound(&mut self) -> bool {
        let ended = !self.found.is_empty() && self.found.iter().all(|job| job.stage.is_end());
        if !ended || self.resumed {
            return false;
        }
        let since = self.begun.elapsed().as_secs().saturating_add(1);
        for job in self.found.iter_mut().filter(|job| !job.timed) {
            (job.running_s, job.timed) = (since.max(job.running_s), true);
        }
        true
    }

    /// Posts what the jobs have cost since the last time, whenever a minute has begun.
    async fn post(&mut self, door: &Door) {
        let total = cost(&self.found, self.rate);
        let since = |kind: Kind| total.of(kind).saturating_sub(self.posted.of(kind));
        let rest = Amounts::ZERO.with(Kind::MicroUsd, since(Kind::MicroUsd)).with(Kind::GpuMs, since(Kind::GpuMs));
        if rest.of(Kind::MicroUsd) == 0 {
            return;
        }
        let Some(work) = self.work.take() else { return };
        let (gate, part) = (door.gate.clone(), self.parts + 1);
        let posting = tokio::task::spawn_blocking(move || {
            let posted = gate.post_part(&work, part, rest);
            (work, posted)
        });
        // Should the thread be lost, the hold stays, and the next start takes the job up.
        let Ok((work, posted)) = posting.await else { return };
        self.work = Some(work);
        match posted {
            Ok(()) => {
                self.parts = part;
                let sum = |kind: Kind| self.posted.of(kind).saturating_add(rest.of(kind));
                self.posted = self.posted.with(Kind::MicroUsd, sum(Kind::MicroUsd)).with(Kind::GpuMs, sum(Kind::GpuMs));
            }
            Err(fault) => tracing::error!(call = %self.call.id, %fault, "what a job has cost could not be posted"),
        }
    }

    /// Why the jobs must end now, if they must.
    fn reason(&self, revoked: bool) -> Option<&'static str> {
        let over = |job: &Tracked| job.running_s >= self.limit_s;
        let long = Duration::from_secs(self.limit_s).saturating_add(SLACK);
        if revoked {
            Some("an account of the agent's was revoked")
        } else if self.found.len() > 1 {
            Some("several jobs carry one call's label")
        } else if self.found.iter().any(|job| job.foreign) {
            Some("it runs on another machine than the one that was permitted")
        } else if self.found.iter().any(over) {
            Some("its time, or what was held for it, is used up")
        } else if self.running_since.is_some_and(|since| since.elapsed() > long) {
            Some("it runs longer than its time by the gate's clock")
        } else {
            None
        }
    }

    /// Tries to stop the jobs; after a failure again, each time later.
    async fn stop(&mut self, door: &Door) {
        if self.cancel.wait > 0 {
            self.cancel.wait -= 1;
            return;
        }
        let why = self.cancel.why.unwrap_or_default();
        for job in self.found.iter().filter(|job| !job.stage.is_end()) {
            let path = format!("/api/jobs/{}/{}/cancel", job.namespace, job.id);
            let done = ask(door, Method::POST, &path, None, Limits::JSON_BYTES).await;
            match done {
                Ok(reply) if reply.status.is_success() => {
                    tracing::warn!(call = %self.call.id, job = job.id, why, "a job is cancelled");
                }
                other => {
                    let found =
                        other.map_or_else(|lost| lost.to_string(), |reply| format!("status {}", reply.status.as_u16()));
                    tracing::error!(
                        call = %self.call.id, job = job.id, namespace = job.namespace, tries = self.cancel.tries + 1, why, found,
                        "a job could not be cancelled and goes on costing money: cancel it on the provider's page; \
                         what is held for it stays held"
                    );
                }
            }
        }
        // A cancel that was taken is tried again as well, as long as the job does not end.
        self.cancel.tries += 1;
        self.cancel.wait = (1_u32 << self.cancel.tries.min(5)).min(BACKOFF) - 1;
    }

    /// Settles what the jobs have cost.
    async fn settle(&mut self, door: &Door) {
        use super::book::Stage;
        let used = cost(&self.found, self.rate);
        let failed = self.found.iter().any(|job| job.stage == Stage::Failed);
        let outcome = match self.cancel.why {
            Some(why) => Outcome {
                error: Some(error("Cancelled", why)),
                stopped: Some(ReasonCode::LimitReached),
                ..Outcome::of(Status::Exhausted)
            },
            None if failed => {
                Outcome { error: Some(error("JobError", "the job ended with an error")), ..Outcome::of(Status::Failed) }
            }
            None => Outcome::of(Status::Done),
        };
        self.complete(door, Outcome { usage: used, ..outcome }).await;
    }
}

fn error(kind: &str, message: &str) -> GuestError {
    GuestError { kind: kind.to_owned(), message: message.to_owned(), traceback: String::new() }
}

/// Whether an account on which `call` counts was revoked. One that is frozen takes nothing new, and what runs goes on.
fn is_revoked(door: &Door, call: &Call) -> bool {
    let path = AccountId::path(&call.subject);
    door.gate.bars().iter().any(|(account, bar)| bar.revoked && path.contains(account))
}
