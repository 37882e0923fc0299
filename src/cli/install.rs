//! `weir install`: the settings that make Claude Code or Codex use the gate's hooks. Shows what changes, asks, and can
//! take it back.

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use super::profile::emit;
use crate::surface::hook::{Client, Layout, Plan, Wish, plan, undo};

/// Make Claude Code or Codex ask the gate before every tool.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The client: claude-code or codex.
    #[arg(value_parser = super::hook::client)]
    client: Client,
    /// Settings for every user, which the agent cannot switch off; without this they are the user's own, and it can.
    #[arg(long)]
    managed: bool,
    /// Take back what was installed.
    #[arg(long)]
    undo: bool,
    /// Change without asking.
    #[arg(long)]
    yes: bool,
    /// Only show what would change.
    #[arg(long, conflicts_with = "yes")]
    print: bool,
    /// The gate's Unix socket, as the hook finds it.
    #[arg(long, value_name = "PATH", required_unless_present = "undo")]
    socket: Option<PathBuf>,
    /// File with the agent's token, as the hook finds it.
    #[arg(long, value_name = "FILE", required_unless_present = "undo")]
    token_file: Option<PathBuf>,
    /// How long a person's answer is awaited, seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 100, value_parser = clap::value_parser!(u64).range(0..=3600))]
    wait: u64,
    /// Defer calls about which a person was asked: for machines on which Claude Code runs with `-p` only.
    #[arg(long)]
    defer: bool,
    /// Have Claude Code tell the gate of itself at this loopback address, which is the gate's `--tcp`.
    #[arg(long, value_name = "ADDR:PORT")]
    telemetry: Option<std::net::SocketAddr>,
    /// The folder that holds `etc` [default: `/`].
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
}

pub(super) fn run(args: Args) -> Result<u8, String> {
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let layout = Layout { root: args.root.clone(), home };
    if !args.managed && !layout.home.is_absolute() {
        return Err("no home folder is known; set HOME, or install with --managed".to_owned());
    }
    let planned = if args.undo { undo(args.client, args.managed, &layout) } else { plan(&wish(&args)?, &layout) };
    let planned = planned.map_err(|fault| fault.to_string())?;
    if planned.is_done() {
        emit(&format!("{}: already so\n", planned.settings.path.display()))?;
        return Ok(0);
    }
    emit(&format!("{}:\n{}", planned.settings.path.display(), planned.diff()))?;
    if !args.managed && !args.undo {
        let text =
            "these are the user's settings: a project's settings, or the agent, can switch them off; --managed holds";
        anstream::eprintln!("warning: {text}");
    }
    if args.print || !(args.yes || agreed(&planned)?) {
        anstream::eprintln!("nothing was changed");
        return Ok(u8::from(!args.print));
    }
    planned.apply().map_err(|fault| fault.to_string())?;
    emit(&format!("{}: done\n", planned.settings.path.display()))?;
    Ok(0)
}

fn wish(args: &Args) -> Result<Wish, String> {
    let absolute = |path: &Path| std::path::absolute(path).map_err(|error| format!("{}: {error}", path.display()));
    let missing = || "give --socket and --token-file".to_owned();
    let (socket, token_file) =
        (args.socket.as_deref().ok_or_else(missing)?, args.token_file.as_deref().ok_or_else(missing)?);
    let program = std::env::current_exe().map_err(|error| format!("this program's own path is not known: {error}"))?;
    Ok(Wish {
        client: args.client,
        managed: args.managed,
        program,
        socket: absolute(socket)?,
        token_file: absolute(token_file)?,
        wait_s: args.wait,
        defer: args.defer,
        telemetry: args.telemetry,
    })
}

/// Whether a person at the terminal says yes.
fn agreed(planned: &Plan) -> Result<bool, String> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Err("nobody can be asked here; look at --print and give --yes".to_owned());
    }
    anstream::eprint!("change {}? [y/N] ", planned.settings.path.display());
    std::io::stderr().flush().map_err(|error| error.to_string())?;
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer).map_err(|error| error.to_string())?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
