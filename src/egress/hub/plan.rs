//! The messages about large files: which ones a client wants to send, and the Hub's plan where each goes.
//!
//! Both are read strictly and written anew; what is in a plan and was not asked for is no plan.

use serde_json::Value;

use super::commit::is_sha256;
use super::request::Refused;
use crate::model::parse_json;

/// Files in one message, and parts of one file.
const OBJECTS: usize = 1_000;
const PARTS: usize = 10_000;

/// The files that a client wants to send.
pub(super) fn objects(body: &[u8]) -> Result<Vec<(String, u64)>, Refused> {
    let odd = |what: &str| Refused::new(what, "send large files as huggingface_hub does");
    let value = parse_json(body).map_err(|fault| odd(&format!("the message cannot be read: {fault}")))?;
    if value.get("operation").and_then(Value::as_str) != Some("upload") {
        return Err(odd("large files are fetched by their names, and only sent this way"));
    }
    if value.get("hash_algo").is_some_and(|algo| algo != "sha256") {
        return Err(odd("large files are named by their SHA-256"));
    }
    let rows = value.get("objects").and_then(Value::as_array).filter(|rows| rows.len() <= OBJECTS);
    let row = |row: &Value| {
        let oid = row.get("oid")?.as_str().filter(|oid| is_sha256(oid))?;
        Some((oid.to_owned(), row.get("size")?.as_u64()?))
    };
    rows.and_then(|rows| rows.iter().map(row).collect()).ok_or_else(|| odd("the list of large files cannot be read"))
}

/// Bytes of a part, and where each part goes.
pub(super) type Parts = (u64, Vec<String>);

/// Where one file goes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Object {
    pub oid: String,
    pub size: u64,
    /// Address, and for a file in parts the bytes of a part and where each goes.
    pub upload: Option<(String, Option<Parts>)>,
    /// Where it is told that the file is there.
    pub verify: Option<String>,
}

/// The Hub's plan for the files that were asked for; `None` when it is for others or not to be understood.
pub(super) fn plan(said: &[u8], wanted: &[(String, u64)]) -> Option<Vec<Object>> {
    let value = parse_json(said).ok()?;
    if value.get("transfer").and_then(Value::as_str).is_some_and(|kind| !matches!(kind, "basic" | "multipart")) {
        return None;
    }
    let one = |row: &Value| {
        let oid = row.get("oid")?.as_str()?;
        let (oid, size) = wanted.iter().find(|(known, _)| known == oid)?.clone();
        let actions = row.get("actions").filter(|actions| !actions.is_null());
        let action = |name: &str| actions.and_then(|actions| actions.get(name)).filter(|action| !action.is_null());
        let href = |action: &Value| Some(action.get("href")?.as_str()?.to_owned());
        let upload = match action("upload") {
            Some(upload) => Some((href(upload)?, parts(upload, size)?)),
            None => None,
        };
        let verify = match action("verify") {
            Some(verify) => Some(href(verify)?),
            None => None,
        };
        (row.get("error").is_none()).then_some(Object { oid, size, upload, verify })
    };
    value.get("objects")?.as_array()?.iter().map(one).collect()
}

/// The parts of an upload: `Some(None)` when it goes in one piece.
#[expect(clippy::option_option, reason = "no parts and a plan that cannot be read are different")]
fn parts(upload: &Value, size: u64) -> Option<Option<Parts>> {
    let Some(Value::Object(header)) = upload.get("header") else { return Some(None) };
    let Some(chunk) = header.get("chunk_size") else { return Some(None) };
    let chunk = chunk.as_u64().or_else(|| chunk.as_str()?.parse().ok()).filter(|chunk| *chunk > 0)?;
    let count = usize::try_from(size.div_ceil(chunk)).ok().filter(|count| *count <= PARTS)?;
    let mut numbered: Vec<(u64, &str)> = Vec::new();
    for (key, value) in header {
        if let Ok(number) = key.parse() {
            numbered.push((number, value.as_str()?));
        }
    }
    numbered.sort_unstable();
    (numbered.len() == count).then(|| Some((chunk, numbered.into_iter().map(|(_, url)| url.to_owned()).collect())))
}
