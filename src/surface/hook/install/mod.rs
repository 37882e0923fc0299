//! The settings that make a client use the gate's hooks: planned, shown, written, and taken back exactly.
//!
//! Managed settings are the ones that hold: a client reads them before all others and neither the agent nor a project can
//! switch them off. What stands in a file already is kept; a file that cannot be read is not touched.

mod claude;
mod codex;
mod diff;

use std::fs;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::Client;
use crate::model::Digest;

/// What tells the command that prints the headers of telemetry from others.
const HEADERS: &str = " hook --headers ";
/// Largest settings file, bytes.
const BYTES: u64 = 4 << 20;

/// What is to be installed.
#[derive(Clone, Debug)]
pub struct Wish {
    /// For which client.
    pub client: Client,
    /// For every user, where the agent cannot take it away; otherwise for this user only.
    pub managed: bool,
    /// The `weir` program, by its absolute path.
    pub program: PathBuf,
    /// The gate's Unix socket.
    pub socket: PathBuf,
    /// The file with the agent's token.
    pub token_file: PathBuf,
    /// How long a person's answer is awaited, seconds.
    pub wait_s: u64,
    /// Whether calls about which a person was asked are deferred: for headless runs of Claude Code.
    pub defer: bool,
    /// Where the gate takes telemetry, on loopback: Claude Code only.
    pub telemetry: Option<SocketAddr>,
}

/// Where clients look.
#[derive(Clone, Debug)]
pub struct Layout {
    /// The folder that holds `etc`: `/`, or another one to try it out.
    pub root: PathBuf,
    /// The user's home folder.
    pub home: PathBuf,
}

impl Layout {
    fn file(&self, client: Client, managed: bool) -> PathBuf {
        match (client, managed) {
            (Client::ClaudeCode, true) => self.root.join("etc/claude-code/managed-settings.json"),
            (Client::ClaudeCode, false) => self.home.join(".claude/settings.json"),
            (Client::Codex, true) => self.root.join("etc/codex/requirements.toml"),
            (Client::Codex, false) => self.home.join(".codex/hooks.json"),
        }
    }
}

/// Why settings are not changed; nothing was.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The file is there and not understood.
    #[error("`{0}` is not changed: {1}")]
    Unclear(PathBuf, String),
    /// Others than its owner can change the file, so the agent could.
    #[error("`{0}` can be changed by others than its owner; set its mode to 0644 and its folder's to 0755 first")]
    Open(PathBuf),
    /// There is nothing to take back.
    #[error("`{0}` was not installed from here; there is nothing to take back")]
    NotOurs(PathBuf),
    /// Somebody has changed the file since.
    #[error("`{0}` has changed since it was installed; take the hooks out by hand, or restore it and try again")]
    Changed(PathBuf),
    /// A path that is not absolute, or cannot stand in a command.
    #[error("{0}")]
    Path(String),
    /// Telemetry cannot be set up like this.
    #[error("{0}")]
    Telemetry(&'static str),
    /// The operating system refused.
    #[error("`{0}`: {1}")]
    Io(PathBuf, io::Error),
}

/// A change of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The file.
    pub path: PathBuf,
    /// What it holds now; `None` when it is not there.
    pub before: Option<Vec<u8>>,
    /// What it will hold; `None` when it will be removed.
    pub after: Option<Vec<u8>>,
}

/// What an installation changes, and what takes it back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The settings.
    pub settings: Change,
    /// The record for [`undo`]: what stood there before.
    pub record: Change,
}

/// What stood in a file before, beside it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    /// The bytes in base64; `None` when there was no file.
    before: Option<String>,
    /// The digest of what was installed.
    after: Digest,
}

/// What `wish` changes under `layout`. An installation over an earlier one keeps the record of what stood there first.
///
/// # Errors
/// [`Fault`]; nothing is changed.
pub fn plan(wish: &Wish, layout: &Layout) -> Result<Plan, Fault> {
    let path = layout.file(wish.client, wish.managed);
    let before = read(&path)?;
    guarded(&path, wish.managed)?;
    let command = command(wish)?;
    check_telemetry(wish)?;
    let text = before.as_deref().map(std::str::from_utf8).transpose();
    let text = text.map_err(|_| Fault::Unclear(path.clone(), "it is not UTF-8".to_owned()))?;
    let merged = match (wish.client, wish.managed) {
        (Client::ClaudeCode, managed) => claude::merged(text, &command, &headers(wish)?, wish, managed),
        (Client::Codex, true) => codex::merged(text, &command, wish),
        (Client::Codex, false) => claude::merged_hooks(text, &command, wish),
    };
    let after = merged.map_err(|why| Fault::Unclear(path.clone(), why))?.into_bytes();
    let (beside, old) = record_of(&path)?;
    let first = match (&old, &before) {
        // What was installed before is replaced; what stood there first is still what comes back.
        (Some(record), Some(now)) if Digest::of(now) == record.after => record.before.clone(),
        _ => before.as_ref().map(|bytes| STANDARD.encode(bytes)),
    };
    let record = Record { before: first, after: Digest::of(&after) };
    let record =
        serde_json::to_vec_pretty(&record).map_err(|error| Fault::Unclear(beside.clone(), error.to_string()))?;
    let known = read(&beside)?;
    Ok(Plan {
        settings: Change { path, before, after: Some(after) },
        record: Change { path: beside, before: known, after: Some(record) },
    })
}

/// What takes an installation back: the file as it was before, to the byte.
///
/// # Errors
/// [`Fault`]; nothing is changed.
pub fn undo(client: Client, managed: bool, layout: &Layout) -> Result<Plan, Fault> {
    let path = layout.file(client, managed);
    let (beside, record) = record_of(&path)?;
    let record = record.ok_or_else(|| Fault::NotOurs(path.clone()))?;
    let now = read(&path)?;
    if now.as_ref().map(|bytes| Digest::of(bytes)) != Some(record.after) {
        return Err(Fault::Changed(path));
    }
    let before = record.before.map(|text| STANDARD.decode(text)).transpose();
    let before = before.map_err(|error| Fault::Unclear(beside.clone(), error.to_string()))?;
    let known = read(&beside)?;
    Ok(Plan {
        settings: Change { path, before: now, after: before },
        record: Change { path: beside, before: known, after: None },
    })
}

impl Plan {
    /// True when the settings are already as wished.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.settings.before == self.settings.after
    }

    /// The change of the settings, line by line.
    #[must_use]
    pub fn diff(&self) -> String {
        let text = |bytes: &Option<Vec<u8>>| String::from_utf8_lossy(bytes.as_deref().unwrap_or_default()).into_owned();
        diff::lines(&text(&self.settings.before), &text(&self.settings.after))
    }

    /// Makes the change. The record is there before the settings change, and goes after they have.
    ///
    /// # Errors
    /// [`Fault::Changed`] when a file is not as it was planned for; [`Fault::Io`].
    pub fn apply(&self) -> Result<(), Fault> {
        let (first, second) = match self.settings.after {
            Some(_) if self.record.after.is_some() => (&self.record, &self.settings),
            _ => (&self.settings, &self.record),
        };
        [first, second].into_iter().try_for_each(Change::apply)
    }
}

impl Change {
    fn apply(&self) -> Result<(), Fault> {
        if read(&self.path)? != self.before {
            return Err(Fault::Changed(self.path.clone()));
        }
        let io = |error| Fault::Io(self.path.clone(), error);
        match &self.after {
            None => fs::remove_file(&self.path).map_err(io),
            Some(bytes) => replace(&self.path, bytes).map_err(io),
        }
    }
}

/// Writes beside and renames, so that the file is there whole or as it was.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut name = path.as_os_str().to_owned();
    name.push(".weir-new");
    let new = PathBuf::from(name);
    drop(fs::remove_file(&new));
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)
}

/// The bytes of `path`; `None` when it is not there.
fn read(path: &Path) -> Result<Option<Vec<u8>>, Fault> {
    let io = |error| Fault::Io(path.to_owned(), error);
    let about = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        about => about.map_err(io)?,
    };
    if !about.is_file() || about.len() > BYTES {
        return Err(Fault::Unclear(path.to_owned(), "it is no plain file, or too large".to_owned()));
    }
    fs::read(path).map(Some).map_err(io)
}

/// Managed settings that others may change would be the agent's to change.
fn guarded(path: &Path, managed: bool) -> Result<(), Fault> {
    let open = |path: &Path| fs::metadata(path).is_ok_and(|about| about.mode() & 0o022 != 0);
    match managed && (open(path) || path.parent().is_some_and(open)) {
        true => Err(Fault::Open(path.to_owned())),
        false => Ok(()),
    }
}

fn record_of(path: &Path) -> Result<(PathBuf, Option<Record>), Fault> {
    let mut name = path.as_os_str().to_owned();
    name.push(".weir-undo");
    let beside = PathBuf::from(name);
    let record = read(&beside)?.map(|bytes| serde_json::from_slice(&bytes)).transpose();
    let record = record.map_err(|error| Fault::Unclear(beside.clone(), error.to_string()))?;
    Ok((beside, record))
}

/// What can be said of an address of telemetry: this machine's, and to a client that is told of it in its settings.
fn check_telemetry(wish: &Wish) -> Result<(), Fault> {
    let Some(address) = wish.telemetry else { return Ok(()) };
    if wish.client != Client::ClaudeCode {
        let text = "Codex takes the address of telemetry, and the token with it, in the user's own config.toml only";
        return Err(Fault::Telemetry(text));
    }
    if !address.ip().is_loopback() || address.port() == 0 {
        return Err(Fault::Telemetry("telemetry goes to the gate's own loopback address and port"));
    }
    Ok(())
}

fn quoted(path: &Path) -> Result<String, Fault> {
    let text =
        path.to_str().filter(|text| text.starts_with('/') && !text.contains(|c: char| c.is_control() || c == '\''));
    let wrong = || Fault::Path(format!("`{}` is not an absolute path without quotes", path.display()));
    text.map(|text| format!("'{text}'")).ok_or_else(wrong)
}

/// The command line that prints the headers of telemetry. The token stays in its own file: settings are read by everybody.
fn headers(wish: &Wish) -> Result<String, Fault> {
    let (program, socket, token) = (quoted(&wish.program)?, quoted(&wish.socket)?, quoted(&wish.token_file)?);
    Ok(format!("{program}{HEADERS}--client {} --socket {socket} --token-file {token}", wish.client.word()))
}

/// The command line of the hook, quoted for a shell.
fn command(wish: &Wish) -> Result<String, Fault> {
    let (program, socket, token) = (quoted(&wish.program)?, quoted(&wish.socket)?, quoted(&wish.token_file)?);
    let defer = if wish.defer { " --defer" } else { "" };
    let client = wish.client.word();
    Ok(format!("{program} hook --client {client} --socket {socket} --token-file {token} --wait {}{defer}", wish.wait_s))
}

/// What tells a hook of ours from others: the part of its command that names no path.
fn ours(client: Client) -> String {
    format!(" hook --client {} ", client.word())
}
