//! The layers of a listing: seven paragraphs in order, or seven headings with their text.

use super::super::profile::{Certainty, LayerNote};
use super::super::profile_toml::NOTE_BYTES;
use super::super::reader::shown;
use super::{Line, Log, default_threat};
use crate::model::{Layer, THREATS, ThreatId};

/// How a paragraph begins that the description does not settle.
const UNCERTAIN: &str = "not certain from the listing";

/// The text of one layer before its threats are recognised.
struct Paragraph {
    line: usize,
    layer: Option<Layer>,
    certainty: Certainty,
    text: String,
}

pub(super) fn read(lines: &[Line<'_>], heading: usize, log: &mut Log<'_>) -> Option<[LayerNote; 7]> {
    let lines: Vec<_> = lines.iter().filter(|line| !line.text.starts_with("Per-layer threats")).collect();
    let headed = lines.iter().any(|line| is_heading(line.text));
    let paragraphs = if headed { headed_paragraphs(&lines, log) } else { bare_paragraphs(&lines) };
    check_order(&paragraphs, heading, log);
    let notes: Vec<_> = Layer::ALL.into_iter().zip(&paragraphs).map(|(layer, text)| note(layer, text, log)).collect();
    notes.try_into().ok()
}

/// One line is one layer.
fn bare_paragraphs(lines: &[&Line<'_>]) -> Vec<Paragraph> {
    let paragraph = |(at, line): (usize, &&Line<'_>)| Paragraph {
        line: line.number,
        layer: Layer::ALL.get(at).copied(),
        certainty: Certainty::Mapped,
        text: line.text.to_owned(),
    };
    lines.iter().enumerate().map(paragraph).collect()
}

/// A heading and the lines up to the next are one layer.
fn headed_paragraphs(lines: &[&Line<'_>], log: &mut Log<'_>) -> Vec<Paragraph> {
    let mut paragraphs: Vec<Paragraph> = Vec::new();
    for line in lines {
        if is_heading(line.text) {
            paragraphs.push(read_heading(line, log));
        } else if let Some(last) = paragraphs.last_mut() {
            if !last.text.is_empty() {
                last.text.push(' ');
            }
            last.text.push_str(line.text);
        } else {
            log.fault(line.number, format!("text before the first layer heading: `{}`", shown(line.text)));
        }
    }
    paragraphs
}

/// `L<digits> · …`
fn is_heading(line: &str) -> bool {
    let Some((label, _)) = line.split_once('·') else { return false };
    let label = label.trim();
    label.len() > 1 && label.starts_with('L') && label.bytes().skip(1).all(|byte| byte.is_ascii_digit())
}

fn read_heading(line: &Line<'_>, log: &mut Log<'_>) -> Paragraph {
    let (label, rest) = line.text.split_once('·').unwrap_or((line.text, ""));
    let (title, certainty) = match (rest.split_once('✓'), rest.split_once('⚠')) {
        (Some((title, _)), _) => (title, Certainty::Mapped),
        (None, Some((title, _))) => (title, Certainty::Uncertain),
        (None, None) => {
            log.fault(line.number, "a layer heading ends with `✓ mapped` or `⚠ not certain from listing`");
            (rest, Certainty::Uncertain)
        }
    };
    let layer = Layer::ALL.into_iter().find(|layer| layer.word() == label.trim());
    let known = layer.is_some_and(|layer| same_title(title, layer.title()));
    if !known {
        let wanted =
            layer.map_or_else(|| "the layers are L1 to L7".into(), |layer| format!("{layer:?} is {}", layer.title()));
        log.fault(line.number, format!("unknown layer heading `{}`; {wanted}", shown(line.text)));
    }
    Paragraph { line: line.number, layer, certainty, text: String::new() }
}

fn same_title(found: &str, title: &str) -> bool {
    let found = found.replace('&', "and");
    let found: Vec<_> = found.split_whitespace().collect();
    let bare = found.join(" ");
    let bare = bare.trim_end_matches("(Vertical)").trim_end();
    bare.eq_ignore_ascii_case(title)
}

fn check_order(paragraphs: &[Paragraph], heading: usize, log: &mut Log<'_>) {
    for paragraph in paragraphs.iter().skip(7) {
        log.fault(paragraph.line, "more than seven layers; MAESTRO has L1 to L7, one paragraph each");
    }
    if paragraphs.len() < 7 {
        log.fault(heading, format!("{} of the seven layers L1 to L7 have a paragraph", paragraphs.len()));
    }
    for (layer, paragraph) in Layer::ALL.into_iter().zip(paragraphs) {
        if let Some(found) = paragraph.layer.filter(|found| *found != layer) {
            log.fault(paragraph.line, format!("{found:?} stands where {layer:?} belongs"));
        }
    }
}

fn note(layer: Layer, paragraph: &Paragraph, log: &mut Log<'_>) -> LayerNote {
    let mut text = paragraph.text.as_str();
    let mut certainty = paragraph.certainty;
    if let Some(rest) = strip_uncertain(text) {
        text = rest;
        certainty = Certainty::Uncertain;
    }
    if text.is_empty() || text.len() > NOTE_BYTES {
        log.fault(paragraph.line, format!("the text of {layer:?} has 1 to {NOTE_BYTES} bytes"));
    }
    let threats = recognise(layer, text);
    let assumed = if threats.is_empty() { default_threat(layer).into_iter().collect() } else { Vec::new() };
    LayerNote { certainty, threats, assumed, note: text.to_owned() }
}

fn strip_uncertain(text: &str) -> Option<&str> {
    let head = text.get(..UNCERTAIN.len())?;
    let rest = text.get(UNCERTAIN.len()..)?;
    head.eq_ignore_ascii_case(UNCERTAIN).then(|| rest.trim_start_matches([' ', '—', '–', '-', '.', ':']))
}

/// Every threat of `layer` of whose words one stands in `text`, in table order.
fn recognise(layer: Layer, text: &str) -> Vec<ThreatId> {
    let text = text.to_lowercase();
    let named = THREATS.iter().filter(|row| row.layer == layer && row.words.iter().any(|word| text.contains(word)));
    named.filter_map(|row| ThreatId::parse(row.id)).collect()
}
