//! From a grant to a plan: which files, which program, which environment, which walls this machine can have.
//!
//! Everything here happens before anything is started, and whatever is wrong is said in words that name the policy's
//! field. Nothing here decides whether the program may run: that is done.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use caps::{CapSet, Capability};
use rustix::process::{getegid, geteuid};

use super::channel::MESSAGE;
use super::door::{Door, Way};
use super::gpu::Held;
use super::plan::{Plan, Wall};
use super::root::{SYSTEM, grantable};
use crate::model::{ExecGrant, Network};

/// Where programs are looked for when the policy hands on no PATH.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin";
/// Doors at most.
const DOORS: usize = 32;
/// Processes that are not the program's: the two that hold it, and a thread of one of them.
pub(super) const OWN_PROCESSES: u64 = 3;

/// Why nothing was started.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartFault {
    /// This machine cannot put up a wall, and nobody said that it may be missing.
    #[error("the wall `{0}` cannot be put up here ({1}): without it {loss}. {hint}, or say `--without {0}`", loss = .0.loss(), hint = hint(*.0))]
    Missing(Wall, String),
    /// The program cannot be run: the shell's code for it (126, 127), and why.
    #[error("{1}")]
    Absent(u8, String),
    /// It cannot be done.
    #[error("{0}")]
    Failed(String),
}

const fn hint(wall: Wall) -> &'static str {
    match wall {
        Wall::Network => "Run as root or permit user namespaces",
        Wall::Landlock => "Use Linux 5.13 or later with `landlock` in the boot parameter lsm=",
        Wall::Seccomp => "Use a kernel with CONFIG_SECCOMP_FILTER",
        Wall::Memory | Wall::Processes | Wall::Cpu => {
            "Run as root, or under `systemd-run --user --scope -p Delegate=yes`, or name a delegated group (--cgroup)"
        }
    }
}

/// What is to run, by the request.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub argv: Vec<String>,
    pub cwd: PathBuf,
}

/// What the launcher's owner says of the machine.
#[derive(Debug)]
pub(super) struct Ground<'a> {
    pub doors: &'a [Door],
    pub environment: &'a BTreeMap<String, String>,
    pub walls: BTreeSet<Wall>,
    pub waived: BTreeSet<Wall>,
}

/// The plan of a run.
///
/// # Errors
/// The grant or the request cannot be met here.
pub(super) fn plan(grant: &ExecGrant, request: &Request, ground: &Ground<'_>, held: &Held) -> Result<Plan, StartFault> {
    let (read, write) = (folders("read", &grant.read)?, folders("write", &grant.write)?);
    let env = environment(grant, ground.environment, held)?;
    let search = env.iter().find(|(name, _)| name == "PATH").map_or(PATH, |(_, path)| path);
    let program = program(request, search, &read, &write)?;
    let limits = &grant.limits;
    let doors = if grant.network == Network::Gate { ground.doors } else { &[] };
    if doors.len() > DOORS {
        return Err(StartFault::Failed(format!("{} doors to the gate are more than {DOORS}", doors.len())));
    }
    if doors.iter().any(|door| matches!(door.way, Way::Tcp(address) if !address.ip().is_loopback())) {
        return Err(StartFault::Failed(
            "a door leads to this machine's loopback or to a Unix socket, and nowhere else".into(),
        ));
    }
    let privileged = caps::has_cap(None, CapSet::Effective, Capability::CAP_SYS_ADMIN).unwrap_or(false);
    let plan = Plan {
        program,
        argv: request.argv.clone(),
        cwd: request.cwd.clone(),
        env,
        read,
        write,
        devices: held.devices.clone(),
        doors: doors.iter().map(|door| door.port).collect(),
        walls: ground.walls.clone(),
        waived: ground.waived.clone(),
        as_user: (!privileged).then(|| (geteuid().as_raw(), getegid().as_raw())),
        scratch_bytes: limits.memory_bytes,
        gpus: grant.gpus,
        file_bytes: limits.disk_bytes.max(limits.memory_bytes),
        cpu_s: limits.cpu_ms.0.div_ceil(1_000).saturating_add(1),
        data_bytes: None,
        processes: (!privileged).then(|| limits.processes.saturating_add(OWN_PROCESSES)),
    };
    match serde_json::to_vec(&plan) {
        Ok(text) if text.len() < MESSAGE - 1_024 => Ok(plan),
        _ => Err(StartFault::Failed("the arguments and the environment together are over 150 KiB".into())),
    }
}

/// The granted folders as they are, and under the names by which they were granted.
fn folders(field: &str, granted: &[String]) -> Result<Vec<PathBuf>, StartFault> {
    let mut found = BTreeSet::new();
    for path in granted {
        let fault = |why: String| StartFault::Failed(format!("`{path}` in `{field}` of [exec]: {why}"));
        let real = std::fs::canonicalize(path).map_err(|error| fault(format!("{error}; create it or take it out")))?;
        let named = PathBuf::from(path);
        grantable(&real).and_then(|()| grantable(&named)).map_err(fault)?;
        found.extend([real, named]);
    }
    Ok(found.into_iter().collect())
}

/// What the program sees of the environment: what is granted, and what every program needs.
fn environment(
    grant: &ExecGrant,
    own: &BTreeMap<String, String>,
    held: &Held,
) -> Result<Vec<(String, String)>, StartFault> {
    let fixed = [("PATH", PATH), ("HOME", "/tmp"), ("TMPDIR", "/tmp"), ("LANG", "C.UTF-8")];
    let mut env: BTreeMap<String, String> =
        fixed.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    for name in &grant.env {
        if let Some(value) = own.get(name) {
            env.insert(name.clone(), value.clone());
        }
    }
    env.extend(held.environment());
    match env.iter().find(|(name, value)| name.contains(['=', '\0']) || value.contains('\0')) {
        Some((name, _)) => Err(StartFault::Failed(format!("the variable `{name}` of the environment is malformed"))),
        None => Ok(env.into_iter().collect()),
    }
}

/// The program's file: what a shell would run, if it lies where the program can see it and cannot change it.
fn program(request: &Request, search: &str, read: &[PathBuf], write: &[PathBuf]) -> Result<PathBuf, StartFault> {
    let Some(name) = request.argv.first().filter(|name| !name.is_empty()) else {
        return Err(StartFault::Absent(127, "no program is named".into()));
    };
    if request.argv.iter().any(|word| word.contains('\0')) {
        return Err(StartFault::Absent(126, "an argument has a zero byte in it".into()));
    }
    let found = if name.contains('/') {
        Some(request.cwd.join(name)).filter(|path| path.exists())
    } else {
        search.split(':').map(|folder| Path::new(folder).join(name)).find(|path| runnable(path))
    };
    let absent = |code, why: &str| StartFault::Absent(code, format!("the program `{name}` {why}"));
    let found = found.ok_or_else(|| absent(127, "is not there"))?;
    let real = found.canonicalize().map_err(|error| absent(127, &error.to_string()))?;
    if !runnable(&real) {
        return Err(absent(126, "is not a file that can be run"));
    }
    let below = |folders: &[PathBuf], path: &Path| folders.iter().any(|folder| path.starts_with(folder));
    if below(write, &real) {
        return Err(absent(126, "lies in a folder to write, where its name says nothing; keep programs in `read`"));
    }
    let system = |path: &Path| SYSTEM.iter().any(|system| path.starts_with(system));
    if !(system(&real) || below(read, &real)) {
        return Err(absent(126, "lies outside what the policy grants: add its folder to `read` of [exec]"));
    }
    // By the name that was looked up where that can be seen too: some programs read it.
    Ok(if system(&found) || below(read, &found) { found } else { real })
}

fn runnable(path: &Path) -> bool {
    path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(name: &str) -> Request {
        Request { argv: vec![name.into()], cwd: "/".into() }
    }

    #[test]
    fn a_program_is_found_as_a_shell_finds_it() {
        assert_eq!(program(&asked("sh"), PATH, &[], &[]).unwrap().file_name().unwrap(), "sh");
        let code = |name: &str, write: &[PathBuf]| match program(&asked(name), PATH, &[], write) {
            Err(StartFault::Absent(code, why)) => (code, why.len()),
            other => panic!("{other:?}"),
        };
        assert_eq!(code("weir-no-such-program", &[]).0, 127);
        assert_eq!(code("", &[]).0, 127);
        assert_eq!(code("/usr", &[]).0, 126);
        let real = Path::new("/bin/sh").canonicalize().unwrap();
        assert_eq!(code("/bin/sh", &[real.parent().unwrap().into()]).0, 126);
    }

    #[test]
    fn every_refusal_says_what_to_do_in_few_words() {
        for wall in Wall::all() {
            let text = StartFault::Missing(wall, "not permitted (os error 1)".into()).to_string();
            assert!(text.len() < 400 && text.contains(&format!("--without {wall}")), "{text}");
            assert_eq!(wall.to_string().parse(), Ok(wall));
        }
        assert!("walls".parse::<Wall>().unwrap_err().contains("landlock"));
    }
}
