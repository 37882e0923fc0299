//! A wheel's `RECORD`: every file of it, with its SHA-256 and its size, as lines of comma-separated values.
//!
//! The pin holds the archive as a whole; this holds each file in it, and says that there is none more and none less.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::wheel::WheelFault;
use crate::model::Digest;

/// Endings of what cannot be recorded in `RECORD`: itself and its signatures.
const UNRECORDED: [&str; 3] = ["RECORD", "RECORD.jws", "RECORD.p7s"];

/// Checks that `files` are exactly what `record`, which lies in `folder`, says.
///
/// # Errors
/// [`WheelFault::Record`].
pub(super) fn check(record: &str, folder: &str, files: &BTreeMap<String, Vec<u8>>) -> Result<(), WheelFault> {
    let unrecorded = |path: &str| {
        let name = path.strip_prefix(folder).and_then(|rest| rest.strip_prefix('/'));
        name.is_some_and(|name| UNRECORDED.contains(&name))
    };
    let mut seen = BTreeMap::new();
    for line in record.lines().filter(|line| !line.is_empty()) {
        let fields = fields(line).ok_or_else(|| fault("a line of it cannot be read", line))?;
        let [path, hash, size] = fields.as_slice() else { return Err(fault("a line has not three fields", line)) };
        if seen.insert(path.clone(), ()).is_some() {
            return Err(fault("it names a file twice", path));
        }
        if unrecorded(path) {
            continue;
        }
        let content = files.get(path).ok_or_else(|| fault("it names a file that is not there", path))?;
        let wanted = hash.strip_prefix("sha256=").and_then(|text| URL_SAFE_NO_PAD.decode(text).ok());
        let wanted = wanted.ok_or_else(|| fault("it has no SHA-256 of a file", path))?;
        let sized = size.is_empty() || size.parse() == Ok(content.len());
        if wanted != Digest::of(content).0 || !sized {
            return Err(fault("a file is not what it says", path));
        }
    }
    let more = files.keys().find(|path| !seen.contains_key(*path) && !unrecorded(path));
    more.map_or(Ok(()), |path| Err(fault("it does not name a file", path)))
}

fn fault(what: &'static str, of: &str) -> WheelFault {
    WheelFault::Record(what, of.chars().take(80).collect())
}

/// The fields of one line; a quoted one may hold commas and doubled quotes.
fn fields(line: &str) -> Option<Vec<String>> {
    let (mut fields, mut rest) = (Vec::new(), line);
    loop {
        let (field, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted_field(quoted)?,
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                let (field, after) = rest.split_at(end);
                (field.to_owned(), after)
            }
        };
        fields.push(field);
        if after.is_empty() {
            return Some(fields);
        }
        rest = after.strip_prefix(',')?;
    }
}

/// A field behind its opening quote, and what follows its closing one.
fn quoted_field(quoted: &str) -> Option<(String, &str)> {
    let (mut field, mut rest) = (String::new(), quoted);
    loop {
        let (part, after) = rest.split_once('"')?;
        field.push_str(part);
        match after.strip_prefix('"') {
            Some(more) => {
                field.push('"');
                rest = more;
            }
            None => return Some((field, after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(path: &str, content: &[u8]) -> String {
        format!("{path},sha256={},{}\n", URL_SAFE_NO_PAD.encode(Digest::of(content).0), content.len())
    }

    #[test]
    fn files_are_exactly_what_is_recorded() {
        let files: BTreeMap<String, Vec<u8>> =
            [("a.py", "1"), ("b,c.txt", "2"), ("x.dist-info/RECORD", "")].map(|(n, c)| (n.into(), c.into())).into();
        let own = "x.dist-info/RECORD,,\n";
        let whole = format!("{}{}{own}", line("a.py", b"1"), line("\"b,c.txt\"", b"2"));
        assert_eq!(check(&whole, "x.dist-info", &files), Ok(()));
        for (record, told) in [
            (format!("{}{own}", line("a.py", b"1")), "does not name"),
            (format!("{whole}{}", line("d.py", b"1")), "not there"),
            (format!("{whole}{}", line("a.py", b"1")), "twice"),
            (whole.replace(&line("a.py", b"1"), &line("a.py", b"x")), "not what it says"),
            (whole.replace(",1\n", ",2\n"), "not what it says"),
            (whole.replace("sha256=", "md5="), "no SHA-256"),
            (whole.replace("a.py,", "a.py,more,"), "three fields"),
            (format!("{whole}\"open,,\n"), "cannot be read"),
        ] {
            let fault = check(&record, "x.dist-info", &files).unwrap_err().to_string();
            assert!(fault.contains(told), "{told}: {fault}");
        }
    }

    #[test]
    fn any_line_is_read_or_refused() {
        assert_eq!(fields("\"a\"\"b\",c").unwrap(), ["a\"b", "c"]);
        assert_eq!(fields("a,,").unwrap(), ["a", "", ""]);
        assert_eq!(fields("\"a\"b"), None);
        assert_eq!(fields("\""), None);
    }
}
