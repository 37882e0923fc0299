//! The route of a guest that a tree of npm packages builds: the tree is pinned by the lock file in the guest's
//! `tool` folder, each package by its hash, and lies in a folder of the cache that is named by that folder's digest.
//!
//! No package's own script runs at installation. The lock names no registry: npm asks the one that it is set up
//! to ask, and the hashes say whether what comes is what was meant.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;

use super::{GuestRow, Progress, digest, output, write_files};
use crate::sandbox::SandboxFault;
use crate::sandbox::cache::Cache;

/// What builds the component.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tool {
    pub(super) requirement: String,
    /// The oldest major version of Node.js that runs it.
    node: u32,
}

/// Marks a complete installation; written last.
const COMPLETE: &str = "complete";
/// What Node.js must not take over from the environment.
const UNWANTED: [&str; 2] = ["NODE_OPTIONS", "NODE_PATH"];
const ADVICE: &str = "npm needs a registry that this machine can reach; see `npm config get registry`";

/// The component that the tool makes of the files in `place`.
pub(super) fn build(
    cache: &Cache,
    row: &GuestRow,
    tool: &Tool,
    place: &Path,
    progress: &dyn Progress,
) -> Result<Vec<u8>, SandboxFault> {
    let folder = install(cache, row, tool, progress)?;
    progress.step("initialising the interpreter");
    let mut node = command("node");
    // The tool's own scratch files belong into the build's folder, which is removed.
    node.arg(folder.join("build.mjs")).arg(place).current_dir(place).env("TMPDIR", place);
    output(node, "componentize-js", "if this repeats, remove the cache folder and try again")?;
    fs::read(place.join(format!("{}.wasm", row.name))).map_err(|error| SandboxFault::Build(error.to_string()))
}

/// The folder with the tool's packages, installed now if need be.
fn install(cache: &Cache, row: &GuestRow, tool: &Tool, progress: &dyn Progress) -> Result<PathBuf, SandboxFault> {
    check_node("node", tool.node)?;
    let files: Vec<(&str, &str)> =
        row.files.iter().filter_map(|(name, text)| Some((name.strip_prefix("tool/")?, *text))).collect();
    let folder = cache.path(&format!("tool-{}", digest(&files).get(..16).unwrap_or_default()));
    if folder.join(COMPLETE).exists() {
        return Ok(folder);
    }
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        return Err(SandboxFault::Build("the pinned packages are tried on Linux x86_64 only".into()));
    }
    progress.step(&format!("installing {} and what it needs by their hashes", tool.requirement));
    let made = || {
        write_files(&folder, &files).map_err(|error| SandboxFault::Cache(error.to_string()))?;
        let mut npm = command("npm");
        npm.args(["ci", "--ignore-scripts", "--include=optional", "--no-audit", "--no-fund", "--no-update-notifier"]);
        npm.args(["--loglevel=error", "--no-bin-links"]).current_dir(&folder);
        output(npm, "npm", ADVICE)?;
        fs::write(folder.join(COMPLETE), "").map_err(|error| SandboxFault::Cache(error.to_string()))
    };
    let made = made();
    if made.is_err() {
        let _ = fs::remove_dir_all(&folder);
    }
    made.map(|()| folder)
}

/// Checks that `node` starts and is new enough.
fn check_node(node: &str, least: u32) -> Result<(), SandboxFault> {
    let advice = format!("install Node.js {least} or later, with npm");
    let asked = command(node).arg("--version").stdin(Stdio::null()).output();
    let told = asked.map_err(|error| SandboxFault::Build(format!("node does not start ({error}); {advice}")))?;
    let text = String::from_utf8_lossy(&told.stdout);
    let major = text.trim().strip_prefix('v').and_then(|text| text.split('.').next());
    let major: Option<u32> = major.and_then(|digits| digits.parse().ok());
    match major {
        Some(major) if major >= least => Ok(()),
        Some(major) => Err(SandboxFault::Build(format!("Node.js {major} is too old; {advice}"))),
        None => Err(SandboxFault::Build(format!("node does not say its version; {advice}"))),
    }
}

fn command(name: &str) -> Command {
    let mut command = Command::new(name);
    for unwanted in UNWANTED {
        command.env_remove(unwanted);
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::builder::table::row;

    #[test]
    fn the_lock_pins_every_package_by_hash_and_names_no_registry() {
        let row = row("javascript").unwrap();
        let lock = row.files.iter().find(|(name, _)| *name == "tool/package-lock.json").unwrap().1;
        assert!(!lock.contains("://"), "a package's address is in the lock");
        let lock: serde_json::Value = serde_json::from_str(lock).unwrap();
        let mut pinned = 0;
        for (name, package) in lock["packages"].as_object().unwrap() {
            if !name.starts_with("node_modules/") || package["link"] == true {
                let local = name.is_empty() || name.starts_with("absent/") || package["link"] == true;
                assert!(local, "{name} is neither a package nor one of the guest's own folders");
                continue;
            }
            assert!(package["integrity"].as_str().is_some_and(|hash| hash.starts_with("sha512-")), "{name}");
            assert!(package.get("hasInstallScript").is_none(), "{name} wants to run a script");
            pinned += 1;
        }
        assert!(pinned > 10);
    }

    #[test]
    fn an_old_or_missing_node_is_told_with_advice() {
        let told = check_node("/nonexistent/node", 20).unwrap_err().to_string();
        assert!(told.contains("node does not start") && told.contains("install Node.js 20"), "{told}");
        let folder = tempfile::tempdir().unwrap();
        let fake = folder.path().join("node");
        fs::write(&fake, "#!/bin/sh\necho v18.1.0\n").unwrap();
        fs::set_permissions(&fake, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        let told = check_node(fake.to_str().unwrap(), 20).unwrap_err().to_string();
        assert!(told.contains("Node.js 18 is too old"), "{told}");
        assert!(check_node(fake.to_str().unwrap(), 18).is_ok());
    }
}
