//! Where the store is: `--store`, then `WEIR_HOME`, then the user's state folder.

use std::env;
use std::path::PathBuf;

/// The folder of the journal and the key: `given`, or `$WEIR_HOME`, or `$XDG_STATE_HOME/weir`, or
/// `~/.local/state/weir`. Empty variables count as unset; relative XDG paths are ignored, as the XDG
/// Base Directory Specification demands. Nothing is created.
///
/// # Errors
/// None of them is set: a sentence for stderr.
pub fn home(given: Option<PathBuf>) -> Result<PathBuf, String> {
    choose(given, |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from))
}

fn choose(given: Option<PathBuf>, var: impl Fn(&str) -> Option<PathBuf>) -> Result<PathBuf, String> {
    let xdg = || var("XDG_STATE_HOME").filter(|path| path.is_absolute()).map(|path| path.join("weir"));
    let user = || var("HOME").map(|path| path.join(".local/state/weir"));
    given
        .or_else(|| var("WEIR_HOME"))
        .or_else(xdg)
        .or_else(user)
        .ok_or_else(|| "no folder for the store: give --store DIR, or set WEIR_HOME".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_setting_wins() {
        let set = |names: &'static [(&'static str, &'static str)]| {
            move |name: &str| names.iter().find(|(key, _)| *key == name).map(|(_, value)| PathBuf::from(value))
        };
        let all = set(&[("WEIR_HOME", "/w"), ("XDG_STATE_HOME", "/x"), ("HOME", "/h")]);
        assert_eq!(choose(Some("here".into()), all), Ok("here".into()));
        assert_eq!(choose(None, all), Ok("/w".into()));
        assert_eq!(choose(None, set(&[("XDG_STATE_HOME", "/x"), ("HOME", "/h")])), Ok("/x/weir".into()));
        assert_eq!(choose(None, set(&[("XDG_STATE_HOME", "x"), ("HOME", "/h")])), Ok("/h/.local/state/weir".into()));
        assert!(choose(None, set(&[])).unwrap_err().contains("--store"));
    }
}
