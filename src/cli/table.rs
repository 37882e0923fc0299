//! Texts for a terminal: columns of one width, and words that cannot move a cursor.

use serde_json::Value;

use crate::surface::visible;

/// Rows with columns of one width, without spaces at the ends of lines.
pub(super) fn aligned<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column).map(|cell| cell.chars().count())).max();
    let widths: Vec<usize> = (0..N).filter_map(width).collect();
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

/// A text or a number as one harmless word.
pub(super) fn word(value: &Value) -> String {
    value.as_str().map_or_else(|| visible(&value.to_string(), 130), |text| visible(text, 130))
}

/// A span in its largest unit of which there are two.
pub(super) fn span(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}
