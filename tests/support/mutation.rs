//! Damaged bytes for decoders, the same ones every time: samples that are right, changed in a few places each.
//!
//! What `fuzz/` looks for at length and at random, a test looks for briefly here, on every machine.

/// Bytes that decoders have stumbled over.
const ODD: &[&[u8]] = &[
    &[0],
    &[0xff],
    &[0x7f],
    &[0x80],
    &[0xff, 0xff, 0xff, 0xff, 0x0f],
    &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
    &[0xed, 0xa0, 0x80],
    b"\"",
    b"\\u",
    b"{\"$\":",
    b"[[[[[[[[",
    b"1e400",
    b"-0",
    b"\xef\xbb\xbf",
    b"99999999999999999999",
    b"\n[",
];

/// Damages samples, without end; the same seed damages them in the same way.
pub struct Mutations {
    samples: Vec<Vec<u8>>,
    state: u64,
}

impl Mutations {
    pub fn new(seed: u64, samples: Vec<Vec<u8>>) -> Self {
        assert!(!samples.is_empty(), "there is something to damage");
        Self { samples, state: seed | 1 }
    }

    /// The next number below `bound` of a xorshift generator.
    fn below(&mut self, bound: usize) -> usize {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        (self.state >> 11) as usize % bound.max(1)
    }

    fn sample(&mut self) -> Vec<u8> {
        let at = self.below(self.samples.len());
        self.samples[at].clone()
    }

    fn damage(&mut self, bytes: &mut Vec<u8>) {
        let at = self.below(bytes.len() + 1);
        let end = (at + self.below(16)).min(bytes.len());
        match self.below(7) {
            0 if !bytes.is_empty() => bytes[at.min(end.max(1) - 1)] ^= 1 << self.below(8),
            1 => drop(bytes.splice(at..end, ODD[self.below(ODD.len())].iter().copied())),
            2 => drop(bytes.drain(at..end)),
            3 => {
                let again = bytes[at..end].to_vec();
                drop(bytes.splice(at..at, again));
            }
            4 => bytes.truncate(at),
            5 => {
                let other = self.sample();
                let from = self.below(other.len() + 1);
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            _ => drop(bytes.splice(at..end, [self.below(256) as u8])),
        }
    }
}

impl Iterator for Mutations {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        let mut bytes = self.sample();
        for _ in 0..=self.below(5) {
            self.damage(&mut bytes);
        }
        Some(bytes)
    }
}
