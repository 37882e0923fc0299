//! Tagged values there and back: what a tool gets is what the program had, and the other way round.

use proptest::prelude::*;
use serde_json::{Map, Value, json};
use weir::model::Status;

use super::desk::{Desk, Does, SANDBOX, fresh, grant, key, message, name, run_in};

fn echo() -> Desk {
    Desk::default().with("echo", &[("value", true)], Does::Echo)
}

#[test]
fn every_kind_of_value_survives_the_way_to_a_tool_and_back() {
    let table = [
        "None",
        "True",
        "0",
        "-5",
        "2**53 - 1",
        "2**53",
        "-10**40",
        "10**5000",
        "1.5",
        "0.1 + 0.2",
        "5e-324",
        "1.7976931348623157e308",
        "float('inf')",
        "float('-inf')",
        "''",
        "'text'",
        "'\\x00\\n'",
        "'\\ud800x'",
        "'😀é'",
        "[1, [2, [3]]]",
        "{}",
        "{'a': 1, 'b': [2]}",
        "{'$': 1}",
        "{'$': ['int', '5']}",
        "{1: 2, (1, 2): 'x'}",
        "{'\\udc00': 1}",
        "(1, 'a')",
        "((),)",
        "{1, 2}",
        "frozenset({'a'})",
        "b'\\x00\\xff'",
        "bytearray(b'ab')",
        "3 + 4j",
        "complex('inf')",
        "datetime.datetime(2026, 1, 2, 3, 4, 5, 678)",
        "datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc)",
        "datetime.date(1, 1, 1)",
        "datetime.time(23, 59)",
        "datetime.timedelta(days=-3, microseconds=7)",
        "datetime.timedelta.max",
        "decimal.Decimal('1.10')",
        "decimal.Decimal('NaN').is_nan()",
        "fractions.Fraction(-1, 3)",
        "uuid.UUID(int=5)",
        "pathlib.PurePosixPath('/a/b')",
        "[True, 1, 1.0]",
        "{'deep': [(1, {2: {'x': (3,)}})]}",
        "[[]] * 3",
    ];
    let mut grant = grant();
    grant.imports.extend(["decimal", "fractions", "uuid", "pathlib"].map(str::to_owned));
    let (session, desk) = (fresh(), echo());
    for text in table {
        let code = format!(
            "import datetime, decimal, fractions, uuid, pathlib, sys\nsys.set_int_max_str_digits(0)\n\
             a = {text}\nb = echo(a)\n(type(a) is type(b) and repr(a) == repr(b)) or (repr(a)[:99], repr(b)[:99])"
        );
        let outcome = run_in(&session, &code, &grant, &desk);
        assert_eq!((outcome.status, &outcome.output), (Status::Done, &json!(true)), "{text}: {:?}", outcome.error);
    }
    let outcome = run_in(&session, "x = echo(float('nan'))\nx != x", &grant, &desk);
    assert_eq!(outcome.output, json!(true));
}

#[test]
fn every_float_keeps_its_last_bit() {
    let code = "import random\nx = [random.random() * 10.0 ** random.randint(-300, 300) for _ in range(20_000)]\n\
                [(a, b) for a, b in zip(x, echo(x)) if a != b][:3]";
    assert_eq!(run_in(&fresh(), code, &grant(), &echo()).output, json!([]));
}

#[test]
fn subclasses_cross_as_what_they_are_made_of() {
    let code = "import collections, enum\nclass E(enum.IntEnum):\n    A = 3\nclass S(str): pass\n\
                P = collections.namedtuple('P', 'x y')\n\
                [E.A, S('s'), P(1, 2), collections.OrderedDict(a=1), collections.Counter('aa'), collections.defaultdict(int, b=2)]";
    let mut grant = grant();
    grant.imports.push("enum".into());
    let outcome = run_in(&fresh(), code, &grant, &Desk::default());
    let expected = json!([3, "s", {"$": ["tuple", [1, 2]]}, {"a": 1}, {"a": 2}, {"b": 2}]);
    assert_eq!(outcome.output, expected, "{:?}", outcome.error);
}

#[test]
fn what_cannot_cross_in_a_result_becomes_its_repr_in_place() {
    let outcome = run_in(&fresh(), "class T:\n    def __repr__(self): return '<T>'\n[1, T()]", &grant(), &echo());
    assert_eq!(outcome.output, json!([1, {"$": ["repr", "T", "<T>"]}]));
    for code in [
        "a = []; a.append(a); a",
        "class B:\n    def __repr__(self): raise ValueError('x')\nB()",
        "x = 1\nfor i in range(300): x = [x]\nx",
        "x = 1\nfor i in range(300): x = (x,)\nx",
        "[0] * 500_000",
        "1 << 5_000_000",
        "object()",
    ] {
        let outcome = run_in(&fresh(), code, &grant(), &echo());
        assert_eq!(outcome.status, Status::Done, "{code}: {:?}", outcome.error);
        assert!(outcome.output.to_string().contains(r#""$":["repr""#), "{code}");
    }
}

const HANDLE: &str = "00112233445566778899aabbccddeeff";

#[test]
fn an_object_of_the_host_goes_back_only_to_where_it_came_from() {
    let handle = json!({"$": ["handle", HANDLE, "Image", "<Image 2x2>"]});
    let desk = echo().with("load", &[], Does::Give(json!({"image": handle.clone()})));
    let session = fresh();
    let outcome = run_in(&session, "i = load()['image']\n(repr(i), isinstance(i, HostObject))", &grant(), &desk);
    assert_eq!(outcome.output, json!({"$": ["tuple", ["<host object Image: <Image 2x2>>", true]]}));
    assert_eq!(run_in(&session, "echo([i]) == [i]", &grant(), &desk).output, json!(true));
    assert_eq!(run_in(&session, "i", &grant(), &desk).output, handle, "a result may be one");
    let outcome = run_in(&session, "i.pixels", &grant(), &desk);
    assert!(message(&outcome).contains("pass it to a tool"), "{}", message(&outcome));

    let forged = format!("echo(HostObject('{HANDLE}', 'Image', 'x'))");
    let outcome = run_in(&fresh(), &forged, &grant(), &desk);
    assert!(message(&outcome).contains("no such object"), "another session's: {}", message(&outcome));
    let guessed = run_in(&session, &forged.replace("00", "01"), &grant(), &desk);
    assert!(message(&guessed).contains("no such object"), "{}", message(&guessed));
    let result = run_in(&fresh(), &format!("HostObject('{HANDLE}', 'Image', 'x')"), &grant(), &desk);
    assert_eq!(result.status, Status::Failed);
    assert!(message(&result).contains("no such object"), "{}", message(&result));
}

#[test]
fn an_object_of_the_host_may_come_in_a_variable() {
    let variables: Map<String, Value> =
        serde_json::from_value(json!({"db": {"$": ["handle", HANDLE, "DB", "<DB>"]}})).unwrap();
    let outcome = SANDBOX.run(&key(&fresh()), "echo(db) == db", &variables, &grant(), &echo());
    assert_eq!(outcome.output, json!(true), "{:?}", outcome.error);
}

#[test]
fn a_tool_that_returns_nonsense_is_an_error_of_the_tool() {
    let desk = Desk::default().with("odd", &[], Does::Give(json!({"$": ["pickle", "gASV"]})));
    let outcome = run_in(&fresh(), "odd()", &grant(), &desk);
    assert!(message(&outcome).contains("the tool's result"), "{}", message(&outcome));
}

#[test]
fn pickles_and_prefixes_are_text() {
    let code = "import os\nclass R:\n    def __reduce__(self): return (print, ('ran',))\n\
                [R(), b'\\x80\\x04gASV', 'safe:1', 'pickle:gASV']";
    let outcome = run_in(&fresh(), code, &grant(), &Desk::default());
    assert_eq!(outcome.logs, "");
    assert_eq!(outcome.output[1], json!({"$": ["bytes", "gARnQVNW"]}));
    assert_eq!(outcome.output[3], json!("pickle:gASV"));
}

fn plain() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-(1_i64 << 53) + 1..(1_i64 << 53)).prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
        any::<i128>().prop_map(|n| json!({"$": ["int", n.to_string()]})),
    ];
    leaf.prop_recursive(4, 32, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec(inner.clone(), 0..4).prop_map(|items| json!({"$": ["tuple", items]})),
            prop::collection::btree_map("[a-z]{1,4}", inner, 0..4).prop_map(|map| json!(map)),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_value_of_the_host_comes_back_as_it_went(value in plain()) {
        let variables: Map<String, Value> = Map::from_iter([("x".to_owned(), value.clone())]);
        let outcome = SANDBOX.run(&key(&name("values")), "x", &variables, &grant(), &Desk::default());
        prop_assert_eq!(normal(&outcome.output), normal(&value));
    }
}

/// Small integers travel as numbers whichever way they were written.
fn normal(value: &Value) -> Value {
    match value {
        Value::Array(items) => items.iter().map(normal).collect(),
        Value::Object(map) => match map.get("$").and_then(Value::as_array).map(Vec::as_slice) {
            Some([Value::String(tag), Value::String(digits)]) if tag == "int" => match digits.parse::<i64>() {
                Ok(small) if small.unsigned_abs() < 1 << 53 => json!(small),
                _ => value.clone(),
            },
            _ => Value::Object(map.iter().map(|(key, item)| (key.clone(), normal(item))).collect()),
        },
        _ => value.clone(),
    }
}
