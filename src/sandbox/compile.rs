//! The compiled guest: made once for this machine, kept in the cache, used by every worker.

use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use super::SandboxFault;
use super::builder::{self, Progress};
use super::cache::{Cache, Verified};
use super::worker::engine::{MAX_STACK, engine};

/// The compiled guest from the cache; built and compiled now if need be. The size of the stack is no part of it.
pub(crate) fn compiled(cache: &Cache, progress: &dyn Progress) -> Result<Verified, SandboxFault> {
    let engine = engine(MAX_STACK, None).map_err(|error| SandboxFault::Load(error.to_string()))?;
    let mut fingerprint = DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut fingerprint);
    let name = format!("{}-{:016x}.cwasm", builder::stem(), fingerprint.finish());
    if let Some(found) = cache.sealed(&name) {
        return Ok(found);
    }
    let component = builder::component(cache, progress)?;
    let _lock = cache.lock()?;
    if let Some(found) = cache.sealed(&name) {
        return Ok(found);
    }
    progress.step("compiling the interpreter for this processor");
    let bytes = fs::read(component.path()).map_err(|error| SandboxFault::Cache(error.to_string()))?;
    let code = engine.precompile_component(&bytes);
    progress.done();
    cache.put(&name, &code.map_err(|error| SandboxFault::Load(format!("{error:#}")))?)
}
