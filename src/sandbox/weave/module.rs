//! The module with its counter: one more memory, and every function's code woven anew. All else is copied.

use std::collections::BTreeSet;

use wasm_encoder::{CodeSection, MemorySection, MemoryType, Module, RawSection};
use wasmparser::{
    ConstExpr, ElementItems, ExternalKind, FunctionBody, ImportSectionReader, Operator, Parser, Payload, TypeRef,
};

use super::body::Loom;
use super::calls::Counted;
use super::weight::Function;
use super::{WeaveFault, nth};

/// What of a module is looked at.
#[derive(Default)]
struct Parts<'a> {
    /// The number of parameters of each type.
    parameters: Vec<u32>,
    /// The type of each function that it defines.
    types: Vec<u32>,
    bodies: Vec<FunctionBody<'a>>,
    imported: u32,
    /// Functions that something else than a direct call can reach.
    reached: BTreeSet<u32>,
}

pub(super) fn write(bytes: &[u8]) -> Result<Module, WeaveFault> {
    let parts = Parts::read(bytes)?;
    let functions =
        parts.bodies.iter().map(|body| Function::read(body, parts.imported)).collect::<Result<Vec<_>, _>>()?;
    let counted = Counted::of(&functions, |index| parts.reached.contains(&(parts.imported + index)));
    let mut code = CodeSection::new();
    for (index, (ty, body)) in (0..).zip(parts.types.iter().zip(&parts.bodies)) {
        let weights = nth(&functions, index)?.weights(&counted);
        let loom = Loom { counts: counted.counts(index), weights: &weights };
        code.raw(&loom.body(body, *nth(&parts.parameters, *ty)?)?);
    }
    assemble(bytes, &code)
}

fn assemble(bytes: &[u8], code: &CodeSection) -> Result<Module, WeaveFault> {
    let (mut module, mut written) = (Module::new(), false);
    for payload in Parser::new(0).parse_all(bytes) {
        let payload = payload?;
        match &payload {
            Payload::MemorySection(memories) => {
                let mut section = MemorySection::new();
                for memory in memories.clone() {
                    let memory = memory?;
                    section.memory(MemoryType {
                        minimum: memory.initial,
                        maximum: memory.maximum,
                        memory64: memory.memory64,
                        shared: memory.shared,
                        page_size_log2: memory.page_size_log2,
                    });
                }
                module.section(section.memory(MemoryType {
                    minimum: 1,
                    maximum: Some(1),
                    memory64: false,
                    shared: false,
                    page_size_log2: None,
                }));
            }
            Payload::CodeSectionEntry(_) if written => {}
            Payload::CodeSectionStart { .. } => {
                module.section(code);
                written = true;
            }
            payload => {
                if let Some((id, range)) = payload.as_section() {
                    module.section(&RawSection { id, data: bytes.get(range).unwrap_or_default() });
                }
            }
        }
    }
    Ok(module)
}

impl<'a> Parts<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, WeaveFault> {
        let mut parts = Self::default();
        for payload in Parser::new(0).parse_all(bytes) {
            match payload? {
                Payload::TypeSection(types) => {
                    for ty in types.into_iter_err_on_gc_types() {
                        parts.parameters.push(u32::try_from(ty?.params().len()).unwrap_or(u32::MAX));
                    }
                }
                Payload::ImportSection(imports) => {
                    let (functions, memories) = imported(&imports)?;
                    parts.imported = functions;
                    if memories > 0 {
                        return Err(WeaveFault::Shape("a module has a memory and imports another"));
                    }
                }
                Payload::FunctionSection(types) => parts.types = types.into_iter().collect::<Result<_, _>>()?,
                Payload::MemorySection(memories) if memories.count() > 1 => {
                    return Err(WeaveFault::Shape("a module has more than one memory"));
                }
                Payload::ExportSection(exports) => {
                    for export in exports {
                        let export = export?;
                        if export.kind == ExternalKind::Func {
                            parts.reached.insert(export.index);
                        }
                    }
                }
                Payload::StartSection { func, .. } => drop(parts.reached.insert(func)),
                Payload::ElementSection(segments) => {
                    for segment in segments {
                        parts.listed(segment?.items)?;
                    }
                }
                Payload::GlobalSection(globals) => {
                    for global in globals {
                        parts.named(&global?.init_expr)?;
                    }
                }
                Payload::CodeSectionEntry(body) => parts.code(body)?,
                _ => {}
            }
        }
        Ok(parts)
    }

    fn listed(&mut self, items: ElementItems<'a>) -> Result<(), WeaveFault> {
        match items {
            ElementItems::Functions(functions) => {
                for function in functions {
                    self.reached.insert(function?);
                }
            }
            ElementItems::Expressions(_, expressions) => {
                for expression in expressions {
                    self.named(&expression?)?;
                }
            }
        }
        Ok(())
    }

    fn named(&mut self, expression: &ConstExpr<'a>) -> Result<(), WeaveFault> {
        for operator in expression.get_operators_reader() {
            if let Operator::RefFunc { function_index } = operator? {
                self.reached.insert(function_index);
            }
        }
        Ok(())
    }

    fn code(&mut self, body: FunctionBody<'a>) -> Result<(), WeaveFault> {
        for operator in body.get_operators_reader()? {
            if let Operator::RefFunc { function_index } = operator? {
                self.reached.insert(function_index);
            }
        }
        self.bodies.push(body);
        Ok(())
    }
}

/// How many functions and memories are imported.
pub(super) fn imported(imports: &ImportSectionReader<'_>) -> Result<(u32, u32), WeaveFault> {
    let (mut functions, mut memories) = (0, 0);
    for import in imports.clone().into_imports() {
        match import?.ty {
            TypeRef::Func(_) => functions += 1,
            TypeRef::Memory(_) => memories += 1,
            _ => {}
        }
    }
    Ok((functions, memories))
}
