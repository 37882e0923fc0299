//! The WebAssembly engine of a worker: one compiled guest, with one size of stack.
//!
//! Metering is by fuel alone: it is deterministic, and no second counter (epochs) slows the guest down. A guest into
//! which counting is woven (`weave`) does it itself; for another Wasmtime does, more slowly. Cranelift only; the
//! compiled form is bound to Wasmtime's version, these settings and the processor.

use std::sync::Arc;

use wasmtime::component::{Component, InstancePre, Linker};
use wasmtime::{Config, Engine, OptLevel, Strategy, WasmBacktraceDetails};

use super::host::{self, Inside};
use super::memories::Memories;
use super::raw;
use crate::sandbox::cache::Verified;

/// The largest native stack that a guest gets, whatever is granted.
pub(crate) const MAX_STACK: u64 = 16 << 20;
/// The smallest size class.
const MIN_STACK: u64 = 128 << 10;
/// Stack for the host's own functions, which run above the guest's.
const HOST_STACK: usize = 1 << 20;

/// The largest class that is not above `bytes`: the limit is an engine's setting, not a store's.
pub(crate) fn stack_class(bytes: u64) -> u64 {
    1 << bytes.clamp(MIN_STACK, MAX_STACK).ilog2()
}

/// Who counts fuel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Count {
    /// The guest's own code, in a second memory.
    Guest,
    /// Wasmtime.
    Engine,
}

/// The engine for a class of stacks; its guests' memories are made by `memories`, where there is an image.
///
/// # Errors
/// This machine cannot run it.
pub(crate) fn engine(class: u64, count: Count, memories: Option<Arc<Memories>>) -> wasmtime::Result<Engine> {
    let stack = usize::try_from(class)?;
    let mut config = Config::new();
    config
        .strategy(Strategy::Cranelift)
        .cranelift_opt_level(OptLevel::Speed)
        .consume_fuel(count == Count::Engine)
        .wasm_multi_memory(count == Count::Guest)
        .memory_init_cow(true)
        .max_wasm_stack(stack)
        .async_stack_size(stack + HOST_STACK)
        .concurrency_support(false)
        .wasm_backtrace_details(WasmBacktraceDetails::Disable);
    if let Some(memories) = memories {
        config.with_host_memory(memories);
    }
    Engine::new(&config)
}

/// Loads compiled code and links what a guest may call, and a trap where it would reach for a socket.
///
/// # Errors
/// The file cannot be read or is not for this engine, or the guest wants what is not there.
pub(crate) fn linked(engine: &Engine, code: &Verified) -> wasmtime::Result<InstancePre<Inside>> {
    let component: Component = raw::compiled(engine, code)?;
    let mut linker = Linker::new(engine);
    host::link(&mut linker)?;
    host::link_absent(&mut linker, engine, &component)?;
    linker.instantiate_pre(&component)
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
