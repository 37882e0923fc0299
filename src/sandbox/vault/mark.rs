//! The index of a vault and the mark beside its folder, read when a vault is opened.
//!
//! The mark says how far the index had counted: an index that was put back alone, or the folder without the mark, is
//! refused. Nothing is written here.

use std::io;
use std::path::Path;

use super::disk::{self, is_id};
use super::index::Index;
use super::key::VaultKey;
use super::seal::opened;
use crate::pep::port::KeepFault;
use crate::sandbox::wire;

pub(super) const INDEX: &str = "index";
/// Bytes of an index at most: 65,536 entries of the longest names.
pub(super) const INDEX_BYTES: u64 = 128 << 20;

/// The index in `folder`; `None` where nothing was ever kept.
pub(super) fn read_index(folder: &Path, key: &VaultKey) -> Result<Option<Index>, KeepFault> {
    let refused = |text: &str| Err(KeepFault::Refused(format!("the kept sessions are not used: {text}")));
    let there = |result: io::Result<Vec<u8>>| match result {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(disk::unread(&error)),
    };
    let (beside, name) = mark_of(folder).map_err(|error| disk::unread(&error))?;
    let mark = there(disk::read(&beside.join(&name), 1024))?;
    let mark = mark.map(|bytes| opened(key, name.as_bytes(), &bytes).ok().and_then(|plain| plain.try_into().ok()));
    let index = there(disk::read(&folder.join(INDEX), INDEX_BYTES))?;
    let index = index.map(|bytes| {
        let plain = opened(key, INDEX.as_bytes(), &bytes)?;
        wire::parse::<Index>(&plain)
    });
    let files = disk::list(folder).map_err(|error| disk::unread(&error))?;
    match (index, mark) {
        (None, None) if files.iter().any(|(name, _)| is_id(name)) => {
            refused("their index is gone; restore it from a backup, or remove the folder to begin anew")
        }
        (None, None) => Ok(None),
        (None, Some(_)) => refused("their index is gone; restore it from a backup, or remove folder and mark"),
        (Some(Err(_)), _) | (_, Some(None)) => {
            refused("their index was changed, or the key is another one; restore both from one backup")
        }
        // A crash between the first index and the first mark.
        (Some(Ok(index)), None) if index.counter == 0 => Ok(Some(index)),
        (Some(Ok(_)), None) => refused("the mark beside the folder is gone; restore it from a backup"),
        (Some(Ok(index)), Some(Some(mark))) if index.counter < u64::from_le_bytes(mark) => {
            refused("their index is older than it was; somebody put an old one back")
        }
        (Some(Ok(index)), Some(Some(_))) => Ok(Some(index)),
    }
}

/// Where the mark of the vault in `folder` lies: beside it, under its name.
pub(super) fn mark_of(folder: &Path) -> io::Result<(&Path, String)> {
    let (parent, name) = folder.parent().zip(folder.file_name()).ok_or(io::ErrorKind::InvalidInput)?;
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    Ok((parent, format!("{}-mark", name.to_string_lossy())))
}
