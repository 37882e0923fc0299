//! The score report: ten factors, their sums, AIVSS where a base score is known, and how good the
//! evidence is. Built from values only; who verified the journal says so in [`Quality`].
//!
//! Intervals of sums take the factors as independent. AIVSS is monotone in the factor sum, so its
//! bounds come from the sum's bounds.

use serde::Serialize;

use super::{
    FactorScore, Sufficiency,
    aivss::{AIVSS_VERSION, DEFAULT_MITIGATION, DEFAULT_THREAT_MULTIPLIER, aivss_v08, band, cvss_base},
    beta::Z_95,
};
use crate::model::{Digest, Name};

/// The version of [`ScoreReport`]'s shape.
pub const SCORE_SCHEMA: u32 = 1;

/// How good the evidence is; kept apart from the risk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Quality {
    /// Sessions in which any call happened.
    pub sessions: u64,
    /// Calls seen, refused ones included.
    pub calls: u64,
    /// Whether the journal's chain was verified just before; `None` when nobody tried.
    pub chain_verified: Option<bool>,
    /// Entries of the journal.
    pub entries: u64,
}

/// What a report is made from.
#[derive(Clone, Debug)]
pub struct ReportParts<'a> {
    /// Id and digest of the policy in force, when one is known.
    pub policy: Option<(&'a Name, Digest)>,
    /// Id and digest of the profile behind it.
    pub profile: Option<(&'a Name, Digest)>,
    /// The ten factors.
    pub factors: Vec<FactorScore>,
    /// CVSS v4.0 base vector of the profile.
    pub cvss: Option<&'a str>,
    /// CVSS base in tenths, where a listing prints the number without its vector.
    pub cvss_base: Option<u8>,
    /// Threat multiplier, hundredths.
    pub threat_multiplier: Option<u16>,
    /// Mitigation factor, hundredths.
    pub mitigation: Option<u16>,
    /// How good the evidence is.
    pub quality: Quality,
}

/// The id and digest of a policy or profile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Named {
    id: Name,
    digest: Digest,
}

/// Sums over the ten factors, 0 to 10.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FactorSums {
    /// Of the declared values.
    pub declared: Option<f64>,
    /// Of the declared values, none above what the policy permits.
    pub capped: Option<f64>,
    /// Of what counts: observed where evidenced, never below declared elsewhere.
    pub observed: Option<f64>,
    /// 95 % interval around the posterior means.
    pub interval: (f64, f64),
}

/// AIVSS v0.8 for the factor sums.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AivssScores {
    /// CVSS v4.0 base score.
    pub cvss_base: f64,
    /// Threat multiplier.
    pub threat_multiplier: f64,
    /// Mitigation factor.
    pub mitigation: f64,
    /// From the lower bound of the factor sum, rounded down.
    pub low: f64,
    /// From the declared values.
    pub declared: Option<f64>,
    /// From the declared values under the policy's ceiling.
    pub capped: Option<f64>,
    /// From the observed sum.
    pub observed: Option<f64>,
    /// From the upper bound of the factor sum, rounded up.
    pub high: f64,
    /// Severity band of `observed`, or of `declared` without it.
    pub band: Option<&'static str>,
}

/// Everything that `weir score --json` prints.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ScoreReport {
    /// Version of this shape.
    pub schema: u32,
    /// Version of AIVSS.
    pub aivss_version: &'static str,
    /// Version of the program.
    pub weir: &'static str,
    policy: Option<Named>,
    profile: Option<Named>,
    /// One row per factor, in table order.
    pub factors: Vec<FactorScore>,
    /// Sums over the factors.
    pub factor_sum: FactorSums,
    /// AIVSS; `None` without a CVSS base score.
    pub aivss: Option<AivssScores>,
    /// In one sentence: what AIVSS says, or why there is none.
    pub aivss_note: String,
    /// Values outside AIVSS v0.8, and defaults taken.
    pub notes: Vec<String>,
    /// How good the evidence is.
    pub quality: Quality,
}

/// Builds the report.
#[must_use]
pub fn report(parts: ReportParts<'_>) -> ScoreReport {
    let factor_sum = sums(&parts.factors);
    let mut notes = Vec::new();
    let (aivss, aivss_note) = match base(&parts) {
        Ok(base) => {
            let scores = scores(base, &parts, &factor_sum, &mut notes);
            let note = sentence(&scores);
            (Some(scores), note)
        }
        Err(why) => (None, why),
    };
    notes.extend(nonconformant(&parts));
    let named = |(id, digest): (&Name, Digest)| Named { id: id.clone(), digest };
    ScoreReport {
        schema: SCORE_SCHEMA,
        aivss_version: AIVSS_VERSION,
        weir: env!("CARGO_PKG_VERSION"),
        policy: parts.policy.map(named),
        profile: parts.profile.map(named),
        factors: parts.factors,
        factor_sum,
        aivss,
        aivss_note,
        notes,
        quality: parts.quality,
    }
}

/// The base score in tenths, or why there is none.
fn base(parts: &ReportParts<'_>) -> Result<u8, String> {
    match (parts.cvss, parts.cvss_base) {
        (Some(vector), _) => cvss_base(vector).map_err(|fault| format!("No AIVSS number: {fault}.")),
        (None, Some(tenths)) if tenths <= 100 => Ok(tenths),
        (None, Some(_)) => Err("No AIVSS number: the profile's CVSS base is above 10.0.".into()),
        (None, None) => Err("No AIVSS number: the profile gives no CVSS v4.0 base score, and none is made up; \
             compare the factors and their sum."
            .into()),
    }
}

/// The sums over the factors.
fn sums(factors: &[FactorScore]) -> FactorSums {
    let total = |value: fn(&FactorScore) -> Option<f64>| {
        // Values of two digits add up to a number of two digits, whatever binary fractions do.
        factors.iter().map(value).sum::<Option<f64>>().map(|sum| (sum * 1e9).round() / 1e9)
    };
    let observed = total(|score| score.counted);
    let mean: f64 = factors.iter().map(|score| score.posterior.mean()).sum();
    let deviation = factors.iter().map(|score| score.posterior.variance()).sum::<f64>().sqrt();
    // A sum that counts declared values can lie outside the interval of the means: take it in.
    let low = (mean - Z_95 * deviation).min(observed.unwrap_or(mean)).clamp(0.0, 10.0);
    let high = (mean + Z_95 * deviation).max(observed.unwrap_or(mean)).clamp(0.0, 10.0);
    FactorSums {
        declared: total(|score| score.declared),
        capped: total(|score| Some(score.declared?.min(score.permitted.unwrap_or(1.0)))),
        observed,
        interval: (low, high),
    }
}

fn scores(base: u8, parts: &ReportParts<'_>, sum: &FactorSums, notes: &mut Vec<String>) -> AivssScores {
    let threat = parts.threat_multiplier.unwrap_or_else(|| {
        notes.push(
            "The profile states no threat multiplier: 0.97 (proof of concept) is taken, AIVSS v0.8's default.".into(),
        );
        DEFAULT_THREAT_MULTIPLIER
    });
    let mitigation = parts.mitigation.unwrap_or_else(|| {
        notes.push("The profile states no mitigation factor: 1.00 (none) is taken, AIVSS v0.8's default.".into());
        DEFAULT_MITIGATION
    });
    let at = |hundredths: u32| aivss_v08(base, hundredths, threat, mitigation);
    let exact = |value: Option<f64>| value.map(|value| at(hundredths(value.mul_add(100.0, 0.5).floor())));
    let (declared, observed) = (exact(sum.declared), exact(sum.observed));
    AivssScores {
        cvss_base: f64::from(base) / 10.0,
        threat_multiplier: f64::from(threat) / 100.0,
        mitigation: f64::from(mitigation) / 100.0,
        low: points(at(hundredths((sum.interval.0 * 100.0).floor()))),
        declared: declared.map(points),
        capped: exact(sum.capped).map(points),
        observed: observed.map(points),
        high: points(at(hundredths((sum.interval.1 * 100.0).ceil()))),
        band: observed.or(declared).map(band),
    }
}

/// Whole hundredths of a sum.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 0..=1000 just before")]
fn hundredths(value: f64) -> u32 {
    value.clamp(0.0, 1000.0) as u32
}

fn points(tenths: u8) -> f64 {
    f64::from(tenths) / 10.0
}

fn sentence(scores: &AivssScores) -> String {
    let shown = |value: Option<f64>| value.map_or_else(|| "unknown".to_owned(), |value| format!("{value:.1}"));
    format!(
        "AIVSS v{AIVSS_VERSION} is {} declared and {} observed ({}), between {:.1} and {:.1} with 95 %; near 10 all agents \
         look alike, so compare the factors.",
        shown(scores.declared),
        shown(scores.observed),
        scores.band.unwrap_or("no band"),
        scores.low,
        scores.high,
    )
}

/// What lies outside the values of AIVSS v0.8.
fn nonconformant(parts: &ReportParts<'_>) -> Vec<String> {
    let mut notes = Vec::new();
    let between = |value: f64| !(value == 0.0 || value == 0.5 || value == 1.0);
    if parts.factors.iter().filter_map(|score| score.declared).any(between) {
        notes.push("Declared values other than 0, 0.5 and 1 are outside AIVSS v0.8 and used as they are.".into());
    }
    if parts.threat_multiplier.is_some_and(|value| ![50, 97, 100].contains(&value)) {
        notes.push("The threat multiplier is outside AIVSS v0.8 (0.50, 0.97, 1.00) and used as it is.".into());
    }
    if parts.mitigation.is_some_and(|value| ![67, 83, 100].contains(&value)) {
        notes.push("The mitigation factor is outside AIVSS v0.8 (0.67, 0.83, 1.00) and used as it is.".into());
    }
    if parts.factors.iter().any(|score| score.status != Sufficiency::Evidenced) {
        notes.push("Factors that are not evidenced count at least as high as declared.".into());
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{Factors, Level},
        risk::{Beta, Posterior},
    };

    /// The ten declared values of the three listings under policies/profiles, in table order.
    const LISTINGS: [(&str, [u8; 10]); 3] = [
        ("smolagents", [70, 80, 30, 80, 40, 60, 20, 50, 70, 50]),
        ("autogen", [80, 90, 70, 90, 50, 80, 40, 100, 80, 70]),
        ("ml-research", [80, 80, 30, 70, 40, 60, 20, 50, 70, 60]),
    ];

    fn declared(values: [u8; 10]) -> Factors {
        let mut factors = Factors::default();
        for (row, value) in crate::model::FACTORS.iter().zip(values) {
            factors.set(row.factor, Level::from_hundredths(value).unwrap());
        }
        factors
    }

    fn parts(values: [u8; 10]) -> ReportParts<'static> {
        ReportParts {
            policy: None,
            profile: None,
            factors: Posterior::default().scores(Some(&declared(values)), &[None; 10]),
            cvss: None,
            cvss_base: None,
            threat_multiplier: None,
            mitigation: None,
            quality: Quality { sessions: 0, calls: 0, chain_verified: None, entries: 0 },
        }
    }

    #[test]
    fn sums_of_the_listings_and_their_intervals_are_the_computed_ones() {
        let golden = [(5.5, [462, 628]), (7.5, [651, 799]), (5.6, [471, 637])];
        for ((name, values), (sum, bounds)) in LISTINGS.into_iter().zip(golden) {
            // Quantiles by simulation, for a prior of ten pseudo-sessions; ours are the normal approximation.
            let mut factors = parts(values).factors;
            for (score, value) in factors.iter_mut().zip(values) {
                (score.counted, score.posterior) = (None, Beta::prior(Level::from_hundredths(value), 10.0));
            }
            let sums = sums(&factors);
            let [low, high] = bounds.map(|hundredths| f64::from(hundredths) / 100.0);
            assert!((sums.declared.unwrap() - sum).abs() < 1e-9, "{name}");
            assert!((sums.interval.0 - low).abs() < 0.03 && (sums.interval.1 - high).abs() < 0.03, "{name} {sums:?}");
        }
    }

    #[test]
    fn without_a_base_score_there_is_no_aivss_and_the_report_says_why() {
        let report = report(parts(LISTINGS[0].1));
        assert_eq!(report.aivss, None);
        assert!(report.aivss_note.contains("no CVSS v4.0 base score"), "{}", report.aivss_note);
        assert!((report.factor_sum.observed.unwrap() - 5.5).abs() < 1e-9, "declared stands");
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["aivss"], serde_json::Value::Null);
        assert_eq!(json["factors"][0]["status"], "prior-only");
    }

    #[test]
    fn with_a_base_score_there_are_four_numbers_in_order() {
        for (_, values) in LISTINGS {
            let with_base = ReportParts { cvss_base: Some(85), ..parts(values) };
            let scores = report(with_base).aivss.unwrap();
            let declared = scores.declared.unwrap();
            assert!(scores.low <= declared && declared <= scores.high, "{scores:?}");
            let sum: u32 = values.iter().map(|value| u32::from(*value)).sum();
            assert_eq!(declared, f64::from(aivss_v08(85, sum, 97, 100)) / 10.0);
        }
    }

    #[test]
    fn a_vector_is_scored_and_a_bad_one_is_explained() {
        let vector = "CVSS:4.0/AV:N/AC:L/AT:N/PR:N/UI:N/VC:H/VI:H/VA:H/SC:N/SI:N/SA:N";
        let good = report(ReportParts { cvss: Some(vector), ..parts(LISTINGS[0].1) });
        assert_eq!(good.aivss.map(|scores| scores.cvss_base), Some(9.3));
        let bad = report(ReportParts { cvss: Some("CVSS:3.1/AV:N"), cvss_base: Some(93), ..parts(LISTINGS[0].1) });
        assert_eq!(bad.aivss, None, "the number does not stand in for a vector that is wrong");
        assert!(bad.aivss_note.contains("CVSS v4.0 base vectors only"));
    }

    #[test]
    fn the_policy_caps_what_was_declared_and_nothing_else() {
        let mut permitted = [None; 10];
        permitted[0] = Some(Level::NONE);
        permitted[2] = Some(Level::FULL);
        let factors = Posterior::default().scores(Some(&declared(LISTINGS[0].1)), &permitted);
        let sums = sums(&factors);
        assert!((sums.capped.unwrap() - 4.8).abs() < 1e-9, "autonomy 0.7 is gone, self-modification stays 0.3");
        assert!((sums.observed.unwrap() - 5.5).abs() < 1e-9);
    }

    #[test]
    fn values_outside_the_standard_and_defaults_are_named() {
        let odd = ReportParts {
            cvss_base: Some(85),
            threat_multiplier: Some(110),
            mitigation: Some(90),
            ..parts(LISTINGS[0].1)
        };
        let notes = report(odd).notes.join("\n");
        for word in ["Declared values", "threat multiplier is outside", "mitigation factor is outside"] {
            assert!(notes.contains(word), "{notes}");
        }
        let plain = report(ReportParts { cvss_base: Some(85), ..parts([50; 10]) }).notes.join("\n");
        assert!(plain.contains("no threat multiplier") && !plain.contains("outside"), "{plain}");
    }
}
