//! A threat profile: ten declared factors, seven layers of threats, and what a listing prints.
//!
//! A profile states; it decides nothing. A missing CVSS base stays missing: without one there is a
//! factor sum and no AIVSS number.

use std::str::FromStr;

use crate::model::{Digest, FACTORS, Factors, Layer, Name, ThreatId};

/// A threat profile of one agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Slug of the title.
    pub id: Name,
    /// The agent's name.
    pub title: String,
    /// What makes it risky, in a sentence or two.
    pub summary: String,
    /// The factors as declared.
    pub factors: Factors,
    /// What is said of each layer, L1 to L7.
    pub layers: [LayerNote; 7],
    /// CVSS v4.0 base vector.
    pub cvss: Option<String>,
    /// CVSS base score in tenths, where it is printed without its vector.
    pub cvss_base: Option<u8>,
    /// AIVSS threat multiplier (ThM), hundredths.
    pub threat_multiplier: Option<u16>,
    /// AIVSS mitigation factor (MF), hundredths.
    pub mitigation: Option<u16>,
    /// The listing behind it.
    pub listing: Option<Digest>,
    /// Numbers that the listing prints as results; compared, never trusted.
    pub published: Published,
}

/// What a profile says of one layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerNote {
    /// Whether the description settles this layer.
    pub certainty: Certainty,
    /// Threats that are named.
    pub threats: Vec<ThreatId>,
    /// Threats taken as present because none is named.
    pub assumed: Vec<ThreatId>,
    /// Free text.
    pub note: String,
}

/// Whether a description settles a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certainty {
    /// It does.
    Mapped,
    /// It does not; every threat of the layer is an assumption.
    Uncertain,
}

impl Certainty {
    /// Both words with their values, as in TOML.
    pub const WORDS: [(&'static str, Self); 2] = [("mapped", Self::Mapped), ("uncertain", Self::Uncertain)];

    /// The word in TOML.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Mapped => "mapped",
            Self::Uncertain => "uncertain",
        }
    }
}

/// Results that a listing prints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// AIVSS score, tenths.
    pub aivss: Option<u8>,
    /// Its band.
    pub band: Option<Band>,
    /// AARS uplift, hundredths.
    pub aars: Option<u16>,
    /// Factor sum, hundredths.
    pub factor_sum: Option<u16>,
}

/// A severity band.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Band {
    /// 0.0
    None,
    /// 0.1 to 3.9
    Low,
    /// 4.0 to 6.9
    Medium,
    /// 7.0 to 8.9
    High,
    /// 9.0 to 10.0
    Critical,
}

impl Band {
    /// Every word with its band.
    pub const WORDS: [(&'static str, Self); 5] = [
        ("None", Self::None),
        ("Low", Self::Low),
        ("Medium", Self::Medium),
        ("High", Self::High),
        ("Critical", Self::Critical),
    ];

    /// The band of a score in tenths (AIVSS v0.8).
    #[must_use]
    pub const fn of(tenths: u8) -> Self {
        match tenths {
            0 => Self::None,
            1..=39 => Self::Low,
            40..=69 => Self::Medium,
            70..=89 => Self::High,
            _ => Self::Critical,
        }
    }

    /// Its word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Low => "Low",
            Self::Medium => "Medium",
            Self::High => "High",
            Self::Critical => "Critical",
        }
    }
}

/// Threat multipliers of AIVSS v0.8, table 4a, in hundredths.
const THREAT_MULTIPLIERS: [u16; 3] = [50, 97, 100];
/// Mitigation factors of AIVSS v0.8, table 4b, in hundredths.
const MITIGATIONS: [u16; 3] = [67, 83, 100];

impl Profile {
    /// The CVSS base score in tenths: of the vector if there is one, else as printed.
    #[must_use]
    pub fn base_tenths(&self) -> Option<u8> {
        self.cvss.as_deref().and_then(vector_tenths).or(self.cvss_base)
    }

    /// What is said of `layer`.
    #[must_use]
    pub const fn layer(&self, layer: Layer) -> &LayerNote {
        &self.layers[layer as usize]
    }

    /// Every threat, named or assumed, in table order.
    #[must_use]
    pub fn threats(&self) -> Vec<ThreatId> {
        let mut all: Vec<_> = self.layers.iter().flat_map(|l| l.threats.iter().chain(&l.assumed)).copied().collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// The threats that the profile is not sure of: assumed, or of an uncertain layer.
    #[must_use]
    pub fn assumed(&self) -> Vec<ThreatId> {
        self.threats().into_iter().filter(|threat| !self.states(*threat)).collect()
    }

    /// True when a mapped layer names `threat`.
    #[must_use]
    pub fn states(&self, threat: ThreatId) -> bool {
        let layer = self.layer(threat.row().layer);
        layer.certainty == Certainty::Mapped && layer.threats.contains(&threat)
    }

    /// Digest of the canonical TOML form; spacing and comments of a file do not change it.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(self.to_toml().as_bytes())
    }

    /// Where the profile leaves AIVSS v0.8, in sentences; empty when nowhere.
    #[must_use]
    pub fn nonconformant(&self) -> Vec<String> {
        let mut flags = vec![
            "factor names are those of AIVSS v0.5: v0.8 has no Goal-Driven Planning, and its Natural Language Interface is not stated"
                .to_owned(),
        ];
        let off: Vec<_> =
            FACTORS.iter().filter(|row| !self.factors.of(row.factor).hundredths().is_multiple_of(50)).collect();
        if !off.is_empty() {
            let keys: Vec<_> = off.iter().map(|row| row.key).collect();
            flags.push(format!("factor values other than 0, 0.5 and 1: {}", keys.join(", ")));
        }
        if let Some(multiplier) = self.threat_multiplier.filter(|value| !THREAT_MULTIPLIERS.contains(value)) {
            flags.push(format!("threat multiplier {} is not 0.50, 0.97 or 1.00", places(multiplier)));
        }
        if let Some(mitigation) = self.mitigation.filter(|value| !MITIGATIONS.contains(value)) {
            flags.push(format!("mitigation factor {} is not 0.67, 0.83 or 1.00", places(mitigation)));
        }
        if self.cvss.is_none() && self.cvss_base.is_some() {
            flags.push("a CVSS base without its vector: that it is CVSS v4.0 cannot be checked".to_owned());
        }
        let sum = self.factors.sum_hundredths();
        if let Some(printed) = self.published.factor_sum.filter(|printed| u32::from(*printed) != sum) {
            flags.push(format!("the printed factor sum {} is not the sum of the factors", places(printed)));
        }
        flags
    }
}

/// The base score of a CVSS v4.0 vector in tenths; `None` when it is not one, or has metrics beyond
/// the base ones (exploit maturity would then count twice, here and in the threat multiplier).
pub(super) fn vector_tenths(vector: &str) -> Option<u8> {
    let vector = cvss::v4::Vector::from_str(vector).ok()?;
    let only_base = vector.nomenclature() == cvss::v4::Nomenclature::CvssB;
    if only_base { tenths(vector.score().value()) } else { None }
}

/// A score in tenths.
fn tenths(score: f64) -> Option<u8> {
    let scaled = (score * 10.0).round();
    (0.0..=100.0).contains(&scaled).then_some(scaled as u8)
}

/// Hundredths with two places.
pub(super) fn places(hundredths: u16) -> String {
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
}

/// A slug of `title`: lower case, digits and single hyphens. A title without a Latin letter or digit
/// is named after its digest.
pub(super) fn slug(title: &str) -> Option<Name> {
    let mut text = String::new();
    for c in title.chars() {
        if c.is_ascii_alphanumeric() {
            text.push(c.to_ascii_lowercase());
        } else if !text.is_empty() && !text.ends_with('-') {
            text.push('-');
        }
        if text.len() >= 64 {
            break;
        }
    }
    let text = text.trim_end_matches('-');
    if text.is_empty() {
        let hex = Digest::of(title.as_bytes()).hex();
        return Name::new(format!("agent-{}", hex.get(..8)?)).ok();
    }
    Name::new(text).ok()
}
