//! What the launcher tells the processes that put up the walls, and what these say back.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A wall that some machines do not have. The namespaces of processes and mounts are not among them: without them
/// nothing ends a tree of processes for certain, so that nothing is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wall {
    /// A network of its own, with nothing in it but loopback and the doors to the gate.
    Network,
    /// Landlock: the kernel itself denies every file that is not granted, whatever can be seen.
    Landlock,
    /// Seccomp: no calls into the parts of the kernel that no training program needs.
    Seccomp,
    /// The kernel keeps the memory of the whole tree within its limit.
    Memory,
    /// The kernel keeps the number of processes within its limit.
    Processes,
    /// The kernel counts the processor time of every process, however short it lives.
    Cpu,
}

/// Every wall, with its name and what is lost without it.
const WALLS: [(Wall, &str, &str); 6] = [
    (Wall::Network, "network", "the program could reach every machine that this one reaches"),
    (Wall::Landlock, "landlock", "files outside the granted folders would be kept by one wall instead of two"),
    (Wall::Seccomp, "seccomp", "the program could call every part of the kernel that its user may call"),
    (Wall::Memory, "memory", "memory would be looked at five times a second only, and an excess noticed after it"),
    (
        Wall::Processes,
        "processes",
        "processes would be counted five times a second only, and an excess noticed after it",
    ),
    (Wall::Cpu, "cpu", "processes that begin and end between two looks would cost no processor time"),
];

impl Wall {
    /// All of them.
    #[must_use]
    pub fn all() -> BTreeSet<Self> {
        WALLS.iter().map(|(wall, ..)| *wall).collect()
    }

    fn row(self) -> (&'static str, &'static str) {
        WALLS.iter().find(|(wall, ..)| *wall == self).map_or(("", ""), |(_, name, loss)| (name, loss))
    }

    /// What is lost without it.
    #[must_use]
    pub fn loss(self) -> &'static str {
        self.row().1
    }
}

impl fmt::Display for Wall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.row().0)
    }
}

impl FromStr for Wall {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        WALLS.iter().find(|(_, name, _)| *name == text).map(|(wall, ..)| *wall).ok_or_else(|| {
            let names: Vec<&str> = WALLS.iter().map(|(_, name, _)| *name).collect();
            format!("there is no wall `{text}`; the walls are {}", names.join(", "))
        })
    }
}

/// Walls that are not there, and why.
pub(super) type Lacking = Vec<(Wall, String)>;

/// What a process is told to put up around the program.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Plan {
    /// The program's file, and its arguments with its name first.
    pub program: PathBuf,
    pub argv: Vec<String>,
    pub cwd: PathBuf,
    /// All of its environment.
    pub env: Vec<(String, String)>,
    pub read: Vec<PathBuf>,
    pub write: Vec<PathBuf>,
    /// Device files of the granted GPUs.
    pub devices: Vec<PathBuf>,
    /// Ports of loopback that lead to the gate.
    pub doors: Vec<u16>,
    /// Walls to put up; one of `waived` may fail.
    pub walls: BTreeSet<Wall>,
    pub waived: BTreeSet<Wall>,
    /// Whether this process may make namespaces only as a user of its own.
    pub as_user: Option<(u32, u32)>,
    /// Bytes that lie in the private temporary folders at most.
    pub scratch_bytes: u64,
    /// GPUs that it holds.
    pub gpus: u32,
    pub file_bytes: u64,
    pub cpu_s: u64,
    /// Limits of each process where no wall bounds the whole tree.
    pub data_bytes: Option<u64>,
    pub processes: Option<u64>,
}

impl Plan {
    /// Whether `wall` is to be put up.
    pub(super) fn wants(&self, wall: Wall) -> bool {
        self.walls.contains(&wall)
    }
}

/// What the launcher says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Order {
    /// Get ready; the program's standard streams come with it where it is asked to start.
    Prepare(Box<Plan>),
    /// The launcher is there.
    Beat,
    /// A signal to the program.
    Signal(i32),
    /// SIGUSR1 to every process that waits for it.
    Checkpoint,
    /// SIGTERM to every process.
    Terminate,
    /// Nobody has anything more to ask: the namespace may end.
    Leave,
}

/// What the other processes say.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Said {
    /// The first process of the namespace exists; its descriptor comes with this.
    Made,
    /// It ends with whoever made it.
    Tied,
    /// A wall cannot be put up.
    Missing(Wall, String),
    /// It cannot be done at all.
    Failed(String),
    /// The granted place lacks something that the program needs: the shell's code for it, and why.
    Absent(u8, String),
    /// The program runs, without these walls.
    Started(Lacking),
    /// To how many processes the last order went.
    Sent(u64),
    /// The program ended, with its code or by a signal.
    Ended(Option<i32>, Option<i32>),
}
