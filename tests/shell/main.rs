//! Command lines as data: what a policy says of each, and that no line makes the judge panic or say less than it must.

use std::process::{Command, Stdio};
use std::sync::{Arc, LazyLock};

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use weir::model::{Action, Call, Effect, Name, ReasonCode, Resource, Subject};
use weir::pdp::{Compiled, Facts, decide};
use weir::policy::parse;
use weir::shell::{self, commands};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Cases {
    case: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    line: String,
    decision: Effect,
    class: Option<String>,
    says: Option<String>,
    why: String,
}

fn policy() -> Arc<Compiled> {
    let policy = parse(include_bytes!("policy.toml"), "policy.toml").unwrap_or_else(|faults| panic!("{faults}"));
    Compiled::new(policy).unwrap_or_else(|faults| panic!("{faults}"))
}

fn call(tool: &str, command: Value) -> Call {
    let name = |text: &str| Name::new(text).unwrap();
    let subject = Subject {
        org: name("o"),
        project: None,
        agent: name("a"),
        session: name("s"),
        run: name("r"),
        delegation: Vec::new(),
    };
    Call {
        id: name("c"),
        subject,
        action: Action::ToolCall,
        resource: Resource::named(name(tool)),
        args: Map::from_iter([("command".to_owned(), command)]),
        parent: None,
        surface: name("test"),
    }
}

#[test]
fn every_line_is_judged_as_it_should_be() {
    let cases: Cases = toml::from_str(include_str!("lines.toml")).unwrap();
    assert!(cases.case.len() >= 60, "{} lines", cases.case.len());
    let policy = policy();
    let mut faults = Vec::new();
    for case in cases.case {
        let call = call("Bash", json!(case.line));
        let decision = decide(&policy, &Facts::fresh(), &call);
        let text = decision.reason.denial("tool Bash");
        let class = policy.effect_class(&call).word();
        let right = decision.effect == case.decision
            && case
                .says
                .as_ref()
                .is_none_or(|words| decision.effect == Effect::Deny && decision.reason.detail.contains(words))
            && case.class.as_ref().is_none_or(|wanted| wanted == class)
            && (decision.effect == Effect::Deny || case.class.is_some())
            && text.len() < 400;
        if !right {
            faults.push(format!("{:?} ({}): {} {class}: {text}", case.line, case.why, decision.effect.word()));
        }
    }
    assert!(faults.is_empty(), "{} wrong:\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn words_without_a_shell_are_judged_alike() {
    let policy = policy();
    let of = |words: Value| decide(&policy, &Facts::fresh(), &call("Look", words));
    assert_eq!(of(json!(["ls", "-l", "a b; rm x"])).effect, Effect::Allow);
    assert_eq!(of(json!(["bash", "-lc", "ls; wc -l x"])).effect, Effect::Allow);
    for denied in [
        json!(["rm", "x"]),
        json!(["bash", "-lc", "rm x"]),
        json!(["env", "rm"]),
        json!(["ls", 1]),
        json!(["eval", "x"]),
    ] {
        let decision = of(denied.clone());
        assert_eq!((decision.effect, decision.reason.code), (Effect::Deny, ReasonCode::BadArgument), "{denied}");
    }
    // A tool whose `effect` is milder than what a line would do is not used for it.
    let decision = of(json!(["cargo", "test"]));
    assert!(decision.reason.detail.contains("stricter than `Look` may be"), "{}", decision.reason);
}

#[test]
fn ten_thousand_parts_are_refused_and_the_last_of_many_is_seen() {
    for n in [1, 10, 50, 51, 60, 255] {
        let mut parts = vec!["ls"; n];
        let decision = decide(&policy(), &Facts::fresh(), &call("Bash", json!(parts.join(" && "))));
        assert_eq!(decision.effect, Effect::Allow, "{n}: {}", decision.reason);
        parts.push("rm x");
        let decision = decide(&policy(), &Facts::fresh(), &call("Bash", json!(parts.join(" && "))));
        assert!(decision.reason.detail.contains("`rm`"), "{n}: {}", decision.reason);
    }
    for n in [257, 10_000] {
        assert!(commands(&vec!["ls"; n].join(" && ")).is_err(), "{n}");
        assert!(commands(&vec!["ls"; n].join("\n")).is_err(), "{n}");
    }
}

#[test]
fn depth_is_bounded_whatever_nests() {
    let around = |open: &str, close: &str, n: usize| format!("{}ls{}", open.repeat(n), close.repeat(n));
    for (open, close) in [
        ("(", ")"),
        ("{ ", "; }"),
        ("$(", ")"),
        ("echo $(", ")"),
        ("\"$(", ")\""),
        ("if true; then ", "; fi"),
        ("while true; do ", "; done"),
        ("case a in a) ", ";; esac"),
        ("[[ ! ", " ]]"),
        ("! ", ""),
        ("${x:-", "}"),
        ("$((", "))"),
        ("<(", ")"),
        ("f() { ", "; }"),
        ("nohup ", ""),
        ("for x in a; do ", "; done"),
    ] {
        for n in [1, 2, 5, 11, 13, 40, 500, 3_000] {
            // It ends, and what is deep is refused.
            let read = commands(&around(open, close, n));
            assert!(n < 40 || read.is_err() || (open == "! " && n == 40), "{open} {n}");
        }
    }
}

#[test]
fn what_is_read_has_bounds() {
    assert!(commands(&format!("echo {}", "x".repeat(shell::BYTES))).is_err());
    assert!(commands(&format!("echo {}", "x".repeat(shell::BYTES - 10))).is_ok());
}

#[test]
fn a_descriptor_beyond_all_numbers_is_refused_before_the_grammar_fails() {
    for line in ["ls 99999999999999999999>x", "ls 88888888888888888<x", "ls 4294967296>&1"] {
        assert!(commands(line).unwrap_err().to_string().contains("file descriptor"), "{line}");
    }
    assert!(commands("ls 2>&1 && ls 12345678901 > x").is_ok(), "a number that is a word is none of a redirection");
}

/// Pieces that quote, nest and separate.
const PIECES: &[&str] = &[
    "ls",
    "rm",
    "x",
    " ",
    " ",
    ";",
    "\n",
    "&&",
    "||",
    "|",
    "&",
    "(",
    ")",
    "{",
    "}",
    "$(",
    "`",
    "'",
    "\"",
    "\\",
    "$",
    "${",
    "*",
    "?",
    "[",
    "]",
    "<",
    ">",
    "<<EOF\n",
    "\nEOF\n",
    "<<<",
    "=",
    "FOO=1 ",
    "if ",
    "then ",
    "fi",
    "do ",
    "done",
    "case ",
    "esac",
    "for x in ",
    "while ",
    "[[ ",
    " ]]",
    "((",
    "))",
    "#",
    "~",
    "!",
    "-",
    "--",
    "-c ",
    "bash -c ",
    "env ",
    "xargs ",
    "find . -exec ",
    "{}",
    "+",
    "\\;",
    "é",
    "2>&1",
    ">/dev/null",
    "$x",
    "\"$x\"",
    "$'",
    "eval ",
    ":",
    "@",
    "%",
    "^",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    #[test]
    fn no_line_makes_the_judge_panic(pieces in proptest::collection::vec(proptest::sample::select(PIECES), 0..24)) {
        let line = pieces.concat();
        let _ = shell::commands(&line);
    }

    #[test]
    fn a_program_without_a_row_is_never_lost(before in any_shape(), name in "[a-z]{3,8}") {
        let name = format!("zz{name}");
        let line = before.replace("@", &name);
        let decision = decide(&POLICY, &Facts::fresh(), &call("Bash", json!(line)));
        prop_assert_eq!(decision.effect, Effect::Deny, "{}", line);
    }

    #[test]
    fn quoting_in_whatever_way_is_the_same_word(word in "[a-zA-Z0-9 ;|&<>()*?.,/_=:@%+-]{1,20}", cuts in proptest::collection::vec((0_usize..20, 0_u8..3), 1..5)) {
        let quoted = split_quoted(&word, &cuts);
        let script = commands(&format!("ls {quoted}")).unwrap();
        prop_assert_eq!(script.commands[0].args[0].literal(), Some(word.as_str()), "{}", quoted);
    }
}

static POLICY: LazyLock<Arc<Compiled>> = LazyLock::new(policy);

/// What bash itself tries to run of `line` where it finds no program at all; `None` where there is no bash. Nothing is
/// written: the shell is restricted, and it ends after a second.
fn tried_by_bash(line: &str) -> Option<Vec<String>> {
    let script = "command_not_found_handle() { printf '%s\\0' \"$1\" >&3; return 1; }; exec 3>&1 1>/dev/null 2>&1 </dev/null; \
                  PATH=/nonexistent; set -r; eval \"$1\"";
    let folder = tempfile::tempdir().unwrap();
    let mut bash = Command::new("timeout");
    bash.args(["-s", "KILL", "1", "bash", "--norc", "-c", script, "_", line]).current_dir(folder.path()).env_clear();
    let output = bash.env("PATH", "/usr/bin:/bin").stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).split_terminator('\0').take(10_000).map(str::to_owned).collect())
}

#[test]
fn bash_runs_nothing_that_is_not_seen() {
    if tried_by_bash("xx").as_deref() != Some(&["xx".to_owned()]) {
        eprintln!("skipped: no bash here that says what it does not find");
        return;
    }
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let pieces = proptest::collection::vec(proptest::sample::select(PIECES), 1..14);
    let (mut read, mut tried) = (0, 0);
    for _ in 0..12_000 {
        let line = pieces.new_tree(&mut runner).unwrap().current().concat();
        let Ok(script) = commands(&line) else { continue };
        if script.commands.is_empty() || read >= 700 {
            continue;
        }
        read += 1;
        for name in tried_by_bash(&line).unwrap_or_default() {
            tried += 1;
            let wrapper = ["env", "xargs", "find", "bash"].contains(&name.as_str());
            let seen = script.commands.iter().any(|simple| simple.program == name);
            assert!(wrapper || seen, "bash runs `{name}` of {line:?}, and this is seen: {script:?}");
        }
    }
    assert!(read > 100 && tried > 100, "{read} lines, {tried} programs");
}

/// Lines that run `@`, in many shapes.
fn any_shape() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![Just("@ x".to_owned()), Just("@".to_owned()), Just("@ 'a b'".to_owned())];
    leaf.prop_recursive(3, 12, 1, |inner| {
        let wraps = proptest::sample::select(vec![
            "ls; #",
            "ls && #",
            "ls | #",
            "( # )",
            "{ #; }",
            "echo $( # )",
            "echo \"a$( # )b\"",
            "if true; then #; fi",
            "ls\n#",
            "while #; do ls; done",
            "for i in a b; do #; done",
            "case x in y) # ;; esac",
            "cat <( # )",
            "! #",
            "time #",
            "f() { #; }",
            "nohup #",
            "env #",
            "timeout 5 #",
            "xargs #",
            "command #",
            "ls &\n#",
            "[[ -f $( # ) ]]",
            "x=$( # )",
            "ls > $( # )",
            "cat <<E\n$( # )\nE\n",
            "if # ; then ls; else ls; fi",
            "until #; do ls; done",
            "exec #",
        ]);
        (wraps, inner).prop_map(|(wrap, inner)| wrap.replace('#', &inner))
    })
}

/// `word` in pieces, each quoted in one of three ways.
fn split_quoted(word: &str, cuts: &[(usize, u8)]) -> String {
    let (mut out, mut rest) = (String::new(), word);
    let quote = |piece: &str, way: u8| match way {
        0 => format!("'{piece}'"),
        1 => format!("\"{piece}\""),
        _ => piece.chars().map(|c| if c.is_alphanumeric() { c.to_string() } else { format!("\\{c}") }).collect(),
    };
    for (at, way) in cuts {
        let (piece, after) = rest.split_at((*at).min(rest.len()));
        out.push_str(&quote(piece, *way));
        rest = after;
    }
    out.push_str(&quote(rest, 1));
    out
}
