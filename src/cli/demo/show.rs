//! How the demo looks: short, coloured on a terminal, plain when piped.

use anstyle::{AnsiColor, Style};

use super::{Report, Step};
use crate::model::Status;

const DIM: Style = Style::new().dimmed();
const BOLD: Style = Style::new().bold();

/// Prints the whole report.
pub(super) fn print(report: &Report) {
    let head = |number: u8, title: &str| anstream::println!("\n{BOLD}{number}  {title}{BOLD:#}");
    let profile = &report.profile;
    head(1, "profile");
    anstream::println!(
        "   {}: factor sum {:.1} of 10, {} threats; {} of 7 layers uncertain, so taken as present",
        profile.id,
        profile.factor_sum,
        profile.threats,
        profile.uncertain_layers
    );
    head(2, "policy");
    anstream::println!(
        "   {} rules and {} budgets derived and tightened by hand; threats without an answer: {}",
        report.policy.rules,
        report.policy.budgets,
        report.policy.unanswered
    );
    head(3, "run");
    anstream::println!("   {DIM}{}{DIM:#}", report.task);
    for (index, step) in report.steps.iter().enumerate() {
        print_step(index + 1, step);
    }
    head(4, "audit");
    let audit = &report.audit;
    anstream::println!(
        "   {} entries and {} signed receipts verify, {} of them refusals",
        audit.entries,
        audit.receipts,
        audit.denials
    );
    anstream::println!("   then {} was changed: {}", audit.flipped, found(&audit.found));
    head(5, "score");
    crate::cli::score::table(&report.scores);
    anstream::println!(
        "\n{DIM}{} ms in all. Next: weir run, weir serve, or weir.wrap(agent) in Python.{DIM:#}",
        report.took_ms
    );
}

fn found(text: &str) -> String {
    if text.is_empty() { "NOT FOUND".to_owned() } else { format!("found: {text}") }
}

fn print_step(number: usize, step: &Step) {
    let (word, colour) = match step.status {
        Status::Done => ("ran", AnsiColor::Green),
        Status::Failed => ("failed", AnsiColor::Yellow),
        Status::Denied => ("denied", AnsiColor::Red),
        Status::Exhausted => ("stopped", AnsiColor::Magenta),
        Status::Broken | Status::Unknown => ("broken", AnsiColor::Red),
    };
    let style = Style::new().bold().fg_color(Some(colour.into()));
    anstream::println!("\n   {DIM}{number}{DIM:#}  {style}{word:<8}{style:#} {}", step.says);
    for line in step.code.trim().lines() {
        anstream::println!("      {DIM}│ {line}{DIM:#}");
    }
    for notice in &step.notices {
        anstream::println!("      note: {notice}");
    }
    for call in step.calls.iter().take(4) {
        anstream::println!("      {DIM}tool{DIM:#} {}", clip(call));
    }
    if step.calls.len() > 4 {
        anstream::println!("      {DIM}tool{DIM:#} … {} calls in all", step.calls.len());
    }
    for line in step.logs.lines().take(6) {
        anstream::println!("      > {}", clip(line));
    }
    if let Some(answer) = &step.answer {
        anstream::println!("      {BOLD}answer{BOLD:#} {}", clip(&answer.to_string()));
    }
    for text in step.stopped.iter().chain(&step.error) {
        for line in text.lines() {
            anstream::println!("      {style}!{style:#} {line}");
        }
    }
}

fn clip(text: &str) -> String {
    if text.chars().count() <= 100 {
        return text.to_owned();
    }
    let short: String = text.chars().take(99).collect();
    format!("{short}…")
}
