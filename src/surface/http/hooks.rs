//! `POST /v1/hooks/{client}`: events of a coding agent's hooks.
//!
//! An event before a tool walks the first half of the line, the one after it the second; between them the work waits
//! with those of `/v1/decide`. A tool that has run without a decision is a bypass: the session is revoked.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::{RawQuery, State};
use serde_json::Value;
use tokio::sync::{oneshot, watch};

use super::alarm::{Alarm, Closing, raise};
use super::app::{App, blocking, fresh, name};
use super::body::{Id, Strict};
use super::decide::{Admitted, admit};
use super::error::{Fault, Refusal};
use super::patience::Patience;
use crate::model::{Action, CallId, Digest, Name, Outcome, ReasonCode, Resource, Status, Subject, canonical};
use crate::surface::hook::{Client, Event, Use, What, allowed, deferred, denied, halted, silent};
use crate::surface::lock;

/// Conversations at the same time.
const CONVERSATIONS: usize = 256;
/// Uses of tools that are remembered; what is older is known by the journal.
const USES: usize = 4_096;
/// How often a question that is being put is asked to wait for a later call instead.
const PUSH: Duration = Duration::from_millis(50);

/// Conversations and uses of tools that clients told of.
#[derive(Default)]
pub(super) struct Hooks(Mutex<Table>);

#[derive(Default)]
struct Table {
    conversations: HashMap<Name, Conversation>,
    uses: HashMap<Key, Known>,
    order: VecDeque<Key>,
}

struct Conversation {
    run: Name,
    used: Instant,
}

/// A session and the client's id of a use in it.
pub(super) type Key = (Name, String);

struct Known {
    /// What was decided about: tool and arguments.
    what: Digest,
    tool: Name,
    call: CallId,
    ruling: watch::Receiver<Ruling>,
    ended: bool,
}

/// What became of a decision.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Ruling {
    Deciding,
    Allowed,
    Denied { why: String, pending: bool },
}

/// What a use that has run was found to be.
enum Ran {
    /// As decided: the call to complete.
    Decided(CallId),
    /// Decided, and other arguments have run.
    Changed(CallId),
    /// Told before.
    Again,
    /// Nothing is known of it here.
    Unheard,
    /// It ran against the decision, or before there was one.
    Defied,
}

impl Hooks {
    /// The run of conversation `session`, which begins now if it is new.
    fn run(&self, session: &Name, idle: Duration) -> Result<Name, Refusal> {
        let mut table = lock(&self.0);
        if !table.conversations.contains_key(session) {
            table.conversations.retain(|_, conversation| conversation.used.elapsed() < idle);
            if table.conversations.len() >= CONVERSATIONS {
                let text = format!("{CONVERSATIONS} conversations are open, which is the most; end one first");
                return Err(Refusal::new(Fault::SessionLimit, text));
            }
            let begun = Conversation { run: fresh()?, used: Instant::now() };
            table.conversations.insert(session.clone(), begun);
        }
        let conversation = table.conversations.get_mut(session).ok_or_else(Refusal::internal)?;
        conversation.used = Instant::now();
        Ok(conversation.run.clone())
    }

    /// Open conversations, each with its run.
    pub(super) fn conversations(&self) -> Vec<(Name, Name)> {
        lock(&self.0)
            .conversations
            .iter()
            .map(|(session, conversation)| (session.clone(), conversation.run.clone()))
            .collect()
    }

    fn end(&self, session: &Name) {
        lock(&self.0).conversations.remove(session);
    }

    /// What is known of the use `key` that nobody has reported as run.
    fn open(&self, key: &Key) -> Option<(Digest, watch::Receiver<Ruling>)> {
        let table = lock(&self.0);
        let known = table.uses.get(key).filter(|known| !known.ended)?;
        Some((known.what, known.ruling.clone()))
    }

    /// How many uses of `tool` were allowed in `session`; `None` once uses have been forgotten, which may have been some.
    pub(super) fn allowed(&self, session: &Name, tool: &Name) -> Option<u64> {
        let table = lock(&self.0);
        let counts = |(key, known): &(&Key, &Known)| {
            key.0 == *session && known.tool == *tool && *known.ruling.borrow() == Ruling::Allowed
        };
        (table.order.len() < USES).then(|| table.uses.iter().filter(counts).count() as u64)
    }

    fn begin(&self, key: Key, known: Known) {
        let mut table = lock(&self.0);
        table.order.push_back(key.clone());
        table.uses.insert(key, known);
        while table.order.len() > USES {
            if let Some(oldest) = table.order.pop_front()
                && !table.order.contains(&oldest)
            {
                table.uses.remove(&oldest);
            }
        }
    }

    fn ran(&self, key: &Key, used: &Use) -> Ran {
        let mut table = lock(&self.0);
        let Some(known) = table.uses.get_mut(key) else { return Ran::Unheard };
        if known.ended {
            return Ran::Again;
        }
        known.ended = true;
        let ruling = known.ruling.borrow().clone();
        match ruling {
            Ruling::Allowed if known.tool != used.tool => Ran::Defied,
            Ruling::Allowed if known.what == what(used) => Ran::Decided(known.call.clone()),
            Ruling::Allowed => Ran::Changed(known.call.clone()),
            Ruling::Deciding | Ruling::Denied { .. } => Ran::Defied,
        }
    }
}

/// `POST /v1/hooks/{client}`
pub(super) async fn hook(
    State(app): State<Arc<App>>,
    Id(client): Id,
    RawQuery(text): RawQuery,
    Strict(event): Strict<Event>,
) -> Result<Json<Value>, Refusal> {
    let client = Client::from_word(client.as_str());
    let client = client.ok_or_else(|| Refusal::new(Fault::NotFound, "clients are `claude-code` and `codex`"))?;
    let patience = Patience::read(text.as_deref())?;
    let session = event.session().map_err(Refusal::malformed)?;
    let delegation = event.delegation().map_err(Refusal::malformed)?;
    let what = event.what().map_err(Refusal::malformed)?;
    let run = app.hooks.run(&session, app.config.idle)?;
    let subject = app.subject(session.clone(), run, delegation);
    app.meters.hooked(client.word(), word(&what));
    match what {
        What::Before(used) => before(app, client, patience, subject, used).await,
        What::After(used, failed) => after(app, client, subject, used, failed).await,
        What::End => {
            app.hooks.end(&session);
            Ok(silent())
        }
        What::Other(_) => Ok(silent()),
    }
    .map(Json)
}

const fn word(what: &What) -> &'static str {
    match what {
        What::Before(_) => "PreToolUse",
        What::After(_, false) => "PostToolUse",
        What::After(_, true) => "PostToolUseFailure",
        What::End => "SessionEnd",
        What::Other(word) => word,
    }
}

/// What is done, whoever does it.
fn what(used: &Use) -> Digest {
    Digest::of(canonical(&(&used.tool, serde_json::to_string(&used.input).unwrap_or_default())).as_bytes())
}

async fn before(
    app: Arc<App>,
    client: Client,
    patience: Patience,
    subject: Subject,
    used: Use,
) -> Result<Value, Refusal> {
    app.check_open()?;
    let (key, what) = ((subject.session.clone(), used.id.clone()), what(&used));
    let ruling = match app.hooks.open(&key) {
        // Two hooks of one client tell of the same use; one decision is for both.
        Some((known, ruling)) if known == what && !is_denied(&ruling) => settled(ruling).await,
        Some((known, ruling)) if known != what && !is_denied(&ruling) => {
            let why = "[weir] denied: the same use of a tool was told with other arguments. Do not retry.".to_owned();
            Ruling::Denied { why, pending: false }
        }
        _ => decide(&app, patience, subject, used, key, what).await?,
    };
    Ok(match ruling {
        Ruling::Allowed => allowed(client),
        Ruling::Denied { why, pending: true } if patience.defers && client == Client::ClaudeCode => deferred(&why),
        Ruling::Denied { why, .. } => denied(&why),
        Ruling::Deciding => denied("[weir] denied: the gate failed while it decided. Do not retry now; ask the user."),
    })
}

fn is_denied(ruling: &watch::Receiver<Ruling>) -> bool {
    matches!(*ruling.borrow(), Ruling::Denied { .. })
}

/// The ruling once there is one; `Deciding` when whoever decided is gone.
async fn settled(mut ruling: watch::Receiver<Ruling>) -> Ruling {
    match ruling.wait_for(|ruling| *ruling != Ruling::Deciding).await {
        Ok(ruling) => ruling.clone(),
        Err(_) => Ruling::Deciding,
    }
}

/// Walks the first half of the line.
async fn decide(
    app: &Arc<App>,
    patience: Patience,
    subject: Subject,
    used: Use,
    key: Key,
    what: Digest,
) -> Result<Ruling, Refusal> {
    let id = unused_id(app, &key).await?;
    let mut call = app.call(subject, Action::ToolCall, Resource::named(used.tool.clone()), used.input)?;
    (call.id, call.surface) = (id.clone(), name("hook")?);
    app.works.begin()?;
    let (teller, ruling) = watch::channel(Ruling::Deciding);
    app.hooks.begin(key, Known { what, tool: used.tool, call: id.clone(), ruling, ended: false });
    let (sender, mut receiver) = oneshot::channel();
    let mut asking = Asking { app: app.clone(), call: Some(id.clone()) };
    let worker = app.clone();
    tokio::task::spawn_blocking(move || admit(&worker, call, sender, std::convert::identity));
    let mut awaited = tokio::time::timeout(patience.wait, &mut receiver).await;
    while awaited.is_err() {
        // From here on the question waits for the same call to come again. It may be just about to be put.
        app.config.desk.defer(&id);
        awaited = tokio::time::timeout(PUSH, &mut receiver).await;
    }
    asking.call = None;
    let ruling = match awaited {
        Ok(Ok(Admitted::Allowed(_))) => Ruling::Allowed,
        Ok(Ok(Admitted::Denied { denial, reason, .. })) => {
            Ruling::Denied { why: denial, pending: reason == ReasonCode::ApprovalPending }
        }
        Ok(Err(_)) | Err(_) => return Err(Refusal::internal()),
    };
    teller.send_replace(ruling.clone());
    Ok(ruling)
}

/// A client that waits for a person; when it goes, the question waits for the same call to come again.
struct Asking {
    app: Arc<App>,
    call: Option<CallId>,
}

impl Drop for Asking {
    fn drop(&mut self) {
        if let Some(call) = &self.call {
            self.app.config.desk.defer(call);
        }
    }
}

/// The id of the next try of a use. It follows from the client's ids, so that the journal knows after a restart which
/// uses were decided.
async fn unused_id(app: &Arc<App>, key: &Key) -> Result<CallId, Refusal> {
    let (app, key) = (app.clone(), key.clone());
    let found = blocking(move || (0..=USES).map(|n| id(&app, &key, n)).find(|id| !app.gate.knows(id))).await?;
    found.ok_or_else(|| Refusal::new(Fault::Busy, "this use of a tool was tried too often"))
}

fn id(app: &App, key: &Key, attempt: usize) -> CallId {
    let of = (&app.config.org, &app.config.project, &app.config.agent, &key.0, &key.1, attempt);
    Name::digits(&Digest::of(canonical(&of).as_bytes()).hex())
}

/// How the gate stands to a use that has run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It had allowed it.
    Allowed,
    /// It had refused it, or not answered yet.
    Defied,
    /// It was never asked.
    Unheard,
    /// It was asked in an earlier life, too long ago to say what came of it.
    Unknown,
}

/// How the gate stands to the use `key`; what is not in memory is in the journal.
pub(super) fn standing(app: &App, key: &Key) -> Standing {
    if let Some(known) = lock(&app.hooks.0).uses.get(key) {
        let allowed = *known.ruling.borrow() == Ruling::Allowed;
        return if allowed { Standing::Allowed } else { Standing::Defied };
    }
    // Tries are numbered without gaps: the first that is not known follows the last that was made.
    let (mut known, mut unknown) = (0, USES + 1);
    while known < unknown {
        let middle = usize::midpoint(known, unknown);
        if app.gate.knows(&id(app, key, middle)) { known = middle + 1 } else { unknown = middle }
    }
    let Some(last) = known.checked_sub(1) else { return Standing::Unheard };
    match app.gate.receipt(&id(app, key, last)) {
        Some(receipt) if receipt.execution.is_none() => Standing::Defied,
        Some(_) => Standing::Allowed,
        None => Standing::Unknown,
    }
}

/// Walks the second half of the line.
async fn after(app: Arc<App>, client: Client, subject: Subject, used: Use, failed: bool) -> Result<Value, Refusal> {
    let key = (subject.session.clone(), used.id.clone());
    let (call, status) = match app.hooks.ran(&key, &used) {
        Ran::Again => return Ok(silent()),
        Ran::Decided(call) => (call, if failed { Status::Failed } else { Status::Done }),
        Ran::Changed(call) => {
            tracing::error!(%call, tool = %used.tool, "a tool has run with other arguments than were decided about");
            app.meters.bypassed("changed");
            (call, Status::Unknown)
        }
        Ran::Defied => return bypass(app, client, subject, &used, "although the gate had not allowed it").await,
        Ran::Unheard => {
            let (known, gate) = (key.clone(), app.clone());
            return match blocking(move || standing(&gate, &known)).await? {
                Standing::Unheard => bypass(app, client, subject, &used, "without a decision of the gate").await,
                Standing::Defied => bypass(app, client, subject, &used, "although the gate had not allowed it").await,
                Standing::Allowed | Standing::Unknown => {
                    tracing::warn!(session = %key.0, tool = %used.tool, "a tool has run that was decided before a restart");
                    Ok(silent())
                }
            };
        }
    };
    // A call that took too long has ended as unknown; there is nothing left to complete.
    if let Some(durable) = app.works.take(&call) {
        let outcome = Outcome { result: used.result, ..Outcome::of(status) };
        let answer = blocking(move || app.gate.complete(durable, outcome)).await?;
        if answer.receipt.is_none() {
            let text = "the outcome could not be recorded; the call counts as unknown";
            return Err(Refusal::new(Fault::JournalFailed, text));
        }
    }
    Ok(silent())
}

/// A tool has run past the gate: nothing more runs in this session.
async fn bypass(app: Arc<App>, client: Client, subject: Subject, used: &Use, how: &str) -> Result<Value, Refusal> {
    app.meters.bypassed(client.word());
    let (text, tool) = (format!("bypass: {} has run {how}", used.tool), used.tool.clone());
    let closed = blocking(move || {
        let (action, closing) = (Action::ToolCall, Closing::Revoke);
        raise(&app, &Alarm { subject: &subject, action, what: &tool, text: &text, closing })
    });
    if closed.await?.is_err() {
        return Err(Refusal::new(Fault::JournalFailed, "the session could not be revoked; stop the client"));
    }
    let why = format!("[weir] `{}` has run {how}. The session is revoked; a person must look at it.", used.tool);
    Ok(halted(&why))
}
