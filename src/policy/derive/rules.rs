//! The rules of a derived policy, each with examples that must hold at load.

use std::fmt::Write as _;

use super::super::answers::Control;
use super::super::write::{array, quoted};
use super::text::answer_lines;
use super::{FINAL_ANSWER, Plan, client};
use crate::model::EffectClass;

/// A tool that no policy declares.
const UNDECLARED: &str = "undeclared_tool";

/// Why code does not run, and what to do instead.
const RUNS_WALLED: &str =
    "code does not run here: ask the user for `weir exec -- COMMAND`; write out words that only the run shows";
/// The same, where the profile speaks of machines.
const RUNS_ELSEWHERE: &str = "code does not run here: launch a job (`hf jobs run`) or ask the user for `weir exec -- COMMAND`; write out words that only the run shows";

/// One rule before it is text.
struct Draft<'d> {
    comment: &'d str,
    id: &'d str,
    effect: &'d str,
    actions: &'d [&'d str],
    resources: Vec<&'d str>,
    effects: &'d [EffectClass],
    except: Vec<&'d str>,
    when: String,
    controls: &'d [Control],
    reason: &'d str,
    examples: Vec<String>,
}

impl Default for Draft<'_> {
    fn default() -> Self {
        Self {
            comment: "",
            id: "",
            effect: "allow",
            actions: &[],
            resources: Vec::new(),
            effects: &[],
            except: Vec::new(),
            when: String::new(),
            controls: &[],
            reason: "",
            examples: Vec::new(),
        }
    }
}

pub(super) fn write(plan: &Plan<'_>, out: &mut String) {
    out.push_str("\n# Rules. Their order does not matter: deny beats ask, ask beats allow, nothing means deny.\n");
    let mut drafts = tool_rules(plan);
    drafts.extend(grants(plan));
    drafts.extend(code_rules());
    drafts.extend(party_rules(plan));
    drafts.extend(machine_rules(plan));
    drafts.extend(watch_rules(plan));
    for (at, draft) in drafts.iter().enumerate() {
        if at > 0 {
            out.push('\n');
        }
        write_rule(plan, draft, out);
    }
}

fn write_rule(plan: &Plan<'_>, draft: &Draft<'_>, out: &mut String) {
    if !draft.comment.is_empty() {
        let _ = writeln!(out, "# {}", draft.comment);
    }
    let actions = array(draft.actions.iter().copied());
    let _ = write!(out, "[[rule]]\nid = {}\neffect = \"{}\"\nactions = {actions}\n", quoted(draft.id), draft.effect);
    let effects: Vec<_> = draft.effects.iter().map(|class| class.word()).collect();
    for (key, words) in [("resources", &draft.resources), ("effects", &effects), ("except", &draft.except)] {
        if !words.is_empty() {
            let _ = writeln!(out, "{key} = {}", array(words.iter().copied()));
        }
    }
    if !draft.when.is_empty() {
        let _ = writeln!(out, "when = {}", quoted(&draft.when));
    }
    out.push_str(&answer_lines(&plan.answers(draft.controls), true));
    let _ = writeln!(out, "reason = {}", quoted(draft.reason));
    for example in &draft.examples {
        let _ = write!(out, "\n[[rule.expect]]\n{example}");
    }
}

/// An example as the lines of its table.
fn example(action: &str, resource: &str, args: &str, labels: &str, decision: &str) -> String {
    let mut lines = format!("action = \"{action}\"\nresource = {}\n", quoted(resource));
    for (key, value) in [("args", args), ("labels", labels)] {
        if !value.is_empty() {
            let _ = writeln!(lines, "{key} = {value}");
        }
    }
    let _ = writeln!(lines, "decision = \"{decision}\"");
    lines
}

fn tool_rules<'p>(plan: &'p Plan<'_>) -> Vec<Draft<'p>> {
    let granted: Vec<&str> = plan.options.allowed.iter().map(String::as_str).collect();
    let bounds = &plan.bounds;
    let answer = example("tool.call", FINAL_ANSWER, "{ answer = \"done\" }", "", "allow");
    let unknown = example("tool.call", UNDECLARED, "", "", "deny");
    let looks = line_example(plan, "git status", "allow");
    let asked = match plan.options.example(&bounds.asked) {
        Some(tool) => example("tool.call", tool, "", "", "ask"),
        None => asked_line(plan).unwrap_or_else(|| unknown.clone()),
    };
    let executes = match plan.options.example(&[EffectClass::Exec]) {
        Some(tool) => example("tool.call", tool, "", "", "deny"),
        // A word that only the run shows counts as running something, whatever was granted.
        None => line_example(plan, "cat $notes", "deny").unwrap_or_else(|| unknown.clone()),
    };
    let reason = match plan.options.client {
        None => "nothing is executed outside the sandbox; run it as generated code instead",
        Some(_) if bounds.gpu_ms.is_some() => RUNS_ELSEWHERE,
        Some(_) => RUNS_WALLED,
    };
    vec![
        Draft {
            comment: "Dynamic tool use decides which classes need no person.",
            id: "tools-allowed",
            actions: &["tool.call"],
            effects: &bounds.mild,
            controls: &[Control::Tools],
            reason: "tools of these classes may be called without a person",
            examples: [answer, unknown].into_iter().chain(looks).collect(),
            ..Draft::default()
        },
        Draft {
            id: "tools-asked",
            effect: "ask",
            actions: &["tool.call"],
            effects: &bounds.asked,
            except: granted.clone(),
            when: not_granted(plan, ""),
            controls: &[Control::Outward],
            reason: "a person decides about tools that change, send or spend",
            examples: vec![asked],
            ..Draft::default()
        },
        Draft {
            comment: "Code and commands run in the sandbox or not at all.",
            id: "exec-denied",
            effect: "deny",
            actions: &["tool.call"],
            effects: &[EffectClass::Exec],
            except: granted,
            when: not_granted(plan, ""),
            controls: &[Control::Exec],
            reason,
            examples: vec![executes],
            ..Draft::default()
        },
    ]
}

/// A line of the client's shell as an example; `None` without a client.
fn line_example(plan: &Plan<'_>, line: &str, decision: &str) -> Option<String> {
    let client = plan.options.client?;
    Some(example("tool.call", client.shell, &format!("{{ command = {} }}", quoted(line)), "", decision))
}

/// A line about which a person is asked, where the classes and the grants leave one.
fn asked_line(plan: &Plan<'_>) -> Option<String> {
    let lines = [(EffectClass::Write, "mkdir", "mkdir runs"), (EffectClass::Network, "hf", "hf jobs ps")];
    let asked = |class: &EffectClass, name: &str| {
        plan.bounds.asked.contains(class) && !plan.options.free_programs.contains(name)
    };
    let (.., line) = lines.iter().find(|(class, name, _)| asked(class, name))?;
    line_example(plan, line, "ask")
}

/// The condition `when`, narrowed to what no grant of programs covers.
fn not_granted(plan: &Plan<'_>, when: &str) -> String {
    match client::granted(plan) {
        None => when.to_owned(),
        Some(granted) if when.is_empty() => format!("!({granted})"),
        Some(granted) => format!("{when} && !({granted})"),
    }
}

/// Allow rules for the tools and the programs that the operator granted; mild ones are allowed already.
fn grants<'p>(plan: &'p Plan<'_>) -> Vec<Draft<'p>> {
    tools_granted(plan).into_iter().chain(programs_granted(plan)).collect()
}

fn programs_granted<'p>(plan: &'p Plan<'_>) -> Option<Draft<'p>> {
    let (granted, client) = (client::granted(plan)?, plan.options.client?);
    Some(Draft {
        comment: "Lines of these programs and of those that look, also in an untrusted session.",
        id: "programs-granted",
        actions: &["tool.call"],
        resources: vec![client.shell],
        when: granted,
        controls: &[Control::Tools],
        reason: "the operator granted these programs",
        examples: line_example(plan, "cat $notes", "deny").into_iter().collect(),
        ..Draft::default()
    })
}

fn tools_granted<'p>(plan: &'p Plan<'_>) -> Option<Draft<'p>> {
    if plan.options.allowed.is_empty() {
        return None;
    }
    let tools: Vec<&str> = plan.options.allowed.iter().map(String::as_str).collect();
    // Tools of a client have arguments that must be there, so that they have no example.
    let free = tools.iter().filter(|tool| plan.options.tools.contains_key(**tool));
    let mut examples: Vec<String> =
        free.map(|tool| example("tool.call", tool, "", "[\"untrusted\"]", "allow")).collect();
    if examples.is_empty() {
        examples.push(example("tool.call", UNDECLARED, "", "", "deny"));
    }
    Some(Draft {
        comment: "Granted by the operator, also in an untrusted session; take a tool out here and off `except` to be asked.",
        id: "tools-granted",
        actions: &["tool.call"],
        resources: tools,
        controls: &[Control::Tools],
        reason: "the operator granted these tools",
        examples,
        ..Draft::default()
    })
}

fn code_rules<'p>() -> Vec<Draft<'p>> {
    let import = |module, decision| example("code.import", module, "", "", decision);
    vec![
        Draft {
            comment: "Generated code, within [code].",
            id: "code-in-sandbox",
            actions: &["code.run"],
            resources: vec!["python"],
            controls: &[Control::Code],
            reason: "generated code runs in the sandbox, within its limits",
            examples: vec![
                example("code.run", "python", "{ code = \"print(1)\" }", "", "allow"),
                example("code.run", "shell", "{ code = \"ls\" }", "", "deny"),
            ],
            ..Draft::default()
        },
        Draft {
            comment: "Modules are those of [code] imports; any other is denied.",
            id: "imports-listed",
            actions: &["code.import"],
            controls: &[Control::Code],
            reason: "generated code may import the modules listed in [code]",
            examples: vec![import("math", "allow"), import("socket", "deny"), import("subprocess", "deny")],
            ..Draft::default()
        },
    ]
}

fn party_rules<'p>(plan: &'p Plan<'_>) -> Vec<Draft<'p>> {
    let stranger = example("agent.invoke", "undeclared_agent", "", "", "deny");
    let mut peers: Vec<_> =
        plan.options.peers.iter().map(|peer| example("agent.invoke", peer, "", "", "allow")).collect();
    peers.push(stranger);
    vec![
        Draft {
            comment: "Models answer within the budget of tokens.",
            id: "model-generates",
            actions: &["model.generate"],
            controls: &[Control::Tokens],
            reason: "the agent may ask its model, within the budget of tokens",
            // One that holds with and without prices of models, which the operator adds later.
            examples: vec![example("model.generate", "any-model", "", "", "deny")],
            ..Draft::default()
        },
        Draft {
            comment: "Peers are those of [peers]; any other is denied.",
            id: "peers-listed",
            actions: &["agent.invoke"],
            controls: &[Control::Peers],
            reason: "tasks may be handed to the agents listed in [peers]",
            examples: peers,
            ..Draft::default()
        },
        Draft {
            comment: "Packages are those pinned in [[registry]]; any other is denied.",
            id: "packages-pinned",
            actions: &["package.fetch"],
            controls: &[Control::Registry],
            reason: "packages may be fetched at the revisions pinned in [[registry]]",
            examples: vec![example("package.fetch", "undeclared-package", "", "", "deny")],
            ..Draft::default()
        },
    ]
}

/// Rules on rented machines, on what leaves for a registry and on programs of this machine, where the profile speaks of
/// compute. What they open is what [jobs], [[registry]] and [exec] list: nothing, until the operator adds it.
fn machine_rules<'p>(plan: &'p Plan<'_>) -> Vec<Draft<'p>> {
    if plan.bounds.gpu_ms.is_none() {
        return Vec::new();
    }
    let effect = |action: &str| if plan.options.free.contains(action) { "allow" } else { "ask" };
    vec![
        Draft {
            comment: "Jobs on rented machines are those of [jobs], within the budgets of money and GPU time.",
            id: "jobs-listed",
            effect: effect("job.launch"),
            actions: &["job.launch"],
            controls: &[Control::Compute, Control::Money],
            reason: "jobs run on the machines listed in [jobs], within the budgets",
            examples: vec![example("job.launch", "undeclared-flavor", "", "", "deny")],
            ..Draft::default()
        },
        Draft {
            comment: "What may be changed in a registry is what [[registry]] names as writable.",
            id: "publications-listed",
            effect: effect("package.publish"),
            actions: &["package.publish"],
            controls: &[Control::Outward],
            reason: "only what a registry section names as writable may be changed",
            examples: vec![example("package.publish", "undeclared-package", "", "", "deny")],
            ..Draft::default()
        },
        Draft {
            comment: "Programs of this machine run under `weir exec`, with what [exec] grants.",
            id: "programs-listed",
            effect: effect("process.run"),
            actions: &["process.run"],
            controls: &[Control::Compute, Control::Code],
            reason: "programs run behind walls of their own, with what [exec] grants",
            examples: vec![example("process.run", "undeclared-program", "", "", "deny")],
            ..Draft::default()
        },
    ]
}

/// Rules that watch what has happened in the session.
fn watch_rules<'p>(plan: &'p Plan<'_>) -> Vec<Draft<'p>> {
    const OUTWARD: [EffectClass; 3] = [EffectClass::Write, EffectClass::Network, EffectClass::Spend];
    const TAINTED: &str = "context.labels.contains(\"untrusted\")";
    let granted: Vec<&str> = plan.options.allowed.iter().map(String::as_str).collect();
    let tainted = match plan.options.example(&OUTWARD) {
        Some(tool) => example("tool.call", tool, "", "[\"untrusted\"]", "ask"),
        None => example("tool.call", FINAL_ANSWER, "{ answer = \"done\" }", "[\"untrusted\"]", "allow"),
    };
    let steps = format!("context.since_person >= {}", plan.bounds.steps);
    vec![
        Draft {
            comment: "What came from outside may carry instructions; a person looks before they can act.",
            id: "untrusted-asks",
            effect: "ask",
            actions: &["tool.call"],
            effects: &OUTWARD,
            except: granted,
            when: not_granted(plan, TAINTED),
            controls: &[Control::Untrusted],
            reason: "the session has read untrusted data; a person decides before it changes, sends or spends",
            examples: vec![tainted],
            ..Draft::default()
        },
        Draft {
            id: "untrusted-asks-handing-on",
            effect: "ask",
            actions: &["agent.invoke", "package.fetch"],
            when: TAINTED.to_owned(),
            controls: &[Control::Untrusted],
            reason: "the session has read untrusted data; a person decides before it is handed on",
            examples: vec![example("agent.invoke", "undeclared_agent", "", "[\"untrusted\"]", "deny")],
            ..Draft::default()
        },
        Draft {
            comment: "Autonomy decides how many calls run before a person is asked again.",
            id: "person-after-steps",
            effect: "ask",
            actions: &["tool.call", "code.run", "agent.invoke"],
            except: vec![FINAL_ANSWER],
            when: steps,
            controls: &[Control::Person],
            reason: "many calls have run since a person last looked",
            examples: vec![example("code.run", "python", "{ code = \"print(1)\" }", "", "allow")],
            ..Draft::default()
        },
    ]
}
