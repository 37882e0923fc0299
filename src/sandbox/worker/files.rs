//! The guest's `wasi:filesystem`: wasmtime-wasi's, with a quota for every folder to write.
//!
//! Whatever makes a folder grow is done here, under the lock of its volume (`volume.rs`); whatever only reads is
//! passed on. Links are never made: a symbolic one could lead the host's own programs out, and a hard one carries
//! content from one folder into another. A file moves within its folder only.
//!
//! This file must not open a path of the host: it works in the folders that the system interface was given.

mod open;
mod place;
mod stream;
mod volume;

use std::fs::FileTimes;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cap_std::fs::Dir;
use wasmtime::component::{HasData, Resource};
use wasmtime_wasi::filesystem::{self, Descriptor, WasiFilesystemCtxView};
use wasmtime_wasi::p2::bindings::filesystem::preopens;
use wasmtime_wasi::p2::bindings::filesystem::types::{
    Advice, DescriptorFlags, DescriptorStat, DescriptorType, DirectoryEntry, DirectoryEntryStream, ErrorCode, Filesize,
    Host, HostDescriptor, HostDirectoryEntryStream, MetadataHashValue, NewTimestamp, OpenFlags, PathFlags,
};
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream, FsError, FsResult};

use crate::model::Quota;
use crate::sandbox::walk;
use open::Asked;
use place::Place;
use stream::Written;
use volume::{At, Volume};

pub(crate) use place::{Volumes, apart};
pub(crate) use volume::Shared;

/// Folders that a guest may be listing at a time: each listing is in memory.
const LISTINGS: usize = 64;
/// Files and folders that it may have open at a time: well below where the engine would have to end it.
const OPEN: usize = 1_024;

/// The file system of a guest.
pub(crate) struct Files<'a> {
    pub(crate) real: WasiFilesystemCtxView<'a>,
    pub(crate) volumes: &'a mut Volumes,
}

/// Names [`Files`] for the linker.
pub(crate) struct Filed;

impl HasData for Filed {
    type Data<'a> = Files<'a>;
}

/// A folder in which something is about to be changed.
struct Changing {
    dir: Dir,
    place: Place,
    volume: Arc<Volume>,
}

impl Files<'_> {
    /// The file `fd` and its volume, where it may be written.
    fn writable(&self, fd: &Resource<Descriptor>) -> FsResult<(&filesystem::File, Arc<Volume>)> {
        let Descriptor::File(file) = self.real.table.get(fd)? else { return Err(ErrorCode::BadDescriptor.into()) };
        let volume = self.volumes.place(fd).volume.filter(|_| !file.perms.write_not_permitted());
        Ok((file, volume.ok_or(ErrorCode::NotPermitted)?))
    }

    /// The folder `fd`, where something may be changed in it.
    fn changing(&self, fd: &Resource<Descriptor>) -> FsResult<Changing> {
        let Descriptor::Dir(folder) = self.real.table.get(fd)? else { return Err(ErrorCode::NotDirectory.into()) };
        let place = self.volumes.place(fd);
        let volume = place.volume.clone().filter(|_| !folder.perms.write_not_permitted());
        let volume = volume.ok_or(ErrorCode::NotPermitted)?;
        Ok(Changing { dir: Dir::from_std_file(folder.dir.try_clone()?), place, volume })
    }

    fn stream(&mut self, fd: &Resource<Descriptor>, at: At) -> FsResult<Resource<DynOutputStream>> {
        let (file, volume) = self.writable(fd)?;
        let written: DynOutputStream = Box::new(Written::new(&volume, &file.file, at));
        Ok(self.real.table.push(written)?)
    }
}

/// The times that a guest sets.
fn times(read: &NewTimestamp, written: &NewTimestamp) -> Result<FileTimes, ErrorCode> {
    let time = |asked: &NewTimestamp| match asked {
        NewTimestamp::NoChange => Ok(None),
        NewTimestamp::Now => Ok(Some(SystemTime::now())),
        NewTimestamp::Timestamp(at) => {
            let since = Duration::from_secs(at.seconds).checked_add(Duration::from_nanos(at.nanoseconds.into()));
            let time = since.and_then(|since| SystemTime::UNIX_EPOCH.checked_add(since));
            time.map(Some).ok_or(ErrorCode::Overflow)
        }
    };
    let mut times = FileTimes::new();
    if let Some(read) = time(read)? {
        times = times.set_accessed(read);
    }
    if let Some(written) = time(written)? {
        times = times.set_modified(written);
    }
    Ok(times)
}

/// Refuses to change what has another name as well: that may lie outside.
fn own(names: u64) -> Result<(), ErrorCode> {
    if names > 1 { Err(ErrorCode::NotPermitted) } else { Ok(()) }
}

impl Changing {
    fn make(&self, path: &str) -> FsResult<()> {
        self.place.check_new(path)?;
        let mut hold = self.volume.hold();
        if self.dir.symlink_metadata(path).is_ok() {
            return Err(ErrorCode::Exist.into());
        }
        let one = Quota { bytes: 0, files: 1 };
        hold.take(one)?;
        let made = self.dir.create_dir(path);
        if made.is_err() {
            hold.give(one);
        }
        Ok(made?)
    }

    fn remove_file(&self, path: &str) -> FsResult<()> {
        let mut hold = self.volume.hold();
        let gone = self.dir.symlink_metadata(path)?;
        let freed = hold.freed(&gone);
        self.dir.remove_file(path)?;
        hold.give(freed);
        Ok(())
    }

    fn remove_folder(&self, path: &str) -> FsResult<()> {
        let mut hold = self.volume.hold();
        self.dir.remove_dir(path)?;
        hold.give(Quota { bytes: 0, files: 1 });
        Ok(())
    }

    fn rename(&self, old: &str, to: &Self, new: &str) -> FsResult<()> {
        if !Arc::ptr_eq(&self.volume, &to.volume) {
            return Err(ErrorCode::CrossDevice.into());
        }
        to.place.check_new(new)?;
        let mut hold = self.volume.hold();
        let moved = self.dir.symlink_metadata(old)?;
        // What lies in a folder would become deeper than anything that is made may be.
        if moved.is_dir() && to.place.depth_of(new) > self.place.depth_of(old) {
            return Err(ErrorCode::CrossDevice.into());
        }
        let replaced = to.dir.symlink_metadata(new).ok();
        let replaced = replaced.filter(|replaced| walk::identity(replaced) != walk::identity(&moved));
        let freed = replaced.map(|replaced| hold.freed(&replaced));
        self.dir.rename(old, &to.dir, new)?;
        if let Some(freed) = freed {
            hold.give(freed);
        }
        Ok(())
    }
}

impl preopens::Host for Files<'_> {
    fn get_directories(&mut self) -> wasmtime::Result<Vec<(Resource<Descriptor>, String)>> {
        let folders = preopens::Host::get_directories(&mut self.real)?;
        for (fd, guest) in &folders {
            let Descriptor::Dir(folder) = self.real.table.get(fd)? else { continue };
            let quota = self.volumes.quotas.get(guest);
            let volume = quota.map(|quota| self.volumes.shared.volume(&folder.dir, *quota)).transpose()?;
            self.volumes.places.insert(fd.rep(), Place { volume, depth: 0 });
        }
        Ok(folders)
    }
}

impl Host for Files<'_> {
    fn convert_error_code(&mut self, error: FsError) -> wasmtime::Result<ErrorCode> {
        self.real.convert_error_code(error)
    }

    fn filesystem_error_code(&mut self, error: Resource<wasmtime::Error>) -> wasmtime::Result<Option<ErrorCode>> {
        self.real.filesystem_error_code(error)
    }
}

impl HostDescriptor for Files<'_> {
    async fn advise(
        &mut self,
        fd: Resource<Descriptor>,
        offset: Filesize,
        len: Filesize,
        advice: Advice,
    ) -> FsResult<()> {
        self.real.advise(fd, offset, len, advice).await
    }

    async fn sync_data(&mut self, fd: Resource<Descriptor>) -> FsResult<()> {
        self.real.sync_data(fd).await
    }

    async fn get_flags(&mut self, fd: Resource<Descriptor>) -> FsResult<DescriptorFlags> {
        self.real.get_flags(fd).await
    }

    async fn get_type(&mut self, fd: Resource<Descriptor>) -> FsResult<DescriptorType> {
        self.real.get_type(fd).await
    }

    async fn set_size(&mut self, fd: Resource<Descriptor>, size: Filesize) -> FsResult<()> {
        let (file, volume) = self.writable(&fd)?;
        Ok(volume.set_size(&file.file, size)?)
    }

    async fn set_times(&mut self, fd: Resource<Descriptor>, read: NewTimestamp, written: NewTimestamp) -> FsResult<()> {
        if let Descriptor::File(file) = self.real.table.get(&fd)? {
            own(file.file.metadata()?.nlink())?;
        }
        self.real.set_times(fd, read, written).await
    }

    async fn read(&mut self, fd: Resource<Descriptor>, len: Filesize, offset: Filesize) -> FsResult<(Vec<u8>, bool)> {
        self.real.read(fd, len, offset).await
    }

    async fn write(&mut self, fd: Resource<Descriptor>, data: Vec<u8>, offset: Filesize) -> FsResult<Filesize> {
        let (file, volume) = self.writable(&fd)?;
        Ok(volume.write(&file.file, &data, At::Offset(offset))? as Filesize)
    }

    async fn read_directory(&mut self, fd: Resource<Descriptor>) -> FsResult<Resource<DirectoryEntryStream>> {
        if self.volumes.listings.len() >= LISTINGS {
            return Err(ErrorCode::InsufficientMemory.into());
        }
        let listing = self.real.read_directory(fd).await?;
        self.volumes.listings.insert(listing.rep());
        Ok(listing)
    }

    async fn sync(&mut self, fd: Resource<Descriptor>) -> FsResult<()> {
        self.real.sync(fd).await
    }

    async fn create_directory_at(&mut self, fd: Resource<Descriptor>, path: String) -> FsResult<()> {
        self.changing(&fd)?.make(&path)
    }

    async fn stat(&mut self, fd: Resource<Descriptor>) -> FsResult<DescriptorStat> {
        self.real.stat(fd).await
    }

    async fn stat_at(&mut self, fd: Resource<Descriptor>, flags: PathFlags, path: String) -> FsResult<DescriptorStat> {
        self.real.stat_at(fd, flags, path).await
    }

    async fn set_times_at(
        &mut self,
        fd: Resource<Descriptor>,
        flags: PathFlags,
        path: String,
        read: NewTimestamp,
        written: NewTimestamp,
    ) -> FsResult<()> {
        let follow = flags.contains(PathFlags::SYMLINK_FOLLOW);
        open::set_times(&self.changing(&fd)?.dir, &path, follow, times(&read, &written)?)
    }

    async fn link_at(
        &mut self,
        _: Resource<Descriptor>,
        _: PathFlags,
        _: String,
        _: Resource<Descriptor>,
        _: String,
    ) -> FsResult<()> {
        Err(ErrorCode::NotPermitted.into())
    }

    async fn open_at(
        &mut self,
        fd: Resource<Descriptor>,
        at: PathFlags,
        path: String,
        open: OpenFlags,
        flags: DescriptorFlags,
    ) -> FsResult<Resource<Descriptor>> {
        if self.volumes.places.len() >= OPEN {
            return Err(ErrorCode::InsufficientMemory.into());
        }
        let Descriptor::Dir(from) = self.real.table.get(&fd)? else { return Err(ErrorCode::NotDirectory.into()) };
        let mut place = self.volumes.place(&fd);
        let asked = Asked { follow: at.contains(PathFlags::SYMLINK_FOLLOW), open, flags };
        let opened = open::open(from, &place, &path, asked)?;
        let opened = self.real.table.push(opened)?;
        place.depth = place.depth_of(&path);
        self.volumes.places.insert(opened.rep(), place);
        Ok(opened)
    }

    fn drop(&mut self, fd: Resource<Descriptor>) -> wasmtime::Result<()> {
        self.volumes.places.remove(&fd.rep());
        HostDescriptor::drop(&mut self.real, fd)
    }

    async fn readlink_at(&mut self, fd: Resource<Descriptor>, path: String) -> FsResult<String> {
        self.real.readlink_at(fd, path).await
    }

    async fn remove_directory_at(&mut self, fd: Resource<Descriptor>, path: String) -> FsResult<()> {
        self.changing(&fd)?.remove_folder(&path)
    }

    async fn rename_at(
        &mut self,
        fd: Resource<Descriptor>,
        old: String,
        to: Resource<Descriptor>,
        new: String,
    ) -> FsResult<()> {
        self.changing(&fd)?.rename(&old, &self.changing(&to)?, &new)
    }

    async fn symlink_at(&mut self, _: Resource<Descriptor>, _: String, _: String) -> FsResult<()> {
        Err(ErrorCode::NotPermitted.into())
    }

    async fn unlink_file_at(&mut self, fd: Resource<Descriptor>, path: String) -> FsResult<()> {
        self.changing(&fd)?.remove_file(&path)
    }

    fn read_via_stream(&mut self, fd: Resource<Descriptor>, offset: Filesize) -> FsResult<Resource<DynInputStream>> {
        self.real.read_via_stream(fd, offset)
    }

    fn write_via_stream(&mut self, fd: Resource<Descriptor>, offset: Filesize) -> FsResult<Resource<DynOutputStream>> {
        self.stream(&fd, At::Offset(offset))
    }

    fn append_via_stream(&mut self, fd: Resource<Descriptor>) -> FsResult<Resource<DynOutputStream>> {
        self.stream(&fd, At::End)
    }

    async fn is_same_object(&mut self, a: Resource<Descriptor>, b: Resource<Descriptor>) -> wasmtime::Result<bool> {
        self.real.is_same_object(a, b).await
    }

    async fn metadata_hash(&mut self, fd: Resource<Descriptor>) -> FsResult<MetadataHashValue> {
        self.real.metadata_hash(fd).await
    }

    async fn metadata_hash_at(
        &mut self,
        fd: Resource<Descriptor>,
        flags: PathFlags,
        path: String,
    ) -> FsResult<MetadataHashValue> {
        self.real.metadata_hash_at(fd, flags, path).await
    }
}

impl HostDirectoryEntryStream for Files<'_> {
    async fn read_directory_entry(
        &mut self,
        listing: Resource<DirectoryEntryStream>,
    ) -> FsResult<Option<DirectoryEntry>> {
        self.real.read_directory_entry(listing).await
    }

    fn drop(&mut self, listing: Resource<DirectoryEntryStream>) -> wasmtime::Result<()> {
        self.volumes.listings.remove(&listing.rep());
        HostDirectoryEntryStream::drop(&mut self.real, listing)
    }
}
