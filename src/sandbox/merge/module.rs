//! The merged core module, section by section.
//!
//! Segments and start functions keep their order: what comes after the first start function is applied by
//! code, between the start functions, where an engine would have applied it between two modules.

use std::borrow::Cow;

use wasm_encoder::{
    CodeSection, ConstExpr, DataCountSection, DataSection, ElementSection, Elements, Encode as _, EntityType,
    ExportKind, ExportSection, FunctionSection, GlobalSection, GlobalType, ImportSection, Instruction, MemorySection,
    MemoryType, Module, RefType, StartSection, TableSection, TableType, TypeSection, ValType,
};
use wasmparser::DataKind;

use super::body::{Rewriter, constant};
use super::component::Needs;
use super::fold::{Mode, Plan, Segment};
use super::link::Linked;
use super::outline::Sort;
use super::survey::number;
use super::{MergeFault, count, nth};

/// The module under which the host's functions are imported.
pub(super) const HOST: &str = "host";

/// The merged module.
pub(super) struct Merged {
    pub(super) module: Module,
    /// The component's core function behind each import, in order.
    pub(super) imports: Vec<u32>,
}

/// The name under which the thing with this number is exported.
pub(super) fn export_name(sort: Sort, number: u32) -> String {
    match sort {
        Sort::Func => format!("func-{number}"),
        Sort::Table => format!("table-{number}"),
        Sort::Memory => "memory".into(),
        Sort::Global => format!("global-{number}"),
    }
}

pub(super) fn write(linked: &Linked<'_>, plan: &Plan, needs: &Needs) -> Result<Merged, MergeFault> {
    let mut writer =
        Writer { linked, plan, boot: Vec::new(), boots: false, only: None, types: TypeSection::new(), thunk: None };
    let (elements, data) = writer.segments()?;
    let start = writer.start()?;
    writer.types()?;
    let (imports, hosts) = writer.imports()?;
    let functions = writer.functions()?;
    let code = writer.code()?;
    let mut module = Module::new();
    module.section(&writer.types).section(&imports).section(&functions).section(&writer.tables());
    if let Some(memory) = linked.memory {
        module.section(MemorySection::new().memory(memory_type(memory)));
    }
    module.section(&writer.globals()?).section(&exports(plan, needs)?);
    if let Some(function_index) = start {
        module.section(&StartSection { function_index });
    }
    module.section(&elements).section(&DataCountSection { count: data.len() }).section(&code).section(&data);
    Ok(Merged { module, imports: hosts })
}

struct Writer<'w, 'a> {
    linked: &'w Linked<'a>,
    plan: &'w Plan,
    /// The code of the start function, if one is to be made.
    boot: Vec<u8>,
    boots: bool,
    /// The one thing that it would do, if that is a call.
    only: Option<u32>,
    types: TypeSection,
    /// The type of a function without parameters and results, when one is made.
    thunk: Option<u32>,
}

impl Writer<'_, '_> {
    fn segments(&mut self) -> Result<(ElementSection, DataSection), MergeFault> {
        let (mut elements, mut data) = (ElementSection::new(), DataSection::new());
        let mut rest = self.plan.segments.iter().peekable();
        for (index, (part, places)) in (0..).zip(self.linked.parts.iter().zip(&self.linked.places)) {
            while let Some(segment) = rest.next_if(|segment| segment.part == index) {
                self.element(segment, &mut elements)?;
            }
            for segment in &part.data {
                let bytes = segment.data.iter().copied();
                let DataKind::Active { offset_expr, .. } = &segment.kind else {
                    data.passive(bytes);
                    continue;
                };
                let at = self.plan.address(offset_expr, places)?;
                if !self.plan.is_paused(index) {
                    data.active(0, &ConstExpr::i32_const(at), bytes);
                    continue;
                }
                let data_index = data.len();
                self.fill(at, segment.data.len(), Instruction::MemoryInit { mem: 0, data_index });
                Instruction::DataDrop(data_index).encode(&mut self.boot);
                data.passive(bytes);
            }
            if let Some(start) = part.start {
                let start = self.func(number(places, Sort::Func, start)?)?;
                self.only = if self.boots { None } else { Some(start) };
                self.boots = true;
                Instruction::Call(start).encode(&mut self.boot);
            }
        }
        Ok((elements, data))
    }

    fn element(&mut self, segment: &Segment, elements: &mut ElementSection) -> Result<(), MergeFault> {
        let functions: Option<Vec<u32>> = segment.items.iter().map(|item| self.plan.func((*item)?)).collect();
        let items = match functions {
            Some(functions) => Elements::Functions(functions.into()),
            None => Elements::Expressions(RefType::FUNCREF, self.references(segment)?),
        };
        match segment.mode {
            Mode::Passive => elements.passive(items),
            Mode::Declared => elements.declared(items),
            Mode::Active { table, offset } if !self.plan.is_paused(segment.part) => {
                elements.active((table != 0).then_some(table), &ConstExpr::i32_const(offset), items)
            }
            Mode::Active { table, offset } => {
                let elem_index = elements.len();
                self.fill(offset, segment.items.len(), Instruction::TableInit { elem_index, table });
                Instruction::ElemDrop(elem_index).encode(&mut self.boot);
                elements.passive(items)
            }
        };
        Ok(())
    }

    fn references(&self, segment: &Segment) -> Result<Cow<'static, [ConstExpr]>, MergeFault> {
        let reference = |item: &Option<u32>| match item {
            Some(function) => Ok(ConstExpr::ref_func(self.func(*function)?)),
            None => Ok(ConstExpr::ref_null(wasm_encoder::HeapType::FUNC)),
        };
        segment.items.iter().map(reference).collect::<Result<Vec<_>, MergeFault>>().map(Cow::Owned)
    }

    /// Code that applies a whole segment at `offset`.
    fn fill(&mut self, offset: i32, length: usize, how: Instruction<'_>) {
        let length = i32::from_ne_bytes(u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes());
        for instruction in [Instruction::I32Const(offset), Instruction::I32Const(0), Instruction::I32Const(length), how]
        {
            instruction.encode(&mut self.boot);
        }
        (self.boots, self.only) = (true, None);
    }

    /// The index of the start function; one is made unless a single call is all that there is to do.
    fn start(&mut self) -> Result<Option<u32>, MergeFault> {
        if !self.boots || self.only.is_some() {
            return Ok(self.only);
        }
        let empty = self.linked.types.iter().position(|ty| ty.params().is_empty() && ty.results().is_empty());
        // A start function without parameters exists, or nothing would have to be applied late.
        self.thunk = empty.and_then(|empty| u32::try_from(empty).ok());
        let kept = (0..count(&self.linked.func_types)).filter(|function| self.plan.keeps(*function)).count();
        Ok(u32::try_from(kept).ok())
    }

    fn types(&mut self) -> Result<(), MergeFault> {
        for ty in &self.linked.types {
            let params: Vec<ValType> = ty.params().iter().map(|ty| value_type(*ty)).collect::<Result<_, _>>()?;
            let results: Vec<ValType> = ty.results().iter().map(|ty| value_type(*ty)).collect::<Result<_, _>>()?;
            self.types.ty().function(params, results);
        }
        Ok(())
    }

    fn imports(&self) -> Result<(ImportSection, Vec<u32>), MergeFault> {
        let (mut section, mut hosts) = (ImportSection::new(), Vec::new());
        for (function, core) in (count(&self.linked.bodies)..).zip(&self.linked.hosts) {
            if self.plan.keeps(function) {
                let ty = *nth(&self.linked.func_types, function)?;
                section.import(HOST, &count(&hosts).to_string(), EntityType::Function(ty));
                hosts.push(*core);
            }
        }
        Ok((section, hosts))
    }

    fn functions(&self) -> Result<FunctionSection, MergeFault> {
        let mut section = FunctionSection::new();
        for function in 0..count(&self.linked.bodies) {
            if self.plan.keeps(function) {
                section.function(*nth(&self.linked.func_types, function)?);
            }
        }
        if let Some(thunk) = self.thunk {
            section.function(thunk);
        }
        Ok(section)
    }

    fn code(&mut self) -> Result<CodeSection, MergeFault> {
        let mut section = CodeSection::new();
        for (function, (part, body)) in (0..).zip(&self.linked.bodies) {
            if self.plan.keeps(function) {
                let places = nth(&self.linked.places, *part)?;
                section.raw(&Rewriter { linked: self.linked, plan: self.plan, places }.body(body)?);
            }
        }
        if self.thunk.is_some() {
            let mut body = vec![0];
            body.append(&mut self.boot);
            Instruction::End.encode(&mut body);
            section.raw(&body);
        }
        Ok(section)
    }

    fn tables(&self) -> TableSection {
        let mut section = TableSection::new();
        for (table, grows) in self.linked.tables.iter().zip(&self.plan.grows) {
            section.table(TableType {
                element_type: if table.element_type.is_extern_ref() { RefType::EXTERNREF } else { RefType::FUNCREF },
                table64: table.table64,
                minimum: table.initial,
                // The bound of a table that never grows is known to the compiler.
                maximum: if *grows { table.maximum } else { Some(table.initial) },
                shared: table.shared,
            });
        }
        section
    }

    fn globals(&self) -> Result<GlobalSection, MergeFault> {
        let mut section = GlobalSection::new();
        for (index, global) in (0..).zip(&self.linked.globals) {
            if self.plan.global(index).is_none() {
                continue;
            }
            let value = self.plan.initial(index).ok_or(MergeFault::Shape("a global has no value"))?;
            let ty =
                GlobalType { val_type: value_type(global.ty.content_type)?, mutable: global.ty.mutable, shared: false };
            section.global(ty, &ConstExpr::extended([constant(value)]));
        }
        Ok(section)
    }

    fn func(&self, function: u32) -> Result<u32, MergeFault> {
        self.plan.func(function).ok_or(MergeFault::Shape("a segment names a function that is not kept"))
    }
}

fn exports(plan: &Plan, needs: &Needs) -> Result<ExportSection, MergeFault> {
    let mut section = ExportSection::new();
    for (sort, number) in needs.all_exported() {
        let missing = MergeFault::Shape("an export is not kept");
        let (kind, index) = match sort {
            Sort::Func => (ExportKind::Func, plan.func(number).ok_or(missing)?),
            Sort::Table => (ExportKind::Table, number),
            Sort::Memory => (ExportKind::Memory, 0),
            Sort::Global => (ExportKind::Global, plan.global(number).ok_or(missing)?),
        };
        section.export(&export_name(sort, number), kind, index);
    }
    Ok(section)
}

fn memory_type(memory: wasmparser::MemoryType) -> MemoryType {
    MemoryType {
        minimum: memory.initial,
        maximum: memory.maximum,
        memory64: memory.memory64,
        shared: memory.shared,
        page_size_log2: memory.page_size_log2,
    }
}

fn value_type(ty: wasmparser::ValType) -> Result<ValType, MergeFault> {
    Ok(match ty {
        wasmparser::ValType::I32 => ValType::I32,
        wasmparser::ValType::I64 => ValType::I64,
        wasmparser::ValType::F32 => ValType::F32,
        wasmparser::ValType::F64 => ValType::F64,
        wasmparser::ValType::V128 => ValType::V128,
        wasmparser::ValType::FUNCREF => ValType::FUNCREF,
        wasmparser::ValType::EXTERNREF => ValType::EXTERNREF,
        wasmparser::ValType::Ref(_) => return Err(MergeFault::Shape("a value has an unknown type")),
    })
}
