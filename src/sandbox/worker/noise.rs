//! The guest's sources of what cannot be foreseen: dice and, where granted, the machine's clocks.
//!
//! Seeded dice know how far they have been drawn, so that a stored session goes on where it stood. What the real
//! ones give can be told to the gate, and be given again when the execution is replayed.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chacha20::ChaCha20Rng;
use chacha20::rand_core::{Rng as _, SeedableRng as _, TryRng};
use sha2::{Digest as _, Sha256};

/// Bytes of real noise that one execution can tell; beyond it cannot be replayed.
const TOLD: usize = 4 << 20;

/// Where real noise goes, and where it comes from in a replay. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Noise(Arc<Mutex<Told>>);

#[derive(Debug, Default)]
struct Told {
    telling: bool,
    told: Vec<u8>,
    over: bool,
    given: Option<VecDeque<u8>>,
}

impl Noise {
    /// A new execution: `tell` what is drawn, or give what was `given` the last time.
    pub(crate) fn begin(&self, tell: bool, given: Option<Vec<u8>>) {
        *self.lock() = Told { telling: tell, given: given.map(VecDeque::from), ..Told::default() };
    }

    /// What was drawn in this execution; `None` when nothing was asked for or it was too much.
    pub(crate) fn end(&self) -> Option<Vec<u8>> {
        let told = std::mem::take(&mut *self.lock());
        (told.telling && !told.over).then_some(told.told)
    }

    /// Fills `bytes` from `real`, or from what is to be given again.
    pub(crate) fn fill(&self, bytes: &mut [u8], real: impl FnOnce(&mut [u8])) {
        let mut state = self.lock();
        match &mut state.given {
            // A program that draws more than the last time has gone another way already; zeros show it.
            Some(given) => bytes.iter_mut().for_each(|byte| *byte = given.pop_front().unwrap_or(0)),
            None => real(bytes),
        }
        if state.telling {
            state.over |= state.told.len() + bytes.len() > TOLD;
            if !state.over {
                state.told.extend_from_slice(bytes);
            }
        }
    }

    /// A number of nanoseconds from `real`, or from what is to be given again.
    pub(crate) fn nanos(&self, real: impl FnOnce() -> u64) -> u64 {
        let mut bytes = [0; 8];
        self.fill(&mut bytes, |bytes| {
            let real = real().to_le_bytes();
            bytes.iter_mut().zip(real).for_each(|(byte, new)| *byte = new);
        });
        u64::from_le_bytes(bytes)
    }

    fn lock(&self) -> MutexGuard<'_, Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of the guest's dice. Clones are the same one.
#[derive(Clone)]
pub(crate) enum Dice {
    /// It follows from a seed.
    Seeded(Arc<Mutex<ChaCha20Rng>>),
    /// The operating system's.
    Real(Noise),
}

impl Dice {
    /// What depends on `seed` and `purpose` alone, after `drawn` words of it.
    pub(crate) fn seeded(seed: &str, purpose: &str, drawn: u64) -> Self {
        let mut digest = Sha256::new();
        digest.update(b"weir guest randomness\0");
        digest.update(purpose.as_bytes());
        digest.update([0]);
        digest.update(seed.as_bytes());
        let mut dice = ChaCha20Rng::from_seed(digest.finalize().into());
        dice.set_word_pos(u128::from(drawn));
        Self::Seeded(Arc::new(Mutex::new(dice)))
    }

    /// Words of 32 bits drawn so far; 0 for the real one, which has no place to go back to.
    pub(crate) fn drawn(&self) -> u64 {
        match self {
            Self::Seeded(dice) => {
                let at = dice.lock().unwrap_or_else(PoisonError::into_inner).get_word_pos();
                u64::try_from(at).unwrap_or(u64::MAX)
            }
            Self::Real(_) => 0,
        }
    }
}

impl TryRng for Dice {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        // The system interface asks for a word for every byte that it wants.
        if let Self::Seeded(dice) = self {
            return Ok(dice.lock().unwrap_or_else(PoisonError::into_inner).next_u32());
        }
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        match self {
            Self::Seeded(dice) => dice.lock().unwrap_or_else(PoisonError::into_inner).fill_bytes(bytes),
            // Without the operating system's generator nothing random can be had: zeros would be taken for it, and
            // a panic here is caught at the edge of the worker and ends this program.
            Self::Real(noise) => noise.fill(bytes, real),
        }
        Ok(())
    }
}

#[expect(clippy::panic, reason = "a generator that fails must never be taken for one that drew zeros")]
fn real(bytes: &mut [u8]) {
    if let Err(error) = getrandom::fill(bytes) {
        panic!("the operating system gives no random numbers: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_session_draws_the_same_numbers_and_another_draws_others() {
        let draw = |name: &str, purpose: &str| Dice::seeded(name, purpose, 0).next_u64();
        assert_eq!(draw("a", "secure"), draw("a", "secure"));
        assert_ne!(draw("a", "secure"), draw("b", "secure"));
        assert_ne!(draw("a", "secure"), draw("a", "insecure"));
    }

    #[test]
    fn dice_go_on_where_they_stood() {
        let mut whole = Dice::seeded("a", "secure", 0);
        let mut first = [0; 12];
        whole.fill_bytes(&mut first);
        let mut resumed = Dice::seeded("a", "secure", whole.drawn());
        assert_eq!(whole.next_u64(), resumed.next_u64());
    }

    #[test]
    fn a_word_is_the_same_one_however_it_is_asked_for() {
        let (mut words, mut bytes) = (Dice::seeded("a", "secure", 0), Dice::seeded("a", "secure", 0));
        for _ in 0..100 {
            let mut word = [0; 4];
            bytes.fill_bytes(&mut word);
            assert_eq!(words.next_u32(), u32::from_le_bytes(word));
        }
        assert_eq!((words.drawn(), bytes.drawn()), (100, 100));
    }

    #[test]
    fn what_was_drawn_is_given_again() {
        let noise = Noise::default();
        let mut dice = Dice::Real(noise.clone());
        noise.begin(true, None);
        let drawn = (dice.next_u64(), noise.nanos(|| 7));
        let told = noise.end().unwrap();
        noise.begin(false, Some(told));
        assert_eq!((dice.next_u64(), noise.nanos(|| 8)), drawn);
        assert_eq!(dice.next_u32(), 0, "more than was told is visibly nothing");
        noise.begin(true, None);
        dice.fill_bytes(&mut vec![0; TOLD + 1]);
        assert_eq!(noise.end(), None, "too much cannot be told");
    }
}
