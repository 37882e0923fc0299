//! The control group of one program: what the kernel itself limits, counts, stops and ends.
//!
//! Version 2 and version 1 may both be there, each with a part: whatever can be had is used, and what could not be had
//! is known. Nothing here fails: a machine without control groups gives a group that can do nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

/// How long one waits for a group to stand still, in steps of [`STEP`].
const STEPS: u32 = 50;
const STEP: Duration = Duration::from_millis(2);

/// How the names of groups begin; the number of their launcher follows.
pub(super) const PREFIX: &str = "weir-";

/// What a group is to do where it can.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wanted {
    /// Keep memory within so many bytes.
    pub memory_bytes: Option<u64>,
    /// Keep processes within so many.
    pub processes: Option<u64>,
    /// Count processor time.
    pub cpu: bool,
}

/// A group in each hierarchy in which one could be made.
#[derive(Debug, Default)]
pub(super) struct Cgroup {
    unified: Option<PathBuf>,
    memory: Option<PathBuf>,
    pids: Option<PathBuf>,
    cpuacct: Option<PathBuf>,
    /// Whether the unified group bounds memory and processes.
    bounds: (bool, bool),
}

impl Cgroup {
    /// Makes groups named `name` below those of this process, or below `place` in the unified hierarchy, that do what
    /// `wanted` says.
    pub(super) fn make(name: &str, place: Option<&Path>, wanted: &Wanted) -> Self {
        let (mounts, own) = (table("/proc/self/mountinfo"), table("/proc/self/cgroup"));
        let mut group = Self::default();
        if wanted.cpu {
            let parent = place.map(Path::to_path_buf).or_else(|| unified(&mounts, &own));
            group.unified = parent.and_then(|parent| opened(&parent, name));
        }
        if let Some(folder) = &group.unified {
            let bound = |file: &str, most: Option<u64>| {
                most.is_some_and(|most| fs::write(folder.join(file), most.to_string()).is_ok())
            };
            group.bounds = (bound("memory.max", wanted.memory_bytes), bound("pids.max", wanted.processes));
            let _ = fs::write(folder.join("memory.swap.max"), "0");
        }
        let old = |controller| {
            let parent = legacy(&mounts, &own, controller)?;
            sweep(&parent);
            made(&parent.join(name))
        };
        let bound = |controller, file: &str, most: Option<u64>| {
            let most = most?.to_string();
            keep(old(controller)?, |folder| fs::write(folder.join(file), &most).is_ok())
        };
        if !group.bounds.0 {
            group.memory = bound("memory", "memory.limit_in_bytes", wanted.memory_bytes);
        }
        if !group.bounds.1 {
            group.pids = bound("pids", "pids.max", wanted.processes);
        }
        if group.unified.is_none() && wanted.cpu {
            group.cpuacct = old("cpuacct");
        }
        group
    }

    /// Whether the kernel keeps memory within its limit.
    pub(super) fn bounds_memory(&self) -> bool {
        self.bounds.0 || self.memory.is_some()
    }

    /// Whether the kernel keeps the number of processes within its limit.
    pub(super) fn bounds_processes(&self) -> bool {
        self.bounds.1 || self.pids.is_some()
    }

    /// Whether the kernel counts processor time.
    pub(super) fn counts_cpu(&self) -> bool {
        self.cpu_ms().is_some()
    }

    /// Puts a process into every group; what it starts from then on is in them too.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(super) fn take(&self, process: u32) -> std::io::Result<()> {
        self.folders().try_for_each(|folder| fs::write(folder.join("cgroup.procs"), process.to_string()))
    }

    /// Processor time of everybody who is or was in it, milliseconds.
    pub(super) fn cpu_ms(&self) -> Option<u64> {
        if let Some(folder) = &self.unified
            && let Some(micros) = field(&folder.join("cpu.stat"), "usage_usec")
        {
            return Some(micros / 1_000);
        }
        self.cpuacct.as_ref().and_then(|folder| number(&folder.join("cpuacct.usage"))).map(|nanos| nanos / 1_000_000)
    }

    /// The most memory that was held at once, bytes.
    pub(super) fn peak_bytes(&self) -> Option<u64> {
        let new = self.unified.as_ref().filter(|_| self.bounds.0);
        let peak = new
            .and_then(|folder| number(&folder.join("memory.peak")).or_else(|| number(&folder.join("memory.current"))));
        peak.or_else(|| self.memory.as_ref().and_then(|folder| number(&folder.join("memory.max_usage_in_bytes"))))
    }

    /// Whether the kernel ended a process because memory was at its limit.
    pub(super) fn starved(&self) -> bool {
        let new = self.unified.as_ref().and_then(|folder| field(&folder.join("memory.events"), "oom_kill"));
        let old = || self.memory.as_ref().and_then(|folder| field(&folder.join("memory.oom_control"), "oom_kill"));
        new.or_else(old).is_some_and(|ended| ended > 0)
    }

    /// Stops everybody where they are; true once they stand still. Not with version 1, where whoever stands still
    /// cannot be ended: a launcher that died at that moment would leave them behind.
    pub(super) fn freeze(&self) -> bool {
        let Some(folder) = &self.unified else { return false };
        let still = || field(&folder.join("cgroup.events"), "frozen") == Some(1);
        fs::write(folder.join("cgroup.freeze"), "1").is_ok()
            && (0..STEPS).any(|_| {
                let stands = still();
                if !stands {
                    thread::sleep(STEP);
                }
                stands
            })
    }

    /// Ends everybody, those that came after the list was read too, and lets the dead go.
    pub(super) fn end(&self) {
        if let Some(folder) = &self.unified {
            let _ = fs::write(folder.join("cgroup.kill"), "1");
            let _ = fs::write(folder.join("cgroup.freeze"), "0");
        }
    }

    fn folders(&self) -> impl Iterator<Item = &PathBuf> {
        [&self.unified, &self.memory, &self.pids, &self.cpuacct].into_iter().flatten()
    }
}

impl Drop for Cgroup {
    /// A group can go once nobody is in it, which the kernel may need a moment to see.
    fn drop(&mut self) {
        for folder in self.folders() {
            for _ in 0..STEPS {
                if fs::remove_dir(folder).is_ok() {
                    break;
                }
                thread::sleep(STEP);
            }
        }
    }
}

/// A group of the unified hierarchy. Limits can be had only where no process lives in the parent itself.
fn opened(parent: &Path, name: &str) -> Option<PathBuf> {
    sweep(parent);
    for controller in ["+memory", "+pids"] {
        let _ = fs::write(parent.join("cgroup.subtree_control"), controller);
    }
    made(&parent.join(name))
}

/// Removes groups of launchers that were killed and could not: those named after a process that is gone, and empty.
fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split('-').next()?.parse::<u32>().ok());
        if owner.is_some_and(|owner| !Path::new(&format!("/proc/{owner}")).exists()) {
            let _ = fs::remove_dir(entry.path());
        }
    }
}

fn made(folder: &Path) -> Option<PathBuf> {
    fs::create_dir(folder).ok()?;
    // A group that nobody can be put into is none.
    keep(folder.to_path_buf(), |folder| fs::OpenOptions::new().write(true).open(folder.join("cgroup.procs")).is_ok())
}

fn keep(folder: PathBuf, usable: impl Fn(&PathBuf) -> bool) -> Option<PathBuf> {
    if usable(&folder) {
        return Some(folder);
    }
    let _ = fs::remove_dir(&folder);
    None
}

fn table(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The folder of this process's group in the unified hierarchy.
fn unified(mounts: &str, own: &str) -> Option<PathBuf> {
    let (root, at) = mounts.lines().find_map(|line| mounted(line, |kind, _| kind == "cgroup2"))?;
    let path = own.lines().find_map(|line| line.strip_prefix("0::"))?;
    Some(below(&root, &at, path))
}

/// The same in the old hierarchy of `controller`.
fn legacy(mounts: &str, own: &str, controller: &str) -> Option<PathBuf> {
    let has = |list: &str| list.split(',').any(|word| word == controller);
    let (root, at) = mounts.lines().find_map(|line| mounted(line, |kind, options| kind == "cgroup" && has(options)))?;
    let path = own.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        has(controllers).then_some(path)
    })?;
    Some(below(&root, &at, path))
}

/// What is mounted and where, of the line of the mount table that `wanted` picks by type and options.
fn mounted(line: &str, wanted: impl Fn(&str, &str) -> bool) -> Option<(String, PathBuf)> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ').skip(3);
    let (root, at) = (left.next()?, left.next()?);
    let mut right = right.split(' ');
    let kind = right.next()?;
    let options = right.nth(1)?;
    wanted(kind, options).then(|| (root.to_owned(), PathBuf::from(at)))
}

fn below(root: &str, at: &Path, path: &str) -> PathBuf {
    let inside = path.strip_prefix(root.trim_end_matches('/')).unwrap_or(path);
    at.join(inside.trim_start_matches('/'))
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The number behind `name` in a file of names and numbers.
fn field(path: &Path, name: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "30 25 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                          31 25 0:27 /pod /sys/fs/cgroup/cpu rw shared:3 - cgroup cgroup rw,cpu,cpuacct\n\
                          32 25 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
    const OWN: &str = "4:memory:/a/b\n2:cpu,cpuacct:/pod/c\n0::/d\n";

    #[test]
    fn the_own_group_is_found_in_every_hierarchy() {
        assert_eq!(unified(MOUNTS, OWN).unwrap(), Path::new("/sys/fs/cgroup/unified/d"));
        assert_eq!(legacy(MOUNTS, OWN, "memory").unwrap(), Path::new("/sys/fs/cgroup/memory/a/b"));
        assert_eq!(legacy(MOUNTS, OWN, "cpuacct").unwrap(), Path::new("/sys/fs/cgroup/cpu/c"));
        assert_eq!(legacy(MOUNTS, OWN, "pids"), None);
    }

    #[test]
    fn groups_of_the_dead_are_swept_and_no_others() {
        let parent = tempfile::tempdir().unwrap();
        // Beyond every number that a process can have.
        let names =
            ["weir-99999999-call".to_owned(), format!("weir-{}-call", std::process::id()), "other-1".to_owned()];
        names.iter().for_each(|name| fs::create_dir(parent.path().join(name)).unwrap());
        sweep(parent.path());
        let left = names.map(|name| parent.path().join(name).exists());
        assert_eq!(left, [false, true, true]);
    }

    #[test]
    fn a_machine_without_groups_gives_one_that_can_do_nothing() {
        let none = Cgroup::default();
        assert!(!none.bounds_memory() && !none.bounds_processes() && !none.counts_cpu() && !none.freeze());
        assert_eq!((none.cpu_ms(), none.peak_bytes(), none.starved()), (None, None, false));
        none.take(1).unwrap();
    }
}
