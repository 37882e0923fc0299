//! What each function does that matters for merging: whom it calls, what it writes, whether it only forwards.
//!
//! Only functions that can run count: a dynamic linker's own start code, which wrote every address once before
//! the image was taken, would otherwise make constants look like variables.

use wasmparser::{FunctionBody, Operator};

use super::link::{Linked, Places};
use super::outline::Sort;
use super::{MergeFault, nth};

/// One function's deeds; all indices are numbers of the merged module.
#[derive(Debug, Default)]
pub(super) struct Deeds {
    /// Functions that it calls or whose reference it takes.
    pub(super) calls: Vec<u32>,
    /// Globals that it sets.
    pub(super) sets: Vec<u32>,
    /// Tables whose entries it can change.
    pub(super) writes: Vec<u32>,
    /// Tables that it can grow.
    pub(super) grows: Vec<u32>,
    /// Set when it does nothing but pass all its parameters on.
    pub(super) forward: Option<Forward>,
}

/// To whom a function passes its parameters.
#[derive(Clone, Copy, Debug)]
pub(super) enum Forward {
    Call(u32),
    /// Through a constant slot of a table.
    Slot {
        slot: i32,
        table: u32,
        ty: u32,
    },
    /// Through the slot that a global holds.
    Global {
        global: u32,
        table: u32,
        ty: u32,
    },
}

impl Deeds {
    /// Reads the body of a function with `parameters` parameters.
    pub(super) fn of(body: &FunctionBody<'_>, places: &Places, parameters: usize) -> Result<Self, MergeFault> {
        let mut deeds = Self::default();
        let mut shape = Shape::new(parameters);
        for operator in body.get_operators_reader()? {
            let operator = operator?;
            deeds.note(&operator, places)?;
            shape.step(&operator, places)?;
        }
        deeds.forward = shape.finish();
        Ok(deeds)
    }

    fn note(&mut self, operator: &Operator<'_>, places: &Places) -> Result<(), MergeFault> {
        let table = |index: &u32| nth(&places.items.table, *index).copied();
        match operator {
            Operator::Call { function_index } | Operator::RefFunc { function_index } => {
                self.calls.push(*nth(&places.items.func, *function_index)?);
            }
            Operator::GlobalSet { global_index } => self.sets.push(*nth(&places.items.global, *global_index)?),
            Operator::TableGrow { table: index } => {
                self.grows.push(table(index)?);
                self.writes.push(table(index)?);
            }
            Operator::TableSet { table: index }
            | Operator::TableFill { table: index }
            | Operator::TableInit { table: index, .. }
            | Operator::TableCopy { dst_table: index, .. } => self.writes.push(table(index)?),
            _ => {}
        }
        Ok(())
    }
}

/// Recognises `local.get 0; ...; local.get n-1; [slot;] call; end`.
struct Shape {
    parameters: usize,
    step: usize,
    slot: Option<Operator<'static>>,
    found: Option<Forward>,
    ended: bool,
    broken: bool,
}

impl Shape {
    fn new(parameters: usize) -> Self {
        Self { parameters, step: 0, slot: None, found: None, ended: false, broken: false }
    }

    fn step(&mut self, operator: &Operator<'_>, places: &Places) -> Result<(), MergeFault> {
        if self.broken {
            return Ok(());
        }
        let step = self.step;
        self.step += 1;
        match operator {
            Operator::LocalGet { local_index } if step < self.parameters => {
                self.broken = usize::try_from(*local_index).ok() != Some(step);
            }
            Operator::I32Const { value } if step == self.parameters => {
                self.slot = Some(Operator::I32Const { value: *value });
            }
            Operator::GlobalGet { global_index } if step == self.parameters => {
                let global_index = *nth(&places.items.global, *global_index)?;
                self.slot = Some(Operator::GlobalGet { global_index });
            }
            Operator::Call { function_index } if step == self.parameters => {
                self.found = Some(Forward::Call(*nth(&places.items.func, *function_index)?));
            }
            Operator::CallIndirect { type_index, table_index } if step == self.parameters + 1 => {
                let (table, ty) = (*nth(&places.items.table, *table_index)?, *nth(&places.types, *type_index)?);
                self.found = match self.slot {
                    Some(Operator::I32Const { value: slot }) => Some(Forward::Slot { slot, table, ty }),
                    Some(Operator::GlobalGet { global_index: global }) => Some(Forward::Global { global, table, ty }),
                    _ => None,
                };
                self.broken = self.found.is_none();
            }
            Operator::End if self.found.is_some() && !self.ended => self.ended = true,
            _ => self.broken = true,
        }
        Ok(())
    }

    fn finish(self) -> Option<Forward> {
        self.found.filter(|_| self.ended && !self.broken)
    }
}

/// The deeds of every own function.
pub(super) fn all(linked: &Linked<'_>) -> Result<Vec<Deeds>, MergeFault> {
    let mut deeds = Vec::with_capacity(linked.bodies.len());
    for ((part, body), ty) in linked.bodies.iter().zip(&linked.func_types) {
        let parameters = nth(&linked.types, *ty)?.params().len();
        deeds.push(Deeds::of(body, nth(&linked.places, *part)?, parameters)?);
    }
    Ok(deeds)
}

/// Which own functions can run, when `roots` can.
pub(super) fn reachable(deeds: &[Deeds], roots: impl IntoIterator<Item = u32>) -> Vec<bool> {
    let mut reached = vec![false; deeds.len()];
    let mut next: Vec<u32> = roots.into_iter().collect();
    while let Some(function) = next.pop() {
        // Beyond them are the host's functions.
        let Ok(index) = usize::try_from(function) else { continue };
        let (Some(seen), Some(deeds)) = (reached.get_mut(index), deeds.get(index)) else { continue };
        if !std::mem::replace(seen, true) {
            next.extend(&deeds.calls);
        }
    }
    reached
}

/// The number of `index` among things of `sort` that the part `places` belongs to can name.
pub(super) fn number(places: &Places, sort: Sort, index: u32) -> Result<u32, MergeFault> {
    nth(places.items.get(sort), index).copied()
}
