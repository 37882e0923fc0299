//! Bounded names of agents, sessions, tools, modules and peers.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, de::Error};

use super::Limits;

/// A name of 1 to [`Limits::NAME_BYTES`] bytes out of ASCII letters, digits and `. _ - : / @`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Name(String);

/// Why a text is not a [`Name`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameFault {
    /// Empty, or longer than the limit.
    #[error("a name has 1 to {} characters", Limits::NAME_BYTES)]
    Length,
    /// A character outside the permitted set.
    #[error("a name has only ASCII letters, digits and . _ - : / @")]
    Character,
}

impl Name {
    /// Checks `text`.
    ///
    /// # Errors
    /// [`NameFault`] when the text is empty, too long or holds another character.
    pub fn new(text: impl Into<String>) -> Result<Self, NameFault> {
        let text = text.into();
        if text.is_empty() || text.len() > Limits::NAME_BYTES {
            return Err(NameFault::Length);
        }
        let known = |b: u8| b.is_ascii_alphanumeric() || b"._-:/@".contains(&b);
        if text.bytes().all(known) { Ok(Self(text)) } else { Err(NameFault::Character) }
    }

    /// The name `seat:` and `digits`, which are hexadecimal digits made here.
    pub(crate) fn derived(digits: &str) -> Self {
        Self(format!("seat:{digits}"))
    }

    /// A name of the first 32 of `digits`, which are hexadecimal digits made here.
    pub(crate) fn digits(digits: &str) -> Self {
        Self(digits.chars().take(32).collect())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::borrow::Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}
