//! The stream of a kept session, as it is once its seal was opened.

#[path = "../../src/sandbox/vault/content.rs"]
#[allow(dead_code, reason = "what writes it is not looked at")]
mod content;

/// A stream is refused, or gives a state of the length that it says.
pub fn kept(bytes: &[u8]) {
    if let Ok((header, state)) = content::unpack(bytes) {
        assert_eq!(header.bytes, state.len() as u64);
    }
}
