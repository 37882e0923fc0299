//! What the processes of one program use, read from outside: from the process files of their own namespace.
//!
//! The first process of the namespace collects whoever ends, so that the time of the dead is in the sums. Where a
//! control group counts too, its numbers are taken. This file must not decide anything.

use std::fs;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::fstatvfs;

use super::cgroup::Cgroup;

/// One tick of the clock in which the kernel tells processor time: a hundredth of a second on every machine.
const TICK_MS: u64 = 10;
/// The first process: the gate's own.
const FIRST: &str = "1";

/// What is used at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sample {
    pub cpu_ms: u64,
    pub memory_bytes: u64,
    pub processes: u64,
    /// The kernel ended a process for memory.
    pub starved: bool,
}

/// Where the numbers come from.
#[derive(Debug)]
pub(super) struct Meter {
    processes: OwnedFd,
    scratch: Vec<OwnedFd>,
    highest: Sample,
}

impl Meter {
    /// Looks at the process files `processes` and at the private folders `scratch`.
    pub(super) fn new(processes: OwnedFd, scratch: Vec<OwnedFd>) -> Self {
        Self { processes, scratch, highest: Sample::default() }
    }

    /// The folder of the process files.
    pub(super) fn folder(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.processes.as_raw_fd()))
    }

    /// Looks once. Processor time and the peak of memory never fall.
    pub(super) fn look(&mut self, group: &Cgroup) -> Sample {
        let (folder, bounded) = (self.folder(), group.bounds_memory());
        let (mut ticks, mut memory, mut processes) = (0_u64, 0_u64, 0_u64);
        for name in names(&folder) {
            let process = folder.join(&name);
            ticks = ticks.saturating_add(spent(&process));
            if name != FIRST {
                processes = processes.saturating_add(threads(&process));
                if !bounded {
                    memory = memory.saturating_add(held(&process));
                }
            }
        }
        if !bounded {
            memory = self.scratch.iter().fold(memory, |sum, folder| sum.saturating_add(filled(folder)));
        }
        let told = group.peak_bytes().unwrap_or(memory);
        self.highest.cpu_ms = self.highest.cpu_ms.max(group.cpu_ms().unwrap_or(ticks.saturating_mul(TICK_MS)));
        self.highest.memory_bytes = self.highest.memory_bytes.max(told);
        self.highest.processes = processes;
        self.highest.starved = group.starved();
        self.highest
    }
}

/// What a process file says. A process chooses its name, which need not be text.
pub(super) fn text(path: &Path) -> String {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

/// Numbers of the processes there.
pub(super) fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())).collect()
}

/// Ticks of a process and of those it has collected.
fn spent(process: &Path) -> u64 {
    ticks(&text(&process.join("stat"))).unwrap_or(0)
}

/// Fields 14 to 17, counted behind the name, which may hold anything.
fn ticks(stat: &str) -> Option<u64> {
    let rest = stat.rsplit_once(") ")?.1;
    let fields: Vec<u64> = rest.split(' ').skip(11).take(4).filter_map(|field| field.parse().ok()).collect();
    (fields.len() == 4).then(|| fields.iter().fold(0, |sum: u64, field| sum.saturating_add(*field)))
}

fn threads(process: &Path) -> u64 {
    let status = text(&process.join("status"));
    row(&status, "Threads:").unwrap_or(0)
}

/// Memory of one process, with a shared page's bytes divided among those who share it.
fn held(process: &Path) -> u64 {
    if let Ok(text) = fs::read_to_string(process.join("smaps_rollup"))
        && let (Some(own), Some(shared)) = (row(&text, "Pss_Anon:"), row(&text, "Pss_Shmem:"))
    {
        return own.saturating_add(shared).saturating_mul(1_024);
    }
    let status = text(&process.join("status"));
    let (own, shared) = (row(&status, "RssAnon:"), row(&status, "RssShmem:"));
    own.unwrap_or(0).saturating_add(shared.unwrap_or(0)).saturating_mul(1_024)
}

fn row(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_ascii_whitespace().next()?.parse().ok()
}

fn filled(folder: &OwnedFd) -> u64 {
    fstatvfs(folder).map_or(0, |told| told.f_blocks.saturating_sub(told.f_bfree).saturating_mul(told.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_read_behind_any_name() {
        let stat = "7 (a) 1 (b) R 1 7 7 0 -1 4194304 1 2 3 4 10 20 30 40 20 0 1 0 5 6 7";
        assert_eq!(ticks(stat), Some(100));
        assert_eq!(ticks("7 (x) R 1"), None);
        assert_eq!(row("Threads:\t12\n", "Threads:"), Some(12));
    }
}
