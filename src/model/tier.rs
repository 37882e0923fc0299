//! Where an account stands below its organisation: policies name it as the scope of a budget, the
//! ledger keeps accounts by it, and neither may know the other.

use serde::{Deserialize, Serialize};

/// Where an account stands. A call counts on the account of every tier that its subject has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// The organisation: the root.
    Org,
    /// A project of the organisation; only subjects with a project have one.
    Project,
    /// An agent, with all its sessions.
    Agent,
    /// A session, with all its runs and subagents.
    Session,
    /// An agent below the session's own: one for each link of the delegation, over all runs of the session.
    Subagent,
    /// A run of a session, with all subagents that work in it.
    Run,
}

impl Tier {
    /// Every tier, root first.
    pub const ALL: [Self; 6] = [Self::Org, Self::Project, Self::Agent, Self::Session, Self::Subagent, Self::Run];

    /// The word in policies and JSON.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Org => "org",
            Self::Project => "project",
            Self::Agent => "agent",
            Self::Session => "session",
            Self::Subagent => "subagent",
            Self::Run => "run",
        }
    }
}
