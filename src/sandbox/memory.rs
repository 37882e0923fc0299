//! How much memory there is and how much of it workers have to themselves, as the kernel says.

use std::fs;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often the workers' memory is looked at: what the kernel says costs as much as a step.
const EVERY: Duration = Duration::from_millis(100);

/// Says when the memory is to be looked at.
#[derive(Default)]
pub(crate) struct Watch(Mutex<Option<Instant>>);

impl Watch {
    /// True at most once in a while.
    pub(crate) fn is_due(&self) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let due = last.is_none_or(|last| last.elapsed() >= EVERY);
        if due {
            *last = Some(Instant::now());
        }
        due
    }
}

/// Half of this machine's memory, bytes; where the kernel does not say how much there is, 2 GiB.
pub(crate) fn half() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    line(&text, "MemTotal:").map_or(2 << 30, |bytes| bytes / 2)
}

/// Private memory of a process, bytes; `None` when it has gone.
pub(crate) fn private(process: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    line(&text, "RssAnon:")
}

/// The value of a line such as `RssAnon:  12 kB`, bytes.
fn line(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kilobytes: u64 = rest.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_is_due_at_first_and_not_at_once_again() {
        let watch = Watch::default();
        assert!(watch.is_due() && !watch.is_due());
    }

    #[test]
    fn the_kernels_lines_are_read() {
        assert_eq!(line("Name:\tx\nRssAnon:\t     12 kB\n", "RssAnon:"), Some(12 << 10));
        for wrong in ["", "RssAnon: 12", "RssAnon: x kB", "RssAnon: 99999999999999999 kB"] {
            assert_eq!(line(wrong, "RssAnon:"), None, "{wrong}");
        }
        assert!(half() > 64 << 20);
        assert!(private(std::process::id()).is_some_and(|bytes| bytes > 0));
        assert_eq!(private(u32::MAX), None);
    }
}
