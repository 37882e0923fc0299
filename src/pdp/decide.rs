//! The decision.
use super::{Compiled, Facts};
use crate::model::{Call, Decision};
/// Decides.
#[must_use]
pub fn decide(policy: &Compiled, facts: &Facts, call: &Call) -> Decision {
    let _ = (policy, facts, call);
    todo!()
}
