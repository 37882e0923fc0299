//! Nested calls: every stub call and every refused import is one message to the gate.

use std::sync::atomic::Ordering;

use serde_json::json;
use weir::model::{Kind, ReasonCode, Status};

use super::desk::{Desk, Does, fresh, grant, kind, message, run_in, traceback};

const FINAL: &[(&str, bool)] = &[("answer", true)];

fn search() -> Desk {
    Desk::default().with("search", &[("query", true), ("limit", false)], Does::Give(json!(["a", "b"])))
}

#[test]
fn positions_and_keywords_are_bound_to_names() {
    let desk = search();
    let code = "search('x')\nsearch('x', 2)\nsearch(limit=3, query='y')\nlen(search('z'))";
    let outcome = run_in(&fresh(), code, &grant(), &desk);
    assert_eq!(outcome.output, json!(2), "{:?}", outcome.error);
    let expected = [
        r#"tool.call search {"query":"x"}"#,
        r#"tool.call search {"query":"x","limit":2}"#,
        r#"tool.call search {"limit":3,"query":"y"}"#,
        r#"tool.call search {"query":"z"}"#,
    ];
    assert_eq!(desk.asked(), expected);
}

#[test]
fn a_wrong_call_is_a_type_error_and_never_reaches_the_gate() {
    for (call, said) in [
        ("search()", "misses 'query'"),
        ("search(1, 2, 3)", "takes 2 positional arguments but 3"),
        ("search('a', query='b')", "multiple values"),
        ("search('a', colour=1)", "unexpected argument 'colour'; its arguments are: query, limit"),
        ("search(lambda: 1)", "type function cannot cross"),
        ("a = []; a.append(a); search(a)", "contains itself"),
        ("search('x' * 2_000_000)", "over the limit"),
    ] {
        let desk = search();
        let outcome = run_in(&fresh(), call, &grant(), &desk);
        assert!(message(&outcome).contains(said), "{call}: {}", message(&outcome));
        assert_eq!(desk.count.load(Ordering::SeqCst), 0, "{call}");
    }
}

#[test]
fn a_stub_looks_like_a_function() {
    let mut grant = grant();
    grant.imports.push("inspect".into());
    let code = "import inspect\n(search.__name__, search.__doc__, str(inspect.signature(search)), callable(search))";
    let outcome = run_in(&fresh(), code, &grant, &search());
    assert_eq!(outcome.output, json!({"$": ["tuple", ["search", "Does search.", "(query, limit=Ellipsis)", true]]}));
}

#[test]
fn a_denial_can_be_caught() {
    let desk = Desk::default().with("rm", &[("path", true)], Does::Deny(ReasonCode::Rule));
    let code = "try:\n    rm('/')\nexcept PermissionDenied as e:\n    said = str(e)\nsaid";
    let outcome = run_in(&fresh(), code, &grant(), &desk);
    assert_eq!(outcome.status, Status::Done);
    let said = outcome.output.as_str().unwrap();
    assert!(said.contains("denied tool rm") && said.contains("Do not retry"), "{said}");
}

#[test]
fn an_uncaught_denial_is_the_outcome_and_keeps_what_was_printed() {
    let desk = Desk::default().with("rm", &[("path", true)], Does::Deny(ReasonCode::Rule));
    let outcome = run_in(&fresh(), "print('before')\nrm('/')", &grant(), &desk);
    assert_eq!((outcome.status, outcome.stopped), (Status::Denied, Some(ReasonCode::Rule)));
    assert_eq!(outcome.logs, "before\n");
    assert!(message(&outcome).contains("denied tool rm"));
    assert!(traceback(&outcome).contains("line 2") && traceback(&outcome).matches("File").count() == 1);
}

#[test]
fn an_exhausted_budget_is_not_a_plain_denial() {
    let desk = Desk::default().with("buy", &[], Does::Deny(ReasonCode::BudgetExhausted));
    let outcome = run_in(&fresh(), "buy()", &grant(), &desk);
    assert_eq!((outcome.status, outcome.stopped), (Status::Exhausted, Some(ReasonCode::BudgetExhausted)));
    assert!(message(&outcome).contains("denied tool buy"), "{}", message(&outcome));
}

#[test]
fn a_program_cannot_claim_a_denial() {
    let outcome = run_in(&fresh(), "raise PermissionDenied('not really')", &grant(), &Desk::default());
    assert_eq!((outcome.status, outcome.stopped), (Status::Failed, None));
}

#[test]
fn a_tools_own_error_has_its_type_and_message() {
    let desk = Desk::default().with("load", &[], Does::Fail("FileNotFoundError", "no such page"));
    let code = "try:\n    load()\nexcept ToolError as e:\n    caught = (e.kind, e.message)\ncaught";
    let outcome = run_in(&fresh(), code, &grant(), &desk);
    assert_eq!(outcome.output, json!({"$": ["tuple", ["FileNotFoundError", "no such page"]]}));
    let outcome = run_in(&fresh(), "load()", &grant(), &desk);
    assert_eq!((outcome.status, kind(&outcome)), (Status::Failed, "ToolError"));
}

#[test]
fn a_final_answer_is_what_the_host_returned_even_if_the_signal_is_swallowed() {
    let desk = Desk::default().with("final_answer", FINAL, Does::Give(json!("from the host")));
    for code in [
        "final_answer('guest')\nprint('never')",
        "try:\n    final_answer('guest')\nexcept:\n    pass",
        "try:\n    final_answer('guest')\nexcept BaseException:\n    raise ValueError('lost')",
        "try:\n    final_answer(1)\nfinally:\n    final_answer(2)",
    ] {
        let outcome = run_in(&fresh(), code, &grant(), &desk);
        assert!(outcome.is_final && outcome.status == Status::Done, "{code}: {outcome:?}");
        assert_eq!((outcome.output, outcome.logs.as_str()), (json!("from the host"), ""), "{code}");
    }
    assert_eq!(desk.count.load(Ordering::SeqCst), 4, "nothing is called after the answer");
}

#[test]
fn an_answer_is_kept_when_the_program_is_stopped_afterwards() {
    let desk = Desk::default().with("final_answer", FINAL, Does::Give(json!(42)));
    let mut grant = grant();
    grant.limits.wall_ms.0 = 300;
    let outcome = run_in(&fresh(), "try:\n    final_answer(1)\nexcept: pass\nwhile True: pass", &grant, &desk);
    assert_eq!((outcome.status, outcome.is_final, outcome.output), (Status::Exhausted, true, json!(42)));
}

#[test]
fn a_refused_answer_is_not_final() {
    let desk = Desk::default().with("final_answer", FINAL, Does::Deny(ReasonCode::Rule));
    let outcome = run_in(&fresh(), "try:\n    final_answer(1)\nexcept Exception:\n    pass\n7", &grant(), &desk);
    assert_eq!((outcome.is_final, outcome.output), (false, json!(7)));
}

#[test]
fn a_tools_name_is_the_tool_again_in_the_next_step() {
    let (session, desk) = (fresh(), search());
    let outcome = run_in(&session, "search = 5\nsearch + 1", &grant(), &desk);
    assert_eq!((outcome.status, outcome.output), (Status::Done, json!(6)));
    let outcome = run_in(&session, "search('x')", &grant(), &desk);
    assert_eq!(outcome.output, json!(["a", "b"]), "{:?}", outcome.error);
    let gone = run_in(&session, "search('x')", &grant(), &Desk::default());
    assert_eq!(kind(&gone), "NameError", "a tool that is no longer offered is gone");
}

#[test]
fn an_import_outside_the_list_is_asked_recorded_and_refused() {
    let desk = Desk::default();
    let caught = "try:\n    import subprocess\nexcept ImportError as e:\n    r = type(e).__name__\nr";
    assert_eq!(run_in(&fresh(), caught, &grant(), &desk).output, json!("ImportDenied"));
    let outcome = run_in(&fresh(), "print('a')\nfrom socket import socket", &grant(), &desk);
    assert_eq!((outcome.status, outcome.stopped), (Status::Denied, Some(ReasonCode::ImportDenied)));
    assert!(message(&outcome).contains("Import of socket is not allowed"), "{}", message(&outcome));
    assert!(traceback(&outcome).contains("line 2") && traceback(&outcome).matches("File").count() == 1);
    assert_eq!(outcome.logs, "a\n");
    assert_eq!(desk.asked(), ["code.import subprocess {}", "code.import socket {}"]);
}

#[test]
fn the_list_holds_for_parents_and_not_for_the_librarys_own_imports() {
    let mut grant = grant();
    grant.imports = vec!["collections".into(), "json".into(), "os.path".into(), "importlib".into()];
    let desk = Desk::default();
    let code =
        "import collections.abc, json.decoder\nfrom collections import abc\nfrom os import path\nimport os.path\n'ok'";
    assert_eq!(run_in(&fresh(), code, &grant, &desk).output, json!("ok"));
    assert_eq!(desk.count.load(Ordering::SeqCst), 0);
    let module = run_in(&fresh(), "import importlib\nimportlib.import_module('csv')", &grant, &desk);
    assert_eq!(module.status, Status::Denied);
}

#[test]
fn a_granted_module_that_is_not_there_says_what_is() {
    let mut grant = grant();
    grant.imports = vec!["numpy".into(), "math".into(), "json".into()];
    let outcome = run_in(&fresh(), "import numpy as np", &grant, &Desk::default());
    assert_eq!((outcome.status, kind(&outcome)), (Status::Failed, "ModuleNotFoundError"));
    assert!(message(&outcome).contains("numpy is not in this sandbox; available: json, math"), "{}", message(&outcome));
}

#[test]
fn time_in_a_tool_is_not_the_programs_time() {
    let desk = Desk::default().with("slow", &[], Does::Sleep(700));
    let mut grant = grant();
    grant.limits.wall_ms.0 = 400;
    let outcome = run_in(&fresh(), "slow()", &grant, &desk);
    assert_eq!((outcome.status, outcome.output), (Status::Done, json!("slept")));
    assert!(outcome.usage.of(Kind::WallMs) < 300, "{:?}", outcome.usage);
}

#[test]
fn a_panic_of_the_host_is_a_broken_outcome_and_the_next_step_is_told() {
    let (session, desk) = (fresh(), Desk::default().with("boom", &[], Does::Panic));
    run_in(&session, "x = 1", &grant(), &desk);
    let outcome = run_in(&session, "boom()", &grant(), &desk);
    assert_eq!((outcome.status, outcome.stopped), (Status::Broken, Some(ReasonCode::SandboxFailed)));
    let next = run_in(&session, "'x' in globals()", &grant(), &desk);
    assert_eq!(next.output, json!(false));
    assert!(next.notices.iter().any(|notice| notice.contains("variables")), "{:?}", next.notices);
}

#[test]
fn calls_over_the_limit_end_the_program_and_leave_the_session() {
    let desk = search();
    let mut grant = grant();
    grant.limits.callbacks = 10;
    let session = fresh();
    let outcome = run_in(&session, "n = 0\nwhile True:\n    search('x')\n    n += 1", &grant, &desk);
    assert_eq!((outcome.status, outcome.stopped), (Status::Exhausted, Some(ReasonCode::LimitReached)));
    assert!(message(&outcome).contains("limit of 10 nested calls"), "{}", message(&outcome));
    assert_eq!(desk.count.load(Ordering::SeqCst), 10);
    assert_eq!(run_in(&session, "n", &grant, &desk).output, json!(10));
}

#[test]
fn a_million_calls_that_ignore_the_limit_are_stopped() {
    let desk = search();
    let mut grant = grant();
    grant.limits.callbacks = 100;
    let code = "for i in range(10**6):\n    try:\n        search('x')\n    except BaseException: pass";
    let outcome = run_in(&fresh(), code, &grant, &desk);
    assert_eq!((outcome.status, outcome.stopped), (Status::Exhausted, Some(ReasonCode::LimitReached)));
    assert_eq!(desk.count.load(Ordering::SeqCst), 100);
    assert!(!outcome.notices.is_empty(), "the variables are gone and it is said");
}

#[test]
fn a_forged_message_is_refused() {
    let mut grant = grant();
    grant.imports.extend(["wit_world".into()]);
    let desk = search();
    for (args, said) in [
        ("{\"query\": {\"$\": [\"handle\", \"0123456789abcdef0123456789abcdef\", \"DB\", \"x\"]}}", "no such object"),
        ("{\"query\": 1, \"query\": 2}", "duplicate key"),
        ("[1]", "an object of names and values"),
        ("{\"query\": 1e400}", "out of range"),
        ("{\"a\": {\"$\": [\"pickle\", \"gASV\"]}}", "known tag"),
        ("not json", "expected"),
    ] {
        let code = format!("from wit_world.imports import host\nhost.call('tool', 'search', {args:?})");
        let outcome = run_in(&fresh(), &code, &grant, &desk);
        assert!(outcome.output.as_str().unwrap_or_default().contains(said), "{args}: {outcome:?}");
    }
    let code = "from wit_world.imports import host\nhost.call('shell', 'id', '{}')";
    assert!(run_in(&fresh(), code, &grant, &desk).output.to_string().contains("two kinds"));
    assert_eq!(desk.count.load(Ordering::SeqCst), 0, "none of them reached the gate");
}
