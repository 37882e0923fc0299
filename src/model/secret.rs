//! Bearer tokens: compared in constant time, never printed.
//!
//! Every edge that listens checks one, and no edge sees another; making a fresh one needs randomness,
//! which the core does not have.

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// A bearer token. It has no `Debug`, no `Display` and no `PartialEq`.
#[derive(Clone)]
pub struct Secret(String);

/// Why a text is not a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretFault {
    /// Too short to be unguessable, too long for a header, or not plain characters.
    #[error("a token has 16 to 256 visible ASCII characters")]
    Form,
    /// The operating system gave no random bytes.
    #[error("the operating system gave no random bytes for a token")]
    Random,
}

impl Secret {
    /// A token out of configuration.
    ///
    /// # Errors
    /// [`SecretFault::Form`] when it is not 16 to 256 visible ASCII characters.
    pub fn new(text: impl Into<String>) -> Result<Self, SecretFault> {
        let text = text.into();
        let plain = text.bytes().all(|byte| byte.is_ascii_graphic());
        if plain && (16..=256).contains(&text.len()) { Ok(Self(text)) } else { Err(SecretFault::Form) }
    }

    /// The token itself, for the one who must present it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// True when `given` is this token. Digests are compared, so that time tells nothing of the
    /// length either.
    #[cfg_attr(
        not(any(feature = "native", feature = "serve")),
        allow(dead_code, reason = "only edges that listen compare tokens")
    )]
    pub(crate) fn matches(&self, given: &[u8]) -> bool {
        let ours = Sha256::digest(self.0.as_bytes());
        let theirs = Sha256::digest(given);
        ours.as_slice().ct_eq(theirs.as_slice()).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_long_plain_and_matches_only_itself() {
        assert!(matches!(Secret::new("short"), Err(SecretFault::Form)));
        assert!(matches!(Secret::new("0123456789abcdef\n"), Err(SecretFault::Form)));
        let token = Secret::new("0123456789abcdef").unwrap();
        assert!(token.matches(b"0123456789abcdef"));
        assert!(!token.matches(b"0123456789abcde") && !token.matches(b"0123456789abcdeg") && !token.matches(b""));
    }
}
