//! Steps through a folder that somebody else may be changing: one name at a time, never through a link.
//!
//! Both sides of the wall walk folders that a guest writes into: the worker to measure them, the gate to
//! collect from them. Between the look at a name and its opening it may have become something else, so that
//! what was opened is compared with what was seen. Nothing here opens a path of the host.

use std::fs::File;
use std::io;

use cap_std::fs::{Dir, DirEntry, Metadata, MetadataExt as _, OpenOptions, OpenOptionsExt as _};
use rustix::fs::OFlags;

/// What makes an opening harmless: it neither waits for the other end of a pipe nor takes a terminal.
pub(crate) const HARMLESS: OFlags = OFlags::NONBLOCK.union(OFlags::NOCTTY);

/// What a file or folder is, whatever its name.
pub(crate) fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// Opens the folder `entry`, which was `seen`.
///
/// # Errors
/// It is not that folder any more.
pub(crate) fn folder(entry: &DirEntry, seen: &Metadata) -> io::Result<Dir> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(flags(OFlags::DIRECTORY));
    same(entry.open_with(&options)?, seen).map(Dir::from_std_file)
}

/// Opens the file `entry`, which was `seen`, to read.
///
/// # Errors
/// It is not that file any more.
pub(crate) fn file(entry: &DirEntry, seen: &Metadata) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(flags(OFlags::empty()));
    same(entry.open_with(&options)?, seen)
}

/// Opens the folder `name` in `dir`.
///
/// # Errors
/// It is none, or is changed while it is opened.
pub(crate) fn step(dir: &Dir, name: &str) -> io::Result<Dir> {
    let seen = dir.symlink_metadata(name)?;
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(flags(OFlags::DIRECTORY));
    same(dir.open_with(name, &options)?, &seen).map(Dir::from_std_file)
}

/// The bits of `more` with which nothing is followed and nothing waits.
pub(crate) fn flags(more: OFlags) -> i32 {
    (more | OFlags::NOFOLLOW | HARMLESS).bits().cast_signed()
}

/// `file`, when it is what was `seen`.
pub(crate) fn same(file: cap_std::fs::File, seen: &Metadata) -> io::Result<File> {
    if identity(&file.metadata()?) == identity(seen) {
        Ok(file.into_std())
    } else {
        Err(io::Error::other("it was changed while it was opened"))
    }
}

/// True for a file that has another name somewhere.
pub(crate) fn has_other_names(metadata: &Metadata) -> bool {
    metadata.nlink() > 1
}
