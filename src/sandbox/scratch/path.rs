//! Paths below a scratch folder: relative, plain, short, and taken one part at a time.

use std::io;

use cap_std::fs::{Dir, Metadata};

use crate::pep::port::KeepFault;
use crate::sandbox::walk;

/// Bytes of a path.
const BYTES: usize = 1024;
/// Parts of a path.
pub(super) const PARTS: usize = 32;

/// The parts of `path`.
///
/// # Errors
/// What is wrong with it.
pub(super) fn parts(path: &str) -> Result<Vec<&str>, KeepFault> {
    let refused =
        |why: &str| Err(KeepFault::Refused(format!("a path here is relative, with `/` between its parts: {why}")));
    if path.len() > BYTES {
        return refused("this one is over 1,024 bytes");
    }
    if path.chars().any(char::is_control) {
        return refused("this one holds a control character");
    }
    let parts: Vec<&str> = path.split('/').collect();
    if parts.iter().any(|part| matches!(*part, "" | "." | "..")) {
        return refused("no part is empty, `.` or `..`");
    }
    if parts.len() > PARTS {
        return refused("this one has more than 32 parts");
    }
    Ok(parts)
}

/// True when `path` is one that can be asked for.
pub(super) fn is_plain(path: &str) -> bool {
    parts(path).is_ok()
}

/// The folder of `path` below `root` and the last part of `path`; no link is followed.
///
/// # Errors
/// There is no such folder, or the path is none.
pub(super) fn parent<'p>(root: &Dir, path: &'p str) -> Result<(Dir, &'p str), KeepFault> {
    let parts = parts(path)?;
    let (name, folders) = parts.split_last().ok_or(KeepFault::Absent("file of this name"))?;
    let mut at = root.try_clone().map_err(|error| failed("opened", &error))?;
    for folder in folders {
        at = walk::step(&at, folder).map_err(|error| absent(&error))?;
    }
    Ok((at, name))
}

/// An ordinary file with one name; anything else is as good as absent.
///
/// # Errors
/// It is none.
pub(super) fn ordinary(dir: &Dir, name: &str) -> Result<Metadata, KeepFault> {
    let seen = dir.symlink_metadata(name).map_err(|error| absent(&error))?;
    if seen.is_file() && !walk::has_other_names(&seen) { Ok(seen) } else { Err(KeepFault::Absent("file of this name")) }
}

/// What an error of the file system means to one who named a path.
pub(super) fn absent(error: &io::Error) -> KeepFault {
    use io::ErrorKind::{NotADirectory, NotFound};
    let gone = matches!(error.kind(), NotFound | NotADirectory) || error.raw_os_error().is_none();
    if gone { KeepFault::Absent("file of this name") } else { failed("opened", error) }
}

/// The machine did not do it; the text names no path of the host.
pub(super) fn failed(what: &str, error: &io::Error) -> KeepFault {
    KeepFault::Failed(format!("the session's folder cannot be {what}: {}", error.kind()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_relative_plain_and_short() {
        for good in ["a", "a/b.txt", "ä ö/…", ".hidden", "a..b", &vec!["d"; PARTS].join("/"), &"x".repeat(BYTES)] {
            assert!(is_plain(good), "{good}");
        }
        let deep = vec!["d"; PARTS + 1].join("/");
        let long = "x".repeat(BYTES + 1);
        for bad in
            ["", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/./b", "a\0b", "a\nb", "\u{9b}", &deep, &long]
        {
            assert!(!is_plain(bad), "{bad:?}");
        }
    }
}
