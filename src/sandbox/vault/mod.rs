//! Sessions on disk: states of interpreters, sealed for one seat, one guest and one moment each.
//!
//! A file opens only where it was put: for the same organisation, agent, session, guest build and step, and
//! only while the index lists it. The index is sealed, counts its changes, and a mark beside the folder says
//! how far it had counted: an index that was put back alone, or the folder without the mark, is refused.
//! Whoever puts back the folder *and* the mark (or the whole store) shows an older state that cannot be told
//! from a true one here, as the journal's own head cannot (docs/audit-format.md): keep that head elsewhere.
//! Removing files is always possible to whoever may write the folder, and is noticed only as their absence.
//!
//! One process uses a vault at a time: the store's lock is its lock. Nothing here runs or decides anything.

mod content;
mod disk;
mod index;
mod key;
mod mark;
mod seal;
mod tapes;

use std::collections::HashSet;
use std::fs;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

pub(crate) use content::Header;
pub(crate) use index::Class;
pub use key::VaultKey;
pub use tapes::TapeReader;

use crate::model::{Digest, Name, Seat, Timestamp};
use crate::pep::port::{KeepFault, Kept, Point};
use disk::{Bounded, Part, is_ours};
use index::{Entry, Index, Sheet};
use mark::{INDEX, INDEX_BYTES, mark_of, read_index};
use seal::{Opener, Sealer, sealed};
use tapes::Tapes;

const TAPES: &str = "tapes";

/// How much may be kept. Something old makes room for something new; what does not fit even so is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caps {
    /// Bytes on disk of all sessions.
    pub bytes_total: u64,
    /// Bytes on disk of one session.
    pub bytes_per_seat: u64,
    /// Checkpoints of one session.
    pub points_per_seat: usize,
    /// Bytes on disk of all tapes.
    pub tape_bytes: u64,
}

impl Default for Caps {
    fn default() -> Self {
        Self { bytes_total: 16 << 30, bytes_per_seat: 1 << 30, points_per_seat: 16, tape_bytes: 1 << 30 }
    }
}

/// Which of a seat's states is meant.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Which<'a> {
    /// The newest of all, at rest or a checkpoint.
    Latest,
    /// The newest checkpoint.
    Checkpoint,
    /// The checkpoint with this id.
    Named(&'a str),
}

/// A folder of kept sessions; see the module's page.
pub struct Vault {
    folder: PathBuf,
    key: VaultKey,
    caps: Caps,
    index: Mutex<Index>,
    tapes: Tapes,
}

impl Vault {
    /// The vault's folder in a store.
    pub const FOLDER: &str = "sessions";

    /// Opens the vault in `folder`, makes it when there is none, and clears away what a crash left half done.
    ///
    /// # Errors
    /// [`KeepFault::Refused`] when its index is gone, changed, older than it was or under another key, and
    /// [`KeepFault::Failed`] when the folder cannot be used. Nothing is changed then.
    pub fn open(folder: PathBuf, key: VaultKey, caps: Caps) -> Result<Self, KeepFault> {
        let unusable = |error: &io::Error| {
            KeepFault::Failed(format!("the folder of kept sessions cannot be used: {}", disk::cause(error)))
        };
        disk::create_private(&folder).map_err(|error| unusable(&error))?;
        let tapes = Tapes::open(folder.join(TAPES), caps.tape_bytes).map_err(|error| unusable(&error))?;
        let index = read_index(&folder, &key)?;
        let vault = Self { folder, key, caps, index: Mutex::new(Index::default()), tapes };
        let index = index.unwrap_or_default();
        // Also brings a mark up to date that a crash left one change behind.
        vault.save(&index).map_err(|error| unusable(&error))?;
        vault.clear(&index).map_err(|error| unusable(&error))?;
        *vault.lock() = index;
        Ok(vault)
    }

    /// Every interpreter of which something is kept, under its session's name.
    #[must_use]
    pub fn list(&self) -> Vec<Kept> {
        let index = self.lock();
        let mut seen = HashSet::new();
        let newest = index.entries.iter().rev().filter(|entry| seen.insert(&entry.sheet.seat));
        let mut kept: Vec<Kept> = newest
            .map(|Entry { sheet, .. }| Kept {
                seat: Seat { name: sheet.session.clone(), ..sheet.seat.clone() },
                guest: sheet.guest.clone(),
                live: false,
                steps: sheet.steps,
                memory_bytes: sheet.memory_bytes,
                checkpoints: index.points(&sheet.seat).map(Entry::point).collect(),
            })
            .collect();
        kept.sort_by(|a, b| a.seat.cmp(&b.seat));
        kept
    }

    /// The checkpoints of `seat`, oldest first.
    #[must_use]
    pub fn points(&self, seat: &Seat) -> Vec<Point> {
        self.lock().points(seat).map(Entry::point).collect()
    }

    /// The newest state of `seat` and what it is.
    pub(crate) fn latest(&self, seat: &Seat) -> Option<(Class, Point)> {
        self.lock().of(seat).next_back().map(|entry| (entry.sheet.class, entry.point()))
    }

    /// Keeps the state that `content` gives for `seat` of `session`, durably; older checkpoints go when there is no
    /// room.
    ///
    /// # Errors
    /// [`KeepFault::Full`] when a limit or the disk leaves no room, [`KeepFault::Failed`] otherwise; nothing
    /// has changed then.
    pub(crate) fn put(
        &self,
        seat: &Seat,
        session: &Name,
        class: Class,
        header: &Header,
        content: &mut dyn Read,
    ) -> Result<Point, KeepFault> {
        let sheet = Sheet {
            class,
            id: fresh()?,
            seat: seat.clone(),
            session: session.clone(),
            guest: header.guest.clone(),
            build: header.build,
            at: now(),
            steps: header.steps,
            memory_bytes: header.memory_bytes,
            after: self.lock().points(seat).next_back().map(|entry| entry.sheet.id.clone()),
        };
        self.store(sheet, |out| content::pack(out, header, content))
    }

    /// The state of `seat` that `which` says, for a guest of `build`.
    ///
    /// # Errors
    /// [`KeepFault::Absent`] when there is none; [`KeepFault::Refused`] when it is another build's, or its file
    /// is not what was put there.
    pub(crate) fn get(&self, seat: &Seat, which: Which<'_>, build: &Digest) -> Result<(Header, Vec<u8>), KeepFault> {
        let entry = self.find(seat, which)?;
        if entry.sheet.build != *build {
            let text = "it was made with another build of the guest, which cannot go on with it; open a new session";
            return Err(KeepFault::Refused(text.into()));
        }
        let read = || {
            let mut opener = self.opener(&entry)?;
            let (header, state) = content::unpack(&mut opener)?;
            // The last chunk, and with it the file's end, counts too.
            if opener.read(&mut [0])? != 0 || header.build != entry.sheet.build || header.steps != entry.sheet.steps {
                return Err(io::ErrorKind::InvalidData.into());
            }
            Ok((header, state))
        };
        read().map_err(|error| disk::unread(&error))
    }

    /// Makes the state of `seat` that `which` says the first checkpoint of `to` of `session`, a seat of the same agent
    /// of which nothing is kept.
    ///
    /// # Errors
    /// As [`Vault::get`] and [`Vault::put`]; [`KeepFault::Refused`] for another agent's seat.
    pub(crate) fn fork(&self, seat: &Seat, which: Which<'_>, to: &Seat, session: &Name) -> Result<Point, KeepFault> {
        if (&seat.org, &seat.agent) != (&to.org, &to.agent) {
            return Err(KeepFault::Refused("a session can be forked for its own agent only".into()));
        }
        if self.latest(to).is_some() {
            return Err(KeepFault::Refused("the session that is to become a copy has something kept already".into()));
        }
        let entry = self.find(seat, which)?;
        let session = session.clone();
        self.copy(&entry, Sheet { seat: to.clone(), session, ..entry.sheet.clone() }, Class::Point)
    }

    /// Makes the state of `seat` that `which` says its newest one, of `class`.
    ///
    /// # Errors
    /// As [`Vault::get`] and [`Vault::put`].
    pub(crate) fn again(&self, seat: &Seat, which: Which<'_>, class: Class) -> Result<Point, KeepFault> {
        let entry = self.find(seat, which)?;
        self.copy(&entry, entry.sheet.clone(), class)
    }

    /// Keeps the content of `entry` once more, for `sheet`'s seat.
    fn copy(&self, entry: &Entry, sheet: Sheet, class: Class) -> Result<Point, KeepFault> {
        let after = Some(entry.sheet.id.clone());
        let sheet = Sheet { class, id: fresh()?, at: now(), after, ..sheet };
        let mut opener = self.opener(entry).map_err(|error| disk::unread(&error))?;
        self.store(sheet, |mut out| io::copy(&mut opener, &mut out).map(|_| out))
    }

    /// Forgets everything of `session`, whichever guest's, but its tapes, which belong to receipts.
    ///
    /// # Errors
    /// [`KeepFault::Absent`] when nothing is kept; [`KeepFault::Failed`].
    pub fn remove(&self, session: &Seat) -> Result<(), KeepFault> {
        self.forget("session", |entry| entry.is_of_session(session))
    }

    /// Forgets one checkpoint of `seat`.
    ///
    /// # Errors
    /// As [`Vault::remove`].
    pub fn remove_point(&self, seat: &Seat, point: &str) -> Result<(), KeepFault> {
        let is = |entry: &Entry| entry.sheet.class == Class::Point && entry.sheet.id == point;
        self.forget("checkpoint", |entry| entry.sheet.seat == *seat && is(entry))
    }

    /// Forgets the state in which `seat` rested or was put aside: it has gone on, and to come back to it would lose steps silently.
    ///
    /// # Errors
    /// As [`Vault::remove`].
    pub(crate) fn remove_rest(&self, seat: &Seat) -> Result<(), KeepFault> {
        self.forget("session at rest", |entry| entry.sheet.seat == *seat && entry.sheet.class != Class::Point)
    }

    fn find(&self, seat: &Seat, which: Which<'_>) -> Result<Entry, KeepFault> {
        let index = self.lock();
        let (found, what) = match which {
            Which::Latest => (index.of(seat).next_back(), "kept session of this name"),
            Which::Checkpoint => (index.points(seat).next_back(), "checkpoint of this session"),
            Which::Named(id) => (index.points(seat).find(|entry| entry.sheet.id == id), "such checkpoint"),
        };
        found.cloned().ok_or(KeepFault::Absent(what))
    }

    /// Writes the file of `sheet` by `write`, then the index that lists it.
    fn store<F>(&self, sheet: Sheet, write: F) -> Result<Point, KeepFault>
    where
        F: FnOnce(Sealer<Bounded<&fs::File>>) -> io::Result<Sealer<Bounded<&fs::File>>>,
    {
        let most = self.caps.bytes_per_seat.min(self.caps.bytes_total);
        let unwritten = |error: io::Error| disk::unwritten(&error, most);
        let part = Part::begin(&self.folder, &sheet.id).map_err(unwritten)?;
        let sealer = sheet.bound().and_then(|bound| Sealer::new(Bounded::new(&part.file, most), &self.key, &bound));
        let bytes = sealer.and_then(write).and_then(Sealer::finish).map_err(unwritten)?.written;
        let entry = Entry { sheet, bytes };
        let mut index = self.lock();
        let next = index.with(entry.clone(), &self.caps)?;
        part.commit().map_err(unwritten)?;
        if let Err(error) = self.save(&next) {
            self.unlink(&entry.sheet.id);
            return Err(unwritten(error));
        }
        let listed: HashSet<&str> = next.entries.iter().map(|entry| entry.sheet.id.as_str()).collect();
        let gone = index.entries.iter().filter(|entry| !listed.contains(entry.sheet.id.as_str()));
        gone.for_each(|entry| self.unlink(&entry.sheet.id));
        *index = next;
        Ok(entry.point())
    }

    fn forget(&self, what: &'static str, is: impl Fn(&Entry) -> bool) -> Result<(), KeepFault> {
        let mut index = self.lock();
        if !index.entries.iter().any(&is) {
            return Err(KeepFault::Absent(what));
        }
        // From here on they do not open any more, even if a crash keeps the files.
        let next = index.without(&is);
        self.save(&next).map_err(|error| disk::unwritten(&error, INDEX_BYTES))?;
        index.entries.iter().filter(|entry| is(entry)).for_each(|entry| self.unlink(&entry.sheet.id));
        *index = next;
        Ok(())
    }

    fn opener(&self, entry: &Entry) -> io::Result<Opener<io::BufReader<fs::File>>> {
        let file = disk::open(&self.folder.join(&entry.sheet.id))?;
        if file.metadata()?.len() != entry.bytes {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Opener::new(io::BufReader::new(file), &self.key, &entry.sheet.bound()?)
    }

    /// Makes `index` the one that counts, and then moves the mark.
    fn save(&self, index: &Index) -> io::Result<()> {
        let plain = postcard::to_stdvec(index).map_err(io::Error::other)?;
        disk::replace(&self.folder, INDEX, &sealed(&self.key, INDEX.as_bytes(), &plain)?)?;
        let (folder, name) = mark_of(&self.folder)?;
        disk::replace(folder, &name, &sealed(&self.key, name.as_bytes(), &index.counter.to_le_bytes())?)
    }

    /// Removes files that a crash left: half written, or written and not listed, or not listed any more.
    fn clear(&self, index: &Index) -> io::Result<()> {
        let listed: HashSet<&str> = index.entries.iter().map(|entry| entry.sheet.id.as_str()).collect();
        let files = disk::list(&self.folder)?.into_iter().map(|(name, _)| name);
        let left = files.filter(|name| is_ours(name) && !listed.contains(name.as_str()));
        left.for_each(|name| self.unlink(&name));
        Ok(())
    }

    fn unlink(&self, name: &str) {
        if let Err(error) = fs::remove_file(self.folder.join(name)) {
            // It is not listed, so it opens no more; the next start tries again.
            tracing::warn!(%error, "a kept session's file could not be removed");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn fresh() -> Result<String, KeepFault> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|_| KeepFault::Failed("there is no randomness for a name".into()))?;
    Ok(hex::encode(bytes))
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::disk::is_id;
    use super::*;
    use crate::sandbox::wire::System;

    const CAPS: Caps = Caps { bytes_total: 8 << 20, bytes_per_seat: 4 << 20, points_per_seat: 3, tape_bytes: 1 << 20 };
    const BUILD: Digest = Digest([1; 32]);

    pub(super) fn header(bytes: u64) -> Header {
        Header {
            guest: Name::new("python").unwrap(),
            build: BUILD,
            steps: 7,
            system: System { seed: Some("s".into()), clock: Some(1), ..System::nothing() },
            given: Digest([2; 32]),
            handles: vec!["0123456789abcdef0123456789abcdef".into()],
            memory_bytes: 1 << 20,
            bytes,
            before: None,
        }
    }

    impl Vault {
        /// Keeps something of `seat`.
        pub(crate) fn put_example(&self, seat: &Seat) -> Point {
            put(self, seat, Class::Point, b"example").unwrap()
        }
    }

    fn seat(agent: &str, session: &str) -> Seat {
        let name = |text: &str| Name::new(text).unwrap();
        Seat { org: name("acme"), agent: name(agent), name: name(session) }
    }

    /// A vault in a folder of its own.
    struct Place(tempfile::TempDir);

    impl Place {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn folder(&self) -> PathBuf {
            self.0.path().join("sessions")
        }

        fn open(&self) -> Result<Vault, KeepFault> {
            Vault::open(self.folder(), VaultKey::new([5; 32]), CAPS)
        }

        fn refused(&self) -> String {
            match self.open() {
                Err(KeepFault::Refused(text)) => text,
                Err(other) => panic!("{other}"),
                Ok(_) => panic!("it opened"),
            }
        }

        /// Every file, those beside the folder too.
        fn files(&self) -> Vec<PathBuf> {
            let list =
                |folder: &Path| disk::list(folder).unwrap().into_iter().map(|(name, _)| folder.join(name)).collect();
            let [a, b, c]: [Vec<PathBuf>; 3] =
                [list(self.0.path()), list(&self.folder()), list(&self.folder().join(TAPES))];
            [a, b, c].concat()
        }
    }

    fn memory(seed: u8, bytes: usize) -> Vec<u8> {
        (0..bytes).map(|at| (at / 4096) as u8 ^ seed).collect()
    }

    fn put(vault: &Vault, seat: &Seat, class: Class, memory: &[u8]) -> Result<Point, KeepFault> {
        vault.put(seat, &seat.name, class, &header(memory.len() as u64), &mut &memory[..])
    }

    fn get(vault: &Vault, seat: &Seat, which: Which<'_>) -> Result<Vec<u8>, KeepFault> {
        vault.get(seat, which, &BUILD).map(|(_, memory)| memory)
    }

    fn copy(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                copy(&entry.path(), &to.join(entry.file_name()));
            } else {
                fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
            }
        }
    }

    #[test]
    fn a_kept_session_comes_back_after_a_restart() {
        let place = Place::new();
        let (one, two) = (seat("coder", "one"), seat("coder", "two"));
        let vault = place.open().unwrap();
        let first = put(&vault, &one, Class::Point, &memory(1, 300_000)).unwrap();
        let second = put(&vault, &one, Class::Point, &memory(2, 200_000)).unwrap();
        put(&vault, &one, Class::Rest, &memory(3, 100)).unwrap();
        put(&vault, &two, Class::Rest, &[]).unwrap();
        drop(vault);
        let vault = place.open().unwrap();
        assert_eq!(vault.points(&one), [first.clone(), second.clone()]);
        assert_eq!(second.after, Some(first.id.clone()));
        assert_eq!(vault.get(&one, Which::Named(&first.id), &BUILD).unwrap(), (header(300_000), memory(1, 300_000)));
        assert_eq!(get(&vault, &one, Which::Checkpoint).unwrap(), memory(2, 200_000));
        assert_eq!(get(&vault, &one, Which::Latest).unwrap(), memory(3, 100));
        assert_eq!(vault.latest(&one).unwrap().0, Class::Rest);
        assert!(get(&vault, &two, Which::Latest).unwrap().is_empty());
        let kept = vault.list();
        assert_eq!(
            kept.iter().map(|kept| (&kept.seat, kept.checkpoints.len(), kept.steps)).collect::<Vec<_>>(),
            [(&one, 2, 7), (&two, 0, 7)]
        );
        vault.remove_rest(&one).unwrap();
        assert_eq!(get(&vault, &one, Which::Latest).unwrap(), memory(2, 200_000));
        vault.remove_point(&one, &first.id).unwrap();
        assert_eq!(get(&vault, &one, Which::Named(&first.id)), Err(KeepFault::Absent("such checkpoint")));
        vault.remove(&one).unwrap();
        assert_eq!(vault.remove(&one), Err(KeepFault::Absent("session")));
        assert_eq!(get(&vault, &one, Which::Latest), Err(KeepFault::Absent("kept session of this name")));
        assert_eq!(disk::list(&place.folder()).unwrap().len(), 2, "the index and the rest of two");
    }

    #[test]
    fn a_session_goes_on_from_what_it_is_taken_back_to() {
        let place = Place::new();
        let (vault, one) = (place.open().unwrap(), seat("coder", "one"));
        let first = put(&vault, &one, Class::Point, b"first").unwrap();
        put(&vault, &one, Class::Rest, b"rest").unwrap();
        let back = vault.again(&one, Which::Named(&first.id), Class::Aside).unwrap();
        assert_eq!((back.after.as_deref(), back.steps), (Some(first.id.as_str()), first.steps));
        assert_eq!(get(&vault, &one, Which::Latest).unwrap(), b"first");
        assert!(matches!(vault.latest(&one), Some((Class::Aside, _))));
        assert_eq!(vault.points(&one), [first], "it is no checkpoint itself, and the rest has gone");
        let point = vault.again(&one, Which::Latest, Class::Point).unwrap();
        vault.remove_rest(&one).unwrap();
        assert_eq!(get(&vault, &one, Which::Named(&point.id)).unwrap(), b"first");
        assert!(vault.again(&one, Which::Named("none"), Class::Aside).is_err());
    }

    #[test]
    fn interpreters_of_other_guests_are_of_the_same_session() {
        let place = Place::new();
        let vault = place.open().unwrap();
        let (one, derived, two) = (seat("coder", "one"), seat("coder", "derived"), seat("coder", "two"));
        put(&vault, &one, Class::Point, b"python").unwrap();
        vault.put(&derived, &one.name, Class::Rest, &header(4), &mut &b"java"[..]).unwrap();
        put(&vault, &two, Class::Rest, b"two").unwrap();
        let seats: Vec<Seat> = vault.list().into_iter().map(|kept| kept.seat).collect();
        assert_eq!(seats.iter().filter(|seat| **seat == one).count(), 2);
        vault.remove(&one).unwrap();
        assert_eq!(vault.list().len(), 1);
        assert!(vault.latest(&derived).is_none() && vault.latest(&two).is_some());
    }

    #[test]
    fn a_kept_session_opens_for_its_own_seat_and_build_only() {
        let place = Place::new();
        let (mine, other, foreign) = (seat("coder", "one"), seat("coder", "two"), seat("spy", "one"));
        let vault = place.open().unwrap();
        let (a, b) =
            (put(&vault, &mine, Class::Point, b"mine").unwrap(), put(&vault, &other, Class::Point, b"else").unwrap());
        assert!(matches!(get(&vault, &foreign, Which::Latest), Err(KeepFault::Absent(_))));
        assert!(matches!(get(&vault, &other, Which::Named(&a.id)), Err(KeepFault::Absent(_))));
        let build = vault.get(&mine, Which::Latest, &Digest::ZERO).unwrap_err();
        assert!(matches!(&build, KeepFault::Refused(text) if text.contains("another build")), "{build}");
        // The file of one under the name of the other.
        let (one, two) = (place.folder().join(&a.id), place.folder().join(&b.id));
        let kept = fs::read(&one).unwrap();
        fs::copy(&two, &one).unwrap();
        assert!(matches!(get(&vault, &mine, Which::Latest), Err(KeepFault::Refused(_))));
        fs::write(&one, &kept).unwrap();
        assert_eq!(get(&vault, &mine, Which::Latest).unwrap(), b"mine");
        // An older file of the same seat in the place of a newer one.
        let newer = put(&vault, &mine, Class::Point, b"more").unwrap();
        fs::write(place.folder().join(&newer.id), &kept).unwrap();
        assert!(matches!(get(&vault, &mine, Which::Latest), Err(KeepFault::Refused(_))));
        fs::remove_file(place.folder().join(&newer.id)).unwrap();
        let gone = get(&vault, &mine, Which::Latest).unwrap_err();
        assert!(matches!(&gone, KeepFault::Refused(text) if text.contains("gone")), "{gone}");
        std::os::unix::fs::symlink(&one, place.folder().join(&newer.id)).unwrap();
        assert!(get(&vault, &mine, Which::Latest).is_err(), "a link is not a file");
        assert!(get(&vault, &mine, Which::Named(&a.id)).is_ok());
        let key = VaultKey::new([6; 32]);
        assert!(matches!(Vault::open(place.folder(), key, CAPS), Err(KeepFault::Refused(_))), "another key");
    }

    #[test]
    fn a_fork_is_for_the_same_agent_and_a_new_session() {
        let place = Place::new();
        let (from, to, foreign) = (seat("coder", "one"), seat("coder", "two"), seat("spy", "two"));
        let vault = place.open().unwrap();
        let first = put(&vault, &from, Class::Point, b"first").unwrap();
        put(&vault, &from, Class::Point, b"second").unwrap();
        assert!(matches!(vault.fork(&from, Which::Latest, &foreign, &foreign.name), Err(KeepFault::Refused(_))));
        let forked = vault.fork(&from, Which::Named(&first.id), &to, &to.name).unwrap();
        assert_eq!((forked.after, forked.steps), (Some(first.id.clone()), 7));
        assert_eq!(get(&vault, &to, Which::Latest).unwrap(), b"first");
        assert!(
            matches!(vault.fork(&from, Which::Latest, &to, &to.name), Err(KeepFault::Refused(_))),
            "it has something"
        );
        vault.remove(&from).unwrap();
        assert_eq!(get(&vault, &to, Which::Latest).unwrap(), b"first", "a copy stands alone");
    }

    #[test]
    fn every_flip_of_every_byte_on_disk_is_refused() {
        let place = Place::new();
        let one = seat("coder", "one");
        let vault = place.open().unwrap();
        put(&vault, &one, Class::Point, b"some memory").unwrap();
        let tape = vault.put_tape(&one, b"a tape").unwrap();
        let whole = |place: &Place| -> Result<(), KeepFault> {
            let vault = place.open()?;
            get(&vault, &one, Which::Latest).map(drop)?;
            vault.get_tape(&one, &tape).map(drop)
        };
        whole(&place).unwrap();
        let files = place.files();
        assert_eq!(files.len(), 4, "mark, index, memory and tape: {files:?}");
        for path in files {
            let there = fs::read(&path).unwrap();
            for at in 0..there.len() {
                let mut changed = there.clone();
                changed[at] ^= 1 << (at % 8);
                fs::write(&path, &changed).unwrap();
                let fault = whole(&place).unwrap_err();
                assert!(matches!(&fault, KeepFault::Refused(text) if text.len() < 400), "{path:?} byte {at}: {fault}");
                fs::write(&path, &there).unwrap();
            }
            for length in [0, there.len() / 2, there.len() - 1] {
                fs::write(&path, &there[..length]).unwrap();
                assert!(matches!(whole(&place), Err(KeepFault::Refused(_))), "{path:?} cut to {length}");
                fs::write(&path, &there).unwrap();
            }
        }
        whole(&place).unwrap();
    }

    #[test]
    fn an_older_index_or_a_lost_one_is_refused_and_nothing_is_touched() {
        let place = Place::new();
        let one = seat("coder", "one");
        put(&place.open().unwrap(), &one, Class::Point, b"first").unwrap();
        let (index, mark) = (place.folder().join(INDEX), place.0.path().join("sessions-mark"));
        let (old_index, old_mark) = (fs::read(&index).unwrap(), fs::read(&mark).unwrap());
        put(&place.open().unwrap(), &one, Class::Point, b"second").unwrap();
        let (new_index, new_mark) = (fs::read(&index).unwrap(), fs::read(&mark).unwrap());
        let before = place.files();
        fs::write(&index, &old_index).unwrap();
        assert!(place.refused().contains("older than it was"));
        fs::remove_file(&index).unwrap();
        assert!(place.refused().contains("index is gone"));
        fs::remove_file(&mark).unwrap();
        assert!(place.refused().contains("index is gone"));
        fs::write(&index, &new_index).unwrap();
        assert!(place.refused().contains("mark"));
        fs::write(&mark, &new_mark).unwrap();
        assert_eq!(place.files(), before);
        // A mark that is behind: a crash between the two. It is brought up to date.
        fs::write(&mark, &old_mark).unwrap();
        assert_eq!(get(&place.open().unwrap(), &one, Which::Latest).unwrap(), b"second");
        fs::write(&index, &old_index).unwrap();
        assert!(place.refused().contains("older than it was"));
    }

    #[test]
    fn the_whole_folder_put_back_with_its_mark_looks_true() {
        // What this vault cannot find out by itself, so that nobody relies on it.
        let place = Place::new();
        let one = seat("coder", "one");
        put(&place.open().unwrap(), &one, Class::Point, b"first").unwrap();
        let backup = tempfile::tempdir().unwrap();
        copy(place.0.path(), backup.path());
        put(&place.open().unwrap(), &one, Class::Point, b"second").unwrap();
        fs::remove_dir_all(place.folder()).unwrap();
        copy(&backup.path().join("sessions"), &place.folder());
        assert!(place.refused().contains("older"), "without the mark it is found");
        copy(backup.path(), place.0.path());
        assert_eq!(get(&place.open().unwrap(), &one, Which::Latest).unwrap(), b"first");
    }

    #[test]
    fn a_crash_at_any_step_of_keeping_leaves_the_state_before_or_after() {
        let place = Place::new();
        let one = seat("coder", "one");
        put(&place.open().unwrap(), &one, Class::Point, b"first").unwrap();
        let before = tempfile::tempdir().unwrap();
        copy(place.0.path(), before.path());
        let point = put(&place.open().unwrap(), &one, Class::Point, b"second").unwrap();
        let [file, index, mark] =
            [format!("sessions/{}", point.id), format!("sessions/{INDEX}"), "sessions-mark".into()];
        let after = |name: &str| fs::read(place.0.path().join(name)).unwrap();
        // (files as after the step, half-written ones, what is there then)
        let steps: [(&[&str], &[&str], &[u8]); 7] = [
            (&[], &[], b"first"),
            (&[], &[&file], b"first"),
            (&[&file], &[], b"first"),
            (&[&file], &[&index], b"first"),
            (&[&file, &index], &[], b"second"),
            (&[&file, &index], &[&mark], b"second"),
            (&[&file, &index, &mark], &[], b"second"),
        ];
        for (number, (whole, half, content)) in steps.into_iter().enumerate() {
            let crashed = Place::new();
            copy(before.path(), crashed.0.path());
            whole.iter().for_each(|name| fs::write(crashed.0.path().join(name), after(name)).unwrap());
            for name in half {
                let part = after(name);
                fs::write(crashed.0.path().join(format!("{name}.{}", disk::PART)), &part[..part.len() / 2]).unwrap();
            }
            let vault = crashed.open().unwrap();
            assert_eq!(get(&vault, &one, Which::Latest).unwrap(), content, "step {number}");
            let left = disk::list(&crashed.folder()).unwrap().len();
            assert_eq!(left, vault.points(&one).len() + 1, "step {number}: nothing is left over");
            // And it can be gone on with.
            put(&vault, &one, Class::Point, b"third").unwrap();
            drop(vault);
            assert_eq!(get(&crashed.open().unwrap(), &one, Which::Latest).unwrap(), b"third", "step {number}");
        }
        // A removal: the index goes first, the file then.
        let crashed = Place::new();
        copy(place.0.path(), crashed.0.path());
        let kept = fs::read(crashed.0.path().join(&file)).unwrap();
        crashed.open().unwrap().remove_point(&one, &point.id).unwrap();
        fs::write(crashed.0.path().join(&file), kept).unwrap();
        let vault = crashed.open().unwrap();
        assert_eq!(get(&vault, &one, Which::Latest).unwrap(), b"first", "what was removed does not come back");
        assert!(!crashed.0.path().join(&file).exists());
    }

    /// A memory whose source fails in the middle.
    struct Failing(io::ErrorKind, usize);

    impl Read for Failing {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let taken = into.len().min(self.1);
            self.1 -= taken;
            if taken == 0 { Err(self.0.into()) } else { Ok(taken) }
        }
    }

    #[test]
    fn what_is_not_kept_leaves_nothing_behind() {
        let place = Place::new();
        let (vault, one) = (place.open().unwrap(), seat("coder", "one"));
        put(&vault, &one, Class::Point, b"first").unwrap();
        let before = place.files();
        for (kind, text) in
            [(io::ErrorKind::StorageFull, "the disk is full"), (io::ErrorKind::QuotaExceeded, "the disk is full")]
        {
            let fault =
                vault.put(&one, &one.name, Class::Point, &header(1 << 20), &mut Failing(kind, 300_000)).unwrap_err();
            assert!(matches!(&fault, KeepFault::Full(said) if said.contains(text)), "{fault}");
        }
        let broken = &mut Failing(io::ErrorKind::BrokenPipe, 300_000);
        assert!(matches!(
            vault.put(&one, &one.name, Class::Point, &header(1 << 20), broken),
            Err(KeepFault::Failed(_))
        ));
        // More than its limit, once sealed: it is found while it is written.
        let mut noise = vec![0; 5 << 20];
        getrandom::fill(&mut noise).unwrap();
        assert!(matches!(put(&vault, &one, Class::Point, &noise), Err(KeepFault::Full(_))));
        assert_eq!((place.files(), vault.points(&one).len()), (before, 1));
        assert_eq!(get(&vault, &one, Which::Latest).unwrap(), b"first");
        let (three, four) = (&noise[..3 << 20], &noise[..(3 << 20) + 1]);
        for (session, memory, fits) in [("two", three, true), ("three", three, true), ("four", four, false)] {
            assert_eq!(put(&vault, &seat("coder", session), Class::Rest, memory).is_ok(), fits, "{session}");
        }
        for _ in 0..5 {
            put(&vault, &one, Class::Point, b"again").unwrap();
        }
        assert_eq!(vault.points(&one).len(), CAPS.points_per_seat);
        assert_eq!(disk::list(&place.folder()).unwrap().len(), 6, "the index, three points and two at rest");
    }

    #[test]
    fn a_disk_that_cannot_be_written_keeps_what_it_has() {
        let place = Place::new();
        let (vault, one) = (place.open().unwrap(), seat("coder", "one"));
        put(&vault, &one, Class::Point, b"first").unwrap();
        // A folder in the place of the new index: it cannot be renamed over.
        let index = place.folder().join(INDEX);
        let there = fs::read(&index).unwrap();
        fs::remove_file(&index).unwrap();
        fs::create_dir(&index).unwrap();
        assert!(matches!(put(&vault, &one, Class::Point, b"second"), Err(KeepFault::Failed(_))));
        fs::remove_dir(&index).unwrap();
        fs::write(&index, there).unwrap();
        assert_eq!(get(&vault, &one, Which::Latest).unwrap(), b"first");
        assert_eq!(get(&place.open().unwrap(), &one, Which::Latest).unwrap(), b"first");
        assert_eq!(disk::list(&place.folder()).unwrap().len(), 2);
    }

    #[test]
    fn tapes_are_found_by_owner_and_digest_and_the_oldest_make_room() {
        let place = Place::new();
        let (mine, other) = (seat("coder", "one"), seat("spy", "one"));
        let vault = place.open().unwrap();
        let mut tape = vec![0; 400_000];
        let mut digests = Vec::new();
        for _ in 0..3 {
            getrandom::fill(&mut tape).unwrap();
            digests.push(vault.put_tape(&mine, &tape).unwrap());
            assert_eq!(vault.put_tape(&mine, &tape).unwrap(), digests[digests.len() - 1], "twice is once");
        }
        assert!(matches!(vault.get_tape(&mine, &digests[0]), Err(KeepFault::Absent(_))), "it made room");
        assert!(matches!(vault.get_tape(&other, &digests[2]), Err(KeepFault::Absent(_))), "another agent's");
        assert_eq!(place.open().unwrap().get_tape(&mine, &digests[2]).unwrap(), tape);
        let tapes = place.folder().join(TAPES);
        let names: Vec<String> = disk::list(&tapes).unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), 2);
        fs::copy(tapes.join(&names[0]), tapes.join(&names[1])).unwrap();
        let swapped =
            digests[1..].iter().filter(|digest| matches!(vault.get_tape(&mine, digest), Err(KeepFault::Refused(_))));
        assert_eq!(swapped.count(), 1);
        let mut large = vec![0; 2 << 20];
        getrandom::fill(&mut large).unwrap();
        assert!(matches!(vault.put_tape(&mine, &large), Err(KeepFault::Full(_))));
    }

    #[test]
    fn nothing_of_a_memory_can_be_read_by_others_or_without_the_key() {
        let place = Place::new();
        let vault = place.open().unwrap();
        put(&vault, &seat("coder", "secret-session"), Class::Point, b"password: hunter2").unwrap();
        vault.put_tape(&seat("coder", "secret-session"), b"password: hunter2").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&place.folder()), mode(&place.folder().join(TAPES))), (0o700, 0o700));
        for path in place.files() {
            assert_eq!(mode(&path), 0o600, "{path:?}");
            let bytes = fs::read(&path).unwrap();
            for word in [&b"hunter2"[..], b"secret-session", b"python", b"0123456789abcdef"] {
                assert!(!bytes.windows(word.len()).any(|window| window == word), "{path:?}");
            }
            let name = path.file_name().unwrap().to_str().unwrap();
            assert!(is_id(name) || name.len() == 64 || name == INDEX || name == "sessions-mark", "{name}");
        }
    }
}
