//! One core module out of a component's many: what a dynamic linker would do, done once, when a guest is built.
//!
//! A component of shared libraries wires its core modules by name: each start resolves thousands of
//! imports, and each call or address that crosses a library takes a detour. `outline.rs` reads the component,
//! `part.rs` its modules, `link.rs` finds what each import is, `survey.rs` and `fold.rs` prove what is
//! constant, `body.rs` rewrites code, `module.rs` writes the one module and `component.rs` the component
//! around it. Nothing here may change what a guest computes: a shape that is not known is an error, and the
//! caller keeps the component that it has.

mod body;
mod component;
mod fold;
mod link;
mod module;
mod outline;
mod part;
mod survey;
#[cfg(test)]
mod tests;

use wasmparser::{Validator, WasmFeatures};

/// Why a component stays as it is.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MergeFault {
    /// It breaks a rule of WebAssembly, or uses a part of it that is not known here.
    #[error("the component cannot be read: {0}")]
    Malformed(String),
    /// It is valid, and put together in a way that is not known here.
    #[error("the component's core modules stay apart: {0}")]
    Shape(&'static str),
    /// What came out is not valid: a mistake of this module.
    #[error("the merged component is not valid, which is a bug: {0}")]
    Broken(String),
}

impl From<wasmparser::Error> for MergeFault {
    fn from(error: wasmparser::Error) -> Self {
        Self::Malformed(error.to_string())
    }
}

/// What a module may use: a closed set, so that every operator with an index in it is known to `body.rs`.
const KNOWN: WasmFeatures = WasmFeatures::WASM2
    .union(WasmFeatures::EXTENDED_CONST)
    .union(WasmFeatures::RELAXED_SIMD)
    .union(WasmFeatures::COMPONENT_MODEL);

/// Merges the core modules of `component` that do not need its own exports to start.
///
/// # Errors
/// [`MergeFault`]; `component` is then best used as it is.
pub(crate) fn merge(component: &[u8]) -> Result<Vec<u8>, MergeFault> {
    Validator::new_with_features(KNOWN).validate_all(component)?;
    let outline = outline::Outline::read(component)?;
    let linked = link::Linked::new(&outline)?;
    let needs = component::Needs::of(&linked)?;
    let plan = fold::Plan::new(&linked, &needs)?;
    let merged = module::write(&linked, &plan, &needs)?;
    let bytes = component::write(&linked, &needs, &merged)?;
    match Validator::new_with_features(KNOWN).validate_all(&bytes) {
        Ok(_) => Ok(bytes),
        Err(error) => Err(MergeFault::Broken(error.to_string())),
    }
}

/// `list[index]`, where a valid component has it.
fn nth<T>(list: &[T], index: u32) -> Result<&T, MergeFault> {
    let found = usize::try_from(index).ok().and_then(|index| list.get(index));
    found.ok_or(MergeFault::Shape("an index is out of range"))
}

/// The number of entries, as WebAssembly counts.
fn count<T>(list: &[T]) -> u32 {
    u32::try_from(list.len()).unwrap_or(u32::MAX)
}
