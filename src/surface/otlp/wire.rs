//! The OTLP/HTTP JSON envelope: logs and metrics as records with attributes.
//!
//! Unknown fields are passed over, because the protocol demands it of every receiver; a known field of another type, or an
//! attribute that stands twice, is a fault. Numbers of 64 bits stand as decimal text, or as JSON numbers, which clients send too.

use serde_json::{Map, Value};

use super::{ATTRIBUTES, RECORDS, TEXT_BYTES};

/// Aggregation over time that says what came since the last report.
const DELTA: u64 = 1;

/// One log record, or one point of a metric.
pub(crate) struct Record<'v> {
    /// The metric's name; empty for a log.
    pub metric: &'v str,
    /// What was measured, as the text of a decimal number; empty for a log.
    pub value: String,
    /// When, nanoseconds since 1970, by the client's clock; 0 when it does not say.
    pub time: u64,
    /// When the span of a point began, likewise.
    pub start: u64,
    /// The text of the record's body.
    pub body: Option<&'v str>,
    attributes: &'v [Value],
}

/// What a body holds.
pub(crate) struct Walked<'v> {
    /// Records in order.
    pub records: Vec<Record<'v>>,
    /// How many were not taken.
    pub rejected: u64,
    /// Why the first of them was not.
    pub why: Option<&'static str>,
}

impl Walked<'_> {
    pub fn reject(&mut self, why: &'static str) {
        self.rejected = self.rejected.saturating_add(1);
        self.why = self.why.or(Some(why));
    }
}

impl<'v> Record<'v> {
    /// The value of the attribute `key`.
    ///
    /// # Errors
    /// It stands twice, or the attributes have the wrong form.
    fn value(&self, key: &str) -> Result<Option<&'v Map<String, Value>>, &'static str> {
        let mut found = None;
        for attribute in self.attributes {
            let named = attribute.get("key").and_then(Value::as_str).ok_or("an attribute has no key")?;
            if named == key {
                let value = attribute.get("value").and_then(Value::as_object).ok_or("an attribute has no value")?;
                if found.replace(value).is_some() {
                    return Err("an attribute stands twice");
                }
            }
        }
        Ok(found)
    }

    /// A text.
    pub fn text(&self, key: &str) -> Result<Option<&'v str>, &'static str> {
        let Some(value) = self.value(key)? else { return Ok(None) };
        let text = value.get("stringValue").and_then(Value::as_str).ok_or("an attribute that is a text is none")?;
        if text.len() > TEXT_BYTES {
            return Err("an attribute's text is too long");
        }
        Ok(Some(text))
    }

    /// A whole number, as a number or as a text of digits.
    pub fn number(&self, key: &str) -> Result<Option<u64>, &'static str> {
        let Some(value) = self.value(key)? else { return Ok(None) };
        let number = value.get("intValue").or_else(|| value.get("stringValue")).and_then(whole);
        number.map(Some).ok_or("an attribute that is a whole number is none")
    }

    /// A number as the text of a decimal.
    pub fn decimal(&self, key: &str) -> Result<Option<String>, &'static str> {
        let Some(value) = self.value(key)? else { return Ok(None) };
        let number = value.get("doubleValue").or_else(|| value.get("intValue")).or_else(|| value.get("stringValue"));
        number.and_then(decimal).map(Some).ok_or("an attribute that is a number is none")
    }
}

/// The log records of a request's body.
///
/// # Errors
/// What has not the form of OTLP; nothing of the body counts then.
pub(crate) fn logs(body: &Value) -> Result<Walked<'_>, &'static str> {
    let mut walked = Walked { records: Vec::new(), rejected: 0, why: None };
    for resource in items(body, "resourceLogs")? {
        for scope in items(resource, "scopeLogs")? {
            for record in items(scope, "logRecords")? {
                let text = record.get("body").and_then(|body| body.get("stringValue")).and_then(Value::as_str);
                let observed = time(record, "observedTimeUnixNano")?;
                let (time, attributes) = (time(record, "timeUnixNano")?.max(observed), items(record, "attributes")?);
                let (metric, value) = ("", String::new());
                push(&mut walked, Record { metric, value, time, start: 0, body: text, attributes });
            }
        }
    }
    Ok(walked)
}

/// The points of the sums of a request's body whose names are in `wanted`; everything else is passed over.
///
/// # Errors
/// What has not the form of OTLP; nothing of the body counts then.
pub(crate) fn sums<'v>(body: &'v Value, wanted: &[&str]) -> Result<Walked<'v>, &'static str> {
    let mut walked = Walked { records: Vec::new(), rejected: 0, why: None };
    for resource in items(body, "resourceMetrics")? {
        for scope in items(resource, "scopeMetrics")? {
            for metric in items(scope, "metrics")? {
                let name = metric.get("name").and_then(Value::as_str).ok_or("a metric has no name")?;
                if wanted.contains(&name) {
                    points(metric, name, &mut walked)?;
                }
            }
        }
    }
    Ok(walked)
}

fn points<'v>(metric: &'v Value, name: &'v str, walked: &mut Walked<'v>) -> Result<(), &'static str> {
    let Some(sum) = metric.get("sum") else {
        walked.reject("a metric of costs or tokens is no sum");
        return Ok(());
    };
    let is_delta = sum.get("aggregationTemporality").and_then(Value::as_u64) == Some(DELTA);
    for point in items(sum, "dataPoints")? {
        let value = point.get("asDouble").or_else(|| point.get("asInt")).and_then(decimal);
        let (Some(value), true) = (value, is_delta) else {
            walked.reject("sums are taken as deltas: set OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE=delta");
            continue;
        };
        let (time, start) = (time(point, "timeUnixNano")?, time(point, "startTimeUnixNano")?);
        let attributes = items(point, "attributes")?;
        push(walked, Record { metric: name, value, time, start, body: None, attributes });
    }
    Ok(())
}

fn push<'v>(walked: &mut Walked<'v>, record: Record<'v>) {
    if walked.records.len() >= RECORDS {
        walked.reject("there are more records than one request may have");
    } else if record.attributes.len() > ATTRIBUTES {
        walked.reject("a record has too many attributes");
    } else {
        walked.records.push(record);
    }
}

/// The elements of a repeated field: none where it is absent or `null`, as the mapping to JSON has it.
fn items<'v>(of: &'v Value, key: &str) -> Result<&'v [Value], &'static str> {
    let of = of.as_object().ok_or("an object of OTLP is none")?;
    match of.get(key) {
        None | Some(Value::Null) => Ok(&[]),
        Some(Value::Array(items)) => Ok(items),
        Some(_) => Err("a list of OTLP is none"),
    }
}

fn time(of: &Value, key: &str) -> Result<u64, &'static str> {
    match of.get(key) {
        None | Some(Value::Null) => Ok(0),
        Some(value) => whole(value).ok_or("a time is no whole number of nanoseconds"),
    }
}

/// A whole number of at most 64 bits.
fn whole(value: &Value) -> Option<u64> {
    match value {
        Value::Number(number) => number.as_u64(),
        Value::String(text) if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse().ok(),
        _ => None,
    }
}

/// The text of a number.
fn decimal(value: &Value) -> Option<String> {
    match value {
        Value::Number(number) => Some(number.to_string()),
        Value::String(text) if text.len() <= 32 => Some(text.clone()),
        _ => None,
    }
}
