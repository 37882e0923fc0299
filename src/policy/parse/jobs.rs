//! `[jobs]` and `[[jobs.flavor]]`: what may run on rented machines, for how long and at what price.

use std::collections::{BTreeMap, BTreeSet};

use super::super::reader::{Fields, shown};
use super::super::{Flavor, Jobs};
use super::model::is_day;
use super::{REASON_BYTES, Unique};
use crate::model::Limits;

/// The longest job, milliseconds: a week.
const LONGEST: u64 = 7 * 86_400_000;
/// The time of a job that states none where the policy does not say, seconds: what the provider takes then.
const DEFAULT: u64 = 1_800;
/// The dearest machine: a million dollars for an hour, in micro-USD.
const DEAREST: u64 = 1_000_000_000_000;
/// The most GPUs of one machine.
const GPUS: u64 = 1_024;
/// Bytes of an image reference or of a word of a command.
const TEXT: usize = 512;

pub(super) fn read(fields: &Fields<'_, '_>) -> Option<Jobs> {
    let namespaces = names(fields, "namespaces");
    let images = images(fields);
    let commands = commands(fields);
    let secrets = names(fields, "secrets");
    let longest = fields.span("max_timeout", 1_000..=LONGEST).map(|span| span.0 / 1_000);
    if !fields.has("max_timeout") {
        fields.missing("max_timeout");
    }
    let usual = fields.span("default_timeout", 1_000..=LONGEST).map(|span| span.0 / 1_000);
    let flavors = flavors(fields);
    let answers = fields.threats("answers");
    fields.end();
    let max_timeout_s = longest?;
    if let Some(usual) = usual.filter(|usual| *usual > max_timeout_s) {
        fields.fault(fields.line, format!("`default_timeout` of {usual} s is over `max_timeout` of {max_timeout_s} s"));
    }
    let default_timeout_s = usual.unwrap_or(DEFAULT).min(max_timeout_s);
    Some(Jobs { namespaces, images, commands, secrets, max_timeout_s, default_timeout_s, flavors, answers })
}

fn names(fields: &Fields<'_, '_>, key: &str) -> BTreeSet<String> {
    fields.names(key).into_iter().map(|name| name.value).collect()
}

/// Image references such as `org/image:tag` or `org/image@sha256:…`.
fn images(fields: &Fields<'_, '_>) -> BTreeSet<String> {
    let mut unique = Unique::new("the image");
    let mut images = BTreeSet::new();
    for image in fields.texts("images") {
        unique.check(fields, &image.value, image.line);
        if is_plain(&image.value) && !image.value.contains(' ') {
            images.insert(image.value);
        } else {
            let text = format!("`images` holds references such as `org/image:tag`, not `{}`", shown(&image.value));
            fields.fault(image.line, text);
        }
    }
    images
}

/// How commands may begin: arrays of words.
fn commands(fields: &Fields<'_, '_>) -> Vec<Vec<String>> {
    let mut commands = Vec::new();
    for (line, words) in fields.text_lists("commands") {
        if words.is_empty() || words.iter().any(|word| !is_plain(word)) {
            let text = "`commands` holds arrays of words such as [\"python\", \"train.py\"], none of them empty";
            fields.fault(line, text);
        } else {
            commands.push(words);
        }
    }
    commands
}

fn flavors(fields: &Fields<'_, '_>) -> BTreeMap<String, Flavor> {
    let tables = fields.tables("flavor", "[[jobs.flavor]]");
    if tables.len() > Limits::TOOLS {
        fields.fault(fields.line, format!("{} flavors are over the limit of {}", tables.len(), Limits::TOOLS));
    }
    let mut unique = Unique::new("the flavor");
    let mut flavors = BTreeMap::new();
    for table in tables {
        let name = table.need_name("name");
        let flavor = flavor(&table);
        table.end();
        if let (Some(name), Some(flavor)) = (name, flavor) {
            unique.check(&table, name.value.as_str(), name.line);
            flavors.insert(name.value.as_str().to_owned(), flavor);
        }
    }
    flavors
}

fn flavor(table: &Fields<'_, '_>) -> Option<Flavor> {
    for key in ["micro_usd_per_hour", "gpus", "source", "as_of"] {
        if !table.has(key) {
            table.missing(key);
        }
    }
    // A machine that costs nothing would pass every cap on money.
    let micro_usd_per_hour = table.whole("micro_usd_per_hour", 1..=DEAREST);
    let gpus = table.whole("gpus", 0..=GPUS);
    let source = table.line_text("source", REASON_BYTES);
    let as_of = table.line_text("as_of", 10);
    if let Some(day) = as_of.as_ref().filter(|day| !is_day(&day.value)) {
        table.fault(day.line, "`as_of` is the day on which the price was read, as in \"2026-11-01\"");
    }
    let (source, as_of) = (source?.value, as_of?.value);
    Some(Flavor { micro_usd_per_hour: micro_usd_per_hour?, gpus: gpus?, source, as_of })
}

/// True for a text that can be shown and compared as it stands.
fn is_plain(text: &str) -> bool {
    !text.is_empty() && text.len() <= TEXT && !text.chars().any(char::is_control)
}
