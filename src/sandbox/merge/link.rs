//! Which import is what: every index of every merged module gets the number of the thing behind it.
//!
//! Functions are numbered in the order of their modules, and after them those that the host provides. An
//! instance is *late* when it needs, directly or not, something that exists only once the merged modules do
//! (a function that reads their memory): it stays a module of its own and is started after them.

use std::collections::{BTreeMap, BTreeSet};

use wasmparser::{
    CanonicalOption, ConstExpr, FuncType, FunctionBody, GlobalType, Import, Instance, MemoryType, TableType, TypeRef,
};

use super::outline::{BySort, Origin, Outline, Sort};
use super::part::Part;
use super::{MergeFault, count, nth};

/// What a core index of the component, or of a module, stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// Something that is not merged.
    Late,
    /// The core function of the component with this index, which a host function provides.
    Host(u32),
    /// The thing with this number in the merged module.
    Own(u32),
}

/// For each index space of a module: the number of what stands there.
#[derive(Default)]
pub(super) struct Places {
    pub(super) items: BySort<Vec<u32>>,
    pub(super) types: Vec<u32>,
    /// The numbers of its first segments.
    pub(super) elements: u32,
    pub(super) data: u32,
}

/// A global of the merged module.
pub(super) struct Global<'a> {
    pub(super) part: u32,
    pub(super) ty: GlobalType,
    pub(super) init: ConstExpr<'a>,
}

/// The modules that are merged, with every import found.
pub(super) struct Linked<'a> {
    pub(super) outline: &'a Outline<'a>,
    pub(super) parts: Vec<Part<'a>>,
    pub(super) places: Vec<Places>,
    pub(super) types: Vec<FuncType>,
    /// The type of each function by number: its own, then the host's.
    pub(super) func_types: Vec<u32>,
    /// Each own function: its part and body.
    pub(super) bodies: Vec<(u32, FunctionBody<'a>)>,
    /// The component's core function behind each host function.
    pub(super) hosts: Vec<u32>,
    pub(super) tables: Vec<TableType>,
    pub(super) memory: Option<MemoryType>,
    pub(super) globals: Vec<Global<'a>>,
    /// By core instance: is it late?
    late: Vec<bool>,
    /// By core instance: the part that it became.
    part_of: Vec<Option<u32>>,
    /// By part: the number of the first thing of each sort that it defines.
    first: Vec<BySort<u32>>,
}

impl<'a> Linked<'a> {
    pub(super) fn new(outline: &'a Outline<'a>) -> Result<Self, MergeFault> {
        let mut linked = Self {
            outline,
            parts: Vec::new(),
            places: Vec::new(),
            types: Vec::new(),
            func_types: Vec::new(),
            bodies: Vec::new(),
            hosts: Vec::new(),
            tables: Vec::new(),
            memory: None,
            globals: Vec::new(),
            late: Vec::new(),
            part_of: Vec::new(),
            first: Vec::new(),
        };
        linked.choose()?;
        let mut types = Types::default();
        let (mut elements, mut data) = (0, 0);
        for part in &linked.parts {
            let places = Places {
                types: part.types.iter().map(|ty| types.number(ty)).collect(),
                elements,
                data,
                ..Places::default()
            };
            elements += count(&part.elements);
            data += count(&part.data);
            linked.places.push(places);
        }
        linked.types = types.list;
        linked.define()?;
        linked.find_imports()?;
        Ok(linked)
    }

    /// Is this core instance started after the merged module?
    pub(super) fn is_late(&self, instance: u32) -> bool {
        usize::try_from(instance).ok().and_then(|instance| self.late.get(instance)).copied().unwrap_or(true)
    }

    /// Sorts the instances into those that are merged and those that are late.
    fn choose(&mut self) -> Result<(), MergeFault> {
        let mut used = BTreeSet::new();
        for instance in &self.outline.instances {
            let late = match instance {
                Instance::Instantiate { args, .. } => args.iter().any(|argument| self.is_late(argument.index)),
                Instance::FromExports(exports) => {
                    let mut late = false;
                    for export in exports {
                        late |= self.is_item_late(Sort::of(export.kind)?, export.index)?;
                    }
                    late
                }
            };
            self.late.push(late);
            let Instance::Instantiate { module_index, .. } = instance else {
                self.part_of.push(None);
                continue;
            };
            if !used.insert(*module_index) {
                return Err(MergeFault::Shape("a module is started twice"));
            }
            self.part_of.push((!late).then_some(count(&self.parts)));
            if !late {
                self.parts.push(Part::read(nth(&self.outline.modules, *module_index)?)?);
            }
        }
        if self.parts.len() < 2 {
            return Err(MergeFault::Shape("there is nothing to merge"));
        }
        Ok(())
    }

    fn is_item_late(&self, sort: Sort, index: u32) -> Result<bool, MergeFault> {
        Ok(match nth(self.outline.items.get(sort), index)? {
            Origin::Export { instance, .. } => self.is_late(*instance),
            Origin::Lower { options, .. } => options.iter().any(uses_core),
            Origin::Builtin(_) => false,
        })
    }

    /// Numbers what the parts define.
    fn define(&mut self) -> Result<(), MergeFault> {
        for (index, (part, places)) in (0..).zip(self.parts.iter().zip(&self.places)) {
            self.first.push(BySort {
                func: count(&self.bodies),
                table: count(&self.tables),
                memory: 0,
                global: count(&self.globals),
            });
            if part.funcs.len() != part.bodies.len() {
                return Err(MergeFault::Malformed("a function has no body".into()));
            }
            for (ty, body) in part.funcs.iter().zip(&part.bodies) {
                self.func_types.push(*nth(&places.types, *ty)?);
                self.bodies.push((index, body.clone()));
            }
            self.tables.extend(&part.tables);
            for memory in &part.memories {
                if self.memory.replace(*memory).is_some() {
                    return Err(MergeFault::Shape("it has more than one memory"));
                }
            }
            let globals = part.globals.iter();
            self.globals.extend(globals.map(|(ty, init)| Global { part: index, ty: *ty, init: init.clone() }));
        }
        Ok(())
    }

    fn find_imports(&mut self) -> Result<(), MergeFault> {
        for part in 0..count(&self.parts) {
            let mut items = BySort::default();
            for sort in [Sort::Func, Sort::Table, Sort::Memory, Sort::Global] {
                *items.get_mut(sort) = self.space(part, sort)?;
            }
            if let Some(places) = usize::try_from(part).ok().and_then(|part| self.places.get_mut(part)) {
                places.items = items;
            }
        }
        Ok(())
    }

    /// The numbers of everything of one sort that `part` can name.
    fn space(&mut self, part: u32, sort: Sort) -> Result<Vec<u32>, MergeFault> {
        let imports: Vec<Import<'a>> = nth(&self.parts, part)?.imports.get(sort).clone();
        let mut space = Vec::new();
        for (index, import) in (0..).zip(&imports) {
            space.push(match self.local(part, sort, index)? {
                Target::Own(number) => number,
                Target::Host(core) => self.host(part, core, import.ty)?,
                Target::Late => return Err(MergeFault::Shape("an early module needs a late one")),
            });
        }
        let first = *nth(&self.first, part)?.get(sort);
        let defines = {
            let part = nth(&self.parts, part)?;
            match sort {
                Sort::Func => count(&part.funcs),
                Sort::Table => count(&part.tables),
                Sort::Memory => count(&part.memories),
                Sort::Global => count(&part.globals),
            }
        };
        space.extend(first..first + defines);
        Ok(space)
    }

    /// The number of a function that the host provides.
    fn host(&mut self, part: u32, core: u32, ty: TypeRef) -> Result<u32, MergeFault> {
        let TypeRef::Func(ty) = ty else { return Err(MergeFault::Shape("the host provides more than functions")) };
        let known = self.hosts.iter().position(|host| *host == core);
        let index = match known.and_then(|known| u32::try_from(known).ok()) {
            Some(index) => index,
            None => {
                self.func_types.push(*nth(&nth(&self.places, part)?.types, ty)?);
                self.hosts.push(core);
                count(&self.hosts) - 1
            }
        };
        Ok(count(&self.bodies) + index)
    }

    /// What the component's core index `index` stands for.
    pub(super) fn item(&self, sort: Sort, index: u32) -> Result<Target, MergeFault> {
        if self.is_item_late(sort, index)? {
            return Ok(Target::Late);
        }
        match nth(self.outline.items.get(sort), index)? {
            Origin::Export { instance, name } => self.export(*instance, sort, name),
            Origin::Lower { .. } | Origin::Builtin(_) => Ok(Target::Host(index)),
        }
    }

    fn export(&self, instance: u32, sort: Sort, name: &str) -> Result<Target, MergeFault> {
        let missing = MergeFault::Shape("an export is missing");
        match nth(&self.outline.instances, instance)? {
            Instance::FromExports(exports) => {
                let found = exports.iter().find(|export| export.name == name).ok_or(missing)?;
                self.item(sort, found.index)
            }
            Instance::Instantiate { .. } => {
                let Some(part) = *nth(&self.part_of, instance)? else { return Ok(Target::Late) };
                let (found, index) = *nth(&self.parts, part)?.exports.get(name).ok_or(missing)?;
                if found == sort {
                    self.local(part, sort, index)
                } else {
                    Err(MergeFault::Shape("an export is of another sort"))
                }
            }
        }
    }

    /// What the module index `index` of `part` stands for.
    fn local(&self, part: u32, sort: Sort, index: u32) -> Result<Target, MergeFault> {
        let imports = nth(&self.parts, part)?.imports.get(sort);
        if let Ok(import) = nth(imports, index) {
            return self.export(self.argument(part, import.module)?, sort, import.name);
        }
        Ok(Target::Own(*nth(&self.first, part)?.get(sort) + index - count(imports)))
    }

    /// The core instance that `part` was given under `name`.
    fn argument(&self, part: u32, name: &str) -> Result<u32, MergeFault> {
        let instance = self.part_of.iter().position(|found| *found == Some(part));
        let Some(Instance::Instantiate { args, .. }) = instance.and_then(|found| self.outline.instances.get(found))
        else {
            return Err(MergeFault::Shape("a module is never started"));
        };
        let found = args.iter().find(|argument| argument.name == name);
        found.map(|argument| argument.index).ok_or(MergeFault::Shape("an argument is missing"))
    }
}

/// Does an option of a canonical function name something of the core?
fn uses_core(option: &CanonicalOption) -> bool {
    !matches!(option, CanonicalOption::UTF8 | CanonicalOption::UTF16 | CanonicalOption::CompactUTF16)
}

/// The function types that occur, each once.
#[derive(Default)]
struct Types {
    list: Vec<FuncType>,
    known: BTreeMap<FuncType, u32>,
}

impl Types {
    fn number(&mut self, ty: &FuncType) -> u32 {
        if let Some(known) = self.known.get(ty) {
            return *known;
        }
        let number = count(&self.list);
        self.list.push(ty.clone());
        self.known.insert(ty.clone(), number);
        number
    }
}
