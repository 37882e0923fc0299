//! `weir hook`: what a coding agent runs for every event. Standard input to the gate, its answer to standard output;
//! whatever goes wrong is exit code 2, which is how the client is told that the tool must not run.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use crate::surface::hook::{Carrier, Client, carry, telemetry_headers};

/// Carry one event of Claude Code or Codex to a gate; the client runs this.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The client: claude-code or codex.
    #[arg(long, value_parser = client)]
    client: Client,
    /// The gate's Unix socket.
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,
    /// File with the agent's token.
    #[arg(long, value_name = "FILE")]
    token_file: PathBuf,
    /// How long a person's answer is awaited, seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 100, value_parser = clap::value_parser!(u64).range(0..=3600))]
    wait: u64,
    /// Defer a call about which a person was asked, so that a resumed run finds the answer: for `claude -p` only.
    #[arg(long)]
    defer: bool,
    /// Print the headers that the client's telemetry carries, and carry nothing.
    #[arg(long, conflicts_with = "defer")]
    headers: bool,
}

/// A client by its word.
pub(super) fn client(text: &str) -> Result<Client, String> {
    Client::from_word(text).ok_or_else(|| "clients are claude-code and codex".to_owned())
}

pub(super) fn run(args: Args) -> Result<u8, String> {
    let Args { client, socket, token_file, wait, defer, headers } = args;
    if headers {
        return super::profile::emit(&telemetry_headers(&token_file)?).map(|()| 0);
    }
    let carrier = Carrier { client, socket, token_file, wait: Duration::from_secs(wait), defer };
    let exit = carry(&carrier, std::io::stdin().lock());
    let mut out = std::io::stdout().lock();
    // An answer that the client did not get whole is none.
    let told = out.write_all(exit.stdout.as_bytes()).and_then(|()| out.flush());
    if told.is_err() {
        return Err("[weir] not allowed: the client does not take the gate's answer".to_owned());
    }
    if !exit.stderr.is_empty() {
        anstream::eprintln!("{}", exit.stderr);
    }
    Ok(exit.code)
}
