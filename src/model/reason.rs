//! Why a call was denied or asked about: one closed table of codes, one rendering of the text.
//!
//! The text is read by a model or a person: what, why (rule and threat), what is allowed instead,
//! and whether to retry. It is bounded by [`Limits::DENIAL_BYTES`] and names no path of the host.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Limits, ThreatId};

/// Whose doing a reason is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The caller's request.
    Caller,
    /// The policy refused.
    Policy,
    /// A budget refused.
    Budget,
    /// The gate's own state or store.
    Gate,
}

/// Advice on trying again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// The same call will be refused again.
    Never,
    /// A changed call may pass.
    Changed,
    /// The same call may pass later, or after a person has acted.
    Later,
}

/// One row of [`REASONS`].
#[derive(Clone, Copy, Debug)]
pub struct ReasonRow {
    /// The code.
    pub code: ReasonCode,
    /// The code as written in receipts and texts.
    pub name: &'static str,
    /// Whose doing it is.
    pub fault: Fault,
    /// Whether to retry.
    pub retry: Retry,
    /// What it means, for docs.
    pub about: &'static str,
}

macro_rules! reasons {
    ($($code:ident $name:literal $fault:ident $retry:ident $about:literal;)*) => {
        /// A stable code for why.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum ReasonCode { $(#[doc = $about] $code,)* }

        /// Every reason code, in the order of [`ReasonCode`].
        pub const REASONS: &[ReasonRow] = &[
            $(ReasonRow { code: ReasonCode::$code, name: $name, fault: Fault::$fault, retry: Retry::$retry, about: $about },)*
        ];
    };
}

reasons! {
    Allowed "allowed" Policy Never "A rule allows the call.";
    NoRule "no_rule" Policy Never "No rule allows the call; the default is deny.";
    Rule "rule" Policy Never "A rule denies the call, or asks for a person.";
    RuleError "rule_error" Policy Never "A rule could not be evaluated; an evaluation error is a deny.";
    UnknownTool "unknown_tool" Policy Never "The policy has no such tool.";
    UnknownPrice "unknown_price" Policy Never "The policy says of a thing that costs money not how much.";
    BadArgument "bad_argument" Caller Changed "An argument breaks the tool's constraints.";
    ImportDenied "import_denied" Policy Never "The policy grants no such module.";
    NoCode "no_code" Policy Never "The policy grants no execution of generated code.";
    UnpinnedPackage "unpinned_package" Policy Changed "The registry section holds no such package at this revision.";
    NotWritable "not_writable" Policy Never "The registry section lets nothing of this name be changed.";
    NoJob "no_job" Policy Changed "The policy grants no job on rented machines of this sort.";
    NoProgram "no_program" Policy Changed "The policy grants no program of this machine of this sort.";
    UnknownPeer "unknown_peer" Policy Never "The agent is not on the list of peers.";
    DelegationDepth "delegation_depth" Policy Never "Delegation is deeper than the policy permits.";
    ProtectedPath "protected_path" Policy Never "An argument points into a protected path.";
    Malformed "malformed" Caller Changed "The request is not one unambiguous, bounded message.";
    DuplicateCall "duplicate_call" Caller Never "A call with this id is already on record.";
    BudgetExhausted "budget_exhausted" Budget Later "A budget has too little left.";
    AccountFrozen "account_frozen" Budget Later "An operator has frozen the account; nothing new runs below it for now.";
    AccountRevoked "account_revoked" Budget Never "An operator has revoked the account; nothing runs below it any more.";
    BudgetUnreachable "budget_unreachable" Gate Later "The database of a budget that several gates share gives nothing now.";
    LimitReached "limit_reached" Budget Changed "An execution reached one of its limits.";
    ApprovalRefused "approval_refused" Policy Never "A person refused.";
    ApprovalUnavailable "approval_unavailable" Policy Later "A person must be asked and nobody can be reached.";
    ApprovalExpired "approval_expired" Policy Later "A person was asked and did not answer in time.";
    ApprovalPending "approval_pending" Policy Later "A person was asked and has not answered; the question waits for the same call.";
    JournalFailed "journal_failed" Gate Later "The journal could not be written; nothing runs without a durable record.";
    Obligation "obligation" Gate Never "An obligation of the decision cannot be met.";
    SessionLimit "session_limit" Gate Later "The gate has no room for another session.";
    SandboxFailed "sandbox_failed" Gate Later "The sandbox could not be started or broke.";
    Internal "internal" Gate Later "The gate failed; the call was refused.";
}

impl ReasonCode {
    /// The row of this code.
    #[must_use]
    pub fn row(self) -> &'static ReasonRow {
        &REASONS[self as usize]
    }
}

/// Why a call was decided as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reason {
    /// The code.
    pub code: ReasonCode,
    /// The rule that decided, when one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// The threats that the rule answers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub answers: Vec<ThreatId>,
    /// One sentence on what is wrong, without a final stop.
    #[serde(default)]
    pub detail: String,
    /// What is allowed instead, without a final stop; empty when nothing is.
    #[serde(default)]
    pub instead: String,
}

impl Reason {
    /// A reason with a code and one sentence.
    #[must_use]
    pub fn new(code: ReasonCode, detail: impl Into<String>) -> Self {
        Self { code, rule: None, answers: Vec::new(), detail: detail.into(), instead: String::new() }
    }

    /// The same reason with what is allowed instead.
    #[must_use]
    pub fn instead(mut self, instead: impl Into<String>) -> Self {
        self.instead = instead.into();
        self
    }

    /// The same reason, decided by `rule`.
    #[must_use]
    pub fn by(mut self, rule: impl Into<String>, answers: &[ThreatId]) -> Self {
        self.rule = Some(rule.into());
        self.answers = answers.to_vec();
        self
    }

    /// The text of a denial of `what` (`tool rm`, `import socket`, `code`), under
    /// [`Limits::DENIAL_BYTES`].
    #[must_use]
    pub fn denial(&self, what: &str) -> String {
        let rule = self.rule.as_deref().unwrap_or(self.code.row().name);
        let threats: Vec<&str> = self.answers.iter().take(3).map(|t| t.as_str()).collect();
        let answers = if threats.is_empty() { String::new() } else { format!(" ({})", threats.join(", ")) };
        let what = clip(what, 80);
        let head = format!("[weir] denied {what}: {}{answers}", clip(rule, 64));
        let tail = match self.code.row().retry {
            Retry::Never => "Do not retry.",
            Retry::Changed => "Retry only with a changed request.",
            Retry::Later => "Do not retry now; ask the user.",
        };
        let room = Limits::DENIAL_BYTES.saturating_sub(head.len() + tail.len() + 24);
        let detail = clip(&self.detail, room / 2);
        let instead = clip(&self.instead, room.saturating_sub(detail.len()));
        let mut text = head;
        if !detail.is_empty() {
            text.push_str(&format!("\n{detail}."));
        }
        if !instead.is_empty() {
            text.push_str(&format!("\nAllowed: {instead}."));
        }
        text.push('\n');
        text.push_str(tail);
        text
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.rule.as_deref().unwrap_or(self.code.row().name))?;
        if self.detail.is_empty() { Ok(()) } else { write!(f, ": {}", self.detail) }
    }
}

/// At most `max` bytes of `text`, cut at a character and marked; control characters become spaces.
fn clip(text: &str, max: usize) -> String {
    let hostile = |c: char| {
        c.is_control() || matches!(c, '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let clean: String = text.chars().map(|c| if hostile(c) { ' ' } else { c }).collect();
    if clean.len() <= max {
        return clean;
    }
    let end = (0..=max.saturating_sub(3)).rev().find(|at| clean.is_char_boundary(*at)).unwrap_or(0);
    format!("{}…", &clean[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_stand_in_the_order_of_the_codes() {
        for (index, row) in REASONS.iter().enumerate() {
            assert_eq!(row.code as usize, index, "{}", row.name);
            assert_eq!(serde_json::to_value(row.code).unwrap(), row.name);
        }
    }

    #[test]
    fn a_denial_is_bounded_and_harmless_whatever_it_quotes() {
        let reason = Reason::new(ReasonCode::BadArgument, "x\u{202e}\n\u{1b}[2J".repeat(200))
            .instead("y".repeat(1000))
            .by("r".repeat(300), &[]);
        let text = reason.denial(&"tool ".repeat(100));
        assert!(text.len() < Limits::DENIAL_BYTES, "{} bytes", text.len());
        assert!(!text.contains('\u{1b}') && !text.contains('\u{202e}'));
        assert!(text.ends_with("Retry only with a changed request."));
    }
}
