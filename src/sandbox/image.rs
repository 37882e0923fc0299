//! The memory image of a component, taken out of it, so that a host can map it instead of copying it.
//!
//! A pre-initialised guest carries its memory as active data segments. `strip` empties them and returns the
//! bytes that they would have written. It must be sound on its own: segments that code still uses stay, and
//! anything whose effect is not plain is an error, so that the caller runs the component as it is.

use wasm_encoder::{Component, ConstExpr as Encoded, DataCountSection, DataSection, Module, ModuleSection, RawSection};
use wasmparser::{
    Chunk, ConstExpr, DataKind, DataSectionReader, Operator, Parser, Payload, TypeRef, Validator, WasmFeatures,
};

/// WebAssembly's page.
const PAGE: u64 = 64 << 10;
/// The largest image that is taken: a quarter of what an address of 32 bits reaches.
const LARGEST: u64 = 1 << 30;

/// Why a component's image cannot be taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImageFault {
    /// It breaks a rule of WebAssembly.
    #[error("the component cannot be read: {0}")]
    Malformed(String),
    /// It is valid, and fills its memory in a way that is not known here.
    #[error("the component's memory stays in it: {0}")]
    Shape(&'static str),
    /// What came out is not valid: a mistake of this module.
    #[error("the component without its memory is not valid, which is a bug: {0}")]
    Broken(String),
}

impl From<wasmparser::Error> for ImageFault {
    fn from(error: wasmparser::Error) -> Self {
        Self::Malformed(error.to_string())
    }
}

/// What a component's one memory holds when its modules start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Image {
    /// From address 0; behind the end all is zero.
    pub(crate) bytes: Vec<u8>,
    /// The memory's first size, in pages of 64 KiB.
    pub(crate) pages: u64,
}

/// The component with its active data segments emptied, and the memory that they made.
///
/// # Errors
/// [`ImageFault`]; the component is then best used as it is.
pub(crate) fn strip(component: &[u8]) -> Result<(Vec<u8>, Image), ImageFault> {
    Validator::new_with_features(WasmFeatures::all()).validate_all(component)?;
    let (mut stripped, mut image) = (Component::new(), None);
    let (mut parser, mut at) = (Parser::new(0), 0);
    loop {
        let rest = component.get(at..).unwrap_or_default();
        let Chunk::Parsed { payload, consumed } = parser.parse(rest, true)? else {
            return Err(ImageFault::Malformed("it ends early".into()));
        };
        at += consumed;
        match payload {
            Payload::End(_) => break,
            Payload::ModuleSection { unchecked_range, .. } => {
                at = unchecked_range.end;
                let bytes = component.get(unchecked_range).unwrap_or_default();
                let module = take(bytes, &mut image)?;
                stripped.section(&ModuleSection(&module));
            }
            Payload::ComponentSection { unchecked_range, .. } => {
                at = unchecked_range.end;
                let data = component.get(unchecked_range).unwrap_or_default();
                no_modules(data)?;
                stripped.section(&RawSection { id: 4, data });
            }
            other => {
                if let Some((id, range)) = other.as_section() {
                    stripped.section(&RawSection { id, data: component.get(range).unwrap_or_default() });
                }
            }
        }
    }
    let image = image.ok_or(ImageFault::Shape("it has no memory"))?;
    let stripped = stripped.finish();
    match Validator::new_with_features(WasmFeatures::all()).validate_all(&stripped) {
        Ok(_) => Ok((stripped, image)),
        Err(error) => Err(ImageFault::Broken(error.to_string())),
    }
}

/// Copies a module without what its active data segments hold, which goes into `image`.
fn take(bytes: &[u8], image: &mut Option<Image>) -> Result<Module, ImageFault> {
    let mut module = Module::new();
    let mut own = false;
    for payload in Parser::new(0).parse_all(bytes) {
        let payload = payload?;
        match &payload {
            Payload::ImportSection(imports) => {
                for import in imports.clone().into_imports() {
                    if let TypeRef::Memory(_) = import?.ty
                        && image.is_none()
                    {
                        return Err(ImageFault::Shape("a memory is used before the module that defines it"));
                    }
                }
            }
            Payload::MemorySection(memories) => {
                for memory in memories.clone() {
                    let memory = memory?;
                    if memory.memory64 || memory.shared || memory.page_size_log2.is_some() {
                        return Err(ImageFault::Shape("its memory is not a plain one of 32 bits"));
                    }
                    if image.replace(Image { bytes: Vec::new(), pages: memory.initial }).is_some() {
                        return Err(ImageFault::Shape("it has more than one memory"));
                    }
                    own = true;
                }
            }
            Payload::DataSection(segments) => {
                module.section(&emptied(segments, own, image.as_mut())?);
                continue;
            }
            Payload::DataCountSection { count, .. } => {
                module.section(&DataCountSection { count: *count });
                continue;
            }
            _ => {}
        }
        if let Some((id, range)) = payload.as_section() {
            module.section(&RawSection { id, data: bytes.get(range).unwrap_or_default() });
        }
    }
    Ok(module)
}

/// Every segment keeps its number; an active one keeps no bytes. A passive one is left to the code that uses it.
fn emptied(
    segments: &DataSectionReader<'_>,
    own: bool,
    mut image: Option<&mut Image>,
) -> Result<DataSection, ImageFault> {
    let mut section = DataSection::new();
    for segment in segments.clone() {
        let segment = segment?;
        match segment.kind {
            DataKind::Passive => {
                section.passive(segment.data.iter().copied());
            }
            DataKind::Active { .. } if segment.data.is_empty() => {
                section.active(0, &Encoded::i32_const(0), []);
            }
            DataKind::Active { offset_expr, .. } => {
                // Another module's segments may come after code that has run.
                let image = image.as_mut().filter(|_| own);
                let image = image.ok_or(ImageFault::Shape("a module fills a memory that it does not define"))?;
                write(image, address(&offset_expr)?, segment.data)?;
                section.active(0, &Encoded::i32_const(0), []);
            }
        }
    }
    Ok(section)
}

fn write(image: &mut Image, at: u64, data: &[u8]) -> Result<(), ImageFault> {
    let end = at.saturating_add(u64::try_from(data.len()).unwrap_or(u64::MAX));
    if end > image.pages.saturating_mul(PAGE) {
        return Err(ImageFault::Shape("a segment does not fit into its memory"));
    }
    if end > LARGEST {
        return Err(ImageFault::Shape("its memory image is too large"));
    }
    let (Ok(at), Ok(end)) = (usize::try_from(at), usize::try_from(end)) else {
        return Err(ImageFault::Shape("its memory image is too large"));
    };
    if image.bytes.len() < end {
        image.bytes.resize(end, 0);
    }
    if let Some(place) = image.bytes.get_mut(at..end) {
        place.copy_from_slice(data);
    }
    Ok(())
}

/// A segment's address, when it is a plain constant.
fn address(expression: &ConstExpr<'_>) -> Result<u64, ImageFault> {
    let mut operators = expression.get_operators_reader();
    match (operators.read()?, operators.read()?) {
        (Operator::I32Const { value }, Operator::End) => Ok(u64::from(u32::from_ne_bytes(value.to_ne_bytes()))),
        _ => Err(ImageFault::Shape("a segment's address is not a plain constant")),
    }
}

/// A module inside a nested component could have a memory of its own.
fn no_modules(nested: &[u8]) -> Result<(), ImageFault> {
    for payload in Parser::new(0).parse_all(nested) {
        if let Payload::ModuleSection { .. } = payload? {
            return Err(ImageFault::Shape("a nested component has modules of its own"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use wasm_encoder::{Function, Instruction, MemorySection, MemoryType, TypeSection};

    use super::*;

    type Segment<'a> = (Option<i32>, &'a [u8]);

    /// A component of one module with a memory of two pages and these segments: active ones, and passive ones
    /// that a function copies to address 0.
    fn component(segments: &[Segment<'_>]) -> Vec<u8> {
        let mut module = Module::new();
        let mut types = TypeSection::new();
        types.ty().function([], []);
        module.section(&types).section(wasm_encoder::FunctionSection::new().function(0));
        let ty = MemoryType { minimum: 2, maximum: None, memory64: false, shared: false, page_size_log2: None };
        module.section(MemorySection::new().memory(ty));
        let (mut data, mut function) = (DataSection::new(), Function::new([]));
        for (data_index, (at, bytes)) in (0..).zip(segments) {
            match at {
                Some(at) => data.active(0, &Encoded::i32_const(*at), bytes.iter().copied()),
                None => {
                    for _ in 0..3 {
                        function.instruction(&Instruction::I32Const(0));
                    }
                    function.instruction(&Instruction::MemoryInit { mem: 0, data_index });
                    data.passive(bytes.iter().copied())
                }
            };
        }
        module.section(&DataCountSection { count: data.len() });
        module.section(wasm_encoder::CodeSection::new().function(function.instruction(&Instruction::End)));
        module.section(&data);
        let mut component = Component::new();
        component.section(&ModuleSection(&module));
        component.finish()
    }

    fn kept(component: &[u8]) -> Vec<(bool, Vec<u8>)> {
        let mut kept = Vec::new();
        for payload in Parser::new(0).parse_all(component) {
            let Payload::DataSection(segments) = payload.unwrap() else { continue };
            for segment in segments {
                let segment = segment.unwrap();
                kept.push((matches!(segment.kind, DataKind::Passive), segment.data.to_vec()));
            }
        }
        kept
    }

    #[test]
    fn the_image_is_what_the_segments_would_have_written() {
        let (stripped, image) =
            strip(&component(&[(Some(4), b"abcd"), (Some(6), b"XY"), (Some(70_000), b"z")])).unwrap();
        assert_eq!((image.pages, image.bytes.len()), (2, 70_001));
        assert_eq!(&image.bytes[..9], b"\0\0\0\0abXY\0", "later segments win");
        assert_eq!(image.bytes[70_000], b'z');
        assert_eq!(kept(&stripped), vec![(false, vec![]); 3], "every segment keeps its number");
    }

    #[test]
    fn a_passive_segment_stays_for_the_code_that_copies_it() {
        let (stripped, image) = strip(&component(&[(Some(0), b"ab"), (None, b"later")])).unwrap();
        assert_eq!(image.bytes, b"ab");
        assert_eq!(kept(&stripped), [(false, vec![]), (true, b"later".to_vec())]);
    }

    #[test]
    fn a_memory_without_segments_has_an_empty_image() {
        let (_, image) = strip(&component(&[])).unwrap();
        assert_eq!(image, Image { bytes: Vec::new(), pages: 2 });
    }

    #[test]
    fn a_segment_beyond_its_memory_is_refused() {
        for at in [131_071, -1] {
            assert!(matches!(strip(&component(&[(Some(at), b"ab")])), Err(ImageFault::Shape(_))), "{at}");
        }
    }

    #[test]
    fn a_module_that_fills_a_memory_of_another_is_refused() {
        let ty = MemoryType { minimum: 1, maximum: None, memory64: false, shared: false, page_size_log2: None };
        let mut owner = Module::new();
        owner.section(MemorySection::new().memory(ty));
        let mut user = Module::new();
        user.section(wasm_encoder::ImportSection::new().import("env", "memory", ty));
        user.section(DataSection::new().active(0, &Encoded::i32_const(0), *b"x"));
        for modules in [[&owner, &user], [&user, &owner], [&owner, &owner]] {
            let mut component = Component::new();
            for module in modules {
                component.section(&ModuleSection(module));
            }
            assert!(matches!(strip(&component.finish()), Err(ImageFault::Shape(_))));
        }
    }

    #[test]
    fn what_is_cut_or_damaged_is_never_a_panic() {
        let whole = component(&[(Some(4), b"abcd"), (None, b"later")]);
        for at in 0..whole.len() {
            let _ = strip(&whole[..at]);
            let mut damaged = whole.clone();
            damaged[at] ^= 0x55;
            let told = strip(&damaged).map(|_| ()).map_err(|fault| fault.to_string()).err().unwrap_or_default();
            assert!(!told.contains("which is a bug"), "byte {at}: {told}");
        }
    }
}
