//! What a provider says that a generation used, and what it must have used when nobody says.
//!
//! Providers count in their own ways: Anthropic counts what a cache gave or took beside what was read,
//! OpenAI inside of it; both repeat themselves in streams with growing numbers. A number that is none,
//! or a report without its numbers, is no report.

use serde_json::{Map, Value};

use crate::model::{Amounts, Kind};
use crate::policy::CacheWrite;

/// Tokens of a generation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Used {
    /// Everything that was read.
    pub read: u64,
    /// Of it, read from a cache.
    pub cached: u64,
    /// Of it, written to a cache for a short time.
    pub short: u64,
    /// Of it, written to a cache for a long time.
    pub long: u64,
    /// What was written.
    pub written: u64,
}

/// A report that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// A whole number: 0 where there is none or `null`.
fn number(map: &Map<String, Value>, key: &str) -> Result<u64, Malformed> {
    match map.get(key) {
        None | Some(Value::Null) => Ok(0),
        Some(value) => value.as_u64().ok_or(Malformed),
    }
}

/// A whole number that must be there.
fn needed(map: &Map<String, Value>, key: &str) -> Result<u64, Malformed> {
    map.get(key).and_then(Value::as_u64).ok_or(Malformed)
}

/// An object, empty where there is none or `null`.
fn object<'v>(
    map: &'v Map<String, Value>,
    key: &str,
    none: &'v Map<String, Value>,
) -> Result<&'v Map<String, Value>, Malformed> {
    match map.get(key) {
        None | Some(Value::Null) => Ok(none),
        Some(value) => value.as_object().ok_or(Malformed),
    }
}

impl Used {
    /// A `usage` of Anthropic's. What was written to a cache for nobody says how long was written for as long as
    /// the request asked.
    pub(super) fn anthropic(usage: &Map<String, Value>, write: CacheWrite) -> Result<Self, Malformed> {
        let whole = Self::anthropic_once(usage, write)?;
        // Where the provider ran the model several times, the sum is what it cost.
        let Some(Value::Array(rounds)) = usage.get("iterations") else { return Ok(whole) };
        let sum = rounds.iter().try_fold(Self::default(), |sum, round| {
            let round = round.as_object().ok_or(Malformed)?;
            Ok(sum.plus(Self::anthropic_once(round, write)?))
        })?;
        Ok(whole.most(sum))
    }

    fn anthropic_once(usage: &Map<String, Value>, write: CacheWrite) -> Result<Self, Malformed> {
        let none = Map::new();
        let split = object(usage, "cache_creation", &none)?;
        let plain = number(usage, "input_tokens")?;
        let cached = number(usage, "cache_read_input_tokens")?;
        let (five, hour) = (number(split, "ephemeral_5m_input_tokens")?, number(split, "ephemeral_1h_input_tokens")?);
        let unsaid = number(usage, "cache_creation_input_tokens")?.saturating_sub(five.saturating_add(hour));
        let (short, long) = match write {
            CacheWrite::Long => (five, hour.saturating_add(unsaid)),
            CacheWrite::None | CacheWrite::Short => (five.saturating_add(unsaid), hour),
        };
        let parts = [plain, cached, short, long];
        let read = parts.iter().fold(0_u64, |sum, part| sum.saturating_add(*part));
        Ok(Self { read, cached, short, long, written: number(usage, "output_tokens")? })
    }

    /// A `usage` of OpenAI's: of a chat completion, or of a response.
    pub(super) fn openai(usage: &Map<String, Value>, is_chat: bool) -> Result<Self, Malformed> {
        let none = Map::new();
        let (read, written, details) = if is_chat {
            ("prompt_tokens", "completion_tokens", "prompt_tokens_details")
        } else {
            ("input_tokens", "output_tokens", "input_tokens_details")
        };
        let details = object(usage, details, &none)?;
        let (read, written) = (needed(usage, read)?, needed(usage, written)?);
        let cached = number(details, "cached_tokens")?.min(read);
        let short = number(details, "cache_write_tokens")?.min(read - cached);
        Ok(Self { read, cached, short, long: 0, written })
    }

    fn plus(self, other: Self) -> Self {
        Self {
            read: self.read.saturating_add(other.read),
            cached: self.cached.saturating_add(other.cached),
            short: self.short.saturating_add(other.short),
            long: self.long.saturating_add(other.long),
            written: self.written.saturating_add(other.written),
        }
    }

    /// The larger of two reports of the same generation, of which the later one may leave out what it said before.
    pub(super) fn most(self, other: Self) -> Self {
        let larger = if other.read >= self.read { other } else { self };
        Self { written: self.written.max(other.written), ..larger }
    }

    /// As amounts of the ledger.
    pub(super) fn amounts(&self) -> Amounts {
        let amounts = Amounts::ZERO.with(Kind::TokensIn, self.read).with(Kind::TokensCached, self.cached);
        let amounts = amounts.with(Kind::TokensCacheWrite, self.short).with(Kind::TokensCacheWriteLong, self.long);
        amounts.with(Kind::TokensOut, self.written)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn map(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn anthropic_counts_caches_beside_what_is_read() {
        let usage = map(json!({
            "input_tokens": 100, "output_tokens": 50, "cache_read_input_tokens": 3000, "cache_creation_input_tokens": 2000,
            "cache_creation": {"ephemeral_5m_input_tokens": 1500, "ephemeral_1h_input_tokens": 500}, "service_tier": "standard",
        }));
        let used = Used::anthropic(&usage, CacheWrite::None).unwrap();
        assert_eq!(used, Used { read: 5100, cached: 3000, short: 1500, long: 500, written: 50 });
        let unsaid = map(json!({"input_tokens": 1, "output_tokens": 1, "cache_creation_input_tokens": 10}));
        assert_eq!(Used::anthropic(&unsaid, CacheWrite::Short).unwrap().short, 10);
        assert_eq!(Used::anthropic(&unsaid, CacheWrite::Long).unwrap().long, 10);
        let rounds = map(json!({"input_tokens": 5, "output_tokens": 5, "iterations": [
            {"type": "compaction", "input_tokens": 100, "output_tokens": 20}, {"type": "message", "input_tokens": 5, "output_tokens": 5}
        ]}));
        let used = Used::anthropic(&rounds, CacheWrite::None).unwrap();
        assert_eq!((used.read, used.written), (105, 25));
    }

    #[test]
    fn openai_counts_caches_inside_of_what_is_read() {
        let chat =
            map(json!({"prompt_tokens": 100, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 60}}));
        assert_eq!(Used::openai(&chat, true), Ok(Used { read: 100, cached: 60, short: 0, long: 0, written: 7 }));
        let details = json!({"cached_tokens": 60, "cache_write_tokens": 900});
        let response = map(json!({"input_tokens": 100, "output_tokens": 7, "input_tokens_details": details}));
        assert_eq!(Used::openai(&response, false), Ok(Used { read: 100, cached: 60, short: 40, long: 0, written: 7 }));
        assert_eq!(Used::openai(&response, true), Err(Malformed));
    }

    #[test]
    fn what_is_no_number_is_no_report() {
        for wrong in [json!(-1), json!(1.5), json!("7"), json!([1]), json!(1e30)] {
            assert_eq!(
                Used::anthropic(&map(json!({"input_tokens": wrong})), CacheWrite::None),
                Err(Malformed),
                "{wrong}"
            );
            let chat = map(json!({"prompt_tokens": wrong, "completion_tokens": 1}));
            assert_eq!(Used::openai(&chat, true), Err(Malformed), "{wrong}");
        }
        let largest = map(json!({"input_tokens": u64::MAX, "cache_read_input_tokens": u64::MAX, "output_tokens": 1}));
        assert_eq!(Used::anthropic(&largest, CacheWrite::None).unwrap().read, u64::MAX);
    }
}
