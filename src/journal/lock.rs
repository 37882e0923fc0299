//! One gate per store: an advisory lock on a file of its own, which names its holder.
//!
//! The kernel drops the lock with the process, so that a killed gate never leaves it behind. Readers
//! do not take it.

use std::fs::{File, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::Path;

use super::folder;
use crate::pep::port::JournalFault;

/// The lock's file in a store's folder.
const FILE: &str = "journal.lock";

/// A held lock; dropping it lets go.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "closing the file is what releases the lock")] File);

impl Lock {
    /// Takes the lock of the store in `dir`, so that no gate uses it meanwhile.
    ///
    /// # Errors
    /// Another process holds it (named by its pid), or the file cannot be made.
    pub fn hold(dir: &Path) -> Result<Self, JournalFault> {
        Self::take(&dir.join(FILE))
    }
    /// Takes the lock on `path`.
    ///
    /// # Errors
    /// Another process holds it (named by its pid), or the file cannot be made.
    pub(super) fn take(path: &Path) -> Result<Self, JournalFault> {
        let fault =
            |error: &std::io::Error| JournalFault(format!("the store cannot be locked: {}", folder::cause(error)));
        let mut file = folder::private(path).map_err(|error| fault(&error))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(JournalFault(held_by(&mut file))),
            Err(TryLockError::Error(error)) => return Err(fault(&error)),
        }
        let write = |file: &mut File| -> std::io::Result<()> {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())
        };
        write(&mut file).map_err(|error| fault(&error))?;
        Ok(Self(file))
    }
}

fn held_by(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.take(32).read_to_string(&mut text);
    let holder = match (read, text.trim().parse::<u32>()) {
        (Ok(_), Ok(pid)) => format!("process {pid}"),
        _ => "another process".to_owned(),
    };
    format!("another gate ({holder}) uses this store; stop it, or give this one a --store of its own")
}
