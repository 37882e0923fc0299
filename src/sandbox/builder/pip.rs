//! The route of a guest that one pinned wheel builds: a private Python environment in the cache, and in it the
//! tool, installed by its hash.
//!
//! Two steps, each explained in `guests/README.md`: the first compiles the standard library with the guest's
//! own interpreter, the second initialises the interpreter with it and stores the image.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

use super::{Progress, output};
use crate::sandbox::SandboxFault;
use crate::sandbox::cache::Cache;

/// The tool that makes the component.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tool {
    pub(super) requirement: String,
    platform: String,
    pub(super) sha256: String,
}

/// The component that `tool` makes of the files in `place`.
pub(super) fn build(
    cache: &Cache,
    tool: &Tool,
    place: &Path,
    progress: &dyn Progress,
) -> Result<Vec<u8>, SandboxFault> {
    let workshop = Workshop::open(cache, tool, progress)?;
    progress.step("compiling the standard library (1 of 2)");
    workshop.componentize(place, "packing", "pack", "packing.wasm")?;
    progress.step("initialising the interpreter (2 of 2)");
    workshop.componentize(place, "python", "main", "python.wasm")?;
    fs::read(place.join("python.wasm")).map_err(|error| SandboxFault::Build(error.to_string()))
}

/// The private environment's Python.
pub(super) fn python(cache: &Cache, tool: &Tool) -> PathBuf {
    Workshop::of(cache, tool).program("python")
}

/// A private Python environment that holds the building tool and nothing else.
struct Workshop {
    environment: PathBuf,
}

impl Workshop {
    fn of(cache: &Cache, tool: &Tool) -> Self {
        Self { environment: cache.path(&format!("tool-{}", tool.sha256.get(..16).unwrap_or_default())) }
    }

    fn open(cache: &Cache, tool: &Tool, progress: &dyn Progress) -> Result<Self, SandboxFault> {
        let workshop = Self::of(cache, tool);
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
