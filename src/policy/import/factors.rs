//! The rationale of a listing: ten factor rows and, on a full page, the numbers of the score.

use super::super::profile_toml::{MITIGATION_MAX, MULTIPLIER_MAX};
use super::super::reader::{decimal, list, nearest, shown};
use super::{Line, Log};
use crate::model::{FACTORS, Factor, FactorRow, Factors, Level};

/// What the rationale says.
pub(super) struct Rationale {
    pub factors: Factors,
    pub cvss_base: Option<u8>,
    pub aars: Option<u16>,
    pub factor_sum: Option<u16>,
    pub threat_multiplier: Option<u16>,
    pub mitigation: Option<u16>,
}

/// The labels of the number line, in the order in which they stand.
const NUMBERS: [(&str, u32); 5] = [
    ("CVSS base", 1000),
    ("AARS uplift", 1000),
    ("Factor sum", 1000),
    ("Threat", MULTIPLIER_MAX),
    ("Mitigation", MITIGATION_MAX),
];

pub(super) fn read(lines: &[Line<'_>], heading: usize, log: &mut Log<'_>) -> Option<Rationale> {
    let mut factors = Factors::default();
    let mut seen: Vec<(Factor, usize)> = Vec::new();
    let mut numbers = [None; 5];
    let mut complete = true;
    for line in lines {
        if line.text.starts_with("CVSS base") {
            numbers = read_numbers(line, log);
        } else if let Some((label, value)) = row(line.text) {
            complete &= read_row(line, label, value, &mut seen, &mut factors, log);
        } else if !is_prose(line.text) {
            log.fault(line.number, format!("unknown heading `{}`", shown(line.text)));
        }
    }
    for row in FACTORS.iter().filter(|row| seen.iter().all(|(factor, _)| *factor != row.factor)) {
        complete = false;
        log.fault(heading, format!("the factor `{}` is missing", row.label));
    }
    let [base, aars, sum, multiplier, mitigation] = numbers;
    let narrow = |value: Option<u32>| value.and_then(|value| u16::try_from(value).ok());
    complete.then_some(Rationale {
        factors,
        cvss_base: base.and_then(|value| u8::try_from(value / 10).ok()),
        aars: narrow(aars),
        factor_sum: narrow(sum),
        threat_multiplier: narrow(multiplier),
        mitigation: narrow(mitigation),
    })
}

/// A row `| label | value | |`, or `label value`: label and value.
fn row(line: &str) -> Option<(&str, &str)> {
    if let Some(inner) = line.strip_prefix('|') {
        let mut cells = inner.split('|').map(str::trim);
        return Some((cells.next().unwrap_or_default(), cells.next().unwrap_or_default()));
    }
    let known = FACTORS.iter().find_map(|row| line.strip_prefix(row.label).map(|rest| (row.label, rest)));
    if let Some((label, rest)) = known {
        return Some((label, rest.trim()));
    }
    let (label, value) = line.rsplit_once([' ', '\t'])?;
    let plain = label.len() < 60 && !label.contains(['=', '×', '(']);
    (plain && decimal(value).is_some()).then_some((label.trim(), value))
}

fn read_row(
    line: &Line<'_>,
    label: &str,
    value: &str,
    seen: &mut Vec<(Factor, usize)>,
    factors: &mut Factors,
    log: &mut Log<'_>,
) -> bool {
    let Some(row) = FACTORS.iter().find(|row| row.label.eq_ignore_ascii_case(label)) else {
        log.fault(line.number, unknown(label));
        return false;
    };
    if let Some((_, first)) = seen.iter().find(|(factor, _)| *factor == row.factor) {
        log.fault(line.number, format!("the factor `{}` stands twice, first on line {first}", row.label));
        return false;
    }
    seen.push((row.factor, line.number));
    let level = level(value);
    if let Some(level) = level {
        factors.set(row.factor, level);
    } else {
        let wanted = "0.00 to 1.00 with at most two decimals";
        log.fault(line.number, format!("the factor `{}` is {wanted}, not `{}`", row.label, shown(value)));
    }
    level.is_some()
}

fn unknown(label: &str) -> String {
    let hint = nearest(label, FACTORS.iter().map(|row: &FactorRow| row.label));
    let hint = if hint.is_empty() { format!("; they are {}", list(FACTORS.iter().map(|row| row.label))) } else { hint };
    format!("unknown factor `{}`{hint}", shown(label))
}

fn level(text: &str) -> Option<Level> {
    decimal(text).and_then(|n| u8::try_from(n).ok()).and_then(Level::from_hundredths)
}

/// Explanations: sentences, formulas, notes. A short line of plain words is a heading.
fn is_prose(line: &str) -> bool {
    line.ends_with(['.', ')']) || line.contains(['=', '×']) || line.starts_with("Scored with") || line.len() > 80
}

/// `CVSS base 8.5AARS uplift 1.02Factor sum 7.0/10Threat ×0.97Mitigation ×1.00`, in hundredths.
fn read_numbers(line: &Line<'_>, log: &mut Log<'_>) -> [Option<u32>; 5] {
    let mut numbers = [None; 5];
    let mut rest = line.text;
    for (slot, (label, max)) in numbers.iter_mut().zip(NUMBERS) {
        let Some((_, after)) = rest.split_once(label) else {
            log.fault(line.number, format!("the line of the score lacks `{label}`"));
            continue;
        };
        let after = after.trim_start_matches([' ', '\t', ':', '×', 'x']);
        let end = after.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(after.len());
        let (number, tail) = after.split_at(end);
        *slot = decimal(number).filter(|value| *value <= max);
        if slot.is_none() || (label == "CVSS base" && slot.is_some_and(|value| value % 10 != 0)) {
            let high = format!("{}.{:02}", max / 100, max % 100);
            log.fault(line.number, format!("`{label}` is a number up to {high}, not `{}`", shown(number)));
        }
        rest = tail;
    }
    numbers
}
