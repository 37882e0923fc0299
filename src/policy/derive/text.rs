//! Writes a derived policy: tables first, rules last, a comment before each that says why.

use std::fmt::Write as _;

use super::super::answers::{Control, answered_by_gate};
use super::super::profile::places;
use super::super::write::{array, quoted, threat_list};
use super::{Answers, FINAL_ANSWER, Plan, UNTRUSTED, client, rules};
use crate::model::{Clock, EffectClass, FACTORS, Keep, Randomness};

/// The modules that derived policies grant: computing and text, nothing that reaches outside.
const IMPORTS: [&str; 45] = [
    "abc",
    "array",
    "base64",
    "binascii",
    "bisect",
    "calendar",
    "cmath",
    "collections",
    "contextlib",
    "copy",
    "csv",
    "dataclasses",
    "datetime",
    "decimal",
    "difflib",
    "enum",
    "fractions",
    "functools",
    "graphlib",
    "hashlib",
    "heapq",
    "html",
    "io",
    "itertools",
    "json",
    "keyword",
    "math",
    "numbers",
    "operator",
    "pprint",
    "queue",
    "random",
    "re",
    "stat",
    "statistics",
    "string",
    "struct",
    "textwrap",
    "time",
    "types",
    "typing",
    "unicodedata",
    "urllib.parse",
    "uuid",
    "zlib",
];

/// Programs and jobs of an agent that run at the same time.
const JOBS: u64 = 4;

pub(super) fn write(plan: &Plan<'_>) -> String {
    let mut out = String::new();
    head(plan, &mut out);
    provenance(plan, &mut out);
    tools(plan, &mut out);
    code(plan, &mut out);
    parties(plan, &mut out);
    budgets(plan, &mut out);
    people_and_paths(plan, &mut out);
    rules::write(plan, &mut out);
    accepted(plan, &mut out);
    out
}

/// `answers = …` and, where the profile is not sure, `assumed = true`.
pub(super) fn answer_lines(answers: &Answers, marked: bool) -> String {
    let assumed = if answers.assumed && marked { "assumed = true\n" } else { "" };
    format!("answers = {}\n{assumed}", threat_list(&answers.threats))
}

fn head(plan: &Plan<'_>, out: &mut String) {
    let title = plan.profile.title.replace(|c: char| c.is_control(), " ");
    let running = plan.options.client.map(|client| format!(" running as {}", client.title)).unwrap_or_default();
    let _ = writeln!(
        out,
        "# Policy for {title}{running}, derived from its threat profile. Default deny: what nothing here allows is denied."
    );
    out.push_str("# docs/policy.md explains every table and how factors and threats become limits.\n");
    let gate: Vec<_> = plan.threats.iter().copied().filter(|threat| answered_by_gate(*threat)).collect();
    let _ = write!(out, "\n[policy]\nid = {}\n", quoted(plan.profile.id.as_str()));
    if !gate.is_empty() {
        out.push_str("# Answered by the gate under any policy: default deny, identity from the connection,\n");
        out.push_str("# and a durable, chained record before anything runs.\n");
        let _ = writeln!(out, "answers = {}", threat_list(&gate));
    }
}

fn provenance(plan: &Plan<'_>, out: &mut String) {
    let profile = plan.profile;
    let _ = write!(
        out,
        "\n# The profile behind this policy: threats to answer, factors to compare with what is observed.\n[profile]\nid = {}\ndigest = \"{}\"\nthreats = {}\n",
        quoted(profile.id.as_str()),
        profile.digest(),
        threat_list(&plan.threats),
    );
    let _ = writeln!(out, "assumed = {}", threat_list(&profile.assumed()));
    if let Some(vector) = &profile.cvss {
        let _ = writeln!(out, "cvss = {}", quoted(vector));
    }
    if let Some(base) = profile.cvss_base {
        let _ = writeln!(out, "cvss_base = {}.{}", base / 10, base % 10);
    }
    for (key, value) in [("threat_multiplier", profile.threat_multiplier), ("mitigation", profile.mitigation)] {
        if let Some(value) = value {
            let _ = writeln!(out, "{key} = {}", places(value));
        }
    }
    out.push_str("\n[profile.factors]\n");
    for row in &FACTORS {
        let _ = writeln!(out, "{} = {}", row.key, places(profile.factors.of(row.factor).hundredths().into()));
    }
}

fn tools(plan: &Plan<'_>, out: &mut String) {
    let answers = answer_lines(&plan.answers(&[Control::Tools]), false);
    out.push_str(&format!(
        "\n# Results of network tools make a session untrusted until it ends.\n[labels]\nnames = [\"{UNTRUSTED}\"]\n"
    ));
    let _ = write!(
        out,
        "\n# Tools by exact name; any other is denied.\n[[tool]]\nname = \"{FINAL_ANSWER}\"\neffect = \"read\"\n{answers}\n[tool.args.answer]\ntype = \"any\"\nrequired = true\n"
    );
    for (name, class) in &plan.options.tools {
        let _ = write!(out, "\n[[tool]]\nname = {}\neffect = \"{}\"\n", quoted(name), class.word());
        out.push_str("extra_args = true # name its arguments under [tool.args.…] and remove this to check them\n");
        if *class == EffectClass::Network {
            let _ = writeln!(out, "labels = [\"{UNTRUSTED}\"]");
        }
        out.push_str(&answers);
    }
    if let Some(client) = plan.options.client {
        client::write(plan, client, out);
    }
}

fn code(plan: &Plan<'_>, out: &mut String) {
    let bounds = &plan.bounds;
    let clock = match bounds.clock {
        Clock::Frozen => "frozen",
        Clock::Real => "real",
    };
    let randomness = match bounds.randomness {
        Randomness::Seeded => "seeded",
        Randomness::Real => "real",
    };
    let _ = write!(
        out,
        "\n# Generated code runs in the sandbox only: no files, no network, no processes, these modules.\n[code]\nimports = {}\nclock = \"{clock}\"\nrandomness = \"{randomness}\"\n{}",
        array(IMPORTS.into_iter()),
        answer_lines(&plan.answers(&[Control::Code]), false),
    );
    let limits = &bounds.code;
    let rows = [
        ("memory_bytes", limits.memory_bytes, "256 MiB"),
        ("wall_ms", limits.wall_ms.0, "10 s, host tools excluded"),
        ("fuel", limits.fuel, ""),
        ("stack_bytes", limits.stack_bytes, "8 MiB"),
        ("output_bytes", limits.output_bytes, "256 KiB"),
        ("result_bytes", limits.result_bytes, "1 MiB"),
        ("callbacks", limits.callbacks, "calls of host tools"),
        ("tool_ms", limits.tool_ms.0, "60 s for one host tool"),
    ];
    out.push_str("\n# Bounds of one execution.\n[code.limits]\n");
    for (key, value, about) in rows {
        let about = if about.is_empty() { String::new() } else { format!(" # {about}") };
        let _ = writeln!(out, "{key} = {}{about}", grouped(value));
    }
}

fn parties(plan: &Plan<'_>, out: &mut String) {
    let registry = answer_lines(&plan.answers(&[Control::Registry]), false);
    out.push_str("\n# Nothing may be fetched until it is pinned here: add [[registry.pin]] with name and revision.\n");
    for name in ["hub", "python"] {
        let _ = write!(out, "[[registry]]\nname = \"{name}\"\n{registry}\n");
    }
    if plan.bounds.gpu_ms.is_some() {
        out.push_str("# Nothing may be changed there either, no job started on rented machines and no program run on this one:\n");
        out.push_str("# add `writable` to a registry, [jobs] with [[jobs.flavor]], and [exec]. docs/policy.md has their fields.\n\n");
    }
    let _ = write!(
        out,
        "# Other agents by exact name, and how deep a task may be handed on.\n[peers]\nnames = {}\nmax_depth = {}\n{}",
        array(plan.options.peers.iter().map(String::as_str)),
        plan.bounds.depth,
        answer_lines(&plan.answers(&[Control::Peers]), false),
    );
}

fn budgets(plan: &Plan<'_>, out: &mut String) {
    let bounds = &plan.bounds;
    let mut rows = vec![
        ("calls-per-session", "session", "calls", bounds.calls, "ask", Control::Calls),
        ("tool-calls-per-session", "session", "tool_calls", bounds.tool_calls, "ask", Control::Calls),
        ("wall-time-per-session", "session", "wall_ms", bounds.wall_ms, "deny", Control::Compute),
        ("fuel-per-session", "session", "fuel", bounds.fuel, "deny", Control::Compute),
        ("memory-per-session", "session", "memory_bytes", bounds.code.memory_bytes, "deny", Control::Compute),
        ("output-per-session", "session", "output_bytes", bounds.output_bytes, "deny", Control::Compute),
        ("tokens-per-session", "session", "tokens", bounds.tokens, "deny", Control::Tokens),
        ("money-per-session", "session", "micro_usd", bounds.micro_usd, "ask", Control::Money),
        ("money-of-agent", "agent", "micro_usd", bounds.agent_micro_usd, "deny", Control::Money),
    ];
    if let Some(gpu_ms) = bounds.gpu_ms {
        rows.push(("gpu-time-per-session", "session", "gpu_ms", gpu_ms, "ask", Control::Compute));
        rows.push(("jobs-at-once", "agent", "jobs", JOBS, "deny", Control::Compute));
    }
    out.push_str(
        "\n# Budgets: reserved before a call, settled after it; at the cap the call is denied or a person is asked.\n",
    );
    for (at, (id, scope, kind, limit, at_cap, control)) in rows.into_iter().enumerate() {
        let gap = if at == 0 { "" } else { "\n" };
        let _ = write!(
            out,
            "{gap}[[budget]]\nid = \"{id}\"\nscope = \"{scope}\"\nkind = \"{kind}\"\nlimit = {}\nat_cap = \"{at_cap}\"\n{}",
            grouped(limit),
            answer_lines(&plan.answers(&[control]), true),
        );
    }
}

fn people_and_paths(plan: &Plan<'_>, out: &mut String) {
    let survive = match plan.bounds.keep {
        Keep::Nothing => "nothing",
        Keep::Run => "run",
        Keep::Session => "session",
    };
    out.push_str(
        "\n# How long a person's answer is awaited; no answer means deny.\n[approvals]\ntimeout_ms = 120_000\n",
    );
    let _ = write!(
        out,
        "\n# Variables of generated code live this long; nothing lives longer than a session.\n[memory]\nsurvive = \"{survive}\"\n{}",
        answer_lines(&plan.answers(&[Control::Memory]), false),
    );
    let _ = write!(
        out,
        "\n# No argument of a call may point into these: credentials, the gate's files, the agent's own set-up.\n[protected]\npaths = {}\n{}",
        array(plan.bounds.protected.iter().copied()),
        answer_lines(&plan.answers(&[Control::Protected]), false),
    );
}

fn accepted(plan: &Plan<'_>, out: &mut String) {
    let accepted = plan.accepted();
    if accepted.is_empty() {
        return;
    }
    out.push_str("\n# Threats that no gate answers. Listed by `weir policy check`, never dropped.\n[accepted]\n");
    for (threat, reason) in accepted {
        let _ = writeln!(out, "\"{threat}\" = {}", quoted(reason));
    }
}

/// `10_000`
pub(super) fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push('_');
        }
        out.push(digit);
    }
    out
}
