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

#[cfg(test)]
mod tests {
    //! Small components that are put together as a dynamic linker would, run before and after merging.

    use wasm_encoder::*;
    use wasmtime::component::{Component as Compiled, Linker};
    use wasmtime::{Engine, Store, StoreContextMut};

    use super::{MergeFault, merge};

    type Op = Instruction<'static>;

    /// Core functions `(i32) -> i32`, `() -> i32` and `() -> ()` are types 0, 1 and 2 of every module here.
    const UNARY: u32 = 0;
    const GETTER: u32 = 1;
    const THUNK: u32 = 2;

    /// A core module under construction.
    #[derive(Default)]
    struct Core {
        imports: ImportSection,
        functions: FunctionSection,
        tables: TableSection,
        memories: MemorySection,
        globals: GlobalSection,
        exports: ExportSection,
        start: Option<u32>,
        elements: ElementSection,
        code: CodeSection,
        data: DataSection,
    }

    impl Core {
        fn function(mut self, ty: u32, body: &[Op]) -> Self {
            self.functions.function(ty);
            let mut function = Function::new([]);
            body.iter().for_each(|op| {
                function.instruction(op);
            });
            self.code.function(function.instruction(&Instruction::End));
            self
        }

        fn import(mut self, name: &str, ty: impl Into<EntityType>) -> Self {
            self.imports.import("env", name, ty);
            self
        }

        fn export(mut self, name: &str, kind: ExportKind, index: u32) -> Self {
            self.exports.export(name, kind, index);
            self
        }

        fn global(mut self, mutable: bool, value: i32) -> Self {
            self.globals
                .global(GlobalType { val_type: ValType::I32, mutable, shared: false }, &ConstExpr::i32_const(value));
            self
        }

        fn memory(mut self) -> Self {
            self.memories.memory(memory());
            self
        }

        fn table(mut self) -> Self {
            self.tables.table(table());
            self
        }

        fn element(mut self, offset: &ConstExpr, functions: &[u32]) -> Self {
            self.elements.active(None, offset, Elements::Functions(functions.into()));
            self
        }

        fn bytes(self, at: i32, bytes: &[u8]) -> Self {
            let mut core = self;
            core.data.active(0, &ConstExpr::i32_const(at), bytes.iter().copied());
            core
        }

        fn start(mut self, function: u32) -> Self {
            self.start = Some(function);
            self
        }

        fn finish(self) -> Module {
            let mut types = TypeSection::new();
            types.ty().function([ValType::I32], [ValType::I32]);
            types.ty().function([], [ValType::I32]);
            types.ty().function([], []);
            let mut module = Module::new();
            module.section(&types).section(&self.imports).section(&self.functions).section(&self.tables);
            module.section(&self.memories).section(&self.globals).section(&self.exports);
            if let Some(function_index) = self.start {
                module.section(&StartSection { function_index });
            }
            module.section(&self.elements).section(&self.code).section(&self.data);
            module
        }
    }

    fn memory() -> MemoryType {
        MemoryType { minimum: 1, maximum: None, memory64: false, shared: false, page_size_log2: None }
    }

    fn table() -> TableType {
        TableType { element_type: RefType::FUNCREF, minimum: 8, maximum: None, table64: false, shared: false }
    }

    fn number(mutable: bool) -> EntityType {
        EntityType::Global(GlobalType { val_type: ValType::I32, mutable, shared: false })
    }

    const NEAR: MemArg = MemArg { offset: 0, align: 2, memory_index: 0 };

    /// What a core instance gets: from which one before it, its name there, and what it is.
    type Wire = (usize, &'static str, ExportKind);

    /// A component of core modules, each started once with the items named for it, whose `run` is the last one's.
    fn component(modules: Vec<(Core, &[Wire])>) -> Vec<u8> {
        let mut component = Component::new();
        let mut started = Vec::new();
        let (mut next, mut counts) = (0, [0_u32; 4]);
        for (index, (core, wires)) in (0..).zip(modules) {
            component.section(&ModuleSection(&core.finish()));
            let mut items = Vec::new();
            for (from, name, kind) in wires {
                let instance: u32 = started[*from];
                component.section(ComponentAliasSection::new().alias(Alias::CoreInstanceExport {
                    instance,
                    kind: *kind,
                    name,
                }));
                let count = &mut counts[*kind as usize];
                items.push((*name, *kind, *count));
                *count += 1;
            }
            let mut instances = InstanceSection::new();
            instances.export_items(items);
            instances.instantiate(index, [("env", ModuleArg::Instance(next))]);
            component.section(&instances);
            started.push(next + 1);
            next += 2;
        }
        lift(&mut component, next - 1, counts[ExportKind::Func as usize], 0);
        component.finish()
    }

    /// Exports the core function `run` of `instance` as a function without parameters.
    fn lift(component: &mut Component, instance: u32, function: u32, ty: u32) {
        let run = Alias::CoreInstanceExport { instance, kind: ExportKind::Func, name: "run" };
        component.section(ComponentAliasSection::new().alias(run));
        let mut types = ComponentTypeSection::new();
        types.function().params([] as [(&str, ComponentValType); 0]).result(Some(PrimitiveValType::S32.into()));
        component.section(&types);
        component.section(CanonicalFunctionSection::new().lift(function, ty, []));
        component.section(ComponentExportSection::new().export("run", ComponentExportKind::Func, ty, None));
    }

    /// What `run` returns when it is called three times in one instance.
    fn ran(component: &[u8]) -> Vec<i32> {
        let engine = Engine::default();
        let component = Compiled::new(&engine, component).unwrap();
        let mut linker = Linker::new(&engine);
        let shout = |store: StoreContextMut<'_, ()>, (text,): (wasmtime::component::WasmStr,)| {
            Ok((text.to_str(&store)?.bytes().map(i32::from).sum::<i32>(),))
        };
        linker.root().func_wrap("shout", shout).unwrap();
        let mut store = Store::new(&engine, ());
        let instance = linker.instantiate(&mut store, &component).unwrap();
        let run = instance.get_typed_func::<(), (i32,)>(&mut store, "run").unwrap();
        (0..3).map(|_| run.call(&mut store, ()).unwrap().0).collect()
    }

    /// What is in the one module that a merged component is left with.
    #[derive(Debug, Default, PartialEq)]
    struct Census {
        modules: usize,
        functions: u32,
        globals: u32,
        indirect: usize,
        starts: usize,
    }

    fn census(component: &[u8]) -> Census {
        let mut found = Census::default();
        for payload in wasmparser::Parser::new(0).parse_all(component) {
            match payload.unwrap() {
                wasmparser::Payload::ModuleSection { .. } => found.modules += 1,
                wasmparser::Payload::FunctionSection(reader) => found.functions += reader.count(),
                wasmparser::Payload::GlobalSection(reader) => found.globals += reader.count(),
                wasmparser::Payload::StartSection { .. } => found.starts += 1,
                wasmparser::Payload::CodeSectionEntry(body) => {
                    let operators = body.get_operators_reader().unwrap().into_iter().map(Result::unwrap);
                    found.indirect += operators
                        .filter(|operator| matches!(operator, wasmparser::Operator::CallIndirect { .. }))
                        .count();
                }
                _ => {}
            }
        }
        found
    }

    /// Merges, and checks that nothing that runs can tell.
    fn merged(component: &[u8], expected: [i32; 3]) -> Census {
        assert_eq!(ran(component), expected, "before");
        let merged = merge(component).unwrap();
        assert_eq!(ran(&merged), expected, "after");
        census(&merged)
    }

    /// count(n) = n == 0 ? 1 : double(n - 1) + 1
    fn counter() -> Core {
        Core::default()
            .import("double", EntityType::Function(UNARY))
            .import("table", table())
            .import("base", number(false))
            .function(
                UNARY,
                &[
                    Instruction::LocalGet(0),
                    Instruction::I32Eqz,
                    Instruction::If(BlockType::Result(ValType::I32)),
                    Instruction::I32Const(1),
                    Instruction::Else,
                    Instruction::LocalGet(0),
                    Instruction::I32Const(1),
                    Instruction::I32Sub,
                    Instruction::Call(0),
                    Instruction::I32Const(1),
                    Instruction::I32Add,
                    Instruction::End,
                ],
            )
            .element(&ConstExpr::global_get(0).with_i32_const(1).with_i32_add(), &[1])
            .export("count", ExportKind::Func, 1)
    }

    /// Two libraries that call each other: the first through a forwarder and the table, as a linker breaks a ring.
    fn ring() -> Vec<u8> {
        let env = Core::default()
            .table()
            .global(false, 2)
            .global(true, 3)
            .function(
                UNARY,
                &[
                    Instruction::LocalGet(0),
                    Instruction::I32Const(4),
                    Instruction::CallIndirect { type_index: UNARY, table_index: 0 },
                ],
            )
            .export("table", ExportKind::Table, 0)
            .export("base", ExportKind::Global, 0)
            .export("got", ExportKind::Global, 1)
            .export("double", ExportKind::Func, 0);
        // double(n) = count(n) * 2; run() = (*got)(5)
        let second = Core::default()
            .import("count", EntityType::Function(UNARY))
            .import("table", table())
            .import("got", number(true))
            .function(
                UNARY,
                &[Instruction::LocalGet(0), Instruction::Call(0), Instruction::I32Const(2), Instruction::I32Mul],
            )
            .function(
                GETTER,
                &[
                    Instruction::I32Const(5),
                    Instruction::GlobalGet(0),
                    Instruction::CallIndirect { type_index: UNARY, table_index: 0 },
                ],
            )
            .element(&ConstExpr::i32_const(4), &[1])
            .export("run", ExportKind::Func, 2);
        component(vec![
            (env, &[]),
            (
                counter(),
                &[(0, "double", ExportKind::Func), (0, "table", ExportKind::Table), (0, "base", ExportKind::Global)],
            ),
            (
                second,
                &[(1, "count", ExportKind::Func), (0, "table", ExportKind::Table), (0, "got", ExportKind::Global)],
            ),
        ])
    }

    #[test]
    fn modules_that_call_each_other_in_a_ring_become_one_with_direct_calls() {
        let census = merged(&ring(), [63, 63, 63]);
        assert_eq!(census, Census { modules: 1, functions: 3, globals: 0, indirect: 0, starts: 0 });
    }

    /// `run` returns the variable and, when `writes`, adds one to it.
    fn variable(writes: bool) -> Vec<u8> {
        let env = Core::default().global(true, 40).export("got", ExportKind::Global, 0);
        let set = [Instruction::GlobalGet(0), Instruction::I32Const(1), Instruction::I32Add, Instruction::GlobalSet(0)];
        let mut run = vec![Instruction::GlobalGet(0)];
        if writes {
            run.extend(set.clone());
        }
        // A setter that nothing calls, as a linker's own start code is once the image is taken.
        let user = Core::default()
            .import("got", number(true))
            .function(GETTER, &run)
            .function(THUNK, &set)
            .export("run", ExportKind::Func, 0)
            .export("relocate", ExportKind::Func, 1);
        component(vec![(env, &[]), (user, &[(0, "got", ExportKind::Global)])])
    }

    #[test]
    fn a_global_that_is_written_stays_a_variable() {
        let census = merged(&variable(true), [40, 41, 42]);
        assert_eq!((census.globals, census.functions), (1, 1));
    }

    #[test]
    fn a_global_that_only_dead_code_writes_becomes_a_constant() {
        let census = merged(&variable(false), [40, 40, 40]);
        assert_eq!((census.globals, census.functions), (0, 1));
    }

    /// A table slot that code changes: `run` calls through slot 1, and puts slot 2 there.
    #[test]
    fn a_table_that_code_changes_is_still_looked_up() {
        let env = Core::default().table().export("table", ExportKind::Table, 0);
        let user = Core::default()
            .import("table", table())
            .function(
                GETTER,
                &[
                    Instruction::I32Const(1),
                    Instruction::CallIndirect { type_index: GETTER, table_index: 0 },
                    Instruction::I32Const(1),
                    Instruction::I32Const(2),
                    Instruction::TableGet(0),
                    Instruction::TableSet(0),
                ],
            )
            .function(GETTER, &[Instruction::I32Const(7)])
            .function(GETTER, &[Instruction::I32Const(8)])
            .element(&ConstExpr::i32_const(1), &[1, 2])
            .export("run", ExportKind::Func, 0);
        let census = merged(&component(vec![(env, &[]), (user, &[(0, "table", ExportKind::Table)])]), [7, 8, 8]);
        assert_eq!((census.indirect, census.functions), (1, 3));
    }

    /// Each start function writes `memory[0] = memory[0] * 10 + digit`, through slot 0 of the shared table; each
    /// module's segments change the slot and a byte of the sum before its own start function runs.
    #[test]
    fn start_functions_and_segments_keep_their_order() {
        let step = |digit: i32| {
            vec![
                Instruction::I32Const(0),
                Instruction::I32Const(0),
                Instruction::I32Load(NEAR),
                Instruction::I32Const(10),
                Instruction::I32Mul,
                Instruction::I32Const(digit),
                Instruction::I32Add,
                Instruction::I32Store(NEAR),
            ]
        };
        let call = [Instruction::I32Const(0), Instruction::CallIndirect { type_index: THUNK, table_index: 0 }];
        let module = |digit: i32| {
            Core::default()
                .import("memory", memory())
                .import("table", table())
                .function(THUNK, &step(digit))
                .function(THUNK, &call)
        };
        let wires: &[Wire] = &[(0, "memory", ExportKind::Memory), (0, "table", ExportKind::Table)];
        let env = Core::default().memory().table().export("memory", ExportKind::Memory, 0).export(
            "table",
            ExportKind::Table,
            0,
        );
        let first = module(1).element(&ConstExpr::i32_const(0), &[0]).bytes(0, &[5]).start(1);
        let second = module(2).element(&ConstExpr::i32_const(0), &[0]).start(1);
        let third = module(3)
            .element(&ConstExpr::i32_const(0), &[0])
            .bytes(1, &[1])
            .start(1)
            .function(GETTER, &[Instruction::I32Const(0), Instruction::I32Load(NEAR)])
            .export("run", ExportKind::Func, 2);
        let bytes = component(vec![(env, &[]), (first, wires), (second, wires), (third, wires)]);
        // 5, 51, 512; then byte 1 becomes 1: 512 = 0x200 turns into 0x100 = 256, and 2563 is what is left.
        let census = merged(&bytes, [2563; 3]);
        assert_eq!((census.modules, census.starts), (1, 1));
    }

    /// A forwarder to the host's function, its caller with the memory that it reads, and what fills the forwarder's table.
    fn late_modules() -> [Module; 3] {
        let types = |module: &mut Module| {
            let mut types = TypeSection::new();
            types.ty().function([ValType::I32, ValType::I32], [ValType::I32]);
            types.ty().function([], [ValType::I32]);
            module.section(&types);
        };
        let mut shim = Module::new();
        let mut functions = FunctionSection::new();
        functions.function(0);
        types(&mut shim);
        shim.section(&functions).section(TableSection::new().table(TableType {
            minimum: 1,
            maximum: Some(1),
            ..table()
        }));
        let mut exports = ExportSection::new();
        exports.export("shout", ExportKind::Func, 0).export("$imports", ExportKind::Table, 0);
        let mut forward = Function::new([]);
        for op in [
            Instruction::LocalGet(0),
            Instruction::LocalGet(1),
            Instruction::I32Const(0),
            Instruction::CallIndirect { type_index: 0, table_index: 0 },
            Instruction::End,
        ] {
            forward.instruction(&op);
        }
        shim.section(&exports).section(CodeSection::new().function(&forward));

        let mut main = Module::new();
        let mut functions = FunctionSection::new();
        functions.function(1);
        types(&mut main);
        main.section(ImportSection::new().import("env", "shout", EntityType::Function(0)));
        main.section(&functions).section(MemorySection::new().memory(memory()));
        let mut exports = ExportSection::new();
        exports.export("memory", ExportKind::Memory, 0).export("run", ExportKind::Func, 1);
        let mut run = Function::new([]);
        for op in [Instruction::I32Const(8), Instruction::I32Const(3), Instruction::Call(0), Instruction::End] {
            run.instruction(&op);
        }
        main.section(&exports).section(CodeSection::new().function(&run));
        main.section(DataSection::new().active(0, &ConstExpr::i32_const(8), *b"abc"));

        let mut fixup = Module::new();
        types(&mut fixup);
        let mut imports = ImportSection::new();
        imports.import("", "0", EntityType::Function(0));
        imports.import("", "$imports", TableType { minimum: 1, maximum: Some(1), ..table() });
        fixup.section(&imports);
        fixup.section(ElementSection::new().active(
            None,
            &ConstExpr::i32_const(0),
            Elements::Functions((&[0][..]).into()),
        ));
        [shim, main, fixup]
    }

    /// The host's function reads the guest's memory, so it can exist only after the memory: calls reach it through
    /// a table that a last module fills.
    fn late() -> Vec<u8> {
        let pair = |name| (name, ComponentValType::Primitive(PrimitiveValType::String));
        let mut component = Component::new();
        let mut types = ComponentTypeSection::new();
        types.function().params([pair("text")]).result(Some(PrimitiveValType::S32.into()));
        component.section(&types);
        component.section(ComponentImportSection::new().import("shout", ComponentTypeRef::Func(0)));
        let [shim, main, fixup] = &late_modules();
        for module in [shim, main, fixup] {
            component.section(&ModuleSection(module));
        }
        let alias = |instance, kind, name| Alias::CoreInstanceExport { instance, kind, name };
        component.section(InstanceSection::new().instantiate(0, [] as [(&str, ModuleArg); 0]));
        component.section(ComponentAliasSection::new().alias(alias(0, ExportKind::Func, "shout")));
        let mut instances = InstanceSection::new();
        instances.export_items([("shout", ExportKind::Func, 0)]).instantiate(1, [("env", ModuleArg::Instance(1))]);
        component.section(&instances);
        let mut aliases = ComponentAliasSection::new();
        aliases.alias(alias(0, ExportKind::Table, "$imports")).alias(alias(2, ExportKind::Memory, "memory"));
        component.section(&aliases);
        component
            .section(CanonicalFunctionSection::new().lower(0, [CanonicalOption::Memory(0), CanonicalOption::UTF8]));
        let mut instances = InstanceSection::new();
        instances.export_items([("0", ExportKind::Func, 1), ("$imports", ExportKind::Table, 0)]);
        instances.instantiate(2, [("", ModuleArg::Instance(3))]);
        component.section(&instances);
        lift(&mut component, 2, 2, 1);
        component.finish()
    }

    #[test]
    fn a_host_function_that_reads_the_merged_memory_is_reached() {
        let sum = i32::from(b'a') + i32::from(b'b') + i32::from(b'c');
        assert_eq!(merged(&late(), [sum; 3]).modules, 2);
    }

    #[test]
    fn what_is_merged_already_is_left_alone() {
        let once = merge(&ring()).unwrap();
        assert!(matches!(merge(&once), Err(MergeFault::Shape(_))));
    }

    #[test]
    fn a_module_that_is_started_twice_is_refused() {
        let mut component = Component::new();
        component.section(&ModuleSection(&Core::default().global(true, 1).finish()));
        let mut instances = InstanceSection::new();
        for _ in 0..2 {
            instances.instantiate(0, [] as [(&str, ModuleArg); 0]);
        }
        component.section(&instances);
        assert!(matches!(merge(&component.finish()), Err(MergeFault::Shape(_))));
    }

    #[test]
    fn what_is_cut_or_damaged_is_refused_or_still_valid_and_never_a_panic() {
        for whole in [ring(), late(), variable(true)] {
            for end in 0..whole.len() {
                // A cut between two sections leaves a component, which then has too little to merge.
                assert!(merge(&whole[..end]).is_err() || end > whole.len() / 2, "cut at {end}");
            }
            for at in 0..whole.len() {
                for flip in [1, 0x40, 0xff] {
                    let mut damaged = whole.clone();
                    damaged[at] ^= flip;
                    let told = merge(&damaged).map(|_| ()).map_err(|fault| fault.to_string()).err().unwrap_or_default();
                    assert!(!told.contains("which is a bug"), "byte {at}: {told}");
                }
            }
        }
    }
}
