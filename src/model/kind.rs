//! The budget kinds: one table from which parsing, accounting, metrics and docs follow.
//!
//! It stands in `model` because policies name kinds and the ledger counts them, and neither may
//! know the other. Adding a kind is adding one variant and one row.

use serde::{Deserialize, Serialize};

/// What a budget counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Gated calls of any action.
    Calls,
    /// Tool calls, nested ones included.
    ToolCalls,
    /// Milliseconds of wall time in generated code, host tools excluded, and in programs of this machine.
    WallMs,
    /// Fuel consumed by generated code: about one unit for a WebAssembly operator.
    Fuel,
    /// Peak bytes of guest linear memory.
    MemoryBytes,
    /// Bytes printed or returned by generated code.
    OutputBytes,
    /// Bytes sent to another machine.
    EgressBytes,
    /// Model tokens, input and output together.
    Tokens,
    /// Millionths of a US dollar.
    MicroUsd,
    /// Milliseconds of one GPU.
    GpuMs,
    /// Model tokens read, cached ones included.
    TokensIn,
    /// Model tokens written.
    TokensOut,
    /// Model tokens read from a cache.
    TokensCached,
    /// Mebibytes of guest memory times milliseconds of wall time.
    MemoryMs,
    /// Bytes of files that generated code made or changed in its own folder.
    DiskBytes,
    /// Programs, and calls whose cost says so, that run at the same time.
    Jobs,
    /// Milliseconds of processor time of programs of this machine.
    CpuMs,
    /// Model tokens read that were written to a cache for a short time.
    TokensCacheWrite,
    /// Model tokens read that were written to a cache for a long time (an hour).
    #[serde(rename = "tokens_cache_write_1h")]
    TokensCacheWriteLong,
}

/// How amounts of a kind combine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nature {
    /// Amounts add up.
    Flow,
    /// The highest amount counts; concurrent reservations do not add up.
    Peak,
    /// What is held now adds up; nothing is ever posted.
    Level,
}

/// What becomes of a reservation whose outcome is unknown (crash, lost host).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnCrash {
    /// Counted as spent: the action may have happened, or may have cost money.
    Spent,
    /// Released: the resource ended with the process.
    Released,
}

/// What becomes of a claim to have used more than was held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Excess {
    /// Posted in full: the money is gone or the bytes are out, whatever a limit says.
    Posted,
    /// Not counted: the gate itself stops the use at what was held.
    Clamped,
}

/// One row of [`KINDS`].
#[derive(Clone, Copy, Debug)]
pub struct KindRow {
    /// The kind.
    pub kind: Kind,
    /// Its name in TOML, JSON and metrics.
    pub name: &'static str,
    /// Its unit, for people.
    pub unit: &'static str,
    /// How its amounts combine.
    pub nature: Nature,
    /// What an unknown outcome costs.
    pub on_crash: OnCrash,
    /// What a use beyond the hold costs.
    pub excess: Excess,
    /// One line for the docs.
    pub about: &'static str,
}

macro_rules! row {
    ($kind:ident, $name:literal, $unit:literal, $nature:ident, $crash:ident, $excess:ident, $about:literal) => {
        KindRow {
            kind: Kind::$kind,
            name: $name,
            unit: $unit,
            nature: Nature::$nature,
            on_crash: OnCrash::$crash,
            excess: Excess::$excess,
            about: $about,
        }
    };
}

/// Every budget kind, in the order of [`Kind`].
pub const KINDS: [KindRow; 19] = [
    row!(Calls, "calls", "calls", Flow, Spent, Clamped, "gated calls of any action"),
    row!(ToolCalls, "tool_calls", "calls", Flow, Spent, Clamped, "tool calls, nested ones included"),
    row!(
        WallMs,
        "wall_ms",
        "ms",
        Flow,
        Released,
        Clamped,
        "wall time of programs: generated code, host tools excluded, and those of this machine"
    ),
    row!(
        Fuel,
        "fuel",
        "fuel",
        Flow,
        Released,
        Clamped,
        "computation of generated code, about one unit for a WebAssembly operator"
    ),
    row!(MemoryBytes, "memory_bytes", "bytes", Peak, Released, Clamped, "peak linear memory of a guest"),
    row!(OutputBytes, "output_bytes", "bytes", Flow, Released, Clamped, "bytes printed or returned by generated code"),
    row!(EgressBytes, "egress_bytes", "bytes", Flow, Spent, Posted, "bytes sent to another machine"),
    row!(Tokens, "tokens", "tokens", Flow, Spent, Posted, "model tokens, input and output together"),
    row!(MicroUsd, "micro_usd", "micro-USD", Flow, Spent, Posted, "money, in millionths of a US dollar"),
    row!(GpuMs, "gpu_ms", "GPU-ms", Flow, Spent, Posted, "milliseconds of one GPU"),
    row!(TokensIn, "tokens_in", "tokens", Flow, Spent, Posted, "model tokens read, cached ones included"),
    row!(TokensOut, "tokens_out", "tokens", Flow, Spent, Posted, "model tokens written"),
    row!(TokensCached, "tokens_cached", "tokens", Flow, Spent, Posted, "model tokens read from a cache"),
    row!(MemoryMs, "memory_ms", "MiB-ms", Flow, Released, Clamped, "peak memory of generated code times its wall time"),
    row!(
        DiskBytes,
        "disk_bytes",
        "bytes",
        Flow,
        Released,
        Clamped,
        "files made or changed in the own folder of generated code"
    ),
    row!(
        Jobs,
        "jobs",
        "jobs",
        Level,
        Released,
        Clamped,
        "programs, and calls whose cost says so, that run at the same time"
    ),
    row!(CpuMs, "cpu_ms", "CPU-ms", Flow, Released, Posted, "processor time of programs of this machine (`weir exec`)"),
    row!(
        TokensCacheWrite,
        "tokens_cache_write",
        "tokens",
        Flow,
        Spent,
        Posted,
        "model tokens read and written to a cache for five minutes"
    ),
    row!(
        TokensCacheWriteLong,
        "tokens_cache_write_1h",
        "tokens",
        Flow,
        Spent,
        Posted,
        "model tokens read and written to a cache for an hour"
    ),
];

impl Kind {
    /// The row of this kind.
    #[must_use]
    pub const fn row(self) -> &'static KindRow {
        &KINDS[self as usize]
    }

    /// The kind named `name`, if there is one.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        KINDS.iter().find(|row| row.name == name).map(|row| row.kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_stand_in_the_order_of_the_variants() {
        for (index, row) in KINDS.iter().enumerate() {
            assert_eq!(row.kind as usize, index, "{}", row.name);
            assert_eq!(Kind::from_name(row.name), Some(row.kind));
        }
    }
}
