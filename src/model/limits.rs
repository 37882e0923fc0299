//! Every bound on input that the gate puts on itself, in one place.

/// Bounds on what any input may have; exceeding one is an error or a denial, never a truncation.
#[derive(Clone, Copy, Debug)]
pub struct Limits;

impl Limits {
    /// Bytes of a name.
    pub const NAME_BYTES: usize = 128;
    /// Bytes of one JSON message on a surface or from a guest.
    pub const JSON_BYTES: usize = 8 << 20;
    /// Nesting of a JSON message.
    pub const JSON_DEPTH: usize = 64;
    /// Elements (values and keys) of a JSON message.
    pub const JSON_NODES: usize = 500_000;
    /// Bytes of a policy, profile or listing.
    pub const POLICY_BYTES: usize = 1 << 20;
    /// Rules of a policy.
    pub const RULES: usize = 10_000;
    /// Tools of a policy or a session.
    pub const TOOLS: usize = 1_000;
    /// Bytes of one generated program.
    pub const CODE_BYTES: usize = 1 << 20;
    /// Bytes of a denial text.
    pub const DENIAL_BYTES: usize = 400;
    /// Delegation chain entries.
    pub const DELEGATION: usize = 16;
    /// Labels of a policy.
    pub const LABELS: usize = 64;
    /// Sessions open in one sidecar.
    pub const SESSIONS: usize = 1_024;
    /// Native stack of a guest when a policy does not say, bytes.
    pub const STACK_BYTES: u64 = 8 << 20;
    /// Bytes of all sessions' own folders together.
    pub const SCRATCH_BYTES: u64 = 64 << 30;
    /// Memory that all guests of one agent together may map for writing, bytes; what they touch is bounded per guest.
    pub const WORKER_BYTES: u64 = 96 << 30;
}
