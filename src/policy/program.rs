//! Programs that a command line may run: the rows behind tools whose argument is one.

use crate::model::{EffectClass, ThreatId};

/// One program of the machine, by the name that a shell finds it under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Plain name, or a path that must be written exactly so.
    pub name: String,
    /// The class of a command line that runs it, unless another of its programs is stricter.
    pub effect: EffectClass,
    /// Beginnings of its arguments of which one must be there, word by word; empty means any arguments.
    pub args: Vec<Vec<String>>,
    /// Threats answered.
    pub answers: Vec<ThreatId>,
    /// Line of the `[[program]]` header.
    pub line: usize,
}
