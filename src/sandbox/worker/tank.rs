//! The fuel of one guest whose own code counts it: one word in a memory that the guest cannot name.
//!
//! The host fills it before a program and reads it afterwards, whatever ended the program. A watchman that wants the
//! program to end closes it: the guest's next count is then a trap, without a second thing for its code to look at.

use std::io;
use std::sync::atomic::Ordering;

use super::raw::Grip;

/// Fuel for instantiating, which is not any program's doing.
const START: i64 = 2_000_000_000;

/// The fuel of one guest.
#[derive(Clone)]
pub(crate) struct Tank(Grip);

impl Tank {
    /// In a memory that is open and nobody else's.
    pub(super) fn new(grip: Grip) -> Self {
        grip.counter().store(START, Ordering::Relaxed);
        Self(grip)
    }

    /// Gives `units` for the next program; opens it where the last one was ended by closing it.
    ///
    /// # Errors
    /// The kernel does not let it be opened.
    pub(crate) fn fill(&self, units: u64) -> io::Result<()> {
        if self.0.is_closed() {
            self.0.close(false)?;
        }
        self.0.counter().store(i64::try_from(units).unwrap_or(i64::MAX), Ordering::Relaxed);
        Ok(())
    }

    /// What is left.
    pub(crate) fn left(&self) -> u64 {
        u64::try_from(self.0.counter().load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// True when the guest wanted more than there was.
    pub(crate) fn is_dry(&self) -> bool {
        self.0.counter().load(Ordering::Relaxed) < 0
    }

    /// Ends what runs, at its next count.
    ///
    /// # Errors
    /// The kernel does not let it be closed.
    pub(crate) fn close(&self) -> io::Result<()> {
        self.0.close(true)
    }
}
