//! Reads a TOML file of `[[tables]]` with places, so that every fault comes at once with its line.
//!
//! The policy has a reader of its own with more words; an edge does not see it. This one knows strings,
//! lists of strings and whole numbers, and reports what was never asked for.

use std::cell::RefCell;
use std::fmt;
use std::ops::RangeInclusive;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::model::Limits;

/// One fault of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultLine {
    /// The line, from 1; 0 when it is of the whole file.
    pub line: usize,
    /// What is wrong and what would be right.
    pub text: String,
}

/// Every fault of a file of upstreams; never empty as an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults {
    /// The file, as it was named.
    pub file: String,
    /// The faults, by line.
    pub lines: Vec<FaultLine>,
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.lines.iter().enumerate() {
            let end = if index + 1 == self.lines.len() { "" } else { "\n" };
            match fault.line {
                0 => write!(f, "{}: {}{end}", self.file, fault.text)?,
                line => write!(f, "{}:{line}: {}{end}", self.file, fault.text)?,
            }
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

/// A file under reading.
pub(super) struct Source {
    file: String,
    starts: Vec<usize>,
    faults: RefCell<Vec<FaultLine>>,
}

/// A value with its line.
pub(super) struct At<T> {
    pub value: T,
    pub line: usize,
}

/// One table under reading.
pub(super) struct Table<'s, 't> {
    source: &'s Source,
    table: &'s DeTable<'t>,
    known: RefCell<Vec<&'static str>>,
    what: &'static str,
    /// Where it begins.
    pub line: usize,
}

impl Source {
    /// Gives every `[[name]]` table of `bytes` to `each` and returns what it made of them.
    ///
    /// # Errors
    /// Everything that is wrong with the file, and whatever `each` reported.
    pub(super) fn read<T>(
        bytes: &[u8],
        file: &str,
        name: &'static str,
        mut each: impl FnMut(&Table<'_, '_>) -> Option<T>,
    ) -> Result<Vec<T>, Faults> {
        let whole =
            |text: &str| Faults { file: file.to_owned(), lines: vec![FaultLine { line: 0, text: text.to_owned() }] };
        if bytes.len() > Limits::POLICY_BYTES {
            return Err(whole(&format!("{} bytes are over the limit of {}", bytes.len(), Limits::POLICY_BYTES)));
        }
        let text = std::str::from_utf8(bytes).map_err(|_| whole("not UTF-8; save the file as UTF-8 text"))?;
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        let source = Self { file: file.to_owned(), starts, faults: RefCell::default() };
        let (root, errors) = DeTable::parse_recoverable(text);
        for error in errors {
            let line = error.span().map_or(0, |span| source.line(span.start));
            source.fault(line, format!("not TOML: {}", error.message()));
        }
        let mut made = Vec::new();
        for (key, value) in root.get_ref() {
            let items = match value.get_ref() {
                DeValue::Array(items) if key.get_ref() == name => items,
                _ => {
                    let line = source.line(key.span().start);
                    let shown: String = key.get_ref().chars().filter(|c| !c.is_control()).take(40).collect();
                    source.fault(line, format!("unknown field `{shown}`; the file has `[[{name}]]` tables"));
                    continue;
                }
            };
            for item in items.iter() {
                let line = source.line(item.span().start);
                match item.get_ref() {
                    DeValue::Table(table) => {
                        let table = Table { source: &source, table, known: RefCell::default(), what: name, line };
                        made.extend(each(&table));
                        table.end();
                    }
                    _ => source.fault(line, format!("`[[{name}]]` is a table")),
                }
            }
        }
        source.finish(made)
    }

    fn line(&self, at: usize) -> usize {
        self.starts.partition_point(|start| *start <= at)
    }

    fn fault(&self, line: usize, text: String) {
        self.faults.borrow_mut().push(FaultLine { line, text });
    }

    fn finish<T>(self, value: Vec<T>) -> Result<Vec<T>, Faults> {
        let mut lines = self.faults.into_inner();
        if lines.is_empty() {
            return Ok(value);
        }
        lines.sort_by(|a, b| (a.line, &a.text).cmp(&(b.line, &b.text)));
        Err(Faults { file: self.file, lines })
    }
}

impl<'t> Table<'_, 't> {
    /// Notes a fault at `line`.
    pub(super) fn fault(&self, line: usize, text: impl Into<String>) {
        self.source.fault(line, text.into());
    }

    fn get(&self, key: &'static str) -> Option<At<&DeValue<'t>>> {
        self.known.borrow_mut().push(key);
        let value: &Spanned<DeValue<'t>> = self.table.get(key)?;
        Some(At { value: value.get_ref(), line: self.source.line(value.span().start) })
    }

    fn wrong(&self, key: &str, line: usize, wanted: &str) {
        self.fault(line, format!("`{key}` in [[{}]] is {wanted}", self.what));
    }

    /// A string without control characters, if present.
    pub(super) fn text(&self, key: &'static str) -> Option<At<String>> {
        let At { value, line } = self.get(key)?;
        match value {
            DeValue::String(text) if !text.is_empty() && !text.chars().any(char::is_control) => {
                Some(At { value: text.to_string(), line })
            }
            _ => {
                self.wrong(key, line, "a string of visible characters");
                None
            }
        }
    }

    /// A string that must be there.
    pub(super) fn need(&self, key: &'static str) -> Option<At<String>> {
        if !self.table.contains_key(key) {
            self.known.borrow_mut().push(key);
            self.fault(self.line, format!("[[{}]] lacks `{key}`", self.what));
            return None;
        }
        self.text(key)
    }

    /// A whole number in `range`, if present.
    pub(super) fn whole(&self, key: &'static str, range: RangeInclusive<u64>) -> Option<u64> {
        let At { value, line } = self.get(key)?;
        let number = match value {
            DeValue::Integer(number) => u64::from_str_radix(number.as_str(), number.radix()).ok(),
            _ => None,
        };
        let number = number.filter(|number| range.contains(number));
        if number.is_none() {
            self.wrong(key, line, &format!("a whole number from {} to {}", range.start(), range.end()));
        }
        number
    }

    /// A list of strings, if present.
    pub(super) fn texts(&self, key: &'static str) -> Option<At<Vec<String>>> {
        let At { value, line } = self.get(key)?;
        let DeValue::Array(items) = value else {
            self.wrong(key, line, "a list of strings");
            return None;
        };
        let text = |item: &Spanned<DeValue<'_>>| match item.get_ref() {
            DeValue::String(text) if !text.chars().any(char::is_control) => Some(text.to_string()),
            _ => None,
        };
        let texts: Option<Vec<String>> = items.iter().map(text).collect();
        if texts.is_none() {
            self.wrong(key, line, "a list of strings");
        }
        texts.map(|value| At { value, line })
    }

    /// Reports every key that was never read.
    fn end(&self) {
        let known = self.known.borrow();
        for (key, _) in self.table {
            if !known.iter().any(|known| key.get_ref() == known) {
                let line = self.source.line(key.span().start);
                let shown: String = key.get_ref().chars().filter(|c| !c.is_control()).take(40).collect();
                let fields = known.join("`, `");
                self.fault(line, format!("unknown field `{shown}` in [[{}]]; it has `{fields}`", self.what));
            }
        }
    }
}
