//! Flags, numbers and JSON values of a table, exactly as written.

use toml::Spanned;
use toml::de::DeValue;

use super::{At, Fields, decimal, shown};
use crate::model::Millis;

impl Fields<'_, '_> {
    /// True or false, if present.
    pub(in crate::policy) fn flag(&self, key: &str) -> Option<bool> {
        let value = self.opt(key)?;
        match value.get_ref() {
            DeValue::Boolean(flag) => Some(*flag),
            _ => {
                self.wrong(key, value, "true or false");
                None
            }
        }
    }

    /// An integer within `range`, if present.
    pub(in crate::policy) fn whole(&self, key: &str, range: std::ops::RangeInclusive<u64>) -> Option<u64> {
        let value = self.opt(key)?;
        let DeValue::Integer(integer) = value.get_ref() else {
            self.wrong(key, value, "an integer");
            return None;
        };
        let number = u64::from_str_radix(integer.as_str(), integer.radix()).ok().filter(|n| range.contains(n));
        if number.is_none() {
            let (low, high) = (range.start(), range.end());
            let found = shown(integer.as_str());
            self.fault(self.at(value), format!("`{key}` in {} is {low} to {high}, not {found}", self.what));
        }
        number
    }

    /// A span of time such as `90s`, `15m`, `1h` or `7d`, within `range` milliseconds, if present.
    pub(in crate::policy) fn span(&self, key: &str, range: std::ops::RangeInclusive<u64>) -> Option<Millis> {
        let text = self.text(key)?;
        let units = [("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
        let millis = units.into_iter().find_map(|(unit, millis)| {
            let number = text.value.strip_suffix(unit)?;
            let plain = number.bytes().all(|byte| byte.is_ascii_digit()) && !number.starts_with('0');
            number.parse::<u64>().ok().filter(|_| plain)?.checked_mul(millis)
        });
        let millis = millis.filter(|millis| range.contains(millis));
        if millis.is_none() {
            let wanted = "a span of one second to 366 days, such as `90s`, `15m`, `1h` or `7d`";
            self.fault(text.line, format!("`{key}` in {} is {wanted}, not `{}`", self.what, shown(&text.value)));
        }
        millis.map(Millis)
    }

    /// An integer or float, if present.
    pub(in crate::policy) fn number(&self, key: &str) -> Option<At<f64>> {
        let value = self.opt(key)?;
        let parsed = match value.get_ref() {
            DeValue::Integer(n) => i64::from_str_radix(n.as_str(), n.radix()).ok().map(|n| n as f64),
            DeValue::Float(f) => f.as_str().parse().ok(),
            _ => None,
        };
        match parsed.filter(|n: &f64| n.is_finite()) {
            Some(number) => Some(At { value: number, line: self.at(value) }),
            None => {
                self.wrong(key, value, "a finite number");
                None
            }
        }
    }

    /// A decimal of 0 to `max` hundredths with at most two places, exactly as written, in hundredths.
    pub(in crate::policy) fn hundredths(&self, key: &str, max: u32) -> Option<u32> {
        let value = self.opt(key)?;
        let text = match value.get_ref() {
            DeValue::Integer(n) if n.radix() == 10 => n.as_str(),
            DeValue::Float(f) => f.as_str(),
            _ => {
                self.wrong(key, value, "a number");
                return None;
            }
        };
        let number = decimal(text).filter(|n| *n <= max);
        if number.is_none() {
            let (whole, rest) = (max / 100, max % 100);
            let wanted = format!("0.00 to {whole}.{rest:02} with at most two decimals");
            self.fault(self.at(value), format!("`{key}` in {} is {wanted}, not {}", self.what, shown(text)));
        }
        number
    }

    /// The value of `key` as JSON, if present.
    pub(in crate::policy) fn json(&self, key: &str) -> Option<At<serde_json::Value>> {
        let value = self.opt(key)?;
        let json = self.to_json(key, value)?;
        Some(At { value: json, line: self.at(value) })
    }

    fn to_json(&self, key: &str, value: &Spanned<DeValue<'_>>) -> Option<serde_json::Value> {
        use serde_json::Value;
        let json = match value.get_ref() {
            DeValue::String(text) => Some(Value::String(text.to_string())),
            DeValue::Boolean(flag) => Some(Value::Bool(*flag)),
            DeValue::Integer(n) => i64::from_str_radix(n.as_str(), n.radix()).ok().map(Value::from),
            DeValue::Float(f) => f.as_str().parse().ok().and_then(serde_json::Number::from_f64).map(Value::Number),
            DeValue::Array(items) => {
                return items.iter().map(|item| self.to_json(key, item)).collect::<Option<_>>().map(Value::Array);
            }
            DeValue::Table(table) => {
                let entries = table
                    .iter()
                    .map(|(name, item)| self.to_json(key, item).map(|json| (name.get_ref().to_string(), json)));
                return entries.collect::<Option<_>>().map(Value::Object);
            }
            DeValue::Datetime(_) => None,
        };
        if json.is_none() {
            self.wrong(key, value, "something that JSON can say");
        }
        json
    }
}
