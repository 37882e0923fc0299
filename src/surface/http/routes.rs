//! The one table of routes. The router, the OpenAPI document and the tests are made from it, so that
//! they cannot drift apart.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Poll;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, MethodRouter, on};

use super::app::App;
use super::auth::{Scope, identify, permit};
use super::error::{Fault, Refusal};
use super::{
    approvals, authzen, budgets, decide, execute, files, hooks, keep, openapi, otlp, page, read, reconciliation,
    session, ticket,
};

type Mount = fn(MethodFilter) -> MethodRouter<Arc<App>>;

/// One route.
pub(super) struct Route {
    pub(super) method: Method,
    pub(super) path: &'static str,
    pub(super) scope: Scope,
    /// One line for the documentation.
    pub(super) about: &'static str,
    /// The schema of the body, if it has one.
    pub(super) body: Option<&'static str>,
    /// Query parameters: name and meaning.
    pub(super) query: &'static [(&'static str, &'static str)],
    /// Status and schema of the answer; a schema that is a media type is a text of that type.
    pub(super) answer: (u16, &'static str),
    /// Errors beyond those that every route has.
    pub(super) faults: &'static [Fault],
    mount: Mount,
}

macro_rules! routes {
    ($($method:ident $path:literal $scope:ident $body:expr, $query:expr => $status:literal $answer:literal
       [$($fault:ident)*] $handler:path, $about:literal;)*) => {
        /// Every route.
        pub(super) const ROUTES: &[Route] = &[$(Route {
            method: Method::$method,
            path: $path,
            scope: Scope::$scope,
            about: $about,
            body: $body,
            query: $query,
            answer: ($status, $answer),
            faults: &[$(Fault::$fault),*],
            mount: |method| on(method, $handler),
        },)*];
    };
}

const NONE: Option<&str> = None;
const RECEIPT_QUERY: &[(&str, &str)] =
    &[("session", "only receipts of this session"), ("limit", "at most this many, 1 to 1000; 100 when absent")];

const HOOK_QUERY: &[(&str, &str)] = &[
    ("wait_ms", "how long a person's answer is awaited, up to 3600000; 100000 when absent"),
    ("defer", "`true`: a call about which a person was asked is deferred instead of denied (Claude Code, headless)"),
];

routes! {
    POST "/v1/sessions" Agent Some("NewSession"), &[] => 201 "Session" [NotFound Conflict SessionLimit Stopping]
        session::open, "Opens a session with the tools that the host offers";
    PUT "/v1/sessions/{session}/tools" Agent Some("NewTools"), &[] => 200 "Nothing" [NotFound Stopping]
        session::set_tools, "Replaces the tools of a session, from its next execution on";
    POST "/v1/sessions/{session}/runs" Agent Some("Nothing"), &[] => 201 "Run" [NotFound Conflict Stopping]
        session::new_run, "Begins a new run (one task): the budgets of scope run start anew";
    POST "/v1/sessions/{session}/execute" Agent Some("Execute"), &[] => 200 "Event" [NotFound Conflict Stopping]
        execute::execute, "Runs generated code and waits for its first event";
    GET "/v1/sessions/{session}/event" Agent NONE, &[] => 200 "Event" [NotFound Conflict]
        execute::event, "Waits for the current event of the session's execution, or gives it again after a lost connection";
    POST "/v1/executions/{execution}/resume" Agent Some("Resume"), &[] => 200 "Event" [NotFound Conflict]
        execute::resume, "Answers a tool event, once, and waits for the next event";
    DELETE "/v1/executions/{execution}" Agent NONE, &[] => 200 "Nothing" [NotFound]
        execute::stop, "Cancels an execution";
    DELETE "/v1/sessions/{session}" Agent NONE, &[] => 200 "Nothing" [NotFound]
        session::delete, "Closes a session and forgets its variables";
    GET "/v1/sessions/{session}/files" Agent NONE, &[] => 200 "Files" [NotFound Malformed Conflict TooLarge]
        files::list, "The files in the session's folder";
    GET "/v1/sessions/{session}/files/{*path}" Agent NONE, &[] => 200 "application/octet-stream" [NotFound Malformed Conflict TooLarge]
        files::read, "One of them; the path's parts stand as they are";
    PUT "/v1/sessions/{session}/files/{*path}" Agent Some("application/octet-stream"), &[] => 200 "File" [NotFound Conflict Stopping]
        files::write, "Puts a file into the session's folder, within its quota";
    GET "/v1/kept" Either NONE, &[] => 200 "KeptSessions" []
        keep::list, "Sessions of which something is kept, open or not";
    DELETE "/v1/kept/{session}" Operator NONE, &[] => 200 "Nothing" [NotFound Conflict]
        keep::remove, "Forgets what is kept of a session: interpreter, checkpoints and files";
    GET "/v1/sessions/{session}/checkpoints" Either NONE, &[] => 200 "Checkpoints" [NotFound]
        keep::points, "The checkpoints of a session, oldest first";
    POST "/v1/sessions/{session}/checkpoints" Either Some("Nothing"), &[] => 201 "Checkpoint" [NotFound Conflict Stopping]
        keep::checkpoint, "Puts the state of a session's interpreter aside";
    POST "/v1/sessions/{session}/rollback" Either Some("ToCheckpoint"), &[] => 200 "Checkpoint" [NotFound Conflict Stopping]
        keep::roll_back, "Makes a session's interpreter what it was at a checkpoint";
    POST "/v1/sessions/{session}/fork" Either Some("ToCheckpoint"), &[] => 201 "Forked" [NotFound Conflict SessionLimit JournalFailed Stopping]
        keep::fork, "Opens a new session whose interpreter is a copy of this one's";
    POST "/v1/decide" Agent Some("Decide"), &[] => 200 "Decided" [NotFound Busy Stopping]
        decide::decide, "Decides a call that the host runs itself; on allow its amounts are held";
    POST "/v1/outcome" Agent Some("Outcome"), &[] => 200 "Recorded" [NotFound JournalFailed]
        decide::outcome, "Reports the outcome of a decided call, once";
    POST "/v1/hooks/{client}" Agent Some("HookEvent"), HOOK_QUERY => 200 "HookAnswer" [NotFound SessionLimit Busy JournalFailed Stopping]
        hooks::hook, "Takes an event of a coding agent's hooks (`claude-code`, `codex`) and answers in its own form";
    POST "/otlp/{client}/v1/logs" Agent Some("Logs"), &[] => 200 "LogsTaken" [NotFound Busy JournalFailed]
        otlp::take_logs, "Takes logs of a coding agent whose hooks are installed, as OTLP/HTTP JSON; a tool that ran past the gate closes its session";
    POST "/otlp/{client}/v1/metrics" Agent Some("Metrics"), &[] => 200 "MetricsTaken" [NotFound Busy JournalFailed]
        otlp::take_metrics, "Takes metrics of the same: what it thinks that it used";
    POST "/otlp/{client}/v1/traces" Agent Some("Spans"), &[] => 404 "Error" []
        otlp::no_traces, "Says that spans are not taken";
    GET "/v1/reconciliation" Either NONE, &[] => 200 "Reconciliation" [JournalFailed]
        reconciliation::list, "What clients report of themselves beside what the gate metered";
    POST "/access/v1/evaluation" Agent Some("Evaluation"), &[] => 200 "Evaluated" [NotFound]
        authzen::evaluate, "AuthZEN Authorization API 1.0: what would be decided; holds nothing";
    GET "/v1/budgets" Either NONE, &[] => 200 "Budgets" [JournalFailed]
        budgets::list, "Every account with what it has posted, holds and has left, and when that will be gone";
    POST "/v1/budgets/raise" Operator Some("Raise"), &[] => 200 "Nothing" [Conflict JournalFailed]
        budgets::raise, "Adds to a budget of one account";
    POST "/v1/budgets/freeze" Operator Some("OnAccount"), &[] => 200 "Ordered" [Conflict JournalFailed Unreached]
        budgets::freeze, "Lets nothing new run on an account or below it; what runs goes on";
    POST "/v1/budgets/thaw" Operator Some("OnAccount"), &[] => 200 "Ordered" [Conflict JournalFailed Unreached]
        budgets::thaw, "Lets a frozen account go on";
    POST "/v1/budgets/revoke" Operator Some("OnAccount"), &[] => 200 "Ordered" [Conflict JournalFailed Unreached]
        budgets::revoke, "Closes an account and all below it for good; what runs there is told to stop";
    POST "/v1/budgets/reconcile" Operator Some("Reconcile"), &[] => 200 "Reconciled" [Conflict JournalFailed]
        budgets::reconcile, "Says what a call with an unknown outcome really used, once";
    GET "/v1/receipts" Either NONE, RECEIPT_QUERY => 200 "Receipts" [JournalFailed]
        read::receipts, "The newest receipts, newest first";
    GET "/v1/receipts/{receipt}" Either NONE, &[] => 200 "Receipt" [NotFound JournalFailed]
        read::receipt, "One receipt";
    GET "/v1/scores" Either NONE, &[] => 200 "Scores" [JournalFailed]
        read::scores, "The ten risk factors: declared, permitted, observed";
    GET "/v1/approvals" Operator NONE, &[] => 200 "Approvals" []
        approvals::list, "What waits for a person";
    POST "/v1/approvals/{approval}" Operator Some("Verdict"), &[] => 200 "Nothing" [NotFound Conflict JournalFailed]
        approvals::answer, "Approves or refuses one waiting call, once";
    GET "/approve/{approval}" Open NONE, &[("s", "the signature of the link")] => 200 "text/html" [NotFound]
        ticket::show, "One waiting question as a page, for whoever has its link";
    POST "/approve/{approval}" Open Some("application/x-www-form-urlencoded"), &[] => 200 "text/html" [NotFound Conflict]
        ticket::answer, "The answer of that page's form";
    GET "/health/live" Open NONE, &[] => 200 "Live" []
        read::live, "The process answers";
    GET "/health/ready" Open NONE, &[] => 200 "Ready" [JournalFailed Stopping]
        read::ready, "The journal takes entries and new work is accepted";
    GET "/metrics" Either NONE, &[] => 200 "application/openmetrics-text" []
        read::prometheus, "Metrics for Prometheus";
    GET "/openapi.json" Open NONE, &[] => 200 "Document" []
        openapi::serve, "This interface as OpenAPI 3.1";
    GET "/docs" Open NONE, &[] => 200 "text/html" []
        page::serve, "This interface as a page";
}

/// True for a route that needs no token.
pub(super) fn is_open(method: &Method, path: &str) -> bool {
    // HEAD is answered by GET routes.
    let method = if *method == Method::HEAD { &Method::GET } else { method };
    ROUTES.iter().any(|route| route.scope == Scope::Open && route.method == *method && fits(route.path, path))
}

/// True when `path` has the parts of `pattern`, whatever stands for those in braces.
fn fits(pattern: &str, path: &str) -> bool {
    let (mut wanted, mut given) = (pattern.split('/'), path.split('/'));
    loop {
        match (wanted.next(), given.next()) {
            (None, None) => return true,
            (Some(part), Some(_)) if part.starts_with('{') => {}
            (Some(part), Some(same)) if part == same => {}
            _ => return false,
        }
    }
}

/// The router of every listener.
pub(super) fn router(app: Arc<App>) -> Router {
    let mut router = Router::new();
    for route in ROUTES {
        let Ok(method) = MethodFilter::try_from(route.method.clone()) else { continue };
        let scope = route.scope;
        let guarded = (route.mount)(method).route_layer(from_fn(move |request, next| permit(scope, request, next)));
        router = router.route(route.path, guarded);
    }
    router
        .fallback(async || Refusal::new(Fault::NotFound, "no such path; GET /openapi.json lists them"))
        .method_not_allowed_fallback(async || {
            Refusal::new(Fault::Method, "this path has no such method; GET /openapi.json lists them")
        })
        .layer(from_fn_with_state(app.clone(), identify))
        .layer(from_fn_with_state(app.clone(), contain))
        .with_state(app)
}

/// The outermost layer: bounds the requests in flight, turns a panic into a refusal, and sets the
/// headers that every answer has.
async fn contain(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let Ok(_place) = app.requests.try_acquire() else {
        return Refusal::new(Fault::Busy, "too many requests at once; try again").into_response();
    };
    let mut handling = Box::pin(next.run(request));
    let caught = std::future::poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| handling.as_mut().poll(cx))) {
        Ok(Poll::Ready(response)) => Poll::Ready(Some(response)),
        Ok(Poll::Pending) => Poll::Pending,
        Err(_) => Poll::Ready(None),
    });
    let mut response = caught.await.unwrap_or_else(|| {
        tracing::error!("a request failed inside the gate and was refused");
        app.meters.panicked();
        Refusal::internal().into_response()
    });
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
