//! What the tokens of a model cost: integers, micro-USD for a million tokens, rounded up once per call.

use crate::model::{Amounts, Kind};

/// Prices of one model in micro-USD per million tokens, with where and when they were read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Price {
    /// Tokens read, those of a cache aside.
    pub tokens_in: u64,
    /// Tokens read from a cache.
    pub tokens_cached: u64,
    /// Tokens read and written to a cache for five minutes.
    pub tokens_cache_write: u64,
    /// Tokens read and written to a cache for an hour.
    pub tokens_cache_write_1h: u64,
    /// Tokens written.
    pub tokens_out: u64,
    /// Where the prices stand.
    pub source: String,
    /// The day on which they stood there, `2026-11-01`.
    pub as_of: String,
}

/// For how long a request asks that what it reads be cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheWrite {
    /// Not at all.
    None,
    /// For five minutes.
    Short,
    /// For an hour, or nobody knows.
    Long,
}

impl CacheWrite {
    /// Every word of a call's argument `cache_write`.
    pub const WORDS: [(Self, &'static str); 3] = [(Self::None, "none"), (Self::Short, "5m"), (Self::Long, "1h")];

    /// The word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Short => "5m",
            Self::Long => "1h",
        }
    }
}

impl Price {
    /// What tokens cost, in micro-USD. A started micro-USD counts; an unthinkable amount is the largest.
    #[must_use]
    pub fn of(&self, tokens: &Amounts) -> u64 {
        let read = tokens.of(Kind::TokensIn);
        // What was read from a cache or written to one is a part of what was read; the dearest part counts first.
        let long = tokens.of(Kind::TokensCacheWriteLong).min(read);
        let short = tokens.of(Kind::TokensCacheWrite).min(read - long);
        let cached = tokens.of(Kind::TokensCached).min(read - long - short);
        let parts = [
            (read - cached - short - long, self.tokens_in),
            (cached, self.tokens_cached),
            (short, self.tokens_cache_write),
            (long, self.tokens_cache_write_1h),
            (tokens.of(Kind::TokensOut), self.tokens_out),
        ];
        let sum = parts
            .iter()
            .fold(0_u128, |sum, (tokens, price)| sum.saturating_add(u128::from(*tokens) * u128::from(*price)));
        u64::try_from(sum.div_ceil(1_000_000)).unwrap_or(u64::MAX)
    }

    /// The most that `tokens` can cost, read and written in whatever shares.
    #[must_use]
    pub fn at_most(&self, tokens: u64) -> u64 {
        self.apart_at_most(tokens, 0, CacheWrite::Long).max(self.apart_at_most(0, tokens, CacheWrite::None))
    }

    /// The most that `read` tokens in and `written` tokens out can cost, when what is read may be written to a
    /// cache as `write` says.
    #[must_use]
    pub fn apart_at_most(&self, read: u64, written: u64, write: CacheWrite) -> u64 {
        let plain = self.tokens_in.max(self.tokens_cached);
        let dearest = match write {
            CacheWrite::None => plain,
            CacheWrite::Short => plain.max(self.tokens_cache_write),
            CacheWrite::Long => plain.max(self.tokens_cache_write).max(self.tokens_cache_write_1h),
        };
        let cost = |tokens: u64, price: u64| u128::from(tokens) * u128::from(price);
        let sum = cost(read, dearest).saturating_add(cost(written, self.tokens_out));
        u64::try_from(sum.div_ceil(1_000_000)).unwrap_or(u64::MAX)
    }
}
