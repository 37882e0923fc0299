//! The component around the merged module.
//!
//! Component-level definitions keep their place, so their indices stay. Core definitions that need the merged
//! module wait until it is there, right where the last of the old modules was started.

use std::collections::BTreeSet;

use wasm_encoder::{
    Alias, CanonicalFunctionSection, CanonicalOption, Component, ComponentAliasSection, ExportKind, InstanceSection,
    ModuleArg, ModuleSection, RawSection,
};
use wasmparser::Instance;

use super::link::{Linked, Target};
use super::module::{HOST, Merged, export_name};
use super::outline::{BySort, Origin, Sort, Step};
use super::{MergeFault, nth};

/// What the rest of the component uses of the merged module.
#[derive(Debug, Default)]
pub(super) struct Needs {
    exported: BTreeSet<(Sort, u32)>,
    /// Bundles of items that late instances are started with.
    bundles: BTreeSet<u32>,
}

impl Needs {
    pub(super) fn of(linked: &Linked<'_>) -> Result<Self, MergeFault> {
        let mut needs = Self::default();
        for step in &linked.outline.steps {
            match step {
                Step::Lift { func, options, .. } => {
                    needs.item(linked, Sort::Func, *func)?;
                    needs.options(linked, options)?;
                }
                Step::Item(Sort::Func, index) => {
                    if let Origin::Lower { options, .. } = nth(&linked.outline.items.func, *index)? {
                        needs.options(linked, options)?;
                    }
                }
                Step::Instance(instance) if linked.is_late(*instance) => needs.arguments(linked, *instance)?,
                _ => {}
            }
        }
        Ok(needs)
    }

    /// The numbers of the things of one sort that are exported.
    pub(super) fn exported(&self, sort: Sort) -> impl Iterator<Item = u32> {
        self.exported.iter().filter(move |(found, _)| *found == sort).map(|(_, number)| *number)
    }

    pub(super) fn all_exported(&self) -> impl Iterator<Item = (Sort, u32)> {
        self.exported.iter().copied()
    }

    fn item(&mut self, linked: &Linked<'_>, sort: Sort, index: u32) -> Result<(), MergeFault> {
        if let Target::Own(number) = linked.item(sort, index)? {
            self.exported.insert((sort, number));
        }
        Ok(())
    }

    fn options(&mut self, linked: &Linked<'_>, options: &[wasmparser::CanonicalOption]) -> Result<(), MergeFault> {
        for option in options {
            match used(option)? {
                Some((sort, index)) => self.item(linked, sort, index)?,
                None => continue,
            }
        }
        Ok(())
    }

    fn arguments(&mut self, linked: &Linked<'_>, instance: u32) -> Result<(), MergeFault> {
        let Instance::Instantiate { args, .. } = nth(&linked.outline.instances, instance)? else { return Ok(()) };
        for argument in args {
            let Instance::FromExports(exports) = nth(&linked.outline.instances, argument.index)? else {
                if linked.is_late(argument.index) {
                    continue;
                }
                return Err(MergeFault::Shape("a late module takes a whole merged one"));
            };
            self.bundles.insert(argument.index);
            for export in exports {
                self.item(linked, Sort::of(export.kind)?, export.index)?;
            }
        }
        Ok(())
    }
}

/// What an option of a canonical function names.
fn used(option: &wasmparser::CanonicalOption) -> Result<Option<(Sort, u32)>, MergeFault> {
    use wasmparser::CanonicalOption as Given;
    Ok(match option {
        Given::UTF8 | Given::UTF16 | Given::CompactUTF16 => None,
        Given::Memory(index) => Some((Sort::Memory, *index)),
        Given::Realloc(index) | Given::PostReturn(index) => Some((Sort::Func, *index)),
        _ => return Err(MergeFault::Shape("a canonical function has an option of an unknown kind")),
    })
}

pub(super) fn write(linked: &Linked<'_>, needs: &Needs, merged: &Merged) -> Result<Vec<u8>, MergeFault> {
    let instances = &linked.outline.instances;
    let last = (0..)
        .zip(instances)
        .filter(|(index, instance)| matches!(instance, Instance::Instantiate { .. }) && !linked.is_late(*index));
    let mut writer = Writer {
        linked,
        needs,
        merged,
        last: last.map(|(index, _)| index).last(),
        component: Component::new(),
        items: BySort::default(),
        next: BySort::default(),
        instances: vec![None; instances.len()],
        next_instance: 0,
        modules: vec![None; linked.outline.modules.len()],
        next_module: 0,
        instance: None,
        waiting: Vec::new(),
    };
    for step in &linked.outline.steps {
        writer.step(step)?;
    }
    Ok(writer.component.finish())
}

struct Writer<'w, 'a> {
    linked: &'w Linked<'a>,
    needs: &'w Needs,
    merged: &'w Merged,
    /// The core instance in whose place the merged one comes.
    last: Option<u32>,
    component: Component,
    /// New core indices by old ones.
    items: BySort<Vec<Option<u32>>>,
    next: BySort<u32>,
    instances: Vec<Option<u32>>,
    next_instance: u32,
    modules: Vec<Option<u32>>,
    next_module: u32,
    /// The merged instance, once it is there.
    instance: Option<u32>,
    waiting: Vec<&'w Step<'a>>,
}

impl<'w, 'a> Writer<'w, 'a> {
    fn step(&mut self, step: &'w Step<'a>) -> Result<(), MergeFault> {
        match step {
            Step::Section { id, bytes } => {
                self.component.section(&RawSection { id: *id, data: bytes });
                Ok(())
            }
            Step::Alias(entry) => {
                self.entry(6, entry);
                Ok(())
            }
            Step::Module(index) => self.module(*index),
            Step::Instance(index) => self.core_instance(step, *index),
            Step::Item(sort, index) => self.item(step, *sort, *index),
            Step::Lift { func, ty, options } => self.lift(*func, *ty, options),
        }
    }

    /// A section of the one entry whose bytes are given.
    fn entry(&mut self, id: u8, entry: &[u8]) {
        let mut data = vec![1];
        data.extend_from_slice(entry);
        self.component.section(&RawSection { id, data: &data });
    }

    /// Late modules stay; the merged one comes just before it is started.
    fn module(&mut self, index: u32) -> Result<(), MergeFault> {
        let late = (0..).zip(&self.linked.outline.instances).any(|(instance, found)| {
            matches!(found, Instance::Instantiate { module_index, .. } if *module_index == index)
                && self.linked.is_late(instance)
        });
        if late {
            self.component.section(&RawSection { id: 1, data: nth(&self.linked.outline.modules, index)? });
            set(&mut self.modules, index, self.next_module);
            self.next_module += 1;
        }
        Ok(())
    }

    fn core_instance(&mut self, step: &'w Step<'a>, index: u32) -> Result<(), MergeFault> {
        let late = self.linked.is_late(index);
        match nth(&self.linked.outline.instances, index)? {
            Instance::Instantiate { .. } if !late => {
                if self.last == Some(index) {
                    self.start()
                } else {
                    Ok(())
                }
            }
            Instance::FromExports(_) if !self.needs.bundles.contains(&index) => Ok(()),
            _ if self.instance.is_none() => {
                self.waiting.push(step);
                Ok(())
            }
            Instance::Instantiate { module_index, args } => {
                let module = nth(&self.modules, *module_index)?.ok_or(MergeFault::Shape("a late module is missing"))?;
                let mut given = Vec::new();
                for argument in args {
                    let instance = *nth(&self.instances, argument.index)?;
                    let instance = instance.ok_or(MergeFault::Shape("an argument is not there yet"))?;
                    given.push((argument.name, ModuleArg::Instance(instance)));
                }
                self.component.section(InstanceSection::new().instantiate(module, given));
                self.instance_made(index);
                Ok(())
            }
            Instance::FromExports(exports) => {
                let mut items = Vec::new();
                for export in exports {
                    let sort = Sort::of(export.kind)?;
                    items.push((export.name, kind(sort), self.index(sort, export.index)?));
                }
                self.component.section(InstanceSection::new().export_items(items));
                self.instance_made(index);
                Ok(())
            }
        }
    }

    fn instance_made(&mut self, index: u32) {
        set(&mut self.instances, index, self.next_instance);
        self.next_instance += 1;
    }

    /// Starts the merged module, and then writes all that waited for it.
    fn start(&mut self) -> Result<(), MergeFault> {
        let mut items = Vec::new();
        for (name, core) in (0..).zip(&self.merged.imports) {
            let name: u32 = name;
            items.push((name.to_string(), ExportKind::Func, self.index(Sort::Func, *core)?));
        }
        self.component.section(&ModuleSection(&self.merged.module));
        let mut instances = InstanceSection::new();
        instances.export_items(items);
        instances.instantiate(self.next_module, [(HOST, ModuleArg::Instance(self.next_instance))]);
        self.component.section(&instances);
        self.next_module += 1;
        self.instance = Some(self.next_instance + 1);
        self.next_instance += 2;
        for step in std::mem::take(&mut self.waiting) {
            self.step(step)?;
        }
        Ok(())
    }

    fn item(&mut self, step: &'w Step<'a>, sort: Sort, index: u32) -> Result<(), MergeFault> {
        let target = self.linked.item(sort, index)?;
        let origin = nth(self.linked.outline.items.get(sort), index)?;
        let waits = match target {
            Target::Own(number) if !self.needs.exported(sort).any(|exported| exported == number) => return Ok(()),
            Target::Own(_) | Target::Late => self.instance.is_none(),
            Target::Host(_) => false,
        };
        if waits {
            self.waiting.push(step);
            return Ok(());
        }
        match (target, origin) {
            // Another name of a function that the host provides.
            (Target::Host(core), Origin::Export { .. }) => {
                let known = self.index(Sort::Func, core)?;
                set(self.items.get_mut(sort), index, known);
                return Ok(());
            }
            (Target::Own(number), _) => {
                let instance = self.instance.ok_or(MergeFault::Shape("the merged module is missing"))?;
                self.alias(sort, instance, &export_name(sort, number));
            }
            (_, Origin::Export { instance, name }) => {
                let instance = *nth(&self.instances, *instance)?;
                self.alias(sort, instance.ok_or(MergeFault::Shape("a late module is missing"))?, name);
            }
            (_, Origin::Lower { func, options }) => {
                let options = self.options(options)?;
                self.component.section(CanonicalFunctionSection::new().lower(*func, options));
            }
            (_, Origin::Builtin(entry)) => self.entry(8, entry),
        }
        let next = self.next.get_mut(sort);
        *next += 1;
        let made = *next - 1;
        set(self.items.get_mut(sort), index, made);
        Ok(())
    }

    fn alias(&mut self, sort: Sort, instance: u32, name: &str) {
        let alias = Alias::CoreInstanceExport { instance, kind: kind(sort), name };
        self.component.section(ComponentAliasSection::new().alias(alias));
    }

    fn lift(&mut self, func: u32, ty: u32, options: &[wasmparser::CanonicalOption]) -> Result<(), MergeFault> {
        let (func, options) = (self.index(Sort::Func, func)?, self.options(options)?);
        self.component.section(CanonicalFunctionSection::new().lift(func, ty, options));
        Ok(())
    }

    fn options(&self, options: &[wasmparser::CanonicalOption]) -> Result<Vec<CanonicalOption>, MergeFault> {
        use wasmparser::CanonicalOption as Given;
        let mut changed = Vec::new();
        for option in options {
            changed.push(match option {
                Given::UTF8 => CanonicalOption::UTF8,
                Given::UTF16 => CanonicalOption::UTF16,
                Given::CompactUTF16 => CanonicalOption::CompactUTF16,
                Given::Memory(index) => CanonicalOption::Memory(self.index(Sort::Memory, *index)?),
                Given::Realloc(index) => CanonicalOption::Realloc(self.index(Sort::Func, *index)?),
                Given::PostReturn(index) => CanonicalOption::PostReturn(self.index(Sort::Func, *index)?),
                _ => return Err(MergeFault::Shape("a canonical function has an option of an unknown kind")),
            });
        }
        Ok(changed)
    }

    /// The new index of a core item.
    fn index(&self, sort: Sort, index: u32) -> Result<u32, MergeFault> {
        let known = nth(self.items.get(sort), index).ok().copied().flatten();
        known.ok_or(MergeFault::Shape("something is used before the merged module can be started"))
    }
}

fn kind(sort: Sort) -> ExportKind {
    match sort {
        Sort::Func => ExportKind::Func,
        Sort::Table => ExportKind::Table,
        Sort::Memory => ExportKind::Memory,
        Sort::Global => ExportKind::Global,
    }
}

/// Remembers the new index of `index`.
fn set(known: &mut Vec<Option<u32>>, index: u32, new: u32) {
    let index = usize::try_from(index).unwrap_or(usize::MAX);
    if known.len() <= index && index < usize::MAX {
        known.resize(index + 1, None);
    }
    if let Some(place) = known.get_mut(index) {
        *place = Some(new);
    }
}
