//! The ten risk factors as one table, and declared values for them.
//!
//! Order and labels are those of public directory listings (AIVSS v0.5 names); each row also names
//! its key in OWASP AIVSS v0.8, section 2.2, where there is one.

use serde::{Deserialize, Serialize};

/// An agentic risk amplification factor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Factor {
    /// Acting without a person's check.
    Autonomy,
    /// Planning towards goals stated in natural language.
    Planning,
    /// Changing its own code, prompts or tools.
    SelfModification,
    /// Breadth and privilege of tools.
    Tools,
    /// State kept across sessions.
    Persistence,
    /// Use of the environment in decisions.
    Context,
    /// Change of identity or role at run time.
    Identity,
    /// Coordination with other agents.
    MultiAgent,
    /// Variance that can change outcomes.
    NonDeterminism,
    /// Actions that cannot be traced to their cause.
    Opacity,
}

/// One row of [`FACTORS`].
#[derive(Clone, Copy, Debug)]
pub struct FactorRow {
    /// The factor.
    pub factor: Factor,
    /// Its key in TOML and JSON.
    pub key: &'static str,
    /// Its label in a listing.
    pub label: &'static str,
    /// Its key in AIVSS v0.8; `None` where v0.8 has no counterpart.
    pub aivss: Option<&'static str>,
}

macro_rules! factor {
    ($factor:ident, $key:literal, $label:literal, $aivss:expr) => {
        FactorRow { factor: Factor::$factor, key: $key, label: $label, aivss: $aivss }
    };
}

/// Every factor, in the order of listings and of [`Factor`].
pub const FACTORS: [FactorRow; 10] = [
    factor!(Autonomy, "autonomy", "Autonomy of Action", Some("autonomy")),
    factor!(Planning, "planning", "Goal-Driven Planning", None),
    factor!(SelfModification, "self_modification", "Self-Modification", Some("self_mod")),
    factor!(Tools, "tools", "Dynamic Tool Use", Some("tools")),
    factor!(Persistence, "persistence", "Persistent Memory", Some("persistence")),
    factor!(Context, "context", "Contextual Awareness", Some("context")),
    factor!(Identity, "identity", "Dynamic Identity", Some("identity")),
    factor!(MultiAgent, "multi_agent", "Multi-Agent Interactions", Some("multi_agent")),
    factor!(NonDeterminism, "non_determinism", "Non-Determinism", Some("non_determinism")),
    factor!(Opacity, "opacity", "Opacity & Reflexivity", Some("opacity")),
];

impl Factor {
    /// The row of this factor.
    #[must_use]
    pub const fn row(self) -> &'static FactorRow {
        &FACTORS[self as usize]
    }

    /// The factor with this key.
    #[must_use]
    pub fn from_key(key: &str) -> Option<Self> {
        FACTORS.iter().find(|row| row.key == key).map(|row| row.factor)
    }
}

/// A value of 0.00 to 1.00 in hundredths: exact, so that sums and scores are too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Level(u8);

impl Level {
    /// The lowest level.
    pub const NONE: Self = Self(0);
    /// AIVSS "partial".
    pub const PARTIAL: Self = Self(50);
    /// AIVSS "full".
    pub const FULL: Self = Self(100);

    /// A level of `hundredths`; `None` above 100.
    #[must_use]
    pub const fn from_hundredths(hundredths: u8) -> Option<Self> {
        if hundredths <= 100 { Some(Self(hundredths)) } else { None }
    }

    /// The level in hundredths, 0 to 100.
    #[must_use]
    pub const fn hundredths(self) -> u8 {
        self.0
    }

    /// The level as a fraction of one.
    #[must_use]
    pub fn fraction(self) -> f64 {
        f64::from(self.0) / 100.0
    }
}

/// One level per factor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Factors([Level; FACTORS.len()]);

impl Factors {
    /// The level of `factor`.
    #[must_use]
    pub const fn of(&self, factor: Factor) -> Level {
        self.0[factor as usize]
    }

    /// Sets the level of `factor`.
    pub const fn set(&mut self, factor: Factor, level: Level) {
        self.0[factor as usize] = level;
    }

    /// The sum of all ten, in hundredths, 0 to 1000.
    #[must_use]
    pub fn sum_hundredths(&self) -> u32 {
        self.0.iter().map(|level| u32::from(level.hundredths())).sum()
    }
}
