//! How much a function is likely to run between two places that count, from its code alone.
//!
//! One unit is one operator that does something. A condition is taken for true as often as for false, every way of a
//! table for as likely as the next: crude, and the same everywhere. A loop's weight is what one round of it runs.

use wasmparser::{BlockType, FunctionBody, Operator};

use super::WeaveFault;
use super::calls::Counted;

/// Once, in the fixed-point numbers that say how often something runs.
const ONCE: u64 = 1 << 16;

/// The shape of one function.
pub(super) struct Function {
    /// What it runs from its entry, and what one round of each of its loops runs.
    stretches: Vec<Stretch>,
    /// All its operators.
    operators: u64,
}

/// What runs between two places that count.
#[derive(Default)]
struct Stretch {
    /// Operators, each as often as it runs.
    work: u64,
    /// Functions of this module that are called, each as often as it is.
    calls: Vec<(usize, u64)>,
}

/// A block that is open.
struct Open {
    kind: Kind,
    /// How often it is entered.
    entered: u64,
    /// How often its end is reached by a branch.
    left: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Block,
    If,
    /// With the stretch that it stands in.
    Loop(usize),
}

impl Function {
    /// Reads `body`, in a module with `imported` functions before its own.
    pub(super) fn read(body: &FunctionBody<'_>, imported: u32) -> Result<Self, WeaveFault> {
        let mut walk = Walk::new();
        for operator in body.get_operators_reader()? {
            walk.step(&operator?, imported)?;
        }
        Ok(Self { stretches: walk.stretches, operators: walk.operators })
    }

    /// The functions that it calls directly.
    pub(super) fn callees(&self) -> impl Iterator<Item = usize> {
        self.stretches.iter().flat_map(|stretch| stretch.calls.iter().map(|(callee, _)| *callee))
    }

    /// The most that it runs without counting, if it does not count at its entry.
    pub(super) fn longest(&self, counted: &Counted) -> u64 {
        self.callees().fold(self.operators, |sum, callee| sum.saturating_add(counted.call(callee).1))
    }

    /// What it is likely to run from its entry until something counts.
    pub(super) fn weight(&self, counted: &Counted) -> u64 {
        self.stretches.first().map_or(0, |stretch| stretch.weight(counted))
    }

    /// What each place in it that counts takes: its entry, then its loops in their order.
    pub(super) fn weights(&self, counted: &Counted) -> Vec<u64> {
        self.stretches.iter().map(|stretch| stretch.weight(counted).max(1)).collect()
    }
}

impl Stretch {
    fn weight(&self, counted: &Counted) -> u64 {
        let calls = self.calls.iter().map(|(callee, often)| counted.call(*callee).0.saturating_mul(*often));
        calls.fold(self.work, u64::saturating_add) / ONCE
    }
}

struct Walk {
    stretches: Vec<Stretch>,
    /// The one that the next operator belongs to.
    current: usize,
    /// How often the next operator runs each time that the current stretch does.
    often: u64,
    open: Vec<Open>,
    operators: u64,
}

impl Walk {
    fn new() -> Self {
        let function = Open { kind: Kind::Block, entered: ONCE, left: 0 };
        Self { stretches: vec![Stretch::default()], current: 0, often: ONCE, open: vec![function], operators: 0 }
    }

    fn step(&mut self, operator: &Operator<'_>, imported: u32) -> Result<(), WeaveFault> {
        self.count(operator, imported);
        match operator {
            Operator::Block { .. } => self.enter(Kind::Block),
            Operator::If { blockty: BlockType::Empty | BlockType::Type(_) | BlockType::FuncType(_) } => {
                self.enter(Kind::If);
                self.often /= 2;
            }
            Operator::Loop { .. } => {
                self.enter(Kind::Loop(self.current));
                self.current = self.stretches.len();
                self.stretches.push(Stretch::default());
                self.often = ONCE;
            }
            Operator::Else => {
                let often = self.often;
                let open = self.open.last_mut().ok_or(WeaveFault::Shape("an `else` stands alone"))?;
                open.left += often;
                open.kind = Kind::Block;
                self.often = open.entered / 2;
            }
            Operator::End => self.end()?,
            Operator::Br { relative_depth } => {
                self.reach(*relative_depth, self.often);
                self.often = 0;
            }
            Operator::BrIf { relative_depth } => {
                self.often /= 2;
                self.reach(*relative_depth, self.often);
            }
            Operator::BrTable { targets } => {
                let each = self.often / (u64::from(targets.len()) + 1);
                for depth in targets.targets() {
                    self.reach(depth?, each);
                }
                self.reach(targets.default(), each);
                self.often = 0;
            }
            Operator::Return | Operator::Unreachable => self.often = 0,
            _ => {}
        }
        Ok(())
    }

    fn count(&mut self, operator: &Operator<'_>, imported: u32) {
        if !costs(operator) {
            return;
        }
        self.operators += 1;
        let Some(stretch) = self.stretches.get_mut(self.current) else { return };
        stretch.work += self.often;
        if let Operator::Call { function_index } = operator
            && let Some(callee) = function_index.checked_sub(imported).and_then(|callee| usize::try_from(callee).ok())
        {
            stretch.calls.push((callee, self.often));
        }
    }

    fn enter(&mut self, kind: Kind) {
        self.open.push(Open { kind, entered: self.often, left: 0 });
    }

    /// A branch out of a loop adds nothing: the loop is taken to end as often as it began.
    fn reach(&mut self, depth: u32, often: u64) {
        let Ok(depth) = usize::try_from(depth) else { return };
        let inside = self.open.iter().rev().take(depth.saturating_add(1));
        if inside.clone().any(|open| matches!(open.kind, Kind::Loop(_))) {
            return;
        }
        if let Some(open) = self.open.iter_mut().rev().nth(depth) {
            open.left += often;
        }
    }

    fn end(&mut self) -> Result<(), WeaveFault> {
        let open = self.open.pop().ok_or(WeaveFault::Shape("an `end` stands alone"))?;
        self.often = match open.kind {
            Kind::Loop(outer) => {
                self.current = outer;
                open.entered
            }
            Kind::Block => (self.often + open.left).min(open.entered),
            // Without an `else` the other half comes here at once.
            Kind::If => (self.often + open.left + open.entered / 2).min(open.entered),
        };
        Ok(())
    }
}

/// Does it do something when it runs?
const fn costs(operator: &Operator<'_>) -> bool {
    !matches!(
        operator,
        Operator::Nop
            | Operator::Drop
            | Operator::Block { .. }
            | Operator::Loop { .. }
            | Operator::Unreachable
            | Operator::Return
            | Operator::Else
            | Operator::End
    )
}
