//! Sealed streams: XChaCha20-Poly1305 in chunks, so that a memory never has to be held twice and no chunk
//! can be changed, cut off, repeated, reordered or taken from another file.
//!
//! The construction is STREAM (Hoang, Reyhanitabar, Rogaway, Vizár 2015): each chunk's nonce is 19 random
//! bytes of the file, the chunk's number and whether it is the last one. What the file is *for* is bound to
//! every chunk as associated data and stands nowhere in the file: a reader has to know it.

use std::io::{self, Read, Write};

use chacha20poly1305::aead::{AeadInOut as _, KeyInit as _};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};

use super::key::VaultKey;

/// Bytes of a chunk before it is sealed.
pub(super) const CHUNK: usize = 64 << 10;
/// Bytes that sealing adds to a chunk.
const TAG: usize = 16;
/// The random part of a nonce.
const PREFIX: usize = 19;
/// How a sealed file begins; the last digit is the format's version.
const MAGIC: [u8; 8] = *b"weirkpt1";

/// Seals what is written to it.
pub(super) struct Sealer<W> {
    out: W,
    chunks: Chunks,
    plain: Vec<u8>,
}

/// Opens what it reads.
pub(super) struct Opener<R> {
    from: R,
    chunks: Chunks,
    /// The next chunk, still sealed: whether one follows says whether a chunk is the last.
    ahead: Vec<u8>,
    plain: Vec<u8>,
    at: usize,
    over: bool,
}

struct Chunks {
    cipher: XChaCha20Poly1305,
    bound: Vec<u8>,
    prefix: [u8; PREFIX],
    next: u32,
}

impl Chunks {
    fn new(key: &VaultKey, bound: &[u8], prefix: [u8; PREFIX]) -> Self {
        let bound = [&MAGIC[..], bound].concat();
        Self { cipher: XChaCha20Poly1305::new(key.bytes().into()), bound, prefix, next: 0 }
    }

    /// The nonce of the next chunk.
    fn nonce(&mut self, last: bool) -> io::Result<XNonce> {
        let mut nonce = XNonce::default();
        let parts = self.prefix.iter().copied().chain(self.next.to_be_bytes()).chain([u8::from(last)]);
        nonce.iter_mut().zip(parts).for_each(|(byte, new)| *byte = new);
        self.next = self.next.checked_add(1).ok_or_else(|| io::Error::from(io::ErrorKind::FileTooLarge))?;
        Ok(nonce)
    }

    fn seal(&mut self, chunk: &mut Vec<u8>, last: bool) -> io::Result<()> {
        let nonce = self.nonce(last)?;
        self.cipher.encrypt_in_place(&nonce, &self.bound, chunk).map_err(|_| io::Error::other("a chunk is too long"))
    }

    fn open(&mut self, chunk: &mut Vec<u8>, last: bool) -> io::Result<()> {
        let nonce = self.nonce(last)?;
        self.cipher.decrypt_in_place(&nonce, &self.bound, chunk).map_err(|_| io::ErrorKind::InvalidData.into())
    }
}

impl<W: Write> Sealer<W> {
    /// Begins a sealed stream on `out` for what `bound` says.
    pub(super) fn new(mut out: W, key: &VaultKey, bound: &[u8]) -> io::Result<Self> {
        let mut prefix = [0; PREFIX];
        getrandom::fill(&mut prefix).map_err(|_| io::Error::other("there is no randomness"))?;
        out.write_all(&MAGIC)?;
        out.write_all(&prefix)?;
        Ok(Self { out, chunks: Chunks::new(key, bound, prefix), plain: Vec::with_capacity(CHUNK + TAG) })
    }

    /// Writes the last chunk.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.chunk(true)?;
        Ok(self.out)
    }

    fn chunk(&mut self, last: bool) -> io::Result<()> {
        self.chunks.seal(&mut self.plain, last)?;
        self.out.write_all(&self.plain)?;
        self.plain.clear();
        Ok(())
    }
}

impl<W: Write> Write for Sealer<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Only once more follows is a full chunk known not to be the last.
        if self.plain.len() >= CHUNK && !bytes.is_empty() {
            self.chunk(false)?;
        }
        let taken = bytes.get(..CHUNK - self.plain.len()).unwrap_or(bytes);
        self.plain.extend_from_slice(taken);
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<R: Read> Opener<R> {
    /// Begins to open the stream `from` that was sealed for what `bound` says.
    pub(super) fn new(mut from: R, key: &VaultKey, bound: &[u8]) -> io::Result<Self> {
        let (mut magic, mut prefix) = ([0; MAGIC.len()], [0; PREFIX]);
        from.read_exact(&mut magic)?;
        from.read_exact(&mut prefix)?;
        if magic != MAGIC {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let ahead = sealed_chunk(&mut from)?;
        Ok(Self { from, chunks: Chunks::new(key, bound, prefix), ahead, plain: Vec::new(), at: 0, over: false })
    }

    fn advance(&mut self) -> io::Result<()> {
        let mut chunk = std::mem::take(&mut self.ahead);
        if chunk.len() == CHUNK + TAG {
            self.ahead = sealed_chunk(&mut self.from)?;
        }
        let last = self.ahead.is_empty();
        self.chunks.open(&mut chunk, last)?;
        (self.plain, self.at, self.over) = (chunk, 0, last);
        Ok(())
    }
}

impl<R: Read> Read for Opener<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.at == self.plain.len() {
            if self.over {
                return Ok(0);
            }
            self.advance()?;
        }
        let mut rest = self.plain.get(self.at..).unwrap_or_default();
        let read = rest.read(into)?;
        self.at += read;
        Ok(read)
    }
}

/// The next sealed chunk; short or empty only at the end.
fn sealed_chunk(from: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut chunk = Vec::with_capacity(CHUNK + TAG);
    from.take((CHUNK + TAG) as u64).read_to_end(&mut chunk)?;
    Ok(chunk)
}

/// `plain` as one sealed stream.
pub(super) fn sealed(key: &VaultKey, bound: &[u8], plain: &[u8]) -> io::Result<Vec<u8>> {
    let mut sealer = Sealer::new(Vec::new(), key, bound)?;
    sealer.write_all(plain)?;
    sealer.finish()
}

/// The content of one sealed stream.
pub(super) fn opened(key: &VaultKey, bound: &[u8], sealed: &[u8]) -> io::Result<Vec<u8>> {
    let mut plain = Vec::new();
    Opener::new(sealed, key, bound)?.read_to_end(&mut plain)?;
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEAD: usize = MAGIC.len() + PREFIX;

    fn key() -> VaultKey {
        VaultKey::new([3; 32])
    }

    #[test]
    fn what_is_sealed_opens_at_every_length_around_a_chunk() {
        for length in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 2 * CHUNK + 7] {
            let plain: Vec<u8> = (0..length).map(|n| n as u8).collect();
            let there = sealed(&key(), b"a", &plain).unwrap();
            assert_eq!(there.len(), HEAD + length + TAG * length.div_ceil(CHUNK).max(1));
            assert_eq!(opened(&key(), b"a", &there).unwrap(), plain, "{length}");
            assert!(opened(&key(), b"b", &there).is_err(), "another purpose");
            assert!(opened(&VaultKey::new([4; 32]), b"a", &there).is_err(), "another key");
            assert_ne!(there, sealed(&key(), b"a", &plain).unwrap(), "a nonce is never used twice");
        }
    }

    #[test]
    fn every_flip_of_every_byte_of_a_sealed_stream_is_refused() {
        let there = sealed(&key(), b"a", b"some memory").unwrap();
        for at in 0..there.len() {
            for bit in 0..8 {
                let mut changed = there.clone();
                changed[at] ^= 1 << bit;
                assert!(opened(&key(), b"a", &changed).is_err(), "byte {at}, bit {bit}");
            }
        }
    }

    #[test]
    fn chunks_cannot_be_cut_moved_repeated_or_borrowed() {
        let plain = vec![7; 3 * CHUNK];
        let (one, two) = (sealed(&key(), b"a", &plain).unwrap(), sealed(&key(), b"a", &plain).unwrap());
        let chunk = |of: &[u8], n: usize| of[HEAD + n * (CHUNK + TAG)..HEAD + (n + 1) * (CHUNK + TAG)].to_vec();
        let file = |chunks: &[Vec<u8>]| [one[..HEAD].to_vec(), chunks.concat()].concat();
        let [a, b, c] = [chunk(&one, 0), chunk(&one, 1), chunk(&one, 2)];
        assert_eq!(opened(&key(), b"a", &file(&[a.clone(), b.clone(), c.clone()])).unwrap(), plain);
        for wrong in [
            vec![],
            vec![a.clone()],
            vec![a.clone(), b.clone()],
            vec![a.clone(), c.clone()],
            vec![b.clone(), a.clone(), c.clone()],
            vec![a.clone(), b.clone(), b.clone(), c.clone()],
            vec![a.clone(), b.clone(), c.clone(), c.clone()],
            vec![a.clone(), chunk(&two, 1), c.clone()],
            vec![c],
        ] {
            assert!(opened(&key(), b"a", &file(&wrong)).is_err(), "{} chunks", wrong.len());
        }
        for length in [0, 5, HEAD, HEAD + 3, HEAD + CHUNK, one.len() - 1] {
            assert!(opened(&key(), b"a", &one[..length]).is_err(), "{length}");
        }
        assert!(opened(&key(), b"a", &[&one[..], &[0]].concat()).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_flip_in_any_of_many_chunks_is_refused(at in 0usize..1 << 20, bit in 0u8..8, length in 0usize..200_000) {
            let mut there = sealed(&key(), b"a", &vec![9; length]).unwrap();
            let at = at % there.len();
            there[at] ^= 1 << bit;
            prop_assert!(opened(&key(), b"a", &there).is_err());
        }
    }
}
