//! Taking a tree away, however deep and odd it is, without following a link out of it.

use std::io;
use std::time::{Duration, Instant};

use cap_std::fs::{Dir, DirEntry, Permissions, PermissionsExt as _};

use crate::sandbox::walk;

/// A tree that is not gone after this time is left for the next start.
const WITHIN: Duration = Duration::from_secs(60);

/// Removes `name` and all that is in it from `dir`; nothing there is as good.
///
/// # Errors
/// Something could not be removed.
pub(super) fn remove(dir: &Dir, name: &str) -> io::Result<()> {
    match dir.symlink_metadata(name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(seen) if !seen.is_dir() => dir.remove_file(name),
        Ok(_) => {
            empty(&owned(dir, name)?)?;
            dir.remove_dir(name)
        }
    }
}

/// Opens the folder `name`, making it its owner's first where that was taken away.
fn owned(dir: &Dir, name: &str) -> io::Result<Dir> {
    let seen = dir.symlink_metadata(name)?;
    if seen.is_dir() && seen.permissions().mode() & 0o700 != 0o700 {
        dir.set_permissions(name, Permissions::from_mode(0o700))?;
    }
    walk::step(dir, name)
}

/// Empties `top`: what lies in a folder of it is moved up and the folder removed, so that a tree of any depth needs
/// two open folders and every folder is moved once.
fn empty(top: &Dir) -> io::Result<()> {
    let begun = Instant::now();
    let mut moved = 0;
    loop {
        let mut found = false;
        for entry in top.entries()? {
            found = true;
            if begun.elapsed() > WITHIN {
                return Err(io::ErrorKind::TimedOut.into());
            }
            take(top, &entry?, &mut moved)?;
        }
        if !found {
            return Ok(());
        }
    }
}

fn take(top: &Dir, entry: &DirEntry, moved: &mut u64) -> io::Result<()> {
    if !is_folder(entry)? {
        return gone(entry.remove_file());
    }
    let Some(name) = entry.file_name().to_str().map(str::to_owned) else {
        // A name that is no text gets one that is.
        return lift(top, entry, top, moved);
    };
    let folder = owned(top, &name)?;
    for inner in folder.entries()? {
        let inner = inner?;
        if is_folder(&inner)? {
            lift(&folder, &inner, top, moved)?;
        } else {
            gone(inner.remove_file())?;
        }
    }
    match top.remove_dir(&name) {
        // Somebody still writes into it: the next round takes it.
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
        done => gone(done),
    }
}

/// Moves the folder `entry` of `from` up into `top`, under a name that nothing has.
fn lift(from: &Dir, entry: &DirEntry, top: &Dir, moved: &mut u64) -> io::Result<()> {
    let old = entry.file_name();
    loop {
        *moved += 1;
        let name = format!("~{moved}");
        if top.symlink_metadata(&name).is_ok() {
            continue;
        }
        return match from.rename(&old, top, &name) {
            // A folder that its owner cannot write cannot be moved either.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                from.set_permissions(&old, Permissions::from_mode(0o700))?;
                gone(from.rename(&old, top, &name))
            }
            done => gone(done),
        };
    }
}

fn is_folder(entry: &DirEntry) -> io::Result<bool> {
    match entry.metadata() {
        Ok(seen) => Ok(seen.is_dir()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// What is gone already is as good as removed.
fn gone(done: io::Result<()>) -> io::Result<()> {
    done.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}
