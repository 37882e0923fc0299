//! One word of a command line: what is known of it before anything runs.

/// A piece of a word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Exactly this text.
    Text(String),
    /// One character, whichever, but no slash: `?` and `[…]` of a pattern.
    One,
    /// Any characters but slashes: `*` of a pattern.
    Any,
    /// Digits that only the shell knows.
    Number,
    /// A folder that the agent does not choose: `~`, `$HOME`, `$PWD`.
    Folder,
    /// Whatever comes out at run time, in quotes: one word at most.
    Unknown,
    /// Whatever comes out at run time: any number of words.
    Words,
}

/// One word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Word(Vec<Part>);

impl Word {
    /// A word that is exactly `text`.
    #[must_use]
    pub fn text(text: &str) -> Self {
        Self(vec![Part::Text(text.to_owned())])
    }

    /// A word of which nothing is known.
    #[must_use]
    pub fn unknown() -> Self {
        Self(vec![Part::Words])
    }

    /// A word of which nothing is known but that it is one.
    #[must_use]
    pub fn quoted_unknown() -> Self {
        Self(vec![Part::Unknown])
    }

    /// The file that a process substitution stands for: the shell names it.
    #[must_use]
    pub fn pipe() -> Self {
        Self(vec![Part::Text("/dev/fd/".to_owned()), Part::Any])
    }

    /// Its pieces; neighbouring texts are one.
    #[must_use]
    pub fn parts(&self) -> &[Part] {
        &self.0
    }

    /// The word itself, when all of it is known.
    #[must_use]
    pub fn literal(&self) -> Option<&str> {
        match self.0.as_slice() {
            [] => Some(""),
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// True when nothing is known about some piece of it.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.0.iter().any(|part| matches!(part, Part::Unknown | Part::Words))
    }

    /// True when it may turn out to be several words.
    #[must_use]
    pub fn may_split(&self) -> bool {
        self.0.contains(&Part::Words)
    }

    /// True when it may turn out to be an option: it begins with something that only the run shows.
    #[must_use]
    pub fn may_be_option(&self) -> bool {
        self.0.first().is_some_and(|part| !matches!(part, Part::Text(_) | Part::Folder))
            || self.start().starts_with('-')
    }

    /// The text that it certainly begins with.
    #[must_use]
    pub fn start(&self) -> &str {
        match self.0.first() {
            Some(Part::Text(text)) => text,
            _ => "",
        }
    }

    /// The word for a message: what is not known is `…`.
    #[must_use]
    pub fn shown(&self) -> String {
        let part = |part: &Part| match part {
            Part::Text(text) => text.clone(),
            Part::One => "?".to_owned(),
            Part::Any => "*".to_owned(),
            Part::Number => "0".to_owned(),
            Part::Folder => "~".to_owned(),
            Part::Unknown | Part::Words => "…".to_owned(),
        };
        self.0.iter().map(part).collect()
    }

    /// Adds a piece at its end.
    pub(super) fn push(&mut self, part: Part) {
        match (self.0.last_mut(), part) {
            (Some(Part::Text(before)), Part::Text(text)) => before.push_str(&text),
            (_, part) => self.0.push(part),
        }
    }
}
