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
    /// What everything costs in a request that reads more than so many tokens, where that is dearer.
    pub long: Option<Long>,
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

/// Prices of a request that reads more than `above` tokens, its first ones included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Long {
    /// Tokens read up to which the other prices hold.
    pub above: u64,
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
}

/// One row of prices.
#[derive(Clone, Copy)]
struct Rates {
    read: u64,
    cached: u64,
    short: u64,
    long: u64,
    written: u64,
}

impl Rates {
    const fn of(price: &Price) -> Self {
        let (short, long) = (price.tokens_cache_write, price.tokens_cache_write_1h);
        Self { read: price.tokens_in, cached: price.tokens_cached, short, long, written: price.tokens_out }
    }

    const fn of_long(price: &Long) -> Self {
        let (short, long) = (price.tokens_cache_write, price.tokens_cache_write_1h);
        Self { read: price.tokens_in, cached: price.tokens_cached, short, long, written: price.tokens_out }
    }

    /// The dearest way to read when what is read may be written to a cache as `write` says.
    fn dearest(&self, write: CacheWrite) -> u64 {
        let plain = self.read.max(self.cached);
        match write {
            CacheWrite::None => plain,
            CacheWrite::Short => plain.max(self.short),
            CacheWrite::Long => plain.max(self.short).max(self.long),
        }
    }
}

/// The sum of tokens at their prices, in micro-USD. A started micro-USD counts; an unthinkable amount is the largest.
fn sum<const N: usize>(parts: [(u64, u64); N]) -> u64 {
    let cost = |(tokens, price): &(u64, u64)| u128::from(*tokens) * u128::from(*price);
    let sum = parts.iter().fold(0_u128, |sum, part| sum.saturating_add(cost(part)));
    u64::try_from(sum.div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

impl Price {
    /// What tokens cost, in micro-USD.
    #[must_use]
    pub fn of(&self, tokens: &Amounts) -> u64 {
        let read = tokens.of(Kind::TokensIn);
        let rates = self.long_rates(read).unwrap_or(Rates::of(self));
        // What was read from a cache or written to one is a part of what was read; the dearest part counts first.
        let long = tokens.of(Kind::TokensCacheWriteLong).min(read);
        let short = tokens.of(Kind::TokensCacheWrite).min(read - long);
        let cached = tokens.of(Kind::TokensCached).min(read - long - short);
        let plain = read - cached - short - long;
        let written = tokens.of(Kind::TokensOut);
        sum([
            (plain, rates.read),
            (cached, rates.cached),
            (short, rates.short),
            (long, rates.long),
            (written, rates.written),
        ])
    }

    /// The most that `tokens` can cost, read and written in whatever shares.
    #[must_use]
    pub fn at_most(&self, tokens: u64) -> u64 {
        let rates = self.possible(tokens);
        let dearest = rates.map(|rates| rates.dearest(CacheWrite::Long).max(rates.written)).max();
        sum([(tokens, dearest.unwrap_or(0))])
    }

    /// The most that `read` tokens in and `written` tokens out can cost, when what is read may be written to a
    /// cache as `write` says.
    #[must_use]
    pub fn apart_at_most(&self, read: u64, written: u64, write: CacheWrite) -> u64 {
        let rates = self.possible(read);
        rates.map(|rates| sum([(read, rates.dearest(write)), (written, rates.written)])).max().unwrap_or(0)
    }

    /// The most that a token written costs in a request that reads `read` tokens at most.
    #[must_use]
    pub fn written_at_most(&self, read: u64) -> u64 {
        self.possible(read).map(|rates| rates.written).max().unwrap_or(0)
    }

    /// The rows of prices that may hold for a request that reads `read` tokens at most.
    fn possible(&self, read: u64) -> impl Iterator<Item = Rates> {
        std::iter::once(Rates::of(self)).chain(self.long_rates(read))
    }

    fn long_rates(&self, read: u64) -> Option<Rates> {
        self.long.as_ref().filter(|long| read > long.above).map(Rates::of_long)
    }
}
