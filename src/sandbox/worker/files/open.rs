//! Opening: where a guest gets a descriptor of a file or folder.
//!
//! Only ordinary files and folders are opened. A pipe would hold the thread, a device may do anything when it is
//! opened, and a socket is not a file. A file that has another name as well is not opened to write: the other name
//! may lie outside. Links that the host put there are followed inside the folder only (cap-std).

use std::fs::{File, FileTimes};
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;

use cap_std::fs::{Dir, Metadata, OpenOptions, OpenOptionsExt as _};
use rustix::fs::OFlags;
use wasmtime_wasi::OpenMode;
use wasmtime_wasi::filesystem::{self, Descriptor};
use wasmtime_wasi::p2::FsResult;
use wasmtime_wasi::p2::bindings::filesystem::types::{DescriptorFlags, ErrorCode, OpenFlags};

use super::Place;
use super::volume::Hold;
use crate::model::Quota;
use crate::sandbox::walk;

/// What a guest asks for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) follow: bool,
    pub(super) open: OpenFlags,
    pub(super) flags: DescriptorFlags,
}

impl Asked {
    fn creates(self) -> bool {
        self.open.contains(OpenFlags::CREATE)
    }

    fn truncates(self) -> bool {
        self.open.contains(OpenFlags::TRUNCATE)
    }

    fn writes(self) -> bool {
        self.creates() || self.truncates() || self.flags.contains(DescriptorFlags::WRITE)
    }

    fn reads(self) -> bool {
        self.flags.contains(DescriptorFlags::READ) || !self.flags.contains(DescriptorFlags::WRITE)
    }

    /// What no folder does, whatever its rights.
    fn check(self) -> Result<(), ErrorCode> {
        let sync = DescriptorFlags::FILE_INTEGRITY_SYNC
            | DescriptorFlags::DATA_INTEGRITY_SYNC
            | DescriptorFlags::REQUESTED_WRITE_SYNC;
        let of_files = OpenFlags::CREATE | OpenFlags::EXCLUSIVE | OpenFlags::TRUNCATE;
        if self.flags.intersects(sync) {
            Err(ErrorCode::Unsupported)
        } else if self.open.contains(OpenFlags::DIRECTORY) && self.open.intersects(of_files) {
            Err(ErrorCode::Invalid)
        } else {
            Ok(())
        }
    }

    fn mode(self) -> OpenMode {
        let mut mode = OpenMode::empty();
        mode.set(OpenMode::READ, self.reads());
        mode.set(OpenMode::WRITE, self.writes());
        mode
    }

    fn options(self, is_new: bool) -> OpenOptions {
        let mut more = walk::HARMLESS;
        more.set(OFlags::DIRECTORY, self.open.contains(OpenFlags::DIRECTORY));
        more.set(OFlags::NOFOLLOW, !self.follow);
        let mut options = OpenOptions::new();
        options.read(self.reads()).write(self.writes()).custom_flags(more.bits().cast_signed());
        if self.creates() && self.open.contains(OpenFlags::EXCLUSIVE) {
            options.create_new(true);
        } else {
            // What was there is opened and nothing else: a file cannot come to be that was not counted.
            options.create(self.creates() && is_new);
        }
        options
    }
}

/// Opens `path` in the folder `from`, which lies at `place`.
pub(super) fn open(from: &filesystem::Dir, place: &Place, path: &str, asked: Asked) -> FsResult<Descriptor> {
    asked.check()?;
    let held = place.volume.as_ref().filter(|_| !from.perms.write_not_permitted());
    if asked.writes() && held.is_none() {
        return Err(ErrorCode::NotPermitted.into());
    }
    let dir = Dir::from_std_file(from.dir.try_clone()?);
    let mut hold = held.map(|volume| volume.hold());
    let seen = look(&dir, path, asked)?;
    let one = Quota { bytes: 0, files: 1 };
    if seen.is_none() {
        place.check_new(path)?;
        hold.as_mut().map_or(Ok(()), |hold| hold.take(one))?;
    }
    let opened = dir.open_with(path, &asked.options(seen.is_none()));
    let opened = match (opened, &mut hold) {
        (Err(error), Some(hold)) if seen.is_none() => {
            hold.give(one);
            return Err(error.into());
        }
        (opened, _) => opened?.into_std(),
    };
    admit(opened, from, asked, hold.as_mut())
}

/// What is at `path`: something that may be opened, or nothing where something may be made.
fn look(dir: &Dir, path: &str, asked: Asked) -> FsResult<Option<Metadata>> {
    let seen = if asked.follow { dir.metadata(path) } else { dir.symlink_metadata(path) };
    match seen {
        Ok(seen) if seen.is_file() || seen.is_dir() => Ok(Some(seen)),
        Ok(seen) if seen.is_symlink() => Err(ErrorCode::Loop.into()),
        Ok(_) => Err(ErrorCode::NotPermitted.into()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && asked.creates() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Makes a descriptor of what was opened, when it is what it should be.
fn admit(opened: File, from: &filesystem::Dir, asked: Asked, hold: Option<&mut Hold<'_>>) -> FsResult<Descriptor> {
    let found = opened.metadata()?;
    if found.is_dir() {
        return Ok(Descriptor::Dir(filesystem::Dir::new(opened, from.perms, asked.mode(), true)));
    }
    if !found.is_file() || (asked.writes() && found.nlink() > 1) {
        return Err(ErrorCode::NotPermitted.into());
    }
    let file = filesystem::File::new(opened, from.perms, asked.mode(), true);
    if let Some(hold) = hold {
        hold.watch(&Arc::clone(&file.file));
        if asked.truncates() {
            file.file.set_len(0)?;
            hold.give(Quota { bytes: found.len(), files: 0 });
        }
    }
    Ok(Descriptor::File(file))
}

/// Sets the times of what is at `path`, through a descriptor: a locked worker may set them in no other way.
pub(super) fn set_times(dir: &Dir, path: &str, follow: bool, times: FileTimes) -> FsResult<()> {
    let asked = Asked { follow, open: OpenFlags::empty(), flags: DescriptorFlags::READ };
    look(dir, path, asked)?;
    let opened = dir.open_with(path, &asked.options(false))?.into_std();
    let found = opened.metadata()?;
    if !found.is_dir() && (!found.is_file() || found.nlink() > 1) {
        return Err(ErrorCode::NotPermitted.into());
    }
    Ok(opened.set_times(times)?)
}
