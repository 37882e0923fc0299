//! Files of the vault: private, written beside their place and renamed into it, so that a reader, a full
//! disk or a crash never meets half a file. Texts of faults name no path.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::pep::port::KeepFault;

/// The end of a name of a file that is being written.
pub(super) const PART: &str = "part";
/// A link in the place of a file is not followed.
pub(super) const NO_FOLLOW: i32 = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();

/// Creates `folder` and its parents with mode 0700 where they do not exist yet.
pub(super) fn create(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Creates `folder` and makes it its owner's alone; fails where it is somebody else's.
pub(super) fn create_private(folder: &Path) -> io::Result<()> {
    create(folder)?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700))
}

/// Makes the names in `folder` durable.
pub(super) fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// A file that is being written; gone when dropped before [`Part::commit`].
pub(super) struct Part {
    pub(super) file: File,
    path: PathBuf,
    done: bool,
}

impl Part {
    /// Begins a file that will be called `name` in `folder`.
    pub(super) fn begin(folder: &Path, name: &str) -> io::Result<Self> {
        let path = folder.join(format!("{name}.{PART}"));
        // One that a crash left behind is nobody's any more.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        Ok(Self { file, path, done: false })
    }

    /// Makes it durable under its name.
    pub(super) fn commit(mut self) -> io::Result<()> {
        self.file.sync_all()?;
        fs::rename(&self.path, self.path.with_extension(""))?;
        self.done = true;
        self.path.parent().map_or(Ok(()), sync)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.done {
            // What cannot be removed now is removed when the vault is opened again.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Writes `bytes` as the file `name` of `folder`, whole or not at all.
pub(super) fn replace(folder: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let mut part = Part::begin(folder, name)?;
    part.file.write_all(bytes)?;
    part.commit()
}

/// The file at `path`, which must have at most `most` bytes.
pub(super) fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most { Err(io::ErrorKind::InvalidData.into()) } else { Ok(bytes) }
}

/// Opens a plain file.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(NO_FOLLOW).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// Every file of `folder` as (name, bytes, age).
pub(super) fn list(folder: &Path) -> io::Result<Vec<(String, fs::Metadata)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let about = entry.metadata()?;
        if !about.is_dir() {
            found.push((entry.file_name().to_string_lossy().into_owned(), about));
        }
    }
    Ok(found)
}

/// True for a name that this vault gives to files, and for one of a file that is being written.
pub(super) fn is_ours(name: &str) -> bool {
    is_id(name) || name.strip_suffix(PART).is_some_and(|name| name.ends_with('.'))
}

/// True for 32 lower-case hexadecimal digits.
pub(super) fn is_id(name: &str) -> bool {
    name.len() == 32 && name.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// A writer that takes at most so many bytes.
pub(super) struct Bounded<W> {
    pub(super) out: W,
    pub(super) written: u64,
    most: u64,
}

impl<W: Write> Bounded<W> {
    /// Writes to `out`, at most `most` bytes.
    pub(super) const fn new(out: W, most: u64) -> Self {
        Self { out, written: 0, most }
    }
}

impl<W: Write> Write for Bounded<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.written.saturating_add(bytes.len() as u64) > self.most {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let written = self.out.write(bytes)?;
        self.written += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// What a failed write means to whoever keeps something; `most` is the limit that counted.
pub(super) fn unwritten(error: &io::Error, most: u64) -> KeepFault {
    match error.kind() {
        io::ErrorKind::FileTooLarge => {
            KeepFault::Full(format!("what was to be kept takes more than the limit of {most} bytes; nothing was kept"))
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            KeepFault::Full("the disk is full; nothing was kept, and what is kept already stays".into())
        }
        _ => KeepFault::Failed(format!("it could not be written: {}", cause(error))),
    }
}

/// What a failed read means.
pub(super) fn unread(error: &io::Error) -> KeepFault {
    match error.kind() {
        io::ErrorKind::NotFound => KeepFault::Refused("its file is gone from the disk".into()),
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidInput => KeepFault::Refused(
            "its file is not what this gate kept there: it was changed, cut or exchanged, or the \
                key is another one; it is not used"
                .into(),
        ),
        _ => KeepFault::Failed(format!("its file could not be read: {}", cause(error))),
    }
}

/// What a failed file operation means, without its path.
pub(super) fn cause(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "it is not there".to_owned(),
        io::ErrorKind::PermissionDenied => "this user may not".to_owned(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "the disk is full".to_owned(),
        io::ErrorKind::ReadOnlyFilesystem => "the file system is read-only".to_owned(),
        // A link is not followed (`NO_FOLLOW`).
        _ if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => "it is a link".to_owned(),
        _ => error.to_string(),
    }
}
