//! The gate: state, ports and the operations that surfaces use.
use super::{
    Answer, Durable, Reserved,
    port::{Approver, Clock, Executor, Journal, JournalFault, ToolHost},
};
use crate::audit::Key;
use crate::ledger::{Balance, Limit};
use crate::model::{Call, Name, Outcome};
use crate::pdp::{Compiled, Trace};
use crate::risk::FactorScore;
use std::sync::Arc;

/// Why a gate could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum GateFault {
    /// The journal could not be read or written.
    #[error("the journal failed: {0}")]
    Journal(#[from] JournalFault),
    /// The journal does not verify.
    #[error("the journal does not verify: {0}")]
    Tampered(crate::audit::Bad),
}

/// The gate.
pub struct Gate {
    _private: (),
}

impl Gate {
    /// Opens a gate: verifies and replays the journal, ends reservations that a crash left open, and
    /// records the policy.
    ///
    /// # Errors
    /// [`GateFault`].
    pub fn open(
        policy: Arc<Compiled>,
        journal: Box<dyn Journal>,
        clock: Box<dyn Clock>,
        approver: Box<dyn Approver>,
        key: Key,
    ) -> Result<Self, GateFault> {
        let _ = (policy, journal, clock, approver, key);
        todo!()
    }
    /// The whole line: decide, reserve, record, execute, settle, record, score.
    pub fn handle(&self, call: Call, executor: &dyn Executor, host: &dyn ToolHost) -> Answer {
        let _ = (call, executor, host);
        todo!()
    }
    /// The first half for a call that the host runs itself.
    ///
    /// # Errors
    /// The answer, when it was refused.
    pub fn admit(&self, call: Call) -> Result<Durable<Reserved>, Box<Answer>> {
        let _ = call;
        todo!()
    }
    /// The second half.
    pub fn complete(&self, work: Durable<Reserved>, outcome: Outcome) -> Answer {
        let _ = (work, outcome);
        todo!()
    }
    /// Evaluates without holding, recording or running anything.
    #[must_use]
    pub fn evaluate(&self, call: &Call) -> Trace {
        let _ = call;
        todo!()
    }
    /// Every account.
    #[must_use]
    pub fn balances(&self) -> Vec<Balance> {
        todo!()
    }
    /// The limits in force.
    #[must_use]
    pub fn limits(&self) -> Vec<Limit> {
        todo!()
    }
    /// The factors' scores.
    #[must_use]
    pub fn scores(&self) -> Vec<FactorScore> {
        todo!()
    }
    /// The policy in force.
    #[must_use]
    pub fn policy(&self) -> Arc<Compiled> {
        todo!()
    }
    /// Puts another policy into force; calls in flight keep theirs.
    ///
    /// # Errors
    /// The journal could not record it; the old policy stays.
    pub fn reload(&self, policy: Arc<Compiled>) -> Result<(), GateFault> {
        let _ = policy;
        todo!()
    }
    /// Journal entries so far.
    #[must_use]
    pub fn entries(&self) -> u64 {
        todo!()
    }
    /// Receipts of one session, or all, newest first, as canonical JSON.
    ///
    /// # Errors
    /// A journal that cannot be read.
    pub fn receipts(&self, session: Option<&Name>, limit: usize) -> Result<Vec<crate::audit::Receipt>, JournalFault> {
        let _ = (session, limit);
        todo!()
    }
}
