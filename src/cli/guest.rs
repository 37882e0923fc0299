//! `weir guest`: builds the sandbox's interpreters ahead of time, takes what was built elsewhere, shows what there is.

mod packages;

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use clap::Subcommand;
use clap::builder::PossibleValuesParser;
use indicatif::{ProgressBar, ProgressStyle};

use crate::sandbox::{Guest, Progress};

/// Build, add or list the guests that run generated code.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Build and compile a guest, unless the cache has it (about half a minute; needs pip, or npm for JavaScript).
    Build {
        /// Which one.
        #[arg(default_value = "python", value_parser = PossibleValuesParser::new(Guest::names()))]
        guest: String,
    },
    /// Take a component that you built by its recipe (docs/numpy.md): check, compile and try it, and use it from then on.
    Add {
        /// Which guest it is.
        #[arg(value_parser = PossibleValuesParser::new(Guest::addable()))]
        guest: String,
        /// The component.
        file: PathBuf,
    },
    /// Fetch, check and prepare the packages that policies grant, so that a gate can start with them.
    Packages(packages::Args),
    /// Show the guests, their digests, and what of them is built.
    Ls,
    /// Remove what other versions of weir have built; stop those first, they look for it when they start a worker.
    Prune,
}

/// Runs the command; the exit code.
///
/// # Errors
/// What went wrong and what to do about it, for standard error.
pub fn run(args: Args) -> Result<u8, String> {
    let guests = match args.command {
        Command::Packages(args) => return packages::run(args),
        Command::Prune => return said(&removed(&Guest::prune(None).map_err(|fault| fault.to_string())?)),
        Command::Build { guest } => Guest::build(&guest, None, &Shown::default()).map(|guest| vec![guest]),
        Command::Add { guest, file } => Guest::add(&guest, &file, None, &Shown::default()).map(|guest| vec![guest]),
        Command::Ls => Guest::all(None),
    };
    said(&guests.map_err(|fault| fault.to_string())?.iter().map(listing).collect::<String>())
}

fn said(text: &str) -> Result<u8, String> {
    std::io::stdout().write_all(text.as_bytes()).map_err(|error| error.to_string())?;
    Ok(0)
}

fn removed(gone: &[(String, u64)]) -> String {
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    let all = megabytes(gone.iter().map(|(_, bytes)| bytes).sum());
    let mut text: String =
        gone.iter().map(|(file, bytes)| format!("  {:>8.1} MB   {file}\n", megabytes(*bytes))).collect();
    text.push_str(&match gone.len() {
        0 => "nothing to remove: every guest in the cache is in use\n".to_owned(),
        count => format!("{count} files removed, {all:.1} MB; what is needed again is built again\n"),
    });
    text
}

fn listing(guest: &Guest) -> String {
    let Guest { name, language, world, capabilities, digest, command, cache, files, .. } = guest;
    let mut text = format!("{name}  {language}\n  world         {world}\n");
    if let Some(digest) = digest {
        text.push_str(&format!("  digest        sha256:{digest}\n"));
    }
    text.push_str(&format!("  capabilities  {}\n  cache         {}\n", capabilities.join(", "), cache.display()));
    for (file, bytes) in files {
        let stale = if guest.is_current(file) { "" } else { "  (of another version; `weir guest prune` removes it)" };
        text.push_str(&format!("  {:>8.1} MB   {file}{stale}\n", *bytes as f64 / 1e6));
    }
    if !guest.is_built() {
        text.push_str(&format!("  not built yet: `{command}`\n"));
    }
    text
}

/// Shows the steps of a first build: a spinner on a terminal, plain lines elsewhere; on standard error.
#[derive(Debug, Default)]
pub struct Shown(Mutex<Option<ProgressBar>>);

impl Progress for Shown {
    fn step(&self, what: &str) {
        if !std::io::stderr().is_terminal() {
            let _ = writeln!(std::io::stderr(), "weir: sandbox: {what}");
            return;
        }
        let mut shown = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let bar = shown.get_or_insert_with(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} sandbox, first use: {msg} [{elapsed}]") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        bar.set_message(what.to_owned());
    }

    fn done(&self) {
        if let Some(bar) = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take() {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_listing_says_what_is_built_and_what_is_stale() {
        let mut guest = Guest {
            name: "python".into(),
            language: "CPython".into(),
            world: "weir:guest/python".into(),
            capabilities: vec!["host.call".into()],
            digest: Some("0123456789abcdef0000".into()),
            command: "weir guest build python".into(),
            cache: "/cache/".into(),
            files: vec![("python-ffff.wasm".into(), 24_000_000)],
            stem: Some("python-0123456789abcdef".into()),
            compiled: Some("python-0123456789abcdef-01".into()),
        };
        let text = listing(&guest);
        assert!(
            text.contains("24.0 MB   python-ffff.wasm  (of another version")
                && text.contains("not built yet: `weir guest build"),
            "{text}"
        );
        guest.files.push(("python-0123456789abcdef.wasm".into(), 1));
        assert!(!listing(&guest).contains("not built yet"));
        for (rest, current) in [(".wasm", true), ("-9.pressed", true), ("-01.cwasm", true), ("-02.cwasm", false)] {
            assert_eq!(guest.is_current(&format!("python-0123456789abcdef{rest}")), current, "{rest}");
        }
        (guest.digest, guest.stem) = (None, None);
        let text = listing(&guest);
        assert!(text.contains("not built yet") && !text.contains("sha256"), "{text}");
    }
}
