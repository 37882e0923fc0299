//! The memories of one engine's guests: made, kept for the next guest, given back.
//!
//! A range of addresses is kept when its guest has gone, because a new one costs calls of the kernel and a fault for
//! every page that a program reads or writes: only what was written is written back. Nothing here touches an address:
//! `raw.rs` does.

use std::cell::{Cell, RefCell};
use std::io;
use std::ops::Range as Span;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use super::pages::Pages;
use super::raw::{Grip, Image, Range, Region};
use super::tank::Tank;
use crate::sandbox::weave;

/// Regions that are kept for the next interpreter.
const SPARE: usize = 4;
/// Pages of a range that are written back one by one; a program that wrote more has all of them thrown away, so that
/// a range at rest keeps no more than 2 MiB.
const KEPT: usize = 512;

thread_local! {
    /// The size of the next memory that this thread makes, where it is not the image's.
    static NEXT: Cell<Option<usize>> = const { Cell::new(None) };
    /// The last memory that this thread made, and the last one in which fuel is counted.
    static LAST: RefCell<(Option<Grip>, Option<Tank>)> = const { RefCell::new((None, None)) };
}

/// Pages that every program uses.
struct Usual {
    written: Vec<usize>,
    used: Vec<Span<usize>>,
}

/// Makes the memories of one engine's guests.
pub(crate) struct Memories {
    pub(super) image: Image,
    spare: Mutex<Vec<Range>>,
    /// For fuel.
    tanks: Mutex<Vec<Range>>,
    pages: Option<Pages>,
    /// What every program uses.
    usual: OnceLock<Usual>,
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
        let pages = proven(&image);
        Ok(Self::with(image, pages))
    }

    fn with(image: Image, pages: Option<Pages>) -> Arc<Self> {
        let (spare, tanks, usual) = Default::default();
        Arc::new_cyclic(|me| Self { image, spare, tanks, pages, usual, me: me.clone() })
    }

    /// Takes the pages that were used in `memory`, where a small program ran, for those that every program uses: new
    /// ranges have them from now on, mostly by a thread for which nobody waits.
    pub(crate) fn learn(&self, memory: &Grip) {
        let (Some(pages), base, size) = (&self.pages, memory.base().addr(), self.image.size) else { return };
        if let (Some(written), Some(used)) = (pages.written(base, size, KEPT), pages.used(base, size)) {
            // Learnt once: whoever comes second has learnt the same.
            let _ = self.usual.set(Usual { written, used });
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
            _ => self.reserve(whole)?,
        };
        if size > self.image.size {
            range.open(self.image.size, size)?;
        }
        Ok(Region::new(range, reserved, size, false, &self.me))
    }

    /// A new range, with what every program reads in place and copies of its own of what every program writes.
    fn reserve(&self, whole: usize) -> io::Result<Range> {
        let range = Range::reserve(whole, &self.image)?;
        if let Some(Usual { written, used }) = self.usual.get() {
            used.iter().for_each(|span| range.expect(span));
            range.clear(self.image.size, &self.image, Some(written))?;
        }
        Ok(range)
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
        let pages = self.pages.as_ref();
        let written = pages.and_then(|pages| pages.written(range.base().addr(), self.image.size, KEPT));
        if range.clear(size, &self.image, written.as_deref()).is_err() {
            return;
        }
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < SPARE {
            spare.push(range);
        }
    }
}

/// The page map, if it tells of a page that was just written, and of no other: a kernel with larger pages, or one that
/// hides the map's content, is not believed.
fn proven(image: &Image) -> Option<Pages> {
    let pages = Pages::open()?;
    let range = Range::reserve(image.size, image).ok()?;
    range.clear(image.size, image, Some(&[0])).ok()?;
    (pages.written(range.base().addr(), image.size, KEPT)? == [0]).then_some(pages)
}

#[cfg(test)]
mod tests {
    use wasmtime::{Engine, Store};

    use super::super::raw::PAGE;
    use super::*;

    /// Pages of an image of which more can be written than are kept.
    const COUNT: usize = KEPT + 88;

    fn image(folder: &Path) -> Image {
        let bytes: Vec<u8> = (0..COUNT).flat_map(|page| vec![(page % 250) as u8 + 1; PAGE]).collect();
        std::fs::write(folder.join("image"), bytes).unwrap();
        Image::open(&folder.join("image")).unwrap()
    }

    fn new(memories: &Memories, size: Option<usize>) -> Grip {
        NEXT.set(size);
        Grip::new(memories.make(0, 2 * COUNT * PAGE, PAGE).unwrap())
    }

    fn dirty(memory: &Grip, pages: impl IntoIterator<Item = usize>) {
        let mut store = Store::new(&Engine::default(), ());
        pages.into_iter().for_each(|page| assert!(memory.write(&mut store, page * PAGE, &[99; PAGE])));
    }

    /// The pages that are not the image's.
    fn unlike(memory: &Grip) -> Vec<usize> {
        let mut pages = Vec::new();
        memory.changed(&mut Store::new(&Engine::default(), ()), |offset, _| pages.push(offset / PAGE));
        pages
    }

    #[test]
    fn a_memory_comes_back_as_the_image_whatever_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let image = image(folder.path());
        let pages = proven(&image);
        let memories = Memories::with(image, pages);
        let written = |memory: &Grip| {
            let pages = memories.pages.as_ref().unwrap();
            pages.written(memory.base().addr(), memories.image.size, KEPT).unwrap()
        };

        let small = new(&memories, None);
        let base = small.base();
        dirty(&small, [1, 3, 40]);
        assert_eq!(unlike(&small), [1, 3, 40]);
        assert_eq!(written(&small), [PAGE, 3 * PAGE, 40 * PAGE]);
        memories.learn(&small);
        drop(small);

        let large = new(&memories, Some((COUNT + 8) * PAGE));
        assert_eq!(large.base(), base, "the range was kept");
        assert_eq!(written(&large), [PAGE, 3 * PAGE, 40 * PAGE], "and what was written, so that it faults no more");
        assert_eq!(unlike(&large), [0; 0]);
        dirty(&large, 0..COUNT + 8);
        drop(large);

        let again = new(&memories, Some((COUNT + 8) * PAGE));
        assert_eq!(again.base(), base, "the range was kept");
        assert_eq!(unlike(&again), [0; 0]);
        assert_eq!(written(&again), [0; 0], "too much to keep");

        let other = new(&memories, None);
        assert_ne!(other.base(), base, "the range is used");
        assert_eq!(unlike(&other), [0; 0]);
        assert_eq!(written(&other), [PAGE, 3 * PAGE, 40 * PAGE], "what every one writes is its own already");
    }

    #[test]
    fn without_the_page_map_a_memory_comes_back_as_the_image_all_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let memories = Memories::with(image(folder.path()), None);
        let memory = new(&memories, Some((COUNT + 8) * PAGE));
        let base = memory.base();
        memories.learn(&memory);
        dirty(&memory, [0, 7, COUNT + 7]);
        assert_eq!(unlike(&memory), [0, 7, COUNT + 7]);
        drop(memory);
        let again = new(&memories, Some((COUNT + 8) * PAGE));
        assert_eq!((again.base(), unlike(&again)), (base, vec![]));
    }
}
