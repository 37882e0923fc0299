//! Damaged input for the readers of the core: JSON from anybody, and policies. No panic, no second opinion.

#[path = "support/mutation.rs"]
mod mutation;

use mutation::Mutations;
use weir::model::{canonical, parse_json};
use weir::policy::{check, parse};

/// Damaged texts of JSON.
const TEXTS: usize = 20_000;
/// Damaged policies; reading one takes a good deal longer.
const POLICIES: usize = 2_000;

#[test]
fn damaged_json_is_refused_or_means_one_thing() {
    let samples = [
        r#"{"action": "tool.call", "resource": {"name": "search"}, "args": {"query": "é😀", "limit": 3, "deep": [[[]]]}}"#,
        r#"{"value": {"$": ["int", "-123456789012345678901234567890"]}, "more": [1.5, -0.0, 1e308, 5e-324, true, null]}"#,
        r#"{"\u0061": "\ud83d\ude00\n\\", "b": {"c": {"d": "𝄞"}}}"#,
        "[9007199254740993, 18446744073709551615, -9223372036854775808, 0.1]",
    ];
    let samples = samples.map(|text| text.as_bytes().to_vec()).to_vec();
    let mut read = 0;
    for bytes in Mutations::new(7, samples).take(TEXTS) {
        let Ok(value) = parse_json(&bytes) else { continue };
        read += 1;
        // What was read is written, read again and the same; its canonical form is that of what it says.
        let again = parse_json(value.to_string().as_bytes()).unwrap();
        assert_eq!(again, value);
        assert_eq!(canonical(&again), canonical(&value));
        parse_json(canonical(&value).as_bytes()).unwrap();
    }
    assert!(read > TEXTS / 50, "damage leaves enough to be read: {read}");
}

#[test]
fn damaged_policies_are_refused_with_faults_or_read() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/policies/derived");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let samples: Vec<Vec<u8>> = files
        .filter(|path| path.extension().is_some_and(|end| end == "toml"))
        .map(|p| std::fs::read(p).unwrap())
        .collect();
    for bytes in Mutations::new(8, samples).take(POLICIES) {
        match parse(&bytes, "p") {
            Ok(policy) => drop(check(&policy)),
            Err(faults) => assert!(!faults.0.is_empty()),
        }
    }
}
