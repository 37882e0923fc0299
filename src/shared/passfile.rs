//! A password out of a file in libpq's form: one `host:port:database:user:password` a line, `*` for anything, `\` before
//! a `:` or `\` that is meant.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// The password of the first line of `path` that fits.
///
/// # Errors
/// A sentence: the file cannot be read, others can read it, or no line fits.
pub(super) fn password(path: &Path, host: &str, port: u16, database: &str, user: &str) -> Result<String, String> {
    let name = path.display();
    let mode = fs::metadata(path).map_err(|error| format!("{name}: {error}"))?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(format!("{name}: others can read it; if nobody has, `chmod 600` it"));
    }
    let text = fs::read_to_string(path).map_err(|error| format!("{name}: {error}"))?;
    let wanted = [host, &port.to_string(), database, user];
    text.lines().find_map(|line| fits(line, wanted)).ok_or_else(|| {
        format!("{name}: no line fits {host}:{port}:{database}:{user}; a line is host:port:database:user:password")
    })
}

fn fits(line: &str, wanted: [&str; 4]) -> Option<String> {
    if line.starts_with('#') {
        return None;
    }
    let fields = fields(line);
    let (password, names) = fields.split_last()?;
    let same = |(field, wanted): (&String, &str)| field == "*" || field == wanted;
    (names.len() == 4 && names.iter().zip(wanted).all(same)).then(|| password.clone())
}

fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        match letter {
            ':' if fields.len() < 5 => fields.push(String::new()),
            '\\' => fields.last_mut().into_iter().for_each(|field| field.extend(letters.next())),
            letter => fields.last_mut().into_iter().for_each(|field| field.push(letter)),
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_that_fits_gives_the_password() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("passfile");
        fs::write(&path, "# a comment\ndb:5432:money:gate:first\n*:*:*:gate:a\\:b\\\\c\n*:*:*:*:last\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let of = |host, user| password(&path, host, 5432, "money", user);
        assert_eq!(of("db", "gate"), Ok("first".into()));
        assert_eq!(of("other", "gate"), Ok("a:b\\c".into()));
        assert_eq!(of("other", "somebody"), Ok("last".into()));
        fs::write(&path, "db:5432:money:gate:first\n").unwrap();
        assert!(of("db", "somebody").unwrap_err().contains("no line fits"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(of("db", "gate").unwrap_err().contains("others can read it"));
    }
}
