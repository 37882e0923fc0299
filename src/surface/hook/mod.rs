//! Hooks of coding agents: what Claude Code and Codex tell before and after they run a tool, and what they are told.
//!
//! The wire's form only: events in, answers out, the shim that carries both, and the settings that make a client use
//! it. The sidecar's route (`http/hooks.rs`) gives the calls to the gate; nothing here decides.

mod answer;
mod event;
#[cfg(test)]
mod hostile;
mod install;
mod shim;

pub use install::{Change, Fault as InstallFault, Layout, Plan, Wish, plan, undo};
pub use shim::{Carrier, Exit, carry, telemetry_headers};

pub(crate) use answer::{allowed, deferred, denied, halted, silent};
pub(crate) use event::{Event, Use, What, session_name};

/// A coding agent whose hooks are understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Client {
    /// Anthropic's Claude Code.
    ClaudeCode,
    /// OpenAI's Codex CLI.
    Codex,
}

impl Client {
    /// Every client.
    pub const ALL: [Self; 2] = [Self::ClaudeCode, Self::Codex];

    /// The word in paths and options.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::ClaudeCode => "claude-code",
            Self::Codex => "codex",
        }
    }

    /// The client named by `word`.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|client| client.word() == word)
    }
}
