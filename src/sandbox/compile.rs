//! The compiled guest and the memory with which its interpreters start: made once, kept in the cache, used by every
//! worker.
//!
//! The memory is taken out of the component, and taken once more after a first program has run: an interpreter that
//! starts with it has its first program behind it. Its code is made to count its fuel. A guest of which one of these
//! cannot be done works too, only more slowly and without checkpoints.

use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use super::SandboxFault;
use super::builder::{self, GuestRow, Progress};
use super::cache::{Cache, Verified};
use super::image::{self, Image};
use super::weave;
use super::wire::Terms;
use super::worker::Worker;
use super::worker::engine::{Count, MAX_STACK, engine};

/// What a worker loads.
pub(crate) struct Ready {
    pub(crate) code: Verified,
    pub(crate) image: Option<Verified>,
}

/// What is done here; another name makes every cache compile anew.
const FORM: &str = "image, own fuel, 1";
/// WebAssembly's page.
const PAGE: u64 = 64 << 10;

/// The guest of `row` from the cache; built and compiled now if need be. The size of the stack is no part of it.
///
/// # Errors
/// [`SandboxFault`] with what to do about it.
pub(crate) fn compiled(cache: &Cache, row: &GuestRow, progress: &dyn Progress) -> Result<Ready, SandboxFault> {
    let stem = builder::stem(cache, row).ok_or_else(|| builder::unbuilt(row))?;
    ready(cache, &stem, progress, || builder::component(cache, row, progress))
}

/// What is kept under `stem`; compiled now out of `component` if need be.
///
/// # Errors
/// As [`compiled`].
pub(crate) fn ready(
    cache: &Cache,
    stem: &str,
    progress: &dyn Progress,
    component: impl FnOnce() -> Result<Verified, SandboxFault>,
) -> Result<Ready, SandboxFault> {
    let name = name(stem)?;
    if let Some(ready) = kept(cache, &name) {
        return Ok(ready);
    }
    let component = component()?;
    let _lock = cache.lock()?;
    if let Some(ready) = kept(cache, &name) {
        return Ok(ready);
    }
    progress.step("compiling the interpreter for this processor");
    let made = make(cache, &name, &component);
    progress.done();
    made
}

/// The guest of `row` when the cache has it.
///
/// # Errors
/// [`SandboxFault`] when this machine cannot run any.
pub(crate) fn cached(cache: &Cache, row: &GuestRow) -> Result<Option<Ready>, SandboxFault> {
    match builder::stem(cache, row) {
        Some(stem) => Ok(kept(cache, &name(&stem)?)),
        None => Ok(None),
    }
}

/// The name under which everything compiled from a guest's `stem` is kept.
pub(crate) fn name(stem: &str) -> Result<String, SandboxFault> {
    let engine = engine(MAX_STACK, Count::Guest, None).map_err(|error| SandboxFault::Load(error.to_string()))?;
    let mut fingerprint = DefaultHasher::new();
    FORM.hash(&mut fingerprint);
    engine.precompile_compatibility_hash().hash(&mut fingerprint);
    Ok(format!("{stem}-{:016x}", fingerprint.finish()))
}

fn kept(cache: &Cache, name: &str) -> Option<Ready> {
    // The image is written before the code: code without an image has its memory in itself.
    let code = cache.sealed(&format!("{name}.cwasm"))?;
    let image = cache.sealed(&format!("{name}.image"));
    let own = cache.sealed(&format!("{name}.own"));
    (image.is_some() || own.is_some()).then_some(Ready { code, image })
}

fn make(cache: &Cache, name: &str, component: &Verified) -> Result<Ready, SandboxFault> {
    let bytes = fs::read(component.path()).map_err(|error| SandboxFault::Cache(error.to_string()))?;
    let counting = |(stripped, image): (Vec<u8>, Image)| match weave::weave(&stripped) {
        Ok(woven) => Ok((woven, image)),
        Err(fault) => Err(fault.to_string()),
    };
    match image::strip(&bytes).map_err(|fault| fault.to_string()).and_then(counting) {
        Ok((woven, image)) => {
            let code = compile(cache, name, Count::Guest, &woven)?;
            let image = warmed(cache, name, &code, image)?;
            Ok(Ready { code, image: Some(image) })
        }
        Err(fault) => {
            tracing::warn!(fault, "the interpreter is slower than it could be, and its sessions cannot be stored");
            let code = compile(cache, name, Count::Engine, &bytes)?;
            cache.put(&format!("{name}.own"), b"this guest has its memory in its code")?;
            Ok(Ready { code, image: None })
        }
    }
}

fn compile(cache: &Cache, name: &str, count: Count, component: &[u8]) -> Result<Verified, SandboxFault> {
    let load = |error: wasmtime::Error| SandboxFault::Load(format!("{error:#}"));
    let code =
        engine(MAX_STACK, count, None).and_then(|engine| engine.precompile_component(component)).map_err(load)?;
    cache.put(&format!("{name}.cwasm"), &code)
}

/// The image after a first program has run in it.
fn warmed(cache: &Cache, name: &str, code: &Verified, image: Image) -> Result<Verified, SandboxFault> {
    let mut memory = image.bytes;
    let size = usize::try_from(image.pages * PAGE).map_err(|_| SandboxFault::Load("its memory is too large".into()))?;
    memory.resize(size.max(memory.len()), 0);
    let cold = cache.put(&format!("{name}.cold"), &memory)?;
    let terms = Terms {
        code: code.path().display().to_string(),
        image: cold.path().display().to_string(),
        stack: MAX_STACK,
        folders: Vec::new(),
        memory_bytes: 0,
        file_bytes: 0,
        locked: false,
    };
    let worker = Worker::open(&terms, || Ok(())).map_err(SandboxFault::Load)?;
    let request = "{\"tools\": [], \"imports\": [], \"files\": false, \"result_bytes\": 1000, \"aside\": true}\n{}";
    worker.rehearse("1 + 1", request, &mut memory).map_err(SandboxFault::Load)?;
    let warm = cache.put(&format!("{name}.image"), &memory);
    // Where it stays it is large, and harms nothing.
    let _ = cache.remove(&format!("{name}.cold"));
    warm
}
