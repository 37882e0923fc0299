//! One program after another: state, last values, errors by the agent's own lines.

use serde_json::{Map, Value, json};
use weir::model::Status;

use super::desk::{Desk, SANDBOX, fresh, grant, key, kind, message, run, run_in, traceback};

#[test]
fn state_lives_between_steps() {
    let (session, grant, desk) = (fresh(), grant(), Desk::default());
    assert_eq!(run_in(&session, "x = [1]\ndef f(): return x", &grant, &desk).status, Status::Done);
    let second = run_in(&session, "x.append(2)\nprint('here')\nf()", &grant, &desk);
    assert_eq!((second.status, &second.output, second.logs.as_str()), (Status::Done, &json!([1, 2]), "here\n"));
}

#[test]
fn the_value_of_the_last_statement_is_the_result() {
    for (code, value) in [
        ("x = 3", json!(3)),
        ("a = b = 'q'", json!("q")),
        ("x: int = 4", json!(4)),
        ("x = 1\nx += 4", json!(5)),
        ("1\n2 + 2", json!(4)),
        ("if True:\n    y = 7\nelse:\n    0", json!(7)),
        ("for i in range(3):\n    i * 2", json!(4)),
        ("try:\n    1/0\nexcept ZeroDivisionError:\n    'caught'", json!("caught")),
        ("def f(): pass", Value::Null),
        ("a, b = 1, 2", json!({"$": ["tuple", [1, 2]]})),
        ("", Value::Null),
        ("'text'\npass", Value::Null),
    ] {
        let outcome = run(code);
        assert_eq!((outcome.status, &outcome.output), (Status::Done, &value), "{code}: {:?}", outcome.error);
    }
}

#[test]
fn a_traceback_has_the_agents_lines_and_no_others() {
    let outcome = run("def f(x):\n    return 1 / x\n\nprint('before')\nf(0)");
    assert_eq!((outcome.status, kind(&outcome)), (Status::Failed, "ZeroDivisionError"));
    let told = traceback(&outcome);
    assert!(told.contains("File \"<agent>\", line 5") && told.contains("File \"<agent>\", line 2, in f"), "{told}");
    assert!(told.contains("return 1 / x"), "{told}");
    assert!(!told.contains(".py") && !told.contains("weir"), "{told}");
    assert_eq!(outcome.logs, "before\n");
}

#[test]
fn a_function_of_an_earlier_step_is_told_by_its_own_source() {
    let (session, grant, desk) = (fresh(), grant(), Desk::default());
    run_in(&session, "def broken():\n    raise KeyError('gone')", &grant, &desk);
    let told = run_in(&session, "# other\n# text\nbroken()", &grant, &desk);
    let told = traceback(&told);
    assert!(told.contains("\"<agent>, step 1\", line 2") && told.contains("raise KeyError('gone')"), "{told}");
    assert!(told.contains("\"<agent>\", line 3"), "{told}");
}

#[test]
fn errors_inside_the_library_are_told_without_its_frames() {
    let outcome = run("import json\njson.loads('{')");
    assert_eq!(kind(&outcome), "JSONDecodeError");
    assert!(traceback(&outcome).contains("line 2"), "{}", traceback(&outcome));
    assert_eq!(traceback(&outcome).matches("File").count(), 1, "{}", traceback(&outcome));
}

#[test]
fn a_failed_index_is_told_with_what_it_was_applied_to() {
    for (code, clue) in [
        (
            "d = {'Oslo': 1, 'Bergen': 2}\nd['Bregen']",
            "with 'Bregen'. Maybe you meant one of these indexes instead: ['Bergen']",
        ),
        ("d = {}\nd['key']", "Could not index {} with 'key'."),
        ("def f(d):\n    return d['a'][3]\nf({'a': [1]})", "Could not index [1] with 3."),
        ("x = 'text'\nx['t']", "Could not index 'text' with 't'."),
    ] {
        let outcome = run(code);
        assert!(traceback(&outcome).contains(clue), "{code}: {}", traceback(&outcome));
    }
    // Nothing of the agent's is run to find that out, and what is shown is bounded.
    let code = "class D(dict):\n    def __getitem__(self, key): print('asked'); raise KeyError(key)\nD()['x']";
    assert_eq!(run(code).logs, "asked\n");
    let outcome = run("d = {'k' * 5000: 'v' * 5000 for _ in range(5)}\nd['x']");
    assert!(traceback(&outcome).len() < 1000, "{}", traceback(&outcome));
}

#[test]
fn an_object_that_stays_is_shown_by_its_own_words() {
    for (code, shown) in [
        ("class A:\n    def __str__(self): return 'in words'\nA()", "in words"),
        ("class A:\n    def __str__(self): return 'in words'\n    def __repr__(self): return 'A()'\nA()", "A()"),
    ] {
        assert_eq!(run(code).output, json!({"$": ["repr", "A", shown]}), "{code}");
    }
}

#[test]
fn a_syntax_error_names_its_line() {
    let outcome = run("x = 1\ny = (2\nz = 3");
    assert_eq!((outcome.status, kind(&outcome)), (Status::Failed, "SyntaxError"));
    assert!(traceback(&outcome).contains("\"<agent>\", line 2"), "{}", traceback(&outcome));
}

#[test]
fn a_broken_error_is_still_told() {
    let code = "class E(Exception):\n    def __str__(self): raise ValueError('no')\nraise E()";
    let outcome = run(code);
    assert_eq!((outcome.status, kind(&outcome)), (Status::Failed, "E"));
}

#[test]
fn sys_exit_ends_the_step_and_not_the_session() {
    let (session, grant, desk) = (fresh(), grant(), Desk::default());
    assert_eq!(run_in(&session, "import sys\nkept = 1\nsys.exit()", &grant, &desk).status, Status::Done);
    let failed = run_in(&session, "sys.exit('bad')", &grant, &desk);
    assert_eq!((failed.status, kind(&failed)), (Status::Failed, "SystemExit"));
    assert_eq!(run_in(&session, "kept", &grant, &desk).output, json!(1));
}

#[test]
fn variables_are_set_before_the_program_runs() {
    let variables: Map<String, Value> =
        serde_json::from_value(json!({"n": 20, "big": {"$": ["int", "123456789012345678901234567890"]}})).unwrap();
    let outcome = SANDBOX.run(&key(&fresh()), "n + big", &variables, &grant(), &Desk::default());
    assert_eq!(outcome.output, json!({"$": ["int", "123456789012345678901234567910"]}));

    let wrong = serde_json::from_value(json!({"n": {"$": ["pickle", "x"]}})).unwrap();
    let outcome = SANDBOX.run(&key(&fresh()), "n", &wrong, &grant(), &Desk::default());
    assert_eq!(outcome.status, Status::Failed);
    assert!(message(&outcome).contains("tagged"), "{}", message(&outcome));
}

#[test]
fn a_program_with_nul_or_too_long_is_an_error() {
    assert_eq!(run("x = 1\0").status, Status::Failed);
    let long = run(&"#".repeat((1 << 20) + 1));
    assert!(message(&long).contains("over the limit"), "{}", message(&long));
}

#[test]
fn asyncio_works_and_a_frozen_clock_moves_with_waiting() {
    let code = "import asyncio, time\nasync def a(n):\n    await asyncio.sleep(0.02)\n    return n\n\
                async def main():\n    return await asyncio.gather(*(a(i) for i in range(5)))\n\
                t = time.monotonic()\nr = asyncio.run(main())\n(r, round(time.monotonic() - t, 2))";
    let outcome = run(code);
    assert_eq!(outcome.output, json!({"$": ["tuple", [[0, 1, 2, 3, 4], 0.02]]}), "{:?}", outcome.error);
}

#[test]
fn what_the_sandbox_lacks_is_said_plainly() {
    let mut grant = grant();
    grant.imports.push("threading".into());
    let outcome =
        run_in(&fresh(), "import threading\nthreading.Thread(target=print).start()", &grant, &Desk::default());
    assert!(message(&outcome).contains("can't start new thread"), "{}", message(&outcome));
    assert!(message(&run("input('name? ')")).contains("nobody to ask"));
    assert!(message(&run("open('x')")).contains("no files"));
}
