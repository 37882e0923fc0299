//! Listings and profile files: both shapes read, every fault found at its line, nothing panics.

use proptest::prelude::*;
use weir::model::{FACTORS, Factors, Layer, Level, Name, ThreatId};
use weir::policy::{Band, Certainty, Faults, LayerNote, Profile, Published, import};

const REDUCED: &str = include_str!("listings/reduced.txt");
const FULL: &str = include_str!("listings/full.txt");

fn named(ids: &[&str]) -> Vec<ThreatId> {
    ids.iter().map(|id| ThreatId::parse(id).unwrap_or_else(|| panic!("{id}"))).collect()
}

fn faults(text: impl AsRef<[u8]>) -> Faults {
    import(text.as_ref(), "listing.txt").expect_err("must be refused")
}

/// The line of `words` in `text`.
fn at(text: &str, words: &str) -> usize {
    1 + text.lines().position(|line| line.contains(words)).unwrap_or_else(|| panic!("{words}"))
}

/// True when some fault stands at `line` and says `words`.
fn says(faults: &Faults, line: usize, words: &str) -> bool {
    faults.0.iter().any(|fault| fault.line == line && fault.text.contains(words))
}

#[track_caller]
fn refused(text: impl AsRef<[u8]>, line: usize, words: &str) {
    let faults = faults(text);
    assert!(says(&faults, line, words), "no `{words}` at line {line} in:\n{faults}");
}

#[test]
fn the_reduced_text_gives_factors_layers_and_no_score() {
    let profile = import(REDUCED.as_bytes(), "reduced.txt").unwrap();
    assert_eq!((profile.id.as_str(), profile.title.as_str()), ("courier", "Courier"));
    assert_eq!(profile.factors.sum_hundredths(), 375);
    assert_eq!((profile.base_tenths(), profile.threat_multiplier, profile.mitigation), (None, None, None));
    assert_eq!(profile.published, Published::default());
    let layer = |layer| profile.layer(layer);
    assert_eq!(layer(Layer::L2).threats, named(&["L2/data-exfiltration"]));
    assert_eq!(layer(Layer::L2).certainty, Certainty::Mapped);
    assert_eq!(layer(Layer::L5).threats, named(&["L5/missing-audit-trail"]), "an uncertain layer keeps what it names");
    assert_eq!(layer(Layer::L5).certainty, Certainty::Uncertain);
    assert_eq!(layer(Layer::L5).note, "nothing is said about logging.");
    assert_eq!(layer(Layer::L3).threats, Vec::new());
    assert_eq!(layer(Layer::L3).assumed, named(&["L3/tool-misuse"]), "and gets the default where it names none");
    assert_eq!(profile.assumed(), named(&["L3/tool-misuse", "L5/missing-audit-trail", "L6/missing-access-control"]));
}

#[test]
fn the_full_page_gives_the_numbers_too() {
    let profile = import(FULL.as_bytes(), "full.txt").unwrap();
    assert_eq!(profile.cvss_base, Some(85));
    assert_eq!((profile.threat_multiplier, profile.mitigation), (Some(105), Some(100)));
    let published = Published { aivss: Some(95), band: Some(Band::Critical), aars: Some(102), factor_sum: Some(650) };
    assert_eq!(profile.published, published);
    assert_eq!(profile.factors.sum_hundredths(), 650);
    assert_eq!(
        profile.summary,
        "Courier answers mail on behalf of a team. It reads whatever strangers send and can send replies."
    );
    assert_eq!(
        profile.layer(Layer::L2).note,
        "Mail holds personal data, and exfiltration by reply is one sentence away."
    );
    let certainty: Vec<_> = profile.layers.iter().map(|layer| layer.certainty.word()).collect();
    assert_eq!(certainty, ["mapped", "mapped", "uncertain", "mapped", "uncertain", "uncertain", "mapped"]);
    let flags = profile.nonconformant().join("\n");
    for words in ["AIVSS v0.5", "autonomy, planning", "multiplier 1.05", "without its vector"] {
        assert!(flags.contains(words), "{words} in {flags}");
    }
    assert!(!flags.contains("factor sum"), "the printed sum is right: {flags}");
}

#[test]
fn a_crlf_file_with_a_mark_and_without_final_newline_reads_the_same() {
    let other = format!("\u{feff}{}", REDUCED.trim_end().replace('\n', "\r\n"));
    let (left, right) = (import(other.as_bytes(), "a").unwrap(), import(REDUCED.as_bytes(), "b").unwrap());
    assert_eq!(Profile { listing: None, ..left }, Profile { listing: None, ..right });
}

#[test]
fn every_fault_of_a_listing_has_its_line() {
    let row = "| Dynamic Tool Use | 0.50 | |\n";
    refused(REDUCED.replace(row, ""), 3, "`Dynamic Tool Use` is missing");
    refused(REDUCED.replace(row, &format!("{row}{row}")), 8, "stands twice, first on line 7");
    refused(REDUCED.replace("Dynamic Tool Use", "Dynamic Tol Use"), 7, "did you mean `Dynamic Tool Use`?");
    for value in ["1.01", "-0.1", "0.505", "", "high", "1e-1", "NaN", "0.5.5", ".5", "1."] {
        refused(REDUCED.replace(row, &format!("| Dynamic Tool Use | {value} | |\n")), 7, "0.00 to 1.00");
    }
    refused(
        REDUCED.replace("MAESTRO — the", "One layer more.\nMAESTRO — the"),
        at(REDUCED, "MAESTRO — the"),
        "more than seven layers",
    );
    let six = REDUCED.replace("It runs on one server whose keys invite credential theft.\n", "");
    refused(six, at(REDUCED, "MAESTRO 7"), "6 of the seven layers");
    refused(
        REDUCED.replace("OWASP AIVSS score rationale", "Rationale"),
        24,
        "heading `OWASP AIVSS score rationale` is missing",
    );
    refused(REDUCED.replace("Scored with", "Known incidents\nScored with"), 14, "unknown heading `Known incidents`");
    refused(REDUCED.replace("Courier — agentic threat model\n", ""), 1, "no title");
    refused("", 0, "missing");
    refused(b"Courier\n\xff\xfe".as_slice(), 2, "not UTF-8");
    refused(REDUCED.replace("personal", "perso\0nal"), at(REDUCED, "personal"), "control character U+0000");
    refused(vec![b'a'; (1 << 20) + 1], 0, "over the limit");
}

#[test]
fn every_fault_of_a_full_page_has_its_line() {
    refused(
        FULL.replace("L4 · Deployment & Infrastructure", "L4 · Plumbing"),
        at(FULL, "L4 ·"),
        "L4 is Deployment and Infrastructure",
    );
    refused(FULL.replace("L7 · Agent", "L8 · Agent"), at(FULL, "L7 ·"), "the layers are L1 to L7");
    refused(
        FULL.replace("L7 · Agent Ecosystem", "L6 · Security & Compliance"),
        at(FULL, "L7 ·"),
        "L6 stands where L7 belongs",
    );
    refused(FULL.replace("· Critical", "· Dire"), 3, "a band is one of");
    refused(FULL.replace("AIVSS 9.5", "AIVSS 10.5"), 3, "0.0 to 10.0");
    refused(FULL.replace("Threat ×1.05", ""), 8, "lacks `Threat`");
    refused(FULL.replace("CVSS base 8.5", "CVSS base 11.5"), 8, "`CVSS base` is a number up to 10.00");
    refused(FULL.replace("Mitigation ×1", "Mitigation ×1.5"), 8, "`Mitigation` is a number up to 1.00");
    refused(FULL.replace("✓ mapped\nIt runs", "\nIt runs"), at(FULL, "L4 ·"), "ends with");
}

#[test]
fn all_faults_come_at_once_in_order() {
    let text = REDUCED
        .replace("0.60", "6.0")
        .replace("Non-Determinism", "Chance")
        .replace("MAESTRO — the", "More.\nMAESTRO — the");
    let faults = faults(text);
    let lines: Vec<_> = faults.0.iter().map(|fault| fault.line).collect();
    assert_eq!(lines, [3, 4, 12, at(REDUCED, "MAESTRO — the")], "{faults}");
    assert!(faults.to_string().contains("listing.txt:4: the factor `Autonomy of Action`"), "{faults}");
}

/// Base in tenths, factor sum, threat multiplier and mitigation in hundredths, and the score that
/// the directory prints for them, in tenths.
const PUBLISHED: [(u32, u32, u32, u32, u8); 10] = [
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

/// AIVSS v0.8 in exact integers: `(base + (10 - base) * sum / 10 * ThM) * MF`, rounded half up.
fn aivss(base: u64, sum: u64, multiplier: u64, mitigation: u64) -> u64 {
    let raw = (base * 100_000 + (100 - base) * sum * multiplier) * mitigation;
    ((raw + 5_000_000) / 10_000_000).min(100)
}

fn page(base: u32, sum: u32, multiplier: u32, mitigation: u32, score: u8) -> String {
    let places = |n: u32| format!("{}.{:02}", n / 100, n % 100);
    let mut left = sum;
    let mut text = format!(
        "X — agentic threat model\nAIVSS {}.{} · {}\nIt does.\n",
        score / 10,
        score % 10,
        Band::of(score).word()
    );
    text.push_str("OWASP AIVSS score rationale\n");
    let head = format!("CVSS base {}.{}AARS uplift 0.00Factor sum {}/10", base / 10, base % 10, places(sum));
    text.push_str(&format!("{head}Threat ×{}Mitigation ×{}\n", places(multiplier), places(mitigation)));
    for row in &FACTORS {
        let part = left.min(100);
        left -= part;
        text.push_str(&format!("| {} | {} | |\n", row.label, places(part)));
    }
    text.push_str("MAESTRO 7-layer threat model\n");
    text.push_str(&"Words.\n".repeat(7));
    text
}

#[test]
fn published_listings_reproduce_to_the_tenth() {
    for (base, sum, multiplier, mitigation, score) in PUBLISHED {
        let profile = import(page(base, sum, multiplier, mitigation, score).as_bytes(), "page").unwrap();
        assert_eq!(profile.published.aivss, Some(score));
        assert_eq!(profile.published.band, Some(Band::of(score)));
        assert_eq!(profile.published.factor_sum.map(u32::from), Some(profile.factors.sum_hundredths()));
        let read = aivss(
            profile.base_tenths().unwrap().into(),
            profile.factors.sum_hundredths().into(),
            profile.threat_multiplier.unwrap().into(),
            profile.mitigation.unwrap().into(),
        );
        assert_eq!(read, u64::from(score), "{base} {sum} {multiplier} {mitigation}");
    }
}

#[test]
fn committed_profiles_are_in_canonical_form() {
    for id in ["smolagents", "autogen", "ml-research"] {
        let path = format!("policies/profiles/{id}.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        let profile = Profile::parse(text.as_bytes(), &path).unwrap_or_else(|faults| panic!("{faults}"));
        assert_eq!(profile.id.as_str(), id);
        assert_eq!(profile.to_toml(), text, "{path}");
        assert_eq!(profile.base_tenths(), None, "no listing states a base, so none is made up");
    }
}

#[test]
fn the_declared_sums_are_those_of_the_listings() {
    let sum = |id: &str| {
        let text = std::fs::read(format!("policies/profiles/{id}.toml")).unwrap();
        Profile::parse(&text, id).unwrap().factors.sum_hundredths()
    };
    assert_eq!((sum("smolagents"), sum("autogen"), sum("ml-research")), (550, 750, 560));
}

#[track_caller]
fn bad_profile(text: &str, line: usize, words: &str) {
    let faults = Profile::parse(text.as_bytes(), "p.toml").expect_err("must be refused");
    assert!(says(&faults, line, words), "no `{words}` at line {line} in:\n{faults}");
}

#[test]
fn every_fault_of_a_profile_file_has_its_line() {
    let good = import(FULL.as_bytes(), "full.txt").unwrap().to_toml();
    let line =
        |words: &str| 1 + good.lines().position(|line| line.contains(words)).unwrap_or_else(|| panic!("{words}"));
    let with = |from: &str, to: &str| good.replacen(from, to, 1);
    bad_profile(&with("autonomy = 0.60", "autonomy = 1.60"), line("autonomy ="), "0.00 to 1.00");
    bad_profile(&with("autonomy = 0.60", "autonomy = 0.605"), line("autonomy ="), "two decimals");
    bad_profile(&with("autonomy = 0.60", "autonomy = \"0.6\""), line("autonomy ="), "a number, not");
    bad_profile(&with("autonomy = 0.60\n", ""), line("[factors]"), "lacks `autonomy`");
    bad_profile(&with("autonomy = 0.60", "autonomi = 0.60"), line("autonomy ="), "did you mean `autonomy`?");
    bad_profile(&with("[layers.L4]", "[layers.L9]"), line("[layers.L4]"), "unknown field `L9`");
    bad_profile(&with("[layers.L4]", "[layers.L9]"), line("[layers.L1]"), "lacks `L4`");
    bad_profile(
        &with("\"L1/prompt-injection\"", "\"L1/promt-injection\""),
        line("L1/prompt"),
        "did you mean `L1/prompt-injection`?",
    );
    bad_profile(
        &with("\"L1/prompt-injection\"", "\"L3/tool-misuse\""),
        line("[layers.L1]"),
        "not a threat of [layers.L1]",
    );
    bad_profile(&with("[\"L1/prompt-injection\"]", "[]"), line("[layers.L1]"), "names no threat");
    bad_profile(&with("\"mapped\"", "\"sure\""), line("\"mapped\""), "one of `mapped`, `uncertain`");
    bad_profile(&with("cvss_base = 8.5", "cvss_base = 8.55"), line("[score]"), "one decimal");
    bad_profile(&with("cvss_base = 8.5", "cvss = \"AV:N\""), line("cvss_base"), "CVSS v4.0 vector");
    let temporal = "cvss = \"CVSS:4.0/AV:N/AC:L/AT:N/PR:N/UI:A/VC:H/VI:H/VA:H/SC:H/SI:H/SA:H/E:P\"";
    bad_profile(&with("cvss_base = 8.5", temporal), line("cvss_base"), "base metrics only");
    let both = "cvss = \"CVSS:4.0/AV:N/AC:L/AT:N/PR:N/UI:A/VC:H/VI:H/VA:H/SC:H/SI:H/SA:H\"\ncvss_base = 8.5";
    bad_profile(&with("cvss_base = 8.5", both), line("[score]"), "whose score is 9.4");
    bad_profile(&with("listing = \"sha256:", "listing = \"md5:"), line("listing ="), "64 hexadecimal digits");
    bad_profile(&with("id = \"courier\"", "id = \"cour ier\""), line("id ="), "ASCII letters");
    bad_profile(&with("[score]", "[score"), line("[score]"), "not TOML");
    bad_profile(&with("id = \"courier\"", "id = \"courier\"\nid = \"x\""), line("id =") + 1, "not TOML");
}

#[test]
fn a_vector_gives_the_base() {
    let text = import(REDUCED.as_bytes(), "r").unwrap().to_toml();
    let vector =
        "[score]\ncvss = \"CVSS:4.0/AV:N/AC:L/AT:N/PR:N/UI:A/VC:H/VI:H/VA:H/SC:H/SI:H/SA:H\"\nmitigation = 0.83";
    let profile = Profile::parse(text.replace("[score]", vector).as_bytes(), "p").unwrap();
    assert_eq!((profile.base_tenths(), profile.mitigation), (Some(94), Some(83)));
}

prop_compose! {
    fn any_layer(layer: Layer)(
        mapped in any::<bool>(),
        picks in proptest::collection::vec(any::<prop::sample::Index>(), 1..4),
        named in any::<bool>(),
        note in "[ -~äé€\"'\\\\]{0,80}",
    ) -> LayerNote {
        let of_layer: Vec<_> = ThreatId::all().filter(|threat| threat.row().layer == layer).collect();
        let mut threats: Vec<_> = picks.iter().map(|pick| *pick.get(&of_layer)).collect();
        threats.sort_unstable();
        threats.dedup();
        let certainty = if mapped { Certainty::Mapped } else { Certainty::Uncertain };
        let (threats, assumed) = if named { (threats, Vec::new()) } else { (Vec::new(), threats) };
        LayerNote { certainty, threats, assumed, note }
    }
}

prop_compose! {
    fn any_profile()(
        id in "[a-z][a-z0-9-]{0,20}",
        title in "[!-~ä]{1,30}",
        summary in "[!-~€]{1,60}",
        levels in proptest::array::uniform10(0..=100_u8),
        layers in (any_layer(Layer::L1), any_layer(Layer::L2), any_layer(Layer::L3), any_layer(Layer::L4), any_layer(Layer::L5), any_layer(Layer::L6), any_layer(Layer::L7)),
        cvss_base in proptest::option::of(0..=100_u8),
        threat_multiplier in proptest::option::of(0..=200_u16),
        mitigation in proptest::option::of(0..=100_u16),
        aivss in proptest::option::of(0..=100_u8),
        factor_sum in proptest::option::of(0..=1000_u16),
    ) -> Profile {
        let mut factors = Factors::default();
        for (row, level) in FACTORS.iter().zip(levels) {
            factors.set(row.factor, Level::from_hundredths(level).unwrap());
        }
        let (l1, l2, l3, l4, l5, l6, l7) = layers;
        Profile {
            id: Name::new(id).unwrap(), title, summary, factors,
            layers: [l1, l2, l3, l4, l5, l6, l7],
            cvss: None, cvss_base, threat_multiplier, mitigation, listing: None,
            published: Published { aivss, band: aivss.map(Band::of), aars: None, factor_sum },
        }
    }
}

proptest! {
    #[test]
    fn a_profile_survives_writing_and_reading(profile in any_profile()) {
        let text = profile.to_toml();
        let back = Profile::parse(text.as_bytes(), "p").map_err(|faults| TestCaseError::fail(faults.to_string()))?;
        prop_assert_eq!(back.to_toml(), text);
        prop_assert_eq!(back, profile);
    }

    #[test]
    fn readers_never_panic_on_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = import(&bytes, "a");
        let _ = Profile::parse(&bytes, "b");
        let _ = weir::policy::parse(&bytes, "c");
    }

    #[test]
    fn readers_never_panic_on_damaged_text(at in any::<prop::sample::Index>(), cut in 0..40_usize, put in ".{0,12}") {
        for text in [REDUCED.to_owned(), FULL.to_owned(), import(FULL.as_bytes(), "f").unwrap().to_toml()] {
            let mut from = at.index(text.len());
            while !text.is_char_boundary(from) { from -= 1; }
            let mut to = (from + cut).min(text.len());
            while !text.is_char_boundary(to) { to += 1; }
            let damaged = format!("{}{put}{}", &text[..from], &text[to..]);
            if let Err(faults) = import(damaged.as_bytes(), "a") {
                prop_assert!(!faults.0.is_empty());
            }
            if let Err(faults) = Profile::parse(damaged.as_bytes(), "b") {
                prop_assert!(!faults.0.is_empty());
            }
        }
    }
}
