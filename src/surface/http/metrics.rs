//! What the sidecar measures of itself, for Prometheus. Labels come out of closed tables only: no
//! session, agent, tool or rule name ever becomes one.

use std::cell::Cell;
use std::collections::HashSet;
use std::time::{Duration, Instant};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use serde_json::{Map, Value};

use super::app::App;
use crate::model::{Action, KINDS, Outcome, ReasonCode, Seat, Tier};
use crate::pep::port::{AccountId, Executor, Inner, Keeper, ToolSpec};
use crate::pep::{Answer, Durable, Reserved};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    action: &'static str,
    effect: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HookLabels {
    client: &'static str,
    event: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReportLabels {
    client: &'static str,
    signal: &'static str,
    taken: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BypassLabels {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BudgetLabels {
    tier: &'static str,
    kind: &'static str,
}

/// Counters that only grow; gauges are read when somebody asks.
pub(super) struct Meters {
    calls: Family<CallLabels, Counter>,
    latency: Histogram,
    panics: Counter,
    hooks: Family<HookLabels, Counter>,
    bypasses: Family<BypassLabels, Counter>,
    reports: Family<ReportLabels, Counter>,
}

impl Default for Meters {
    fn default() -> Self {
        // 10 microseconds to 5 seconds.
        let latency = Histogram::new(exponential_buckets(0.000_01, 2.0, 20));
        let (hooks, bypasses, reports) = (Family::default(), Family::default(), Family::default());
        Self { calls: Family::default(), latency, panics: Counter::default(), hooks, bypasses, reports }
    }
}

thread_local! {
    /// Time that this thread has spent outside of the gate: in the host's tools, in generated code,
    /// waiting for a person.
    static OUTSIDE: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// Runs `work`, whose time is not the gate's own.
pub(crate) fn outside<T>(work: impl FnOnce() -> T) -> T {
    let (before, start) = (OUTSIDE.get(), Instant::now());
    let result = work();
    // Set, not added: whatever `work` noted itself lies within its own time.
    OUTSIDE.set(before + start.elapsed());
    result
}

/// Runs `work` and gives the time that the gate itself took.
fn inside<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let (before, start) = (OUTSIDE.get(), Instant::now());
    let result = work();
    (result, start.elapsed().saturating_sub(OUTSIDE.get().saturating_sub(before)))
}

impl Meters {
    /// Walks the whole line by `walk` and counts the call.
    pub(super) fn timed(&self, action: Action, walk: impl FnOnce() -> Answer) -> Answer {
        let (answer, took) = inside(walk);
        self.latency.observe(took.as_secs_f64());
        self.count(action, answer.decision.effect.word(), answer.decision.reason.code);
        answer
    }

    /// Walks the first half of the line and counts the call.
    pub(super) fn admitted(
        &self,
        action: Action,
        walk: impl FnOnce() -> Result<Durable<Reserved>, Box<Answer>>,
    ) -> Result<Durable<Reserved>, Box<Answer>> {
        let (result, took) = inside(walk);
        self.latency.observe(took.as_secs_f64());
        let decision = match &result {
            Ok(durable) => durable.decision(),
            Err(answer) => &answer.decision,
        };
        self.count(action, decision.effect.word(), decision.reason.code);
        result
    }

    /// Notes that a request was answered with `internal` because its handler panicked.
    pub(super) fn panicked(&self) {
        self.panics.inc();
    }

    /// Notes an event of a client's hooks.
    pub(super) fn hooked(&self, client: &'static str, event: &'static str) {
        self.hooks.get_or_create(&HookLabels { client, event }).inc();
    }

    /// Notes records of a client's telemetry, `rejected` of `all` were not taken.
    pub(super) fn told(&self, client: &'static str, signal: &'static str, all: u64, rejected: u64) {
        for (taken, count) in [("yes", all.saturating_sub(rejected)), ("no", rejected)] {
            self.reports.get_or_create(&ReportLabels { client, signal, taken }).inc_by(count);
        }
    }

    /// Notes what ran past the gate: by the client whose hook told, `changed` when other arguments ran than were decided
    /// about, `telemetry` for tools and `model` for generations of which telemetry told.
    pub(super) fn bypassed(&self, kind: &'static str) {
        self.bypasses.get_or_create(&BypassLabels { kind }).inc();
    }

    fn count(&self, action: Action, effect: &'static str, reason: ReasonCode) {
        let labels = CallLabels { action: action.word(), effect, reason: reason.row().name };
        self.calls.get_or_create(&labels).inc();
    }
}

/// An executor whose nested calls are counted.
pub(super) struct Metered<'a> {
    pub(super) executor: &'a dyn Executor,
    pub(super) meters: &'a Meters,
}

impl Executor for Metered<'_> {
    fn execute(&self, work: &Durable<Reserved>, inner: &dyn Inner) -> Outcome {
        outside(|| self.executor.execute(work, &Counted { inner, meters: self.meters }))
    }

    fn close(&self, seat: &Seat) {
        self.executor.close(seat);
    }

    fn rest(&self, seat: &Seat) {
        self.executor.rest(seat);
    }

    fn keeper(&self) -> Option<&dyn Keeper> {
        self.executor.keeper()
    }
}

struct Counted<'a> {
    inner: &'a dyn Inner,
    meters: &'a Meters,
}

impl Inner for Counted<'_> {
    fn call(&self, action: Action, resource: &str, args: Map<String, Value>) -> Answer {
        self.meters.timed(action, || self.inner.call(action, resource, args))
    }

    fn tools(&self) -> Vec<ToolSpec> {
        self.inner.tools()
    }

    fn cancelled(&self) -> bool {
        self.inner.cancelled()
    }
}

/// Everything as OpenMetrics text.
pub(super) fn text(app: &App) -> Result<String, std::fmt::Error> {
    let mut registry = Registry::with_prefix("weir");
    let meters = &app.meters;
    registry.register("calls", "Calls by action, effect and reason", meters.calls.clone());
    registry.register("line_seconds", "Time that the gate itself took for a call", meters.latency.clone());
    registry.register("panics", "Requests that failed inside the gate", meters.panics.clone());
    registry.register("hook_events", "Events of coding agents' hooks", meters.hooks.clone());
    registry.register(
        "hook_bypasses",
        "Tools that ran without a decision, or otherwise than decided",
        meters.bypasses.clone(),
    );
    registry.register("telemetry_records", "Records of coding agents' telemetry", meters.reports.clone());
    gauge(&mut registry, "sessions", "Open sessions", app.sessions.count() as u64);
    gauge(&mut registry, "executions", "Executions that have not ended", app.sessions.executing() as u64);
    gauge(&mut registry, "open_calls", "Calls of the host without an outcome", app.works.count() as u64);
    gauge(&mut registry, "approvals_pending", "Questions that wait for a person", app.gate.questions().len() as u64);
    gauge(&mut registry, "journal_entries", "Entries of the journal", app.gate.entries());
    gauge(&mut registry, "journal_ok", "1 while the journal takes entries", u64::from(app.gate.health().is_none()));
    budgets(&mut registry, app);
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

fn gauge(registry: &mut Registry, name: &str, help: &str, value: u64) {
    let gauge: Gauge = Gauge::default();
    gauge.set(bounded(value));
    registry.register(name, help, gauge);
}

/// Posted, pending and limit by tier and kind. Of sessions and runs it is the fullest open one.
fn budgets(registry: &mut Registry, app: &App) {
    let open = open_accounts(app);
    let (posted, pending, limits) = (Family::default(), Family::default(), Family::default());
    for balance in app.gate.balances() {
        if !open.contains(&balance.account) {
            continue;
        }
        let tier = balance.tier.word();
        for row in &KINDS {
            let labels = BudgetLabels { tier, kind: row.name };
            raise(&posted, &labels, balance.posted.of(row.kind));
            raise(&pending, &labels, balance.pending.of(row.kind));
        }
    }
    for limit in app.gate.limits().iter() {
        let tier = limit.tier.word();
        lower(&limits, &BudgetLabels { tier, kind: limit.kind.row().name }, limit.limit);
    }
    registry.register("budget_posted", "Amount spent, by tier and kind", posted);
    registry.register("budget_pending", "Amount held, by tier and kind", pending);
    registry.register("budget_limit", "Lowest limit, by tier and kind", limits);
}

/// The accounts that can be drawn on now.
fn open_accounts(app: &App) -> HashSet<AccountId> {
    let subjects = app.sessions.ids().into_iter().filter_map(|id| app.sessions.peek(app, &id));
    let told = app.hooks.conversations().into_iter().map(|(session, run)| app.subject(session, run, Vec::new()));
    let mut open: HashSet<AccountId> = subjects.chain(told).flat_map(|subject| AccountId::path(&subject)).collect();
    // The organisation and the agent are there without a session, too.
    let own = AccountId::path(&app.subject(app.config.agent.clone(), app.config.agent.clone(), Vec::new()));
    open.extend(own.into_iter().filter(|account| account.tier() < Tier::Session));
    open
}

fn raise(family: &Family<BudgetLabels, Gauge>, labels: &BudgetLabels, value: u64) {
    let gauge = family.get_or_create(labels);
    gauge.set(gauge.get().max(bounded(value)));
}

fn lower(family: &Family<BudgetLabels, Gauge>, labels: &BudgetLabels, value: u64) {
    let gauge = family.get_or_create(labels);
    let known = gauge.get();
    gauge.set(if known == 0 { bounded(value) } else { known.min(bounded(value)) });
}

fn bounded(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_outside_is_not_the_gates_own() {
        let nap = Duration::from_millis(20);
        let ((), took) = inside(|| {
            outside(|| {
                outside(|| std::thread::sleep(nap));
                std::thread::sleep(nap);
            });
        });
        assert!(took < nap / 2, "{took:?}");
        let ((), took) = inside(|| std::thread::sleep(nap));
        assert!(took >= nap, "{took:?}");
    }
}
