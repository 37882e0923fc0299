//! The one unsafe place: machine code from a file, and the memories of guests.
//!
//! A guest's memory is a mapping of ours: its first content is a file, copied by the kernel page by page as the guest
//! writes. So an interpreter starts without copying, and one at rest can be read and made again elsewhere. Nothing
//! here knows what is in a memory; whatever is, to a guest it is only its own bytes. `memories.rs` keeps them.

#![expect(
    unsafe_code,
    reason = "Wasmtime loads compiled code and takes memories of its host's making by unsafe contracts only; each use \
              below says why it holds"
)]

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::ops::Range as Span;
use std::path::Path;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags, madvise, mmap, mmap_anonymous, mprotect, munmap};
use wasmtime::component::Component;
use wasmtime::{Engine, LinearMemory, MemoryCreator, MemoryType, Store};

use super::memories::Memories;
use crate::sandbox::cache::Verified;
use crate::sandbox::weave;

/// The unit in which memories are compared and stored.
pub(crate) const PAGE: usize = 4096;

/// Loads compiled code whose seal has been verified.
///
/// # Errors
/// The file cannot be read, or it was made by another version or for another machine.
pub(crate) fn compiled(engine: &Engine, file: &Verified) -> wasmtime::Result<Component> {
    // SAFETY: a compiled component is machine code, and loading one that Wasmtime did not make is arbitrary code
    // execution. `Verified` stands for a file whose seal by this installation's own key held over all of it, in a
    // folder that only this user can write; its bytes are the output of `Component::serialize` of this installation.
    unsafe { Component::deserialize_file(engine, file.path()) }
}

/// The first content of every memory.
pub(super) struct Image {
    file: File,
    /// All of it, mapped for reading.
    whole: NonNull<u8>,
    pub(super) size: usize,
}

// SAFETY: the mapping is private, read-only and lives as long as this value: it is plain shared bytes.
unsafe impl Send for Image {}
// SAFETY: see above.
unsafe impl Sync for Image {}

impl Image {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let size = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
        if size == 0 || !size.is_multiple_of(PAGE) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the image is not made of whole pages"));
        }
        // SAFETY: a fresh mapping at an address of the kernel's choice disturbs nothing.
        let whole = unsafe { mmap(ptr::null_mut(), size, ProtFlags::READ, MapFlags::PRIVATE, &file, 0)? };
        let whole = NonNull::new(whole.cast()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { file, whole, size })
    }

    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: `size` bytes are mapped for reading until `self` is dropped. The file lies in the private cache and
        // is written only under another name and renamed, never changed in place.
        unsafe { slice::from_raw_parts(self.whole.as_ptr(), self.size) }
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and no reference into it outlives the value.
        let _ = unsafe { munmap(self.whole.as_ptr().cast(), self.size) };
    }
}

// SAFETY: `Region` reserves what is asked for with the guard behind it, never moves, and is touched by nobody but the
// instance while a program runs (`Grip` asks for the store). The documentation says that new memory "should" be zero:
// ours holds an image instead, which to a guest is only what it could have written itself.
unsafe impl MemoryCreator for Memories {
    fn new_memory(
        &self,
        _: MemoryType,
        minimum: usize,
        maximum: Option<usize>,
        reserved: Option<usize>,
        guard: usize,
    ) -> Result<Box<dyn LinearMemory>, String> {
        let reserved = reserved.ok_or("memories of a movable base are not made here")?;
        let grip = self.created(minimum, maximum, reserved, guard);
        Ok(Box::new(Made(grip.map_err(|error| format!("no room for a memory: {error}"))?)))
    }
}

/// Addresses of our own: an image at their start, nothing behind it.
pub(super) struct Range {
    base: NonNull<u8>,
    pub(super) whole: usize,
}

// SAFETY: it owns its addresses; who may read or write what is there is `Grip`'s question.
unsafe impl Send for Range {}
// SAFETY: see above.
unsafe impl Sync for Range {}

impl Range {
    pub(super) fn empty(whole: usize) -> io::Result<Self> {
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a fresh mapping at an address of the kernel's choice disturbs nothing.
        let base = unsafe { mmap_anonymous(ptr::null_mut(), whole, ProtFlags::empty(), flags)? };
        Ok(Self { base: NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?, whole })
    }

    pub(super) fn reserve(whole: usize, image: &Image) -> io::Result<Self> {
        let range = Self::empty(whole)?;
        let (rights, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE | MapFlags::FIXED);
        // SAFETY: the image is not longer than the range (`make` checked), so this replaces addresses of our own.
        unsafe { mmap(range.at(0), image.size, rights, flags, &image.file, 0)? };
        Ok(range)
    }

    /// Where it lies.
    pub(super) fn base(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    fn at(&self, offset: usize) -> *mut c_void {
        self.base.as_ptr().wrapping_add(offset).cast()
    }

    /// Makes `from..to` readable and writable; it is zero.
    pub(super) fn open(&self, from: usize, to: usize) -> io::Result<()> {
        // SAFETY: callers stay within the reservation, whose addresses are our own.
        unsafe { mprotect(self.at(from), to - from, MprotectFlags::READ | MprotectFlags::WRITE)? };
        Ok(())
    }

    /// Makes the first `size` bytes what they were when they were new: the image's pages in `written`, which are all
    /// that were, by writing the image there, or where that is not known by forgetting them, and those behind the
    /// image by forgetting and closing them.
    pub(super) fn clear(&self, size: usize, image: &Image, written: Option<&[usize]>) -> io::Result<()> {
        for offset in written.unwrap_or_default() {
            let content = image.bytes().get(*offset..).and_then(|rest| rest.get(..PAGE));
            let content = content.ok_or(io::ErrorKind::InvalidData)?;
            // SAFETY: the page lies within the image, which lies at the range's start, readable and writable; nobody
            // else looks at these addresses (see `forget`), and the image is another mapping.
            unsafe { ptr::copy_nonoverlapping(content.as_ptr(), self.at(*offset).cast(), PAGE) };
        }
        self.forget(if written.is_some() { image.size } else { 0 }, size)?;
        if size > image.size {
            // SAFETY: the region's last owner has gone, so that nobody looks at these addresses of our own.
            unsafe { mprotect(self.at(image.size), size - image.size, MprotectFlags::empty())? };
        }
        Ok(())
    }

    /// Has the kernel map what will be read in `span`; where it cannot, each page is mapped when it is read.
    pub(super) fn expect(&self, span: &Span<usize>) {
        // SAFETY: it reads, and changes nothing that can be seen, at addresses of our own.
        let _ = unsafe { madvise(self.at(span.start), span.len(), Advice::LinuxPopulateRead) };
    }

    /// Forgets what was written in `from..to`.
    fn forget(&self, from: usize, to: usize) -> io::Result<()> {
        if from < to {
            // SAFETY: the region's last owner has gone, so that nobody looks at these addresses of our own; a private
            // mapping shows its file again afterwards, and an anonymous one zeros.
            unsafe { madvise(self.at(from), to - from, Advice::LinuxDontNeed)? };
        }
        Ok(())
    }
}

impl Drop for Range {
    fn drop(&mut self) {
        // SAFETY: the addresses are this value's own.
        let _ = unsafe { munmap(self.at(0), self.whole) };
    }
}

/// One memory.
pub(super) struct Region {
    /// `None` only while it is dropped.
    range: Option<Range>,
    reserved: usize,
    size: AtomicUsize,
    /// For fuel, and whether it can be written.
    tank: bool,
    closed: AtomicBool,
    home: Weak<Memories>,
}

impl Region {
    pub(super) fn new(range: Range, reserved: usize, size: usize, tank: bool, home: &Weak<Memories>) -> Self {
        let (size, closed) = (AtomicUsize::new(size), AtomicBool::new(false));
        Self { range: Some(range), reserved, size, tank, closed, home: home.clone() }
    }

    fn base(&self) -> *mut u8 {
        self.range.as_ref().map_or(ptr::null_mut(), Range::base)
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        let (Some(range), Some(home)) = (self.range.take(), self.home.upgrade()) else { return };
        match (self.tank, *self.closed.get_mut()) {
            (false, _) => home.recycle(range, *self.size.get_mut()),
            (true, false) => home.refill(range),
            (true, true) => {}
        }
    }
}

/// What Wasmtime holds of a memory.
struct Made(Grip);

// SAFETY: the base never moves, `size` bytes behind it are accessible, and what is reserved stays reserved until the
// last owner, of which this is one, has gone.
unsafe impl LinearMemory for Made {
    fn byte_size(&self) -> usize {
        self.0.0.size.load(Ordering::Acquire)
    }

    fn byte_capacity(&self) -> usize {
        self.0.0.reserved
    }

    fn grow_to(&mut self, size: usize) -> wasmtime::Result<()> {
        let region = &self.0.0;
        let before = region.size.load(Ordering::Acquire);
        let range = region.range.as_ref().filter(|_| size <= region.reserved && size >= before);
        let range = range.ok_or_else(|| wasmtime::format_err!("the memory's reservation is used"))?;
        if size > before {
            range.open(before, size)?;
        }
        region.size.store(size, Ordering::Release);
        Ok(())
    }

    fn as_ptr(&self) -> *mut u8 {
        self.0.0.base()
    }
}

/// What we hold of a memory: its content, while its guest rests.
#[derive(Clone)]
pub(crate) struct Grip(Arc<Region>);

impl Grip {
    /// On `region`.
    pub(super) fn new(region: Region) -> Self {
        Self(Arc::new(region))
    }

    /// Where it lies.
    pub(super) fn base(&self) -> *mut u8 {
        self.0.base()
    }

    /// Its size, bytes.
    pub(crate) fn size(&self) -> usize {
        self.0.size.load(Ordering::Acquire)
    }

    /// Calls `each` with the offset and content of every page that is not the image's.
    pub(crate) fn changed<T>(&self, _: &mut Store<T>, mut each: impl FnMut(usize, &[u8])) {
        let Some(home) = self.0.home.upgrade() else { return };
        // SAFETY: `size` bytes are mapped, and the store in the caller's hand, borrowed alone, is the only thing that
        // runs the guest, so that nothing writes them meanwhile.
        let bytes = unsafe { slice::from_raw_parts(self.0.base().cast_const(), self.size()) };
        let mut image = home.image.bytes().chunks_exact(PAGE);
        for (number, page) in bytes.chunks_exact(PAGE).enumerate() {
            let same = image.next().map_or_else(|| page.iter().all(|byte| *byte == 0), |first| first == page);
            if !same {
                each(number * PAGE, page);
            }
        }
    }

    /// What the image has at the page at `offset`.
    pub(crate) fn first(&self, offset: usize) -> Vec<u8> {
        let home = self.0.home.upgrade();
        let page = home.as_ref().and_then(|home| home.image.bytes().get(offset..offset.checked_add(PAGE)?));
        page.map_or_else(|| vec![0; PAGE], <[u8]>::to_vec)
    }

    /// Writes `page` at `offset`; false when it does not fit.
    pub(crate) fn write<T>(&self, _: &mut Store<T>, offset: usize, page: &[u8]) -> bool {
        let fits = offset.checked_add(page.len()).is_some_and(|end| end <= self.size());
        if fits {
            // SAFETY: the bytes are mapped and writable, nothing else looks at them (see `changed`), and `page` is
            // not one of them: it is a reference, and there are none into a memory.
            unsafe { ptr::copy_nonoverlapping(page.as_ptr(), self.0.base().add(offset), page.len()) };
        }
        fits
    }

    /// The counter at the start of a memory for fuel.
    pub(super) fn counter(&self) -> &AtomicI64 {
        // SAFETY: the first bytes of every memory are mapped and readable, and its base is a page's start. Those of a
        // memory for fuel are written by `Tank`, which asks `is_closed`, and by the guest's own code, which runs only
        // while whoever holds the store lets it: no two write at a time, and a word is read whole.
        unsafe { AtomicI64::from_ptr(self.0.base().cast()) }
    }

    /// Closes a memory for fuel: the next of the guest's own writes there is a trap. Or opens it again.
    pub(super) fn close(&self, closed: bool) -> io::Result<()> {
        let Some(range) = self.0.range.as_ref().filter(|_| self.0.tank) else { return Ok(()) };
        let rights = if closed { MprotectFlags::READ } else { MprotectFlags::READ | MprotectFlags::WRITE };
        // SAFETY: the page is this region's own, stays readable, and nobody on the host's side writes a closed one.
        unsafe { mprotect(range.at(0), weave::MEMORY, rights)? };
        self.0.closed.store(closed, Ordering::Release);
        Ok(())
    }

    /// Was it closed?
    pub(super) fn is_closed(&self) -> bool {
        self.0.closed.load(Ordering::Acquire)
    }
}
