//! The memories of one engine's guests: made, kept for the next guest, given back.
//!
//! A range of addresses is kept when its guest has gone, because a new one costs calls of the kernel and a fault for
//! every page that every program writes. Nothing here touches an address: `raw.rs` does.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io;
use std::ops::Range as Span;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use super::raw::{Grip, Image, PAGE, Range, Region};
use super::tank::Tank;
use crate::sandbox::weave;

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

/// Makes the memories of one engine's guests.
pub(crate) struct Memories {
    pub(super) image: Image,
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
        let at = (memory.base() as usize / PAGE * 8) as u64;
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

    /// A memory that an engine asks for.
    ///
    /// # Errors
    /// The machine has no room.
    pub(super) fn created(
        &self,
        minimum: usize,
        maximum: Option<usize>,
        reserved: usize,
        guard: usize,
    ) -> io::Result<Grip> {
        // No interpreter has a memory that ends where it begins.
        if minimum == weave::MEMORY && maximum == Some(weave::MEMORY) {
            let grip = Grip::new(self.tank(reserved, guard)?);
            LAST.with_borrow_mut(|last| last.1 = Some(Tank::new(grip.clone())));
            return Ok(grip);
        }
        let grip = Grip::new(self.make(minimum, reserved, guard)?);
        LAST.with_borrow_mut(|last| last.0 = Some(grip.clone()));
        Ok(grip)
    }

    /// Takes a range for fuel back; one that was closed is not worth it.
    pub(super) fn refill(&self, range: Range) {
        let mut tanks = self.tanks.lock().unwrap_or_else(PoisonError::into_inner);
        if tanks.len() < SPARE {
            tanks.push(range);
        }
    }

    /// Takes a range back as it was when it was new.
    pub(super) fn recycle(&self, range: Range, size: usize) {
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

#[cfg(test)]
mod tests {
    use wasmtime::{Engine, Store};

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
            Grip::new(memories.make(0, 128 * PAGE, PAGE).unwrap())
        };
        let mut store = Store::new(&Engine::default(), ());

        let small = new(None);
        for page in [1, 3, 40] {
            assert!(small.write(&mut store, page * PAGE, &[99; PAGE]));
        }
        memories.learn(&small, &File::open("/proc/self/pagemap").unwrap());
        assert_eq!(memories.hot.get(), Some(&vec![PAGE..4 * PAGE, 40 * PAGE..41 * PAGE]));
        let base = small.base();
        drop(small);

        let large = new(Some(72 * PAGE));
        assert_eq!(large.base(), base, "the range was kept");
        for page in 0..72 {
            assert!(large.write(&mut store, page * PAGE, &[77; PAGE]));
        }
        drop(large);

        let again = new(Some(72 * PAGE));
        assert_eq!(again.base(), base, "the range was kept");
        again.changed(&mut store, |offset, _| panic!("the page at {offset} is not the image's"));
    }
}
