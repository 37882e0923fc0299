//! What a kept session consists of, as one stream: a header, and the memory as far as it differs from the
//! image that every interpreter of its guest begins with, compressed.
//!
//! Both lengths are bounded and checked before anything is made room for. What a stream says is trusted
//! only because it was sealed (`seal.rs`).

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};

use crate::model::{Digest, Name};
use crate::sandbox::wire::{self, System};

/// The longest header: 100,000 objects of the host and room for the rest.
const HEADER: u64 = 8 << 20;
/// The longest memory: all that a 32-bit guest can have.
const MEMORY: u64 = 4 << 30;
/// Bytes that are compared with the image at a time.
const PIECE: usize = 64 << 10;
/// Of zstd: pages that are as in the image are zeros, and the rest is not worth much time.
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
    /// What of its grant is built into it, in the sandbox's own encoding.
    pub(crate) given: Vec<u8>,
    /// Ids of host objects that came into it. Whether the host still has them is the host's to say.
    pub(crate) handles: Vec<String>,
    /// Linear memory, bytes.
    pub(crate) memory_bytes: u64,
    /// Where the frozen clock and the random generator stand, in the sandbox's own encoding.
    pub(crate) extra: Vec<u8>,
}

/// The image with which an interpreter of a build begins. Only what differs from it is kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Base<'a> {
    /// The image's digest, so that no other one is ever put under a memory.
    pub(crate) digest: Digest,
    /// The image.
    pub(crate) bytes: &'a [u8],
}

impl Base<'_> {
    /// No image: a memory is kept whole.
    pub(crate) const NONE: Self = Self { digest: Digest::ZERO, bytes: &[] };
}

/// Writes `header` and `content`, which must be exactly as long as the header says, to `out`.
pub(super) fn pack<W: Write>(out: W, header: &Header, base: &Base<'_>, content: &mut dyn Read) -> io::Result<W> {
    let head = postcard::to_stdvec(header).map_err(io::Error::other)?;
    if head.len() as u64 > HEADER || header.memory_bytes > MEMORY {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let mut out = zstd::stream::write::Encoder::new(out, LEVEL)?;
    out.write_all(&(head.len() as u64).to_le_bytes())?;
    out.write_all(&head)?;
    let mut content = content.take(header.memory_bytes.saturating_add(1));
    let (mut piece, mut at) = (Vec::with_capacity(PIECE), 0);
    loop {
        piece.clear();
        content.by_ref().take(PIECE as u64).read_to_end(&mut piece)?;
        differ(&mut piece, base, at);
        out.write_all(&piece)?;
        at += piece.len();
        if piece.len() < PIECE {
            break;
        }
    }
    if at as u64 != header.memory_bytes {
        return Err(io::Error::other("the memory is not as long as it was said to be"));
    }
    out.finish()
}

/// Reads what [`pack`] wrote, to the end of `from`.
pub(super) fn unpack(from: impl Read, base: &Base<'_>) -> io::Result<(Header, Vec<u8>)> {
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
    if header.memory_bytes > MEMORY {
        return Err(io::ErrorKind::InvalidData.into());
    }
    // Grows with what really comes; the length that is said is only ever the most.
    let mut memory = Vec::new();
    from.take(header.memory_bytes + 1).read_to_end(&mut memory)?;
    if memory.len() as u64 != header.memory_bytes {
        return Err(io::ErrorKind::InvalidData.into());
    }
    differ(&mut memory, base, 0);
    Ok((header, memory))
}

/// Changes `bytes`, which lie at `at` of a memory, into their difference from the image, or back.
fn differ(bytes: &mut [u8], base: &Base<'_>, at: usize) {
    let image = base.bytes.get(at..).unwrap_or_default();
    bytes.iter_mut().zip(image).for_each(|(byte, image)| *byte ^= image);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_memory_that_is_longer_or_shorter_than_said_is_not_kept() {
        let header = super::super::tests::header(1000);
        for length in [0, 999, 1001, 70_000] {
            let content = vec![1; length];
            assert!(pack(Vec::new(), &header, &Base::NONE, &mut content.as_slice()).is_err(), "{length}");
        }
        let packed = pack(Vec::new(), &header, &Base::NONE, &mut vec![1; 1000].as_slice()).unwrap();
        assert_eq!(unpack(packed.as_slice(), &Base::NONE).unwrap(), (header, vec![1; 1000]));
    }

    #[test]
    fn lengths_that_lie_are_refused_before_room_is_made() {
        let bomb = |head: u64, rest: &[u8]| {
            let mut out = zstd::stream::write::Encoder::new(Vec::new(), LEVEL).unwrap();
            out.write_all(&head.to_le_bytes()).unwrap();
            out.write_all(rest).unwrap();
            out.finish().unwrap()
        };
        let lying = Header { memory_bytes: u64::MAX, ..super::super::tests::header(0) };
        let head = postcard::to_stdvec(&lying).unwrap();
        for wrong in [bomb(u64::MAX, &[]), bomb(HEADER, &[0; 9]), bomb(head.len() as u64, &head), vec![], vec![0; 40]] {
            assert!(unpack(wrong.as_slice(), &Base::NONE).is_err());
        }
    }

    #[test]
    fn damaged_streams_are_refused_or_read_and_make_no_room_that_they_do_not_fill() {
        use crate::sandbox::hostile::mutation::Mutations;
        let header = super::super::tests::header(3_000);
        let content: Vec<u8> = (0..3_000_u32).map(|n| (n * n) as u8).collect();
        let whole = pack(Vec::new(), &header, &Base::NONE, &mut content.as_slice()).unwrap();
        // Damage before compression comes as far as the header; damage after it, to the decompressor.
        let plain = zstd::decode_all(whole.as_slice()).unwrap();
        let again = |bytes: Vec<u8>| zstd::encode_all(bytes.as_slice(), LEVEL).unwrap();
        let inside = Mutations::new(5, vec![plain]).take(10_000).map(again);
        for bytes in Mutations::new(6, vec![whole]).take(10_000).chain(inside) {
            if let Ok((header, memory)) = unpack(bytes.as_slice(), &Base::NONE) {
                assert_eq!(header.memory_bytes, memory.len() as u64);
                assert!(memory.len() < 1 << 20, "{}", memory.len());
            }
        }
    }
}
