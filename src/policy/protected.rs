//! Protected host paths: which texts point into one.
//!
//! A pattern is a chain of path components: `.ssh` and `.git/hooks` match anywhere in a path,
//! `/etc/shadow` matches paths that begin so. A text touches a pattern when a word of it, taken as a
//! path, does. Comparison is lexical and errs towards touching; what a shell would put together at
//! run time is beyond it, and no shell runs without a rule of its own.

use super::Policy;

/// What ends a word besides white space.
const BREAKS: &[char] =
    &[';', '|', '&', '<', '>', '(', ')', '{', '}', '[', ']', '=', ',', ':', '?', '#', '@', '"', '\'', '`'];

impl Policy {
    /// True when `text`, an argument of a call, is or contains a protected path.
    #[must_use]
    pub fn touches_protected(&self, text: &str) -> bool {
        if self.protected.is_empty() {
            return false;
        }
        let decoded = unescape_percent(text);
        [text, &decoded].into_iter().any(|text| self.touches(text) || self.touches(&without_quoting(text)))
    }

    fn touches(&self, text: &str) -> bool {
        let lower = text.to_ascii_lowercase();
        let patterns: Vec<Pattern<'_>> = self.protected.iter().map(|pattern| Pattern::of(pattern)).collect();
        let possible: Vec<_> = patterns.iter().filter(|pattern| pattern.may_stand_in(&lower)).collect();
        if possible.is_empty() {
            return false;
        }
        let words = lower.split(|c: char| c.is_whitespace() || c.is_control() || BREAKS.contains(&c));
        words.filter(|word| !word.is_empty()).any(|word| possible.iter().any(|pattern| pattern.covers(word)))
    }
}

/// One protected path, in lower case.
struct Pattern<'p> {
    absolute: bool,
    parts: Vec<std::borrow::Cow<'p, str>>,
}

impl<'p> Pattern<'p> {
    fn of(text: &'p str) -> Self {
        let lower = |part: &'p str| {
            if part.bytes().any(|b| b.is_ascii_uppercase()) { part.to_ascii_lowercase().into() } else { part.into() }
        };
        Self {
            absolute: text.starts_with('/'),
            parts: text.split('/').filter(|part| !part.is_empty()).map(lower).collect(),
        }
    }

    /// False when some part stands nowhere in `text`: spares the words of most texts.
    fn may_stand_in(&self, text: &str) -> bool {
        self.parts.iter().all(|part| text.contains(part.as_ref()))
    }

    /// True when `word`, read as a path, points to this path or below it.
    fn covers(&self, word: &str) -> bool {
        let raw = components(word);
        let resolved = resolve(&raw);
        let climbs = raw.contains(&"..");
        if self.absolute && !climbs {
            return word.starts_with(['/', '\\']) && self.begins(&raw);
        }
        self.stands_in(&raw) || self.stands_in(&resolved)
    }

    fn begins(&self, parts: &[&str]) -> bool {
        parts.len() >= self.parts.len() && parts.iter().zip(&self.parts).all(|(part, want)| part == want)
    }

    fn stands_in(&self, parts: &[&str]) -> bool {
        (0..parts.len()).any(|at| parts.get(at..).is_some_and(|rest| self.begins(rest)))
    }
}

/// True for a chain of components that a policy may protect.
pub(super) fn is_pattern(pattern: &str) -> bool {
    let parts = pattern.strip_prefix('/').unwrap_or(pattern);
    let plain =
        |c: char| !c.is_whitespace() && !c.is_control() && !BREAKS.contains(&c) && !matches!(c, '\\' | '*' | '%');
    let part = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.starts_with('~');
    pattern.len() <= 256 && pattern.chars().all(plain) && parts.split('/').all(part)
}

/// The parts between slashes, without empty ones and `.`.
fn components(path: &str) -> Vec<&str> {
    path.split(['/', '\\']).filter(|part| !part.is_empty() && *part != ".").collect()
}

/// The parts with each `..` taking back the one before it.
fn resolve<'a>(parts: &[&'a str]) -> Vec<&'a str> {
    let mut resolved = Vec::new();
    for part in parts {
        if *part == ".." {
            resolved.pop();
        } else {
            resolved.push(*part);
        }
    }
    resolved
}

/// `text` without quotes and backslashes, as a shell would join it.
fn without_quoting(text: &str) -> String {
    text.chars().filter(|c| !matches!(c, '"' | '\'' | '\\' | '`')).collect()
}

/// `text` with `%2e` and the like decoded, twice encoded ones too.
fn unescape_percent(text: &str) -> String {
    let mut text = text.to_owned();
    for _ in 0..2 {
        if !text.contains('%') {
            break;
        }
        text = decode_once(&text);
    }
    text
}

fn decode_once(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes().peekable();
    let hex = |byte: Option<u8>| byte.and_then(|b| char::from(b).to_digit(16)).and_then(|d| u8::try_from(d).ok());
    while let Some(byte) = bytes.next() {
        let mut ahead = bytes.clone();
        match (byte, hex(ahead.next()), hex(ahead.next())) {
            (b'%', Some(high), Some(low)) => {
                out.push(high * 16 + low);
                bytes = ahead;
            }
            _ => out.push(byte),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}
