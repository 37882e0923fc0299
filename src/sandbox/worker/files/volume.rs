//! How much a folder may still grow.
//!
//! An allowance is what the quota leaves after a look at the whole folder. Whatever grows takes from it first,
//! under the volume's lock and together with the growth itself; what shrinks gives back what is certain. When the
//! allowance is used up the folder is measured again, because others may have removed something. Sizes are
//! apparent ones: a hole costs what it pretends to be. A file that has no name any more and is still open counts.
//!
//! This file must not decide who may write: it only says how much.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use cap_std::fs::{Dir, MetadataExt as _, ReadDir};
use rustix::io::Errno;

use crate::model::Quota;
use crate::sandbox::walk;

/// Folders within folders that a look follows; a deeper tree counts as full. Guests cannot make one.
const DEPTH: usize = 64;
/// Bytes of one write; what is over is for the next one.
const AT_ONCE: usize = 1 << 20;
/// Measuring takes at most this part of the time: one in ten.
const REST: u32 = 9;
/// Open files after which the list of them is looked through for closed ones.
const WATCHED: usize = 64;

/// The volumes of one process, each folder once: two sessions that write into the same one share its allowance.
#[derive(Default)]
pub(crate) struct Shared(Mutex<BTreeMap<(u64, u64), Weak<Volume>>>);

impl Shared {
    /// The volume of the folder `root`; the newest quota counts.
    pub(super) fn volume(&self, root: &File, quota: Quota) -> io::Result<Arc<Volume>> {
        let metadata = root.metadata()?;
        let mut volumes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        volumes.retain(|_, volume| volume.strong_count() > 0);
        let key = (metadata.dev(), metadata.ino());
        if let Some(volume) = volumes.get(&key).and_then(Weak::upgrade) {
            volume.hold().state.quota = quota;
            return Ok(volume);
        }
        let root = Dir::from_std_file(root.try_clone()?);
        let state = State { quota, used: None, next: Instant::now(), open: Vec::new(), watched: WATCHED };
        let volume = Arc::new(Volume { root, state: Mutex::new(state) });
        volumes.insert(key, Arc::downgrade(&volume));
        Ok(volume)
    }
}

/// A folder with a quota.
pub(crate) struct Volume {
    root: Dir,
    state: Mutex<State>,
}

struct State {
    quota: Quota,
    /// What lies in it, at least; `None` until it was measured.
    used: Option<Quota>,
    /// Not measured again before this.
    next: Instant,
    /// Files that were opened in it, as long as they are open.
    open: Vec<Weak<File>>,
    watched: usize,
}

/// Where a write begins.
#[derive(Clone, Copy, Debug)]
pub(super) enum At {
    Offset(u64),
    End,
}

/// A volume that nobody else changes meanwhile.
pub(super) struct Hold<'a> {
    root: &'a Dir,
    state: MutexGuard<'a, State>,
}

impl Volume {
    /// Waits until nobody else changes it.
    pub(super) fn hold(&self) -> Hold<'_> {
        Hold { root: &self.root, state: self.state.lock().unwrap_or_else(PoisonError::into_inner) }
    }

    /// Writes what fits of `data` and says how much that was.
    pub(super) fn write(&self, file: &File, data: &[u8], at: At) -> io::Result<usize> {
        let mut hold = self.hold();
        let size = file.metadata()?.len();
        let start = match at {
            At::Offset(offset) => offset,
            At::End => size,
        };
        let data = data.get(..AT_ONCE).unwrap_or(data);
        let end = end_of(start, data.len())?;
        let wanted = end.saturating_sub(size);
        let granted = hold.fit(wanted);
        let missing = usize::try_from(wanted - granted).unwrap_or(usize::MAX);
        let room = data.len().saturating_sub(missing);
        if room == 0 && !data.is_empty() {
            hold.give(Quota { bytes: granted, files: 0 });
            return Err(Errno::NOSPC.into());
        }
        let written = file.write_at(data.get(..room).unwrap_or_default(), start);
        let grown = written.as_ref().map_or(0, |n| (start + *n as u64).saturating_sub(size));
        hold.give(Quota { bytes: granted.saturating_sub(grown), files: 0 });
        written
    }

    /// Makes `file` exactly `size` long.
    pub(super) fn set_size(&self, file: &File, size: u64) -> io::Result<()> {
        let mut hold = self.hold();
        end_of(size, 0)?;
        let before = file.metadata()?.len();
        let grown = Quota { bytes: size.saturating_sub(before), files: 0 };
        hold.take(grown)?;
        match file.set_len(size) {
            Ok(()) => hold.give(Quota { bytes: before.saturating_sub(size), files: 0 }),
            Err(error) => {
                hold.give(grown);
                return Err(error);
            }
        }
        Ok(())
    }
}

impl Hold<'_> {
    /// Takes `more`, all of it or nothing.
    pub(super) fn take(&mut self, more: Quota) -> io::Result<()> {
        let holds = |left: Quota| left.bytes >= more.bytes && left.files >= more.files;
        if !holds(self.left()) && !holds(self.renewed()) {
            return Err(Errno::NOSPC.into());
        }
        self.charge(more);
        Ok(())
    }

    /// Takes as many of `bytes` as there are, and says how many.
    fn fit(&mut self, bytes: u64) -> u64 {
        if bytes == 0 {
            return 0;
        }
        let left = Some(self.left()).filter(|left| left.bytes >= bytes).unwrap_or_else(|| self.renewed());
        let granted = left.bytes.min(bytes);
        self.charge(Quota { bytes: granted, files: 0 });
        granted
    }

    fn charge(&mut self, more: Quota) {
        if let Some(used) = &mut self.state.used {
            used.bytes = used.bytes.saturating_add(more.bytes);
            used.files = used.files.saturating_add(more.files);
        }
    }

    /// Gives back what was taken for nothing, or what is certainly gone.
    pub(super) fn give(&mut self, back: Quota) {
        if let Some(used) = &mut self.state.used {
            used.bytes = used.bytes.saturating_sub(back.bytes);
            used.files = used.files.saturating_sub(back.files);
        }
    }

    /// Counts `file` for as long as it is open, with or without a name.
    pub(super) fn watch(&mut self, file: &Arc<File>) {
        let state = &mut *self.state;
        if state.open.len() >= state.watched {
            state.open.retain(|file| file.strong_count() > 0);
            state.watched = WATCHED.max(state.open.len() * 2);
        }
        state.open.push(Arc::downgrade(file));
    }

    /// What the removal of `gone`'s only name frees. An open file goes on taking its space.
    pub(super) fn freed(&self, gone: &cap_std::fs::Metadata) -> Quota {
        let alone = gone.is_file() && gone.nlink() == 1;
        let is = |file: Arc<File>| file.metadata().is_ok_and(|m| (m.dev(), m.ino()) == walk::identity(gone));
        let open = self.state.open.iter().filter_map(Weak::upgrade).any(is);
        Quota { bytes: if alone && !open { gone.len() } else { 0 }, files: 1 }
    }

    /// What the quota leaves.
    fn left(&mut self) -> Quota {
        let used = match self.state.used {
            Some(used) => used,
            None => self.measured(),
        };
        let quota = self.state.quota;
        Quota { bytes: quota.bytes.saturating_sub(used.bytes), files: quota.files.saturating_sub(used.files) }
    }

    /// What it leaves after another look, where there may be one yet.
    fn renewed(&mut self) -> Quota {
        if Instant::now() >= self.state.next {
            self.measured();
        }
        self.left()
    }

    fn measured(&mut self) -> Quota {
        let begun = Instant::now();
        self.state.open.retain(|file| file.strong_count() > 0);
        let full = Quota { bytes: u64::MAX, files: u64::MAX };
        let mut used = measure(self.root, self.state.quota.files).unwrap_or(full);
        used.bytes = used.bytes.saturating_add(nameless(&self.state.open));
        self.state.used = Some(used);
        self.state.next = Instant::now() + begun.elapsed().saturating_mul(REST);
        used
    }
}

/// Where something of `len` bytes ends, when a file can be that long.
fn end_of(start: u64, len: usize) -> io::Result<u64> {
    let end = start.checked_add(len as u64).filter(|end| i64::try_from(*end).is_ok());
    end.ok_or_else(|| Errno::FBIG.into())
}

/// What lies in `root`; `None` when that cannot be told, or is more than `most` files and folders.
fn measure(root: &Dir, most: u64) -> Option<Quota> {
    let mut used = Quota { bytes: 0, files: 0 };
    let mut linked = HashSet::new();
    let mut open: Vec<ReadDir> = vec![root.entries().ok()?];
    while let Some(entries) = open.last_mut() {
        let Some(entry) = entries.next() else {
            open.pop();
            continue;
        };
        let entry = entry.ok()?;
        used.files += 1;
        if used.files > most {
            return None;
        }
        let seen = match entry.metadata() {
            Ok(seen) => seen,
            // Removed by another meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(_) => return None,
        };
        if seen.is_dir() {
            let inner = walk::folder(&entry, &seen).and_then(|folder| folder.entries()).ok()?;
            if open.len() >= DEPTH {
                return None;
            }
            open.push(inner);
        } else if seen.is_file() && (seen.nlink() == 1 || linked.insert(walk::identity(&seen))) {
            used.bytes = used.bytes.saturating_add(seen.len());
        }
    }
    Some(used)
}

/// Bytes of the open files that have no name any more, each file once.
fn nameless(open: &[Weak<File>]) -> u64 {
    let mut known = HashSet::new();
    let alive = open.iter().filter_map(Weak::upgrade).filter_map(|file| file.metadata().ok());
    let gone = alive.filter(|metadata| metadata.nlink() == 0 && known.insert((metadata.dev(), metadata.ino())));
    gone.fold(0, |sum, metadata| sum.saturating_add(metadata.len()))
}
