//! Captured output: bounded, and harmless to a terminal, a log or a model that reads it.

use std::fmt::Write as _;

/// The text that one program printed, at most `limit` bytes of it.
#[derive(Debug, Default)]
pub(crate) struct Output {
    text: String,
    limit: usize,
    cut: bool,
}

impl Output {
    /// Empty, with room for `limit` bytes.
    pub(crate) fn new(limit: u64) -> Self {
        Self { text: String::new(), limit: usize::try_from(limit).unwrap_or(usize::MAX), cut: false }
    }

    /// One that takes nothing and says so at once.
    pub(crate) const fn shut() -> Self {
        Self { text: String::new(), limit: 0, cut: true }
    }

    /// Takes printed text; false once something had to be dropped.
    pub(crate) fn take(&mut self, printed: &str) -> bool {
        for c in printed.chars() {
            if self.cut {
                return false;
            }
            let before = self.text.len();
            push_harmless(&mut self.text, c);
            if self.text.len() > self.limit {
                self.text.truncate(before);
                self.cut = true;
            }
        }
        !self.cut
    }

    /// Bytes that it takes.
    pub(crate) const fn limit(&self) -> u64 {
        self.limit as u64
    }

    /// True once something had to be dropped.
    pub(crate) const fn is_cut(&self) -> bool {
        self.cut
    }

    /// Bytes kept.
    pub(crate) const fn len(&self) -> u64 {
        self.text.len() as u64
    }

    /// The text, with a visible mark where it was cut.
    pub(crate) fn into_text(mut self) -> String {
        if self.cut {
            let _ = write!(self.text, "…[output cut at {} bytes]", self.limit);
        }
        self.text
    }
}

/// `text` without anything that moves a cursor, hides or reorders text.
pub(crate) fn harmless(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    text.chars().for_each(|c| push_harmless(&mut shown, c));
    shown
}

fn push_harmless(text: &mut String, c: char) {
    match c {
        '\n' | '\t' => text.push(c),
        '\r' => text.push_str("\\r"),
        c if is_hostile(c) => {
            let _ = if u32::from(c) < 0x100 {
                write!(text, "\\x{:02x}", u32::from(c))
            } else {
                write!(text, "\\u{{{:x}}}", u32::from(c))
            };
        }
        c => text.push(c),
    }
}

/// Control characters, bidirectional controls, separators that look like line ends, and the invisible
/// "tag" characters that smuggle text past a reader.
fn is_hostile(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        || matches!(c, '\u{feff}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_cut_at_a_character_and_says_so() {
        let mut output = Output::new(5);
        assert!(output.take("ab"));
        assert!(!output.take("cdé"), "é would end at byte 6");
        assert!(!output.take("x"));
        assert_eq!(output.len(), 4);
        assert_eq!(output.into_text(), "abcd…[output cut at 5 bytes]");
    }

    #[test]
    fn output_that_just_fits_is_not_marked() {
        let mut output = Output::new(3);
        assert!(output.take("abc"));
        assert_eq!(output.into_text(), "abc");
    }

    #[test]
    fn terminal_escapes_and_reordering_are_shown_and_not_obeyed() {
        assert_eq!(harmless("\u{1b}]52;c;x\u{7}\r\n\t\u{202e}é\u{9b}"), "\\x1b]52;c;x\\x07\\r\n\t\\u{202e}é\\x9b");
        assert_eq!(harmless("\u{e0041}\u{2028}"), "\\u{e0041}\\u{2028}");
    }
}
