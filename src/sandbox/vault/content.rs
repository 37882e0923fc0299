//! What a kept session consists of, as one stream: a header, and the interpreter's state as its worker gave it
//! (`worker/state.rs`), compressed.
//!
//! Both lengths are bounded and checked before anything is made room for. What a stream says is trusted
//! only because it was sealed (`seal.rs`).

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};

use crate::model::{Digest, Name};
use crate::sandbox::tape::Start;
use crate::sandbox::wire::{self, STATE, System};

/// The longest header: 100,000 objects of the host and room for the rest.
const HEADER: u64 = 8 << 20;
/// Of zstd: a session waits for it.
const LEVEL: i32 = 1;

/// What must be known to go on with a memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Header {
    /// The guest: `python`, `javascript`.
    pub(crate) guest: Name,
    /// Digest of the guest's build; a memory belongs to no other.
    pub(crate) build: Digest,
    /// Steps that the session has run.
    pub(crate) steps: u64,
    /// What the interpreter was started with.
    pub(crate) system: System,
    /// Digest of what of its grant is built into it.
    pub(crate) given: Digest,
    /// Ids of host objects that came into it. Whether the host still has them is the host's to say.
    pub(crate) handles: Vec<String>,
    /// Linear memory, bytes.
    pub(crate) memory_bytes: u64,
    /// Length of the state, bytes.
    pub(crate) bytes: u64,
    /// What the tape of its next step begins with; `None` when it has run a step of which there is none.
    pub(crate) before: Option<Start>,
}

/// Writes `header` and `content`, which must be exactly as long as the header says, to `out`.
pub(super) fn pack<W: Write>(out: W, header: &Header, content: &mut dyn Read) -> io::Result<W> {
    let head = postcard::to_stdvec(header).map_err(io::Error::other)?;
    if head.len() as u64 > HEADER || header.bytes > STATE as u64 {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let mut out = zstd::stream::write::Encoder::new(out, LEVEL)?;
    out.write_all(&(head.len() as u64).to_le_bytes())?;
    out.write_all(&head)?;
    let written = io::copy(&mut content.take(header.bytes.saturating_add(1)), &mut out)?;
    if written != header.bytes {
        return Err(io::Error::other("the state is not as long as it was said to be"));
    }
    out.finish()
}

/// Reads what [`pack`] wrote, to the end of `from`.
pub(super) fn unpack(from: impl Read) -> io::Result<(Header, Vec<u8>)> {
    let mut from = zstd::stream::read::Decoder::new(from)?;
    let mut length = [0; 8];
    from.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    if length > HEADER {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut head = Vec::new();
    from.by_ref().take(length).read_to_end(&mut head)?;
    let header: Header = wire::parse(&head)?;
    if header.bytes > STATE as u64 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    // Grows with what really comes; the length that is said is only ever the most.
    let mut state = Vec::new();
    from.take(header.bytes + 1).read_to_end(&mut state)?;
    if state.len() as u64 != header.bytes {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok((header, state))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_memory_that_is_longer_or_shorter_than_said_is_not_kept() {
        let header = super::super::tests::header(1000);
        for length in [0, 999, 1001, 70_000] {
            let content = vec![1; length];
            assert!(pack(Vec::new(), &header, &mut content.as_slice()).is_err(), "{length}");
        }
        let packed = pack(Vec::new(), &header, &mut vec![1; 1000].as_slice()).unwrap();
        assert_eq!(unpack(packed.as_slice()).unwrap(), (header, vec![1; 1000]));
    }

    #[test]
    fn lengths_that_lie_are_refused_before_room_is_made() {
        let bomb = |head: u64, rest: &[u8]| {
            let mut out = zstd::stream::write::Encoder::new(Vec::new(), LEVEL).unwrap();
            out.write_all(&head.to_le_bytes()).unwrap();
            out.write_all(rest).unwrap();
            out.finish().unwrap()
        };
        let lying = Header { bytes: u64::MAX, ..super::super::tests::header(0) };
        let head = postcard::to_stdvec(&lying).unwrap();
        for wrong in [bomb(u64::MAX, &[]), bomb(HEADER, &[0; 9]), bomb(head.len() as u64, &head), vec![], vec![0; 40]] {
            assert!(unpack(wrong.as_slice()).is_err());
        }
    }

    #[test]
    fn damaged_streams_are_refused_or_read_and_make_no_room_that_they_do_not_fill() {
        use crate::sandbox::hostile::mutation::Mutations;
        let header = super::super::tests::header(3_000);
        let content: Vec<u8> = (0..3_000_u32).map(|n| (n * n) as u8).collect();
        let whole = pack(Vec::new(), &header, &mut content.as_slice()).unwrap();
        // Damage before compression comes as far as the header; damage after it, to the decompressor.
        let plain = zstd::decode_all(whole.as_slice()).unwrap();
        let again = |bytes: Vec<u8>| zstd::encode_all(bytes.as_slice(), LEVEL).unwrap();
        let inside = Mutations::new(5, vec![plain]).take(10_000).map(again);
        for bytes in Mutations::new(6, vec![whole]).take(10_000).chain(inside) {
            if let Ok((header, state)) = unpack(bytes.as_slice()) {
                assert_eq!(header.bytes, state.len() as u64);
                assert!(state.len() < 1 << 20, "{}", state.len());
            }
        }
    }
}
