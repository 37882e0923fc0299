//! Coding agents whose tools are known: what a derivation states for one, so that nobody has to write it by hand.
//!
//! A row says what a tool or a program does: its class, its arguments, which of them is a command line. Whether that may
//! happen is for the rules, which follow from the profile, and for the operator. What has no row here is denied.

use std::fmt::Write as _;

use super::super::answers::Control;
use super::super::write::{array, quoted};
use super::text::answer_lines;
use super::{Plan, ProgramRow, UNTRUSTED};
use crate::model::EffectClass::{self, Exec, Network, Read, Write};

/// A coding agent.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Client {
    /// The word on the command line.
    pub word: &'static str,
    /// The agent and the version whose tools these are.
    pub title: &'static str,
    /// Its tools.
    pub tools: &'static [Row],
    /// The tool of them that takes command lines.
    pub shell: &'static str,
    /// What command lines may run, as far as its class is known.
    pub programs: &'static [Known],
}

/// A tool of a client.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Row {
    /// As the client's hooks name it.
    pub name: &'static str,
    /// What it does; with `shell`, the most that a command line may do.
    pub effect: EffectClass,
    /// The argument that is a command line.
    shell: Option<&'static str>,
    /// Its arguments; `None` where the client was not seen to state them.
    args: Option<&'static [Arg]>,
    /// Why it has this class or these bounds, for the reader of the policy; may be empty.
    about: &'static str,
}

/// An argument of a tool.
#[derive(Debug, PartialEq, Eq)]
struct Arg {
    name: &'static str,
    kind: &'static str,
    /// More lines of its table.
    more: &'static str,
}

/// A program that command lines may run.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Known {
    /// Its name.
    pub name: &'static str,
    /// Its class with these arguments.
    pub effect: EffectClass,
    /// Beginnings of its arguments; any when empty.
    pub args: &'static [&'static [&'static str]],
}

const fn tool(name: &'static str, effect: EffectClass, args: &'static [Arg], about: &'static str) -> Row {
    Row { name, effect, shell: None, args: Some(args), about }
}

const fn free(name: &'static str, effect: EffectClass, about: &'static str) -> Row {
    Row { name, effect, shell: None, args: None, about }
}

const fn needed(name: &'static str, kind: &'static str) -> Arg {
    Arg { name, kind, more: "required = true\n" }
}

const fn may(name: &'static str, kind: &'static str) -> Arg {
    Arg { name, kind, more: "" }
}

const fn never(name: &'static str) -> Arg {
    Arg { name, kind: "boolean", more: "one_of = [false]\n" }
}

const fn any(name: &'static str, effect: EffectClass) -> Known {
    Known { name, effect, args: &[] }
}

/// Every client.
pub(super) const CLIENTS: &[Client] = &[CLAUDE_CODE];

/// The tools that Claude Code 2.1.329 offers its model, with the arguments of their schemas as they go over the wire.
///
/// Without a row, and so denied: `Monitor` and `Workflow`, which run commands and scripts by themselves; `CronCreate`,
/// `CronDelete` and `CronList`, which outlive the session; `EnterWorktree` and `ExitWorktree`, which run git; `SendMessage`,
/// which speaks to sessions elsewhere; the tools of MCP servers, which the operator declares by name.
const CLAUDE_CODE: Client = Client {
    word: "claude-code",
    title: "Claude Code 2.1.329",
    shell: "Bash",
    tools: &[
        tool(
            "Agent",
            Write,
            &[
                needed("description", "string"),
                needed("prompt", "string"),
                may("subagent_type", "string"),
                may("model", "string"),
                may("effort", "string"),
                may("run_in_background", "boolean"),
            ],
            "begins the work of a subagent, whose own calls are judged one by one, to the depth of [peers]; not one that runs elsewhere",
        ),
        Row {
            name: "Bash",
            effect: Exec,
            shell: Some("command"),
            args: Some(&[
                needed("command", "string"),
                may("description", "string"),
                may("timeout", "number"),
                never("run_in_background"),
                never("dangerouslyDisableSandbox"),
            ]),
            about: "judged by what each line runs, see [[program]]; nothing goes on after its answer",
        },
        tool(
            "Edit",
            Write,
            &[
                needed("file_path", "string"),
                needed("old_string", "string"),
                needed("new_string", "string"),
                may("replace_all", "boolean"),
            ],
            "",
        ),
        free("Glob", Read, ""),
        free("Grep", Read, ""),
        tool("ListAgents", Read, &[may("channel", "string"), may("q", "string"), may("cursor", "string")], ""),
        tool(
            "NotebookEdit",
            Write,
            &[
                needed("notebook_path", "string"),
                needed("new_source", "string"),
                may("cell_id", "string"),
                may("cell_type", "string"),
                may("edit_mode", "string"),
            ],
            "",
        ),
        tool(
            "Read",
            Read,
            &[
                needed("file_path", "string"),
                may("offset", "integer"),
                may("limit", "integer"),
                may("pages", "string"),
                may("allow_large", "boolean"),
            ],
            "",
        ),
        tool("ReportFindings", Read, &[needed("findings", "array"), may("level", "string")], ""),
        tool(
            "ScheduleWakeup",
            Write,
            &[
                may("delaySeconds", "number"),
                may("reason", "string"),
                may("prompt", "string"),
                may("stop", "boolean"),
                may("noop", "boolean"),
            ],
            "lets the session go on by itself, under the same budgets",
        ),
        tool(
            "Skill",
            Exec,
            &[needed("skill", "string"), may("args", "string")],
            "a skill's text can hold commands that run when it is read",
        ),
        free("TaskCreate", Read, "keeps the conversation's own list, as do the next four"),
        free("TaskGet", Read, ""),
        free("TaskList", Read, ""),
        free("TaskOutput", Read, ""),
        free("TaskUpdate", Read, ""),
        tool("TaskStop", Write, &[may("task_id", "string"), may("shell_id", "string")], ""),
        tool("ToolSearch", Read, &[needed("query", "string"), may("max_results", "number")], ""),
        tool("WebFetch", Network, &[needed("url", "string"), needed("prompt", "string"), may("offset", "integer")], ""),
        tool(
            "WebSearch",
            Network,
            &[needed("query", "string"), may("allowed_domains", "array"), may("blocked_domains", "array")],
            "",
        ),
        tool("Write", Write, &[needed("file_path", "string"), needed("content", "string")], ""),
    ],
    programs: PROGRAMS,
};

/// Programs of a usual machine, by what their manuals say: those that look, those that change files where they are told
/// to, the client of the Hub, and what runs code. Options that do more than a row says are in the shell's own table.
const PROGRAMS: &[Known] = &[
    any("accelerate", Exec),
    any("basename", Read),
    any("bash", Exec),
    any("cat", Read),
    any("cp", Write),
    any("cut", Read),
    any("date", Read),
    any("df", Read),
    any("diff", Read),
    any("dirname", Read),
    any("du", Read),
    any("find", Read),
    Known {
        name: "git",
        effect: Read,
        args: &[&["blame"], &["diff"], &["log"], &["ls-files"], &["rev-parse"], &["show"], &["status"]],
    },
    any("grep", Read),
    any("head", Read),
    // What it starts, fetches and sends is judged again at the gate's proxy of the Hub, on the request itself.
    Known {
        name: "hf",
        effect: Network,
        args: &[
            &["auth", "whoami"],
            &["download"],
            &["jobs", "cancel"],
            &["jobs", "hardware"],
            &["jobs", "inspect"],
            &["jobs", "list"],
            &["jobs", "logs"],
            &["jobs", "ls"],
            &["jobs", "ps"],
            &["jobs", "run"],
            &["jobs", "stats"],
            &["jobs", "uv", "run"],
            &["jobs", "wait"],
            &["upload"],
        ],
    },
    any("ls", Read),
    any("mkdir", Write),
    any("mv", Write),
    any("pip", Exec),
    any("pytest", Exec),
    any("python", Exec),
    any("python3", Exec),
    any("realpath", Read),
    any("rg", Read),
    any("sh", Exec),
    any("sort", Read),
    any("stat", Read),
    any("tail", Read),
    any("tee", Write),
    any("torchrun", Exec),
    any("touch", Write),
    any("tr", Read),
    any("uv", Exec),
    any("wc", Read),
];

impl Known {
    /// As the operator could have declared it.
    pub(super) fn row(&self) -> ProgramRow {
        let words = |words: &&[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        ProgramRow { effect: self.effect, args: self.args.iter().map(words).collect() }
    }
}

/// Writes the rows of the client's tools and of all programs.
pub(super) fn write(plan: &Plan<'_>, client: &Client, out: &mut String) {
    let answers = answer_lines(&plan.answers(&[Control::Tools]), false);
    let _ = writeln!(
        out,
        "\n# The tools of {}. A row says what a tool does; whether it may is for the rules.",
        client.title
    );
    for (at, row) in client.tools.iter().enumerate() {
        if at > 0 {
            out.push('\n');
        }
        write_tool(row, &answers, out);
    }
    let _ = write!(
        out,
        "\n# What command lines run, and of which class that is. One without a row is denied, and `weir policy derive --program`\n\
         # adds some. What comes after a beginning in `args` is free.\n"
    );
    for (at, (name, row)) in plan.options.programs.iter().enumerate() {
        if at > 0 {
            out.push('\n');
        }
        write_program(name, row, &answers, out);
    }
}

fn write_tool(row: &Row, answers: &str, out: &mut String) {
    if !row.about.is_empty() {
        let _ = writeln!(out, "# {}: {}.", row.name, row.about);
    }
    let _ = write!(out, "[[tool]]\nname = {}\neffect = \"{}\"\n", quoted(row.name), row.effect.word());
    if let Some(argument) = row.shell {
        let _ = writeln!(out, "shell = {}", quoted(argument));
    }
    if row.args.is_none() {
        out.push_str("extra_args = true\n");
    }
    if row.effect == Network {
        let _ = writeln!(out, "labels = [\"{UNTRUSTED}\"]");
    }
    out.push_str(answers);
    for arg in row.args.unwrap_or_default() {
        let _ = write!(out, "\n[tool.args.{}]\ntype = \"{}\"\n{}", arg.name, arg.kind, arg.more);
    }
}

fn write_program(name: &str, row: &ProgramRow, answers: &str, out: &mut String) {
    let _ = write!(out, "[[program]]\nname = {}\neffect = \"{}\"\n", quoted(name), row.effect.word());
    if !row.args.is_empty() {
        let beginnings: Vec<String> = row.args.iter().map(|words| array(words.iter().map(String::as_str))).collect();
        let _ = writeln!(out, "args = [\n    {},\n]", beginnings.join(",\n    "));
    }
    // What code brings from outside nobody has seen.
    if matches!(row.effect, Network | Exec) {
        let _ = writeln!(out, "labels = [\"{UNTRUSTED}\"]");
    }
    out.push_str(answers);
}

/// The condition that a command line runs programs that the operator granted, and besides them only what looks; `None`
/// where none is granted. A line that is stricter than the programs in it, as one with unknown words, does not hold it.
pub(super) fn granted(plan: &Plan<'_>) -> Option<String> {
    let rows = &plan.options.programs;
    let is_free = |name: &str| plan.options.free_programs.contains(name);
    let of = |wanted: &dyn Fn(&str, EffectClass) -> bool| {
        let names = rows.iter().filter(|(name, row)| wanted(name, row.effect)).map(|(name, _)| quoted_cedar(name));
        format!("[{}]", names.collect::<Vec<_>>().join(", "))
    };
    let clauses = EffectClass::ALL
        .into_iter()
        .filter(|class| rows.iter().any(|(name, row)| is_free(name) && row.effect == *class));
    let clause = |class: EffectClass| {
        let own = of(&|name, effect| is_free(name) && effect == class);
        let beside = of(&|name, effect| effect == Read || (is_free(name) && effect.strictness() <= class.strictness()));
        let word = class.word();
        format!(
            "(context.effect == \"{word}\" && {own}.containsAny(context.programs) && {beside}.containsAll(context.programs))"
        )
    };
    let clauses: Vec<String> = clauses.map(clause).collect();
    (!clauses.is_empty()).then(|| clauses.join(" || "))
}

/// A program's name in a condition. Names are of a closed set of characters, none of which a condition reads otherwise.
fn quoted_cedar(name: &str) -> String {
    format!("\"{name}\"")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::program::{hides, name_fault};

    #[test]
    fn every_row_could_stand_in_a_policy_and_stands_once() {
        for client in CLIENTS {
            let tools: Vec<&str> = client.tools.iter().map(|row| row.name).collect();
            let mut sorted = tools.clone();
            sorted.sort_unstable();
            sorted.dedup();
            assert_eq!(sorted.len(), tools.len(), "{}", client.word);
            assert!(client.tools.iter().any(|row| row.name == client.shell && row.shell.is_some()), "{}", client.word);
            assert!(client.programs.is_sorted_by(|a, b| a.name < b.name), "{}", client.word);
            for known in client.programs {
                assert_eq!(name_fault(known.name), None, "{}", known.name);
                assert!(!hides(known.name, known.effect, !known.args.is_empty()), "{}", known.name);
            }
        }
    }
}
