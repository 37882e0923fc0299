//! `[[model]]`: what a generation costs at most, and what its tokens are worth.

use std::collections::BTreeMap;

use super::super::reader::Fields;
use super::super::{Long, Model, Price};
use super::{REASON_BYTES, Unique};
use crate::model::Limits;

/// The highest price, micro-USD per million tokens: a dollar for each token.
const DEAREST: u64 = 1_000_000_000_000;

pub(super) fn read(root: &Fields<'_, '_>) -> BTreeMap<String, Model> {
    let tables = root.tables("model", "[[model]]");
    if tables.len() > Limits::TOOLS {
        root.fault(1, format!("{} models are over the limit of {}", tables.len(), Limits::TOOLS));
    }
    let mut unique = Unique::new("the model");
    let mut models = BTreeMap::new();
    for fields in tables {
        let name = fields.need_name("name");
        let max_tokens = fields.whole("max_tokens", 1..=i64::MAX as u64);
        let price = fields.table("price", "[model.price]").and_then(|price| read_price(&price));
        fields.end();
        if let Some(name) = name {
            unique.check(&fields, name.value.as_str(), name.line);
            let name = name.value.as_str().to_owned();
            models.insert(name.clone(), Model { name, max_tokens, price, line: fields.line });
        }
    }
    models
}

fn read_price(fields: &Fields<'_, '_>) -> Option<Price> {
    let rates = read_rates(fields);
    let long = fields.table("long", "[model.price.long]").map(|long| read_long(&long));
    for key in ["source", "as_of"] {
        if !fields.has(key) {
            fields.missing(key);
        }
    }
    let source = fields.line_text("source", REASON_BYTES);
    let as_of = fields.line_text("as_of", 10);
    if let Some(day) = as_of.as_ref().filter(|day| !is_day(&day.value)) {
        fields.fault(day.line, "`as_of` is the day on which the price was read, as in \"2026-11-01\"");
    }
    fields.end();
    let [tokens_in, tokens_cached, tokens_cache_write, tokens_cache_write_1h, tokens_out] = rates?;
    let (source, as_of) = (source?.value, as_of?.value);
    let long = match long {
        None => None,
        Some(long) => Some(long?),
    };
    Some(Price { tokens_in, tokens_cached, tokens_cache_write, tokens_cache_write_1h, tokens_out, long, source, as_of })
}

/// Prices of requests that read much.
fn read_long(fields: &Fields<'_, '_>) -> Option<Long> {
    if !fields.has("above") {
        fields.missing("above");
    }
    let above = fields.whole("above", 1..=i64::MAX as u64);
    let rates = read_rates(fields);
    fields.end();
    let [tokens_in, tokens_cached, tokens_cache_write, tokens_cache_write_1h, tokens_out] = rates?;
    Some(Long { above: above?, tokens_in, tokens_cached, tokens_cache_write, tokens_cache_write_1h, tokens_out })
}

/// What is read, read from a cache, written to one for five minutes and for an hour, and written.
fn read_rates(fields: &Fields<'_, '_>) -> Option<[u64; 5]> {
    let need = |key: &str| {
        if !fields.has(key) {
            fields.missing(key);
        }
        fields.whole(key, 0..=DEAREST)
    };
    let (read, written) = (need("tokens_in"), need("tokens_out"));
    let cached = fields.whole("tokens_cached", 0..=DEAREST);
    let short = fields.whole("tokens_cache_write", 0..=DEAREST);
    let long = fields.whole("tokens_cache_write_1h", 0..=DEAREST);
    let (read, written) = (read?, written?);
    // A cache that has no price of its own costs what reading costs.
    let cached = cached.unwrap_or(read);
    // Writing to one costs more than reading, and nobody has said how much: the dearest that is known.
    let known = read.max(cached).max(written).max(short.unwrap_or(0)).max(long.unwrap_or(0));
    Some([read, cached, short.or(long).unwrap_or(known), long.unwrap_or(known), written])
}

/// True for a day as `2026-11-01`.
pub(super) fn is_day(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let number = |part: &str, digits: usize, range: std::ops::RangeInclusive<u32>| {
        part.len() == digits
            && part.bytes().all(|byte| byte.is_ascii_digit())
            && part.parse().is_ok_and(|n| range.contains(&n))
    };
    matches!(parts.as_slice(), [year, month, day]
        if number(year, 4, 2000..=9999) && number(month, 2, 1..=12) && number(day, 2, 1..=31))
}
