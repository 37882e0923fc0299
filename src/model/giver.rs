//! Who gave an order about an account, and what an order to let it go on lifts.
//!
//! What a gate has stopped for itself and what an order that went round has stopped are told apart by this alone. Who
//! gave an order that went round is what the shared database says of it, never what the order says of itself.

use serde::{Deserialize, Serialize};

use super::Limits;

/// Who gave an order about an account.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Giver {
    /// This gate: its own operator, or an alarm.
    #[default]
    Here,
    /// The office of the database that several gates share; it went round all of them.
    Office,
    /// The gate of this name, through that database; it went round all of them.
    Gate(String),
}

impl Giver {
    /// Who gave an order that went round: the office where the database names no gate. A name is cut to what one may
    /// have, for the gate that chose it may be anybody's.
    #[must_use]
    pub fn round(gate: Option<&str>) -> Self {
        gate.map_or(Self::Office, |gate| Self::Gate(gate.chars().take(Limits::NAME_BYTES).collect()))
    }

    /// Whether it was given at this gate and nowhere else.
    #[must_use]
    pub const fn is_here(&self) -> bool {
        matches!(self, Self::Here)
    }

    /// What it lifts when it lets an account go on. Another gate never lifts what this one has stopped for itself.
    #[must_use]
    pub const fn lifts(&self) -> Lifts {
        match self {
            Self::Here | Self::Office => Lifts::All,
            Self::Gate(_) => Lifts::Round,
        }
    }
}

/// What is lifted of all that stops an account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lifts {
    /// Everything.
    #[default]
    All,
    /// What this gate has stopped for itself.
    Own,
    /// What an order that went round has stopped.
    Round,
}

impl Lifts {
    /// Whether it is everything.
    #[must_use]
    pub const fn is_all(&self) -> bool {
        matches!(self, Self::All)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_database_gives_to_no_gate_is_the_offices() {
        assert_eq!(Giver::round(None), Giver::Office);
        assert_eq!(Giver::round(Some("")), Giver::Gate(String::new()));
        assert_eq!(Giver::round(Some("office")).lifts(), Lifts::Round);
        let Giver::Gate(name) = Giver::round(Some(&"\u{e9}".repeat(1_000))) else { panic!("a gate") };
        assert_eq!(name.chars().count(), Limits::NAME_BYTES);
    }
}
