//! `[[model]]`: what a generation costs at most, and what its tokens are worth.

use std::collections::BTreeMap;

use super::super::reader::Fields;
use super::super::{Model, Price};
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
    let need = |key: &str| {
        if !fields.has(key) {
            fields.missing(key);
        }
        fields.whole(key, 0..=DEAREST)
    };
    let (tokens_in, tokens_out) = (need("tokens_in"), need("tokens_out"));
    let tokens_cached = fields.whole("tokens_cached", 0..=DEAREST);
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
    let tokens_in = tokens_in?;
    // A cache that has no price of its own costs what reading costs.
    let tokens_cached = tokens_cached.unwrap_or(tokens_in);
    Some(Price { tokens_in, tokens_cached, tokens_out: tokens_out?, source: source?.value, as_of: as_of?.value })
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
