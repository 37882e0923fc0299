//! Calls whose argument is a command line: what it runs, by the policy's `[[program]]` rows.
//!
//! A line is judged by the strictest thing in it, and whatever in it is not known before it runs counts as running
//! something. Nothing here allows: rules do, by the class of effect and the programs that come out.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{reach, structure};
use crate::model::{Action, Call, EffectClass, Kind, Reason, ReasonCode};
use crate::policy::{Policy, Program, Tool};
use crate::shell::{Script, Simple, Word, argv, commands};

/// What rules see of a call besides its words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// The class of its effect.
    pub class: EffectClass,
    /// The programs that a command line runs; empty for anything else.
    pub programs: BTreeSet<String>,
}

impl Seen {
    /// What is seen of a call that is no command line.
    pub(super) const fn plain(class: EffectClass) -> Self {
        Self { class, programs: BTreeSet::new() }
    }
}

/// The tool of a call whose argument is a command line, and that argument's name.
fn shell<'p>(policy: &'p Policy, call: &Call) -> Option<(&'p Tool, &'p str)> {
    if call.action != Action::ToolCall {
        return None;
    }
    let tool = policy.tools.get(call.resource.name.as_str())?;
    Some((tool, tool.shell.as_deref()?))
}

/// What the command line of `call` does; `None` when the call has none.
pub(super) fn seen(policy: &Policy, call: &Call) -> Option<Result<Seen, Reason>> {
    let (tool, argument) = shell(policy, call)?;
    let by = |reason: Reason| reason.by(format!("tool {}", tool.name), &tool.answers);
    let script = match read(call.args.get(argument)) {
        Ok(script) => script,
        Err(detail) => {
            let allowed = format!("a line whose programs are named in its text: {}", listed(policy));
            return Some(Err(by(Reason::new(ReasonCode::BadArgument, detail).instead(allowed))));
        }
    };
    Some(judge(policy, tool, &script))
}

fn read(value: Option<&Value>) -> Result<Script, String> {
    match value {
        Some(Value::String(text)) => commands(text).map_err(|fault| fault.to_string()),
        Some(Value::Array(words)) => {
            let words: Option<Vec<String>> = words.iter().map(|word| word.as_str().map(str::to_owned)).collect();
            argv(&words.ok_or("a command's words are strings")?).map_err(|fault| fault.to_string())
        }
        _ => Err("the command line is missing".to_owned()),
    }
}

fn judge(policy: &Policy, tool: &Tool, script: &Script) -> Result<Seen, Reason> {
    let mut seen = Seen::plain(EffectClass::Read);
    for simple in &script.commands {
        let program = row(policy, tool, simple)?;
        seen.class = seen.class.stricter(program.effect).stricter(simple.least);
        seen.programs.insert(simple.program.clone());
    }
    if !script.writes.is_empty() {
        seen.class = seen.class.stricter(EffectClass::Write);
    }
    guarded(policy, script, seen.class)?;
    // What comes out at run time could be a protected path.
    let open = |words: &[Word]| words.iter().any(Word::is_open);
    let unknown =
        script.commands.iter().any(|simple| open(&simple.args)) || open(&script.writes) || open(&script.reads);
    if unknown && !policy.protected.is_empty() {
        seen.class = seen.class.stricter(EffectClass::Exec);
    }
    within(policy, tool, &seen)?;
    Ok(seen)
}

/// The row of a program whose arguments begin as one of the row's beginnings, word by word.
fn row<'p>(policy: &'p Policy, tool: &Tool, simple: &Simple) -> Result<&'p Program, Reason> {
    let name = &simple.program;
    let Some(program) = policy.programs.get(name) else {
        let detail = format!("the command line runs `{name}`, which the policy does not list");
        let reason = Reason::new(ReasonCode::BadArgument, detail).instead(listed(policy));
        return Err(reason.by(format!("tool {}", tool.name), &tool.answers));
    };
    let begins = |words: &Vec<String>| {
        let given = simple.args.get(..words.len()).unwrap_or_default();
        given.len() == words.len() && given.iter().zip(words).all(|(word, want)| word.literal() == Some(want))
    };
    if program.args.is_empty() || program.args.iter().any(begins) {
        return Ok(program);
    }
    let beginnings: Vec<String> =
        program.args.iter().take(12).map(|words| format!("`{name} {}`", words.join(" "))).collect();
    let detail = format!("`{name}` is not run with arguments that begin as the policy says");
    let reason = Reason::new(ReasonCode::BadArgument, detail).instead(beginnings.join(", "));
    Err(reason.by(format!("program {name}"), &program.answers))
}

/// Refuses words that may name a protected path, and folders from which one has another name.
fn guarded(policy: &Policy, script: &Script, class: EffectClass) -> Result<(), Reason> {
    if policy.protected.is_empty() {
        return Ok(());
    }
    let refused =
        |detail: String| Err(Reason::new(ReasonCode::ProtectedPath, detail).by("protected", &policy.protected_answers));
    for folder in &script.folders {
        if folder.is_open() {
            return refused(format!("`cd {}` goes to a folder that only the run shows", folder.shown()));
        }
        if reach::touches(policy, folder, &[]) || reach::is_above(policy, folder) {
            return refused(format!("`cd {}` goes to, or above, a protected path", folder.shown()));
        }
    }
    let files = || script.commands.iter().flat_map(|simple| &simple.args).chain(&script.writes);
    for word in files().chain(&script.reads).chain(&script.words) {
        if reach::touches(policy, word, &script.folders) {
            return refused(format!("`{}` is, or may be, a protected path", word.shown()));
        }
    }
    let changes = class.strictness() > EffectClass::Read.strictness();
    match files().find(|word| changes && reach::is_above(policy, word)) {
        Some(word) => {
            let held = "holds a protected path, and the command line changes things";
            refused(format!("`{}` {held}", word.shown()))
        }
        None => Ok(()),
    }
}

/// Refuses what is stricter than the tool may be, and classes whose amounts nobody states.
fn within(policy: &Policy, tool: &Tool, seen: &Seen) -> Result<(), Reason> {
    let by = |reason: Reason| Err(reason.by(format!("tool {}", tool.name), &tool.answers));
    let class = seen.class.word();
    if seen.class.strictness() > tool.effect.strictness() {
        let detail = format!("the command line is of class `{class}`, stricter than `{}` may be", tool.name);
        return by(
            Reason::new(ReasonCode::BadArgument, detail).instead(format!("classes up to `{}`", tool.effect.word()))
        );
    }
    if seen.class == EffectClass::Spend && !structure::priced(&tool.cost.0) {
        let detail = format!("the policy gives no price for command lines of `{}` that spend", tool.name);
        return by(Reason::new(ReasonCode::UnknownPrice, detail));
    }
    if seen.class == EffectClass::Network
        && structure::limits(policy, Kind::EgressBytes)
        && tool.cost.0.of(Kind::EgressBytes) == 0
    {
        let detail = format!(
            "a budget limits the bytes sent, and the policy does not say how many `{}` sends at most",
            tool.name
        );
        return by(Reason::new(ReasonCode::UnknownPrice, detail));
    }
    Ok(())
}

/// The programs of the policy, for a message.
fn listed(policy: &Policy) -> String {
    let names: Vec<&str> = policy.programs.keys().take(16).map(String::as_str).collect();
    match policy.programs.len() {
        0 => "no program".to_owned(),
        n if n > names.len() => format!("programs {}, … ({n} in all)", names.join(", ")),
        _ => format!("programs {}", names.join(", ")),
    }
}
