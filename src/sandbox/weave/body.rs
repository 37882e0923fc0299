//! The code of one function, which counts where it must.
//!
//! What is counted: a weight at the entry and at every loop header, the length of every bulk operation before it
//! begins. Below zero the code traps, and the counter says why.

use wasm_encoder::{BlockType, Encode as _, Instruction, MemArg, ValType};
use wasmparser::{FunctionBody, Operator};

use super::WeaveFault;

/// The counter's place.
const COUNTER: MemArg = MemArg { offset: 0, align: 3, memory_index: 1 };

/// Weaves one function.
pub(super) struct Loom<'w> {
    /// Does its entry count?
    pub(super) counts: bool,
    /// What its entry and each of its loops take.
    pub(super) weights: &'w [u64],
}

/// The locals that are added behind a function's own.
#[derive(Clone, Copy)]
struct Own {
    /// What is left, 64 bits.
    left: u32,
    /// The length of a bulk operation, 32 bits.
    length: u32,
}

impl Loom<'_> {
    /// The new body of a function with `parameters` parameters: locals and code, without its length.
    pub(super) fn body(&self, body: &FunctionBody<'_>, parameters: u32) -> Result<Vec<u8>, WeaveFault> {
        let (bytes, start) = (body.as_bytes(), body.range().start);
        let between = |from: usize, to: usize| bytes.get(from - start..to - start).unwrap_or_default();
        let (mut woven, own) = locals(body, parameters)?;
        let mut weights = self.weights.iter().map(|weight| i64::try_from(*weight).unwrap_or(i64::MAX));
        let entry = weights.next().unwrap_or(1);
        if self.counts {
            own.take(&[Instruction::I64Const(entry)], &mut woven);
        }
        let mut operators = body.get_operators_reader()?;
        while !operators.eof() {
            let (operator, at) = operators.read_with_offset()?;
            let code = between(at, operators.original_position());
            if is_bulk(&operator) {
                Instruction::LocalTee(own.length).encode(&mut woven);
                own.take(&[Instruction::LocalGet(own.length), Instruction::I64ExtendI32U], &mut woven);
            }
            woven.extend_from_slice(code);
            if let Operator::Loop { .. } = operator {
                let weight = weights.next().ok_or(WeaveFault::Shape("a loop has no weight"))?;
                own.take(&[Instruction::I64Const(weight)], &mut woven);
            }
        }
        Ok(woven)
    }
}

impl Own {
    /// Takes from the counter what `amount` leaves on the stack, and traps below zero.
    fn take(self, amount: &[Instruction<'_>], woven: &mut Vec<u8>) {
        let before = [Instruction::I32Const(0), Instruction::I32Const(0), Instruction::I64Load(COUNTER)];
        let after = [
            Instruction::I64Sub,
            Instruction::LocalTee(self.left),
            // Stored before it is looked at: a counter below zero tells this trap from every other.
            Instruction::I64Store(COUNTER),
            Instruction::LocalGet(self.left),
            Instruction::I64Const(0),
            Instruction::I64LtS,
            Instruction::If(BlockType::Empty),
            Instruction::Unreachable,
            Instruction::End,
        ];
        before.iter().chain(amount).chain(&after).for_each(|instruction| instruction.encode(woven));
    }
}

/// The groups of locals with two more, and which those are.
fn locals(body: &FunctionBody<'_>, parameters: u32) -> Result<(Vec<u8>, Own), WeaveFault> {
    let mut locals = body.get_locals_reader()?;
    let groups = locals.get_count();
    let first = locals.original_position();
    let mut left = parameters;
    for _ in 0..groups {
        let (count, _) = locals.read()?;
        left = left.checked_add(count).ok_or(WeaveFault::Shape("a function has too many locals"))?;
    }
    let start = body.range().start;
    let own = body.as_bytes().get(first - start..locals.original_position() - start).unwrap_or_default();
    let mut woven = Vec::with_capacity(body.as_bytes().len() + 64);
    (groups + 2).encode(&mut woven);
    woven.extend_from_slice(own);
    for ty in [ValType::I64, ValType::I32] {
        1_u32.encode(&mut woven);
        ty.encode(&mut woven);
    }
    Ok((woven, Own { left, length: left + 1 }))
}

/// Does its work grow with the number on top of the stack?
pub(super) const fn is_bulk(operator: &Operator<'_>) -> bool {
    matches!(
        operator,
        Operator::MemoryCopy { .. }
            | Operator::MemoryFill { .. }
            | Operator::MemoryInit { .. }
            | Operator::TableCopy { .. }
            | Operator::TableFill { .. }
            | Operator::TableInit { .. }
            | Operator::TableGrow { .. }
    )
}
