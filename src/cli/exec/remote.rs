//! `weir exec --gate`: the program is run by a running gate, in its one ledger; this command is only its client.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use super::{Args, Bar, environment, hear, is_watched};
use crate::cli::compose;
use crate::model::Secret;
use crate::native::{Door, Errand};

/// Where the agent's token is when no file has it.
const TOKEN: &str = "WEIR_TOKEN";

pub(super) fn run(args: Args) -> Result<u8, String> {
    let terminal = is_watched(&args);
    let bar = terminal.then(Bar::new);
    let shown = bar.clone();
    let cwd = std::env::current_dir().map_err(|error| format!("the folder of this process cannot be told: {error}"))?;
    let cwd = cwd.into_os_string().into_string().map_err(|_| "the path of this folder is not UTF-8".to_owned())?;
    let errand = Errand {
        token: token(&args)?,
        doors: args.door.iter().map(port).collect::<Result<_, _>>()?,
        socket: args.gate.unwrap_or_default(),
        argv: args.argv,
        cwd,
        gpus: args.gpus,
        session: args.session,
        environment: environment(),
        streams: streams()?,
        signal: Arc::default(),
        watch: Box::new(move |progress| {
            if let Some(bar) = &shown {
                bar.show(progress);
            }
        }),
    };
    hear(&errand.signal)?;
    let told = errand.run();
    if let Some(bar) = bar {
        bar.end();
    }
    for line in told.lines(terminal) {
        anstream::eprintln!("weir: {line}");
    }
    Ok(told.exit_code())
}

fn token(args: &Args) -> Result<Secret, String> {
    let (place, text) = match &args.token_file {
        Some(file) => {
            let text = String::from_utf8(compose::read(file)?).map_err(|_| format!("{}: not text", file.display()))?;
            (file.display().to_string(), text)
        }
        None => {
            let text = std::env::var(TOKEN);
            let text = text.map_err(|_| format!("the gate wants the agent's token: give --token-file or ${TOKEN}"))?;
            (format!("${TOKEN}"), text)
        }
    };
    Secret::new(text.trim()).map_err(|fault| format!("{place}: {fault}"))
}

/// A door's port, where nothing else was said of it.
fn port(door: &Door) -> Result<u16, String> {
    let plain = super::door(&door.port.to_string())?;
    if *door == plain {
        return Ok(door.port);
    }
    Err(format!("--door {}: with --gate a door is a port, and the gate says where it leads", door.port))
}

fn streams() -> Result<[OwnedFd; 3], String> {
    let fault = |error: std::io::Error| format!("the standard streams cannot be handed on: {error}");
    let input = std::io::stdin().as_fd().try_clone_to_owned().map_err(fault)?;
    let output = std::io::stdout().as_fd().try_clone_to_owned().map_err(fault)?;
    let error = std::io::stderr().as_fd().try_clone_to_owned().map_err(fault)?;
    Ok([input, output, error])
}
