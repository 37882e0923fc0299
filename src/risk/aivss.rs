//! OWASP AIVSS v0.8 (2026-03-19), Part 2, sections 2 and 3, in whole numbers.
//!
//! `AIVSS = (base + (10 - base) * (factor_sum / 10) * ThM) * MF`, rounded half up to a tenth. Binary
//! floating point gets the tenth wrong where the exact value ends in 5, so every input is an integer
//! and the rounding is the only division. No base score is ever made up here: it comes from a CVSS
//! v4.0 vector, scored by the `cvss` crate, or there is no AIVSS number.

use std::str::FromStr as _;

use cvss::v4::{Nomenclature, Vector};

/// The version of AIVSS whose equation this is; stands in every report.
pub const AIVSS_VERSION: &str = "0.8";

/// Threat multiplier when none is stated: proof of concept (v0.8, table 4a), in hundredths.
pub const DEFAULT_THREAT_MULTIPLIER: u16 = 97;

/// Mitigation factor when none is stated: no or weak mitigation (v0.8, table 4b), in hundredths.
pub const DEFAULT_MITIGATION: u16 = 100;

/// The AIVSS v0.8 score in tenths, 0 to 100.
///
/// * `cvss_tenths`: CVSS v4.0 base score, 0 to 100 tenths.
/// * `sum_hundredths`: sum of the ten factors, 0 to 1000 hundredths.
/// * `thm_hundredths`: threat multiplier; 50, 97 or 100 in v0.8.
/// * `mf_hundredths`: mitigation factor; 67, 83 or 100 in v0.8.
///
/// Base score and sum are cut to their range. The result can only pass 10.0 when a multiplier is
/// above 1, which v0.8 does not know but listings contain; it is then 10.0.
#[must_use]
pub fn aivss_v08(cvss_tenths: u8, sum_hundredths: u32, thm_hundredths: u16, mf_hundredths: u16) -> u8 {
    let base = u64::from(cvss_tenths.min(100));
    let sum = u64::from(sum_hundredths.min(1000));
    // Tenths of 10.0 times 100_000, so that base and uplift share one denominator of 10^6 per point.
    let before_mitigation = base * 100_000 + (100 - base) * sum * u64::from(thm_hundredths);
    let exact = before_mitigation * u64::from(mf_hundredths);
    let tenths = (exact + 5_000_000) / 10_000_000;
    u8::try_from(tenths.min(100)).unwrap_or(100)
}

/// The severity band of a score in tenths (v0.8, section 3.2; 0.0 is `None` as in CVSS).
#[must_use]
pub const fn band(tenths: u8) -> &'static str {
    match tenths {
        0 => "None",
        1..=39 => "Low",
        40..=69 => "Medium",
        70..=89 => "High",
        _ => "Critical",
    }
}

/// Why a CVSS vector gives no base score for AIVSS.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CvssFault {
    /// CVSS 2, 3.0, 3.1 or something else.
    #[error("AIVSS v0.8 takes CVSS v4.0 base vectors only: this does not start with `CVSS:4.0/`")]
    Version,
    /// Threat or environmental metrics beside the base metrics.
    #[error(
        "the vector is {0}, AIVSS v0.8 takes CVSS-B: leave out E and the environmental metrics (exploit maturity \
         enters AIVSS through the threat multiplier and would count twice)"
    )]
    NotBase(String),
    /// A missing, repeated or unknown metric.
    #[error("not a CVSS v4.0 vector: {0}")]
    Malformed(String),
}

/// The base score in tenths of a CVSS v4.0 base vector.
///
/// Metrics stated as `X` (not defined) are as good as absent; supplemental metrics do not change a
/// score.
///
/// # Errors
/// [`CvssFault`]: another CVSS version, threat or environmental metrics, or no valid vector.
pub fn cvss_base(vector: &str) -> Result<u8, CvssFault> {
    let vector = vector.trim();
    if !vector.starts_with("CVSS:4.0/") {
        return Err(CvssFault::Version);
    }
    let defined: Vec<&str> = vector.split('/').filter(|metric| !metric.ends_with(":X")).collect();
    let parsed =
        Vector::from_str(&defined.join("/")).map_err(|error| CvssFault::Malformed(clip(&error.to_string())))?;
    match parsed.nomenclature() {
        Nomenclature::CvssB => Ok(tenths(parsed.score().value())),
        other => Err(CvssFault::NotBase(other.to_string())),
    }
}

/// A score of 0.0 to 10.0, already rounded to a tenth, as tenths.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 0..=100 just before")]
fn tenths(score: f64) -> u8 {
    (score * 10.0).round().clamp(0.0, 100.0) as u8
}

/// The start of a library's message, which may quote the vector.
fn clip(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(120).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// v0.8, section 3.6: vector without its prefix, base in tenths, factor sum and score (ThM 0.97, MF 1).
    const PUBLISHED: [(&str, u8, u32, u8, &str); 10] = [
        ("AV:N/AC:L/AT:N/PR:N/UI:A/VC:H/VI:H/VA:H/SC:H/SI:H/SA:H", 94, 900, 99, "Critical"),
        ("AV:N/AC:L/AT:N/PR:L/UI:N/VC:H/VI:H/VA:H/SC:N/SI:N/SA:N", 87, 800, 97, "Critical"),
        ("AV:N/AC:H/AT:N/PR:L/UI:N/VC:N/VI:N/VA:H/SC:N/SI:H/SA:H", 71, 800, 94, "Critical"),
        ("AV:A/AC:L/AT:N/PR:L/UI:N/VC:H/VI:H/VA:H/SC:H/SI:H/SA:H", 94, 950, 100, "Critical"),
        ("AV:N/AC:H/AT:N/PR:N/UI:A/VC:H/VI:H/VA:N/SC:N/SI:N/SA:N", 74, 750, 93, "Critical"),
        ("AV:A/AC:H/AT:N/PR:H/UI:N/VC:L/VI:H/VA:L/SC:N/SI:N/SA:N", 58, 750, 89, "High"),
        ("AV:A/AC:L/AT:N/PR:H/UI:N/VC:N/VI:H/VA:H/SC:N/SI:N/SA:N", 69, 750, 92, "Critical"),
        ("AV:N/AC:L/AT:N/PR:N/UI:N/VC:H/VI:H/VA:H/SC:N/SI:N/SA:N", 93, 650, 97, "Critical"),
        ("AV:N/AC:L/AT:N/PR:L/UI:N/VC:N/VI:L/VA:N/SC:N/SI:N/SA:N", 53, 650, 83, "High"),
        ("AV:N/AC:H/AT:N/PR:N/UI:A/VC:L/VI:L/VA:N/SC:N/SI:N/SA:N", 21, 650, 71, "High"),
    ];

    #[test]
    fn the_ten_published_examples_come_out_exactly() {
        for (vector, base, sum, score, severity) in PUBLISHED {
            assert_eq!(cvss_base(&format!("CVSS:4.0/{vector}")), Ok(base), "{vector}");
            let tenths = aivss_v08(base, sum, DEFAULT_THREAT_MULTIPLIER, DEFAULT_MITIGATION);
            assert_eq!((tenths, band(tenths)), (score, severity), "{vector}");
        }
    }

    #[test]
    fn full_listing_pages_come_out_to_the_tenth() {
        // Base, factor sum, ThM, MF and score as ten pages of the public directory print them.
        let pages = [
            (100, 630, 110, 90, 90),
            (65, 180, 95, 70, 50),
            (65, 420, 100, 100, 80),
            (85, 650, 110, 100, 96),
            (75, 410, 100, 85, 72),
            (75, 220, 105, 85, 69),
            (15, 60, 90, 70, 14),
            (63, 410, 100, 90, 70),
            (60, 230, 100, 100, 69),
            (63, 170, 100, 90, 62),
        ];
        for (base, sum, thm, mf, score) in pages {
            assert_eq!(aivss_v08(base, sum, thm, mf), score, "base {base}, sum {sum}");
        }
    }

    #[test]
    fn ties_round_half_up_where_binary_floating_point_does_not() {
        for (base, mf, exact) in [(0_u8, 83_u16, 42_u8), (3, 100, 52), (13, 100, 57)] {
            assert_eq!(aivss_v08(base, 500, 100, mf), exact);
            let cvss = f64::from(base) / 10.0;
            let naive = ((cvss + (10.0 - cvss) * 0.5) * (f64::from(mf) / 100.0) * 10.0 + 0.5).floor();
            assert!(naive < f64::from(exact), "no trap left at base {base}");
        }
    }

    #[test]
    fn only_a_multiplier_above_one_is_cut_to_ten() {
        assert_eq!(aivss_v08(85, 1000, 110, 100), 100);
        assert_eq!(aivss_v08(0, 1000, 100, 100), 100);
        assert_eq!(aivss_v08(u8::MAX, u32::MAX, u16::MAX, u16::MAX), 100);
    }

    #[test]
    fn bands_change_where_v08_says() {
        let bands = [(0, "None"), (1, "Low"), (39, "Low"), (40, "Medium"), (69, "Medium"), (70, "High"), (89, "High")];
        for (tenths, name) in bands {
            assert_eq!(band(tenths), name);
        }
        assert_eq!((band(90), band(100)), ("Critical", "Critical"));
    }

    #[test]
    fn only_cvss_v4_base_vectors_have_a_base() {
        let v31 = "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H";
        assert_eq!(cvss_base(v31), Err(CvssFault::Version));
        assert_eq!(cvss_base("9.3"), Err(CvssFault::Version));
        let base = "CVSS:4.0/AV:N/AC:L/AT:N/PR:N/UI:N/VC:H/VI:H/VA:H/SC:N/SI:N/SA:N";
        assert_eq!(cvss_base(&format!("{base}/E:P")), Err(CvssFault::NotBase("CVSS-BT".into())));
        assert_eq!(cvss_base(&format!("{base}/CR:H")), Err(CvssFault::NotBase("CVSS-BE".into())));
        assert_eq!(cvss_base(&format!("{base}/E:X/MAV:X/S:P")), Ok(93), "X is absent, S is supplemental");
        for broken in ["/AV:N", "/ZZ:Q", "/AV"] {
            assert!(matches!(cvss_base(&format!("{base}{broken}")), Err(CvssFault::Malformed(_))), "{broken}");
        }
        let no_sa = base.trim_end_matches("/SA:N");
        assert!(matches!(cvss_base(no_sa), Err(CvssFault::Malformed(_))));
    }

    proptest! {
        #[test]
        fn the_score_is_monotone_in_every_argument(
            base in 0_u8..100, sum in 0_u32..1000, thm in 0_u16..=100, mf in 0_u16..=100,
        ) {
            let here = aivss_v08(base, sum, thm, mf);
            prop_assert!(here <= aivss_v08(base + 1, sum, thm, mf));
            prop_assert!(here <= aivss_v08(base, sum + 1, thm, mf));
            prop_assert!(here <= aivss_v08(base, sum, thm + 1, mf));
            prop_assert!(here <= aivss_v08(base, sum, thm, mf + 1));
        }
    }
}
