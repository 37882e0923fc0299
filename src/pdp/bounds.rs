//! Bounds on arguments, wherever they come from: surfaces parse within them, and a call that was made
//! by code of this process is held to the same.
//!
//! Without recursion, so that nothing that a caller can build exhausts the stack here; what passes
//! is shallow enough for everything after, which does recurse.

use serde_json::{Map, Value};

use crate::model::Limits;

/// Whether `args` are at most [`Limits::JSON_DEPTH`] deep, [`Limits::JSON_NODES`] values and keys and
/// [`Limits::JSON_BYTES`] of text.
#[must_use]
pub fn within_bounds(args: &Map<String, Value>) -> bool {
    let (mut nodes, mut bytes) = (args.len(), keys(args));
    let mut stack: Vec<(&Value, usize)> = args.values().map(|value| (value, 1)).collect();
    while let Some((value, depth)) = stack.pop() {
        nodes += 1;
        match value {
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
            Value::String(text) => bytes += text.len(),
            Value::Array(items) => stack.extend(items.iter().map(|item| (item, depth + 1))),
            Value::Object(map) => {
                nodes += map.len();
                bytes += keys(map);
                stack.extend(map.values().map(|item| (item, depth + 1)));
            }
        }
        if depth > Limits::JSON_DEPTH || nodes > Limits::JSON_NODES || bytes > Limits::JSON_BYTES {
            return false;
        }
    }
    true
}

fn keys(map: &Map<String, Value>) -> usize {
    map.keys().map(String::len).sum()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn args(value: Value) -> Map<String, Value> {
        Map::from_iter([("a".to_owned(), value)])
    }

    fn nested(depth: usize) -> Value {
        (1..depth).fold(json!(1), |inner, _| Value::Array(vec![inner]))
    }

    #[test]
    fn depth_elements_and_bytes_are_bounded_at_the_edge() {
        assert!(within_bounds(&Map::new()));
        assert!(within_bounds(&args(nested(Limits::JSON_DEPTH))));
        assert!(!within_bounds(&args(nested(Limits::JSON_DEPTH + 1))));
        assert!(!within_bounds(&args(nested(2_000))));
        assert!(within_bounds(&args(Value::String("x".repeat(Limits::JSON_BYTES - 1)))));
        assert!(!within_bounds(&args(Value::String("x".repeat(Limits::JSON_BYTES)))));
        assert!(!within_bounds(&args(json!({"x".repeat(Limits::JSON_BYTES): 1}))));
        assert!(within_bounds(&args(Value::Array(vec![json!(0); Limits::JSON_NODES - 2]))));
        assert!(!within_bounds(&args(Value::Array(vec![json!(0); Limits::JSON_NODES]))));
    }
}
