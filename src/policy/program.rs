//! Programs that a command line may run: the rows behind tools whose argument is one.

use crate::model::{EffectClass, ThreatId};
use crate::shell::{ProgramKind, program_kind};

/// One program of the machine, by the name that a shell finds it under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Plain name, or a path that must be written exactly so.
    pub name: String,
    /// The class of a command line that runs it, unless another of its programs is stricter.
    pub effect: EffectClass,
    /// Beginnings of its arguments of which one must be there, word by word; empty means any arguments.
    pub args: Vec<Vec<String>>,
    /// Labels that the results of a command line that runs it put on the session.
    pub labels: Vec<String>,
    /// Threats answered.
    pub answers: Vec<ThreatId>,
    /// Line of the `[[program]]` header.
    pub line: usize,
}

/// Why there can be no row with the name `text`, to follow the name.
pub(super) fn name_fault(text: &str) -> Option<&'static str> {
    if text.contains('/') && !(text.starts_with('/') || text.starts_with("./")) {
        return Some("is neither a plain name nor a path from `/` or `./`");
    }
    match program_kind(text) {
        ProgramKind::Harmless => Some("is part of the shell and needs no row"),
        ProgramKind::Refused(_) => Some("is refused in any command line, whatever a row says"),
        // `find` and `env` run programs, and are programs too.
        ProgramKind::Wrapper if !matches!(text, "find" | "env") => Some("is looked through: give what it runs a row"),
        _ => None,
    }
}

/// True when a row with this class would hide what the program runs: one that runs what it is given, with any arguments.
pub(super) fn hides(text: &str, effect: EffectClass, pinned: bool) -> bool {
    let runs = matches!(program_kind(text), ProgramKind::Interpreter | ProgramKind::Shell);
    runs && !pinned && effect.strictness() < EffectClass::Exec.strictness()
}
