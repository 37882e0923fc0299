//! The line: what happens to every call, in the order in which it happens.
//!
//! normalise (the surface did) -> decide -> reserve -> record intent -> execute -> settle -> record
//! outcome -> score -> answer. Each step takes the value that the step before made, so a skipped
//! step does not compile. Nothing else stands in this file.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::nest::Nest;
use super::port::{Executor, ToolHost};
use super::{Answer, Durable, Gate, Reserved};
use crate::model::{Call, GuestError, Outcome, Reason, ReasonCode, Status};

impl Gate {
    /// The whole line for a call that the gate runs itself: never an error, never a panic.
    pub fn handle(&self, call: Call, executor: &dyn Executor, host: &dyn ToolHost) -> Answer {
        match self.admit(call) {
            Err(refused) => *refused,
            Ok(work) => {
                let outcome = self.execute(&work, executor, host);
                self.complete(work, outcome)
            }
        }
    }

    /// The first half: decide, reserve, record the intent. Also for calls that the host runs itself.
    ///
    /// # Errors
    /// The answer, when the call was refused; the refusal is on record.
    pub fn admit(&self, call: Call) -> Result<Durable<Reserved>, Box<Answer>> {
        let call = Arc::new(call);
        let first = || self.decide_and_reserve(&call).and_then(|intended| self.durable(intended));
        catch_unwind(AssertUnwindSafe(first)).unwrap_or_else(|_| Err(self.unrecorded(&call, broke())))
    }

    /// The middle: run what is durable. A panic of the executor is an outcome, not a crash.
    fn execute(&self, work: &Durable<Reserved>, executor: &dyn Executor, host: &dyn ToolHost) -> Outcome {
        let nest = Nest::new(self, work.call(), host);
        catch_unwind(AssertUnwindSafe(|| executor.execute(work, &nest))).unwrap_or_else(|_| {
            let message = "the gate failed while this ran; what it held counts as spent".to_owned();
            let error = GuestError { kind: "GateError".into(), message, traceback: String::new() };
            Outcome { error: Some(error), ..Outcome::of(Status::Unknown) }
        })
    }

    /// The second half: settle, record the outcome with its receipt, score, answer.
    #[must_use]
    pub fn complete(&self, work: Durable<Reserved>, outcome: Outcome) -> Answer {
        let call = work.inner.call.clone();
        let second = || {
            let settled = self.settle(work, &outcome);
            self.record(settled, outcome)
        };
        catch_unwind(AssertUnwindSafe(second)).unwrap_or_else(|_| *self.unrecorded(&call, broke()))
    }
}

/// A panic of a port or of the gate itself: whatever was held stays held.
fn broke() -> Reason {
    Reason::new(ReasonCode::Internal, "the gate failed on this call and refused it")
}
