//! Small pieces of TOML text, shared by the writers of profiles and policies.

use crate::model::ThreatId;

/// `text` as a TOML string.
pub(super) fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// An array of strings on one line, or wrapped when it would be over 110 characters.
pub(super) fn array<'a>(items: impl Iterator<Item = &'a str>) -> String {
    let items: Vec<_> = items.map(quoted).collect();
    let line = format!("[{}]", items.join(", "));
    if line.len() <= 110 {
        return line;
    }
    let mut out = String::from("[\n");
    let mut row = String::from("   ");
    for item in items {
        if row.len() + item.len() > 110 {
            out.push_str(&row);
            out.push('\n');
            row = String::from("   ");
        }
        row.push(' ');
        row.push_str(&item);
        row.push(',');
    }
    out.push_str(&row);
    out.push_str("\n]");
    out
}

/// An array of threats.
pub(super) fn threat_list(threats: &[ThreatId]) -> String {
    array(threats.iter().map(|threat| threat.as_str()))
}
