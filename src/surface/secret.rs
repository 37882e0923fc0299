//! Fresh bearer tokens.

use crate::model::{Secret, SecretFault};

impl Secret {
    /// A fresh token of 256 random bits.
    ///
    /// # Errors
    /// [`SecretFault::Random`].
    pub fn generate() -> Result<Self, SecretFault> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(|_| SecretFault::Random)?;
        Self::new(hex::encode(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fresh_tokens_differ() {
        let (one, two) = (Secret::generate().unwrap(), Secret::generate().unwrap());
        assert!(one.expose().len() == 64 && !one.matches(two.expose().as_bytes()));
    }
}
