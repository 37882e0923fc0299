//! How many bytes lie in the folders that a program may write, its deleted and still open files included.
//!
//! Looked at by a thread of its own, so that a folder with millions of files delays no other limit. A folder that
//! cannot be looked through is a fault and not a zero: a program could make one on purpose.

use std::collections::BTreeSet;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::clock::Watch;
use super::meter::names;

/// What the kernel counts in, whatever the file system's blocks are.
const BLOCK: u64 = 512;
/// Folders within folders that are looked at.
const DEPTH: usize = 128;
/// The shortest rest between two looks, and how many times as long as a look it is at least.
const REST_MS: u64 = 200;
const SHARE: u64 = 4;
/// Looks in a row that may not all fail.
const BLIND: u64 = 3;
/// How finely the rest is cut, so that the end is not waited for.
const CUT_MS: u64 = 20;

/// The watch over the folders.
#[derive(Debug)]
pub(super) struct Disk {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    grown: AtomicU64,
    /// Looks in a row that failed.
    blind: AtomicU64,
    over: AtomicBool,
}

impl Disk {
    /// Looks at `folders` from now on, in which `before` bytes lay before the program started; `processes` is where its
    /// processes are listed.
    ///
    /// # Errors
    /// No thread can be had.
    pub(super) fn watch(folders: Vec<PathBuf>, before: u64, processes: PathBuf) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let seen = Arc::clone(&shared);
        let watched = move || {
            while !seen.over.load(Ordering::Acquire) {
                let begun = Watch::start();
                let _ = match lying(&folders) {
                    Ok(now) => {
                        let grown = now.saturating_add(deleted(&folders, &processes)).saturating_sub(before);
                        seen.blind.store(0, Ordering::Release);
                        seen.grown.fetch_max(grown, Ordering::AcqRel)
                    }
                    Err(_) => seen.blind.fetch_add(1, Ordering::AcqRel),
                };
                let rest = begun.millis().saturating_mul(SHARE).max(REST_MS);
                for _ in 0..rest / CUT_MS {
                    if seen.over.load(Ordering::Acquire) {
                        break;
                    }
                    thread::sleep(Duration::from_millis(CUT_MS));
                }
            }
        };
        let thread = thread::Builder::new().name("weir-disk".into()).spawn(watched)?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// By how much the folders grew at most, bytes.
    pub(super) fn grown(&self) -> u64 {
        self.shared.grown.load(Ordering::Acquire)
    }

    /// Whether they can no longer be looked through: a look may fail once because of what changes under it.
    pub(super) fn is_blind(&self) -> bool {
        self.shared.blind.load(Ordering::Acquire) >= BLIND
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Bytes of everything below `folders`; a file with several names counts once.
pub(super) fn lying(folders: &[PathBuf]) -> io::Result<u64> {
    let (mut sum, mut known) = (0_u64, BTreeSet::new());
    for folder in folders {
        let mut open = vec![(folder.clone(), 0)];
        while let Some((at, depth)) = open.pop() {
            let found = match fs::symlink_metadata(&at) {
                Err(error) if error.kind() == io::ErrorKind::NotFound && depth > 0 => continue,
                found => found?,
            };
            sum = sum.saturating_add(counted(&found, &mut known));
            if found.is_dir() {
                if depth == DEPTH {
                    return Err(io::Error::other("folders in folders without end"));
                }
                open.extend(within(&at)?.into_iter().map(|path| (path, depth + 1)));
            }
        }
    }
    Ok(sum)
}

fn within(folder: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries?.map(|entry| Ok(entry?.path())).collect(),
    }
}

fn counted(found: &Metadata, known: &mut BTreeSet<(u64, u64)>) -> u64 {
    let first = found.is_dir() || found.nlink() < 2 || known.insert((found.dev(), found.ino()));
    if first { found.blocks().saturating_mul(BLOCK) } else { 0 }
}

/// Bytes of files that have no name any more and are still open, on the file systems of `folders`.
fn deleted(folders: &[PathBuf], processes: &Path) -> u64 {
    let devices: BTreeSet<u64> =
        folders.iter().filter_map(|folder| fs::metadata(folder).ok()).map(|at| at.dev()).collect();
    let (mut sum, mut known) = (0_u64, BTreeSet::new());
    for name in names(processes) {
        let open = fs::read_dir(processes.join(name).join("fd")).into_iter().flatten().flatten();
        for entry in open {
            let Ok(file) = fs::metadata(entry.path()) else { continue };
            let gone = file.is_file() && file.nlink() == 0 && devices.contains(&file.dev());
            if gone && known.insert((file.dev(), file.ino())) {
                sum = sum.saturating_add(file.blocks().saturating_mul(BLOCK));
            }
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_a_folder_count_once_whatever_their_names() {
        let folder = tempfile::tempdir().unwrap();
        let place = vec![folder.path().to_path_buf()];
        let before = lying(&place).unwrap();
        fs::write(folder.path().join("a"), vec![1; 1 << 20]).unwrap();
        let once = lying(&place).unwrap() - before;
        assert!(once >= 1 << 20, "{once}");
        fs::hard_link(folder.path().join("a"), folder.path().join("b")).unwrap();
        std::os::unix::fs::symlink("/", folder.path().join("c")).unwrap();
        assert_eq!(lying(&place).unwrap() - before, once);
    }

    #[test]
    fn folders_without_end_are_a_fault() {
        let folder = tempfile::tempdir().unwrap();
        let deep = (0..=DEPTH).fold(folder.path().to_path_buf(), |path, _| path.join("d"));
        fs::create_dir_all(deep).unwrap();
        assert!(lying(&[folder.path().to_path_buf()]).is_err());
    }

    #[test]
    fn a_deleted_file_counts_while_it_is_open() {
        let folder = tempfile::tempdir().unwrap();
        let file = tempfile::tempfile_in(folder.path()).unwrap();
        fs::write(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file)), vec![1; 1 << 20]).unwrap();
        assert!(deleted(&[folder.path().to_path_buf()], Path::new("/proc")) >= 1 << 20);
    }
}
