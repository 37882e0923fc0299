//! The WebAssembly engine: one compiled guest, loaded once per stack size.
//!
//! Metering is by fuel alone: it is deterministic, and a guest that yields every few million units lets the
//! driver hold the wall limit as well, so no second counter (epochs) slows the guest down.
//! Cranelift only; the compiled form is bound to Wasmtime's version, these settings and the processor.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, Mutex, PoisonError};

use wasmtime::component::{Component, InstancePre, Linker};
use wasmtime::{Config, Engine, OptLevel, Strategy, WasmBacktraceDetails};

use super::builder::{self, GuestRow, Progress};
use super::cache::{Cache, Verified};
use super::host::{self, Inside};
use super::spare::Spares;
use super::{SandboxFault, load};

/// The largest native stack that a guest gets, whatever is granted.
const MAX_STACK: u64 = 16 << 20;
/// The smallest size class.
const MIN_STACK: u64 = 128 << 10;
/// Stack for the host's own functions, which run above the guest's.
const HOST_STACK: usize = 1 << 20;

/// One engine per stack size class: the limit is an engine's setting, not a store's.
pub(crate) struct Engines {
    cache: Cache,
    guest: &'static GuestRow,
    progress: Arc<dyn Progress>,
    ready: Mutex<BTreeMap<usize, Arc<Spares>>>,
}

impl Engines {
    /// Loads the guest for the usual stack size, compiling it first if need be.
    pub(crate) fn open(cache: Cache, guest: &str, progress: Arc<dyn Progress>) -> Result<Self, SandboxFault> {
        let engines = Self { cache, guest: builder::known(guest)?, progress, ready: Mutex::default() };
        engines.with_stack(MAX_STACK)?;
        Ok(engines)
    }

    /// The interpreters with at most `bytes` of native stack.
    pub(crate) fn with_stack(&self, bytes: u64) -> Result<Arc<Spares>, SandboxFault> {
        let class = stack_class(bytes);
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = ready.get(&class) {
            return Ok(found.clone());
        }
        let engine = engine(class).map_err(|error| SandboxFault::Load(error.to_string()))?;
        let code = compiled(&self.cache, self.guest, self.progress.as_ref())?;
        let linked = load::compiled(&engine, &code).and_then(|component| link(&engine, &component));
        let guest = linked.map_err(|error| SandboxFault::Load(format!("{error:#}")))?;
        let made = Arc::new(Spares::open(engine, guest));
        ready.insert(class, made.clone());
        Ok(made)
    }
}

/// The largest class that is not above `bytes`.
fn stack_class(bytes: u64) -> usize {
    let bytes = bytes.clamp(MIN_STACK, MAX_STACK);
    usize::try_from(1_u64 << bytes.ilog2()).unwrap_or(HOST_STACK)
}

fn engine(stack: usize) -> wasmtime::Result<Engine> {
    let mut config = Config::new();
    config
        .strategy(Strategy::Cranelift)
        .cranelift_opt_level(OptLevel::Speed)
        .consume_fuel(true)
        .memory_init_cow(true)
        .max_wasm_stack(stack)
        .async_stack_size(stack + HOST_STACK)
        .concurrency_support(false)
        .wasm_backtrace_details(WasmBacktraceDetails::Disable);
    Engine::new(&config)
}

/// The compiled guest from the cache; built and compiled now if need be.
pub(crate) fn compiled(cache: &Cache, guest: &GuestRow, progress: &dyn Progress) -> Result<Verified, SandboxFault> {
    let engine = engine(stack_class(MAX_STACK)).map_err(|error| SandboxFault::Load(error.to_string()))?;
    let mut fingerprint = DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut fingerprint);
    let name = format!("{}-{:016x}.cwasm", builder::stem(guest), fingerprint.finish());
    if let Some(found) = cache.sealed(&name) {
        return Ok(found);
    }
    let component = builder::component(cache, guest, progress)?;
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

/// Links what a guest may call, and a trap where it would reach for a socket.
fn link(engine: &Engine, component: &Component) -> wasmtime::Result<InstancePre<Inside>> {
    let mut linker = Linker::new(engine);
    host::link(&mut linker)?;
    host::link_absent(&mut linker, engine, component)?;
    linker.instantiate_pre(component)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stack_class_is_never_above_what_is_granted() {
        for (granted, class) in [(16 << 20, 16 << 20), (u64::MAX, 16 << 20), (5 << 20, 4 << 20), (1 << 20, 1 << 20)] {
            assert_eq!(stack_class(granted), class, "{granted}");
        }
    }
}
