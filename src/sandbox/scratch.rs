//! The sessions' own folders, as the gate sees them: one for each seat, below one for each agent.
//!
//! The gate opens the root once and reaches everything through that handle: no path of the host is opened after it,
//! and no link is followed at any step. Names are digests of the seat's parts, so that no agent can choose one. What
//! a program leaves is hostile: `look.rs` reads it, `clear.rs` takes it away. This file must not run anything in them.

mod clear;
mod look;
mod path;

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cap_std::ambient_authority;
use cap_std::fs::{
    Dir, DirBuilder, DirBuilderExt as _, OpenOptions, OpenOptionsExt as _, Permissions, PermissionsExt as _,
};
use rustix::fs::OFlags;

use super::walk;
use crate::model::{Digest, OutputFile, Quota, Seat, canonical};
use crate::pep::port::KeepFault;
use look::{Look, Seen};
use path::failed;

/// Bytes of a file that is given at once.
const READ_BYTES: u64 = 16 << 20;
/// How the name of a file begins that is being put.
const INCOMING: &str = "incoming-";

/// What a program did in its folder.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    /// Made, changed and removed files, by path.
    pub(crate) files: Vec<OutputFile>,
    /// What the agent must be told.
    pub(crate) notices: Vec<String>,
}

/// Every session's folder.
pub(crate) struct Scratches {
    root: Dir,
    at: PathBuf,
    most_bytes: u64,
    table: Mutex<BTreeMap<Seat, Arc<Shelf>>>,
}

/// One session's folder.
struct Shelf {
    dir: Dir,
    /// Bytes that count against the cap over all folders: the whole quota while a program may write.
    held: AtomicU64,
    book: Mutex<Book>,
}

struct Book {
    quota: Quota,
    /// As it was seen last.
    seen: BTreeMap<String, Seen>,
    /// As it was told last: size and digest.
    told: BTreeMap<String, (u64, Digest)>,
}

impl Scratches {
    /// Opens the folder of all of them, which is made where it is not there; together they hold at most `most_bytes`.
    ///
    /// # Errors
    /// It cannot be opened.
    pub(crate) fn open(root: PathBuf, most_bytes: u64) -> Result<Self, KeepFault> {
        let opened = || {
            Dir::create_ambient_dir_all(&root, ambient_authority())?;
            let dir = Dir::open_ambient_dir(&root, ambient_authority())?;
            dir.set_permissions(".", Permissions::from_mode(0o700))?;
            Ok((dir, std::fs::canonicalize(&root)?))
        };
        let (root, at) = opened().map_err(|error: std::io::Error| failed("opened", &error))?;
        Ok(Self { root, at, most_bytes, table: Mutex::default() })
    }

    /// Removes the folders of every seat but the `kept`: what an earlier gate left.
    ///
    /// # Errors
    /// Something could not be removed.
    pub(crate) fn clear_stale(&self, kept: &[Seat]) -> Result<(), KeepFault> {
        let gone = |error: std::io::Error| failed("cleared", &error);
        let kept: Vec<(String, String)> = kept.iter().map(names).collect();
        for agent in self.root.entries().map_err(gone)? {
            let Ok(agent) = agent.map_err(gone)?.file_name().into_string() else { continue };
            if !kept.iter().any(|(of, _)| *of == agent) {
                if is_name(&agent) || agent.starts_with(INCOMING) {
                    clear::remove(&self.root, &agent).map_err(gone)?;
                }
                continue;
            }
            let folder = walk::step(&self.root, &agent).map_err(gone)?;
            for seat in folder.entries().map_err(gone)? {
                let Ok(seat) = seat.map_err(gone)?.file_name().into_string() else { continue };
                if !kept.iter().any(|(of, name)| *of == agent && *name == seat) {
                    clear::remove(&folder, &seat).map_err(gone)?;
                }
            }
        }
        Ok(())
    }

    /// The folder to which a worker of this seat's agent is confined.
    pub(crate) fn agent_folder(&self, seat: &Seat) -> Result<PathBuf, KeepFault> {
        let (agent, _) = names(seat);
        private(&self.root, &agent)?;
        Ok(self.at.join(agent))
    }

    /// Makes the seat's folder ready for a program that may fill `quota`, and says where it lies on the host. What lies
    /// in it by then is no output of that program.
    ///
    /// # Errors
    /// All folders together could hold too much.
    pub(crate) fn make(&self, seat: &Seat, quota: &Quota) -> Result<PathBuf, KeepFault> {
        let shelf = self.shelf(seat, quota)?;
        let mut table = self.lock();
        self.check_room(&table, seat, quota.bytes)?;
        shelf.held.store(quota.bytes, Ordering::SeqCst);
        table.entry(seat.clone()).or_insert_with(|| shelf.clone());
        drop(table);
        shelf.book().quota = *quota;
        let (agent, name) = names(seat);
        Ok(self.at.join(agent).join(name))
    }

    /// What was made, changed or removed in the seat's folder since the last look; the program there has ended.
    ///
    /// # Errors
    /// There is no such folder, or it holds more than its quota.
    pub(crate) fn changes(&self, seat: &Seat) -> Result<Changes, KeepFault> {
        let shelf = self.find(seat)?;
        let mut book = shelf.book();
        let look = book.look(&shelf.dir)?;
        let mut files: Vec<OutputFile> = Vec::new();
        for path in book.told.keys().filter(|path| !look.files.contains_key(*path)) {
            files.push(OutputFile { path: path.clone(), bytes: 0, digest: None });
        }
        for (path, seen) in &look.files {
            if book.told.get(path) != Some(&(seen.bytes, seen.digest)) {
                files.push(seen.output(path));
            }
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let notices = look.notices();
        shelf.held.store(look.bytes, Ordering::SeqCst);
        book.note(look);
        Ok(Changes { files, notices })
    }

    /// Every file of the seat.
    ///
    /// # Errors
    /// There is no such folder.
    pub(crate) fn list(&self, seat: &Seat) -> Result<Vec<OutputFile>, KeepFault> {
        let shelf = self.find(seat)?;
        let mut book = shelf.book();
        let look = book.look(&shelf.dir)?;
        let files = look.files.iter().map(|(path, seen)| seen.output(path)).collect();
        book.seen = look.files;
        Ok(files)
    }

    /// The content of one file.
    ///
    /// # Errors
    /// There is none at `path`, or it is too long.
    pub(crate) fn read(&self, seat: &Seat, path: &str) -> Result<Vec<u8>, KeepFault> {
        let shelf = self.find(seat)?;
        let (dir, name) = path::parent(&shelf.dir, path)?;
        let seen = path::ordinary(&dir, name)?;
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(walk::flags(OFlags::empty()));
        let file = dir.open_with(name, &options).and_then(|file| walk::same(file, &seen));
        let file = file.map_err(|error| path::absent(&error))?;
        let mut content = Vec::new();
        file.take(READ_BYTES + 1).read_to_end(&mut content).map_err(|error| failed("read", &error))?;
        if content.len() as u64 > READ_BYTES {
            return Err(KeepFault::Full(format!(
                "the file is over {READ_BYTES} bytes, the most that is given at once"
            )));
        }
        Ok(content)
    }

    /// Puts a file, making the folders above it, whole or not at all.
    ///
    /// # Errors
    /// It does not fit into the quota, or `path` is no place for a file.
    pub(crate) fn write(&self, seat: &Seat, path: &str, content: &[u8]) -> Result<OutputFile, KeepFault> {
        let parts = path::parts(path)?;
        let shelf = self.find(seat)?;
        let mut book = shelf.book();
        let look = book.look(&shelf.dir)?;
        let replaced = look.files.get(path);
        let bytes = look.bytes - replaced.map_or(0, |seen| seen.bytes) + content.len() as u64;
        let new = if replaced.is_some() { 0 } else { parts.len() as u64 };
        // Folders above it that are there already count twice here; near the brim a put may be refused early.
        if bytes > book.quota.bytes || look.entries.saturating_add(new) > book.quota.files {
            let Quota { bytes, files } = book.quota;
            let text =
                format!("the file does not fit: the session's folder holds at most {bytes} bytes and {files} files");
            return Err(KeepFault::Full(text));
        }
        let held = shelf.held.load(Ordering::SeqCst).max(bytes);
        self.check_room(&self.lock(), seat, held)?;
        shelf.held.store(held, Ordering::SeqCst);
        self.put(seat, &shelf.dir, &parts, content)?;
        let put = OutputFile { path: path.to_owned(), bytes: content.len() as u64, digest: Some(Digest::of(content)) };
        book.seen = look.files;
        book.told.insert(path.to_owned(), (put.bytes, Digest::of(content)));
        Ok(put)
    }

    /// Writes beside the seats, out of every worker's reach, and then moves into place.
    fn put(&self, seat: &Seat, dir: &Dir, parts: &[&str], content: &[u8]) -> Result<(), KeepFault> {
        let put = |error: std::io::Error| failed("written", &error);
        let (name, folders) = parts.split_last().ok_or(KeepFault::Absent("file of this name"))?;
        let mut at = dir.try_clone().map_err(put)?;
        for folder in folders {
            at = private(&at, folder)?;
        }
        if at.symlink_metadata(name).is_ok_and(|there| there.is_dir()) {
            return Err(KeepFault::Refused("there is a folder of this name".to_owned()));
        }
        let (agent, of) = names(seat);
        let incoming = format!("{INCOMING}{agent}-{of}");
        let written = || {
            clear::remove(&self.root, &incoming)?;
            let mut options = OpenOptions::new();
            options.write(true).create_new(true).mode(0o600);
            self.root.open_with(&incoming, &options)?.write_all(content)?;
            self.root.rename(&incoming, &at, name)
        };
        written().map_err(|error| {
            // What was begun is of no use; the next put or start removes what cannot be removed now.
            drop(clear::remove(&self.root, &incoming));
            put(error)
        })
    }

    /// Removes the seat's folder and all that is in it.
    ///
    /// # Errors
    /// Something could not be removed.
    pub(crate) fn remove(&self, seat: &Seat) -> Result<(), KeepFault> {
        self.lock().remove(seat);
        let (agent, name) = names(seat);
        let gone = |error: std::io::Error| failed("removed", &error);
        match walk::step(&self.root, &agent) {
            Ok(folder) => clear::remove(&folder, &name).map_err(gone)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(gone(error)),
        }
        // Other sessions of the agent keep theirs: then it is not empty.
        drop(self.root.remove_dir(&agent));
        Ok(())
    }

    /// Refuses what all folders together may not hold.
    fn check_room(&self, table: &BTreeMap<Seat, Arc<Shelf>>, seat: &Seat, bytes: u64) -> Result<(), KeepFault> {
        let others = table.iter().filter(|(other, _)| *other != seat);
        let others = others.fold(bytes, |sum, (_, shelf)| sum.saturating_add(shelf.held.load(Ordering::SeqCst)));
        if others <= self.most_bytes {
            return Ok(());
        }
        let text = "the folders of all sessions hold as much as they may; close a session or ask for less scratch";
        Err(KeepFault::Full(text.to_owned()))
    }

    fn find(&self, seat: &Seat) -> Result<Arc<Shelf>, KeepFault> {
        self.lock().get(seat).cloned().ok_or(KeepFault::Absent("folder of this session"))
    }

    /// The seat's folder, opened or made.
    fn shelf(&self, seat: &Seat, quota: &Quota) -> Result<Arc<Shelf>, KeepFault> {
        if let Some(shelf) = self.lock().get(seat) {
            return Ok(shelf.clone());
        }
        let (agent, name) = names(seat);
        let dir = private(&private(&self.root, &agent)?, &name)?;
        let mut book = Book { quota: *quota, seen: BTreeMap::new(), told: BTreeMap::new() };
        let look = book.look(&dir)?;
        let held = AtomicU64::new(look.bytes);
        book.note(look);
        Ok(Arc::new(Shelf { dir, held, book: Mutex::new(book) }))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Seat, Arc<Shelf>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shelf {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    fn look(&self, dir: &Dir) -> Result<Look, KeepFault> {
        Look::at(dir, &self.quota, &self.seen)
    }

    /// What is there now is told; nothing is written until the next program.
    fn note(&mut self, look: Look) {
        self.told = look.files.iter().map(|(path, seen)| (path.clone(), (seen.bytes, seen.digest))).collect();
        self.seen = look.files;
    }
}

/// The folder `name` in `dir`, made where it is not there, for this user alone.
fn private(dir: &Dir, name: &str) -> Result<Dir, KeepFault> {
    let mut builder = DirBuilder::new();
    builder.mode(0o700);
    match dir.create_dir_with(name, &builder) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(failed("made", &error)),
        _ => {}
    }
    walk::step(dir, name).map_err(|error| failed("opened", &error))
}

/// The names of an agent's and a seat's folder.
fn names(seat: &Seat) -> (String, String) {
    let agent = Digest::of(canonical(&(&seat.org, &seat.agent)).as_bytes());
    let name = Digest::of(canonical(&(&seat.org, &seat.agent, &seat.name)).as_bytes());
    (agent.hex(), name.hex())
}

/// True for a name that [`names`] gives.
fn is_name(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}
