//! Sessions: who may speak in which conversation, with which tools, in which run.
//!
//! A session's id is made here from 128 random bits; what it has spent and seen is the gate's.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::app::{App, blocking, fresh, no_session};
use super::body::{Id, Strict};
use super::error::{Fault, Refusal};
use super::execution::{Execution, Parting, no_execution};
use super::keep;
use super::tools::check_tools;
use crate::model::{Limits, Name, Subject};
use crate::pep::port::ToolSpec;
use crate::surface::lock;

/// Every open session.
#[derive(Default)]
pub(super) struct Sessions(Mutex<HashMap<Name, Session>>);

struct Session {
    tools: Arc<[ToolSpec]>,
    /// The run that calls of a root session belong to; a child's calls belong to its root's.
    run: Name,
    /// The session that this one works for, and its agent's name in that one.
    parent: Option<(Name, Name)>,
    /// The last execution; its last event can be fetched until the next one begins.
    execution: Option<Arc<Execution>>,
    used: Instant,
}

/// What a new execution needs of its session.
pub(super) struct Begun {
    pub(super) subject: Subject,
    pub(super) tools: Arc<[ToolSpec]>,
    pub(super) execution: Arc<Execution>,
}

impl Session {
    fn is_busy(&self) -> bool {
        self.execution.as_ref().is_some_and(|execution| !execution.has_ended())
    }
}

impl Sessions {
    /// Open sessions.
    pub(super) fn count(&self) -> usize {
        lock(&self.0).len()
    }

    /// Executions that have not ended.
    pub(super) fn executing(&self) -> usize {
        lock(&self.0).values().filter(|session| session.is_busy()).count()
    }

    /// Runs `each` on the open session `id` and notes that it was used.
    fn with<T>(&self, id: &Name, each: impl FnOnce(&mut Session) -> Result<T, Refusal>) -> Result<T, Refusal> {
        let mut sessions = lock(&self.0);
        touch(&mut sessions, id);
        each(sessions.get_mut(id).ok_or_else(no_session)?)
    }

    fn insert(&self, id: Name, session: Session) -> Result<(), Refusal> {
        let mut sessions = lock(&self.0);
        if sessions.contains_key(&id) {
            return Err(Refusal::new(Fault::Conflict, "this session is open; go on with it, or close it first"));
        }
        if let Some((parent, name)) = &session.parent {
            if !sessions.contains_key(parent) {
                return Err(no_session());
            }
            if sessions.values().any(|other| other.parent == session.parent) {
                let text = format!("an agent `{name}` works for this session already; close its session first");
                return Err(Refusal::new(Fault::Conflict, text));
            }
        }
        if sessions.len() >= Limits::SESSIONS {
            let text = format!("{} sessions are open, which is the most; close one first", Limits::SESSIONS);
            return Err(Refusal::new(Fault::SessionLimit, text));
        }
        sessions.insert(id, session);
        Ok(())
    }

    /// The subject of a call made in session `id` now: the accounts are its root's, the chain of
    /// delegation is what the gate knows of it.
    pub(super) fn subject(&self, app: &App, id: &Name) -> Result<Subject, Refusal> {
        self.with(id, |_| Ok(()))?;
        subject(&lock(&self.0), app, id)
    }

    /// The subject of open session `id`, without using the session.
    pub(super) fn peek(&self, app: &App, id: &Name) -> Option<Subject> {
        subject(&lock(&self.0), app, id).ok()
    }

    /// What a copy of session `id` gets of it.
    ///
    /// # Errors
    /// A conflict while an execution has not ended.
    pub(super) fn at_rest(&self, id: &Name) -> Result<Option<Arc<[ToolSpec]>>, Refusal> {
        match lock(&self.0).get(id) {
            Some(session) if session.is_busy() => {
                let text = "the session's execution has not ended: resume or cancel it first";
                Err(Refusal::new(Fault::Conflict, text))
            }
            session => Ok(session.map(|session| session.tools.clone())),
        }
    }

    /// Session `id` and every session that works for it, directly or not.
    fn family(&self, id: &Name) -> Vec<Name> {
        let sessions = lock(&self.0);
        let mut family = vec![id.clone()];
        let mut next = 0;
        while let Some(parent) = family.get(next).cloned() {
            next += 1;
            let works_for = |session: &Session| session.parent.as_ref().is_some_and(|(of, _)| *of == parent);
            family.extend(sessions.iter().filter(|(_, session)| works_for(session)).map(|(id, _)| id.clone()));
        }
        family
    }

    /// Makes `execution` the one of session `id`.
    ///
    /// # Errors
    /// A conflict while another has not ended, and when there is one with its id.
    pub(super) fn begin(&self, app: &App, id: &Name, execution: Arc<Execution>) -> Result<Begun, Refusal> {
        let subject = self.subject(app, id)?;
        if self.execution(execution.id()).is_ok() {
            let text = "an execution with this id has begun already; fetch its event, or draw another id for a new one";
            return Err(Refusal::new(Fault::Conflict, text));
        }
        self.with(id, |session| {
            if session.is_busy() {
                let text = "the session's execution has not ended: resume or cancel it first";
                return Err(Refusal::new(Fault::Conflict, text));
            }
            session.execution = Some(execution.clone());
            Ok(Begun { subject, tools: session.tools.clone(), execution })
        })
    }

    /// The execution of session `id`.
    pub(super) fn execution_of(&self, id: &Name) -> Result<Arc<Execution>, Refusal> {
        self.with(id, |session| session.execution.clone().ok_or_else(no_execution))
    }

    /// The execution `id`, whichever session it belongs to.
    pub(super) fn execution(&self, id: &Name) -> Result<Arc<Execution>, Refusal> {
        let mut sessions = lock(&self.0);
        let of = |session: &Session| session.execution.as_ref().is_some_and(|execution| execution.id() == id);
        let found = sessions.iter().find(|(_, session)| of(session));
        let (session, execution) =
            found.map(|(id, session)| (id.clone(), session.execution.clone())).ok_or_else(no_execution)?;
        touch(&mut sessions, &session);
        execution.ok_or_else(no_execution)
    }

    /// Every execution that has not ended.
    pub(super) fn unfinished(&self) -> Vec<Arc<Execution>> {
        let sessions = lock(&self.0);
        let executions = sessions.values().filter_map(|session| session.execution.as_ref());
        executions.filter(|execution| !execution.has_ended()).cloned().collect()
    }

    /// Sessions that nobody has used for `idle`, and below which nothing runs.
    pub(super) fn idle(&self, idle: Duration) -> Vec<Name> {
        let mut sessions = lock(&self.0);
        let busy: Vec<Name> = sessions.iter().filter(|(_, s)| s.is_busy()).map(|(id, _)| id.clone()).collect();
        busy.iter().for_each(|id| touch(&mut sessions, id));
        let unused = sessions.iter().filter(|(_, session)| !session.is_busy() && session.used.elapsed() >= idle);
        unused.map(|(id, _)| id.clone()).collect()
    }

    /// Every open session's id.
    pub(super) fn ids(&self) -> Vec<Name> {
        lock(&self.0).keys().cloned().collect()
    }
}

/// Notes that session `id` was used, and with it every session that it works for.
fn touch(sessions: &mut HashMap<Name, Session>, id: &Name) {
    let mut next = Some(id.clone());
    while let Some(session) = next.and_then(|id| sessions.get_mut(&id)) {
        session.used = Instant::now();
        next = session.parent.as_ref().map(|(parent, _)| parent.clone());
    }
}

/// The subject of session `id` among `sessions`.
fn subject(sessions: &HashMap<Name, Session>, app: &App, id: &Name) -> Result<Subject, Refusal> {
    let mut chain = Vec::new();
    let mut at = id;
    let mut session = sessions.get(at).ok_or_else(no_session)?;
    while let Some((parent, name)) = &session.parent {
        chain.push(name.clone());
        if chain.len() > Limits::DELEGATION {
            return Err(Refusal::malformed(format!("sessions nest at most {} deep", Limits::DELEGATION)));
        }
        at = parent;
        session = sessions.get(at).ok_or_else(no_session)?;
    }
    chain.reverse();
    Ok(app.subject(at.clone(), session.run.clone(), chain))
}

/// Cancels `execution` and takes back what it asked a person.
pub(super) fn cancel(app: &App, execution: &Execution) {
    execution.cancel();
    app.config.desk.withdraw(execution.id());
}

/// Closes session `id` and all that work for it: cancels what runs and makes the executor part with them.
///
/// # Errors
/// No such session.
pub(super) async fn close(app: &Arc<App>, id: Name, parting: Parting) -> Result<(), Refusal> {
    app.sessions.subject(app, &id)?;
    // Those that work for it first, so that every subject can still be told.
    for id in app.sessions.family(&id).into_iter().rev() {
        close_one(app, id, parting).await?;
    }
    Ok(())
}

async fn close_one(app: &Arc<App>, id: Name, parting: Parting) -> Result<(), Refusal> {
    let seat = app.sessions.subject(app, &id)?.seat();
    let session = lock(&app.sessions.0).remove(&id).ok_or_else(no_session)?;
    if let Some(execution) = session.execution.filter(|execution| !execution.has_ended()) {
        cancel(app, &execution);
        if !execution.close_at_end(parting) {
            execution.ended_within(app.config.grace).await;
            return Ok(());
        }
    }
    let executor = app.executor.clone();
    blocking(move || parting.tell(&*executor, &seat)).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewSession {
    tools: Vec<ToolSpec>,
    /// The session that hands a task on, and the name of the agent that gets it; both or neither.
    parent: Option<Name>,
    name: Option<Name>,
    /// A kept session of this agent that is not open, to be gone on with under its id.
    resume: Option<Name>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewTools {
    tools: Vec<ToolSpec>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

/// `POST /v1/sessions`
pub(super) async fn open(
    State(app): State<Arc<App>>,
    Strict(body): Strict<NewSession>,
) -> Result<(StatusCode, Json<Value>), Refusal> {
    app.check_open()?;
    check_tools(&body.tools)?;
    let parent = match (body.parent, body.name) {
        (None, None) => None,
        (Some(parent), Some(name)) => Some((parent, name)),
        _ => return Err(Refusal::malformed("`parent` and `name` stand together or not at all")),
    };
    let id = match body.resume {
        None => fresh()?,
        Some(_) if parent.is_some() => {
            return Err(Refusal::malformed("a session that works for another one is not resumed; open a new one"));
        }
        Some(id) => {
            keep::resumable(&app, &id).await?;
            id
        }
    };
    begin(&app, id, body.tools.into(), parent).map(|answer| (StatusCode::CREATED, Json(answer)))
}

/// Opens session `id` and says what it may do.
pub(super) fn begin(
    app: &App,
    id: Name,
    tools: Arc<[ToolSpec]>,
    parent: Option<(Name, Name)>,
) -> Result<Value, Refusal> {
    let session = Session { tools, run: fresh()?, parent, execution: None, used: Instant::now() };
    app.sessions.insert(id.clone(), session)?;
    let run = match app.sessions.subject(app, &id) {
        Ok(subject) => subject.run,
        Err(refusal) => {
            lock(&app.sessions.0).remove(&id);
            return Err(refusal);
        }
    };
    let compiled = app.gate.policy();
    let code = compiled.policy().code.as_ref();
    Ok(json!({
        "session": id,
        "run": run,
        "agent": app.config.agent,
        "policy": compiled.policy().digest,
        "imports": code.map_or(&[][..], |code| &code.imports),
        "limits": code.map(|code| code.limits),
        "scratch": code.and_then(|code| code.scratch.as_ref()).map(|scratch| &scratch.guest),
    }))
}

/// Takes back what [`begin`] opened.
pub(super) fn unopen(app: &App, id: &Name) {
    lock(&app.sessions.0).remove(id);
}

/// `PUT /v1/sessions/{s}/tools`
pub(super) async fn set_tools(
    State(app): State<Arc<App>>,
    Id(id): Id,
    Strict(body): Strict<NewTools>,
) -> Result<Json<Value>, Refusal> {
    app.check_open()?;
    check_tools(&body.tools)?;
    app.sessions.with(&id, |session| {
        session.tools = body.tools.into();
        Ok(Json(json!({})))
    })
}

/// `POST /v1/sessions/{s}/runs`
pub(super) async fn new_run(
    State(app): State<Arc<App>>,
    Id(id): Id,
    Strict(Nothing {}): Strict<Nothing>,
) -> Result<(StatusCode, Json<Value>), Refusal> {
    app.check_open()?;
    let run = fresh()?;
    app.sessions.with(&id, |session| {
        if session.parent.is_some() {
            let text = "runs belong to the session that handed the task on; begin one there";
            return Err(Refusal::new(Fault::Conflict, text));
        }
        if session.is_busy() {
            return Err(Refusal::new(
                Fault::Conflict,
                "a run cannot begin while the session's execution has not ended",
            ));
        }
        session.run = run.clone();
        Ok((StatusCode::CREATED, Json(json!({"run": run}))))
    })
}

/// `DELETE /v1/sessions/{s}`
pub(super) async fn delete(State(app): State<Arc<App>>, Id(id): Id) -> Result<Json<Value>, Refusal> {
    // Closing goes on when the client does not wait for it.
    let closing = tokio::spawn(async move { close(&app, id, Parting::Forget).await });
    closing.await.map_err(|_| Refusal::internal())??;
    Ok(Json(json!({})))
}
