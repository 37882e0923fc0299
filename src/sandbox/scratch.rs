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

    /// Makes the seat's folder where there is none yet; one that is there stays as it is.
    ///
    /// # Errors
    /// All folders together could hold too much.
    pub(crate) fn furnish(&self, seat: &Seat, quota: &Quota) -> Result<(), KeepFault> {
        let there = self.lock().contains_key(seat);
        if there { Ok(()) } else { self.make(seat, quota).map(drop) }
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
            if at.symlink_metadata(folder).is_ok_and(|there| !there.is_dir()) {
                return Err(KeepFault::Refused("a part of the path is a file and no folder".to_owned()));
            }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Name;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::sync::atomic::AtomicBool;

    const QUOTA: Quota = Quota { bytes: 10_000, files: 50 };

    fn seat(agent: &str, session: &str) -> Seat {
        let name = |text: &str| Name::new(text).unwrap();
        Seat { org: name("acme"), agent: name(agent), name: name(session) }
    }

    fn open() -> (tempfile::TempDir, Scratches) {
        let place = tempfile::tempdir().unwrap();
        let scratches = Scratches::open(place.path().join("scratch"), 1 << 20).unwrap();
        (place, scratches)
    }

    /// Paths with their sizes; a removed one has none.
    fn shown(files: &[OutputFile]) -> Vec<String> {
        let one = |file: &OutputFile| match file.digest {
            Some(_) => format!("{} {}", file.path, file.bytes),
            None => format!("{} -", file.path),
        };
        files.iter().map(one).collect()
    }

    fn changed(scratches: &Scratches, seat: &Seat) -> Vec<String> {
        let changes = scratches.changes(seat).unwrap();
        assert_eq!(changes.notices, Vec::<String>::new());
        shown(&changes.files)
    }

    #[test]
    fn what_was_made_changed_and_removed_is_told_once_by_path() {
        let (_place, scratches) = open();
        let seat = seat("coder", "s1");
        let at = scratches.make(&seat, &QUOTA).unwrap();
        assert_eq!(changed(&scratches, &seat), Vec::<String>::new());
        fs::create_dir_all(at.join("d/e")).unwrap();
        for (path, content) in [("d/e/z", "zz"), ("a", "a"), ("d/b", "")] {
            fs::write(at.join(path), content).unwrap();
        }
        assert_eq!(changed(&scratches, &seat), ["a 1", "d/b 0", "d/e/z 2"]);
        assert_eq!(changed(&scratches, &seat), Vec::<String>::new());
        fs::write(at.join("a"), "b").unwrap();
        fs::remove_file(at.join("d/b")).unwrap();
        fs::rename(at.join("d/e/z"), at.join("d/e/y")).unwrap();
        assert_eq!(changed(&scratches, &seat), ["a 1", "d/b -", "d/e/y 2", "d/e/z -"]);
        fs::write(at.join("a"), "b").unwrap();
        assert_eq!(changed(&scratches, &seat), Vec::<String>::new(), "the same again is no change");
        let files = scratches.list(&seat).unwrap();
        assert_eq!(shown(&files), ["a 1", "d/e/y 2"]);
        assert_eq!(files[0].digest, Some(Digest::of(b"b")));
    }

    #[test]
    fn a_change_that_hides_behind_its_times_is_seen() {
        let (_place, scratches) = open();
        let seat = seat("coder", "s1");
        let file = scratches.make(&seat, &QUOTA).unwrap().join("a");
        fs::write(&file, "one").unwrap();
        let when = fs::metadata(&file).unwrap().modified().unwrap();
        for wait in [0, 0, 150, 150] {
            changed(&scratches, &seat);
            std::thread::sleep(std::time::Duration::from_millis(wait));
            let other = if fs::read(&file).unwrap() == b"one" { "two" } else { "one" };
            fs::write(&file, other).unwrap();
            fs::File::options().write(true).open(&file).unwrap().set_modified(when).unwrap();
            assert_eq!(changed(&scratches, &seat), ["a 3"], "after {wait} ms");
        }
    }

    #[test]
    fn only_files_and_folders_stay_and_nothing_is_followed() {
        let (place, scratches) = open();
        let seat = seat("coder", "s1");
        let at = scratches.make(&seat, &QUOTA).unwrap();
        let outside = place.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("secret"), "secret").unwrap();
        symlink(&outside, at.join("folder")).unwrap();
        symlink(outside.join("secret"), at.join("file")).unwrap();
        symlink("self", at.join("self")).unwrap();
        fs::hard_link(outside.join("secret"), at.join("hard")).unwrap();
        // A socket's address is short.
        drop(std::os::unix::net::UnixListener::bind(place.path().join("s")).unwrap());
        fs::rename(place.path().join("s"), at.join("socket")).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(at.join("pipe")).status().unwrap().success());
        fs::write(at.join("kept"), "x").unwrap();
        fs::write(at.join("new\nline"), "x").unwrap();
        fs::create_dir_all(at.join(vec!["d"; 40].join("/"))).unwrap();
        for path in ["folder/secret", "file", "self", "hard", "socket", "pipe", "../outside/secret", "folder"] {
            let told = scratches.read(&seat, path).unwrap_err();
            assert!(matches!(told, KeepFault::Absent(_) | KeepFault::Refused(_)), "{path}: {told}");
        }
        let changes = scratches.changes(&seat).unwrap();
        assert_eq!(shown(&changes.files), ["kept 1"]);
        let told = changes.notices.join("\n");
        for name in ["`file`", "`folder`", "`hard`", "`pipe`", "and 1 more", "`new\u{fffd}line`"] {
            assert!(told.contains(name), "{name} in {told}");
        }
        assert!(!told.contains("secret") && !told.contains(place.path().to_str().unwrap()), "{told}");
        for gone in ["folder", "file", "self", "hard", "socket", "pipe"] {
            assert!(at.join(gone).symlink_metadata().is_err(), "{gone}");
        }
        assert_eq!(fs::read_to_string(outside.join("secret")).unwrap(), "secret");
        scratches.remove(&seat).unwrap();
        assert!(!at.exists() && outside.join("secret").exists());
    }

    #[test]
    fn a_folder_that_becomes_a_link_while_it_is_read_leads_nowhere() {
        let (place, scratches) = open();
        let seat = seat("coder", "s1");
        let at = scratches.make(&seat, &QUOTA).unwrap();
        let outside = place.path().join("outside");
        for folder in [&outside, &at.join("real")] {
            fs::create_dir(folder).unwrap();
            fs::write(folder.join("f"), if folder == &outside { "outside" } else { "inside" }).unwrap();
        }
        symlink(&outside, at.join("link")).unwrap();
        let (secret, stop) = (Digest::of(b"outside"), AtomicBool::new(false));
        let (mut looks, mut reads, mut outsiders) = (0, 0, 0_usize);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                use rustix::fs::{CWD, RenameFlags, renameat_with};
                let (real, link) = (at.join("real"), at.join("link"));
                while !stop.load(Ordering::SeqCst) {
                    // A look takes links away and a put makes folders: set the scene again.
                    drop(fs::remove_dir_all(&link));
                    drop(symlink(&outside, &link));
                    if real.symlink_metadata().is_ok_and(|real| real.is_symlink()) {
                        drop(fs::remove_file(&real));
                    }
                    drop(fs::create_dir(&real).and_then(|()| fs::write(real.join("f"), "inside")));
                    // Swapped back and forth at once, as only a native program can.
                    for _ in 0..50 {
                        let _ = renameat_with(CWD, &real, CWD, &link, RenameFlags::EXCHANGE);
                    }
                }
            });
            let begun = std::time::Instant::now();
            while begun.elapsed() < std::time::Duration::from_millis(1_500) {
                for path in ["real/f", "link/f"] {
                    if let Ok(content) = scratches.read(&seat, path) {
                        reads += 1;
                        // Empty, while the other thread has made the file and not yet written it.
                        outsiders += usize::from(!content.is_empty() && content != b"inside");
                    }
                    // A put lands inside, or nowhere.
                    drop(scratches.write(&seat, path, b"inside"));
                }
                if let Ok(files) = scratches.list(&seat) {
                    looks += 1;
                    outsiders += files.iter().filter(|file| file.digest == Some(secret)).count();
                }
            }
            // Judged behind the loop: a panic in it would leave the other thread running for ever.
            stop.store(true, Ordering::SeqCst);
        });
        assert_eq!(outsiders, 0, "of {looks} looks and {reads} reads");
        assert!(looks > 10 && reads > 10, "{looks} looks and {reads} reads");
        assert_eq!(fs::read_to_string(outside.join("f")).unwrap(), "outside");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    }

    #[test]
    fn what_is_put_before_the_first_step_is_there_and_no_output_of_it() {
        let (_place, scratches) = open();
        let seat = seat("coder", "s1");
        assert!(matches!(scratches.write(&seat, "in.csv", b"1,2"), Err(KeepFault::Absent(_))));
        scratches.furnish(&seat, &QUOTA).unwrap();
        assert!(scratches.list(&seat).unwrap().is_empty());
        scratches.write(&seat, "in.csv", b"1,2").unwrap();
        assert!(matches!(scratches.write(&seat, "big", &vec![0; 9_998]), Err(KeepFault::Full(_))));
        // A step's own making of the folder, and one more furnishing, leave what is there.
        let at = scratches.make(&seat, &QUOTA).unwrap();
        scratches.furnish(&seat, &Quota { bytes: 1, files: 1 }).unwrap();
        assert_eq!(std::fs::read(at.join("in.csv")).unwrap(), b"1,2");
        scratches.write(&seat, "more", b"within the quota of before").unwrap();
        assert!(scratches.changes(&seat).unwrap().files.is_empty());
    }

    #[test]
    fn a_put_is_whole_within_the_quota_and_no_output() {
        let (_place, scratches) = open();
        let seat = seat("coder", "s1");
        let at = scratches.make(&seat, &QUOTA).unwrap();
        let put = scratches.write(&seat, "in/a b/ä.txt", b"given").unwrap();
        assert_eq!((put.bytes, put.digest), (5, Some(Digest::of(b"given"))));
        assert_eq!(scratches.read(&seat, "in/a b/ä.txt").unwrap(), b"given");
        assert_eq!(changed(&scratches, &seat), Vec::<String>::new(), "the owner's own file is no output");
        assert!(matches!(scratches.write(&seat, "big", &vec![0; 9_996]), Err(KeepFault::Full(_))));
        scratches.write(&seat, "big", &vec![0; 9_995]).unwrap();
        scratches.write(&seat, "big", &vec![1; 9_995]).unwrap();
        assert!(matches!(scratches.write(&seat, "in", b""), Err(KeepFault::Refused(_))), "a folder");
        assert!(matches!(scratches.write(&seat, "big/x", b""), Err(KeepFault::Refused(_))), "below a file");
        for bad in ["", "/a", "../a", "a/../b", "a//b", "a\0"] {
            assert!(matches!(scratches.write(&seat, bad, b""), Err(KeepFault::Refused(_))), "{bad:?}");
        }
        fs::write(at.join("big"), "short").unwrap();
        assert_eq!(changed(&scratches, &seat), ["big 5"]);
        for i in 0..46 {
            scratches.write(&seat, &format!("f{i}"), b"").unwrap();
        }
        assert!(matches!(scratches.write(&seat, "one-more", b""), Err(KeepFault::Full(_))));
        assert_eq!(fs::read_dir(scratches.at.as_path()).unwrap().count(), 1, "nothing of a put is left beside");
    }

    #[test]
    fn more_than_the_quota_is_refused_and_not_read() {
        let (_place, scratches) = open();
        let (one, two) = (seat("coder", "s1"), seat("coder", "s2"));
        let at = scratches.make(&one, &QUOTA).unwrap();
        fs::File::create(at.join("hole")).unwrap().set_len(1 << 40).unwrap();
        let begun = std::time::Instant::now();
        assert!(matches!(scratches.changes(&one), Err(KeepFault::Refused(_))));
        assert!(begun.elapsed() < std::time::Duration::from_secs(2));
        let at = scratches.make(&two, &QUOTA).unwrap();
        (0..=QUOTA.files).for_each(|i| fs::write(at.join(i.to_string()), "").unwrap());
        assert!(matches!(scratches.changes(&two), Err(KeepFault::Refused(_))));
    }

    #[test]
    fn all_folders_together_have_a_cap() {
        let (_place, scratches) = open();
        let half = Quota { bytes: 1 << 19, files: 10 };
        let seats: Vec<Seat> = ["s1", "s2", "s3"].iter().map(|session| seat("coder", session)).collect();
        let at = scratches.make(&seats[0], &half).unwrap();
        scratches.make(&seats[1], &half).unwrap();
        assert!(matches!(scratches.make(&seats[2], &half), Err(KeepFault::Full(_))), "both may be filled now");
        fs::write(at.join("a"), vec![0; 1000]).unwrap();
        scratches.changes(&seats[0]).unwrap();
        scratches.changes(&seats[1]).unwrap();
        scratches.make(&seats[2], &half).unwrap();
        assert!(matches!(scratches.make(&seats[1], &half), Err(KeepFault::Full(_))), "what lies there counts");
        scratches.remove(&seats[0]).unwrap();
        scratches.make(&seats[1], &half).unwrap();
    }

    #[test]
    fn folders_are_private_by_agent_and_named_by_nobody() {
        let (_place, scratches) = open();
        let (one, two, other) = (seat("coder", "s1"), seat("coder", "s2"), seat("writer", "s1"));
        let at: Vec<PathBuf> = [&one, &two, &other].iter().map(|seat| scratches.make(seat, &QUOTA).unwrap()).collect();
        assert_eq!(at[0].parent(), at[1].parent());
        assert_ne!(at[0].parent(), at[2].parent());
        assert_eq!(at[0].parent().unwrap(), scratches.agent_folder(&one).unwrap());
        for folder in at.iter().flat_map(|at| at.ancestors().take(3)) {
            assert_eq!(fs::metadata(folder).unwrap().permissions().mode() & 0o777, 0o700, "{}", folder.display());
        }
        fs::write(at[0].join("a"), "x").unwrap();
        assert!(matches!(scratches.read(&two, "a"), Err(KeepFault::Absent(_))));
        assert!(matches!(scratches.read(&seat("coder", "s9"), "a"), Err(KeepFault::Absent(_))));
        scratches.remove(&one).unwrap();
        assert!(!at[0].exists() && at[1].exists());
        scratches.remove(&two).unwrap();
        assert!(!at[0].parent().unwrap().exists(), "an agent without sessions has no folder");
    }

    #[test]
    fn a_deep_and_locked_tree_is_removed() {
        let (_place, scratches) = open();
        let seat = seat("coder", "s1");
        let at = scratches.make(&seat, &QUOTA).unwrap();
        let mut dir = Dir::open_ambient_dir(&at, ambient_authority()).unwrap();
        for depth in 0..3_000 {
            dir.create_dir("d").unwrap();
            dir.write("~1", "x").unwrap();
            let inner = dir.open_dir("d").unwrap();
            if depth % 500 == 3 {
                dir.set_permissions("d", Permissions::from_mode(0)).unwrap();
            }
            dir = inner;
        }
        scratches.remove(&seat).unwrap();
        assert!(!at.exists());
    }

    #[test]
    fn what_an_earlier_gate_left_is_cleared_and_nothing_else() {
        let (place, scratches) = open();
        let (kept, left, other) = (seat("coder", "s1"), seat("coder", "s2"), seat("writer", "s1"));
        let at: Vec<PathBuf> =
            [&kept, &left, &other].iter().map(|seat| scratches.make(seat, &QUOTA).unwrap()).collect();
        fs::write(at[0].join("a"), "x").unwrap();
        let root = place.path().join("scratch");
        fs::write(root.join("incoming-1"), "half").unwrap();
        fs::write(root.join("notes.txt"), "an operator's").unwrap();
        drop(scratches);
        let scratches = Scratches::open(root.clone(), 1 << 20).unwrap();
        scratches.clear_stale(std::slice::from_ref(&kept)).unwrap();
        assert!(at[0].join("a").exists() && !at[1].exists() && !at[2].parent().unwrap().exists());
        assert!(!root.join("incoming-1").exists() && root.join("notes.txt").exists());
        scratches.make(&kept, &QUOTA).unwrap();
        assert_eq!(changed(&scratches, &kept), Vec::<String>::new(), "what lay there is no output");
    }
}
