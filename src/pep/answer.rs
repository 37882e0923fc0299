//! What a surface gives back for a call: never an error, never a panic.

use crate::audit::Receipt;
use crate::model::{CallId, Decision, Effect, Outcome};

/// The end of the line for one call.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The call.
    pub call: CallId,
    /// What was decided.
    pub decision: Decision,
    /// What came of it; `None` when it did not run.
    pub outcome: Option<Outcome>,
    /// The receipt; `None` only when the journal failed, which is itself a denial.
    pub receipt: Option<Receipt>,
    /// The text of the denial, when it was denied.
    pub denial: Option<String>,
}

impl Answer {
    /// True when it was allowed and ran.
    #[must_use]
    pub fn ran(&self) -> bool {
        self.decision.effect == Effect::Allow && self.outcome.is_some()
    }
}
