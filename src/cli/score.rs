//! `weir score`: the ten factors as declared, permitted and observed, and AIVSS where it can be had.
//!
//! Reads the journal without touching it and scores only what verifies: evidence out of a journal
//! that was tampered with is no evidence. All numbers come from `risk`; this file prints them.

use std::{
    io::Read as _,
    path::{Path, PathBuf},
};

use anstyle::{AnsiColor, Style};

use crate::{
    audit::{Bad, Body, Entry, Reading},
    journal,
    model::{Digest, Limits, Name},
    pip,
    policy::{self, Policy},
    risk::{self, FactorScore, Posterior, Quality, ReportParts, ScoreReport, Sufficiency},
};

/// Show the risk factors as declared, permitted and observed.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The store's folder; by default WEIR_HOME or the user's state folder.
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
    /// The policy whose profile was declared and whose ceiling applies; without it both are unknown.
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command: 0 printed, 1 the journal does not verify.
///
/// # Errors
/// No store, no readable policy: a text for stderr.
pub fn run(args: Args) -> Result<u8, String> {
    let policy = args.policy.as_deref().map(read_policy).transpose()?;
    let folder = journal::home(args.store)?;
    let seen = match read_store(&folder)? {
        Ok(seen) => seen,
        Err(bad) => {
            anstream::eprintln!(
                "The journal does not verify, so nothing in it is scored: {bad}. See `weir audit verify`."
            );
            return Ok(1);
        }
    };
    let report = report(policy.as_ref(), &seen);
    if args.json {
        let text = serde_json::to_string_pretty(&report).map_err(|error| error.to_string())?;
        anstream::println!("{text}");
    } else {
        print(&report, &seen, policy.as_ref());
    }
    Ok(0)
}

/// What a sound journal says that scores need.
struct Seen {
    posterior: Posterior,
    /// The policy that came into force last.
    policy: Option<(Name, Digest)>,
    entries: u64,
}

impl Seen {
    fn add(&mut self, entry: &Entry) {
        match &entry.body {
            Body::Outcome(outcome) => self.posterior.observe(&outcome.evidence),
            Body::Expire { evidence, .. } => self.posterior.observe(evidence),
            Body::Policy { id, digest, .. } => self.policy = Some((id.clone(), *digest)),
            _ => {}
        }
    }
}

/// Reads, verifies and folds the store in `folder`, without writing to it.
fn read_store(folder: &Path) -> Result<Result<Seen, Bad>, String> {
    let key = journal::public_key(folder)?;
    let store = journal::Reader::open(folder).map_err(|fault| fault.to_string())?;
    let mut seen = Seen { posterior: Posterior::default(), policy: None, entries: 0 };
    let mut reading = Reading::auditing(&key);
    let mut each = |text| {
        if let Some(entry) = reading.add(text) {
            seen.add(&entry);
        }
    };
    let head = store.replay(&mut each).map_err(|fault| fault.to_string())?;
    let verified = reading.finish(head.as_ref());
    Ok(verified.map(|verified| Seen { entries: verified.entries, ..seen }))
}

fn read_policy(path: &Path) -> Result<Policy, String> {
    let shown = path.display();
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(Limits::POLICY_BYTES as u64 + 1).read_to_end(&mut bytes))
        .map_err(|error| format!("{shown}: {error}"))?;
    if bytes.len() > Limits::POLICY_BYTES {
        return Err(format!("{shown}: larger than {} bytes", Limits::POLICY_BYTES));
    }
    policy::parse(&bytes, &shown.to_string()).map_err(|faults| faults.to_string())
}

fn report(policy: Option<&Policy>, seen: &Seen) -> ScoreReport {
    let profile = policy.and_then(|policy| policy.provenance.as_ref());
    let permitted = policy.map_or([None; 10], pip::permitted);
    let in_force = seen.policy.as_ref().map(|(id, digest)| (id, *digest));
    risk::report(ReportParts {
        policy: policy.map(|policy| (&policy.id, policy.digest)).or(in_force),
        profile: profile.map(|profile| (&profile.profile, profile.digest)),
        factors: seen.posterior.scores(profile.map(|profile| &profile.declared), &permitted),
        cvss: profile.and_then(|profile| profile.cvss.as_deref()),
        cvss_base: profile.and_then(|profile| profile.cvss_base),
        threat_multiplier: profile.and_then(|profile| profile.threat_multiplier),
        mitigation: profile.and_then(|profile| profile.mitigation),
        quality: Quality {
            sessions: seen.posterior.sessions(),
            calls: seen.posterior.calls(),
            chain_verified: Some(true),
            entries: seen.entries,
        },
    })
}

fn print(report: &ScoreReport, seen: &Seen, policy: Option<&Policy>) {
    table(&report.factors);
    let sum = &report.factor_sum;
    anstream::println!(
        "\nFactor sum of 10: {} declared, {} of that under the policy, {} observed ({:.2} to {:.2} with 95 %).",
        shown(sum.declared),
        shown(sum.capped),
        shown(sum.observed),
        sum.interval.0,
        sum.interval.1,
    );
    anstream::println!("{}", report.aivss_note);
    for note in &report.notes {
        anstream::println!("{note}");
    }
    let quality = &report.quality;
    anstream::println!(
        "Evidence: {} calls, {} sessions in which any happened; {} journal entries, all verified.",
        quality.calls,
        quality.sessions,
        quality.entries
    );
    match (policy, &seen.policy) {
        (None, _) => anstream::println!("Declared and permitted are unknown: name the policy with --policy FILE."),
        (Some(policy), Some((id, digest))) if policy.digest != *digest => {
            anstream::println!("The journal's last policy was {id} ({digest}), not {}.", policy.id);
        }
        _ => {}
    }
}

/// The columns: title and width; the first is text, the last is open.
const COLUMNS: [(&str, usize); 9] = [
    ("factor", 24),
    ("declared", 8),
    ("permitted", 9),
    ("observed", 8),
    ("95 % interval", 13),
    ("n", 5),
    ("highest", 7),
    ("attempted", 9),
    ("status", 0),
];

/// Prints one row per factor; colours vanish when piped.
pub(super) fn table(scores: &[FactorScore]) {
    const BOLD: Style = Style::new().bold();
    let titles = COLUMNS.map(|(title, _)| title.to_owned());
    anstream::println!("{BOLD}{}{BOLD:#}", row(&titles));
    for score in scores {
        let colour = match score.status {
            _ if score.conflict => AnsiColor::Yellow,
            Sufficiency::Evidenced => AnsiColor::Green,
            Sufficiency::Insufficient | Sufficiency::PriorOnly => AnsiColor::BrightBlack,
        };
        let style = Style::new().fg_color(Some(colour.into()));
        let mut cells = cells(score);
        if let Some(status) = cells.last_mut() {
            *status = format!("{style}{status}{style:#}");
        }
        anstream::println!("{}", row(&cells));
    }
}

/// One line out of nine cells: numbers to the right.
fn row(cells: &[String; 9]) -> String {
    let mut line = String::new();
    for (index, (cell, (_, width))) in cells.iter().zip(COLUMNS).enumerate() {
        if index == 0 {
            line.push_str(&format!("{cell:<width$}"));
        } else {
            line.push_str(&format!("  {cell:>width$}"));
        }
    }
    line
}

fn cells(score: &FactorScore) -> [String; 9] {
    let status = if score.conflict { ", conflict" } else { "" };
    [
        score.factor.row().label.to_owned(),
        shown(score.declared),
        shown(score.permitted),
        shown(score.observed),
        format!("{:.2} to {:.2}", score.interval.0, score.interval.1),
        format!("{:.1}", score.n),
        shown(score.high_water),
        score.attempted.to_string(),
        format!("{}{status}", score.status.word()),
    ]
}

/// Two digits; a dash for unknown. What is not zero is never shown as zero.
fn shown(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(value) if value > 0.0 && value < 0.005 => "<0.01".to_owned(),
        Some(value) => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{FACTORS, Factors, Level};

    #[test]
    fn rows_line_up_and_unknown_is_a_dash() {
        let mut declared = Factors::default();
        declared.set(FACTORS[0].factor, Level::FULL);
        let scores = Posterior::default().scores(Some(&declared), &[None; 10]);
        let lines: Vec<String> = scores.iter().map(|score| row(&cells(score))).collect();
        let title = row(&COLUMNS.map(|(title, _)| title.to_owned()));
        let words: Vec<&str> = lines[0].split_whitespace().skip(3).collect();
        assert_eq!(words, ["1.00", "-", "1.00", "0.56", "to", "1.00", "0.0", "-", "0", "prior-only"]);
        let column = title.find("status").unwrap();
        assert!(lines.iter().all(|line| line.get(column..) == Some("prior-only")), "{lines:#?}");
        assert!(title.len() < 110);
    }

    #[test]
    fn what_is_not_zero_is_not_shown_as_zero() {
        assert_eq!(shown(Some(0.004)), "<0.01");
        assert_eq!((shown(Some(0.0)), shown(Some(0.006)), shown(None)), ("0.00".into(), "0.01".into(), "-".into()));
    }
}
