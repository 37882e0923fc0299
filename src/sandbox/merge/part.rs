//! One core module, read as far as linking needs it.

use std::collections::BTreeMap;

use wasmparser::{
    CompositeInnerType, ConstExpr, Data, Element, FuncType, FunctionBody, GlobalType, Import, Imports, MemoryType,
    Parser, Payload, TableInit, TableType, TypeRef,
};

use super::MergeFault;
use super::outline::{BySort, Sort};

/// A core module that becomes part of the merged one.
#[derive(Default)]
pub(super) struct Part<'a> {
    pub(super) types: Vec<FuncType>,
    pub(super) imports: BySort<Vec<Import<'a>>>,
    /// The type of each function that it defines.
    pub(super) funcs: Vec<u32>,
    pub(super) tables: Vec<TableType>,
    pub(super) memories: Vec<MemoryType>,
    pub(super) globals: Vec<(GlobalType, ConstExpr<'a>)>,
    pub(super) exports: BTreeMap<&'a str, (Sort, u32)>,
    pub(super) start: Option<u32>,
    pub(super) elements: Vec<Element<'a>>,
    pub(super) data: Vec<Data<'a>>,
    pub(super) bodies: Vec<FunctionBody<'a>>,
}

impl<'a> Part<'a> {
    pub(super) fn read(module: &'a [u8]) -> Result<Self, MergeFault> {
        let mut part = Self::default();
        for payload in Parser::new(0).parse_all(module) {
            part.section(payload?)?;
        }
        Ok(part)
    }

    fn section(&mut self, payload: Payload<'a>) -> Result<(), MergeFault> {
        match payload {
            Payload::TypeSection(reader) => {
                for group in reader {
                    for ty in group?.into_types() {
                        self.types.push(function_type(ty)?);
                    }
                }
            }
            Payload::ImportSection(reader) => {
                for imports in reader {
                    let Imports::Single(_, import) = imports? else {
                        return Err(MergeFault::Shape("a module groups its imports"));
                    };
                    self.imports.get_mut(sort(&import.ty)?).push(import);
                }
            }
            Payload::FunctionSection(reader) => self.funcs = reader.into_iter().collect::<Result<_, _>>()?,
            Payload::TableSection(reader) => {
                for table in reader {
                    let table = table?;
                    let TableInit::RefNull = table.init else {
                        return Err(MergeFault::Shape("a table has an initial value of its own"));
                    };
                    self.tables.push(table.ty);
                }
            }
            Payload::MemorySection(reader) => self.memories = reader.into_iter().collect::<Result<_, _>>()?,
            Payload::GlobalSection(reader) => {
                for global in reader {
                    let global = global?;
                    self.globals.push((global.ty, global.init_expr));
                }
            }
            Payload::ExportSection(reader) => {
                for export in reader {
                    let export = export?;
                    self.exports.insert(export.name, (Sort::of(export.kind)?, export.index));
                }
            }
            Payload::StartSection { func, .. } => self.start = Some(func),
            Payload::ElementSection(reader) => self.elements = reader.into_iter().collect::<Result<_, _>>()?,
            Payload::DataSection(reader) => self.data = reader.into_iter().collect::<Result<_, _>>()?,
            Payload::CodeSectionEntry(body) => self.bodies.push(body),
            Payload::Version { .. }
            | Payload::CustomSection(_)
            | Payload::DataCountSection { .. }
            | Payload::CodeSectionStart { .. }
            | Payload::End(_) => {}
            _ => return Err(MergeFault::Shape("a module has a section of an unknown kind")),
        }
        Ok(())
    }
}

/// The type of a function, when nothing is a subtype of it or refers to it.
fn function_type(ty: wasmparser::SubType) -> Result<FuncType, MergeFault> {
    match ty.composite_type.inner {
        CompositeInnerType::Func(function) if ty.is_final && ty.supertype_idx.is_none() => Ok(function),
        _ => Err(MergeFault::Shape("a module has types that are not those of functions")),
    }
}

fn sort(ty: &TypeRef) -> Result<Sort, MergeFault> {
    match ty {
        TypeRef::Func(_) => Ok(Sort::Func),
        TypeRef::Table(_) => Ok(Sort::Table),
        TypeRef::Memory(_) => Ok(Sort::Memory),
        TypeRef::Global(_) => Ok(Sort::Global),
        TypeRef::Tag(_) | TypeRef::FuncExact(_) => Err(MergeFault::Shape("it passes a tag between modules")),
    }
}
