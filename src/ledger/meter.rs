//! What one account has counted of one kind in one window, in integers that lose nothing.
//!
//! Amounts belong to the time of their reservation: what a settlement gives back is taken from where it was
//! counted, and is gone where that lies outside of the window by now. Only an over-run counts at its settlement.
//!
//! INVARIANT: whatever interval as long as the window is looked at, what was reserved in it is within the limit
//! (for a bucket: within the limit plus what was refilled in it), over-runs and granted tranches aside.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::model::{Millis, Timestamp, Watch, Window, exact};

/// Parts of a rolling window. The oldest counts as a whole, so a reservation may wait a sixtieth too long
/// and never passes too early.
const SLOTS: u64 = 60;

/// The counter of one window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Meter {
    /// The span that is counted now.
    Every(Slot),
    /// The last spans, oldest first.
    Rolling(VecDeque<Slot>),
    /// A bucket.
    Refill(Bucket),
}

/// What was counted in one span of time, and what a person granted in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Slot {
    #[serde(with = "exact")]
    number: u64,
    #[serde(with = "exact")]
    used: u64,
    #[serde(with = "exact")]
    granted: u64,
}

/// What is missing from a full bucket, times the milliseconds of the period, so that exactly `limit` comes
/// back in each millisecond and nothing is rounded. Below zero it holds a granted tranche beside the limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Bucket {
    #[serde(with = "digits")]
    missing: i128,
    at: Timestamp,
}

impl Meter {
    /// A meter that has counted nothing; `None` for a window that needs none.
    pub(super) fn new(window: Window) -> Option<Self> {
        match window {
            Window::Total => None,
            Window::Every(_) => Some(Self::Every(Slot::default())),
            Window::Rolling(_) => Some(Self::Rolling(VecDeque::new())),
            Window::Refill(_) => Some(Self::Refill(Bucket::default())),
        }
    }

    /// What a reservation at `now` may take under `limit`.
    pub(super) fn left(&self, limit: u64, watch: &Watch, now: Timestamp) -> u64 {
        let period = period(watch);
        match self {
            Self::Every(slot) => slot.at(now.0 / period).left(limit),
            Self::Rolling(slots) => {
                let seen = slots.iter().filter(|slot| slot.is_within(period, now));
                let all = seen.fold(Slot::default(), |all, slot| Slot {
                    used: all.used.saturating_add(slot.used),
                    granted: all.granted.saturating_add(slot.granted),
                    number: 0,
                });
                all.left(limit)
            }
            Self::Refill(bucket) => {
                let full = i128::from(limit).saturating_mul(i128::from(period));
                let there = full.saturating_sub(bucket.refilled(limit, now).missing).max(0);
                u64::try_from(there / i128::from(period)).unwrap_or(u64::MAX)
            }
        }
    }

    /// Counts `amount` as reserved, or used beyond what was reserved, at `now`.
    pub(super) fn take(&mut self, amount: u64, watch: &Watch, now: Timestamp) {
        match self {
            Self::Refill(bucket) => bucket.add(i128::from(amount), watch, now),
            Self::Every(_) | Self::Rolling(_) => self.slot(watch, now, |slot| {
                slot.used = slot.used.saturating_add(amount);
            }),
        }
    }

    /// Counts a tranche of `amount` that a person granted at `now`: for as long as what is reserved at `now`
    /// counts; in a bucket until it is used.
    pub(super) fn grant(&mut self, amount: u64, watch: &Watch, now: Timestamp) {
        match self {
            Self::Refill(bucket) => bucket.add(-i128::from(amount), watch, now),
            Self::Every(_) | Self::Rolling(_) => self.slot(watch, now, |slot| {
                slot.granted = slot.granted.saturating_add(amount);
            }),
        }
    }

    /// Gives back `amount` of what was reserved at `since`, as far as it still counts.
    pub(super) fn give(&mut self, amount: u64, watch: &Watch, since: Timestamp, now: Timestamp) {
        let period = period(watch);
        match self {
            Self::Every(slot) if slot.number == since.0 / period => slot.used = slot.used.saturating_sub(amount),
            Self::Every(_) => {}
            Self::Rolling(slots) => {
                let number = since.0 / width(period);
                if let Some(slot) = slots.iter_mut().find(|slot| slot.number == number) {
                    slot.used = slot.used.saturating_sub(amount);
                }
            }
            Self::Refill(bucket) => {
                // What was refilled since then may have been this amount's place already.
                let gone = i128::from(watch.limit).saturating_mul(i128::from(now.since(since).0));
                let back = i128::from(amount).saturating_mul(i128::from(period)).saturating_sub(gone).max(0);
                let refilled = bucket.refilled(watch.limit, now);
                let missing = refilled.missing.saturating_sub(back).max(refilled.missing.min(0));
                *bucket = Bucket { missing, at: now };
            }
        }
    }

    /// Brings a bucket up to date before its limit changes from that of `watch`.
    pub(super) fn close_rate(&mut self, watch: &Watch, now: Timestamp) {
        if let Self::Refill(bucket) = self {
            *bucket = bucket.refilled(watch.limit, now);
        }
    }

    /// Changes the slot of `now`, which is the newest.
    fn slot(&mut self, watch: &Watch, now: Timestamp, change: impl FnOnce(&mut Slot)) {
        let period = period(watch);
        match self {
            Self::Every(slot) => {
                *slot = slot.at(now.0 / period);
                change(slot);
            }
            Self::Rolling(slots) => {
                let number = now.0 / width(period);
                while slots.front().is_some_and(|slot| !slot.is_within(period, now)) {
                    slots.pop_front();
                }
                if slots.back().is_none_or(|slot| slot.number < number) {
                    slots.push_back(Slot { number, ..Slot::default() });
                }
                if let Some(slot) = slots.back_mut() {
                    change(slot);
                }
            }
            Self::Refill(_) => {}
        }
    }
}

impl Slot {
    /// The same slot if it is number `number`, an empty one otherwise. Time never goes back.
    fn at(self, number: u64) -> Self {
        if self.number == number { self } else { Self { number, ..Self::default() } }
    }

    const fn left(&self, limit: u64) -> u64 {
        limit.saturating_add(self.granted).saturating_sub(self.used)
    }

    /// Whether anything counted here may be less than `period` before `now`.
    fn is_within(&self, period: u64, now: Timestamp) -> bool {
        let end = u128::from(self.number.saturating_add(1)) * u128::from(width(period));
        end + u128::from(period) > u128::from(now.0) + 1
    }
}

impl Bucket {
    /// The bucket at `now`, refilled by `limit` in each period.
    fn refilled(self, limit: u64, now: Timestamp) -> Self {
        let refill = i128::from(limit).saturating_mul(i128::from(now.since(self.at).0));
        let missing = if self.missing > 0 { self.missing.saturating_sub(refill).max(0) } else { self.missing };
        Self { missing, at: now.max(self.at) }
    }

    fn add(&mut self, amount: i128, watch: &Watch, now: Timestamp) {
        let refilled = self.refilled(watch.limit, now);
        let scaled = amount.saturating_mul(i128::from(period(watch)));
        *self = Self { missing: refilled.missing.saturating_add(scaled), ..refilled };
    }
}

/// The length of the window, milliseconds; at least one.
fn period(watch: &Watch) -> u64 {
    watch.window.period().unwrap_or(Millis(1)).0.max(1)
}

/// The length of one slot of a rolling window.
const fn width(period: u64) -> u64 {
    period.div_ceil(SLOTS)
}

/// An integer of any size as the text of its digits.
mod digits {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(value: &i128, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i128, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}
