//! `[profile]`: what a derived policy carries of the profile behind it.

use super::super::Provenance;
use super::super::profile_toml::read_score_inputs;
use super::super::reader::Fields;
use crate::model::{Digest, FACTORS, Factors, Level};

pub(super) fn read(fields: &Fields<'_, '_>) -> Option<Provenance> {
    let profile = fields.need_name("id");
    let digest = read_digest(fields);
    let threats = fields.threats("threats");
    let assumed = fields.threats("assumed");
    for threat in assumed.iter().filter(|threat| !threats.contains(threat)) {
        fields.fault(fields.line, format!("`{threat}` is in `assumed` and not in `threats`"));
    }
    let score = read_score_inputs(fields);
    if !fields.has("factors") {
        fields.missing("[profile.factors]");
    }
    let declared = fields.table("factors", "[profile.factors]").map(|factors| read_factors(&factors));
    fields.end();
    Some(Provenance {
        profile: profile?.value,
        digest: digest?,
        declared: declared?,
        threats,
        assumed,
        cvss: score.cvss,
        threat_multiplier: score.multiplier,
        mitigation: score.mitigation,
        cvss_base: score.base,
    })
}

fn read_digest(fields: &Fields<'_, '_>) -> Option<Digest> {
    if !fields.has("digest") {
        fields.missing("digest");
    }
    let text = fields.text("digest")?;
    let digest = Digest::parse(&text.value);
    if digest.is_none() {
        fields.fault(text.line, "`digest` is `sha256:` and 64 hexadecimal digits in lower case");
    }
    digest
}

/// Faulty factors stay at zero; the file is refused anyway.
pub(super) fn read_factors(fields: &Fields<'_, '_>) -> Factors {
    let mut factors = Factors::default();
    for row in &FACTORS {
        if !fields.has(row.key) {
            fields.missing(row.key);
        }
        let level = fields.hundredths(row.key, 100).and_then(|n| u8::try_from(n).ok());
        factors.set(row.factor, level.and_then(Level::from_hundredths).unwrap_or_default());
    }
    fields.end();
    factors
}
