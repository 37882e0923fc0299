//! Which pages of a guest's memory were written: asked of the kernel, because a fault for each would be dearer.
//!
//! Linux tells it in the process's own page map (`admin-guide/mm/pagemap.rst`). The map is opened before the process is
//! locked, and without any capability, so that it never tells where in the machine's memory a page lies. It reads no
//! memory and must not be believed to be there: without it everything works, only slower.

use std::fs::File;
use std::ops::Range as Span;
use std::os::unix::fs::FileExt as _;

use caps::CapSet;

use super::raw::PAGE;

/// Bytes of an entry.
const ENTRY: usize = 8;
/// Entries that are read at a time.
const AT_ONCE: usize = 4096;
/// Pages that are nearer to each other are one span: the kernel maps as many of a file around each that is read.
const NEAR: usize = 16 * PAGE;
/// Bits of an entry: in memory, on a swap device, of a file or of memory that is shared.
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const SHARED: u64 = 1 << 61;

/// The page map of this process.
pub(super) struct Pages(File);

impl Pages {
    /// Opens it; `None` where there is none to be had.
    pub(super) fn open() -> Option<Self> {
        let before = caps::read(None, CapSet::Effective).ok()?;
        caps::clear(None, CapSet::Effective).ok()?;
        let opened = File::open("/proc/self/pagemap");
        // What is permitted can be had back always; without it nothing may go on as if it were there.
        caps::set(None, CapSet::Effective, &before).ok()?;
        opened.ok().map(Self)
    }

    /// The offsets of those pages of the `size` bytes at `base`, private and of a file, that are not the file's any
    /// more; `None` where they are more than `most`, or where the kernel does not tell.
    pub(super) fn written(&self, base: usize, size: usize, most: usize) -> Option<Vec<usize>> {
        self.those(base, size, most, |entry| entry & (PRESENT | SWAPPED) != 0 && entry & SHARED == 0)
    }

    /// Spans of offsets in the same bytes that were read or written, and a few between them that were not.
    pub(super) fn used(&self, base: usize, size: usize) -> Option<Vec<Span<usize>>> {
        let mut spans: Vec<Span<usize>> = Vec::new();
        for at in self.those(base, size, usize::MAX, |entry| entry & PRESENT != 0)? {
            match spans.last_mut() {
                Some(last) if at - last.end <= NEAR => last.end = at + PAGE,
                _ => spans.push(at..at + PAGE),
            }
        }
        Some(spans)
    }

    fn those(&self, base: usize, size: usize, most: usize, wanted: impl Fn(u64) -> bool) -> Option<Vec<usize>> {
        let (count, mut found) = (size / PAGE, Vec::new());
        let mut entries = vec![0; count.min(AT_ONCE) * ENTRY];
        for first in (0..count).step_by(AT_ONCE) {
            let read = entries.get_mut(..(count - first).min(AT_ONCE) * ENTRY)?;
            self.0.read_exact_at(read, ((base / PAGE + first) * ENTRY) as u64).ok()?;
            let entries = read.as_chunks::<ENTRY>().0.iter().map(|entry| u64::from_ne_bytes(*entry));
            found.extend((first..).zip(entries).filter(|(_, entry)| wanted(*entry)).map(|(page, _)| page * PAGE));
            if found.len() > most {
                return None;
            }
        }
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_map_tells_of_no_page_where_in_the_machine_it_lies() {
        let pages = Pages::open().unwrap();
        let here = [1; PAGE];
        let mut entry = [0; ENTRY];
        pages.0.read_exact_at(&mut entry, (here.as_ptr() as usize / PAGE * ENTRY) as u64).unwrap();
        let entry = u64::from_ne_bytes(entry);
        assert_ne!(entry & PRESENT, 0);
        assert_eq!(entry & ((1 << 55) - 1), 0, "frames are for those who may see all of the machine's memory");
    }

    #[test]
    fn no_capability_is_lost_on_the_way() {
        let before = caps::read(None, CapSet::Effective).unwrap();
        Pages::open().unwrap();
        assert_eq!(caps::read(None, CapSet::Effective).unwrap(), before);
    }
}
