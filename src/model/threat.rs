//! The closed table of threats that profiles may name and policies must answer.
//!
//! Layers are those of MAESTRO (Cloud Security Alliance, 2025-02-06). A threat is written
//! `L<layer>/<slug>`.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// A MAESTRO layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Layer {
    /// Foundation models.
    L1,
    /// Data operations.
    L2,
    /// Agent frameworks.
    L3,
    /// Deployment and infrastructure.
    L4,
    /// Evaluation and observability.
    L5,
    /// Security and compliance.
    L6,
    /// Agent ecosystem.
    L7,
}

impl Layer {
    /// Every layer, in order.
    pub const ALL: [Self; 7] = [Self::L1, Self::L2, Self::L3, Self::L4, Self::L5, Self::L6, Self::L7];

    /// `L1` to `L7`.
    #[must_use]
    pub const fn word(self) -> &'static str {
        ["L1", "L2", "L3", "L4", "L5", "L6", "L7"][self as usize]
    }

    /// The layer's name in MAESTRO.
    #[must_use]
    pub const fn title(self) -> &'static str {
        [
            "Foundation Models",
            "Data Operations",
            "Agent Frameworks",
            "Deployment and Infrastructure",
            "Evaluation and Observability",
            "Security and Compliance",
            "Agent Ecosystem",
        ][self as usize]
    }
}

/// One row of [`THREATS`].
#[derive(Clone, Copy, Debug)]
pub struct ThreatRow {
    /// The id, `L3/tool-misuse`.
    pub id: &'static str,
    /// The layer.
    pub layer: Layer,
    /// The name in the catalogue.
    pub title: &'static str,
    /// Words in a listing's paragraph that name this threat, in lower case.
    pub words: &'static [&'static str],
}

/// Every known threat.
pub const THREATS: &[ThreatRow] =
    &[ThreatRow { id: "L3/tool-misuse", layer: Layer::L3, title: "Agent Tool Misuse", words: &["tool misuse"] }];

/// A threat out of [`THREATS`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ThreatId(u16);

impl ThreatId {
    /// The threat written `text`, if the table has it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let index = THREATS.iter().position(|row| row.id == text)?;
        u16::try_from(index).ok().map(Self)
    }

    /// Its row.
    #[must_use]
    pub fn row(self) -> &'static ThreatRow {
        &THREATS[usize::from(self.0)]
    }

    /// Its id.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.row().id
    }

    /// Every threat of the table.
    pub fn all() -> impl Iterator<Item = Self> {
        THREATS.iter().filter_map(|row| Self::parse(row.id))
    }
}

impl fmt::Display for ThreatId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for ThreatId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for ThreatId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for ThreatId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| D::Error::custom(format!("unknown threat `{text}`")))
    }
}
