//! `weir session`: sessions that are kept: list them, look at one, copy it, take it back, remove it.
//!
//! On a running gate through its routes, with the operator's token; where no gate runs, listing, looking and
//! removing work on the store itself, whose lock is held meanwhile.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use hyper::Method;
use serde_json::{Value, json};

use super::client::{Gate, part};
use super::compose;
use super::table::{aligned, span, word};
use crate::journal::Lock;
use crate::model::{Name, Seat};
use crate::pep::port::Kept;
use crate::sandbox::Vault;
use crate::surface::visible;

/// Show, copy, roll back or remove sessions that are kept.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
    /// A running gate: `unix:PATH` or `http://127.0.0.1:PORT`.
    #[arg(long, value_name = "URL", global = true, requires = "token_file")]
    url: Option<String>,
    /// File with the operator's token.
    #[arg(long, value_name = "FILE", global = true, requires = "url")]
    token_file: Option<PathBuf>,
    /// The store's folder, where no gate runs [default: `$WEIR_HOME`, or the user's state folder].
    #[arg(long, value_name = "DIR", global = true, conflicts_with = "url")]
    store: Option<PathBuf>,
    /// Print JSON.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(clap::Subcommand)]
enum Command {
    /// List the sessions of which something is kept.
    Ls,
    /// Show one session and its checkpoints.
    Show {
        /// The session's id.
        session: String,
    },
    /// Open a copy of a session (running gate only).
    Fork {
        /// The session's id.
        session: String,
        /// As it was at this checkpoint; as it is now when absent.
        #[arg(long, value_name = "ID")]
        checkpoint: Option<String>,
    },
    /// Make a session what it was at a checkpoint (running gate only).
    Rollback {
        /// The session's id.
        session: String,
        /// The checkpoint; the newest one when absent.
        #[arg(long, value_name = "ID")]
        checkpoint: Option<String>,
    },
    /// Forget what is kept of a session: interpreter, checkpoints and files.
    Rm {
        /// The session's id.
        session: String,
    },
}

/// Where the sessions are.
enum Place {
    Gate(Gate),
    /// A store that no gate uses; its vault, where it has one.
    Store(Option<Vault>, #[expect(dead_code, reason = "held so that no gate starts meanwhile")] Option<Lock>),
}

/// Runs the command; the exit code.
///
/// # Errors
/// What went wrong and what to do about it, for standard error.
pub(super) fn run(args: Args) -> Result<u8, String> {
    let place = match (&args.url, &args.token_file) {
        (Some(url), Some(file)) => Place::Gate(Gate::new(url, file)?),
        _ => store(&compose::home(args.store)?)?,
    };
    let (answer, text) = match args.command {
        Command::Ls => {
            let rows = place.list()?;
            let text = table(&rows);
            (json!({"sessions": rows}), text)
        }
        Command::Show { session } => {
            let row = place.find(&session)?;
            let text = shown(&row);
            (row, text)
        }
        Command::Fork { session, checkpoint } => {
            let answer = place.change(&session, "fork", checkpoint.as_deref())?;
            let text = format!("{} is a copy of {session}\n", word(&answer["session"]));
            (answer, text)
        }
        Command::Rollback { session, checkpoint } => {
            let point = place.change(&session, "rollback", checkpoint.as_deref())?;
            let text = format!("{session} is at checkpoint {}, step {}\n", word(&point["id"]), word(&point["steps"]));
            (point, text)
        }
        Command::Rm { session } => {
            place.remove(&session)?;
            (json!({}), format!("nothing is kept of {session} any more\n"))
        }
    };
    let text = if args.json { format!("{answer}\n") } else { text };
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(format!("the output cannot be written: {error}"))
        }
        _ => Ok(0),
    }
}

/// The store in `folder`, kept from gates.
fn store(folder: &Path) -> Result<Place, String> {
    if !folder.join(Vault::FOLDER).is_dir() {
        // Nothing is made by looking.
        return Ok(Place::Store(None, None));
    }
    let lock = Lock::hold(folder)
        .map_err(|fault| format!("{fault}\nAsk the running gate instead: --url URL --token-file FILE"))?;
    Ok(Place::Store(Some(compose::vault(folder)?), Some(lock)))
}

impl Place {
    fn list(&self) -> Result<Vec<Value>, String> {
        match self {
            Self::Gate(gate) => match gate.ask(Method::GET, "/v1/kept", None)?["sessions"].take() {
                Value::Array(rows) => Ok(rows),
                _ => Err("the gate's answer has no list of sessions: it may be of another version".into()),
            },
            Self::Store(None, _) => Ok(Vec::new()),
            Self::Store(Some(vault), _) => Ok(vault.list().iter().map(row).collect()),
        }
    }

    fn find(&self, session: &str) -> Result<Value, String> {
        let mut rows: Vec<Value> = self.list()?.into_iter().filter(|row| row["session"] == session).collect();
        match (rows.pop(), rows.len()) {
            (Some(row), 0) => Ok(row),
            (None, _) => Err(nothing(session)),
            (Some(_), _) => Err(format!(
                "several agents have a session {}; ask the gate of the one that is meant",
                visible(session, 130)
            )),
        }
    }

    fn change(&self, session: &str, what: &str, checkpoint: Option<&str>) -> Result<Value, String> {
        let Self::Gate(gate) = self else {
            return Err(format!("{what} needs a running gate: give --url URL and --token-file FILE of its operator"));
        };
        let path = format!("/v1/sessions/{}/{what}", part(&compose::name("session", session)?));
        let body = checkpoint.map_or_else(|| json!({}), |id| json!({"checkpoint": id}));
        gate.ask(Method::POST, &path, Some(&body))
    }

    fn remove(&self, session: &str) -> Result<(), String> {
        match self {
            Self::Gate(gate) => {
                let path = format!("/v1/kept/{}", part(&compose::name("session", session)?));
                gate.ask(Method::DELETE, &path, None).map(drop)
            }
            Self::Store(None, _) => Err(nothing(session)),
            Self::Store(Some(vault), _) => {
                let row = self.find(session)?;
                let name = |key: &str| Name::new(row[key].as_str().unwrap_or_default()).map_err(|e| e.to_string());
                let seat = Seat { org: name("org")?, agent: name("agent")?, name: name("session")? };
                vault.remove(&seat).map_err(|fault| fault.to_string())
            }
        }
    }
}

fn nothing(session: &str) -> String {
    format!("nothing is kept of a session {}; `weir session ls` lists those that are", visible(session, 130))
}

/// A kept session in the form of `GET /v1/kept`.
fn row(kept: &Kept) -> Value {
    let Kept { seat, guest, live, steps, memory_bytes, checkpoints } = kept;
    json!({
        "session": seat.name, "org": seat.org, "agent": seat.agent, "guest": guest, "open": false, "live": live,
        "steps": steps, "memory_bytes": memory_bytes, "checkpoints": checkpoints,
    })
}

fn table(rows: &[Value]) -> String {
    if rows.is_empty() {
        return "no session is kept\n".to_owned();
    }
    let head = ["SESSION", "AGENT", "GUEST", "STEPS", "MEMORY", "CHECKPOINTS", "STATE"].map(str::to_owned);
    let cells = rows.iter().map(|row| {
        let points = row["checkpoints"].as_array().map_or(0, Vec::len).to_string();
        let agent = format!("{}/{}", word(&row["org"]), word(&row["agent"]));
        let memory = size(&row["memory_bytes"]);
        [word(&row["session"]), agent, word(&row["guest"]), word(&row["steps"]), memory, points, state(row).to_owned()]
    });
    aligned(&std::iter::once(head).chain(cells).collect::<Vec<_>>())
}

fn shown(row: &Value) -> String {
    let agent = format!("{}/{}", word(&row["org"]), word(&row["agent"]));
    let mut text = format!("{}\n  agent   {agent}\n  guest   {}\n", word(&row["session"]), word(&row["guest"]));
    text.push_str(&format!("  state   {}\n  steps   {}\n", state(row), word(&row["steps"])));
    text.push_str(&format!("  memory  {}\n", size(&row["memory_bytes"])));
    let points = row["checkpoints"].as_array().map(Vec::as_slice).unwrap_or_default();
    if points.is_empty() {
        text.push_str("  no checkpoints\n");
        return text;
    }
    let head = ["  CHECKPOINT", "STEPS", "ON DISK", "AGE"].map(str::to_owned);
    let cells = points.iter().map(|point| {
        [format!("  {}", word(&point["id"])), word(&point["steps"]), size(&point["bytes"]), age(&point["at"])]
    });
    text.push_str(&aligned(&std::iter::once(head).chain(cells).collect::<Vec<_>>()));
    text
}

fn state(row: &Value) -> &'static str {
    match (row["open"].as_bool(), row["live"].as_bool()) {
        (Some(true), _) => "open",
        (_, Some(true)) => "in memory",
        _ => "at rest",
    }
}

fn size(bytes: &Value) -> String {
    match bytes.as_u64() {
        Some(bytes) if bytes < 10_000 => format!("{bytes} B"),
        Some(bytes) => format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20)),
        None => "?".to_owned(),
    }
}

fn age(at: &Value) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let seconds = now.saturating_sub(at.as_u64().unwrap_or_default() / 1000);
    span(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seat(agent: &str, session: &str) -> Seat {
        let name = |text: &str| Name::new(text).unwrap();
        Seat { org: name("acme"), agent: name(agent), name: name(session) }
    }

    #[test]
    fn a_store_without_a_gate_is_read_under_its_lock() {
        let home = tempfile::tempdir().unwrap();
        let open = || compose::vault(home.path()).unwrap();
        assert!(matches!(store(home.path()), Ok(Place::Store(None, _))));
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0, "nothing is made by looking");
        let vault = open();
        let point = vault.put_example(&seat("coder", "one"));
        vault.put_example(&seat("coder", "two"));
        vault.put_example(&seat("spy", "two"));
        drop(vault);
        let place = store(home.path()).unwrap();
        let busy = store(home.path()).err().unwrap();
        assert!(busy.contains("another gate") && busy.contains("--url"), "{busy}");
        assert_eq!(place.list().unwrap().len(), 3);
        let row = place.find("one").unwrap();
        assert_eq!((&row["checkpoints"][0]["id"], state(&row)), (&json!(point.id), "at rest"));
        assert!(place.find("two").unwrap_err().contains("several agents"));
        assert!(place.remove("two").is_err() && place.list().unwrap().len() == 3);
        assert!(place.find("none").unwrap_err().contains("weir session ls"));
        assert!(place.change("one", "fork", None).unwrap_err().contains("running gate"));
        place.remove("one").unwrap();
        assert_eq!(place.list().unwrap().len(), 2);
        drop(place);
        assert!(store(home.path()).unwrap().find("one").is_err());
    }

    #[test]
    fn what_a_gate_says_is_shown_in_columns_and_harmless() {
        let point = json!({"id": "0f\u{1b}[2J", "at": 0, "steps": 3, "bytes": 3_500_000});
        let row = json!({"session": "one", "org": "acme", "agent": "coder", "guest": "python", "open": false,
            "live": true, "steps": 3, "memory_bytes": 27_000_000, "checkpoints": [point]});
        let listed = table(std::slice::from_ref(&row));
        let lines: Vec<&str> = listed.lines().collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0].find("STATE"), lines[1].find("in memory"), "{listed}");
        assert!(lines[1].contains("acme/coder") && lines[1].contains("25.7 MiB"));
        let text = shown(&row);
        assert!(!text.contains('\u{1b}') && text.contains("3.3 MiB") && text.contains("days"), "{text}");
        assert_eq!(table(&[]), "no session is kept\n");
        assert!(shown(&json!({})).contains("no checkpoints"), "whatever is missing");
    }
}
