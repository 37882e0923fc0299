//! From declared factors to numbers: the table of `docs/policy.md`, section "From factors to limits".
//!
//! Three bands (below 0.40, 0.40 to 0.69, from 0.70) where a factor only tightens. Nothing here is
//! wider for a higher declared factor.

use super::super::Profile;
use crate::model::{Clock, CodeLimits, EffectClass, Factor, Keep, Randomness, ThreatId};
use crate::policy::parse::code::DEFAULT_LIMITS;

/// Executions at full fuel that a session may make.
const FULL_EXECUTIONS: u64 = 50;

/// The numbers of one derived policy.
pub(super) struct Bounds {
    /// Gated calls per session before a person is asked.
    pub calls: u64,
    /// Tool calls per session before a person is asked.
    pub tool_calls: u64,
    /// Calls since a person last agreed before one is asked again.
    pub steps: u64,
    /// Tokens per session.
    pub tokens: u64,
    /// Classes allowed without a person.
    pub mild: Vec<EffectClass>,
    /// Classes for which a person is asked.
    pub asked: Vec<EffectClass>,
    /// How long variables live.
    pub keep: Keep,
    /// Depth of delegation.
    pub depth: u8,
    /// Clock of the sandbox.
    pub clock: Clock,
    /// Randomness of the sandbox.
    pub randomness: Randomness,
    /// Limits of one execution.
    pub code: CodeLimits,
    /// Fuel per session.
    pub fuel: u64,
    /// Wall time per session, ms.
    pub wall_ms: u64,
    /// Output per session, bytes.
    pub output_bytes: u64,
    /// Money per session, micro-USD, before a person is asked.
    pub micro_usd: u64,
    /// Money of the agent over all sessions, micro-USD.
    pub agent_micro_usd: u64,
    /// GPU time per session, ms, where the profile states resource hijacking.
    pub gpu_ms: Option<u64>,
    /// Protected paths.
    pub protected: Vec<&'static str>,
}

/// Credentials, and the gate's own files.
const SECRETS: [&str; 15] = [
    ".ssh",
    ".gnupg",
    ".aws",
    ".azure",
    ".config/gcloud",
    ".kube",
    ".docker/config.json",
    ".netrc",
    ".git-credentials",
    ".cache/huggingface/token",
    ".env",
    "/etc/shadow",
    "/proc/self",
    ".weir",
    ".config/weir",
];
/// The agent's own instructions and whatever runs by itself later.
const OWN: [&str; 17] = [
    ".claude",
    "CLAUDE.md",
    "AGENTS.md",
    ".codex",
    ".cursor",
    ".mcp.json",
    ".git/hooks",
    ".git/config",
    ".bashrc",
    ".bash_profile",
    ".profile",
    ".zshrc",
    ".zshenv",
    ".config/fish",
    ".config/autostart",
    ".config/systemd",
    "/etc/cron.d",
];
/// Code that the agent itself is made of.
const INSTALLED: [&str; 2] = ["site-packages", "node_modules"];

impl Bounds {
    pub(super) fn of(profile: &Profile) -> Self {
        let level = |factor| profile.factors.of(factor).hundredths();
        let (calls, tool_calls, steps) =
            banded(level(Factor::Autonomy), (500, 100, 60), (1000, 200, 120), (2000, 400, 240));
        let (mild, asked) = classes(level(Factor::Tools));
        let code = DEFAULT_LIMITS;
        let per_execution = code.output_bytes.saturating_add(code.result_bytes);
        let chance = level(Factor::NonDeterminism);
        Self {
            calls,
            tool_calls,
            steps,
            tokens: banded(level(Factor::Planning), 1_000_000, 2_000_000, 4_000_000),
            mild,
            asked,
            keep: keep(level(Factor::Persistence)),
            depth: depth(level(Factor::MultiAgent)),
            clock: if chance >= 70 { Clock::Frozen } else { Clock::Real },
            randomness: if chance >= 40 { Randomness::Seeded } else { Randomness::Real },
            code,
            fuel: code.fuel.saturating_mul(FULL_EXECUTIONS),
            wall_ms: 600_000,
            output_bytes: per_execution.saturating_mul(FULL_EXECUTIONS),
            micro_usd: 1_000_000,
            agent_micro_usd: 10_000_000,
            gpu_ms: speaks_of_compute(profile).then_some(3_600_000),
            protected: protected(level(Factor::SelfModification)),
        }
    }
}

/// `high` from 70 hundredths, `middle` from 40, else `low`.
fn banded<T>(level: u8, high: T, middle: T, low: T) -> T {
    match level {
        70.. => high,
        40..=69 => middle,
        _ => low,
    }
}

/// Classes allowed, and classes asked about. Executing outside the sandbox is in neither.
fn classes(tools: u8) -> (Vec<EffectClass>, Vec<EffectClass>) {
    use EffectClass::{Network, Read, Spend, Write};
    banded(
        tools,
        (vec![Read], vec![Write, Network, Spend]),
        (vec![Read, Network], vec![Write, Spend]),
        (vec![Read, Write, Network], vec![Spend]),
    )
}

/// Never longer than declared, and never beyond the session.
const fn keep(persistence: u8) -> Keep {
    match persistence {
        0 => Keep::Nothing,
        1..=24 => Keep::Run,
        _ => Keep::Session,
    }
}

const fn depth(multi_agent: u8) -> u8 {
    match multi_agent {
        0 => 0,
        1..=69 => 1,
        _ => 2,
    }
}

fn protected(self_modification: u8) -> Vec<&'static str> {
    let mut paths = SECRETS.to_vec();
    paths.extend(OWN);
    if self_modification >= 70 {
        paths.extend(INSTALLED);
    }
    paths
}

/// True when a mapped layer names resource hijacking.
fn speaks_of_compute(profile: &Profile) -> bool {
    ThreatId::parse("L4/resource-hijacking").is_some_and(|threat| profile.states(threat))
}
