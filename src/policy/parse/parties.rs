//! `[[registry]]`, `[peers]` and `[protected]`.

use std::collections::BTreeMap;

use super::super::protected::is_pattern;
use super::super::reader::{Fields, shown};
use super::super::{Peers, Pin, Registry};
use super::Unique;
use crate::model::{Digest, Limits, ThreatId};

pub(super) fn registries(root: &Fields<'_, '_>) -> BTreeMap<String, Registry> {
    let mut unique = Unique::new("the registry");
    let mut registries = BTreeMap::new();
    for fields in root.tables("registry", "[[registry]]") {
        let name = fields.need_name("name");
        let answers = fields.threats("answers");
        let pins = read_pins(&fields);
        let writable = fields.names("writable").into_iter().map(|name| name.value).collect();
        fields.end();
        if let Some(name) = name {
            unique.check(&fields, name.value.as_str(), name.line);
            let name = name.value.as_str().to_owned();
            registries.insert(name.clone(), Registry { name, pins, writable, answers });
        }
    }
    registries
}

fn read_pins(registry: &Fields<'_, '_>) -> Vec<Pin> {
    let mut unique = Unique::new("the pin");
    let mut pins = Vec::new();
    for fields in registry.tables("pin", "[[registry.pin]]") {
        let name = fields.need_name("name");
        let revision = fields.need_name("revision");
        let digest = fields.text("digest").map(|text| {
            let digest = Digest::parse(&text.value);
            if digest.is_none() {
                fields.fault(text.line, "`digest` is `sha256:` and 64 hexadecimal digits in lower case");
            }
            digest
        });
        let code = fields.flag("code").unwrap_or(false);
        fields.end();
        if let (Some(name), Some(revision)) = (name, revision) {
            if is_moving(revision.value.as_str()) {
                let text = format!("`{}` moves; pin a version or a commit", revision.value);
                fields.fault(revision.line, text);
            }
            unique.check(&fields, &format!("{}@{}", name.value, revision.value), name.line);
            let (name, revision) = (name.value.as_str().to_owned(), revision.value.as_str().to_owned());
            pins.push(Pin { name, revision, digest: digest.flatten(), code });
        }
    }
    pins
}

/// Revisions that name whatever is newest.
fn is_moving(revision: &str) -> bool {
    ["latest", "main", "master", "head", "trunk", "dev"].iter().any(|word| revision.eq_ignore_ascii_case(word))
}

pub(super) fn peers(fields: &Fields<'_, '_>) -> Peers {
    let names = fields.names("names").into_iter().map(|name| name.value).collect();
    let depth = fields.whole("max_depth", 0..=Limits::DELEGATION as u64).unwrap_or(0);
    let answers = fields.threats("answers");
    fields.end();
    Peers { names, max_depth: u8::try_from(depth).unwrap_or(0), answers }
}

pub(super) fn protected(fields: &Fields<'_, '_>) -> (Vec<String>, Vec<ThreatId>) {
    let mut unique = Unique::new("the path");
    let mut paths = Vec::new();
    for path in fields.texts("paths") {
        unique.check(fields, &path.value, path.line);
        if is_pattern(&path.value) {
            paths.push(path.value);
        } else {
            let wanted = "`.ssh`, `.git/hooks` or `/etc/shadow`: no `~`, `.`, `..`, empty parts, spaces or quotes";
            fields.fault(path.line, format!("`paths` holds paths such as {wanted}; not `{}`", shown(&path.value)));
        }
    }
    let answers = fields.threats("answers");
    fields.end();
    (paths, answers)
}
