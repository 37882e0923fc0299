//! What a wheel says of itself: `WHEEL` (is it pure?) and `METADATA` (what is it, what does it need?).
//!
//! Both are headers, one a line, up to an empty line. Nothing here opens an archive.

use super::wheel::WheelFault;

/// The headers of `text` named `name`, whatever their case.
fn headers<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    let lines = text.lines().take_while(|line| !line.trim().is_empty());
    let named = lines.filter_map(|line| line.split_once(':')).filter(|(key, _)| key.eq_ignore_ascii_case(name));
    named.map(|(_, value)| value.trim()).collect()
}

/// A distribution's name as names are compared: small letters, one `_` for every run of `-`, `_` and `.`.
pub(crate) fn normal(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for part in name.split(['-', '_', '.']).filter(|part| !part.is_empty()) {
        if !text.is_empty() {
            text.push('_');
        }
        text.push_str(&part.to_ascii_lowercase());
    }
    text
}

/// Checks that `WHEEL` promises pure Python for any machine.
///
/// # Errors
/// [`WheelFault::Native`], or [`WheelFault::Form`] for a format that is not known here.
pub(super) fn pure(wheel: &str) -> Result<(), WheelFault> {
    let version = headers(wheel, "Wheel-Version");
    if !version.iter().all(|version| version.starts_with("1.")) || version.len() != 1 {
        return Err(WheelFault::Form("WHEEL names no format 1"));
    }
    if headers(wheel, "Root-Is-Purelib") != ["true"] {
        return Err(WheelFault::Native("WHEEL does not say `Root-Is-Purelib: true`".into()));
    }
    let tags = headers(wheel, "Tag");
    if let Some(tag) = tags.iter().find(|tag| !tag.ends_with("-none-any")) {
        return Err(WheelFault::Native(format!("its tag is {}", tag.chars().take(60).collect::<String>())));
    }
    let three = |tag: &&str| tag.split('-').next().is_some_and(|python| python.contains("py3") || python == "cp314");
    if tags.iter().any(three) { Ok(()) } else { Err(WheelFault::Form("WHEEL has no tag for Python 3")) }
}

/// Checks that `METADATA` is of `name` at `version`.
///
/// # Errors
/// [`WheelFault::Other`].
pub(super) fn is_of(metadata: &str, name: &str, version: &str) -> Result<(), WheelFault> {
    let (names, versions) = (headers(metadata, "Name"), headers(metadata, "Version"));
    let same = names.iter().all(|found| normal(found) == normal(name)) && versions.iter().all(|own| *own == version);
    if same && names.len() == 1 && versions.len() == 1 {
        return Ok(());
    }
    let said = format!("{} {}", names.join(" "), versions.join(" "));
    Err(WheelFault::Other(said.chars().take(80).collect()))
}

/// What it cannot be imported without: requirements that no marker makes conditional.
pub(super) fn requires(metadata: &str) -> Vec<String> {
    let named = |line: &&str| {
        let name: String = line.chars().take_while(|c| c.is_ascii_alphanumeric() || "-_.".contains(*c)).collect();
        normal(&name)
    };
    headers(metadata, "Requires-Dist").iter().filter(|line| !line.contains(';')).map(named).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PURE: &str =
        "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py2-none-any\nTag: py3-none-any\n";

    #[test]
    fn only_a_wheel_for_any_machine_is_pure() {
        assert_eq!(pure(PURE), Ok(()));
        for (change, to) in [
            ("Root-Is-Purelib: true", "Root-Is-Purelib: false"),
            ("Root-Is-Purelib: true\n", ""),
            ("py3-none-any", "cp314-cp314-linux_x86_64"),
            ("py3-none-any", "py3-none-linux_x86_64"),
            ("Tag: py3-none-any", ""),
            ("Wheel-Version: 1.0", "Wheel-Version: 2.0"),
            ("Wheel-Version: 1.0\n", ""),
        ] {
            assert!(pure(&PURE.replace(change, to)).is_err(), "{change} -> {to}");
        }
    }

    #[test]
    fn names_are_compared_as_an_index_compares_them() {
        assert_eq!(normal("Python-DateUtil"), normal("python_dateutil"));
        assert_eq!(normal("zope.interface"), normal("zope--interface"));
        assert_ne!(normal("six"), normal("sixx"));
        let text = "Metadata-Version: 2.1\nName: Python-DateUtil\nVersion: 4.0.0\n\nName: other\n";
        assert_eq!(is_of(text, "python_dateutil", "4.0.0"), Ok(()));
        assert!(is_of(text, "python_dateutil", "4.0.1").is_err());
        assert!(is_of(text, "other", "4.0.0").is_err());
        assert!(is_of("Name: a\nName: b\nVersion: 1\n", "a", "1").is_err());
    }

    #[test]
    fn what_is_needed_always_is_known_by_name() {
        let text = "Name: a\nRequires-Dist: MarkupSafe>=2.0\nRequires-Dist: Babel (>2) ; extra == \"x\"\n\
                    Requires-Dist: b.c[d]<1\n\nRequires-Dist: of-the-text\n";
        assert_eq!(requires(text), ["markupsafe", "b_c"]);
    }
}
