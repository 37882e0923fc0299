//! What machines for jobs cost now, as the Hub says; and what a job of them has cost so far.
//!
//! The policy's table is what counts. A price of the Hub's that is higher counts instead, one that is lower never does,
//! and a flavor of which the Hub says nothing that can be read is not launched.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::model::{Amounts, Kind, parse_json};

/// Flavors in one catalogue.
const FLAVORS: usize = 1_000;

/// Micro-USD per hour of each flavor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Catalogue(BTreeMap<String, u64>);

impl Catalogue {
    /// Reads `GET /api/jobs/hardware`; `None` when it cannot be read as a whole.
    #[must_use]
    pub fn read(body: &[u8]) -> Option<Self> {
        let Value::Array(rows) = parse_json(body).ok()? else { return None };
        if rows.len() > FLAVORS {
            return None;
        }
        let mut prices = BTreeMap::new();
        for row in rows {
            let name = row.get("name")?.as_str()?.to_owned();
            let cost = row.get("unitCostMicroUSD")?.as_u64()?;
            let units = match row.get("unitLabel")?.as_str()? {
                "second" => 3600,
                "minute" => 60,
                "hour" => 1,
                _ => return None,
            };
            prices.insert(name, cost.checked_mul(units)?);
        }
        Some(Self(prices))
    }

    /// Micro-USD per hour of `flavor`.
    #[must_use]
    pub fn of(&self, flavor: &str) -> Option<u64> {
        self.0.get(flavor).copied()
    }
}

/// What a job costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Micro-USD for each started minute.
    pub per_minute: u64,
    /// GPUs.
    pub gpus: u64,
}

impl Rate {
    /// The rate of a price per hour.
    #[must_use]
    pub const fn new(micro_usd_per_hour: u64, gpus: u64) -> Self {
        Self { per_minute: micro_usd_per_hour.div_ceil(60), gpus }
    }

    /// What `running_s` seconds of running have cost.
    #[must_use]
    pub const fn of(self, running_s: u64) -> Amounts {
        let minutes = running_s.div_ceil(60);
        let gpu_ms = running_s.saturating_mul(1000).saturating_mul(self.gpus);
        Amounts::ZERO.with(Kind::MicroUsd, self.per_minute.saturating_mul(minutes)).with(Kind::GpuMs, gpu_ms)
    }

    /// The minutes for which `held` pays.
    #[must_use]
    pub const fn minutes(self, held: &Amounts) -> u64 {
        match held.of(Kind::MicroUsd).checked_div(self.per_minute) {
            Some(minutes) => minutes,
            None => u64::MAX,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_catalogue_is_read_whole_or_not_at_all() {
        let row = |cost: Value, unit: &str| json!([{"name": "t4-small", "unitCostMicroUSD": cost, "unitLabel": unit}]);
        let read = |value: Value| Catalogue::read(value.to_string().as_bytes()).and_then(|all| all.of("t4-small"));
        assert_eq!(read(row(json!(6667), "minute")), Some(400_020));
        assert_eq!(read(row(json!(400_000), "hour")), Some(400_000));
        for odd in [
            row(json!(-1), "minute"),
            row(json!(1.5), "minute"),
            row(json!(1), "moon"),
            json!({}),
            json!([{}]),
            row(json!(u64::MAX), "minute"),
        ] {
            assert_eq!(read(odd.clone()), None, "{odd}");
        }
    }

    #[test]
    fn every_started_minute_costs() {
        let rate = Rate::new(400_000, 2);
        let cost = |seconds: u64| rate.of(seconds).of(Kind::MicroUsd);
        assert_eq!((rate.per_minute, cost(0), cost(1), cost(60), cost(61)), (6667, 0, 6667, 6667, 13_334));
        assert_eq!(rate.of(90).of(Kind::GpuMs), 180_000);
        assert_eq!(rate.minutes(&Amounts::ZERO.with(Kind::MicroUsd, 20_000)), 2);
        assert_eq!(cost(u64::MAX), u64::MAX);
    }
}
