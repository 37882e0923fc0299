//! The key of kept sessions: 32 random bytes beside the store's signing key, made at first use.
//!
//! It is not derived from the signing key. The two are guarded for different reasons: whoever holds the
//! signing key can forge the record, whoever holds this one can read what agents had in memory. Apart,
//! either can be replaced or moved without the other, and deleting this file is a sure way to make every
//! kept session unreadable, copies in backups included.

use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use super::disk;
use crate::pep::port::KeepFault;

const FILE: &str = "sessions.key";

/// The key under which kept sessions are sealed. It has no `Debug` and no `Display`.
#[derive(Clone)]
pub struct VaultKey([u8; 32]);

impl VaultKey {
    /// A key out of bytes that somebody else keeps.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The key in the folder `store`: `sessions.key`, 64 hexadecimal digits, mode 0600; made when there is none.
    ///
    /// # Errors
    /// [`KeepFault`]: others can read it, it is malformed, or it cannot be read or written.
    pub fn beside(store: &Path) -> Result<Self, KeepFault> {
        let path = store.join(FILE);
        match load(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => make(store, &path),
            Err(error) => Err(unusable(&error)),
            Ok(text) => parse(&text),
        }
    }

    pub(super) const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

fn load(path: &Path) -> io::Result<String> {
    let file = OpenOptions::new().read(true).custom_flags(disk::NO_FOLLOW).open(path)?;
    if file.metadata()?.permissions().mode().trailing_zeros() < 6 {
        return Err(io::Error::other("others can read it; if nobody has copied it, `chmod 600` it"));
    }
    let mut text = String::new();
    file.take(128).read_to_string(&mut text)?;
    Ok(text)
}

fn parse(text: &str) -> Result<VaultKey, KeepFault> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(text.trim_end(), &mut bytes).map_err(|_| {
        KeepFault::Refused(format!("{FILE} does not hold 64 hexadecimal digits; restore it from a backup"))
    })?;
    Ok(VaultKey(bytes))
}

fn make(store: &Path, path: &Path) -> Result<VaultKey, KeepFault> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|_| KeepFault::Failed(format!("there is no randomness for {FILE}")))?;
    let write = || -> io::Result<()> {
        disk::create(store)?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        writeln!(file, "{}", hex::encode(bytes))?;
        file.sync_all()?;
        disk::sync(store)
    };
    match write() {
        Ok(()) => Ok(VaultKey(bytes)),
        // Another process made one in between: that one stands.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            parse(&load(path).map_err(|error| unusable(&error))?)
        }
        // Half a key would be refused for ever.
        Err(error) => {
            let _ = fs::remove_file(path);
            Err(unusable(&error))
        }
    }
}

fn unusable(error: &io::Error) -> KeepFault {
    KeepFault::Failed(format!("{FILE} cannot be used: {}", disk::cause(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_kept_sessions_is_made_once_and_is_private() {
        let store = tempfile::tempdir().unwrap();
        let first = VaultKey::beside(store.path()).ok().unwrap();
        let again = VaultKey::beside(store.path()).ok().unwrap();
        assert_eq!(first.bytes(), again.bytes());
        let path = store.path().join(FILE);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!fs::read_to_string(store.path().join(FILE)).unwrap().contains("[0"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let fault = VaultKey::beside(store.path()).err().unwrap().to_string();
        assert!(fault.contains("chmod 600"), "{fault}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "not a key").unwrap();
        let fault = VaultKey::beside(store.path()).err().unwrap().to_string();
        assert!(fault.contains("backup") && !fault.contains(store.path().to_str().unwrap()), "{fault}");
    }
}
