//! What a checked policy says of machines: jobs on rented ones, and programs of this one.
//!
//! Data and the price of a job; whether a call fits is the decision's question (`pdp`).

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{ExecLimits, Network, ThreatId};

/// Jobs on rented machines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Jobs {
    /// Accounts of the provider under which they may run.
    pub namespaces: BTreeSet<String>,
    /// Images, by exact reference.
    pub images: BTreeSet<String>,
    /// How a command may begin, word by word; empty means in any way.
    pub commands: Vec<Vec<String>>,
    /// Names of secrets that a job may be given.
    pub secrets: BTreeSet<String>,
    /// The longest time, seconds.
    pub max_timeout_s: u64,
    /// The time of a job that states none, seconds.
    pub default_timeout_s: u64,
    /// Machines by name.
    pub flavors: BTreeMap<String, Flavor>,
    /// Threats answered.
    pub answers: Vec<ThreatId>,
}

/// A kind of machine and its price, with where and when that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flavor {
    /// Micro-USD for an hour.
    pub micro_usd_per_hour: u64,
    /// GPUs.
    pub gpus: u64,
    /// Where the price stands.
    pub source: String,
    /// The day on which it stood there, `2026-11-01`.
    pub as_of: String,
}

impl Flavor {
    /// Minutes that are paid beyond a job's time: it is billed while it starts.
    const STARTING: u64 = 2;

    /// What `seconds` of the machine cost at most, micro-USD, with its start, at the dearer of this price and `live` for
    /// an hour. Started minutes count whole, as the provider bills them.
    #[must_use]
    pub fn at_most(&self, seconds: u64, live: u64) -> u64 {
        let minute = self.micro_usd_per_hour.max(live).div_ceil(60);
        seconds.div_ceil(60).saturating_add(Self::STARTING).saturating_mul(minute)
    }
}

/// Programs of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exec {
    /// Programs by base name.
    pub programs: BTreeSet<String>,
    /// Folders and files to read; relative ones start at the policy file's folder.
    pub read: Vec<String>,
    /// Folders to write.
    pub write: Vec<String>,
    /// Variables of the environment that are inherited.
    pub env: BTreeSet<String>,
    /// What is reached of the network.
    pub network: Network,
    /// GPUs that one program may hold.
    pub gpus: u32,
    /// Bounds of one program.
    pub limits: ExecLimits,
    /// Threats answered.
    pub answers: Vec<ThreatId>,
}
