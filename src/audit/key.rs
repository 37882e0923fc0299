//! Ed25519 keys (RFC 8032) by `ed25519-dalek`.

use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};

use crate::model::Digest;

/// The gate's signing key. Its seed never appears in a log, a receipt or a `Debug` text.
pub struct Key(SigningKey);

/// The public half.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

impl Key {
    /// The key of a 32-byte seed.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// Signs `bytes`; 128 hexadecimal digits.
    #[must_use]
    pub fn sign(&self, bytes: &[u8]) -> String {
        hex::encode(self.0.sign(bytes).to_bytes())
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Key({})", self.public().hex())
    }
}

impl PublicKey {
    /// Reads 64 hexadecimal digits of a key that is no point of small order.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text.trim(), &mut bytes).ok()?;
        VerifyingKey::from_bytes(&bytes).ok().filter(|key| !key.is_weak()).map(Self)
    }

    /// 64 hexadecimal digits.
    #[must_use]
    pub fn hex(&self) -> String {
        hex::encode(self.0.as_bytes())
    }

    /// The first 16 hexadecimal digits of the key's SHA-256: a name for it, not a proof.
    #[must_use]
    pub fn id(&self) -> String {
        let mut id = Digest::of(self.0.as_bytes()).hex();
        id.truncate(16);
        id
    }

    /// True when `signature` (128 hexadecimal digits) is this key's on `bytes`.
    #[must_use]
    pub fn verifies(&self, bytes: &[u8], signature: &str) -> bool {
        let mut raw = [0; 64];
        hex::decode_to_slice(signature, &mut raw).is_ok()
            && !signature.bytes().any(|b| b.is_ascii_uppercase())
            && self.0.verify_strict(bytes, &ed25519_dalek::Signature::from_bytes(&raw)).is_ok()
    }
}
