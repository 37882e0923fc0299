//! The jobs that this gate has launched, as far as clients may see them; and how a job is read.
//!
//! Only what stands in the book can be looked at or cancelled through the gate: other jobs of the same namespace are
//! somebody else's.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use serde_json::{Map, Value, json};

use super::launch::LABEL;
use super::prices::Rate;
use crate::model::{Amounts, CallId, parse_json};

/// Jobs that are remembered; beyond, the oldest ended ones are forgotten.
const KEPT: usize = 2_000;

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Not running yet, which costs nothing.
    Waiting,
    /// Running.
    Running,
    /// Ended by itself.
    Completed,
    /// Ended with an error.
    Failed,
    /// Cancelled, by whomever.
    Cancelled,
}

impl Stage {
    pub(super) const fn is_end(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }

    /// The stage called `word`; one that is not known is taken for running, which is watched and paid.
    fn of(word: &str) -> Self {
        match word {
            "SCHEDULING" | "QUEUED" | "PENDING" => Self::Waiting,
            "COMPLETED" => Self::Completed,
            "ERROR" => Self::Failed,
            "CANCELED" | "CANCELLED" | "DELETED" => Self::Cancelled,
            _ => Self::Running,
        }
    }
}

/// What the Hub says of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub id: String,
    pub stage: Stage,
    /// Seconds for which it has run, where the Hub says so.
    pub running_s: Option<u64>,
    pub flavor: Option<String>,
    /// The call that it belongs to, by its label.
    pub call: Option<String>,
}

impl Seen {
    /// Reads a job; `None` when it has no id or no stage.
    pub(super) fn read(job: &Value) -> Option<Self> {
        let text = |name: &str| job.get(name).and_then(Value::as_str).map(str::to_owned);
        let id = text("id").filter(|id| {
            (1..=64).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        })?;
        let stage = Stage::of(job.get("status")?.get("stage")?.as_str()?);
        let running_s = job.get("durations").and_then(|durations| durations.get("runningSecs")).and_then(seconds);
        let call = job.get("labels").and_then(|labels| labels.get(LABEL)).and_then(Value::as_str).map(str::to_owned);
        Some(Self { id, stage, running_s, flavor: text("flavor"), call })
    }

    /// Reads a list of jobs.
    pub(super) fn read_all(body: &[u8]) -> Option<Vec<Self>> {
        let Value::Array(jobs) = parse_json(body).ok()? else { return None };
        Some(jobs.iter().filter_map(Self::read).collect())
    }
}

/// Whole seconds, started ones counted; `None` for what is no time.
fn seconds(value: &Value) -> Option<u64> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bounded and not negative")]
    let rounded = |seconds: f64| (0.0..1e12).contains(&seconds).then(|| seconds.ceil() as u64);
    value.as_u64().or_else(|| value.as_f64().and_then(rounded))
}

/// The fields of a job that a client is shown. Where a job can be reached, and who the token's owner is, is not.
const SHOWN: &[&str] = &[
    "id",
    "createdAt",
    "startedAt",
    "finishedAt",
    "dockerImage",
    "command",
    "arguments",
    "environment",
    "flavor",
    "labels",
    "durations",
];

/// `job` as a client is shown it.
pub(super) fn shown(job: &Value, namespace: &str) -> Value {
    let mut out = Map::new();
    for name in SHOWN {
        if let Some(value) = job.get(*name) {
            out.insert((*name).to_owned(), value.clone());
        }
    }
    let status = job.get("status");
    let stage = status.and_then(|status| status.get("stage")).cloned().unwrap_or_else(|| "SCHEDULING".into());
    let message = status.and_then(|status| status.get("message")).cloned().unwrap_or(Value::Null);
    out.insert("status".into(), json!({"stage": stage, "message": message}));
    out.insert("owner".into(), json!({"id": namespace, "name": namespace, "type": "org"}));
    Value::Object(out)
}

struct Entry {
    namespace: String,
    number: u64,
    ended: bool,
    shown: Value,
}

/// The jobs by id.
#[derive(Default)]
pub(super) struct Book(Mutex<BTreeMap<String, Entry>>);

impl Book {
    /// Notes what the Hub says of a job of this gate's.
    pub(super) fn note(&self, namespace: &str, job: &Value) {
        let Some(seen) = Seen::read(job) else { return };
        let shown = shown(job, namespace);
        let mut book = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let number = book
            .get(&seen.id)
            .map_or_else(|| book.values().map(|entry| entry.number + 1).max().unwrap_or(0), |entry| entry.number);
        if book.len() >= KEPT {
            let oldest = book.iter().filter(|(_, entry)| entry.ended).min_by_key(|(_, entry)| entry.number);
            let oldest = oldest.map(|(id, _)| id.clone());
            oldest.map(|id| book.remove(&id));
        }
        let entry = Entry { namespace: namespace.to_owned(), number, ended: seen.stage.is_end(), shown };
        book.insert(seen.id, entry);
    }

    /// Whether the gate has launched the job `id` in `namespace`.
    pub(super) fn has(&self, namespace: &str, id: &str) -> bool {
        let book = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        book.get(id).is_some_and(|entry| entry.namespace == namespace)
    }

    /// The jobs in `namespace`, newest first; only those at one of `stages`, where any is named.
    pub(super) fn list(&self, namespace: &str, stages: &[String]) -> Value {
        let book = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = |entry: &&Entry| {
            let stage = entry.shown.get("status").and_then(|status| status.get("stage")).and_then(Value::as_str);
            stages.is_empty() || stages.iter().any(|wanted| stage == Some(wanted))
        };
        let mut entries: Vec<&Entry> = book.values().filter(|entry| entry.namespace == namespace).filter(at).collect();
        entries.sort_unstable_by_key(|entry| std::cmp::Reverse(entry.number));
        entries.into_iter().map(|entry| entry.shown.clone()).collect()
    }
}

/// One job of a call, as its watcher keeps it.
#[derive(Clone, Debug)]
pub(super) struct Tracked {
    pub namespace: String,
    pub id: String,
    pub stage: Stage,
    /// The longest time that the Hub has ever named.
    pub running_s: u64,
    /// Whether the Hub has said how long it ran.
    pub timed: bool,
    /// Whether it is another machine than the one that was paid for.
    pub foreign: bool,
}

impl Tracked {
    pub(super) fn new(namespace: &str, seen: &Seen) -> Self {
        let (namespace, id) = (namespace.to_owned(), seen.id.clone());
        Self { namespace, id, stage: seen.stage, running_s: seen.running_s.unwrap_or(0), timed: false, foreign: false }
    }

    /// Takes what the Hub says now. A time that shrinks is not believed, nor that a job that ended runs again.
    pub(super) fn look(&mut self, seen: &Seen, flavor: &str) {
        if !self.stage.is_end() {
            self.stage = seen.stage;
        }
        if let Some(running) = seen.running_s {
            self.running_s = self.running_s.max(running);
            self.timed = true;
        }
        self.foreign |= seen.flavor.as_deref().is_some_and(|other| other != flavor);
    }
}

/// What all jobs of a call have cost together.
pub(super) fn cost(jobs: &[Tracked], rate: Rate) -> Amounts {
    use crate::model::Kind;
    jobs.iter().fold(Amounts::ZERO, |sum, job| {
        let one = rate.of(job.running_s);
        let add = |kind: Kind| sum.of(kind).saturating_add(one.of(kind));
        sum.with(Kind::MicroUsd, add(Kind::MicroUsd)).with(Kind::GpuMs, add(Kind::GpuMs))
    })
}

/// Whether `job` carries the label of `call`.
pub(super) fn is_of(seen: &Seen, call: &CallId) -> bool {
    seen.call.as_deref() == Some(call.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(id: &str, stage: &str, running: Value) -> Value {
        json!({"id": id, "status": {"stage": stage, "exposeUrls": ["https://x"], "sshUrl": "ssh://x"}, "flavor": "t4-small",
            "durations": {"runningSecs": running}, "initiator": {"name": "the owner"}, "secrets": ["HF_TOKEN"]})
    }

    #[test]
    fn what_the_hub_says_of_a_job_is_read_with_care() {
        let running = |value: Value| Seen::read(&job("1", "RUNNING", value)).unwrap().running_s;
        assert_eq!(
            (running(json!(61)), running(json!(60.2)), running(json!(-5)), running(json!("9"))),
            (Some(61), Some(61), None, None)
        );
        assert_eq!(Seen::read(&job("1", "DANCING", json!(0))).unwrap().stage, Stage::Running);
        assert_eq!(Seen::read(&job("../x", "RUNNING", json!(0))), None);
        assert_eq!(Seen::read(&json!({"id": "1"})), None);
        let mut tracked = Tracked::new("t", &Seen::read(&job("1", "RUNNING", json!(100))).unwrap());
        tracked.look(&Seen::read(&job("1", "COMPLETED", json!(30))).unwrap(), "t4-small");
        tracked.look(&Seen::read(&job("1", "RUNNING", json!(40))).unwrap(), "a100x8");
        assert_eq!((tracked.running_s, tracked.stage, tracked.foreign), (100, Stage::Completed, true));
    }

    #[test]
    fn a_client_sees_its_own_jobs_and_no_way_into_them() {
        let book = Book::default();
        book.note("team", &job("1", "RUNNING", json!(1)));
        book.note("team", &job("2", "COMPLETED", json!(1)));
        book.note("other", &job("3", "RUNNING", json!(1)));
        let listed = book.list("team", &[]);
        let ids: Vec<&str> = listed.as_array().unwrap().iter().map(|job| job["id"].as_str().unwrap()).collect();
        assert_eq!(ids, ["2", "1"]);
        let text = listed.to_string();
        assert!(
            !text.contains("ssh")
                && !text.contains("https")
                && !text.contains("the owner")
                && !text.contains("HF_TOKEN")
        );
        assert_eq!(book.list("team", &["RUNNING".into()]).as_array().unwrap().len(), 1);
        assert!(book.has("team", "1") && !book.has("team", "3") && !book.has("other", "1"));
    }
}
