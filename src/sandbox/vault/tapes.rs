//! Tapes on disk: one sealed file each, found by whose it is and by its digest.
//!
//! A receipt of the journal names the digest, so that no list of tapes is needed: what opens and has another
//! digest is not the tape. The oldest go when there is no room; a tape is never what a session lives from.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use super::disk;
use super::key::VaultKey;
use super::seal::{opened, sealed};
use crate::model::{Digest, Seat};
use crate::pep::port::KeepFault;
use crate::sandbox::tape;

/// Room that sealing takes beyond the tape's own bytes, generously.
const ROOM: u64 = 1 << 20;
/// Of zstd: every execution waits for it.
const LEVEL: i32 = 1;

impl super::Vault {
    /// Keeps the encoded tape of an execution of `seat`; found again by its digest.
    ///
    /// # Errors
    /// [`KeepFault::Full`] when it does not fit, [`KeepFault::Failed`] otherwise; nothing has changed then.
    pub fn put_tape(&self, seat: &Seat, tape: &[u8]) -> Result<Digest, KeepFault> {
        self.tapes.put(&self.key, seat, tape)
    }

    /// The encoded tape of an execution of `seat` with this digest.
    ///
    /// # Errors
    /// As [`TapeReader::get`].
    pub fn get_tape(&self, seat: &Seat, digest: &Digest) -> Result<Vec<u8>, KeepFault> {
        get(&self.tapes.folder, &self.key, seat, digest)
    }
}

/// The tapes of a vault, to be read only: nothing is changed and no lock is needed, so that it works beside a gate.
pub struct TapeReader {
    folder: PathBuf,
    key: VaultKey,
}

impl TapeReader {
    /// Of the vault in `vault`, sealed under `key`.
    #[must_use]
    pub fn new(vault: &Path, key: VaultKey) -> Self {
        Self { folder: vault.join(super::TAPES), key }
    }

    /// The encoded tape of an execution of `seat` with this digest.
    ///
    /// # Errors
    /// [`KeepFault::Absent`] when it was not kept or has made room, [`KeepFault::Refused`] when its file was changed.
    pub fn get(&self, seat: &Seat, digest: &Digest) -> Result<Vec<u8>, KeepFault> {
        get(&self.folder, &self.key, seat, digest)
    }
}

/// A folder of tapes.
pub(super) struct Tapes {
    folder: PathBuf,
    most: u64,
    table: Mutex<Table>,
}

/// Every file, oldest first.
struct Table {
    files: std::collections::VecDeque<(String, u64)>,
    bytes: u64,
}

impl Tapes {
    /// Opens `folder` and clears away what a crash left half written.
    pub(super) fn open(folder: PathBuf, most: u64) -> io::Result<Self> {
        disk::create_private(&folder)?;
        let (half, mut whole): (Vec<_>, Vec<_>) =
            disk::list(&folder)?.into_iter().partition(|(name, _)| name.ends_with(disk::PART));
        half.iter().try_for_each(|(name, _)| fs::remove_file(folder.join(name)))?;
        // Times of files only say which goes first; nothing else follows from them.
        whole.sort_by_cached_key(|(name, about)| (about.modified().unwrap_or(SystemTime::UNIX_EPOCH), name.clone()));
        let bytes = whole.iter().map(|(_, about)| about.len()).sum();
        let files = whole.into_iter().map(|(name, about)| (name, about.len())).collect();
        Ok(Self { folder, most, table: Mutex::new(Table { files, bytes }) })
    }

    pub(super) fn put(&self, key: &VaultKey, seat: &Seat, plain: &[u8]) -> Result<Digest, KeepFault> {
        let unwritten = |error: io::Error| disk::unwritten(&error, self.most);
        let digest = Digest::of(plain);
        let bound = bound(seat, &digest).map_err(unwritten)?;
        let file = zstd::encode_all(plain, LEVEL).and_then(|packed| sealed(key, &bound, &packed)).map_err(unwritten)?;
        let (name, bytes) = (name(&bound), file.len() as u64);
        if bytes > self.most {
            return Err(unwritten(io::ErrorKind::FileTooLarge.into()));
        }
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        // The same tape of the same seat: it is there already.
        if self.folder.join(&name).try_exists().map_err(unwritten)? {
            return Ok(digest);
        }
        while table.bytes.saturating_add(bytes) > self.most {
            let Some((oldest, bytes)) = table.files.pop_front() else { break };
            table.bytes = table.bytes.saturating_sub(bytes);
            let _ = fs::remove_file(self.folder.join(oldest));
        }
        disk::replace(&self.folder, &name, &file).map_err(unwritten)?;
        table.files.push_back((name, bytes));
        table.bytes += bytes;
        Ok(digest)
    }
}

fn get(folder: &Path, key: &VaultKey, seat: &Seat, digest: &Digest) -> Result<Vec<u8>, KeepFault> {
    let read = || {
        let bound = bound(seat, digest)?;
        let file = disk::read(&folder.join(name(&bound)), tape::BYTES as u64 + ROOM)?;
        let packed = opened(key, &bound, &file)?;
        let mut plain = Vec::new();
        let most = tape::BYTES as u64 + 1;
        zstd::stream::read::Decoder::new(packed.as_slice())?.take(most).read_to_end(&mut plain)?;
        if Digest::of(&plain) == *digest { Ok(plain) } else { Err(io::ErrorKind::InvalidData.into()) }
    };
    read().map_err(|error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => {
            KeepFault::Absent("tape of this execution; it was not kept, or made room for newer ones")
        }
        _ => disk::unread(&error),
    })
}

/// What a tape's file is bound to.
fn bound(seat: &Seat, digest: &Digest) -> io::Result<Vec<u8>> {
    postcard::to_stdvec(&("tape", seat, digest)).map_err(io::Error::other)
}

/// The file's name says nothing about whose it is.
fn name(bound: &[u8]) -> String {
    Digest::of(bound).hex()
}
