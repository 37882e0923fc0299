//! What the address of a hook says about waiting for a person.

use std::time::Duration;

use super::body::query;
use super::error::Refusal;

/// How long a person's answer is awaited when the client does not say.
const WAIT: Duration = Duration::from_secs(100);
/// The longest that a client may say.
const LONGEST: u64 = 3_600_000;

/// How long a client waits for a person, and what it can do about one who has not answered.
#[derive(Clone, Copy)]
pub(super) struct Patience {
    pub(super) wait: Duration,
    pub(super) defers: bool,
}

impl Patience {
    pub(super) fn read(text: Option<&str>) -> Result<Self, Refusal> {
        let query = query(text, &["wait_ms", "defer"])?;
        let wait = match query.get("wait_ms") {
            None => WAIT,
            Some(text) => match text.parse() {
                Ok(wait) if wait <= LONGEST => Duration::from_millis(wait),
                _ => return Err(Refusal::malformed(format!("wait_ms is a number up to {LONGEST}"))),
            },
        };
        let defers = match query.get("defer").map(String::as_str) {
            None | Some("false") => false,
            Some("true") => true,
            Some(_) => return Err(Refusal::malformed("defer is `true` or `false`")),
        };
        Ok(Self { wait, defers })
    }
}
