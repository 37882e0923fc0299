//! `--shared`: where the database of shared budgets is, for every command that speaks to it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::channel;

use super::compose;
use crate::journal;
use crate::pep::Gate;
use crate::policy::Policy;
use crate::shared::{Address, Keeper, Postgres, Terms};

/// Where the password is when no file has it.
const PASSWORD: &str = "WEIR_SHARED_PASSWORD";

/// The database of budgets that several gates share.
#[derive(Debug, clap::Args)]
pub(super) struct Place {
    /// PostgreSQL that several gates share budgets on, without a password.
    #[arg(long = "shared", value_name = "URL")]
    url: Option<String>,
    /// CA certificates in PEM form; without them only a Unix socket or loopback is spoken to.
    #[arg(long = "shared-ca", value_name = "FILE", requires = "url")]
    ca: Option<PathBuf>,
    /// File with the password, in libpq's form and for its owner alone [default: `$WEIR_SHARED_PASSWORD`].
    #[arg(long = "shared-passfile", value_name = "FILE", requires = "url")]
    passfile: Option<PathBuf>,
}

impl Place {
    /// The address, when one was given.
    pub(super) fn address(&self) -> Result<Option<Address>, String> {
        let Some(url) = &self.url else { return Ok(None) };
        let address = Address::parse(url, self.ca.as_deref()).map_err(|fault| fault.to_string())?;
        Ok(Some(match (&self.passfile, std::env::var(PASSWORD)) {
            (Some(file), _) => address.with_passfile(file).map_err(|fault| fault.to_string())?,
            (None, Ok(password)) if !password.is_empty() => address.with_password(&password),
            (None, _) => address,
        }))
    }

    /// The address for a command that is of no use without one.
    pub(super) fn need(&self) -> Result<Address, String> {
        self.address()?.ok_or_else(|| "--shared URL is missing: where is the database of shared budgets?".to_owned())
    }
}

/// The gate of the store in `folder`, and what keeps its standing where it shares budgets.
pub(super) fn share(
    gate: Gate,
    policy: &Policy,
    folder: &Path,
    address: Option<Address>,
) -> Result<(Arc<Gate>, Option<Keeper>), String> {
    let Some(address) = address else {
        return match policy.budgets.iter().find(|budget| budget.shared.is_some()) {
            Some(budget) => Err(format!("budget `{}` is shared between gates; give --shared URL", budget.id)),
            None => Ok((Arc::new(gate), None)),
        };
    };
    // The name of a gate is its key's: nobody has to choose one, and a copied store is found out.
    let key = journal::key(folder)?.public().hex();
    let id = compose::name("gate", key.get(..16).unwrap_or(&key))?;
    let fault = |error: std::io::Error| format!("the shared store cannot be used: {error}");
    let (bell, rings) = channel();
    let treasury = Arc::new(Postgres::open(address, &id, Terms::default(), Some(bell)).map_err(fault)?);
    let gate = Arc::new(gate.with_treasury(treasury.clone()));
    let keeper = Keeper::start(gate.clone(), treasury, rings).map_err(fault)?;
    anstream::eprintln!("weir: shares budgets as gate {id}");
    Ok((gate, Some(keeper)))
}
