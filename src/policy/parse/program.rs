//! `[[program]]`: what a command line may run.

use std::collections::BTreeMap;

use serde_json::Value;

use super::super::Program;
use super::super::reader::{Fields, shown};
use super::Unique;
use super::tool::EFFECTS;
use crate::model::{EffectClass, Limits};
use crate::shell::{ProgramKind, program_kind};

/// Most words of one beginning.
const WORDS: usize = 16;

pub(super) fn read(root: &Fields<'_, '_>) -> BTreeMap<String, Program> {
    let mut unique = Unique::new("the program");
    let mut programs = BTreeMap::new();
    for fields in root.tables("program", "[[program]]") {
        if let Some(program) = read_program(&fields, &mut unique) {
            programs.insert(program.name.clone(), program);
        }
    }
    if programs.len() > Limits::TOOLS {
        root.fault(1, format!("{} programs are over the limit of {}", programs.len(), Limits::TOOLS));
    }
    programs
}

fn read_program(fields: &Fields<'_, '_>, unique: &mut Unique) -> Option<Program> {
    let name = fields.need_name("name");
    let effect = fields.need_word("effect", &EFFECTS);
    let args = fields.json("args").map(|value| read_args(fields, &value.value, value.line)).unwrap_or_default();
    let answers = fields.threats("answers");
    fields.end();
    let (name, effect) = (name?, effect?);
    unique.check(fields, name.value.as_str(), name.line);
    let text = name.value.as_str();
    if text.contains('/') && !(text.starts_with('/') || text.starts_with("./")) {
        fields.fault(name.line, format!("`{text}` is neither a plain name nor a path from `/` or `./`"));
    }
    let of_shell = match program_kind(text) {
        ProgramKind::Harmless => Some("is part of the shell and needs no row"),
        ProgramKind::Refused(_) => Some("is refused in any command line, whatever a row says"),
        // `find` and `env` run programs, and are programs too.
        ProgramKind::Wrapper if !matches!(text, "find" | "env") => Some("is looked through: give what it runs a row"),
        _ => None,
    };
    if let Some(why) = of_shell {
        fields.fault(name.line, format!("`{text}` {why}"));
    }
    let runs = matches!(program_kind(text), ProgramKind::Interpreter | ProgramKind::Shell);
    if runs && args.is_empty() && effect.strictness() < EffectClass::Exec.strictness() {
        let advice = "give it `effect = \"exec\"`, or say in `args` how its arguments must begin";
        fields.fault(fields.line, format!("`{text}` runs what it is given; {advice}"));
    }
    Some(Program { name: text.to_owned(), effect, args, answers, line: fields.line })
}

fn read_args(fields: &Fields<'_, '_>, value: &Value, line: usize) -> Vec<Vec<String>> {
    let beginning = |value: &Value| {
        let words = value.as_array().filter(|words| !words.is_empty() && words.len() <= WORDS)?;
        words.iter().map(|word| word.as_str().map(str::to_owned)).collect::<Option<Vec<String>>>()
    };
    let rows = value.as_array().filter(|rows| !rows.is_empty() && rows.len() <= Limits::TOOLS);
    let read: Option<Vec<_>> = rows.and_then(|rows| rows.iter().map(beginning).collect());
    if read.is_none() {
        let wanted = format!("beginnings such as [[\"status\"], [\"log\"]], each of 1 to {WORDS} words");
        fields.fault(line, format!("`args` holds {wanted}, not {}", shown(&value.to_string())));
    }
    read.unwrap_or_default()
}
