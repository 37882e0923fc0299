//! `[[program]]`: what a command line may run.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::super::Program;
use super::super::program::{hides, name_fault};
use super::super::reader::{Fields, shown};
use super::tool::EFFECTS;
use super::{Unique, check_known};
use crate::model::Limits;

/// Most words of one beginning.
const WORDS: usize = 16;

pub(super) fn read(root: &Fields<'_, '_>, labels: &BTreeSet<String>) -> BTreeMap<String, Program> {
    let mut unique = Unique::new("the program");
    let mut programs = BTreeMap::new();
    for fields in root.tables("program", "[[program]]") {
        if let Some(program) = read_program(&fields, labels, &mut unique) {
            programs.insert(program.name.clone(), program);
        }
    }
    if programs.len() > Limits::TOOLS {
        root.fault(1, format!("{} programs are over the limit of {}", programs.len(), Limits::TOOLS));
    }
    programs
}

fn read_program(fields: &Fields<'_, '_>, labels: &BTreeSet<String>, unique: &mut Unique) -> Option<Program> {
    let name = fields.need_name("name");
    let effect = fields.need_word("effect", &EFFECTS);
    let args = fields.json("args").map(|value| read_args(fields, &value.value, value.line)).unwrap_or_default();
    let given = fields.names("labels");
    check_known(fields, &given, labels, "label");
    let answers = fields.threats("answers");
    fields.end();
    let (name, effect) = (name?, effect?);
    unique.check(fields, name.value.as_str(), name.line);
    let text = name.value.as_str();
    if let Some(why) = name_fault(text) {
        fields.fault(name.line, format!("`{text}` {why}"));
    }
    if hides(text, effect, !args.is_empty()) {
        let advice = "give it `effect = \"exec\"`, or say in `args` how its arguments must begin";
        fields.fault(fields.line, format!("`{text}` runs what it is given; {advice}"));
    }
    let labels = given.into_iter().map(|label| label.value).collect();
    Some(Program { name: text.to_owned(), effect, args, labels, answers, line: fields.line })
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
