//! What several gates share of a budget.

use serde::{Deserialize, Serialize};

use super::{Kind, Timestamp};

/// One budget of one account in one window.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pot {
    /// The budget's id in the policies of all its gates.
    pub budget: String,
    /// The name of the account.
    pub account: String,
    /// What is counted.
    pub kind: Kind,
    /// When the window began; 0 for a budget that counts in total.
    pub opens: Timestamp,
}
