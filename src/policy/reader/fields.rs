//! One table under reading: strings, names, words, threats and the tables inside it.

use std::cell::RefCell;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{At, Source, is_hostile, list, nearest, shown};
use crate::model::{Name, ThreatId};

/// One table of the file.
pub(in crate::policy) struct Fields<'s, 't> {
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
    pub(in crate::policy) fn root(source: &'s Source<'t>, root: &'s Spanned<DeTable<'t>>) -> Self {
        Self { source, table: root.get_ref(), known: RefCell::default(), what: "the file".into(), line: 1 }
    }

    /// Notes a fault at `line`.
    pub(in crate::policy) fn fault(&self, line: usize, text: impl Into<String>) {
        self.source.fault(line, text);
    }

    /// Every key with the line of its value, in file order.
    pub(in crate::policy) fn keys(&self) -> Vec<At<String>> {
        let mut keys: Vec<_> = self.table.iter().map(|(key, _)| (key.span().start, key)).collect();
        keys.sort_by_key(|(start, _)| *start);
        keys.into_iter()
            .map(|(_, key)| At { value: key.get_ref().to_string(), line: self.source.line(&key.span()) })
            .collect()
    }

    /// Reports every key that was never read.
    pub(in crate::policy) fn end(&self) {
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

    pub(super) fn at(&self, value: &Spanned<DeValue<'_>>) -> usize {
        self.source.line(&value.span())
    }

    pub(super) fn opt(&self, key: &str) -> Option<&'s Spanned<DeValue<'t>>> {
        self.known.borrow_mut().push(key.to_owned());
        self.table.get(key)
    }

    /// Reports `key` as missing.
    pub(in crate::policy) fn missing(&self, key: &str) {
        if !self.source.broken() {
            self.fault(self.line, format!("{} lacks `{key}`", self.what));
        }
    }

    /// True when the table has `key`.
    pub(in crate::policy) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// True when the value of `key` is a string.
    pub(in crate::policy) fn is_text(&self, key: &str) -> bool {
        self.table.get(key).is_some_and(|value| matches!(value.get_ref(), DeValue::String(_)))
    }

    pub(super) fn wrong(&self, key: &str, value: &Spanned<DeValue<'_>>, wanted: &str) {
        let found = value.get_ref().type_str();
        self.fault(self.at(value), format!("`{key}` in {} is {wanted}, not a value of type {found}", self.what));
    }

    /// A string, if present.
    pub(in crate::policy) fn text(&self, key: &str) -> Option<At<String>> {
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
    pub(in crate::policy) fn line_text(&self, key: &str, max: usize) -> Option<At<String>> {
        let text = self.text(key)?;
        if text.value.len() > max || text.value.contains(['\n', '\r']) || text.value.trim().is_empty() {
            self.fault(text.line, format!("`{key}` in {} is one line of 1 to {max} bytes", self.what));
            return None;
        }
        Some(text)
    }

    /// A name, if present.
    pub(in crate::policy) fn name(&self, key: &str) -> Option<At<Name>> {
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
    pub(in crate::policy) fn need_name(&self, key: &str) -> Option<At<Name>> {
        if !self.has(key) {
            self.missing(key);
        }
        self.name(key)
    }

    /// A word out of a closed list, if present.
    pub(in crate::policy) fn word<T: Copy>(&self, key: &str, words: &[(&'static str, T)]) -> Option<T> {
        let text = self.text(key)?;
        self.pick(&text, key, words)
    }

    /// A word out of a closed list that must be there.
    pub(in crate::policy) fn need_word<T: Copy>(&self, key: &str, words: &[(&'static str, T)]) -> Option<T> {
        if !self.has(key) {
            self.missing(key);
        }
        self.word(key, words)
    }

    /// Words out of a closed list, each once.
    pub(in crate::policy) fn words<T: Copy + PartialEq>(&self, key: &str, words: &[(&'static str, T)]) -> Vec<T> {
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
    pub(in crate::policy) fn texts(&self, key: &str) -> Vec<At<String>> {
        let mut texts = Vec::new();
        for item in self.items(key) {
            match item.get_ref() {
                DeValue::String(text) => texts.push(At { value: text.to_string(), line: self.at(item) }),
                _ => self.wrong(key, item, "an array of strings"),
            }
        }
        texts
    }

    /// An array of arrays of strings, each with its line; empty when absent.
    pub(in crate::policy) fn text_lists(&self, key: &str) -> Vec<(usize, Vec<String>)> {
        let mut lists = Vec::new();
        for item in self.items(key) {
            let words = match item.get_ref() {
                DeValue::Array(words) => words.iter().map(|word| word.get_ref().as_str().map(str::to_owned)).collect(),
                _ => None,
            };
            match words {
                Some(words) => lists.push((self.at(item), words)),
                None => self.wrong(key, item, "an array of arrays of strings"),
            }
        }
        lists
    }

    /// An array of names, each once; empty when absent.
    pub(in crate::policy) fn names(&self, key: &str) -> Vec<At<String>> {
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
    pub(in crate::policy) fn threats(&self, key: &str) -> Vec<ThreatId> {
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
    pub(in crate::policy) fn threat(&self, text: &At<String>) -> Option<ThreatId> {
        let found = ThreatId::parse(&text.value);
        if found.is_none() {
            let hint = nearest(&text.value, ThreatId::all().map(ThreatId::as_str));
            self.fault(text.line, format!("unknown threat `{}`{hint}; docs/policy.md lists them", shown(&text.value)));
        }
        found
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
    pub(in crate::policy) fn table(&self, key: &str, what: &str) -> Option<Self> {
        self.opt(key).and_then(|value| self.fields(value, what.to_owned()))
    }

    /// The array of tables under `key`.
    pub(in crate::policy) fn tables(&self, key: &str, what: &str) -> Vec<Self> {
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
