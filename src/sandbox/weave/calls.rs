//! Which functions count when they are entered.
//!
//! A loop counts at its header. What is left to bound is calls: a function that is reached through a table or from
//! outside counts at its entry; one that is only called directly need not, as long as it is no part of a cycle of
//! such functions and what it can run without counting is short. Its caller then counts for it.

use super::weight::Function;

/// The most operators that a function which does not count at its entry may run without counting, its callees' included.
const LONGEST: u64 = 1_000;

/// What is decided of each function, by its number among those that are defined.
pub(super) struct Counted(Vec<Option<Entry>>);

/// A function's entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    /// It counts.
    Counts,
    /// Its caller counts `weight` for it; it runs at most `longest` operators without counting.
    Passes { weight: u64, longest: u64 },
}

impl Counted {
    /// Decides for `functions`; `reached` says which of them something else than a direct call can reach.
    pub(super) fn of(functions: &[Function], reached: impl Fn(u32) -> bool) -> Self {
        let entries = (0..).zip(functions).map(|(index, _)| reached(index).then_some(Entry::Counts)).collect();
        let mut counted = Self(entries);
        // For each function: those that wait for it, and for how many it waits itself.
        let mut waiting: Vec<Vec<usize>> = vec![Vec::new(); functions.len()];
        let mut open: Vec<usize> = vec![0; functions.len()];
        for (index, function) in functions.iter().enumerate().filter(|(index, _)| counted.entry(*index).is_none()) {
            for callee in function.callees().filter(|callee| counted.entry(*callee).is_none()) {
                if let (Some(waits), Some(open)) = (waiting.get_mut(callee), open.get_mut(index)) {
                    waits.push(index);
                    *open += 1;
                }
            }
        }
        let undecided = |counted: &Self, index: &usize| counted.entry(*index).is_none();
        let mut ready: Vec<usize> = (0..functions.len()).filter(|index| open.get(*index) == Some(&0)).collect();
        let mut next = 0;
        loop {
            while let Some(index) = ready.pop() {
                if let (true, Some(function)) = (undecided(&counted, &index), functions.get(index)) {
                    counted.decide(index, Self::passes(function, &counted));
                }
                for waits in waiting.get_mut(index).map(std::mem::take).unwrap_or_default() {
                    if let Some(open) = open.get_mut(waits) {
                        *open = open.saturating_sub(1);
                        ready.extend((*open == 0).then_some(waits));
                    }
                }
            }
            // What is left waits for a cycle: whoever comes first in it counts, which opens it.
            let Some(first) = (next..functions.len()).find(|index| undecided(&counted, index)) else { return counted };
            counted.decide(first, Entry::Counts);
            next = first + 1;
            ready.push(first);
        }
    }

    fn passes(function: &Function, counted: &Self) -> Entry {
        let longest = function.longest(counted);
        if longest > LONGEST { Entry::Counts } else { Entry::Passes { weight: function.weight(counted), longest } }
    }

    fn decide(&mut self, index: usize, entry: Entry) {
        if let Some(place) = self.0.get_mut(index) {
            *place = Some(entry);
        }
    }

    fn entry(&self, index: usize) -> Option<Entry> {
        self.0.get(index).copied().flatten()
    }

    /// Does the function with this number count at its entry?
    pub(super) fn counts(&self, index: u32) -> bool {
        let entry = usize::try_from(index).ok().and_then(|index| self.entry(index));
        entry.unwrap_or(Entry::Counts) == Entry::Counts
    }

    /// What a direct call of `index` costs its caller: what is likely to run, and the most that can.
    pub(super) fn call(&self, index: usize) -> (u64, u64) {
        match self.entry(index) {
            Some(Entry::Passes { weight, longest }) => (weight, longest),
            Some(Entry::Counts) | None => (0, 0),
        }
    }
}
