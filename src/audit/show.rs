//! Entries as lines for people: one aligned line per call, harmless on any terminal.

use super::{Body, Entry, Receipt, Ruling};
use crate::model::{Amounts, Evidence, Status, Timestamp};

/// Headings of [`row`]'s columns.
const HEAD: [&str; 8] = ["time (UTC)", "decision", "action", "resource", "status", "used", "rule", "answers"];

/// The columns of one receipt; what is empty shows as `-`, a denial begins with `!`, a nested call with `>`.
#[must_use]
pub fn row(receipt: &Receipt) -> [String; 8] {
    let decision = match receipt.decision.result {
        Ruling::Allow if receipt.approval.is_some() => "allow (asked)".to_owned(),
        Ruling::Allow => "allow".to_owned(),
        Ruling::StepUp => format!("! ask: {}", receipt.decision.reason.row().name),
        Ruling::Deny => format!("! deny: {}", receipt.decision.reason.row().name),
    };
    let nested = if receipt.action.parent.is_some() { "> " } else { "" };
    let (status, used) = match &receipt.execution {
        Some(execution) => (word(execution.status).to_owned(), amounts(&execution.usage)),
        None => ("-".to_owned(), "-".to_owned()),
    };
    let answers: Vec<&str> = receipt.decision.answers.iter().map(|threat| threat.as_str()).collect();
    [
        utc(receipt.at),
        decision,
        format!("{nested}{}", receipt.action.operation.word()),
        clean(receipt.action.tool.as_str()),
        status,
        used,
        clean(receipt.decision.rule.as_deref().unwrap_or("-")),
        if answers.is_empty() { "-".to_owned() } else { answers.join(" ") },
    ]
}

/// The row of an entry that ends a call, with the session it belongs to; `None` for other entries.
#[must_use]
pub fn ended(entry: &Entry) -> Option<(&str, [String; 8])> {
    match &entry.body {
        Body::Outcome(outcome) => {
            Some((outcome.receipt.action.requester_context.session.as_str(), row(&outcome.receipt)))
        }
        Body::Expire { posted, evidence, .. } => Some((evidence.session.as_str(), expired(entry.at, posted, evidence))),
        _ => None,
    }
}

fn expired(at: Timestamp, posted: &Amounts, evidence: &Evidence) -> [String; 8] {
    let dash = || "-".to_owned();
    [
        utc(at),
        "allow".to_owned(),
        evidence.action.word().to_owned(),
        clean(evidence.resource.as_str()),
        "lost".to_owned(),
        amounts(posted),
        dash(),
        dash(),
    ]
}

/// Rows under their headings, columns aligned, no trailing spaces.
#[must_use]
pub fn table(rows: &[[String; 8]]) -> String {
    let mut width = HEAD.map(|head| head.chars().count());
    for row in rows {
        for (width, cell) in width.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &[String; 8]| {
        let padded: Vec<String> = cells.iter().zip(width).map(|(cell, width)| format!("{cell:<width$}")).collect();
        format!("{}\n", padded.join("  ").trim_end())
    };
    let head = HEAD.map(str::to_owned);
    std::iter::once(&head).chain(rows).map(line).collect()
}

/// `text` with control, bidirectional and other invisible characters written as `\u{…}`.
#[must_use]
pub fn clean(text: &str) -> String {
    let invisible = |c: char| {
        c.is_control()
            || matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
    };
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if invisible(c) { shown.extend(c.escape_unicode()) } else { shown.push(c) }
    }
    shown
}

/// `2026-03-01 12:00:00.250` for a time in UTC (proleptic Gregorian calendar).
#[must_use]
pub fn utc(at: Timestamp) -> String {
    let (days, ms) = (at.0 / 86_400_000, at.0 % 86_400_000);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{:03}", ms % 1000)
}

/// Year, month and day of a day counted from 1970-01-01, by eras of 400 years that begin in March.
const fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let of_era = days % 146_097;
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = days / 146_097 * 400 + year_of_era;
    (if month <= 2 { year + 1 } else { year }, month, day)
}

const fn word(status: Status) -> &'static str {
    match status {
        Status::Done => "done",
        Status::Failed => "failed",
        Status::Exhausted => "exhausted",
        Status::Denied => "denied inside",
        Status::Broken => "broken",
        Status::Unknown => "unknown",
    }
}

fn amounts(used: &Amounts) -> String {
    let shown: Vec<String> = used.iter().map(|(kind, amount)| format!("{} {amount}", kind.row().name)).collect();
    if shown.is_empty() { "-".to_owned() } else { shown.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_utc() {
        let cases = [
            (0, "1970-01-01 00:00:00.000"),
            (951_782_400_000, "2000-02-29 00:00:00.000"),
            (1_772_366_400_250, "2026-03-01 12:00:00.250"),
            (4_107_542_399_999, "2100-02-28 23:59:59.999"),
            (4_107_542_400_000, "2100-03-01 00:00:00.000"),
        ];
        for (ms, text) in cases {
            assert_eq!(utc(Timestamp(ms)), text);
        }
        assert!(utc(Timestamp(u64::MAX)).starts_with("584556019-"));
    }

    #[test]
    fn nothing_shown_can_move_the_cursor_or_turn_the_line() {
        let hostile = "a\u{1b}[2J\u{202e}b\u{2066}\n\u{200b}\u{7f}\u{9b}é";
        assert_eq!(clean(hostile), "a\\u{1b}[2J\\u{202e}b\\u{2066}\\u{a}\\u{200b}\\u{7f}\\u{9b}é");
    }

    #[test]
    fn columns_stand_below_each_other() {
        let row = |cell: &str| std::array::from_fn(|_| cell.to_owned());
        let text = table(&[row("x"), row("a longer cell")]);
        let starts: Vec<_> = text.lines().map(|line| line.find("  ").is_some()).collect();
        assert_eq!(starts, [true; 3]);
        let at = text.lines().next().unwrap().find("decision").unwrap();
        assert!(text.lines().nth(1).unwrap()[at..].starts_with("x "));
        assert!(text.lines().all(|line| line == line.trim_end()));
    }
}
