//! Reads TOML as a tree with places, so that every fault comes at once with its line.
//!
//! Shared by profiles and policies. A [`Fields`] is one table; each reading marks its key as known,
//! and [`Fields::end`] reports the rest. Nothing here knows what a policy is.

use std::cell::{Cell, RefCell};
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Faults;
use crate::model::{Limits, Name, ThreatId};

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

/// One table of the file.
pub(super) struct Fields<'s, 't> {
    source: &'s Source<'t>,
    table: &'s DeTable<'t>,
    known: RefCell<Vec<String>>,
    /// What it is, for messages: `[[rule]]`.
    pub what: String,
    /// The line where it begins.
    pub line: usize,
}

impl<'s, 't> Fields<'s, 't> {
    /// The whole document.
    pub(super) fn root(source: &'s Source<'t>, root: &'s Spanned<DeTable<'t>>) -> Self {
        Self { source, table: root.get_ref(), known: RefCell::default(), what: "the file".into(), line: 1 }
    }

    /// Notes a fault at `line`.
    pub(super) fn fault(&self, line: usize, text: impl Into<String>) {
        self.source.fault(line, text);
    }

    /// Every key with the line of its value, in file order.
    pub(super) fn keys(&self) -> Vec<At<String>> {
        let mut keys: Vec<_> = self.table.iter().map(|(key, _)| (key.span().start, key)).collect();
        keys.sort_by_key(|(start, _)| *start);
        keys.into_iter()
            .map(|(_, key)| At { value: key.get_ref().to_string(), line: self.source.line(&key.span()) })
            .collect()
    }

    /// Reports every key that was never read.
    pub(super) fn end(&self) {
        let known = self.known.borrow();
        for key in self.keys().into_iter().filter(|key| !known.contains(&key.value)) {
            let hint = nearest(&key.value, known.iter().map(String::as_str));
            let options = if hint.is_empty() && !known.is_empty() {
                format!("; it has {}", list(known.iter().map(String::as_str)))
            } else {
                hint
            };
            self.fault(key.line, format!("unknown field `{}` in {}{options}", shown(&key.value), self.what));
        }
    }

    fn at(&self, value: &Spanned<DeValue<'_>>) -> usize {
        self.source.line(&value.span())
    }

    fn opt(&self, key: &str) -> Option<&'s Spanned<DeValue<'t>>> {
        self.known.borrow_mut().push(key.to_owned());
        self.table.get(key)
    }

    /// Reports `key` as missing.
    pub(super) fn missing(&self, key: &str) {
        if !self.source.broken() {
            self.fault(self.line, format!("{} lacks `{key}`", self.what));
        }
    }

    /// True when the table has `key`.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    fn wrong(&self, key: &str, value: &Spanned<DeValue<'_>>, wanted: &str) {
        let found = value.get_ref().type_str();
        self.fault(self.at(value), format!("`{key}` in {} is {wanted}, not a value of type {found}", self.what));
    }

    /// A string, if present.
    pub(super) fn text(&self, key: &str) -> Option<At<String>> {
        let value = self.opt(key)?;
        match value.get_ref() {
            DeValue::String(text) if text.chars().any(is_hostile) => {
                self.fault(self.at(value), format!("`{key}` in {} holds a control character", self.what));
                None
            }
            DeValue::String(text) => Some(At { value: text.to_string(), line: self.at(value) }),
            _ => {
                self.wrong(key, value, "a string");
                None
            }
        }
    }

    /// A short single-line string, if present.
    pub(super) fn line_text(&self, key: &str, max: usize) -> Option<At<String>> {
        let text = self.text(key)?;
        if text.value.len() > max || text.value.contains(['\n', '\r']) || text.value.trim().is_empty() {
            self.fault(text.line, format!("`{key}` in {} is one line of 1 to {max} bytes", self.what));
            return None;
        }
        Some(text)
    }

    /// A name, if present.
    pub(super) fn name(&self, key: &str) -> Option<At<Name>> {
        let text = self.text(key)?;
        match Name::new(text.value) {
            Ok(value) => Some(At { value, line: text.line }),
            Err(fault) => {
                self.fault(text.line, format!("`{key}` in {}: {fault}", self.what));
                None
            }
        }
    }

    /// A name that must be there.
    pub(super) fn need_name(&self, key: &str) -> Option<At<Name>> {
        if !self.has(key) {
            self.missing(key);
        }
        self.name(key)
    }

    /// A word out of a closed list, if present.
    pub(super) fn word<T: Copy>(&self, key: &str, words: &[(&'static str, T)]) -> Option<T> {
        let text = self.text(key)?;
        self.pick(&text, key, words)
    }

    /// A word out of a closed list that must be there.
    pub(super) fn need_word<T: Copy>(&self, key: &str, words: &[(&'static str, T)]) -> Option<T> {
        if !self.has(key) {
            self.missing(key);
        }
        self.word(key, words)
    }

    /// Words out of a closed list, each once.
    pub(super) fn words<T: Copy + PartialEq>(&self, key: &str, words: &[(&'static str, T)]) -> Vec<T> {
        let mut found = Vec::new();
        for text in self.texts(key) {
            match self.pick(&text, key, words) {
                Some(value) if found.contains(&value) => self.twice(&text, key),
                Some(value) => found.push(value),
                None => {}
            }
        }
        found
    }

    fn twice(&self, text: &At<String>, key: &str) {
        self.fault(text.line, format!("`{}` stands twice in `{key}` of {}", shown(&text.value), self.what));
    }

    fn pick<T: Copy>(&self, text: &At<String>, key: &str, words: &[(&'static str, T)]) -> Option<T> {
        let found = words.iter().find(|(word, _)| *word == text.value).map(|(_, value)| *value);
        if found.is_none() {
            let options = list(words.iter().map(|(word, _)| *word));
            self.fault(
                text.line,
                format!("`{key}` in {} is one of {options}, not `{}`", self.what, shown(&text.value)),
            );
        }
        found
    }

    fn items(&self, key: &str) -> Vec<&'s Spanned<DeValue<'t>>> {
        let Some(value) = self.opt(key) else { return Vec::new() };
        match value.get_ref() {
            DeValue::Array(items) => items.iter().collect(),
            _ => {
                self.wrong(key, value, "an array");
                Vec::new()
            }
        }
    }

    /// An array of strings; empty when absent.
    pub(super) fn texts(&self, key: &str) -> Vec<At<String>> {
        let mut texts = Vec::new();
        for item in self.items(key) {
            match item.get_ref() {
                DeValue::String(text) => texts.push(At { value: text.to_string(), line: self.at(item) }),
                _ => self.wrong(key, item, "an array of strings"),
            }
        }
        texts
    }

    /// An array of names, each once; empty when absent.
    pub(super) fn names(&self, key: &str) -> Vec<At<String>> {
        let mut names: Vec<At<String>> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        for text in self.texts(key) {
            if let Err(fault) = Name::new(text.value.clone()) {
                self.fault(text.line, format!("`{}` in `{key}` of {}: {fault}", shown(&text.value), self.what));
            } else if seen.insert(text.value.clone()) {
                names.push(text);
            } else {
                self.twice(&text, key);
            }
        }
        names
    }

    /// An array of threats, each once; empty when absent.
    pub(super) fn threats(&self, key: &str) -> Vec<ThreatId> {
        let mut threats = Vec::new();
        for text in self.texts(key) {
            match self.threat(&text) {
                Some(threat) if threats.contains(&threat) => self.twice(&text, key),
                Some(threat) => threats.push(threat),
                None => {}
            }
        }
        threats
    }

    /// The threat written in `text`.
    pub(super) fn threat(&self, text: &At<String>) -> Option<ThreatId> {
        let found = ThreatId::parse(&text.value);
        if found.is_none() {
            let hint = nearest(&text.value, ThreatId::all().map(ThreatId::as_str));
            self.fault(text.line, format!("unknown threat `{}`{hint}; docs/policy.md lists them", shown(&text.value)));
        }
        found
    }

    /// True or false, if present.
    pub(super) fn flag(&self, key: &str) -> Option<bool> {
        let value = self.opt(key)?;
        match value.get_ref() {
            DeValue::Boolean(flag) => Some(*flag),
            _ => {
                self.wrong(key, value, "true or false");
                None
            }
        }
    }

    /// An integer within `range`, if present.
    pub(super) fn whole(&self, key: &str, range: std::ops::RangeInclusive<u64>) -> Option<u64> {
        let value = self.opt(key)?;
        let DeValue::Integer(integer) = value.get_ref() else {
            self.wrong(key, value, "an integer");
            return None;
        };
        let number = u64::from_str_radix(integer.as_str(), integer.radix()).ok().filter(|n| range.contains(n));
        if number.is_none() {
            let (low, high) = (range.start(), range.end());
            let found = shown(integer.as_str());
            self.fault(self.at(value), format!("`{key}` in {} is {low} to {high}, not {found}", self.what));
        }
        number
    }

    /// An integer or float, if present.
    pub(super) fn number(&self, key: &str) -> Option<At<f64>> {
        let value = self.opt(key)?;
        let parsed = match value.get_ref() {
            DeValue::Integer(n) => i64::from_str_radix(n.as_str(), n.radix()).ok().map(|n| n as f64),
            DeValue::Float(f) => f.as_str().parse().ok(),
            _ => None,
        };
        match parsed.filter(|n: &f64| n.is_finite()) {
            Some(number) => Some(At { value: number, line: self.at(value) }),
            None => {
                self.wrong(key, value, "a finite number");
                None
            }
        }
    }

    /// A decimal of 0 to `max` hundredths with at most two places, exactly as written, in hundredths.
    pub(super) fn hundredths(&self, key: &str, max: u32) -> Option<u32> {
        let value = self.opt(key)?;
        let text = match value.get_ref() {
            DeValue::Integer(n) if n.radix() == 10 => n.as_str(),
            DeValue::Float(f) => f.as_str(),
            _ => {
                self.wrong(key, value, "a number");
                return None;
            }
        };
        let number = decimal(text).filter(|n| *n <= max);
        if number.is_none() {
            let (whole, rest) = (max / 100, max % 100);
            let wanted = format!("0.00 to {whole}.{rest:02} with at most two decimals");
            self.fault(self.at(value), format!("`{key}` in {} is {wanted}, not {}", self.what, shown(text)));
        }
        number
    }

    /// The value of `key` as JSON, if present.
    pub(super) fn json(&self, key: &str) -> Option<At<serde_json::Value>> {
        let value = self.opt(key)?;
        let json = self.to_json(key, value)?;
        Some(At { value: json, line: self.at(value) })
    }

    fn to_json(&self, key: &str, value: &Spanned<DeValue<'_>>) -> Option<serde_json::Value> {
        use serde_json::Value;
        let json = match value.get_ref() {
            DeValue::String(text) => Some(Value::String(text.to_string())),
            DeValue::Boolean(flag) => Some(Value::Bool(*flag)),
            DeValue::Integer(n) => i64::from_str_radix(n.as_str(), n.radix()).ok().map(Value::from),
            DeValue::Float(f) => f.as_str().parse().ok().and_then(serde_json::Number::from_f64).map(Value::Number),
            DeValue::Array(items) => {
                return items.iter().map(|item| self.to_json(key, item)).collect::<Option<_>>().map(Value::Array);
            }
            DeValue::Table(table) => {
                let entries = table
                    .iter()
                    .map(|(name, item)| self.to_json(key, item).map(|json| (name.get_ref().to_string(), json)));
                return entries.collect::<Option<_>>().map(Value::Object);
            }
            DeValue::Datetime(_) => None,
        };
        if json.is_none() {
            self.wrong(key, value, "something that JSON can say");
        }
        json
    }

    fn fields(&self, value: &'s Spanned<DeValue<'t>>, what: String) -> Option<Self> {
        match value.get_ref() {
            DeValue::Table(table) => {
                let (known, line) = (RefCell::default(), self.at(value));
                Some(Self { source: self.source, table, known, what, line })
            }
            other => {
                let found = other.type_str();
                self.fault(self.at(value), format!("{what} is a table, not a value of type {found}"));
                None
            }
        }
    }

    /// The table under `key`, if present; `what` names it in messages.
    pub(super) fn table(&self, key: &str, what: &str) -> Option<Self> {
        self.opt(key).and_then(|value| self.fields(value, what.to_owned()))
    }

    /// The array of tables under `key`.
    pub(super) fn tables(&self, key: &str, what: &str) -> Vec<Self> {
        let Some(value) = self.opt(key) else { return Vec::new() };
        match value.get_ref() {
            DeValue::Array(items) => items.iter().filter_map(|item| self.fields(item, what.to_owned())).collect(),
            _ => {
                self.fault(self.at(value), format!("write {what} with two pairs of brackets"));
                Vec::new()
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
