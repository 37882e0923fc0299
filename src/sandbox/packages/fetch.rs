//! Where wheels come from: the client's own index through pip, or a folder of the operator's. Either way only what has
//! a pinned digest and holds as a wheel gets into the cache, where it lies under that digest.
//!
//! Nothing here chooses a version or follows a dependency: the policy has named every wheel by its content.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::wheel::{WHEEL, Wheel};
use crate::model::{Digest, Package};
use crate::sandbox::SandboxFault;
use crate::sandbox::builder::{self, GuestRow, Progress};
use crate::sandbox::cache::Cache;

/// Wheels that are looked at in a folder.
const LOOKED_AT: usize = 2_000;
/// What a wheel for the guest is tagged with, whatever Python runs pip.
const TARGET: [&str; 8] = ["--python-version", "3.14", "--implementation", "py", "--abi", "none", "--platform", "any"];

/// Where wheels are taken from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wheels {
    /// The index that pip is set up to ask on this machine.
    Index,
    /// The `.whl` files in a folder; no network.
    Folder(PathBuf),
}

/// The name of a wheel in the cache.
fn kept(package: &Package) -> String {
    format!("wheel-{}.whl", package.digest.hex())
}

/// The bytes of a package's wheel, when the cache has it.
pub(super) fn bytes(cache: &Cache, package: &Package) -> Option<Vec<u8>> {
    let found = cache.sealed(&kept(package))?;
    fs::read(found.path()).ok()
}

/// True when the cache has the wheel of `package`.
pub(super) fn has(cache: &Cache, package: &Package) -> bool {
    cache.path(&kept(package)).exists()
}

/// Puts the wheels of `packages` into the cache, unless they are there.
///
/// # Errors
/// [`SandboxFault::Packages`], with everything that is wrong at once.
pub(super) fn fetch(
    cache: &Cache,
    row: &GuestRow,
    packages: &[Package],
    from: &Wheels,
    progress: &dyn Progress,
) -> Result<(), SandboxFault> {
    let wanted: Vec<&Package> = packages.iter().filter(|package| bytes(cache, package).is_none()).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    match from {
        Wheels::Folder(folder) => take(cache, &wanted, folder),
        Wheels::Index => {
            let folder = cache.path("download");
            let _ = fs::remove_dir_all(&folder);
            progress.step(&format!("fetching {} by hash", count(wanted.len())));
            let taken = download(cache, row, &wanted, &folder).and_then(|()| take(cache, &wanted, &folder));
            let _ = fs::remove_dir_all(&folder);
            progress.done();
            taken
        }
    }
}

fn count(wheels: usize) -> String {
    if wheels == 1 { "one wheel".into() } else { format!("{wheels} wheels") }
}

/// Has pip put the wheels into `folder`; it refuses any with another digest.
fn download(cache: &Cache, row: &GuestRow, wanted: &[&Package], folder: &Path) -> Result<(), SandboxFault> {
    let plain = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-+!".contains(&b));
    if let Some(odd) = wanted.iter().find(|package| !plain(&package.name) || !plain(&package.version)) {
        let said = format!("`{} {}` is no name and version of a Python package", odd.name, odd.version);
        return Err(SandboxFault::Packages(said));
    }
    let list = folder.join("requirements.txt");
    let lines = wanted
        .iter()
        .map(|package| format!("{}=={} --hash=sha256:{}\n", package.name, package.version, package.digest.hex()));
    let written = fs::create_dir_all(folder).and_then(|()| fs::write(&list, lines.collect::<String>()));
    written.map_err(|error| SandboxFault::Cache(error.to_string()))?;
    let mut pip = Command::new(builder::python(cache, row));
    pip.args(["-m", "pip", "download", "--require-hashes", "--only-binary", ":all:", "--no-deps"]).args(TARGET);
    pip.args(["--disable-pip-version-check", "--no-input", "--quiet", "--dest"]).arg(folder);
    pip.arg("--requirement").arg(&list);
    let advice = "it needs an index that this machine can reach (`pip config list`) and that has wheels with these \
                  digests; or give the wheels with --wheels DIR";
    builder::output(pip, "pip", advice).map_err(|fault| match fault {
        SandboxFault::Build(said) => SandboxFault::Packages(said),
        other => other,
    })
}

/// Takes the wheels with the wanted digests out of `folder`.
fn take(cache: &Cache, wanted: &[&Package], folder: &Path) -> Result<(), SandboxFault> {
    let found = by_digest(folder)
        .map_err(|error| SandboxFault::Packages(format!("the folder of wheels cannot be read: {error}")))?;
    let mut faults = Vec::new();
    for package in wanted {
        let Some(bytes) = found.get(&package.digest) else {
            let (name, version) = (&package.name, &package.version);
            faults.push(format!("{name} {version}: no wheel there has {}", package.digest));
            continue;
        };
        match Wheel::read(bytes, package) {
            Ok(_) => drop(cache.put(&kept(package), bytes)?),
            Err(fault) => faults.push(format!("{} {}: {fault}", package.name, package.version)),
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(SandboxFault::Packages(faults.join("\n  "))) }
}

/// The wheels in `folder`, those that are too large to be one excepted.
fn by_digest(folder: &Path) -> std::io::Result<BTreeMap<Digest, Vec<u8>>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder)?.take(LOOKED_AT) {
        let path = entry?.path();
        if path.extension().is_none_or(|end| end != "whl") || !path.is_file() {
            continue;
        }
        let mut bytes = Vec::new();
        fs::File::open(&path)?.take(WHEEL as u64 + 1).read_to_end(&mut bytes)?;
        if bytes.len() <= WHEEL {
            found.insert(Digest::of(&bytes), bytes);
        }
    }
    Ok(found)
}
