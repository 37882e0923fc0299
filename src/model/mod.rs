//! The nouns of the gate: plain data that every other module shares.
//!
//! Nothing here decides, stores or measures; construction checks bounds and that is all.
//! This module depends on no other module of the crate.

mod amount;
mod call;
mod canonical;
mod decision;
mod digest;
mod evidence;
mod factor;
mod giver;
mod grant;
mod json;
mod kind;
mod limits;
mod name;
mod outcome;
mod pot;
mod reason;
mod secret;
mod threat;
mod tier;
mod time;
mod window;

pub use amount::{Amounts, exact};
pub use call::{Action, Call, CallId, Resource, Seat, Subject};
pub use decision::{Alternative, Decision, Effect, Obligation};
pub use digest::Digest;
pub use evidence::{Evidence, Happened};
pub use factor::{FACTORS, Factor, FactorRow, Factors, Level};
pub use giver::{Giver, Lifts};
pub use grant::{
    Access, Checkpoint, Clock, CodeGrant, CodeLimits, ExecGrant, ExecLimits, Keep, Network, Package, Preopen, Quota,
    Randomness, Record, Scratch, memory_ms,
};
pub use json::{JsonFault, canonical, parse_json};
pub use kind::{Excess, KINDS, Kind, KindRow, Nature, OnCrash};
pub use limits::Limits;
pub use name::{Name, NameFault};
pub use outcome::{GuestError, Outcome, OutputFile, Status};
pub use pot::Pot;
pub use reason::{Fault, REASONS, Reason, ReasonCode, ReasonRow, Retry};
pub use secret::{Secret, SecretFault};
pub use threat::{Layer, THREATS, ThreatId, ThreatRow};
pub use tier::Tier;
pub use time::{Millis, Timestamp};
pub use window::{Watch, Window};

/// The class of effect that a tool has on the world outside the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EffectClass {
    /// Returns information and changes nothing.
    Read,
    /// Changes state on this machine.
    Write,
    /// Runs code or commands.
    Exec,
    /// Exchanges data with another machine.
    Network,
    /// Costs money.
    Spend,
}

impl EffectClass {
    /// Every class, mildest first.
    pub const ALL: [Self; 5] = [Self::Read, Self::Write, Self::Exec, Self::Network, Self::Spend];

    /// The word used in policies, logs and Cedar contexts.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Exec => "exec",
            Self::Network => "network",
            Self::Spend => "spend",
        }
    }

    /// The class named by `word`, if there is one.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.word() == word)
    }

    /// How strict a class is beside the others, 0 the mildest: read, write, network, exec, spend. A program that runs
    /// whatever it is given can also send.
    #[must_use]
    pub const fn strictness(self) -> u8 {
        match self {
            Self::Read => 0,
            Self::Write => 1,
            Self::Network => 2,
            Self::Exec => 3,
            Self::Spend => 4,
        }
    }

    /// The stricter of two classes.
    #[must_use]
    pub const fn stricter(self, other: Self) -> Self {
        if other.strictness() > self.strictness() { other } else { self }
    }
}
