//! Everything besides the call that a decision may read.

use std::collections::BTreeSet;

use crate::model::Amounts;

/// Facts about the subject at the moment of the decision, gathered by `pip`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Labels on the session.
    pub labels: BTreeSet<String>,
    /// What is left of each kind; `u64::MAX` where nothing limits it.
    pub remaining: Amounts,
    /// Calls of this session that ran since a person last approved one.
    pub since_person: u64,
}
