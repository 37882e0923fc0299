//! `weir serve --exec`: programs of this machine, run by the gate for whoever asks with the agent's token.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use crate::cli::exec::{door, socket};
use crate::native::{Door, Service, Serving, Terms, Wall, Way};
use crate::pep::Gate;
use crate::surface;

/// Where programs of this machine are asked for, and what may be missing of their walls.
#[derive(Debug, clap::Args)]
pub(super) struct Programs {
    /// Unix socket on which `weir exec --gate` asks for programs of this machine.
    #[arg(long = "exec", value_name = "unix:PATH", value_parser = socket)]
    exec: Option<PathBuf>,
    /// A port inside, besides those of the gate's own listeners, and where it leads: PORT, PORT=HOST:PORT, or
    /// PORT=unix:PATH.
    #[arg(long = "exec-door", value_name = "DOOR", value_parser = door, requires = "exec")]
    exec_door: Vec<Door>,
    /// Run programs although this wall is missing: network, landlock, seccomp, memory, processes, cpu.
    #[arg(long = "exec-without", value_name = "WALL", value_delimiter = ',', requires = "exec")]
    exec_without: Vec<Wall>,
    /// A folder of the control group hierarchy (version 2) that is delegated to this user.
    #[arg(long = "exec-cgroup", value_name = "DIR", requires = "exec")]
    exec_cgroup: Option<PathBuf>,
}

/// A service that is bound, and its terms as far as they are known.
pub(super) struct Bound {
    service: Service,
    terms: Terms,
}

impl Programs {
    /// Binds the service for the agent of `config`, where one is wanted.
    pub(super) fn bind(self, config: &surface::Config) -> Result<Option<Bound>, String> {
        let Some(path) = self.exec else { return Ok(None) };
        let program =
            std::env::current_exe().map_err(|error| format!("where this program lies cannot be told: {error}"))?;
        let (org, agent, token) = (config.org.clone(), config.agent.clone(), config.token.clone());
        let terms = Terms {
            project: config.project.clone(),
            doors: self.exec_door,
            without: self.exec_without.into_iter().collect(),
            cgroup: self.exec_cgroup,
            ..Terms::new(org, agent, token, program, vec!["exec-init".to_owned()])
        };
        let service = Service::bind(&path).map_err(|fault| fault.to_string())?;
        Ok(Some(Bound { service, terms }))
    }
}

impl Bound {
    /// Serves, with doors to the gate's own `listeners` too.
    pub(super) fn start(
        mut self,
        gate: Arc<Gate>,
        listeners: impl Iterator<Item = SocketAddr>,
    ) -> Result<Serving, String> {
        for address in listeners {
            // What the operator says of a port comes first.
            if self.terms.doors.iter().all(|door| door.port != address.port()) {
                self.terms.doors.push(Door { port: address.port(), way: Way::Tcp(address) });
            }
        }
        anstream::eprintln!("weir: runs programs for unix:{}", self.service.path().display());
        self.service.start(gate, self.terms).map_err(|error| format!("programs cannot be served: {error}"))
    }
}
