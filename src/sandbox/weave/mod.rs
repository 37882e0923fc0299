//! Fuel that is counted by the guest's own code, in a memory that the guest cannot name.
//!
//! Wasmtime's fuel keeps a counter in a register through every function and stores and loads it around every call;
//! here one word in a second memory goes down at loop headers and function entries, by what is likely to run until
//! the next of them. `calls.rs` finds where a function's entry must count, `weight.rs` how much, `body.rs` writes
//! the code, `module.rs` the module. At zero the code traps: it never calls, so that nothing has to be saved for
//! that. Counting must depend on nothing but the code: the same program uses the same fuel on every machine. A
//! shape that is not known is an error, and the caller lets Wasmtime count.

mod body;
mod calls;
mod module;
mod weight;

use wasm_encoder::{Component, ModuleSection, RawSection};
use wasmparser::{Chunk, Operator, Parser, Payload, Validator, WasmFeatures};

/// Why a component's fuel is not counted by its own code.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WeaveFault {
    /// It breaks a rule of WebAssembly, or uses a part of it that is not known here.
    #[error("the component cannot be read: {0}")]
    Malformed(String),
    /// It is valid, and put together in a way that is not known here.
    #[error("the component cannot count its fuel: {0}")]
    Shape(&'static str),
    /// What came out is not valid: a mistake of this module.
    #[error("the component that counts its fuel is not valid, which is a bug: {0}")]
    Broken(String),
}

impl From<wasmparser::Error> for WeaveFault {
    fn from(error: wasmparser::Error) -> Self {
        Self::Malformed(error.to_string())
    }
}

/// What a module may use: a closed set, so that every way to go on somewhere else is known to this module.
const KNOWN: WasmFeatures = WasmFeatures::WASM2
    .union(WasmFeatures::EXTENDED_CONST)
    .union(WasmFeatures::RELAXED_SIMD)
    .union(WasmFeatures::COMPONENT_MODEL);

/// The first and the only size of the memory in which fuel is counted, bytes: a page of WebAssembly.
pub(crate) const MEMORY: usize = 64 << 10;

/// `component` with a counter: eight bytes at the start of a memory of [`MEMORY`] bytes, which its host fills.
///
/// # Errors
/// [`WeaveFault`]; Wasmtime must then count.
pub(crate) fn weave(component: &[u8]) -> Result<Vec<u8>, WeaveFault> {
    Validator::new_with_features(KNOWN).validate_all(component)?;
    let (mut woven, mut found) = (Component::new(), 0);
    let (mut parser, mut at) = (Parser::new(0), 0);
    loop {
        let rest = component.get(at..).unwrap_or_default();
        let Chunk::Parsed { payload, consumed } = parser.parse(rest, true)? else {
            return Err(WeaveFault::Malformed("it ends early".into()));
        };
        at += consumed;
        match payload {
            Payload::End(_) => break,
            Payload::ModuleSection { unchecked_range, .. } => {
                at = unchecked_range.end;
                let data = component.get(unchecked_range).unwrap_or_default();
                if has_memory(data)? {
                    found += 1;
                    woven.section(&ModuleSection(&module::write(data)?));
                } else {
                    plain(data)?;
                    woven.section(&RawSection { id: 1, data });
                }
            }
            Payload::ComponentSection { unchecked_range, .. } => {
                at = unchecked_range.end;
                let data = component.get(unchecked_range).unwrap_or_default();
                no_modules(data)?;
                woven.section(&RawSection { id: 4, data });
            }
            other => {
                if let Some((id, range)) = other.as_section() {
                    woven.section(&RawSection { id, data: component.get(range).unwrap_or_default() });
                }
            }
        }
    }
    if found != 1 {
        return Err(WeaveFault::Shape("it has not one memory"));
    }
    let woven = woven.finish();
    match Validator::new_with_features(KNOWN.union(WasmFeatures::MULTI_MEMORY)).validate_all(&woven) {
        Ok(_) => Ok(woven),
        Err(error) => Err(WeaveFault::Broken(error.to_string())),
    }
}

fn has_memory(module: &[u8]) -> Result<bool, WeaveFault> {
    for payload in Parser::new(0).parse_all(module) {
        if let Payload::MemorySection(memories) = payload? {
            return Ok(memories.count() > 0);
        }
    }
    Ok(false)
}

/// A module beside the one that counts: it must be too plain to need counting, as those are that only pass calls on.
fn plain(module: &[u8]) -> Result<(), WeaveFault> {
    let mut imported = 0;
    for payload in Parser::new(0).parse_all(module) {
        match payload? {
            Payload::ImportSection(imports) => imported = module::imported(&imports)?.0,
            Payload::CodeSectionEntry(body) => {
                for operator in body.get_operators_reader()? {
                    let operator = operator?;
                    let own = matches!(operator, Operator::Call { function_index } if function_index >= imported);
                    if own || matches!(operator, Operator::Loop { .. }) || body::is_bulk(&operator) {
                        return Err(WeaveFault::Shape("a module without a memory of its own does more than pass on"));
                    }
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn no_modules(nested: &[u8]) -> Result<(), WeaveFault> {
    for payload in Parser::new(0).parse_all(nested) {
        if let Payload::ModuleSection { .. } = payload? {
            return Err(WeaveFault::Shape("a nested component has modules of its own"));
        }
    }
    Ok(())
}

/// `list[index]`, where a valid module has it.
fn nth<T>(list: &[T], index: u32) -> Result<&T, WeaveFault> {
    let found = usize::try_from(index).ok().and_then(|index| list.get(index));
    found.ok_or(WeaveFault::Shape("an index is out of range"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        weave(&wat::parse_str(text).unwrap()).unwrap_err().to_string()
    }

    #[test]
    fn what_cannot_be_counted_is_refused() {
        assert!(refused("(component)").contains("not one memory"));
        assert!(refused("(component (core module (memory 1)) (core module (memory 1)))").contains("not one memory"));
        let beside = |body: &str| {
            refused(&format!("(component (core module (memory 1)) (core module (func $f {body}) (func (call $f))))"))
        };
        assert!(beside("").contains("more than pass on"), "a call of its own");
        let looping = "(component (core module (memory 1)) (core module (func (loop $on (br $on)))))";
        assert!(refused(looping).contains("more than pass on"));
        let nested = "(component (core module (memory 1)) (component (core module)))";
        assert!(refused(nested).contains("nested"));
        assert!(weave(b"\0asm").is_err());
    }

    #[test]
    fn a_guest_cannot_name_the_memory_that_counts() {
        let two = "(component (core module (memory 1) (memory 1)))";
        assert!(weave(&wat::parse_str(two).unwrap()).is_err(), "only one memory was ever valid");
        let load = "(component (core module (memory 1) (func (drop (i32.load 1 (i32.const 0))))))";
        assert!(wat::parse_str(load).is_err() || weave(&wat::parse_str(load).unwrap()).is_err());
    }

    #[test]
    fn weaving_twice_makes_the_same_bytes() {
        let text = "(component (core module (memory 1) (func (export \"f\") (loop $on (br_if $on (i32.const 0))))))";
        let bytes = wat::parse_str(text).unwrap();
        assert_eq!(weave(&bytes).unwrap(), weave(&bytes).unwrap());
    }
}
