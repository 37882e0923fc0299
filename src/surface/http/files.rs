//! The files of a session, for its owner: what programs left in their folder, and what they are given there.
//!
//! The executor's keeper holds them and says what is a path; here are bytes in, bytes out. A file is bounded twice,
//! by the session's quota and by what one request may carry.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Json;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{FromRequestParts, Path, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use hyper::body::{Frame, SizeHint};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::app::{App, blocking};
use super::body::{Id, Raw};
use super::error::{Fault, Refusal};
use crate::model::{Name, Quota, Seat};
use crate::pep::port::{KeepFault, Keeper};

/// Files that are on their way out at the same time: each is in memory until its reader has it.
static LEAVING: Semaphore = Semaphore::const_new(8);

/// A session and the path of a file in it.
pub(super) struct Place {
    session: Name,
    path: String,
}

impl<S: Send + Sync> FromRequestParts<S> for Place {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let nothing = || Refusal::new(Fault::NotFound, "the path names no session and file");
        let found = Path::<(String, String)>::from_request_parts(parts, state).await;
        let Path((session, path)) = found.map_err(|_| nothing())?;
        Ok(Self { session: Name::new(session).map_err(|_| nothing())?, path })
    }
}

/// `GET /v1/sessions/{s}/files`
pub(super) async fn list(State(app): State<Arc<App>>, Id(id): Id) -> Result<Json<Value>, Refusal> {
    let files = kept(&app, &id, |keeper, seat, quota| {
        furnish(keeper, seat, quota)?;
        keeper.files(seat)
    });
    let files = files.await?;
    Ok(Json(json!({"files": files})))
}

/// `GET /v1/sessions/{s}/files/{path}`
pub(super) async fn read(State(app): State<Arc<App>>, place: Place) -> Result<Response, Refusal> {
    let Ok(leaving) = LEAVING.try_acquire() else {
        return Err(Refusal::new(Fault::Busy, "too many files are being read at once; try again"));
    };
    let Place { session, path } = place;
    let content = kept(&app, &session, move |keeper, seat, _| keeper.read(seat, &path)).await?;
    let body = Body::new(Content { bytes: Some(content.into()), _leaving: leaving });
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
        (header::CONTENT_DISPOSITION, HeaderValue::from_static("attachment")),
    ];
    Ok((StatusCode::OK, headers, body).into_response())
}

/// `PUT /v1/sessions/{s}/files/{path}`
pub(super) async fn write(State(app): State<Arc<App>>, place: Place, body: Raw) -> Result<Json<Value>, Refusal> {
    app.check_open()?;
    let Place { session, path } = place;
    let put = kept(&app, &session, move |keeper, seat, quota| {
        furnish(keeper, seat, quota)?;
        keeper.write(seat, &path, &body.bytes)
    });
    Ok(Json(json!(put.await?)))
}

/// Before a session's first step its folder is not there yet, and what the step is to read has to lie in it.
fn furnish(keeper: &dyn Keeper, seat: &Seat, quota: Option<Quota>) -> Result<(), KeepFault> {
    quota.map_or(Ok(()), |quota| keeper.furnish(seat, &quota))
}

/// Asks the executor's keeper about the seat of the open session `id`, whose folder may hold what the policy in force says.
async fn kept<T: Send + 'static>(
    app: &Arc<App>,
    id: &Name,
    ask: impl FnOnce(&dyn Keeper, &Seat, Option<Quota>) -> Result<T, KeepFault> + Send + 'static,
) -> Result<T, Refusal> {
    let seat = app.sessions.subject(app, id)?.seat();
    let executor = app.executor.clone();
    let policy = app.gate.policy();
    let quota = policy.policy().code.as_ref().and_then(|code| code.scratch.as_ref()).map(|scratch| scratch.quota);
    let asked = blocking(move || executor.keeper().map(|keeper| ask(keeper, &seat, quota))).await?;
    let none = || Refusal::new(Fault::NotFound, "this gate keeps no files of sessions");
    asked.ok_or_else(none)?.map_err(|fault| refusal(&fault))
}

/// A keeper's fault as an answer.
fn refusal(fault: &KeepFault) -> Refusal {
    let kind = match fault {
        KeepFault::Absent(_) => Fault::NotFound,
        KeepFault::Busy => Fault::Conflict,
        KeepFault::Full(_) => Fault::TooLarge,
        KeepFault::Refused(_) => Fault::Malformed,
        KeepFault::Failed(_) => {
            tracing::error!(%fault, "the files of a session cannot be reached");
            return Refusal::internal();
        }
    };
    Refusal::new(kind, fault.to_string())
}

/// A file on its way to its reader.
struct Content {
    bytes: Option<Bytes>,
    /// Its place, given back once it has left or its reader has gone.
    _leaving: SemaphorePermit<'static>,
}

impl HttpBody for Content {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Poll::Ready(self.bytes.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}
