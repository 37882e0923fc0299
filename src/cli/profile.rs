//! `weir profile`: import a listing, show a profile.
//!
//! The AIVSS number is worked out here and not in `policy`, which knows nothing of scores.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};

use anstyle::{AnsiColor, Style};
use serde_json::{Value, json};

use crate::model::{FACTORS, Layer, Limits};
use crate::policy::{Band, Certainty, LayerNote, Profile, import};

/// Threat multiplier of AIVSS v0.8 where none is stated: proof of concept, hundredths.
const DEFAULT_MULTIPLIER: u16 = 97;
/// Mitigation factor of AIVSS v0.8 where none is stated: none or weak, hundredths.
const DEFAULT_MITIGATION: u16 = 100;

/// Threat profiles: import a listing, show a profile.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Turn a public directory listing into a profile in TOML.
    Import {
        /// The listing's text, reduced or full page; `-` reads standard input.
        listing: String,
        /// Write the profile here instead of to standard output.
        #[arg(long, value_name = "FILE")]
        out: Option<std::path::PathBuf>,
    },
    /// Show declared factors, their sum, threats by layer and, where a CVSS base is known, AIVSS.
    Show {
        /// The profile; `-` reads standard input.
        profile: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

/// Runs the command.
///
/// # Errors
/// What is wrong with the input, for standard error.
pub fn run(args: Args) -> Result<u8, String> {
    match args.command {
        Command::Import { listing, out } => {
            let (bytes, name) = read_input(&listing)?;
            let profile = import(&bytes, &name).map_err(|faults| faults.to_string())?;
            let text = profile.to_toml();
            match out {
                Some(path) => {
                    std::fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
                }
                None => emit(&text)?,
            }
        }
        Command::Show { profile, json } => {
            let (bytes, name) = read_input(&profile)?;
            let profile = Profile::parse(&bytes, &name).map_err(|faults| faults.to_string())?;
            emit(&if json { format!("{:#}\n", as_json(&profile)) } else { as_text(&profile) })?;
        }
    }
    Ok(0)
}

/// The bytes of a file, or of standard input for `-`, and the name for messages.
///
/// # Errors
/// It cannot be read.
pub(super) fn read_input(path: &str) -> Result<(Vec<u8>, String), String> {
    // One byte over the limit is enough for the reader to refuse it.
    let most = Limits::POLICY_BYTES as u64 + 1;
    let mut bytes = Vec::new();
    let (read, name) = if path == "-" {
        (std::io::stdin().lock().take(most).read_to_end(&mut bytes), "<stdin>")
    } else {
        let file = std::fs::File::open(path).map_err(|error| format!("{path}: {error}"))?;
        (file.take(most).read_to_end(&mut bytes), path)
    };
    read.map_err(|error| format!("{name}: {error}"))?;
    Ok((bytes, name.to_owned()))
}

/// Writes `text` to standard output, plain when it is not a terminal. A reader that has gone is no error.
///
/// # Errors
/// It cannot be written.
pub(super) fn emit(text: &str) -> Result<(), String> {
    match anstream::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(format!("standard output: {error}")),
        _ => Ok(()),
    }
}

/// `text` in `style`.
pub(super) fn styled(text: &str, style: Style) -> String {
    format!("{style}{text}{style:#}")
}

/// The style of headings.
pub(super) const BOLD: Style = Style::new().bold();
/// The style of side remarks.
pub(super) const DIM: Style = Style::new().dimmed();

/// What AIVSS says, when a base is known.
struct Score {
    tenths: u8,
    base: u8,
    multiplier: u16,
    mitigation: u16,
}

impl Score {
    fn of(profile: &Profile) -> Option<Self> {
        let base = profile.base_tenths()?;
        let multiplier = profile.threat_multiplier.unwrap_or(DEFAULT_MULTIPLIER);
        let mitigation = profile.mitigation.unwrap_or(DEFAULT_MITIGATION);
        let tenths = aivss(base, profile.factors.sum_hundredths(), multiplier, mitigation);
        Some(Self { tenths, base, multiplier, mitigation })
    }
}

/// AIVSS v0.8 in tenths.
fn aivss(base: u8, sum: u32, multiplier: u16, mitigation: u16) -> u8 {
    crate::risk::aivss::aivss_v08(base, sum, multiplier, mitigation)
}

fn tenths(value: u8) -> String {
    format!("{}.{}", value / 10, value % 10)
}

fn hundredths(value: u32) -> String {
    format!("{}.{:02}", value / 100, value % 100)
}

fn as_text(profile: &Profile) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "{} {}", styled(&profile.title, BOLD), styled(profile.id.as_str(), DIM));
    let _ = writeln!(out, "{}\n", profile.summary);
    write_factors(profile, &mut out);
    write_layers(profile, &mut out);
    write_score(profile, &mut out);
    let _ = writeln!(out, "\n{}", styled("Outside AIVSS v0.8", BOLD));
    for flag in profile.nonconformant() {
        let _ = writeln!(out, "  - {flag}");
    }
    out
}

fn write_factors(profile: &Profile, out: &mut String) {
    let _ = writeln!(out, "{}", styled("Declared factors", BOLD));
    for row in &FACTORS {
        let level = profile.factors.of(row.factor).hundredths();
        let bar = "█".repeat(usize::from(level.div_ceil(10)));
        let _ = writeln!(out, "  {:<26} {}  {}", row.label, hundredths(level.into()), styled(&bar, DIM));
    }
    let _ = writeln!(out, "  {:<26} {} of 10", "Sum", hundredths(profile.factors.sum_hundredths()));
}

fn write_layers(profile: &Profile, out: &mut String) {
    let _ = writeln!(out, "\n{}", styled("Threats by layer", BOLD));
    for layer in Layer::ALL {
        let note = profile.layer(layer);
        let certainty = match note.certainty {
            Certainty::Mapped => note.certainty.word().to_owned(),
            Certainty::Uncertain => styled(note.certainty.word(), AnsiColor::Yellow.on_default()),
        };
        let _ = writeln!(out, "  {} {} ({certainty})", layer.word(), layer.title());
        for (threat, assumed) in threats(note) {
            let mark = if assumed { styled("  assumed: none is named", DIM) } else { String::new() };
            let _ = writeln!(out, "     {:<40} {}{mark}", threat.as_str(), threat.row().title);
        }
    }
}

fn threats(note: &LayerNote) -> impl Iterator<Item = (crate::model::ThreatId, bool)> + '_ {
    note.threats.iter().map(|threat| (*threat, false)).chain(note.assumed.iter().map(|threat| (*threat, true)))
}

fn write_score(profile: &Profile, out: &mut String) {
    let _ = writeln!(out, "\n{}", styled("AIVSS v0.8", BOLD));
    let Some(score) = Score::of(profile) else {
        out.push_str("  No CVSS base is known, so there is a factor sum and no AIVSS number.\n");
        out.push_str("  State the vector (`cvss = \"CVSS:4.0/…\"` under [score]) to get one.\n");
        return;
    };
    let band = Band::of(score.tenths).word();
    let _ = writeln!(out, "  {} {band}", styled(&tenths(score.tenths), BOLD));
    let stated = |known: bool| if known { "" } else { " (default)" };
    let _ = writeln!(
        out,
        "  CVSS base {}, threat multiplier {}{}, mitigation factor {}{}",
        tenths(score.base),
        hundredths(score.multiplier.into()),
        stated(profile.threat_multiplier.is_some()),
        hundredths(score.mitigation.into()),
        stated(profile.mitigation.is_some()),
    );
    if let Some(printed) = profile.published.aivss {
        let verdict = if printed == score.tenths { "the same" } else { "not the same" };
        let _ = writeln!(out, "  The listing prints {}: {verdict}.", tenths(printed));
    }
}

fn as_json(profile: &Profile) -> Value {
    let factors: serde_json::Map<_, _> =
        FACTORS.iter().map(|row| (row.key.to_owned(), json!(profile.factors.of(row.factor).fraction()))).collect();
    let layers: Vec<_> = Layer::ALL
        .into_iter()
        .map(|layer| {
            let note = profile.layer(layer);
            json!({
                "layer": layer.word(), "title": layer.title(), "certainty": note.certainty.word(),
                "threats": note.threats, "assumed": note.assumed, "note": note.note,
            })
        })
        .collect();
    let score = Score::of(profile).map(|score| {
        json!({
            "score": f64::from(score.tenths) / 10.0, "band": Band::of(score.tenths).word(),
            "cvss_base": f64::from(score.base) / 10.0,
            "threat_multiplier": f64::from(score.multiplier) / 100.0,
            "mitigation": f64::from(score.mitigation) / 100.0,
        })
    });
    json!({
        "id": profile.id, "title": profile.title, "summary": profile.summary, "digest": profile.digest(),
        "factors": factors, "factor_sum": f64::from(profile.factors.sum_hundredths()) / 100.0,
        "layers": layers, "aivss": score, "nonconformant": profile.nonconformant(),
    })
}
