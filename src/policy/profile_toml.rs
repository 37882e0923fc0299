//! Profiles as TOML: one canonical writing, one strict reading.
//!
//! `Profile::parse(p.to_toml())` gives `p` back. `nonconformant` is written for readers and worked
//! out anew on reading.

use std::fmt::Write as _;

use super::Faults;
use super::profile::{Band, Certainty, LayerNote, Profile, Published, places, vector_tenths};
use super::reader::{Fields, Source, shown, text_of};
use super::write::{quoted, threat_list};
use crate::model::{Digest, FACTORS, Factors, Layer, Level};

/// Longest title, bytes.
pub(super) const TITLE_BYTES: usize = 200;
/// Longest summary or note, bytes.
pub(super) const NOTE_BYTES: usize = 4000;
/// Highest threat multiplier, hundredths. Listings go beyond the tables of AIVSS v0.8.
pub(super) const MULTIPLIER_MAX: u32 = 200;
/// Highest mitigation factor, hundredths.
pub(super) const MITIGATION_MAX: u32 = 100;

impl Profile {
    /// The profile as TOML, the same bytes for the same profile.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let mut out =
            String::from("# A threat profile; docs/policy.md, section \"Profiles\", says what each field means.\n");
        let head = [("id", self.id.as_str()), ("title", &self.title), ("summary", &self.summary)];
        out.push_str("\n[profile]\n");
        for (key, value) in head {
            let _ = writeln!(out, "{key} = {}", quoted(value));
        }
        let sum = self.factors.sum_hundredths();
        let _ =
            writeln!(out, "\n# Declared, 0.00 to 1.00. Their sum is {}.{:02} of 10.\n[factors]", sum / 100, sum % 100);
        for row in &FACTORS {
            let level = u16::from(self.factors.of(row.factor).hundredths());
            let _ = writeln!(out, "{} = {}", row.key, places(level));
        }
        for layer in Layer::ALL {
            self.write_layer(&mut out, layer);
        }
        self.write_score(&mut out);
        self.write_provenance(&mut out);
        out
    }

    fn write_layer(&self, out: &mut String, layer: Layer) {
        let note = self.layer(layer);
        let _ = writeln!(out, "\n# {}\n[layers.{}]", layer.title(), layer.word());
        let _ = writeln!(out, "certainty = \"{}\"", note.certainty.word());
        let _ = writeln!(out, "threats = {}", threat_list(&note.threats));
        if !note.assumed.is_empty() {
            let _ = writeln!(out, "assumed = {}", threat_list(&note.assumed));
        }
        let _ = writeln!(out, "note = {}", quoted(&note.note));
    }

    fn write_score(&self, out: &mut String) {
        out.push_str("\n# What an AIVSS number needs besides the factors; absent means unknown.\n[score]\n");
        if let Some(vector) = &self.cvss {
            let _ = writeln!(out, "cvss = {}", quoted(vector));
        }
        if let Some(base) = self.cvss_base {
            let _ = writeln!(out, "cvss_base = {}.{}", base / 10, base % 10);
        }
        for (key, value) in [("threat_multiplier", self.threat_multiplier), ("mitigation", self.mitigation)] {
            if let Some(value) = value {
                let _ = writeln!(out, "{key} = {}", places(value));
            }
        }
    }

    fn write_provenance(&self, out: &mut String) {
        out.push_str("\n# The listing and the results that it prints.\n[provenance]\n");
        if let Some(digest) = &self.listing {
            let _ = writeln!(out, "listing = \"{digest}\"");
        }
        if let Some(aivss) = self.published.aivss {
            let _ = writeln!(out, "aivss = {}.{}", aivss / 10, aivss % 10);
        }
        if let Some(band) = self.published.band {
            let _ = writeln!(out, "band = \"{}\"", band.word());
        }
        for (key, value) in [("aars", self.published.aars), ("factor_sum", self.published.factor_sum)] {
            if let Some(value) = value {
                let _ = writeln!(out, "{key} = {}", places(value));
            }
        }
        out.push_str("nonconformant = [\n");
        for flag in self.nonconformant() {
            let _ = writeln!(out, "    {},", quoted(&flag));
        }
        out.push_str("]\n");
    }

    /// Reads a profile.
    ///
    /// # Errors
    /// Every fault at once, with its line.
    pub fn parse(bytes: &[u8], file: &str) -> Result<Self, Faults> {
        let text = text_of(bytes, file)?;
        let (source, root) = Source::parse(text, file);
        let profile = read(&Fields::root(&source, &root));
        source.finish(profile)
    }
}

fn read(root: &Fields<'_, '_>) -> Option<Profile> {
    let head = section(root, "profile");
    let factors = section(root, "factors").and_then(|fields| read_factors(&fields));
    let layers = section(root, "layers").and_then(|fields| read_layers(&fields));
    let score = root.table("score", "[score]").map(|fields| read_score(&fields)).unwrap_or_default();
    let origin = root.table("provenance", "[provenance]").map(|fields| read_provenance(&fields)).unwrap_or_default();
    root.end();
    let head = head?;
    let id = head.need_name("id");
    let title = need_text(&head, "title", TITLE_BYTES);
    let summary = need_text(&head, "summary", NOTE_BYTES);
    head.end();
    Some(Profile {
        id: id?.value,
        title: title?,
        summary: summary?,
        factors: factors?,
        layers: layers?,
        cvss: score.cvss,
        cvss_base: score.base,
        threat_multiplier: score.multiplier,
        mitigation: score.mitigation,
        listing: origin.0,
        published: origin.1,
    })
}

fn section<'s, 't>(root: &Fields<'s, 't>, key: &str) -> Option<Fields<'s, 't>> {
    if !root.has(key) {
        root.missing(&format!("[{key}]"));
    }
    root.table(key, &format!("[{key}]"))
}

fn need_text(fields: &Fields<'_, '_>, key: &str, max: usize) -> Option<String> {
    if !fields.has(key) {
        fields.missing(key);
    }
    fields.line_text(key, max).map(|text| text.value)
}

fn read_factors(fields: &Fields<'_, '_>) -> Option<Factors> {
    let mut factors = Factors::default();
    let mut complete = true;
    for row in &FACTORS {
        if !fields.has(row.key) {
            fields.missing(row.key);
        }
        let level = fields.hundredths(row.key, 100).and_then(|n| u8::try_from(n).ok()).and_then(Level::from_hundredths);
        complete &= level.is_some();
        factors.set(row.factor, level.unwrap_or_default());
    }
    fields.end();
    complete.then_some(factors)
}

fn read_layers(fields: &Fields<'_, '_>) -> Option<[LayerNote; 7]> {
    let mut notes = Vec::new();
    for layer in Layer::ALL {
        if !fields.has(layer.word()) {
            fields.missing(layer.word());
        }
        if let Some(note) = fields.table(layer.word(), &format!("[layers.{}]", layer.word())) {
            notes.extend(read_layer(&note, layer));
        }
    }
    fields.end();
    notes.try_into().ok()
}

fn read_layer(fields: &Fields<'_, '_>, layer: Layer) -> Option<LayerNote> {
    let certainty = fields.need_word("certainty", &Certainty::WORDS);
    let threats = fields.threats("threats");
    let assumed = fields.threats("assumed");
    for threat in threats.iter().chain(&assumed).filter(|threat| threat.row().layer != layer) {
        fields.fault(fields.line, format!("`{threat}` is not a threat of {}", fields.what));
    }
    if threats.is_empty() && assumed.is_empty() {
        let text =
            format!("{} names no threat; state one in `threats`, or in `assumed` where none is known", fields.what);
        fields.fault(fields.line, text);
    }
    if let Some(twice) = assumed.iter().find(|threat| threats.contains(threat)) {
        fields.fault(fields.line, format!("`{twice}` is both named and assumed in {}", fields.what));
    }
    let note = if fields.has("note") {
        fields.text("note").filter(|note| check_note(fields, &note.value, note.line)).map(|note| note.value)
    } else {
        Some(String::new())
    };
    fields.end();
    Some(LayerNote { certainty: certainty?, threats, assumed, note: note? })
}

fn check_note(fields: &Fields<'_, '_>, note: &str, line: usize) -> bool {
    let fits = note.len() <= NOTE_BYTES && !note.contains(['\n', '\r']);
    if !fits {
        fields.fault(line, format!("`note` in {} is one line of at most {NOTE_BYTES} bytes", fields.what));
    }
    fits
}

#[derive(Default)]
pub(super) struct ScoreInputs {
    pub cvss: Option<String>,
    pub base: Option<u8>,
    pub multiplier: Option<u16>,
    pub mitigation: Option<u16>,
}

/// The inputs of an AIVSS number, shared with `[profile]` of a policy.
pub(super) fn read_score_inputs(fields: &Fields<'_, '_>) -> ScoreInputs {
    let vector = fields.line_text("cvss", 400);
    let scored = vector.as_ref().and_then(|text| vector_tenths(&text.value));
    if let Some(text) = vector.as_ref().filter(|_| scored.is_none()) {
        let wanted = "a CVSS v4.0 vector of base metrics only (`CVSS:4.0/AV:…`)";
        fields.fault(text.line, format!("`cvss` is {wanted}, not `{}`", shown(&text.value)));
    }
    let base = tenths(fields, "cvss_base");
    if let (Some(scored), Some(base)) = (scored, base)
        && scored != base
    {
        let text = format!("`cvss_base` contradicts `cvss`, whose score is {}.{}", scored / 10, scored % 10);
        fields.fault(fields.line, text);
    }
    let narrow = |value: Option<u32>| value.and_then(|value| u16::try_from(value).ok());
    ScoreInputs {
        cvss: vector.map(|text| text.value),
        base,
        multiplier: narrow(fields.hundredths("threat_multiplier", MULTIPLIER_MAX)),
        mitigation: narrow(fields.hundredths("mitigation", MITIGATION_MAX)),
    }
}

fn read_score(fields: &Fields<'_, '_>) -> ScoreInputs {
    let score = read_score_inputs(fields);
    fields.end();
    score
}

fn tenths(fields: &Fields<'_, '_>, key: &str) -> Option<u8> {
    let hundredths = fields.hundredths(key, 1000)?;
    if hundredths % 10 != 0 {
        fields.fault(fields.line, format!("`{key}` in {} has one decimal", fields.what));
        return None;
    }
    u8::try_from(hundredths / 10).ok()
}

fn read_provenance(fields: &Fields<'_, '_>) -> (Option<Digest>, Published) {
    let listing = fields.text("listing").and_then(|text| {
        let digest = Digest::parse(&text.value);
        if digest.is_none() {
            fields.fault(text.line, "`listing` is `sha256:` and 64 hexadecimal digits in lower case");
        }
        digest
    });
    let narrow = |value: Option<u32>| value.and_then(|value| u16::try_from(value).ok());
    let published = Published {
        aivss: tenths(fields, "aivss"),
        band: fields.word("band", &Band::WORDS),
        aars: narrow(fields.hundredths("aars", 1000)),
        factor_sum: narrow(fields.hundredths("factor_sum", 1000)),
    };
    let _ = fields.texts("nonconformant");
    fields.end();
    (listing, published)
}
