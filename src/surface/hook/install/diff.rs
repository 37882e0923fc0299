//! A change as lines, for a person to read before saying yes.

/// Unchanged lines shown around a change.
const AROUND: usize = 3;

/// Lines that go with `-`, that come with `+`, and some of those around.
pub(super) fn lines(before: &str, after: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    let same = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    let rest = old.len().min(new.len()) - same;
    let tail = old.iter().rev().zip(new.iter().rev()).take(rest).take_while(|(a, b)| a == b).count();
    let middle = |lines: &[&str], mark: &str| -> String {
        let end = lines.len() - tail;
        lines.get(same..end).unwrap_or_default().iter().map(|line| format!("{mark}{line}\n")).collect()
    };
    let shown = |lines: &[&str]| lines.iter().map(|line| format!(" {line}\n")).collect::<String>();
    let head = old.get(same.saturating_sub(AROUND)..same).unwrap_or_default();
    let foot = old.get(old.len() - tail..(old.len() - tail + AROUND).min(old.len())).unwrap_or_default();
    [shown(head), middle(&old, "-"), middle(&new, "+"), shown(foot)].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_and_comes_is_shown_with_what_is_around() {
        assert_eq!(lines("a\nb\nc\nd\ne\nf\n", "a\nb\nc\nd\nx\ny\nf\n"), " b\n c\n d\n-e\n+x\n+y\n f\n");
        assert_eq!(lines("", "a\n"), "+a\n");
        assert_eq!(lines("a\na\n", "a\n"), " a\n-a\n");
        assert_eq!(lines("a\n", "a\n"), " a\n");
    }
}
