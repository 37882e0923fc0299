//! What generated code is granted: limits and capabilities, all absent unless a policy gives them.

use serde::{Deserialize, Serialize};

use super::{Amounts, Digest, Kind, Millis};

/// Bounds of one execution of generated code. Every field is enforced by the sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CodeLimits {
    /// Linear memory of the guest, bytes.
    pub memory_bytes: u64,
    /// Wall time of one execution without the time spent in host tools.
    pub wall_ms: Millis,
    /// Fuel of one execution: about one unit for a WebAssembly operator.
    pub fuel: u64,
    /// Native stack of the guest, bytes.
    pub stack_bytes: u64,
    /// Bytes printed by one execution; more is cut and said so.
    pub output_bytes: u64,
    /// Bytes of one result or of one tool call's arguments.
    pub result_bytes: u64,
    /// Nested calls in one execution.
    pub callbacks: u64,
    /// Time that one host tool may take.
    pub tool_ms: Millis,
}

/// The clock that the guest sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Clock {
    /// A clock that stands still at the start of the session's first execution.
    Frozen,
    /// The clock of this machine.
    Real,
}

/// The randomness that the guest sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Randomness {
    /// A generator seeded from the session's name: the same session repeats itself.
    Seeded,
    /// The operating system's generator.
    Real,
}

/// What may be done with a preopened folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// Read files and list folders.
    Read,
    /// Also create, change and remove.
    Write,
}

/// A host folder that the guest sees under a path of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preopen {
    /// Absolute path inside the guest.
    pub guest: String,
    /// Path on the host; relative paths start at the policy file's folder.
    pub host: String,
    /// Read or write.
    pub access: Access,
    /// What may lie in it; every folder to write has one, and no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<Quota>,
}

/// How much a folder may hold; a write beyond it fails inside the guest with "no space left".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quota {
    /// Bytes of all its files together.
    pub bytes: u64,
    /// Files and folders.
    pub files: u64,
}

/// A writable folder of the session's own: empty at its start, gone at its end, never seen by another one.
/// What a program leaves or changes in it is an output: its digest goes into the receipt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scratch {
    /// Absolute path inside the guest.
    pub guest: String,
    /// How much it may hold.
    pub quota: Quota,
}

/// A pure-Python package: one wheel, by its content.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Package {
    /// The registry of the policy that pins it.
    pub registry: String,
    /// Its name there.
    pub name: String,
    /// Its exact version.
    pub version: String,
    /// SHA-256 of the wheel.
    pub digest: Digest,
}

/// When the state of a session is put aside, so that it can be gone back to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Checkpoint {
    /// When somebody asks for it.
    Asked,
    /// Also before every step: a step that is stopped loses itself and not the session.
    Step,
}

/// What is kept of an execution besides its receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Record {
    /// Nothing.
    Nothing,
    /// Every input and output of the interpreter, so that the execution can be replayed bit for bit.
    Tape,
}

/// How long the variables of generated code live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Keep {
    /// A fresh interpreter for every execution.
    Nothing,
    /// Variables live until the run (one task) ends.
    Run,
    /// Variables live until the session ends.
    Session,
}

/// Everything that one execution of generated code may use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CodeGrant {
    /// Bounds.
    pub limits: CodeLimits,
    /// Modules that may be imported; `a` grants `a.b` too.
    pub imports: Vec<String>,
    /// Folders.
    pub files: Vec<Preopen>,
    /// The session's own folder.
    pub scratch: Option<Scratch>,
    /// Packages beside the standard library; all their modules may be imported.
    pub packages: Vec<Package>,
    /// The clock.
    pub clock: Clock,
    /// The randomness.
    pub randomness: Randomness,
    /// How long variables live.
    pub keep: Keep,
    /// When the session's state is put aside.
    pub checkpoint: Checkpoint,
    /// What is kept for a replay.
    pub record: Record,
}

/// What a program of this machine reaches of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// Nothing.
    None,
    /// The gate's own listeners, and nothing else.
    Gate,
}

/// Bounds of a program of this machine with all that it starts. Every field is enforced from outside of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecLimits {
    /// Wall time.
    pub wall_ms: Millis,
    /// Processor time of all its processes together.
    pub cpu_ms: Millis,
    /// Memory of all its processes together, bytes.
    pub memory_bytes: u64,
    /// Processes and threads at the same time.
    pub processes: u64,
    /// Bytes by which the folders that it may write can grow.
    pub disk_bytes: u64,
    /// Time between the signal to finish and the end of everything.
    pub grace_ms: Millis,
}

/// Everything that one program of this machine may use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecGrant {
    /// Folders and files to read, on the host.
    pub read: Vec<String>,
    /// Folders to read and write, on the host.
    pub write: Vec<String>,
    /// Variables of the environment that it inherits.
    pub env: Vec<String>,
    /// What it reaches of the network.
    pub network: Network,
    /// GPUs that it holds.
    pub gpus: u32,
    /// Bounds.
    pub limits: ExecLimits,
}

impl ExecGrant {
    /// What a program under this grant can use at most.
    #[must_use]
    pub const fn worst_case(&self) -> Amounts {
        let ExecLimits { wall_ms, cpu_ms, memory_bytes, disk_bytes, grace_ms, .. } = self.limits;
        let wall = wall_ms.0.saturating_add(grace_ms.0);
        Amounts::ZERO
            .with(Kind::Calls, 1)
            .with(Kind::WallMs, wall)
            .with(Kind::CpuMs, cpu_ms.0)
            .with(Kind::MemoryBytes, memory_bytes)
            .with(Kind::DiskBytes, disk_bytes)
            .with(Kind::GpuMs, wall.saturating_mul(self.gpus as u64))
            .with(Kind::Jobs, 1)
    }
}

impl CodeLimits {
    /// What an execution under these limits can use at most.
    #[must_use]
    pub const fn worst_case(&self) -> Amounts {
        Amounts::ZERO
            .with(Kind::Calls, 1)
            .with(Kind::WallMs, self.wall_ms.0)
            .with(Kind::Fuel, self.fuel)
            .with(Kind::MemoryBytes, self.memory_bytes)
            .with(Kind::OutputBytes, self.output_bytes.saturating_add(self.result_bytes))
            .with(Kind::MemoryMs, memory_ms(self.memory_bytes, self.wall_ms.0))
            .with(Kind::Jobs, 1)
    }
}

impl CodeGrant {
    /// What an execution under this grant can use at most.
    #[must_use]
    pub const fn worst_case(&self) -> Amounts {
        match &self.scratch {
            Some(scratch) => self.limits.worst_case().with(Kind::DiskBytes, scratch.quota.bytes),
            None => self.limits.worst_case(),
        }
    }
}

/// Mebibyte-milliseconds of `bytes` held for `millis`; a started mebibyte counts.
#[must_use]
pub const fn memory_ms(bytes: u64, millis: u64) -> u64 {
    bytes.div_ceil(1 << 20).saturating_mul(millis)
}
