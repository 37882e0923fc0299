//! What a record claims: that a tool ran, that a client approved one, what a generation used.
//!
//! One closed table of events for each client; every other event, and every attribute that is not named here (prompts,
//! arguments, results, paths), is passed over and kept nowhere.

use super::money;
use super::wire::Record;
use crate::model::{Digest, Name, canonical};
use crate::surface::hook::{Client, session_name};

/// Tokens that one generation may claim; more is nonsense.
const TOKENS: u64 = 1_000_000_000;
/// What Codex calls its shell in its telemetry, and `Bash` in its hooks.
const SHELLS: [&str; 4] = ["exec_command", "shell", "local_shell", "container.exec"];
/// Tools of Codex for which it has no hook.
const UNHOOKED: [&str; 1] = ["write_stdin"];
/// Sums that are read.
const COST: &str = "claude_code.cost.usage";
const TOKENS_USED: &str = "claude_code.token.usage";

/// What a client claims.
pub(crate) struct Claim {
    /// The session, under the name that the gate's hooks and proxies have for it.
    pub session: Name,
    /// When, nanoseconds since 1970 by the client's clock; 0 when it does not say.
    pub time: u64,
    /// Tells records apart, so that one that comes twice counts once.
    pub print: Digest,
    /// What.
    pub what: What,
}

/// What is claimed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// A tool ran.
    Ran {
        /// The client's id of the use.
        id: Option<String>,
        /// The tool, by its name in hooks.
        tool: Name,
        /// Whether the client has a hook for it.
        hooked: bool,
        /// It may have been turned away before it ran: the client says so of both in the same words.
        doubtful: bool,
    },
    /// The client let a tool run.
    Approved(String),
    /// A generation came back.
    Generated(Usage),
}

/// What generations used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// How many.
    pub requests: u64,
    /// Tokens read, caches included.
    pub tokens_in: u64,
    /// Tokens written.
    pub tokens_out: u64,
    /// What the client thinks that they cost.
    pub micro_usd: u64,
    /// Of them, those of whose cost it says nothing.
    pub unpriced: u64,
}

impl Usage {
    /// Both together.
    pub const fn plus(self, other: Self) -> Self {
        Self {
            requests: self.requests.saturating_add(other.requests),
            tokens_in: self.tokens_in.saturating_add(other.tokens_in),
            tokens_out: self.tokens_out.saturating_add(other.tokens_out),
            micro_usd: self.micro_usd.saturating_add(other.micro_usd),
            unpriced: self.unpriced.saturating_add(other.unpriced),
        }
    }

    /// The larger of two reports of the same, number by number.
    pub fn most(self, other: Self) -> Self {
        Self {
            requests: self.requests.max(other.requests),
            tokens_in: self.tokens_in.max(other.tokens_in),
            tokens_out: self.tokens_out.max(other.tokens_out),
            micro_usd: self.micro_usd.max(other.micro_usd),
            unpriced: self.unpriced.max(other.unpriced),
        }
    }
}

/// What a log record of `client` claims; `None` when it is about something else.
///
/// # Errors
/// The event is one that matters and lacks what it needs.
pub(crate) fn read(client: Client, record: &Record<'_>) -> Result<Option<Claim>, &'static str> {
    let named = record.text("event.name")?.or(record.body).unwrap_or_default();
    let what = match (client, named.strip_prefix("claude_code.").unwrap_or(named)) {
        (Client::ClaudeCode, "tool_result") => ran(client, record, "tool_use_id")?,
        (Client::ClaudeCode, "api_request") => generated(record)?,
        (Client::Codex, "codex.tool_result") => ran(client, record, "call_id")?,
        (Client::Codex, "codex.tool_decision") => match (record.text("decision")?, use_id(record, "call_id")?) {
            (Some(said), Some(id)) if said.starts_with("approved") => What::Approved(id),
            _ => return Ok(None),
        },
        (Client::Codex, "codex.sse_event") => match record.number("input_token_count")? {
            Some(tokens) => completed(record, tokens)?,
            None => return Ok(None),
        },
        _ => return Ok(None),
    };
    let session = match client {
        Client::ClaudeCode => "session.id",
        Client::Codex => "conversation.id",
    };
    claim(record, session, named, what).map(Some)
}

/// What a point of one of [`COST`] and the tokens' sum claims.
///
/// # Errors
/// It lacks what it needs.
pub(crate) fn read_sum(record: &Record<'_>) -> Result<Claim, &'static str> {
    let mut usage = Usage::default();
    if record.metric == COST {
        usage.micro_usd = money::micro_usd(&record.value).ok_or("a cost is no amount of money")?;
    } else {
        let tokens = money::scaled(&record.value, 0).filter(|tokens| *tokens <= TOKENS);
        let tokens = tokens.ok_or("a number of tokens is none")?;
        match record.text("type")? {
            Some("output") => usage.tokens_out = tokens,
            Some("input" | "cacheRead" | "cacheCreation") => usage.tokens_in = tokens,
            _ => return Err("tokens of an unknown type"),
        }
    }
    let parts = ["type", "model", "query_source", "agent.name", "mcp_server.name", "mcp_tool.name", "effort", "speed"];
    let parts = parts.map(|key| record.text(key).ok().flatten().unwrap_or_default());
    claim(record, "session.id", &format!("{} {}", record.metric, canonical(&parts)), What::Generated(usage))
}

/// The sums that [`read_sum`] reads.
pub(crate) const fn wanted() -> [&'static str; 2] {
    [COST, TOKENS_USED]
}

fn claim(record: &Record<'_>, key: &str, named: &str, what: What) -> Result<Claim, &'static str> {
    let session = record.text(key)?.and_then(session_name).ok_or("a record names no session")?;
    let sequence = record.number("event.sequence")?.unwrap_or_default();
    // As texts: canonical numbers are doubles, in which neighbouring nanoseconds are one.
    let numbers = [record.time, record.start, sequence].map(|number| number.to_string());
    let print = (named, numbers, format!("{what:?}"));
    Ok(Claim { session, time: record.time, print: Digest::of(canonical(&print).as_bytes()), what })
}

fn ran(client: Client, record: &Record<'_>, id: &str) -> Result<What, &'static str> {
    let told = record.text("tool_name")?.unwrap_or("unnamed");
    let failed = record.text("success")? == Some("false");
    let (hooked, shown) = match client {
        Client::ClaudeCode => (true, told),
        Client::Codex if SHELLS.contains(&told) => (true, "Bash"),
        Client::Codex => (!UNHOOKED.contains(&told), told),
    };
    let tool = Name::new(shown).or_else(|_| Name::new("unnamed")).map_err(|_| "a tool has no name")?;
    // Claude Code tells of no result when it turned a use away; Codex does, and calls it a failure.
    Ok(What::Ran { id: use_id(record, id)?, tool, hooked, doubtful: failed && client == Client::Codex })
}

fn use_id(record: &Record<'_>, key: &str) -> Result<Option<String>, &'static str> {
    Ok(record.text(key)?.filter(|id| !id.is_empty()).map(str::to_owned))
}

/// A request of Claude Code that was answered.
fn generated(record: &Record<'_>) -> Result<What, &'static str> {
    let tokens = |key| tokens(record.number(key)?);
    let mut usage = Usage { requests: 1, tokens_out: tokens("output_tokens")?, ..Usage::default() };
    for key in ["input_tokens", "cache_read_tokens", "cache_creation_tokens"] {
        usage.tokens_in = usage.tokens_in.saturating_add(tokens(key)?);
    }
    let cost = match record.number("cost_usd_micros") {
        Ok(Some(micro)) => Some(micro),
        _ => record
            .decimal("cost_usd")?
            .map(|text| money::micro_usd(&text).ok_or("a cost is no amount of money"))
            .transpose()?,
    };
    match cost {
        Some(micro) if micro <= TOKENS * 1_000 => usage.micro_usd = micro,
        Some(_) => return Err("a cost is no amount of money"),
        None => usage.unpriced = 1,
    }
    Ok(What::Generated(usage))
}

/// A response of Codex that was completed; `read` counts what came from caches.
fn completed(record: &Record<'_>, read: u64) -> Result<What, &'static str> {
    let (tokens_in, tokens_out) = (tokens(Some(read))?, tokens(record.number("output_token_count")?)?);
    Ok(What::Generated(Usage { requests: 1, tokens_in, tokens_out, micro_usd: 0, unpriced: 1 }))
}

fn tokens(number: Option<u64>) -> Result<u64, &'static str> {
    match number.unwrap_or_default() {
        number if number <= TOKENS => Ok(number),
        _ => Err("a number of tokens is none"),
    }
}
