//! The policy information point (PIP): gathers the facts that a decision reads, and says what a
//! policy permits at most.
//!
//! It reads state and never changes it, and it decides nothing.

mod permitted;
mod session;

pub use permitted::permitted;
pub use session::{Meter, Session};

use crate::ledger::{Ledger, Limit};
use crate::model::{Subject, Timestamp};
use crate::pdp::Facts;

/// The facts about `subject`, now.
#[must_use]
pub fn gather(
    ledger: &Ledger,
    session: Option<&Session>,
    limits: &[Limit],
    subject: &Subject,
    now: Timestamp,
) -> Facts {
    let remaining = ledger.remaining(subject, limits, now);
    match session {
        Some(session) => Facts { labels: session.labels.clone(), remaining, since_person: session.since_person },
        None => Facts { remaining, ..Facts::fresh() },
    }
}
