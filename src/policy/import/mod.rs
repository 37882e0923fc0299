//! Reads a public directory listing into a [`Profile`].
//!
//! Two shapes: the full page, and the reduced text that lost its score line and layer headings.
//! The work is done by a walk over lines: head, rationale (factors), layers, end. What a listing
//! leaves out stays out; a CVSS base in particular is never made up.

mod factors;
mod layers;
mod program;

pub use program::{Envelope, Narrowed, envelope, narrow};

use super::profile::{Band, Profile, Published, slug};
use super::profile_toml::{NOTE_BYTES, TITLE_BYTES};
use super::reader::{decimal, list, shown, text_of};
use super::{Faults, import::factors::Rationale};
use crate::model::{Digest, Layer, ThreatId};

/// What ends the title line.
const TITLE_TAIL: &str = "agentic threat model";
/// The heading of the factors.
const RATIONALE: &str = "OWASP AIVSS score rationale";
/// The heading of the layers.
const LAYERS: &str = "MAESTRO 7-layer threat model";
/// How the line after the last layer begins.
const END: &str = "MAESTRO —";

/// The threat taken as present in a layer whose text names none.
pub(super) const DEFAULT_THREATS: [&str; 7] = [
    "L1/prompt-injection",
    "L2/data-poisoning",
    "L3/tool-misuse",
    "L4/resource-hijacking",
    "L5/missing-audit-trail",
    "L6/missing-access-control",
    "L7/supply-chain",
];

/// The threat taken as present in `layer` when none is named.
#[must_use]
pub fn default_threat(layer: Layer) -> Option<ThreatId> {
    ThreatId::parse(DEFAULT_THREATS[layer as usize])
}

/// One line of a listing.
#[derive(Clone, Copy, Debug)]
struct Line<'a> {
    number: usize,
    text: &'a str,
}

/// The faults of one listing.
struct Log<'a> {
    file: &'a str,
    faults: Faults,
}

impl Log<'_> {
    fn fault(&mut self, line: usize, text: impl Into<String>) {
        self.faults.push(self.file, line, text);
    }
}

/// Reads a listing.
///
/// # Errors
/// Every fault at once, with its line.
pub fn import(bytes: &[u8], file: &str) -> Result<Profile, Faults> {
    let text = text_of(bytes, file)?;
    let mut log = Log { file, faults: Faults::default() };
    let lines: Vec<_> = text.lines().enumerate().map(|(at, text)| Line { number: at + 1, text: text.trim() }).collect();
    let lines: Vec<_> = lines.into_iter().filter(|line| !line.text.is_empty()).collect();
    let profile = read(&lines, Digest::of(bytes), &mut log);
    match profile {
        Some(profile) => log.faults.or(profile),
        None => {
            if log.faults.0.is_empty() {
                log.fault(0, "not a threat model listing");
            }
            log.faults.0.sort_by_key(|fault| fault.line);
            Err(log.faults)
        }
    }
}

fn read(lines: &[Line<'_>], listing: Digest, log: &mut Log<'_>) -> Option<Profile> {
    let parts = Parts::split(lines, log);
    let head = read_head(parts.head, log);
    let rationale = parts.rationale_line.and_then(|line| factors::read(parts.rationale, line, log));
    let layers = parts.layers_line.and_then(|line| layers::read(parts.layers, line, log));
    let (title, summary, aivss, band) = head?;
    let Rationale { factors, cvss_base, aars, factor_sum, threat_multiplier, mitigation } = rationale?;
    Some(Profile {
        id: slug(&title)?,
        title,
        summary,
        factors,
        layers: layers?,
        cvss: None,
        cvss_base,
        threat_multiplier,
        mitigation,
        listing: Some(listing),
        published: Published { aivss, band, aars, factor_sum },
    })
}

/// The sections of a listing; a section without its heading has no line and is not read.
struct Parts<'l, 'a> {
    head: &'l [Line<'a>],
    rationale: &'l [Line<'a>],
    rationale_line: Option<usize>,
    layers: &'l [Line<'a>],
    layers_line: Option<usize>,
}

impl<'l, 'a> Parts<'l, 'a> {
    fn split(lines: &'l [Line<'a>], log: &mut Log<'_>) -> Self {
        let rationale = heading(lines, RATIONALE, log);
        let layers = heading(lines, LAYERS, log);
        let ends = |line: &&Line<'_>| line.text.starts_with(END) || line.text.starts_with("MAESTRO - ");
        let after = layers.map_or(lines.len(), |at| at + 1);
        let end = lines.iter().skip(after).position(|line| ends(&line)).map_or(lines.len(), |at| after + at);
        let number = |at: Option<usize>| at.and_then(|at| lines.get(at)).map(|line| line.number);
        let cut = |from: usize, to: usize| lines.get(from..to.max(from)).unwrap_or_default();
        if let (Some(rationale), Some(layers)) = (rationale, layers)
            && layers < rationale
        {
            log.fault(number(Some(layers)).unwrap_or(0), format!("`{LAYERS}` stands before `{RATIONALE}`"));
        }
        let first = rationale.or(layers).unwrap_or(lines.len());
        Self {
            head: cut(0, first),
            rationale: cut(rationale.map_or(first, |at| at + 1), layers.unwrap_or(lines.len())),
            rationale_line: number(rationale),
            layers: cut(after, end),
            layers_line: number(layers),
        }
    }
}

fn heading(lines: &[Line<'_>], text: &str, log: &mut Log<'_>) -> Option<usize> {
    let mut found = lines.iter().enumerate().filter(|(_, line)| line.text.eq_ignore_ascii_case(text));
    let first = found.next().map(|(at, _)| at);
    if first.is_none() {
        let last = lines.last().map_or(0, |line| line.number);
        log.fault(last, format!("the heading `{text}` is missing"));
    }
    for (_, line) in found {
        log.fault(line.number, format!("the heading `{text}` stands twice"));
    }
    first
}

type Head = (String, String, Option<u8>, Option<Band>);

fn read_head(lines: &[Line<'_>], log: &mut Log<'_>) -> Option<Head> {
    let found = lines.iter().enumerate().find_map(|(at, line)| Some((at, line, title_of(line.text)?)));
    let Some((at, line, title)) = found else {
        let first = lines.first().map_or(1, |line| line.number);
        log.fault(first, format!("no title; the first line is `<agent> — {TITLE_TAIL}`"));
        return None;
    };
    if title.len() > TITLE_BYTES {
        log.fault(line.number, format!("a title has at most {TITLE_BYTES} bytes"));
        return None;
    }
    let (mut aivss, mut band, mut summary) = (None, None, Vec::new());
    for line in lines.iter().skip(at + 1) {
        match score_line(line, log) {
            Some((score, word)) => {
                aivss = aivss.or(score);
                band = band.or(word);
            }
            None => summary.push(line.text),
        }
    }
    let summary = summary.join(" ");
    if summary.is_empty() || summary.len() > NOTE_BYTES {
        log.fault(line.number, format!("after the title stands a summary of 1 to {NOTE_BYTES} bytes"));
        return None;
    }
    Some((title.to_owned(), summary, aivss, band))
}

fn title_of(line: &str) -> Option<&str> {
    let at = line.len().checked_sub(TITLE_TAIL.len())?;
    let (title, tail) = (line.get(..at)?, line.get(at..)?);
    let title = title.trim_end().strip_suffix(['—', '–', '-'])?.trim_end();
    (tail.eq_ignore_ascii_case(TITLE_TAIL) && !title.is_empty()).then_some(title)
}

/// `9.0`, `AIVSS 9.0 · Critical` or both run together; `None` for any other line.
fn score_line(line: &Line<'_>, log: &mut Log<'_>) -> Option<(Option<u8>, Option<Band>)> {
    if let Some(score) = score(line.text) {
        return Some((Some(score), None));
    }
    let (before, rest) = line.text.split_once("AIVSS ")?;
    if !before.is_empty() && score(before.trim()).is_none() {
        return None;
    }
    let (number, word) = rest.split_once('·')?;
    let value = score(number.trim());
    if value.is_none() {
        log.fault(line.number, format!("an AIVSS score is 0.0 to 10.0, not `{}`", shown(number.trim())));
    }
    let band = Band::WORDS.iter().find(|(name, _)| *name == word.trim()).map(|(_, band)| *band);
    if band.is_none() {
        let words = list(Band::WORDS.iter().map(|(name, _)| *name));
        log.fault(line.number, format!("a band is one of {words}, not `{}`", shown(word.trim())));
    }
    Some((value, band))
}

/// A score of 0 to 10 with at most one decimal, in tenths.
fn score(text: &str) -> Option<u8> {
    decimal(text).filter(|n| *n <= 1000 && n.is_multiple_of(10)).and_then(|n| u8::try_from(n / 10).ok())
}
