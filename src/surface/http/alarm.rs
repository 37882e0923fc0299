//! What happens when something has run past the gate: the session is closed first, then it is put on record.
//!
//! Hooks and telemetry raise the same alarm. It only ever takes away: nothing here settles, refunds or opens anything.

use super::app::App;
use crate::model::{Action, Name, Subject};
use crate::pep::GateFault;
use crate::pep::port::AccountId;

/// How a session is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Closing {
    /// For good.
    Revoke,
    /// Until an operator lets it go on.
    Freeze,
}

/// Something that ran past the gate.
pub(super) struct Alarm<'a> {
    /// In whose session.
    pub(super) subject: &'a Subject,
    /// What was done.
    pub(super) action: Action,
    /// To what: the tool, or the model.
    pub(super) what: &'a Name,
    /// Who told, and of what, for the record.
    pub(super) text: &'a str,
    pub(super) closing: Closing,
}

/// Closes the session and records what happened. A session that is revoked already stays as it is, and its journal too:
/// telling again and again fills nothing.
///
/// # Errors
/// It could not be recorded.
pub(super) fn raise(app: &App, alarm: &Alarm<'_>) -> Result<(), GateFault> {
    tracing::error!(session = %alarm.subject.session, what = %alarm.what, "{}", alarm.text);
    if app.gate.is_revoked(alarm.subject) {
        return app.gate.health().map_or(Ok(()), |reason| Err(GateFault::Refused(reason.detail)));
    }
    let account = AccountId::session(alarm.subject);
    match alarm.closing {
        Closing::Revoke => app.gate.revoke(&account, alarm.text)?,
        Closing::Freeze => app.gate.freeze(&account, alarm.text)?,
    }
    app.gate.bypassed(alarm.subject, alarm.action, alarm.what, alarm.text)
}
