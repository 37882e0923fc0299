//! What is constant: globals that nothing writes, table slots that nothing changes, functions that only forward.
//!
//! A dynamic linker reaches data and functions of other libraries through mutable globals and table slots that
//! it fills once. In one module the answer is known, provided that no function that can run, and nothing
//! outside, can change it: only then is it used here.

use wasmparser::{ConstExpr, ElementItems, ElementKind, Operator};

use super::component::Needs;
use super::link::{Linked, Places};
use super::outline::Sort;
use super::survey::{self, Deeds, Forward};
use super::{MergeFault, nth};

/// A constant; floating-point numbers by their bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value {
    I32(i32),
    I64(i64),
    F32(u32),
    F64(u64),
}

/// How an element segment is used.
#[derive(Clone, Copy, Debug)]
pub(super) enum Mode {
    Active { table: u32, offset: i32 },
    Passive,
    Declared,
}

/// An element segment; its functions by number.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) part: u32,
    pub(super) mode: Mode,
    pub(super) items: Vec<Option<u32>>,
}

/// All that the rewriting follows.
pub(super) struct Plan {
    /// By function: the one that runs when it is called.
    stands_for: Vec<u32>,
    /// By function: its index in the merged module, when it is kept.
    funcs: Vec<Option<u32>>,
    /// By global: its value at the start.
    values: Vec<Value>,
    /// By global: does it keep that value for ever?
    constant: Vec<bool>,
    /// By global: its index in the merged module, when it is kept.
    globals: Vec<Option<u32>>,
    /// By table: its entries, where nothing changes them.
    slots: Vec<Option<Vec<Option<u32>>>>,
    /// By table: can it grow?
    pub(super) grows: Vec<bool>,
    pub(super) segments: Vec<Segment>,
    /// The first part with a start function: segments of later ones are applied after it has run.
    pub(super) pause: Option<u32>,
}

impl Plan {
    pub(super) fn new(linked: &Linked<'_>, needs: &Needs) -> Result<Self, MergeFault> {
        let values = values(linked)?;
        let segments = segments(linked, &values)?;
        let pause = (0..).zip(&linked.parts).find(|(_, part)| part.start.is_some()).map(|(index, _)| index);
        let deeds = survey::all(linked)?;
        let mut roots: Vec<u32> = segments.iter().flat_map(|segment| segment.items.iter().flatten().copied()).collect();
        roots.extend(needs.exported(Sort::Func));
        for (part, places) in linked.parts.iter().zip(&linked.places) {
            if let Some(start) = part.start {
                roots.push(survey::number(places, Sort::Func, start)?);
            }
        }
        let running = survey::reachable(&deeds, roots.iter().copied());
        let mut plan = Self {
            stands_for: (0..).take(linked.func_types.len()).collect(),
            funcs: Vec::new(),
            values,
            constant: Vec::new(),
            globals: Vec::new(),
            slots: Vec::new(),
            grows: Vec::new(),
            segments,
            pause,
        };
        plan.fix_globals(linked, needs, &deeds, &running);
        plan.fix_tables(linked, needs, &deeds, &running);
        plan.shorten(linked, &deeds);
        plan.number(linked, deeds, &roots);
        Ok(plan)
    }

    /// The constant that global `global` is.
    pub(super) fn constant(&self, global: u32) -> Option<Value> {
        nth(&self.constant, global).ok().filter(|constant| **constant)?;
        self.initial(global)
    }

    /// The value of global `global` at the start.
    pub(super) fn initial(&self, global: u32) -> Option<Value> {
        nth(&self.values, global).ok().copied()
    }

    /// Its index in the merged module.
    pub(super) fn global(&self, global: u32) -> Option<u32> {
        nth(&self.globals, global).ok().copied().flatten()
    }

    /// The index in the merged module of what runs when function `function` is called.
    pub(super) fn func(&self, function: u32) -> Option<u32> {
        nth(&self.funcs, *nth(&self.stands_for, function).ok()?).ok().copied().flatten()
    }

    /// Is this function a part of the merged module?
    pub(super) fn keeps(&self, function: u32) -> bool {
        matches!(nth(&self.funcs, function), Ok(Some(_)))
    }

    /// The function that a call of type `ty` through slot `slot` always reaches.
    pub(super) fn direct(&self, linked: &Linked<'_>, table: u32, slot: i32, ty: u32) -> Option<u32> {
        let slots = nth(&self.slots, table).ok()?.as_ref()?;
        let function = (*nth(slots, u32::from_ne_bytes(slot.to_ne_bytes())).ok()?)?;
        (nth(&linked.func_types, function).ok() == Some(&ty)).then_some(function)
    }

    fn fix_globals(&mut self, linked: &Linked<'_>, needs: &Needs, deeds: &[Deeds], running: &[bool]) {
        self.constant = vec![true; linked.globals.len()];
        let mut varies = |global: u32| {
            if let Some(constant) = usize::try_from(global).ok().and_then(|global| self.constant.get_mut(global)) {
                *constant = false;
            }
        };
        running_deeds(deeds, running).flat_map(|deeds| &deeds.sets).copied().for_each(&mut varies);
        for global in needs.exported(Sort::Global) {
            if nth(&linked.globals, global).is_ok_and(|global| global.ty.mutable) {
                varies(global);
            }
        }
        let mut next = 0;
        for (global, constant) in (0..).zip(&self.constant) {
            let kept = !constant || needs.exported(Sort::Global).any(|exported| exported == global);
            self.globals.push(kept.then_some(next));
            next += u32::from(kept);
        }
    }

    fn fix_tables(&mut self, linked: &Linked<'_>, needs: &Needs, deeds: &[Deeds], running: &[bool]) {
        for (table, ty) in (0..).zip(&linked.tables) {
            let outside = needs.exported(Sort::Table).any(|exported| exported == table);
            let written = running_deeds(deeds, running).any(|deeds| deeds.writes.contains(&table));
            let grown = running_deeds(deeds, running).any(|deeds| deeds.grows.contains(&table));
            self.grows.push(outside || grown);
            self.slots.push(if outside || written { None } else { self.entries(table, ty.initial) });
        }
    }

    /// What the active segments put into `table`; unknown when some are applied after code has run.
    fn entries(&self, table: u32, size: u64) -> Option<Vec<Option<u32>>> {
        let mut slots = vec![None; usize::try_from(size).ok()?];
        for segment in &self.segments {
            let Mode::Active { table: found, offset } = segment.mode else { continue };
            if found != table {
                continue;
            }
            let start = usize::try_from(u32::from_ne_bytes(offset.to_ne_bytes())).ok()?;
            let range = start..start.checked_add(segment.items.len())?;
            // One that does not fit stops the start: nothing is known to run then.
            let place = slots.get_mut(range).filter(|_| !self.is_paused(segment.part))?;
            place.copy_from_slice(&segment.items);
        }
        Some(slots)
    }

    /// Are this part's segments applied by code, because other code runs before?
    pub(super) fn is_paused(&self, part: u32) -> bool {
        self.pause.is_some_and(|pause| part > pause)
    }

    /// Lets calls of functions that only forward go to where these lead.
    fn shorten(&mut self, linked: &Linked<'_>, deeds: &[Deeds]) {
        let next: Vec<Option<u32>> = (0..)
            .zip(deeds)
            .map(|(from, deeds)| {
                let to = match deeds.forward? {
                    Forward::Call(to) => to,
                    Forward::Slot { slot, table, ty } => self.direct(linked, table, slot, ty)?,
                    Forward::Global { global, table, ty } => match self.constant(global)? {
                        Value::I32(slot) => self.direct(linked, table, slot, ty)?,
                        _ => return None,
                    },
                };
                (nth(&linked.func_types, to).ok() == nth(&linked.func_types, from).ok()).then_some(to)
            })
            .collect();
        for (from, stands_for) in (0..).zip(&mut self.stands_for) {
            let mut end = from;
            // A ring of functions that only call each other never ends, and is left alone.
            for _ in 0..next.len() {
                match nth(&next, end) {
                    Ok(Some(to)) if *to != from => end = *to,
                    Ok(Some(_)) => break,
                    _ => {
                        *stands_for = end;
                        break;
                    }
                }
            }
        }
    }

    /// Numbers what is left: the host's functions first, as imports must be.
    fn number(&mut self, linked: &Linked<'_>, mut deeds: Vec<Deeds>, roots: &[u32]) {
        let end = |function: &u32| nth(&self.stands_for, *function).copied().unwrap_or(*function);
        for deeds in &mut deeds {
            deeds.calls = deeds.calls.iter().map(end).collect();
        }
        let kept = survey::reachable(&deeds, roots.iter().map(end));
        let own = linked.bodies.len();
        let mut hosts = vec![false; linked.hosts.len()];
        let called = running_deeds(&deeds, &kept).flat_map(|deeds| deeds.calls.iter().copied());
        for function in called.chain(roots.iter().map(end)) {
            let host = usize::try_from(function).ok().and_then(|function| function.checked_sub(own));
            if let Some(used) = host.and_then(|host| hosts.get_mut(host)) {
                *used = true;
            }
        }
        let mut next = 0;
        let mut index = |kept: &bool| {
            kept.then(|| {
                next += 1;
                next - 1
            })
        };
        let hosts: Vec<Option<u32>> = hosts.iter().map(&mut index).collect();
        self.funcs = kept.iter().map(&mut index).chain(hosts).collect();
    }
}

fn running_deeds<'d>(deeds: &'d [Deeds], running: &'d [bool]) -> impl Iterator<Item = &'d Deeds> {
    deeds.iter().zip(running).filter(|(_, runs)| **runs).map(|(deeds, _)| deeds)
}

/// The first value of every global, in order.
fn values(linked: &Linked<'_>) -> Result<Vec<Value>, MergeFault> {
    let mut values = Vec::with_capacity(linked.globals.len());
    for global in &linked.globals {
        let value = evaluate(&global.init, nth(&linked.places, global.part)?, &values)?;
        values.push(value);
    }
    Ok(values)
}

/// The element segments of all parts, in order.
fn segments(linked: &Linked<'_>, values: &[Value]) -> Result<Vec<Segment>, MergeFault> {
    let mut segments = Vec::new();
    for (index, (part, places)) in (0..).zip(linked.parts.iter().zip(&linked.places)) {
        for element in &part.elements {
            let mode = match &element.kind {
                ElementKind::Passive => Mode::Passive,
                ElementKind::Declared => Mode::Declared,
                ElementKind::Active { table_index, offset_expr } => Mode::Active {
                    table: survey::number(places, Sort::Table, table_index.unwrap_or(0))?,
                    offset: offset(offset_expr, places, values)?,
                },
            };
            segments.push(Segment { part: index, mode, items: functions(&element.items, places)? });
        }
    }
    Ok(segments)
}

fn functions(items: &ElementItems<'_>, places: &Places) -> Result<Vec<Option<u32>>, MergeFault> {
    let mut functions = Vec::new();
    match items {
        ElementItems::Functions(reader) => {
            for function in reader.clone() {
                functions.push(Some(survey::number(places, Sort::Func, function?)?));
            }
        }
        ElementItems::Expressions(ty, reader) => {
            if !ty.is_func_ref() {
                return Err(MergeFault::Shape("a segment holds other than functions"));
            }
            for expression in reader.clone() {
                functions.push(match expression?.get_operators_reader().read()? {
                    Operator::RefFunc { function_index } => Some(survey::number(places, Sort::Func, function_index)?),
                    Operator::RefNull { .. } => None,
                    _ => return Err(MergeFault::Shape("a segment holds other than functions")),
                });
            }
        }
    }
    Ok(functions)
}

/// Where a segment begins.
pub(super) fn offset(expression: &ConstExpr<'_>, places: &Places, values: &[Value]) -> Result<i32, MergeFault> {
    match evaluate(expression, places, values)? {
        Value::I32(offset) => Ok(offset),
        _ => Err(MergeFault::Shape("a segment begins at no address")),
    }
}

impl Plan {
    /// Where a data segment of the part with these places begins.
    pub(super) fn address(&self, expression: &ConstExpr<'_>, places: &Places) -> Result<i32, MergeFault> {
        offset(expression, places, &self.values)
    }
}

/// The value of a constant expression; `values` are those of the globals before it.
fn evaluate(expression: &ConstExpr<'_>, places: &Places, values: &[Value]) -> Result<Value, MergeFault> {
    let odd = MergeFault::Shape("a constant is not a number");
    let mut stack: Vec<Value> = Vec::new();
    for operator in expression.get_operators_reader() {
        let value = match operator? {
            Operator::I32Const { value } => Value::I32(value),
            Operator::I64Const { value } => Value::I64(value),
            Operator::F32Const { value } => Value::F32(value.bits()),
            Operator::F64Const { value } => Value::F64(value.bits()),
            Operator::GlobalGet { global_index } => *nth(values, survey::number(places, Sort::Global, global_index)?)?,
            Operator::End => break,
            operator => match (stack.pop(), stack.pop()) {
                (Some(right), Some(left)) => calculate(&operator, left, right)?,
                _ => return Err(odd),
            },
        };
        stack.push(value);
    }
    stack.pop().filter(|_| stack.is_empty()).ok_or(odd)
}

fn calculate(operator: &Operator<'_>, left: Value, right: Value) -> Result<Value, MergeFault> {
    Ok(match (operator, left, right) {
        (Operator::I32Add, Value::I32(left), Value::I32(right)) => Value::I32(left.wrapping_add(right)),
        (Operator::I32Sub, Value::I32(left), Value::I32(right)) => Value::I32(left.wrapping_sub(right)),
        (Operator::I32Mul, Value::I32(left), Value::I32(right)) => Value::I32(left.wrapping_mul(right)),
        (Operator::I64Add, Value::I64(left), Value::I64(right)) => Value::I64(left.wrapping_add(right)),
        (Operator::I64Sub, Value::I64(left), Value::I64(right)) => Value::I64(left.wrapping_sub(right)),
        (Operator::I64Mul, Value::I64(left), Value::I64(right)) => Value::I64(left.wrapping_mul(right)),
        _ => return Err(MergeFault::Shape("a constant is not a number")),
    })
}
