//! A look at a session's folder: what lies in it, with digests.
//!
//! A program may have left anything, and a worker that was broken out of may change it while it is looked at. So
//! nothing is followed, nothing is opened that was not seen to be an ordinary file, every count has a bound, and a
//! digest is of the bytes that were read. What is neither a file nor a folder is taken away.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read as _};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cap_std::fs::{Dir, DirEntry, Metadata, MetadataExt as _, ReadDir};
use sha2::{Digest as _, Sha256};

use super::path::{self, PARTS};
use crate::model::{Digest, OutputFile, Quota};
use crate::pep::port::KeepFault;
use crate::sandbox::walk;

/// A file that was changed within this time before a look may be changed again without its times telling.
const GRAIN: Duration = Duration::from_millis(100);
/// Paths that one notice names.
const NAMED: usize = 5;

/// A file as it was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) bytes: u64,
    pub(super) digest: Digest,
    /// `None` when its times prove nothing yet.
    stamp: Option<Stamp>,
}

/// What changes when a file does. The time of the last change cannot be set by a program, others can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    identity: (u64, u64),
    bytes: u64,
    written: (i64, i64),
    changed: (i64, i64),
}

/// Everything that lies in a folder.
#[derive(Debug, Default)]
pub(super) struct Look {
    /// Files by path.
    pub(super) files: BTreeMap<String, Seen>,
    /// Files and folders.
    pub(super) entries: u64,
    /// Bytes of all files.
    pub(super) bytes: u64,
    /// What was taken away.
    taken: BTreeSet<String>,
    /// What was left alone: no name or place for an output.
    passed: BTreeSet<String>,
}

impl Seen {
    /// As an output.
    pub(super) fn output(&self, path: &str) -> OutputFile {
        OutputFile { path: path.to_owned(), bytes: self.bytes, digest: Some(self.digest) }
    }
}

impl Look {
    /// Looks at `root`; files that are as `known` are not read again.
    ///
    /// # Errors
    /// There is more than `quota`, or the folder cannot be read.
    pub(super) fn at(root: &Dir, quota: &Quota, known: &BTreeMap<String, Seen>) -> Result<Self, KeepFault> {
        let mut look = Self::default();
        let mut open: Vec<(String, ReadDir)> = vec![(String::new(), entries(root)?)];
        while let Some((prefix, listing)) = open.last_mut() {
            let Some(entry) = listing.next() else {
                open.pop();
                continue;
            };
            let entry = entry.map_err(|error| path::failed("read", &error))?;
            look.entries += 1;
            if look.entries > quota.files {
                return Err(over(quota));
            }
            let Some(path) = entry.file_name().to_str().map(|name| format!("{prefix}{name}")) else {
                look.passed.insert(format!("{prefix}{}", entry.file_name().to_string_lossy()));
                continue;
            };
            // Gone since the listing.
            let Ok(seen) = entry.metadata() else { continue };
            if !path::is_plain(&path) {
                look.passed.insert(path);
            } else if seen.is_dir() {
                look.enter(path, &entry, &seen, &mut open);
            } else if seen.is_file() && !walk::has_other_names(&seen) {
                look.file(path, &entry, &seen, quota, known)?;
            } else if entry.remove_file().is_ok() {
                look.entries -= 1;
                look.taken.insert(path);
            } else {
                look.passed.insert(path);
            }
        }
        Ok(look)
    }

    fn enter(&mut self, path: String, entry: &DirEntry, seen: &Metadata, open: &mut Vec<(String, ReadDir)>) {
        let inner = walk::folder(entry, seen).and_then(|folder| folder.entries());
        match inner {
            Ok(inner) if open.len() < PARTS => open.push((format!("{path}/"), inner)),
            _ => drop(self.passed.insert(path)),
        }
    }

    fn file(
        &mut self,
        path: String,
        entry: &DirEntry,
        seen: &Metadata,
        quota: &Quota,
        known: &BTreeMap<String, Seen>,
    ) -> Result<(), KeepFault> {
        let stamp = Stamp::of(seen);
        let left = quota.bytes.checked_sub(self.bytes).ok_or_else(|| over(quota))?;
        let file = match known.get(&path).filter(|known| known.stamp == Some(stamp)) {
            Some(same) => same.clone(),
            None => match walk::file(entry, seen).and_then(|file| digest(file, left)) {
                Ok(Some((bytes, digest))) => Seen { bytes, digest, stamp: stamp.proves().then_some(stamp) },
                Ok(None) => return Err(over(quota)),
                Err(_) => {
                    self.passed.insert(path);
                    return Ok(());
                }
            },
        };
        self.bytes = self.bytes.saturating_add(file.bytes);
        if self.bytes > quota.bytes {
            return Err(over(quota));
        }
        self.files.insert(path, file);
        Ok(())
    }

    /// What the agent must be told.
    pub(super) fn notices(&self) -> Vec<String> {
        let taken = "Links, pipes and other special files are not kept in the session's folder and were removed";
        let passed = "These are not outputs, for their names, their depth or because they could not be read";
        [(taken, &self.taken), (passed, &self.passed)]
            .into_iter()
            .filter_map(|(what, which)| notice(what, which))
            .collect()
    }
}

impl Stamp {
    fn of(seen: &Metadata) -> Self {
        Self {
            identity: walk::identity(seen),
            bytes: seen.len(),
            written: (seen.mtime(), seen.mtime_nsec()),
            changed: (seen.ctime(), seen.ctime_nsec()),
        }
    }

    /// True when a later change must show: the last one is longer ago than the clock's grain.
    fn proves(&self) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let (seconds, nanos) = (u64::try_from(self.changed.0), u32::try_from(self.changed.1));
        let changed = Duration::new(seconds.unwrap_or(u64::MAX), nanos.unwrap_or(0).min(999_999_999));
        changed.checked_add(GRAIN).is_some_and(|settled| settled < now)
    }
}

fn entries(root: &Dir) -> Result<ReadDir, KeepFault> {
    root.entries().map_err(|error| path::failed("read", &error))
}

fn over(quota: &Quota) -> KeepFault {
    let Quota { bytes, files } = quota;
    KeepFault::Refused(format!("the session's folder holds more than its quota of {bytes} bytes and {files} files"))
}

/// Reads `file` once; `None` when it has more than `most` bytes.
fn digest(file: File, most: u64) -> io::Result<Option<(u64, Digest)>> {
    let mut hash = Sha256::new();
    let mut bytes = 0u64;
    let mut reader = file.take(most.saturating_add(1));
    let mut chunk = vec![0; 64 << 10];
    loop {
        let read = match reader.read(&mut chunk) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hash.update(chunk.get(..read).unwrap_or_default());
        bytes += read as u64;
    }
    Ok((bytes <= most).then(|| (bytes, Digest(hash.finalize().into()))))
}

fn notice(what: &str, which: &BTreeSet<String>) -> Option<String> {
    let first = which.iter().take(NAMED).map(|path| shown(path)).collect::<Vec<_>>().join(", ");
    let more = which.len().saturating_sub(NAMED);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    (!which.is_empty()).then(|| format!("{what}: {first}{more}."))
}

/// A path that harms no reader.
fn shown(path: &str) -> String {
    let plain = |c: char| {
        if c == '`' || (c.is_ascii() && !c.is_ascii_graphic() && c != ' ') || !(c.is_ascii() || c.is_alphanumeric()) {
            '\u{fffd}'
        } else {
            c
        }
    };
    let text: String = path.chars().take(60).map(plain).collect();
    let rest = if path.chars().count() > 60 { "…" } else { "" };
    format!("`{text}{rest}`")
}
