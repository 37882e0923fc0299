//! Reads TOML as a tree with places, so that every fault comes at once with its line.
//!
//! Shared by profiles and policies. [`Source`] is the file; a [`Fields`] is one table of it, whose
//! every reading marks its key as known, so that [`Fields::end`] reports the rest. Nothing here knows
//! what a policy is.

mod fields;
mod scalars;

use std::cell::{Cell, RefCell};
use std::ops::Range;

use toml::Spanned;
use toml::de::DeTable;

use super::Faults;
use crate::model::Limits;
pub(super) use fields::Fields;

/// One file under reading, and the faults found in it so far.
pub(super) struct Source<'a> {
    file: &'a str,
    starts: Vec<usize>,
    faults: RefCell<Faults>,
    broken: Cell<bool>,
}

/// A value with the line where it begins.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    pub value: T,
    pub line: usize,
}

/// Checks size and encoding.
///
/// # Errors
/// Too many bytes, invalid UTF-8 or a control character, with its line.
pub(super) fn text_of<'a>(bytes: &'a [u8], file: &str) -> Result<&'a str, Faults> {
    let mut faults = Faults::default();
    if bytes.len() > Limits::POLICY_BYTES {
        faults.push(file, 0, format!("{} bytes are over the limit of {}", bytes.len(), Limits::POLICY_BYTES));
        return Err(faults);
    }
    let line_of = |at: usize| 1 + bytes.iter().take(at).filter(|byte| **byte == b'\n').count();
    match std::str::from_utf8(bytes) {
        Err(error) => {
            faults.push(file, line_of(error.valid_up_to()), "not UTF-8; save the file as UTF-8 text");
            Err(faults)
        }
        Ok(text) => {
            for (at, c) in text.char_indices().filter(|(_, c)| is_hostile(*c)).take(20) {
                faults.push(file, line_of(at), format!("control character U+{:04X}; remove it", u32::from(c)));
            }
            faults.or(text.strip_prefix('\u{feff}').unwrap_or(text))
        }
    }
}

/// Characters that no text here needs and that a terminal or an editor would act upon.
fn is_hostile(c: char) -> bool {
    let reorders = matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    reorders || (c.is_control() && !matches!(c, '\n' | '\r' | '\t'))
}

impl<'a> Source<'a> {
    /// Parses `text`; syntax errors become faults and what could be read stays readable.
    pub(super) fn parse(text: &'a str, file: &'a str) -> (Self, Spanned<DeTable<'a>>) {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        let source = Self { file, starts, faults: RefCell::default(), broken: Cell::new(false) };
        let (root, errors) = DeTable::parse_recoverable(text);
        for error in errors {
            source.broken.set(true);
            let line = error.span().map_or(0, |span| source.line(&span));
            source.fault(line, format!("not TOML: {}", error.message()));
        }
        (source, root)
    }

    /// The line of a place, from 1.
    fn line(&self, span: &Range<usize>) -> usize {
        self.starts.partition_point(|start| *start <= span.start)
    }

    /// The file's name.
    pub(super) const fn file(&self) -> &'a str {
        self.file
    }

    /// Notes a fault.
    pub(super) fn fault(&self, line: usize, text: impl Into<String>) {
        self.faults.borrow_mut().push(self.file, line, text);
    }

    /// True once the file was not TOML: what is missing may only have been unreadable.
    pub(super) fn broken(&self) -> bool {
        self.broken.get()
    }

    /// `value` when no fault was found.
    ///
    /// # Errors
    /// Every fault, by line, each once.
    pub(super) fn finish<T>(self, value: Option<T>) -> Result<T, Faults> {
        let mut faults = self.faults.into_inner();
        match value {
            Some(value) if faults.0.is_empty() => Ok(value),
            _ => {
                if faults.0.is_empty() {
                    faults.push(self.file, 0, "the file could not be read");
                }
                faults.0.sort_by(|a, b| (a.line, &a.text).cmp(&(b.line, &b.text)));
                faults.0.dedup();
                Err(faults)
            }
        }
    }
}

/// `0.70` as 70; `None` when not a plain decimal with at most two places.
pub(super) fn decimal(text: &str) -> Option<u32> {
    let (whole, places) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || whole.len() > 4 || places.len() > 2 || !digits(whole) || !digits(places) {
        return None;
    }
    if text.ends_with('.') {
        return None;
    }
    let whole: u32 = whole.parse().ok()?;
    let places: u32 = format!("{places:0<2}").parse().ok()?;
    Some(whole * 100 + places)
}

/// `; did you mean ...?` when one of `options` is near, else nothing.
pub(super) fn nearest<'o>(text: &str, options: impl Iterator<Item = &'o str>) -> String {
    if text.len() > Limits::NAME_BYTES {
        return String::new();
    }
    let best = options.map(|option| (strsim::jaro_winkler(text, option), option)).max_by(|a, b| a.0.total_cmp(&b.0));
    match best {
        Some((score, option)) if score > 0.82 => format!("; did you mean `{option}`?"),
        _ => String::new(),
    }
}

/// `a, b, c` in backticks.
pub(super) fn list<'o>(words: impl Iterator<Item = &'o str>) -> String {
    words.map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

/// At most 60 characters of `text`, on one line.
pub(super) fn shown(text: &str) -> String {
    let clean: String = text.chars().take(60).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(60).is_some() { format!("{clean}…") } else { clean }
}
