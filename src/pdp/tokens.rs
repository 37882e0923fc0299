//! How many tokens a generation can use at most, and what they can cost: what is held for it.
//!
//! A call says it of all its tokens together (`max_tokens`), or of those that it reads and writes apart
//! (`max_input_tokens`, `max_output_tokens`), which holds less where writing is dearer than reading.

use serde_json::Value;

use crate::model::{Call, Kind};
use crate::policy::{CacheWrite, Policy, Price};

/// The most tokens of a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TokenBound {
    /// Read and written together.
    pub all: u64,
    /// Read and written apart, and whether what is read is written to a cache.
    apart: Option<(u64, u64, CacheWrite)>,
}

impl TokenBound {
    /// The bound of a call that has none.
    pub const UNKNOWN: Self = Self { all: u64::MAX, apart: None };

    /// The most of each sort of tokens.
    pub fn sorts(&self) -> [(Kind, u64); 5] {
        let (read, written, write) = self.apart.unwrap_or((self.all, self.all, CacheWrite::Long));
        let cached = if write == CacheWrite::None { 0 } else { read };
        [
            (Kind::TokensIn, read),
            (Kind::TokensOut, written),
            (Kind::TokensCached, read),
            (Kind::TokensCacheWrite, cached),
            (Kind::TokensCacheWriteLong, if write == CacheWrite::Long { read } else { 0 }),
        ]
    }

    /// The most that they cost, in micro-USD.
    pub fn cost(&self, price: &Price) -> u64 {
        match self.apart {
            Some((read, written, write)) => price.apart_at_most(read, written, write),
            None => price.at_most(self.all),
        }
    }
}

/// The bound that the call states, or that the policy states of the model; `None` when neither does, or when what the
/// call states is no bound.
pub(super) fn token_bound(policy: &Policy, call: &Call) -> Option<TokenBound> {
    let stated = |key: &str| call.args.get(key);
    let (read, written) = (stated("max_input_tokens"), stated("max_output_tokens"));
    if read.is_none() && written.is_none() {
        let all = match stated("max_tokens") {
            Some(stated) => stated.as_u64()?,
            None => policy.models.get(call.resource.name.as_str()).and_then(|model| model.max_tokens)?,
        };
        return Some(TokenBound { all, apart: None });
    }
    let (read, written) = (read?.as_u64()?, written?.as_u64()?);
    let write = match stated("cache_write") {
        None => CacheWrite::None,
        Some(Value::String(word)) => CacheWrite::WORDS.into_iter().find(|(_, known)| known == word)?.0,
        Some(_) => return None,
    };
    Some(TokenBound { all: read.saturating_add(written), apart: Some((read, written, write)) })
}
