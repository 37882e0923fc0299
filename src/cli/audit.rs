//! `weir audit`: check the journal, read it, carry it away.
//!
//! It reads without a lock and without the secret key, so that it can be run beside a gate, and on
//! another machine on an exported file.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _, Write};
use std::path::{Path, PathBuf};

use crate::audit::{Bad, Body, Entry, Head, PublicKey, Reading, Receipt, Verified, ended, table};
use crate::journal::{Reader, home, public_key};
use crate::model::{Limits, canonical};

/// Check the journal, read it, carry it away.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Check every entry, receipt and the head; exit 1 and name the first bad entry if there is one.
    Verify {
        #[command(flatten)]
        source: Source,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Print one line for each call.
    Show {
        #[command(flatten)]
        source: Source,
        /// Only calls of this session.
        #[arg(long, value_name = "NAME")]
        session: Option<String>,
        /// Only the newest N calls.
        #[arg(long, value_name = "N", default_value_t = 50)]
        limit: usize,
        /// Print this call's receipt as JSON instead.
        #[arg(long, value_name = "ID")]
        receipt: Option<String>,
        /// Print receipts as JSON, one per line.
        #[arg(long)]
        json: bool,
    },
    /// Print the entries as JSON lines, and the signed head as the last line.
    Export {
        #[command(flatten)]
        source: Source,
    },
}

/// Which journal is meant.
#[derive(clap::Args)]
pub(super) struct Source {
    /// The store's folder.
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
    /// An exported file instead of a store.
    #[arg(long, value_name = "FILE", conflicts_with = "store")]
    file: Option<PathBuf>,
    /// The public key, from a place that whoever could change the store could not change.
    #[arg(long, value_name = "HEX")]
    key: Option<String>,
}

/// Runs the command; the exit code, or a text for stderr.
///
/// # Errors
/// A store, file or key that cannot be read.
pub fn run(args: Args) -> Result<u8, String> {
    let mut out = anstream::stdout().lock();
    execute(args, &mut out)
}

fn execute(args: Args, out: &mut dyn Write) -> Result<u8, String> {
    let written = match args.command {
        Command::Verify { source, json } => verify(&source, json, out)?,
        Command::Show { source, session, limit, receipt: None, json } => {
            show(&source, session.as_deref(), limit, json, out)?
        }
        Command::Show { source, receipt: Some(id), .. } => receipt(&source, &id, out)?,
        Command::Export { source } => export(&source, out)?,
    };
    match written {
        Ok(code) => Ok(code),
        // Whoever read the output has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(0),
        Err(error) => Err(format!("the output cannot be written: {error}")),
    }
}

/// The exit code, or why the output could not be written.
type Written = io::Result<u8>;

fn verify(source: &Source, json: bool, out: &mut dyn Write) -> Result<Written, String> {
    let read = source.audit(|_| {})?;
    Ok(match (&read, json) {
        (Ok(told), false) => accept(told, out),
        (Err(bad), false) => refuse(bad, out),
        (Ok(told), true) => {
            writeln!(out, "{}", canonical(&serde_json::json!({"ok": true, "journal": told}))).map(|()| 0)
        }
        (Err(bad), true) => writeln!(out, "{}", canonical(&serde_json::json!({"ok": false, "bad": bad}))).map(|()| 1),
    })
}

fn accept(told: &Verified, out: &mut dyn Write) -> Written {
    let Verified { entries, receipts, denials, open, chain } = told;
    writeln!(
        out,
        "sound: {entries} entries, {receipts} receipts ({denials} refused), still without an outcome: {open}"
    )?;
    if *entries > 0 {
        writeln!(out, "head:  {} (keep it elsewhere: it shows if the whole store is ever put back)", chain.head())?;
    }
    Ok(0)
}

fn refuse(bad: &Bad, out: &mut dyn Write) -> Written {
    writeln!(out, "BAD: entry {}: {}", bad.seq, bad.text)?;
    writeln!(out, "Entries before it hold; nothing from it on can be relied on.")?;
    Ok(1)
}

fn show(
    source: &Source,
    session: Option<&str>,
    limit: usize,
    json: bool,
    out: &mut dyn Write,
) -> Result<Written, String> {
    let (mut rows, mut lines) = (VecDeque::new(), VecDeque::new());
    let read = source.audit(|entry| {
        let Some((of, row)) = ended(entry) else { return };
        if session.is_some_and(|session| session != of) {
            return;
        }
        keep(&mut rows, row, limit);
        if let (true, Body::Outcome(outcome)) = (json, &entry.body) {
            keep(&mut lines, canonical(&outcome.receipt), limit);
        }
    })?;
    let mut print = |out: &mut dyn Write| -> Written {
        if json {
            lines.iter().try_for_each(|line| writeln!(out, "{line}"))?;
        } else if rows.is_empty() {
            writeln!(out, "no calls on record")?;
        } else {
            print_table(rows.make_contiguous(), out)?;
        }
        match &read {
            Ok(_) => Ok(0),
            Err(bad) => refuse(bad, out),
        }
    };
    Ok(print(out))
}

fn keep<T>(newest: &mut VecDeque<T>, item: T, limit: usize) {
    newest.push_back(item);
    if newest.len() > limit {
        newest.pop_front();
    }
}

/// Refusals in red on a terminal; the `!` says the same without colour.
fn print_table(rows: &[[String; 8]], out: &mut dyn Write) -> io::Result<()> {
    let (red, bold) = (anstyle::AnsiColor::Red.on_default(), anstyle::Style::new().bold());
    for (line, row) in table(rows).lines().zip(std::iter::once(None).chain(rows.iter().map(Some))) {
        match row {
            None => writeln!(out, "{bold}{line}{bold:#}")?,
            Some([_, decision, ..]) if decision.starts_with('!') => writeln!(out, "{red}{line}{red:#}")?,
            Some(_) => writeln!(out, "{line}")?,
        }
    }
    Ok(())
}

fn receipt(source: &Source, id: &str, out: &mut dyn Write) -> Result<Written, String> {
    let mut found: Option<Receipt> = None;
    let read = source.audit(|entry| match &entry.body {
        Body::Outcome(outcome) if outcome.call.as_str() == id => found = Some(outcome.receipt.clone()),
        _ => {}
    })?;
    if let Err(bad) = &read {
        return Ok(refuse(bad, out));
    }
    let found = found.ok_or_else(|| format!("no receipt has the id `{}`", crate::audit::clean(id)))?;
    let text = serde_json::to_string_pretty(&found).map_err(|error| error.to_string())?;
    Ok(writeln!(out, "{text}").map(|()| 0))
}

/// Exports what is there, sound or not: the verdict belongs to whoever checks the file.
fn export(source: &Source, out: &mut dyn Write) -> Result<Written, String> {
    let mut written = Ok(());
    let head = source.read(&mut |text| {
        if written.is_ok() {
            // A line end inside an entry is a forgery; kept on its line, it stays one.
            written = writeln!(out, "{}", text.replace(['\n', '\r'], " "));
        }
    })?;
    if let (Ok(()), Some(head)) = (&written, &head) {
        written = writeln!(out, "{}", canonical(head));
    }
    Ok(written.and_then(|()| out.flush()).map(|()| 0))
}

impl Source {
    /// The store's folder.
    pub(super) fn dir(&self) -> Result<PathBuf, String> {
        home(self.store.clone())
    }

    fn public_key(&self) -> Result<PublicKey, String> {
        match &self.key {
            Some(hex) => {
                PublicKey::parse(hex).ok_or_else(|| "--key wants 64 hexadecimal digits of a public key".into())
            }
            None => public_key(&self.dir()?),
        }
    }

    /// Every entry's text, and the head when there is one.
    fn read(&self, each: &mut dyn FnMut(String)) -> Result<Option<Head>, String> {
        match &self.file {
            Some(path) => read_file(path, each),
            None => Reader::open(&self.dir()?).and_then(|reader| reader.replay(each)).map_err(|fault| fault.0),
        }
    }

    /// Reads and checks; the outer error is that it could not be read.
    pub(super) fn audit(&self, mut each: impl FnMut(&Entry)) -> Result<Result<Verified, Bad>, String> {
        let key = self.public_key()?;
        let mut reading = Reading::auditing(&key);
        let head = self.read(&mut |text| {
            if let Some(entry) = reading.add(text) {
                each(&entry);
            }
        })?;
        let read = reading.finish(head.as_ref());
        let headless = head.is_none() && self.file.is_some();
        Ok(match read {
            Ok(told) if headless => {
                Err(Bad { seq: told.entries, text: "the file does not end with a signed head".into() })
            }
            read => read,
        })
    }
}

/// An exported file: entries one per line, the head as the last.
fn read_file(path: &Path, each: &mut dyn FnMut(String)) -> Result<Option<Head>, String> {
    let cannot = |error: io::Error| format!("{} cannot be read: {error}", path.display());
    let mut file = BufReader::new(File::open(path).map_err(cannot)?);
    let mut held: Option<String> = None;
    while let Some(line) = line(&mut file).map_err(cannot)? {
        if let Some(entry) = held.replace(line) {
            each(entry);
        }
    }
    let Some(last) = held else { return Ok(None) };
    match serde_json::from_str(&last) {
        Ok(head) => Ok(Some(head)),
        Err(_) => {
            each(last);
            Ok(None)
        }
    }
}

/// The next line without its end; one that is too long comes in pieces, none of which is an entry.
fn line(file: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut bytes = Vec::new();
    let most = Limits::JSON_BYTES as u64 + 2;
    if file.by_ref().take(most).read_until(b'\n', &mut bytes)? == 0 {
        return Ok(None);
    }
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
    }
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::{Chain, Key};
    use crate::journal::Sqlite;
    use crate::model::{Digest, Name, Timestamp};
    use crate::pep::port::Journal as _;
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn weir(line: &[&str]) -> (Result<u8, String>, String) {
        let cli = Cli::try_parse_from([&["audit"], line].concat()).expect("a command line");
        let mut out = Vec::new();
        let code = execute(cli.args, &mut out);
        (code, String::from_utf8(out).expect("UTF-8"))
    }

    fn store(dir: &Path) {
        let key: Key = crate::journal::key(dir).expect("a key");
        let public = key.public();
        let store = Sqlite::open(dir, Box::new(move |count, hash| Head::sign(count, hash, &key))).expect("a store");
        let mut chain = Chain::default();
        let policy = || Body::Policy {
            id: Name::new("p").expect("a name"),
            digest: Digest::ZERO,
            before: None,
            windows: Vec::new(),
        };
        for body in [Body::open("0.1.0", &public), policy(), policy()] {
            store.append(chain.append(Timestamp(0), body)).wait().expect("durable");
        }
    }

    #[test]
    fn a_store_and_its_export_verify_and_damage_is_named() {
        let dir = tempfile::tempdir().expect("a folder");
        let at = dir.path().to_str().expect("UTF-8");
        store(dir.path());
        let (code, text) = weir(&["verify", "--store", at]);
        assert!(code == Ok(0) && text.starts_with("sound: 3 entries, 0 receipts"), "{text}");
        let (_, exported) = weir(&["export", "--store", at]);
        assert_eq!(exported.lines().count(), 4);
        let file = dir.path().join("journal.jsonl");
        let name = file.to_str().expect("UTF-8");
        let key = std::fs::read_to_string(dir.path().join("signing.pub")).expect("a key");
        let check = |text: &str| {
            std::fs::write(&file, text).expect("written");
            weir(&["verify", "--json", "--file", name, "--key", key.trim()])
        };
        assert_eq!(check(&exported).0, Ok(0));
        let (code, text) = check(&exported.replacen("0.1.0", "0.1.1", 1));
        assert!(code == Ok(1) && text.contains("\"seq\":0"), "{text}");
        let cut = exported.lines().take(3).collect::<Vec<_>>().join("\n");
        let (code, text) = check(&cut);
        assert!(code == Ok(1) && text.contains("does not end with a signed head"), "{text}");
        assert_eq!(check("").0, Ok(1));
    }

    #[test]
    fn what_cannot_be_read_is_a_text_for_a_person() {
        let dir = tempfile::tempdir().expect("a folder");
        let at = dir.path().to_str().expect("UTF-8");
        assert!(weir(&["verify", "--store", at]).0.expect_err("no key").contains("give the public key with --key"));
        let key = Key::from_seed(&[1; 32]).public().hex();
        let missing = weir(&["show", "--store", at, "--key", &key]).0.expect_err("no journal");
        assert!(missing.contains("nothing has been recorded yet"), "{missing}");
        assert!(weir(&["verify", "--store", at, "--key", "x"]).0.expect_err("no key").contains("64 hexadecimal"));
        store(dir.path());
        assert_eq!(weir(&["show", "--store", at]), (Ok(0), "no calls on record\n".into()));
        let unknown = weir(&["show", "--store", at, "--receipt", "x\u{1b}"]).0.expect_err("no receipt");
        assert_eq!(unknown, "no receipt has the id `x\\u{1b}`");
    }
}
