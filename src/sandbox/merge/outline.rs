//! A component as a list of steps, in the order in which they define what the next ones use.
//!
//! Component-level steps are kept byte by byte: their indices never change. Only what speaks of core
//! functions, tables, memories, globals and instances is taken apart.

use std::ops::Range;

use wasmparser::{
    CanonicalFunction, CanonicalOption, Chunk, ComponentAlias, ComponentExternalKind, ComponentOuterAliasKind,
    ComponentTypeRef, Encoding, ExternalKind, FromReader, Instance, Parser, Payload, SectionLimited,
};

use super::{MergeFault, count};

/// What a core index can point at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Sort {
    Func,
    Table,
    Memory,
    Global,
}

impl Sort {
    /// # Errors
    /// Tags are not merged.
    pub(super) fn of(kind: ExternalKind) -> Result<Self, MergeFault> {
        match kind {
            ExternalKind::Func => Ok(Self::Func),
            ExternalKind::Table => Ok(Self::Table),
            ExternalKind::Memory => Ok(Self::Memory),
            ExternalKind::Global => Ok(Self::Global),
            ExternalKind::Tag | ExternalKind::FuncExact => Err(MergeFault::Shape("it passes a tag between modules")),
        }
    }
}

/// One value for each [`Sort`].
#[derive(Debug, Default)]
pub(super) struct BySort<T> {
    pub(super) func: T,
    pub(super) table: T,
    pub(super) memory: T,
    pub(super) global: T,
}

impl<T> BySort<T> {
    pub(super) fn get(&self, sort: Sort) -> &T {
        match sort {
            Sort::Func => &self.func,
            Sort::Table => &self.table,
            Sort::Memory => &self.memory,
            Sort::Global => &self.global,
        }
    }

    pub(super) fn get_mut(&mut self, sort: Sort) -> &mut T {
        match sort {
            Sort::Func => &mut self.func,
            Sort::Table => &mut self.table,
            Sort::Memory => &mut self.memory,
            Sort::Global => &mut self.global,
        }
    }
}

/// Where a core item of the component comes from.
#[derive(Debug)]
pub(super) enum Origin<'a> {
    /// The export `name` of a core instance.
    Export { instance: u32, name: &'a str },
    /// A component function seen from core code.
    Lower { func: u32, options: Box<[CanonicalOption]> },
    /// A canonical function that uses nothing of the core: its encoded entry.
    Builtin(&'a [u8]),
}

/// One definition.
#[derive(Debug)]
pub(super) enum Step<'a> {
    /// A component-level section.
    Section { id: u8, bytes: &'a [u8] },
    /// One component-level alias: its encoded entry.
    Alias(&'a [u8]),
    /// The next core module.
    Module(u32),
    /// The next core instance.
    Instance(u32),
    /// The next core item of its sort.
    Item(Sort, u32),
    /// A core function seen from the component.
    Lift { func: u32, ty: u32, options: Box<[CanonicalOption]> },
}

/// A component taken apart.
#[derive(Debug, Default)]
pub(super) struct Outline<'a> {
    pub(super) steps: Vec<Step<'a>>,
    pub(super) modules: Vec<&'a [u8]>,
    pub(super) instances: Vec<Instance<'a>>,
    pub(super) items: BySort<Vec<Origin<'a>>>,
}

impl<'a> Outline<'a> {
    /// # Errors
    /// [`MergeFault`] when it holds what is not known here.
    pub(super) fn read(component: &'a [u8]) -> Result<Self, MergeFault> {
        let mut outline = Self::default();
        let (mut parser, mut at) = (Parser::new(0), 0);
        loop {
            let rest = component.get(at..).unwrap_or_default();
            let Chunk::Parsed { payload, consumed } = parser.parse(rest, true)? else {
                return Err(MergeFault::Malformed("it ends early".into()));
            };
            at += consumed;
            match payload {
                Payload::End(_) => return Ok(outline),
                Payload::ModuleSection { unchecked_range, .. } => {
                    at = unchecked_range.end;
                    outline.module(slice(component, unchecked_range)?);
                }
                Payload::ComponentSection { unchecked_range, .. } => {
                    at = unchecked_range.end;
                    let bytes = slice(component, unchecked_range)?;
                    only_own_core(bytes)?;
                    outline.steps.push(Step::Section { id: 4, bytes });
                }
                other => outline.section(component, &other)?,
            }
        }
    }

    fn module(&mut self, bytes: &'a [u8]) {
        self.steps.push(Step::Module(count(&self.modules)));
        self.modules.push(bytes);
    }

    fn section(&mut self, component: &'a [u8], payload: &Payload<'a>) -> Result<(), MergeFault> {
        match payload {
            // Names and producers say nothing that runs, and speak of indices that change.
            Payload::Version { encoding: Encoding::Component, .. } | Payload::CustomSection(_) => return Ok(()),
            Payload::Version { .. } => return Err(MergeFault::Malformed("it is a core module".into())),
            Payload::InstanceSection(reader) => {
                for instance in reader.clone() {
                    self.steps.push(Step::Instance(count(&self.instances)));
                    self.instances.push(instance?);
                }
                return Ok(());
            }
            Payload::ComponentAliasSection(reader) => return self.aliases(component, reader),
            Payload::ComponentCanonicalSection(reader) => return self.canonicals(component, reader),
            Payload::ComponentImportSection(reader) => {
                for import in reader.clone() {
                    no_module(matches!(import?.ty, ComponentTypeRef::Module(_)))?;
                }
            }
            Payload::ComponentExportSection(reader) => {
                for export in reader.clone() {
                    no_module(export?.kind == ComponentExternalKind::Module)?;
                }
            }
            Payload::ComponentInstanceSection(reader) => {
                for instance in reader.clone() {
                    no_module(mentions_module(&instance?))?;
                }
            }
            Payload::ComponentTypeSection(_) => {}
            _ => return Err(MergeFault::Shape("it has a section of an unknown kind")),
        }
        let Some((id, range)) = payload.as_section() else { return Ok(()) };
        self.steps.push(Step::Section { id, bytes: slice(component, range)? });
        Ok(())
    }

    fn aliases(
        &mut self,
        component: &'a [u8],
        reader: &SectionLimited<'a, ComponentAlias<'a>>,
    ) -> Result<(), MergeFault> {
        for (range, alias) in entries(reader)? {
            match alias {
                ComponentAlias::CoreInstanceExport { kind, instance_index: instance, name } => {
                    self.item(Sort::of(kind)?, Origin::Export { instance, name });
                }
                ComponentAlias::InstanceExport { kind: ComponentExternalKind::Module, .. } => no_module(true)?,
                ComponentAlias::Outer { kind, .. } => {
                    no_module(matches!(kind, ComponentOuterAliasKind::CoreModule | ComponentOuterAliasKind::CoreType))?;
                    self.steps.push(Step::Alias(slice(component, range)?));
                }
                ComponentAlias::InstanceExport { .. } => self.steps.push(Step::Alias(slice(component, range)?)),
            }
        }
        Ok(())
    }

    fn canonicals(
        &mut self,
        component: &'a [u8],
        reader: &SectionLimited<'a, CanonicalFunction>,
    ) -> Result<(), MergeFault> {
        for (range, function) in entries(reader)? {
            let origin = match function {
                CanonicalFunction::Lift { core_func_index: func, type_index: ty, options } => {
                    self.steps.push(Step::Lift { func, ty, options });
                    continue;
                }
                CanonicalFunction::Lower { func_index: func, options } => Origin::Lower { func, options },
                CanonicalFunction::ResourceNew { .. }
                | CanonicalFunction::ResourceDrop { .. }
                | CanonicalFunction::ResourceRep { .. } => Origin::Builtin(slice(component, range)?),
                _ => return Err(MergeFault::Shape("it uses a canonical function of an unknown kind")),
            };
            self.item(Sort::Func, origin);
        }
        Ok(())
    }

    fn item(&mut self, sort: Sort, origin: Origin<'a>) {
        let items = self.items.get_mut(sort);
        self.steps.push(Step::Item(sort, count(items)));
        items.push(origin);
    }
}

/// Every entry of a section with the bytes that encode it.
fn entries<'a, T: FromReader<'a>>(reader: &SectionLimited<'a, T>) -> Result<Vec<(Range<usize>, T)>, MergeFault>
where
    SectionLimited<'a, T>: Clone,
{
    let mut found: Vec<(Range<usize>, T)> = Vec::new();
    for entry in reader.clone().into_iter_with_offsets() {
        let (at, entry) = entry?;
        if let Some((before, _)) = found.last_mut() {
            before.end = at;
        }
        found.push((at..reader.range().end, entry));
    }
    Ok(found)
}

fn slice(component: &[u8], range: Range<usize>) -> Result<&[u8], MergeFault> {
    component.get(range).ok_or_else(|| MergeFault::Malformed("a section ends beyond its end".into()))
}

fn no_module(found: bool) -> Result<(), MergeFault> {
    if found { Err(MergeFault::Shape("it passes core modules or core types as values")) } else { Ok(()) }
}

fn mentions_module(instance: &wasmparser::ComponentInstance<'_>) -> bool {
    match instance {
        wasmparser::ComponentInstance::Instantiate { args, .. } => {
            args.iter().any(|argument| argument.kind == ComponentExternalKind::Module)
        }
        wasmparser::ComponentInstance::FromExports(exports) => {
            exports.iter().any(|export| export.kind == ComponentExternalKind::Module)
        }
    }
}

/// A nested component is kept as it is, which is right as long as it uses no core index of this one.
fn only_own_core(nested: &[u8]) -> Result<(), MergeFault> {
    for payload in Parser::new(0).parse_all(nested) {
        let Payload::ComponentAliasSection(reader) = payload? else { continue };
        for alias in reader {
            if let ComponentAlias::Outer { kind, .. } = alias? {
                no_module(matches!(kind, ComponentOuterAliasKind::CoreModule | ComponentOuterAliasKind::CoreType))?;
            }
        }
    }
    Ok(())
}
