//! The code of one function, with every index in it replaced.
//!
//! Operators without an index are copied byte by byte. The set of operators is closed by the features that
//! the component was checked against, so the list below is complete.

use wasm_encoder::{BlockType, Encode as _, Instruction};
use wasmparser::{FunctionBody, Operator};

use super::fold::{Plan, Value};
use super::link::{Linked, Places};
use super::outline::Sort;
use super::survey::number;
use super::{MergeFault, nth};

/// Writes functions of one part.
pub(super) struct Rewriter<'r, 'a> {
    pub(super) linked: &'r Linked<'a>,
    pub(super) plan: &'r Plan,
    pub(super) places: &'r Places,
}

/// A constant that was just written: its value, and where it begins.
type Constant = Option<(i32, usize)>;

impl Rewriter<'_, '_> {
    /// The new body: locals and code, without its length.
    pub(super) fn body(&self, body: &FunctionBody<'_>) -> Result<Vec<u8>, MergeFault> {
        let (bytes, start) = (body.as_bytes(), body.range().start);
        let between = |from: usize, to: usize| bytes.get(from - start..to - start).unwrap_or_default();
        let mut operators = body.get_operators_reader()?;
        let mut code = Vec::with_capacity(bytes.len());
        code.extend_from_slice(between(start, operators.original_position()));
        let mut constant = None;
        while !operators.eof() {
            let (operator, at) = operators.read_with_offset()?;
            constant = self.operator(&operator, between(at, operators.original_position()), constant, &mut code)?;
        }
        Ok(code)
    }

    fn operator(
        &self,
        operator: &Operator<'_>,
        bytes: &[u8],
        before: Constant,
        code: &mut Vec<u8>,
    ) -> Result<Constant, MergeFault> {
        let at = code.len();
        match operator {
            Operator::I32Const { value } => {
                code.extend_from_slice(bytes);
                return Ok(Some((*value, at)));
            }
            Operator::GlobalGet { global_index } => return self.get(*global_index, code),
            Operator::CallIndirect { type_index, table_index } => {
                self.call_indirect(*type_index, *table_index, before, code)?;
            }
            operator => match self.changed(operator)? {
                Some(instruction) => instruction.encode(code),
                None => code.extend_from_slice(bytes),
            },
        }
        Ok(None)
    }

    fn get(&self, global: u32, code: &mut Vec<u8>) -> Result<Constant, MergeFault> {
        let (global, at) = (number(self.places, Sort::Global, global)?, code.len());
        match self.plan.constant(global) {
            Some(value) => constant(value).encode(code),
            None => Instruction::GlobalGet(self.global(global)?).encode(code),
        }
        match self.plan.constant(global) {
            Some(Value::I32(value)) => Ok(Some((value, at))),
            _ => Ok(None),
        }
    }

    /// A call through a slot that never changes is a call of what stands there.
    fn call_indirect(&self, ty: u32, table: u32, before: Constant, code: &mut Vec<u8>) -> Result<(), MergeFault> {
        let (ty, table) = (*nth(&self.places.types, ty)?, number(self.places, Sort::Table, table)?);
        let direct = before.and_then(|(slot, at)| Some((self.plan.direct(self.linked, table, slot, ty)?, at)));
        match direct {
            Some((function, at)) => {
                code.truncate(at);
                Instruction::Call(self.called(function)?).encode(code);
            }
            None => Instruction::CallIndirect { type_index: ty, table_index: table }.encode(code),
        }
        Ok(())
    }

    /// The new form of an operator with an index in it.
    fn changed(&self, operator: &Operator<'_>) -> Result<Option<Instruction<'static>>, MergeFault> {
        let table = |index: u32| number(self.places, Sort::Table, index);
        Ok(Some(match *operator {
            Operator::Block { blockty: wasmparser::BlockType::FuncType(ty) } => Instruction::Block(self.block(ty)?),
            Operator::Loop { blockty: wasmparser::BlockType::FuncType(ty) } => Instruction::Loop(self.block(ty)?),
            Operator::If { blockty: wasmparser::BlockType::FuncType(ty) } => Instruction::If(self.block(ty)?),
            Operator::Call { function_index } => Instruction::Call(self.func(function_index)?),
            Operator::RefFunc { function_index } => Instruction::RefFunc(self.func(function_index)?),
            Operator::GlobalSet { global_index } => {
                Instruction::GlobalSet(self.global(number(self.places, Sort::Global, global_index)?)?)
            }
            Operator::TableGet { table: index } => Instruction::TableGet(table(index)?),
            Operator::TableSet { table: index } => Instruction::TableSet(table(index)?),
            Operator::TableSize { table: index } => Instruction::TableSize(table(index)?),
            Operator::TableGrow { table: index } => Instruction::TableGrow(table(index)?),
            Operator::TableFill { table: index } => Instruction::TableFill(table(index)?),
            Operator::TableCopy { dst_table, src_table } => {
                Instruction::TableCopy { dst_table: table(dst_table)?, src_table: table(src_table)? }
            }
            Operator::TableInit { elem_index, table: index } => {
                Instruction::TableInit { elem_index: self.places.elements + elem_index, table: table(index)? }
            }
            Operator::ElemDrop { elem_index } => Instruction::ElemDrop(self.places.elements + elem_index),
            Operator::MemoryInit { data_index, mem } => {
                Instruction::MemoryInit { mem, data_index: self.places.data + data_index }
            }
            Operator::DataDrop { data_index } => Instruction::DataDrop(self.places.data + data_index),
            _ => return Ok(None),
        }))
    }

    fn block(&self, ty: u32) -> Result<BlockType, MergeFault> {
        Ok(BlockType::FunctionType(*nth(&self.places.types, ty)?))
    }

    fn func(&self, index: u32) -> Result<u32, MergeFault> {
        self.called(number(self.places, Sort::Func, index)?)
    }

    fn called(&self, function: u32) -> Result<u32, MergeFault> {
        self.plan.func(function).ok_or(MergeFault::Shape("code calls a function that is not kept"))
    }

    fn global(&self, global: u32) -> Result<u32, MergeFault> {
        self.plan.global(global).ok_or(MergeFault::Shape("code sets a global that is not kept"))
    }
}

/// The instruction that makes `value`.
pub(super) fn constant(value: Value) -> Instruction<'static> {
    match value {
        Value::I32(value) => Instruction::I32Const(value),
        Value::I64(value) => Instruction::I64Const(value),
        Value::F32(bits) => Instruction::F32Const(wasm_encoder::Ieee32::new(bits)),
        Value::F64(bits) => Instruction::F64Const(wasm_encoder::Ieee64::new(bits)),
    }
}
