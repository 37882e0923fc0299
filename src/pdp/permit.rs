//! A permit: proof that a decision allowed a call.

use crate::model::{Amounts, Decision, Digest, Effect, Reason, ReasonCode};

/// Made only from an allowing decision, in this module.
#[derive(Debug)]
pub struct Permit(Decision);

impl Permit {
    /// A permit, when the decision allows; the decision itself when it does not.
    ///
    /// # Errors
    /// The decision, when it is not an allow.
    #[expect(clippy::result_large_err, reason = "the refusal is the decision itself, moved once")]
    pub fn of(decision: Decision) -> Result<Self, Decision> {
        if decision.effect == Effect::Allow { Ok(Self(decision)) } else { Err(decision) }
    }

    /// A permit for a decision that asked, after a person approved.
    ///
    /// # Errors
    /// The decision, when it is a deny: no approval lifts a deny.
    #[expect(clippy::result_large_err, reason = "the refusal is the decision itself, moved once")]
    pub fn approved(decision: Decision) -> Result<Self, Decision> {
        if decision.effect == Effect::Deny {
            return Err(decision);
        }
        Ok(Self(Decision { effect: Effect::Allow, ..decision }))
    }

    /// The permit of a call whose intent is on record with what it holds, allowed under `policy` before the gate was
    /// started again.
    #[must_use]
    pub fn recorded(reserve: Amounts, policy: Digest) -> Self {
        let reason = Reason::new(ReasonCode::Allowed, "allowed before the gate was started again");
        let (effect, obligations) = (Effect::Allow, Vec::new());
        Self(Decision { effect, reason, obligations, reserve, grant: None, exec: None, policy })
    }

    /// The decision behind it.
    #[must_use]
    pub const fn decision(&self) -> &Decision {
        &self.0
    }

    /// The decision itself.
    #[must_use]
    pub fn into_decision(self) -> Decision {
        self.0
    }
}
