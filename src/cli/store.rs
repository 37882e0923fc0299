//! `weir store`: whether the store is sound, a backup of it beside a running gate, and the way back.
//!
//! The work is done in `journal`; this file names folders, prints, and turns findings into exit codes: 0
//! sound or done, 1 not sound, 2 it could not be done.

use std::io::{self, Write};
use std::path::PathBuf;

use crate::audit::PublicKey;
use crate::journal::{self, Copied, Report, Terms};
use crate::model::{Digest, canonical};

/// Check the store, back it up, restore it.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
    /// The store's folder [default: `$WEIR_HOME`, or the user's state folder].
    #[arg(long, value_name = "DIR", global = true)]
    store: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Read all of the store, beside a running gate if there is one: pages, chain, books, mark; exit 1 when
    /// something is wrong.
    Check {
        /// The public key, from a place that whoever could change the store could not change.
        #[arg(long, value_name = "HEX")]
        key: Option<String>,
        /// A head that was kept elsewhere: the journal must hold that entry.
        #[arg(long, value_name = "HASH")]
        after: Option<String>,
    },
    /// Copy the store as it is at one moment to a folder that holds none; a gate may be running.
    Backup {
        /// The folder to copy to.
        #[arg(value_name = "DIR")]
        to: PathBuf,
        /// Copy the secret key as well: whoever has the backup can then write history in this store's name.
        #[arg(long)]
        with_key: bool,
    },
    /// Put a backup into the store's folder, which must not hold a journal.
    Restore {
        /// The folder of the backup.
        #[arg(value_name = "DIR")]
        from: PathBuf,
        /// A head that was kept elsewhere: the backup must hold that entry.
        #[arg(long, value_name = "HASH")]
        after: Option<String>,
        /// Take a backup that is older than the store was: what was spent since is forgotten.
        #[arg(long)]
        accept_loss: bool,
    },
}

/// Runs the command; the exit code, or a text for stderr.
///
/// # Errors
/// A folder, file or key that cannot be used, a refused restore.
pub fn run(args: Args) -> Result<u8, String> {
    execute(args, &mut anstream::stdout().lock())
}

fn execute(args: Args, out: &mut dyn Write) -> Result<u8, String> {
    let Args { command, store, json } = args;
    let dir = journal::home(store)?;
    let written = match command {
        Command::Check { key, after } => {
            let key = match key {
                Some(hex) => PublicKey::parse(&hex).ok_or("--key wants 64 hexadecimal digits of a public key")?,
                None => journal::public_key(&dir)?,
            };
            let report = journal::check(&dir, &key, hash(after)?).map_err(|fault| fault.0)?;
            if json { object(&report, out) } else { findings(&report, out) }
                .map(|()| u8::from(!report.findings.is_empty()))
        }
        Command::Backup { to, with_key } => {
            let made = journal::backup(&dir, &to, with_key).map_err(|fault| fault.0)?;
            if json { object(&made, out) } else { backed_up(made, out) }.map(|()| 0)
        }
        Command::Restore { from, after, accept_loss } => {
            let terms = Terms { after: hash(after)?, accept_loss };
            let made = journal::restore(&from, &dir, terms).map_err(|fault| fault.0)?;
            if json { object(&made, out) } else { restored(made, out) }.map(|()| 0)
        }
    };
    match written {
        Ok(code) => Ok(code),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(0),
        Err(error) => Err(format!("the output cannot be written: {error}")),
    }
}

fn hash(text: Option<String>) -> Result<Option<Digest>, String> {
    let parse = |text: String| {
        Digest::parse(&text).ok_or_else(|| "--after wants a head as `weir store check` prints it: sha256:…".to_owned())
    };
    text.map(parse).transpose()
}

fn object(value: &impl serde::Serialize, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "{}", canonical(value))
}

fn findings(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    if report.findings.is_empty() {
        let told = &report.journal;
        writeln!(
            out,
            "sound: {} entries, {} receipts, {} calls without an outcome",
            told.entries, told.receipts, told.open
        )?;
        return keep(report.head, out);
    }
    for finding in &report.findings {
        writeln!(out, "BAD {}: {}", finding.part, finding.text)?;
        writeln!(out, "    {}", finding.advice)?;
    }
    Ok(())
}

fn backed_up(made: Copied, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "copied and checked: {} entries", made.entries)?;
    if made.key {
        writeln!(out, "key:  in the backup; keep it as you keep the key")?;
    } else {
        writeln!(out, "key:  not in the backup; without signing.key the journal can be read but not continued")?;
    }
    keep(made.head, out)
}

fn restored(made: Copied, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "restored and checked: {} entries", made.entries)?;
    if made.lost > 0 {
        writeln!(out, "lost: {} confirmed entries; what they spent is forgotten, so lower the budgets", made.lost)?;
    }
    keep(made.head, out)
}

fn keep(head: Digest, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "head: {head} (keep it elsewhere: `--after` shows then if an older store is put back)")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::{Body, Chain, Head};
    use crate::journal::Sqlite;
    use crate::model::Timestamp;
    use crate::pep::port::Journal as _;
    use clap::Parser as _;
    use std::path::Path;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn weir(line: &[&str]) -> (Result<u8, String>, String) {
        let cli = Cli::try_parse_from([&["store"], line].concat()).expect("a command line");
        let mut out = Vec::new();
        let code = execute(cli.args, &mut out);
        (code, String::from_utf8(out).expect("UTF-8"))
    }

    fn store(dir: &Path) {
        let key = journal::key(dir).expect("a key");
        let public = key.public();
        let store = Sqlite::open(dir, Box::new(move |count, hash| Head::sign(count, hash, &key))).expect("a store");
        let entry = Chain::default().append(Timestamp(0), Body::open("0.1.0", &public));
        store.append(entry).wait().expect("durable");
    }

    #[test]
    fn a_store_goes_to_a_backup_and_comes_back_by_command() {
        let dir = tempfile::tempdir().expect("a folder");
        let at = |name: &str| dir.path().join(name).to_str().expect("UTF-8").to_owned();
        let (here, copy, there) = (at("here"), at("copy"), at("there"));
        store(Path::new(&here));
        let (code, text) = weir(&["check", "--store", &here]);
        assert!(code == Ok(0) && text.starts_with("sound: 1 entries"), "{text}");
        let head = text.split_whitespace().find(|word| word.starts_with("sha256:")).expect("a head").to_owned();
        let (code, text) = weir(&["backup", &copy, "--store", &here]);
        assert!(code == Ok(0) && text.contains("not in the backup") && text.contains(&head), "{text}");
        let refused = weir(&["restore", &copy, "--store", &there]).0.expect_err("no key");
        assert!(refused.contains("signing.key"), "{refused}");
        std::fs::copy(format!("{here}/signing.key"), format!("{there}/signing.key")).expect("copied");
        let (code, text) = weir(&["restore", &copy, "--store", &there, "--after", &head, "--json"]);
        assert!(code == Ok(0) && text.contains("\"entries\":1"), "{text}");
        assert_eq!(weir(&["check", "--store", &there, "--after", &head]).0, Ok(0));
        let other = Digest::of(b"another").to_string();
        let (code, text) = weir(&["check", "--store", &there, "--after", &other]);
        assert!(code == Ok(1) && text.starts_with("BAD after:"), "{text}");
        assert!(weir(&["check", "--store", &there, "--after", "x"]).0.is_err_and(|text| text.contains("sha256:")));
    }
}
