//! What several commands put together: policies from files, a gate on a store, a clock, names.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::audit::Head;
use crate::journal;
use crate::model::{Limits, Name, Package, Timestamp};
use crate::pdp::Compiled;
use crate::pep::Gate;
use crate::pep::port::{Approver, Clock};
use crate::policy;
use crate::sandbox::{Caps, Sandbox, SandboxConfig, SandboxFault, Vault, VaultKey, Wall};

/// The clock of this machine.
#[derive(Clone, Copy, Debug)]
pub(super) struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

/// Reads `path`, or standard input for `-`, bounded.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, String> {
    use std::io::Read as _;
    let limit = Limits::POLICY_BYTES as u64 + 1;
    let mut bytes = Vec::new();
    let result = if path == Path::new("-") {
        std::io::stdin().lock().take(limit).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes))
    };
    match result {
        Err(error) => Err(format!("{}: {error}", path.display())),
        Ok(_) if bytes.len() > Limits::POLICY_BYTES => {
            Err(format!("{}: larger than {} bytes", path.display(), Limits::POLICY_BYTES))
        }
        Ok(_) => Ok(bytes),
    }
}

/// Reads, checks and compiles a policy.
pub(super) fn policy(path: &Path) -> Result<Arc<Compiled>, String> {
    let bytes = read(path)?;
    let mut policy = policy::parse(&bytes, &path.display().to_string()).map_err(|faults| faults.to_string())?;
    // Folders in a policy are relative to its file, wherever the gate was started.
    let base = path.parent().map(Path::to_path_buf).unwrap_or_default();
    for file in policy.code.iter_mut().flat_map(|code| &mut code.files) {
        file.host = base.join(&file.host).display().to_string();
    }
    for folder in policy.exec.iter_mut().flat_map(|exec| exec.read.iter_mut().chain(&mut exec.write)) {
        *folder = rooted(&base, folder)?;
    }
    Compiled::new(policy).map_err(|faults| faults.to_string())
}

/// `folder` of a policy in `base` as a path from the root: a program's own view of files has no other.
fn rooted(base: &Path, folder: &str) -> Result<String, String> {
    let base = if base.as_os_str().is_empty() { Path::new(".") } else { base };
    let base = base.canonicalize().map_err(|error| format!("{}: {error}", base.display()))?;
    // A `.` of the policy is the folder itself.
    let path: PathBuf = base.join(folder).components().collect();
    path.into_os_string().into_string().map_err(|_| format!("the folder `{folder}` of [exec]: not UTF-8"))
}

/// Opens the gate of the store in `folder`.
pub(super) fn gate(policy: Arc<Compiled>, folder: &Path, approver: Box<dyn Approver>) -> Result<Gate, String> {
    let key = journal::key(folder)?;
    let sealing = journal::key(folder)?;
    let seal = Box::new(move |count, hash| Head::sign(count, hash, &sealing));
    let store = journal::Sqlite::open(folder, seal).map_err(|fault| fault.to_string())?;
    Gate::open(policy, Box::new(store), Box::new(SystemClock), approver, key)
        .map_err(|fault| format!("{}: {fault}\nRun `weir audit verify` on it; nothing was changed.", folder.display()))
}

/// The sandbox for `policy`, which was read from `path`, with the first build of the guest shown as it goes. With the
/// `store`'s folder, whose lock the caller holds, sessions have folders of their own and can be kept.
pub(super) fn sandbox(policy: &Compiled, path: &Path, store: &Path) -> Result<Sandbox, String> {
    let config = SandboxConfig {
        packages: packages(policy),
        scratch: Some(store.join("scratch")),
        vault: Some(Arc::new(vault(store)?)),
        ..bare()?
    };
    let path = path.display();
    Sandbox::open(config).map_err(|fault| match fault {
        SandboxFault::Unprepared(names) => {
            format!("{path}: the packages {names} are not prepared; run `weir guest packages {path}` once")
        }
        other => other.to_string(),
    })
}

/// The packages that a policy grants: none, or one set.
pub(super) fn packages(policy: &Compiled) -> Vec<Vec<Package>> {
    let granted = policy.policy().code.iter().map(|code| code.packages.clone());
    granted.filter(|packages| !packages.is_empty()).collect()
}

/// A sandbox that keeps nothing: for a demonstration.
pub(super) fn plain() -> Result<Sandbox, String> {
    Sandbox::open(bare()?).map_err(|fault| fault.to_string())
}

/// A sandbox for replays alone: it shares nothing with a gate. Folders of their own lie in `scratch` meanwhile.
pub(super) fn replayer(scratch: &Path) -> Result<Sandbox, String> {
    let config = SandboxConfig { scratch: Some(scratch.to_path_buf()), ..bare()? };
    Sandbox::open(config).map_err(|fault| fault.to_string())
}

/// The usual sandbox with nothing of a store or a policy, behind the second wall.
pub(super) fn bare() -> Result<SandboxConfig, String> {
    let program =
        std::env::current_exe().map_err(|error| format!("where this program lies cannot be told: {error}"))?;
    let wall = Wall::Process { program, arguments: vec!["worker".into()] };
    let progress = Arc::new(super::guest::Shown::default());
    Ok(SandboxConfig { progress, ..SandboxConfig::new(wall) })
}

/// The kept sessions of the store in `folder`, whose lock the caller holds.
pub(super) fn vault(folder: &Path) -> Result<Vault, String> {
    let key = VaultKey::beside(folder).map_err(|fault| fault.to_string())?;
    Vault::open(folder.join(Vault::FOLDER), key, Caps::default()).map_err(|fault| fault.to_string())
}

/// The store's folder: as given, or the default one.
pub(super) fn home(given: Option<PathBuf>) -> Result<PathBuf, String> {
    journal::home(given)
}

/// A name from the command line.
pub(super) fn name(what: &str, text: &str) -> Result<Name, String> {
    Name::new(text).map_err(|fault| format!("{what} `{text}`: {fault}"))
}

/// A fresh name: `prefix` and 128 random bits.
pub(super) fn fresh(prefix: &str) -> Result<Name, String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| format!("no randomness: {error}"))?;
    Name::new(format!("{prefix}-{}", hex::encode(bytes))).map_err(|fault| fault.to_string())
}
