//! A commit as it was asked for, line by line: what it adds, and that it takes nothing away.

use serde_json::Value;

use super::repo::{is_commit, is_file};
use super::request::Refused;
use crate::model::parse_json;

/// Bytes of one commit: the files in it that are not sent as large files.
pub const COMMIT_BYTES: usize = 64 << 20;
/// Operations in one commit.
const OPERATIONS: usize = 10_000;

const INSTEAD: &str = "send a commit as huggingface_hub does";

/// What a commit does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Files in it.
    pub files: u64,
    /// Of them, those whose bytes were sent before, as large files.
    pub large: u64,
}

/// Reads the lines of a commit.
///
/// # Errors
/// [`Refused`] for anything but a header and files that are added.
pub fn read(body: &[u8]) -> Result<Summary, Refused> {
    let mut summary = Summary::default();
    let mut lines = body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let first = lines.next().ok_or_else(|| Refused::new("the commit is empty", INSTEAD))?;
    let (key, header) = operation(first)?;
    let sound = ["summary", "description"].iter().all(|name| header.get(*name).is_none_or(Value::is_string));
    let parent = header.get("parentCommit").is_none_or(|parent| parent.as_str().is_some_and(is_commit));
    let known = only(&header, &["summary", "description", "parentCommit"]);
    if key != "header" || !sound || !parent || !known {
        return Err(Refused::new("the commit does not begin with its header", INSTEAD));
    }
    for line in lines {
        let (key, value) = operation(line)?;
        let path = value.get("path").and_then(Value::as_str).is_some_and(is_file);
        let sound = match key.as_str() {
            "file" => {
                let base64 = value.get("encoding").and_then(Value::as_str) == Some("base64");
                let content = value.get("content").is_some_and(Value::is_string);
                base64 && content && only(&value, &["path", "content", "encoding"])
            }
            "lfsFile" => {
                let algo = value.get("algo").and_then(Value::as_str) == Some("sha256");
                summary.large += 1;
                algo && value.get("oid").and_then(Value::as_str).is_some_and(is_sha256)
                    && only(&value, &["path", "algo", "oid", "size"])
            }
            "deletedFile" | "deletedFolder" => {
                let what = "a commit through the gate adds files and deletes none";
                return Err(Refused::new(what, "leave deletions to a person"));
            }
            _ => false,
        };
        summary.files += 1;
        if !path || !sound || summary.files > OPERATIONS as u64 {
            return Err(Refused::new("the commit has an operation that the gate does not know", INSTEAD));
        }
    }
    Ok(summary)
}

/// True for 64 lower-case hexadecimal digits.
pub(super) fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

fn only(value: &Value, names: &[&str]) -> bool {
    value.as_object().is_some_and(|map| map.keys().all(|key| names.contains(&key.as_str())))
}

/// One line: a map of `key` and `value`.
fn operation(line: &[u8]) -> Result<(String, Value), Refused> {
    let odd = || Refused::new("a line of the commit cannot be read", INSTEAD);
    // One file may be as large as a commit; everything else about the line is held to the common bounds.
    let mut value = parse_line(line).ok_or_else(odd)?;
    let map = value.as_object_mut().filter(|map| map.len() == 2).ok_or_else(odd)?;
    let key = map.get("key").and_then(Value::as_str).ok_or_else(odd)?.to_owned();
    let value = map.remove("value").filter(Value::is_object).ok_or_else(odd)?;
    Ok((key, value))
}

/// Strict JSON in which one long text, a file's content in base64, may be longer than a message may be: it is set aside
/// before the rest is parsed.
fn parse_line(line: &[u8]) -> Option<Value> {
    const MARK: &[u8] = b"\"content\"";
    if line.len() <= crate::model::Limits::JSON_BYTES {
        return parse_json(line).ok();
    }
    let mark = line.windows(MARK.len()).position(|window| window == MARK)? + MARK.len();
    let open = mark + line.get(mark..)?.iter().position(|byte| *byte == b'"')?;
    if !line.get(mark..open)?.iter().all(|byte| matches!(byte, b' ' | b':')) {
        return None;
    }
    let close = open + 1 + line.get(open + 1..)?.iter().position(|byte| *byte == b'"')?;
    let base64 = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=');
    if !line.get(open + 1..close)?.iter().all(base64) {
        return None;
    }
    let rest = [line.get(..=open)?, line.get(close..)?].concat();
    parse_json(&rest).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn commit(lines: &[Value]) -> Result<Summary, Refused> {
        let text: Vec<String> = lines.iter().map(ToString::to_string).collect();
        read((text.join("\n") + "\n").as_bytes())
    }

    fn header() -> Value {
        json!({"key": "header", "value": {"summary": "s", "description": ""}})
    }

    fn file(path: &str, content: &str) -> Value {
        json!({"key": "file", "value": {"path": path, "content": content, "encoding": "base64"}})
    }

    #[test]
    fn a_commit_adds_files_and_nothing_else() {
        let large =
            json!({"key": "lfsFile", "value": {"path": "w", "algo": "sha256", "oid": "a".repeat(64), "size": 3}});
        assert_eq!(commit(&[header(), file("a/b", "YQ=="), large]), Ok(Summary { files: 2, large: 1 }));
        for bad in [
            json!({"key": "deletedFile", "value": {"path": "a"}}),
            json!({"key": "deletedFolder", "value": {"path": "a"}}),
            json!({"key": "copyFile", "value": {"path": "a"}}),
            json!({"key": "file", "value": {"path": "../a", "content": "", "encoding": "base64"}}),
            json!({"key": "file", "value": {"path": "a", "content": "", "encoding": "utf-8"}}),
            json!({"key": "lfsFile", "value": {"path": "w", "algo": "md5", "oid": "a".repeat(64)}}),
            json!({"key": "file", "value": {"path": "a"}, "more": 1}),
            json!([]),
        ] {
            assert!(commit(&[header(), bad.clone()]).is_err(), "{bad}");
        }
        assert!(commit(&[file("a", "")]).is_err() && commit(&[]).is_err());
        assert!(commit(&[json!({"key": "header", "value": {"summary": "s", "parentCommit": "main"}})]).is_err());
    }

    #[test]
    fn a_long_content_is_no_way_around_strict_parsing() {
        let long = "QUJD".repeat(3 << 20);
        assert_eq!(commit(&[header(), file("a", &long)]), Ok(Summary { files: 1, large: 0 }));
        let twice =
            format!(r#"{{"key":"file","value":{{"path":"a","path":"b","encoding":"base64","content":"{long}"}}}}"#);
        assert!(read(format!("{}\n{twice}", header()).as_bytes()).is_err());
        let odd = format!(r#"{{"key":"file","value":{{"path":"a","encoding":"base64","content":"{long}\"}}}}"#);
        assert!(read(format!("{}\n{odd}", header()).as_bytes()).is_err());
    }
}
