//! Builds the Python guest on first use: a pinned tool, installed by hash into the cache, turns
//! `guests/python` (which this binary carries) into a component.
//!
//! Two steps, each explained in `guests/README.md`: the first compiles the standard library with the guest's
//! own interpreter, the second initialises the interpreter with it and stores the image.

use std::ffi::OsString;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::cache::{Cache, Verified};
use super::{SandboxFault, compile, merge};

/// The guest's files, carried by the binary so that an installed one can build.
const FILES: [(&str, &str); 10] = [
    ("guest.toml", include_str!("../../guests/python/guest.toml")),
    ("wit/guest.wit", include_str!("../../guests/python/wit/guest.wit")),
    ("src/absent.py", include_str!("../../guests/python/src/absent.py")),
    ("src/cell.py", include_str!("../../guests/python/src/cell.py")),
    ("src/imports.py", include_str!("../../guests/python/src/imports.py")),
    ("src/library.py", include_str!("../../guests/python/src/library.py")),
    ("src/main.py", include_str!("../../guests/python/src/main.py")),
    ("src/pack.py", include_str!("../../guests/python/src/pack.py")),
    ("src/tools.py", include_str!("../../guests/python/src/tools.py")),
    ("src/values.py", include_str!("../../guests/python/src/values.py")),
];

/// What [`finish`] does to a component; another name makes every cache build anew.
const FINISH: &str = "one core module, 1";

/// Told what takes time while a guest is built; called only then.
pub trait Progress: Send + Sync {
    /// A step begins; the one before it has ended.
    fn step(&self, what: &str);
    /// The last step has ended.
    fn done(&self);
}

/// Shows nothing.
#[derive(Clone, Copy, Debug)]
pub struct Silent;

impl Progress for Silent {
    fn step(&self, _: &str) {}
    fn done(&self) {}
}

/// What stands in `guest.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    name: String,
    world: String,
    language: String,
    capabilities: Vec<String>,
    builder: Tool,
}

/// The tool that makes the component.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tool {
    requirement: String,
    platform: String,
    sha256: String,
}

/// A guest as the command line shows it.
#[derive(Clone, Debug)]
pub struct Guest {
    /// Its name.
    pub name: String,
    /// The language and its version.
    pub language: String,
    /// The world that it is built for.
    pub world: String,
    /// What it may ask for.
    pub capabilities: Vec<String>,
    /// SHA-256 of its sources and of the tool that builds it, hexadecimal.
    pub digest: String,
    /// The cache folder.
    pub cache: PathBuf,
    /// Its sealed files there: name and bytes.
    pub files: Vec<(String, u64)>,
}

impl Guest {
    /// The Python guest and what the cache holds of it.
    ///
    /// # Errors
    /// [`SandboxFault`] when the cache cannot be read.
    pub fn python(cache: Option<PathBuf>) -> Result<Self, SandboxFault> {
        let cache = Cache::open(cache)?;
        let files = cache.list().map_err(|error| SandboxFault::Cache(error.to_string()))?;
        let Manifest { name, world, language, capabilities, .. } = manifest()?;
        Ok(Self { name, language, world, capabilities, digest: digest(), cache: cache.path(""), files })
    }

    /// Builds and compiles the Python guest unless the cache has it.
    ///
    /// # Errors
    /// [`SandboxFault`] with what to do about it.
    pub fn build(cache: Option<PathBuf>, progress: &dyn Progress) -> Result<Self, SandboxFault> {
        let opened = Cache::open(cache.clone())?;
        compile::compiled(&opened, progress)?;
        Self::python(cache)
    }
}

/// The component file, built now if the cache has none that is sealed.
pub(crate) fn component(cache: &Cache, progress: &dyn Progress) -> Result<Verified, SandboxFault> {
    let name = format!("{}.wasm", stem());
    if let Some(found) = cache.sealed(&name) {
        return Ok(found);
    }
    let _lock = cache.lock()?;
    // Another process may have built it while this one waited.
    if let Some(found) = cache.sealed(&name) {
        return Ok(found);
    }
    let built = build(cache, &manifest()?.builder, progress);
    progress.done();
    cache.put(&name, &finish(built?))
}

/// Makes a fresh component start and run faster; one whose shape is not known stays as it is.
fn finish(component: Vec<u8>) -> Vec<u8> {
    match merge::merge(&component) {
        Ok(merged) => merged,
        Err(fault) => {
            tracing::warn!(%fault, "the interpreter starts and runs more slowly than it could");
            component
        }
    }
}

/// The name under which everything made from these sources is kept.
pub(crate) fn stem() -> String {
    format!("python-{}", digest().get(..16).unwrap_or_default())
}

/// SHA-256 over the guest's sources, which name the tool and its hash, and over what is done with its result.
fn digest() -> String {
    let mut digest = Sha256::new();
    digest.update(FINISH);
    for (name, content) in FILES {
        digest.update((name.len() as u64).to_le_bytes());
        digest.update(name);
        digest.update((content.len() as u64).to_le_bytes());
        digest.update(content);
    }
    hex::encode(digest.finalize())
}

fn manifest() -> Result<Manifest, SandboxFault> {
    let [(_, text), ..] = FILES;
    toml::from_str(text).map_err(|error| SandboxFault::Build(format!("guest.toml: {error}")))
}

/// The bytes of a component made from scratch.
fn build(cache: &Cache, tool: &Tool, progress: &dyn Progress) -> Result<Vec<u8>, SandboxFault> {
    let place = cache.path("build");
    let made = || -> Result<Vec<u8>, SandboxFault> {
        stage(&place).map_err(|error| SandboxFault::Cache(error.to_string()))?;
        let workshop = Workshop::open(cache, tool, progress)?;
        progress.step("compiling the standard library (1 of 2)");
        workshop.componentize(&place, "packing", "pack", "packing.wasm")?;
        progress.step("initialising the interpreter (2 of 2)");
        workshop.componentize(&place, "python", "main", "python.wasm")?;
        fs::read(place.join("python.wasm")).map_err(|error| SandboxFault::Build(error.to_string()))
    };
    let bytes = made();
    let _ = fs::remove_dir_all(&place);
    bytes
}

/// Writes the guest's files into an empty folder.
fn stage(place: &Path) -> io::Result<()> {
    match fs::remove_dir_all(place) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    for (name, content) in FILES {
        let path = place.join(name);
        fs::create_dir_all(path.parent().unwrap_or(place))?;
        fs::write(path, content)?;
    }
    Ok(())
}

/// A private Python environment that holds the building tool and nothing else.
struct Workshop {
    environment: PathBuf,
}

impl Workshop {
    fn open(cache: &Cache, tool: &Tool, progress: &dyn Progress) -> Result<Self, SandboxFault> {
        let environment = cache.path(&format!("tool-{}", tool.sha256.get(..16).unwrap_or_default()));
        let workshop = Self { environment };
        if workshop.program("componentize-py").exists() {
            return Ok(workshop);
        }
        if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
            return Err(SandboxFault::Build(format!("the pinned tool is for {} only", tool.platform)));
        }
        progress.step("making a private Python environment");
        let _ = fs::remove_dir_all(&workshop.environment);
        let made = workshop.install(cache, tool, progress);
        if made.is_err() {
            let _ = fs::remove_dir_all(&workshop.environment);
        }
        made.map(|()| workshop)
    }

    fn install(&self, cache: &Cache, tool: &Tool, progress: &dyn Progress) -> Result<(), SandboxFault> {
        let mut venv = Command::new("python3");
        venv.args(["-m", "venv"]).arg(&self.environment);
        output(venv, "python3", "install Python 3.10 or later, with its venv module and pip")?;
        progress.step(&format!("installing {} by its hash", tool.requirement));
        let list = cache.path("requirements.txt");
        fs::write(&list, format!("{} --hash=sha256:{}\n", tool.requirement, tool.sha256))
            .map_err(|error| SandboxFault::Cache(error.to_string()))?;
        let mut pip = Command::new(self.program("python"));
        pip.args(["-m", "pip", "install", "--require-hashes", "--only-binary", ":all:", "--no-deps"]);
        pip.args(["--disable-pip-version-check", "--no-input", "--quiet", "--requirement"]).arg(&list);
        output(pip, "pip", "pip needs a network or an index that this machine can reach; see `pip config list`")
    }

    fn componentize(&self, place: &Path, world: &str, app: &str, target: &str) -> Result<(), SandboxFault> {
        let mut tool = Command::new(self.program("componentize-py"));
        tool.args(["--quiet", "--wit-path", "wit", "--world", world, "componentize", app]);
        tool.args(["--python-path", "src", "--output", target]).current_dir(place);
        // The tool looks for site packages of the Python that it finds: this one has none but itself.
        let mut path = OsString::from(self.environment.join("bin"));
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        tool.env("VIRTUAL_ENV", &self.environment).env("PATH", path).env("RUST_BACKTRACE", "0");
        tool.env_remove("PYTHONPATH").env_remove("PYTHONHOME");
        output(tool, "componentize-py", "if this repeats, remove the cache folder and try again")
    }

    fn program(&self, name: &str) -> PathBuf {
        self.environment.join("bin").join(name)
    }
}

/// Runs `command` to its end; its failure says what to do.
fn output(mut command: Command, name: &str, advice: &str) -> Result<(), SandboxFault> {
    let ran = command.stdin(Stdio::null()).output();
    let ended = ran.map_err(|error| SandboxFault::Build(format!("{name} does not start ({error}); {advice}")))?;
    if ended.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&ended.stderr);
    let last: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let last = last.get(last.len().saturating_sub(3)..).unwrap_or_default().join(" / ");
    let last: String = super::output::harmless(&last).chars().take(240).collect();
    Err(SandboxFault::Build(format!("{name} failed ({}); {advice}. It said: {last}", ended.status)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_pins_the_tool_by_hash() {
        let tool = manifest().unwrap().builder;
        assert!(tool.requirement.contains("=="));
        assert_eq!(tool.sha256.len(), 64);
        assert_eq!(hex::decode(&tool.sha256).unwrap().len(), 32);
    }

    #[test]
    fn every_source_of_the_guest_is_carried() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("guests/python/src");
        for entry in fs::read_dir(folder).unwrap() {
            let name = format!("src/{}", entry.unwrap().file_name().to_string_lossy());
            let carried = FILES.iter().any(|(file, _)| *file == name);
            assert!(carried || !name.ends_with(".py"), "{name} is missing");
        }
    }

    #[test]
    fn a_missing_program_is_told_with_advice() {
        let told = output(Command::new("/nonexistent/python3"), "python3", "install Python").unwrap_err().to_string();
        assert!(told.contains("python3 does not start") && told.contains("install Python"), "{told}");
    }
}
