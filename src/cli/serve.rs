//! `weir serve`: the sidecar. Puts the gate, the sandbox, the HTTP surface, the proxies and programs of this machine
//! together.

mod programs;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{compose, shared};
use crate::egress::{self, Bounds, Kind, Proxy, upstreams};
use crate::journal::Questions;
use crate::pep::port::{Approver, Nobody};
use crate::surface::hook::Client;
use crate::surface::{self, Desk, Secret, Shutdown, Sidecar};

/// Serve the gate on a Unix socket or on loopback TCP.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The policy.
    #[arg(long, value_name = "FILE")]
    policy: PathBuf,
    /// Unix socket to listen on.
    #[arg(long, value_name = "PATH", required_unless_present = "tcp")]
    socket: Option<PathBuf>,
    /// Loopback address and port to listen on; port 0 takes a free one and prints it.
    #[arg(long, value_name = "ADDR:PORT")]
    tcp: Option<SocketAddr>,
    /// File with the agent's bearer token; made with a fresh token when it does not exist.
    #[arg(long, value_name = "FILE")]
    token_file: PathBuf,
    /// File with the operator's token, which the agent must not be able to read; without one, calls
    /// that need a person are denied.
    #[arg(long, value_name = "FILE")]
    operator_token_file: Option<PathBuf>,
    /// Folder of the journal and its key [default: `$WEIR_HOME`, or the user's state folder].
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
    /// Organisation in accounts and receipts.
    #[arg(long, default_value = "local")]
    org: String,
    /// Project in accounts and receipts, below the organisation.
    #[arg(long)]
    project: Option<String>,
    /// Agent in accounts and receipts: whoever holds the token.
    #[arg(long, default_value = "local")]
    agent: String,
    /// File of model providers and Hubs to stand in front of, each with a loopback port of its own: docs/llm.md, docs/hub.md.
    #[arg(long, value_name = "FILE")]
    upstreams: Option<PathBuf>,
    #[command(flatten)]
    programs: programs::Programs,
    #[command(flatten)]
    shared: shared::Place,
}

pub(super) fn run(args: Args) -> Result<u8, String> {
    let policy = compose::policy(&args.policy)?;
    let address = args.shared.address()?;
    let mut config = surface::Config::new(
        compose::name("organisation", &args.org)?,
        compose::name("agent", &args.agent)?,
        secret(&args.token_file)?,
    );
    let folder = compose::home(args.store)?;
    config.desk = Desk::keeping(Box::new(Questions::of(&folder)));
    config.operator_token = args.operator_token_file.as_deref().map(secret).transpose()?;
    config.project = args.project.as_deref().map(|project| compose::name("project", project)).transpose()?;
    config.unix = args.socket;
    config.tcp = args.tcp;
    let proxy = args.upstreams.as_deref().map(|file| stand_in(file, &config)).transpose()?;
    config.metered = metered(proxy.as_ref());
    let programs = args.programs.bind(&config)?;
    let approver: Box<dyn Approver> =
        if config.operator_token.is_some() { Box::new(config.desk.clone()) } else { Box::new(Nobody) };
    // Bound before the store is opened: a second gate on the same socket ends here and touches nothing.
    let sidecar = Sidecar::bind(config).map_err(|fault| fault.to_string())?;
    let gate = compose::gate(policy.clone(), &folder, approver)?;
    let (gate, keeper) = shared::share(gate, policy.policy(), &folder, address)?;
    let sandbox = compose::sandbox(&policy, &args.policy, &folder)?;
    let listening = sidecar.addresses().clone();
    let unix = listening.unix.map(|path| format!("unix:{}", path.display()));
    let tcp = listening.tcp.map(|address| format!("http://{address}"));
    for address in unix.into_iter().chain(tcp) {
        anstream::eprintln!("weir: listening on {address}");
    }
    for (name, address) in proxy.iter().flat_map(Proxy::addresses) {
        anstream::eprintln!("weir: {name} at http://{address}");
    }
    let open = listening.tcp.into_iter().chain(proxy.iter().flat_map(Proxy::addresses).map(|(_, address)| address));
    let serving = programs.map(|programs| programs.start(gate.clone(), open)).transpose()?;
    let proxies = proxy.map(|proxy| proxy.start(gate.clone())).transpose().map_err(|fault| fault.to_string())?;
    sidecar.serve(gate, Arc::new(sandbox), Shutdown::on_signals()).map_err(|fault| fault.to_string())?;
    // Programs end with the gate, and are settled as what they used.
    drop(serving);
    // What was forwarded is settled before anything is given back.
    drop(proxies);
    // What was drawn and not used goes back before the process ends.
    drop(keeper);
    Ok(0)
}

/// The proxies of the upstreams in `file`, bound, for the agent of `config`.
fn stand_in(file: &Path, config: &surface::Config) -> Result<Proxy, String> {
    let listed = upstreams(file).map_err(|faults| faults.to_string())?;
    let config = egress::Config {
        org: config.org.clone(),
        project: config.project.clone(),
        agent: config.agent.clone(),
        token: config.token.clone(),
        bounds: Bounds::default(),
    };
    Proxy::bind(config, listed).map_err(|fault| fault.to_string())
}

/// Clients whose models are behind one of the proxies.
fn metered(proxy: Option<&Proxy>) -> Vec<Client> {
    let kinds = proxy.map(Proxy::kinds).unwrap_or_default();
    let pairs = [(Kind::Anthropic, Client::ClaudeCode), (Kind::OpenAi, Client::Codex)];
    pairs.into_iter().filter(|(kind, _)| kinds.contains(kind)).map(|(_, client)| client).collect()
}

/// The token in `path`; a fresh one is written there, for the owner alone, when there is no file.
fn secret(path: &Path) -> Result<Secret, String> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let fault = |error: std::io::Error| format!("{}: {error}", path.display());
    let fresh = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    match fresh {
        Ok(mut file) => {
            let token = Secret::generate().map_err(|fault| fault.to_string())?;
            writeln!(file, "{}", token.expose()).map_err(fault)?;
            Ok(token)
        }
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            let text = String::from_utf8(compose::read(path)?).map_err(|_| format!("{}: not text", path.display()))?;
            Secret::new(text.trim()).map_err(|fault| format!("{}: {fault}", path.display()))
        }
        Err(error) => Err(fault(error)),
    }
}
