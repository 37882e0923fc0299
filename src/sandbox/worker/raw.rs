//! The one unsafe place: machine code from a file, and the memories of guests.
//!
//! A guest's memory is a mapping of ours: its first content is a file, copied by the kernel page by page as the guest
//! writes. So an interpreter starts without copying, and one at rest can be read and made again elsewhere. Nothing
//! here knows what is in a memory; whatever is, to a guest it is only its own bytes.

#![expect(
    unsafe_code,
    reason = "Wasmtime loads compiled code and takes memories of its host's making by unsafe contracts only; each use \
              below says why it holds"
)]

use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::ops::Range as Span;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags, madvise, mmap, mmap_anonymous, mprotect, munmap};
use wasmtime::component::Component;
use wasmtime::{Engine, LinearMemory, MemoryCreator, MemoryType, Store};

use super::tank::Tank;
use crate::sandbox::cache::Verified;
use crate::sandbox::weave;

/// The unit in which memories are compared and stored.
pub(crate) const PAGE: usize = 4096;
/// Regions that are kept for the next interpreter.
const SPARE: usize = 4;
/// The most of an image that is kept in place from one interpreter to the next, bytes.
const HOT: usize = 4 << 20;
/// Pages that are nearer to each other are written back together: a page costs less than a call of the kernel, which
/// interrupts every other thread as well.
const NEAR: usize = 16 * PAGE;

thread_local! {
    /// The size of the next memory that this thread makes, where it is not the image's.
    static NEXT: Cell<Option<usize>> = const { Cell::new(None) };
    /// The last memory that this thread made, and the last one in which fuel is counted.
    static LAST: RefCell<(Option<Grip>, Option<Tank>)> = const { RefCell::new((None, None)) };
}

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
struct Image {
    file: File,
    /// All of it, mapped for reading.
    whole: NonNull<u8>,
    size: usize,
}

// SAFETY: the mapping is private, read-only and lives as long as this value: it is plain shared bytes.
unsafe impl Send for Image {}
// SAFETY: see above.
unsafe impl Sync for Image {}

impl Image {
    fn open(path: &Path) -> io::Result<Self> {
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

    fn bytes(&self) -> &[u8] {
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

/// Makes the memories of one engine's guests.
pub(crate) struct Memories {
    image: Image,
    spare: Mutex<Vec<Range>>,
    /// For fuel.
    tanks: Mutex<Vec<Range>>,
    /// The bytes of the image that every program writes, in order.
    hot: OnceLock<Vec<Span<usize>>>,
    /// To itself: memories give their range back.
    me: Weak<Self>,
}

impl Memories {
    /// With the image in `path`, which is opened now.
    ///
    /// # Errors
    /// It cannot be opened or mapped.
    pub(crate) fn open(path: &Path) -> io::Result<Arc<Self>> {
        let image = Image::open(path)?;
        let (spare, tanks, hot) = Default::default();
        Ok(Arc::new_cyclic(|me| Self { image, spare, tanks, hot, me: me.clone() }))
    }

    /// Takes the pages that are private in `memory`, in which a small program has run, for those that every program
    /// writes: from now on they are written back when a memory is recycled, instead of being thrown away and faulted
    /// in again. `pages` is the process's own page map (Linux, `admin-guide/mm/pagemap.rst`); without it, or where
    /// they are too many, everything is thrown away as before.
    pub(crate) fn learn(&self, memory: &Grip, pages: &File) {
        let count = self.image.size / PAGE;
        let mut entries = vec![0; count * 8];
        let at = (memory.0.base() as usize / PAGE * 8) as u64;
        if pages.read_exact_at(&mut entries, at).is_err() {
            return;
        }
        let entries = entries.as_chunks::<8>().0.iter().map(|entry| u64::from_ne_bytes(*entry));
        let hot = spans(entries.map(|entry| entry & (PRESENT | SWAPPED) != 0 && entry & SHARED == 0));
        if hot.iter().map(ExactSizeIterator::len).sum::<usize>() <= HOT {
            // Learnt once: whoever comes second has learnt the same.
            let _ = self.hot.set(hot);
        }
    }

    /// Runs `start`, which starts one interpreter, with a memory of `size` bytes, and gives the grip on that memory
    /// and on its fuel.
    pub(crate) fn with_size<T>(size: Option<usize>, start: impl FnOnce() -> T) -> (T, Option<Grip>, Option<Tank>) {
        NEXT.set(size);
        LAST.take();
        let started = start();
        NEXT.set(None);
        let (grip, tank) = LAST.take();
        (started, grip, tank)
    }

    fn make(&self, minimum: usize, reserved: usize, guard: usize) -> io::Result<Region> {
        let size = NEXT.take().unwrap_or(0).max(minimum).max(self.image.size);
        let whole = reserved.checked_add(guard).ok_or(io::ErrorKind::OutOfMemory)?;
        if size > reserved || minimum > reserved {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        let kept = self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let range = match kept {
            Some(range) if range.whole == whole => range,
            _ => Range::reserve(whole, &self.image)?,
        };
        if size > self.image.size {
            range.open(self.image.size, size)?;
        }
        Ok(Region::new(range, reserved, size, false, &self.me))
    }

    /// A memory for nothing but fuel.
    fn tank(&self, reserved: usize, guard: usize) -> io::Result<Region> {
        let whole = reserved.checked_add(guard).ok_or(io::ErrorKind::OutOfMemory)?;
        let kept = self.tanks.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let range = match kept {
            Some(range) if range.whole == whole => range,
            _ => {
                let range = Range::empty(whole)?;
                range.open(0, weave::MEMORY)?;
                range
            }
        };
        Ok(Region::new(range, reserved, weave::MEMORY, true, &self.me))
    }

    /// Takes a range for fuel back; one that was closed is not worth it.
    fn refill(&self, range: Range) {
        let mut tanks = self.tanks.lock().unwrap_or_else(PoisonError::into_inner);
        if tanks.len() < SPARE {
            tanks.push(range);
        }
    }

    /// Takes a range back as it was when it was new.
    fn recycle(&self, range: Range, size: usize) {
        let hot = self.hot.get().map(Vec::as_slice).unwrap_or_default();
        if range.clear(size, &self.image, hot).is_err() {
            return;
        }
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < SPARE {
            spare.push(range);
        }
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
        let told = |error: io::Error| format!("no room for a memory: {error}");
        // No interpreter has a memory that ends where it begins.
        if minimum == weave::MEMORY && maximum == Some(weave::MEMORY) {
            let grip = Grip(Arc::new(self.tank(reserved, guard).map_err(told)?));
            let tank = Tank::new(grip.clone());
            LAST.with_borrow_mut(|last| last.1 = Some(tank));
            return Ok(Box::new(Made(grip)));
        }
        let grip = Grip(Arc::new(self.make(minimum, reserved, guard).map_err(told)?));
        LAST.with_borrow_mut(|last| last.0 = Some(grip.clone()));
        Ok(Box::new(Made(grip)))
    }
}

/// Bits of a page map's entry: in memory, on a swap device, of a file and not of this process alone.
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const SHARED: u64 = 1 << 61;

/// The bytes of the pages that are `hot`; those that are near to each other are one span.
fn spans(hot: impl Iterator<Item = bool>) -> Vec<Span<usize>> {
    let mut spans: Vec<Span<usize>> = Vec::new();
    for at in hot.enumerate().filter(|(_, hot)| *hot).map(|(number, _)| number * PAGE) {
        match spans.last_mut() {
            Some(last) if at - last.end <= NEAR => last.end = at + PAGE,
            _ => spans.push(at..at + PAGE),
        }
    }
    spans
}

/// Addresses of our own: an image at their start, nothing behind it.
struct Range {
    base: NonNull<u8>,
    whole: usize,
}

// SAFETY: it owns its addresses; who may read or write what is there is `Grip`'s question.
unsafe impl Send for Range {}
// SAFETY: see above.
unsafe impl Sync for Range {}

impl Range {
    fn empty(whole: usize) -> io::Result<Self> {
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a fresh mapping at an address of the kernel's choice disturbs nothing.
        let base = unsafe { mmap_anonymous(ptr::null_mut(), whole, ProtFlags::empty(), flags)? };
        Ok(Self { base: NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?, whole })
    }

    fn reserve(whole: usize, image: &Image) -> io::Result<Self> {
        let range = Self::empty(whole)?;
        let (rights, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE | MapFlags::FIXED);
        // SAFETY: the image is not longer than the range (`make` checked), so this replaces addresses of our own.
        unsafe { mmap(range.at(0), image.size, rights, flags, &image.file, 0)? };
        Ok(range)
    }

    fn at(&self, offset: usize) -> *mut c_void {
        self.base.as_ptr().wrapping_add(offset).cast()
    }

    /// Makes `from..to` readable and writable; it is zero.
    fn open(&self, from: usize, to: usize) -> io::Result<()> {
        // SAFETY: callers stay within the reservation, whose addresses are our own.
        unsafe { mprotect(self.at(from), to - from, MprotectFlags::READ | MprotectFlags::WRITE)? };
        Ok(())
    }

    /// Makes the first `size` bytes what they were when they were new: the image in `hot` by writing it there, the
    /// rest by forgetting what was written, and closes those behind the image.
    fn clear(&self, size: usize, image: &Image, hot: &[Span<usize>]) -> io::Result<()> {
        let mut from = 0;
        for span in hot {
            self.forget(from, span.start)?;
            let content = image.bytes().get(span.clone()).ok_or(io::ErrorKind::InvalidData)?;
            // SAFETY: `span` lies within the image, which lies at the range's start, readable and writable; nobody
            // else looks at these addresses (see `forget`), and the image is another mapping.
            unsafe { ptr::copy_nonoverlapping(content.as_ptr(), self.at(span.start).cast(), content.len()) };
            from = span.end;
        }
        self.forget(from, size)?;
        if size > image.size {
            // SAFETY: the region's last owner has gone, so that nobody looks at these addresses of our own.
            unsafe { mprotect(self.at(image.size), size - image.size, MprotectFlags::empty())? };
        }
        Ok(())
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
struct Region {
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
    fn new(range: Range, reserved: usize, size: usize, tank: bool, home: &Weak<Memories>) -> Self {
        let (size, closed) = (AtomicUsize::new(size), AtomicBool::new(false));
        Self { range: Some(range), reserved, size, tank, closed, home: home.clone() }
    }

    fn base(&self) -> *mut u8 {
        self.range.as_ref().map_or(ptr::null_mut(), |range| range.base.as_ptr())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_memory_comes_back_as_the_image_whatever_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image");
        let image: Vec<u8> = (0..64).flat_map(|page| vec![page + 1; PAGE]).collect();
        std::fs::write(&path, &image).unwrap();
        let memories = Memories::open(&path).unwrap();
        let new = |size| {
            NEXT.set(size);
            Grip(Arc::new(memories.make(0, 128 * PAGE, PAGE).unwrap()))
        };
        let mut store = Store::new(&Engine::default(), ());

        let small = new(None);
        for page in [1, 3, 40] {
            assert!(small.write(&mut store, page * PAGE, &[99; PAGE]));
        }
        memories.learn(&small, &File::open("/proc/self/pagemap").unwrap());
        assert_eq!(memories.hot.get(), Some(&vec![PAGE..4 * PAGE, 40 * PAGE..41 * PAGE]));
        let base = small.0.base();
        drop(small);

        let large = new(Some(72 * PAGE));
        assert_eq!(large.0.base(), base, "the range was kept");
        for page in 0..72 {
            assert!(large.write(&mut store, page * PAGE, &[77; PAGE]));
        }
        drop(large);

        let again = new(Some(72 * PAGE));
        assert_eq!(again.0.base(), base, "the range was kept");
        again.changed(&mut store, |offset, _| panic!("the page at {offset} is not the image's"));
    }
}
