//! Why a sandbox could not be opened or an interpreter not started, in words that say what to do.

use crate::model::Outcome;

/// A fault of the sandbox itself, never of the program that runs in it.
#[derive(Debug, thiserror::Error)]
pub enum SandboxFault {
    /// The cache folder cannot be used.
    #[error("the sandbox's cache folder cannot be used: {0}; set WEIR_CACHE to a folder that you own")]
    Cache(String),
    /// The interpreter could not be built.
    #[error("the sandbox's interpreter could not be built: {0}")]
    Build(String),
    /// The interpreter could not be compiled or loaded.
    #[error("the sandbox's interpreter could not be loaded: {0}")]
    Load(String),
    /// The grant names something that cannot be given.
    #[error("the sandbox cannot give what the policy grants: {0}")]
    Grant(String),
    /// A guest that nobody has built yet, or not for this version.
    #[error("the guest {0} is not built yet; the operator runs `{1}` once")]
    Unbuilt(&'static str, String),
    /// A file that cannot be a guest.
    #[error("this file was not added: {0}; nothing was changed")]
    Added(String),
    /// Packages that are not what the policy says, or that no guest can have.
    #[error("the policy's packages cannot be given:\n  {0}")]
    Packages(String),
    /// Packages that nobody has fetched yet.
    #[error("the packages {0} are not prepared; the operator runs `weir guest packages` with this policy once")]
    Unprepared(String),
    /// A worker could not be started.
    #[error("the sandbox's worker cannot run: {0}")]
    Worker(String),
    /// The memory limit is below what an empty interpreter needs.
    #[error("the memory limit of {0} bytes is less than an empty interpreter needs (about 24 MiB, more with packages)")]
    Memory(u64),
}

impl SandboxFault {
    /// The outcome of an execution that could not start.
    pub(crate) fn outcome(&self) -> Outcome {
        super::broken(&self.to_string())
    }
}
