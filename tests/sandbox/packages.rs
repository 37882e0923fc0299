//! Packages: wheels that the tests build, prepared as an operator does, imported as an agent does.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Cursor, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, json};
use weir::model::{CodeGrant, Digest, Outcome, Package, ReasonCode, Status};
use weir::sandbox::{Key, Prepared, Sandbox, SandboxConfig, SandboxFault, Wheels, prepare};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use super::desk::{Desk, SANDBOX, fresh, grant, key, kind, message, name, run_in, wall};

/// A wheel of `files`, and what a policy says of it.
fn wheel(name: &str, files: &[(&str, &str)]) -> (Package, Vec<u8>) {
    let info = format!("{}-1.0.dist-info", name.replace('-', "_"));
    let mut all: BTreeMap<String, String> = files.iter().map(|(path, text)| ((*path).into(), (*text).into())).collect();
    all.insert(
        format!("{info}/WHEEL"),
        "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n".into(),
    );
    all.insert(format!("{info}/METADATA"), format!("Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"));
    let hash = |text: &str| URL_SAFE_NO_PAD.encode(Digest::of(text.as_bytes()).0);
    let lines = all.iter().map(|(path, text)| format!("{path},sha256={},{}\n", hash(text), text.len()));
    let record = format!("{}{info}/RECORD,,\n", lines.collect::<String>());
    all.insert(format!("{info}/RECORD"), record);
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (path, text) in all {
        zip.start_file(path, SimpleFileOptions::default()).unwrap();
        zip.write_all(text.as_bytes()).unwrap();
    }
    let bytes = zip.finish().unwrap().into_inner();
    (pin(name, Digest::of(&bytes)), bytes)
}

fn pin(name: &str, digest: Digest) -> Package {
    Package { registry: "python".into(), name: name.into(), version: "1.0".into(), digest }
}

fn sample() -> (Package, Vec<u8>) {
    wheel(
        "weir-sample",
        &[
            ("weir_sample/__init__.py", "from .inner import double\nCOUNT = []\n"),
            ("weir_sample/inner.py", "import json\n\ndef double(x):\n    return json.loads(json.dumps(2 * x))\n"),
            ("weir_sample/late.py", "raised = 1 / 0\n"),
            ("weir_sample/data/words.txt", "eins\nzwei\n"),
            ("weir_sample/space/leaf.py", "HERE = __name__\n"),
            ("weir_single.py", "VALUE = 7\n"),
        ],
    )
}

fn prepared(wheels: &[(Package, Vec<u8>)]) -> Result<Prepared, SandboxFault> {
    let folder = tempfile::tempdir().unwrap();
    for (at, (_, bytes)) in wheels.iter().enumerate() {
        fs::write(folder.path().join(format!("{at}.whl")), bytes).unwrap();
    }
    let packages: Vec<Package> = wheels.iter().map(|(package, _)| package.clone()).collect();
    prepare(&SandboxConfig::new(wall()), &packages, &Wheels::Folder(folder.path().to_owned()))
}

static PACKED: LazyLock<Sandbox> = LazyLock::new(|| {
    prepared(&[sample()]).unwrap();
    Sandbox::open(SandboxConfig { packages: vec![vec![sample().0]], ..SandboxConfig::new(wall()) }).unwrap()
});

/// The usual grant with the sample package.
fn with_sample() -> CodeGrant {
    let mut grant = grant();
    grant.imports.extend(["importlib", "pkgutil", "inspect"].map(str::to_owned));
    grant.packages = vec![sample().0];
    grant
}

fn run(code: &str, grant: &CodeGrant) -> Outcome {
    PACKED.run(&key(&fresh()), code, &Map::new(), grant, &Desk::default())
}

#[test]
fn a_package_is_imported_with_its_modules_and_its_data() {
    let (grant, desk) = (with_sample(), Desk::default());
    for (code, value) in [
        ("import weir_sample\nweir_sample.double(4)", json!(8)),
        ("from weir_sample.inner import double\ndouble('a')", json!("aa")),
        ("import weir_single\nweir_single.VALUE", json!(7)),
        ("import weir_sample.space.leaf as leaf\nleaf.HERE", json!("weir_sample.space.leaf")),
        ("import pkgutil\npkgutil.get_data('weir_sample', 'data/words.txt').decode()", json!("eins\nzwei\n")),
        (
            "from importlib.resources import files\nd = files('weir_sample') / 'data'\n\
             [d.is_dir(), [n.name for n in d.iterdir()], (d / 'words.txt').read_text()[:4], (d / 'no').is_file()]",
            json!([true, ["words.txt"], "eins", false]),
        ),
        ("import importlib.metadata\nimportlib.metadata.version('Weir.Sample')", json!("1.0")),
        (
            "import pkgutil, weir_sample\n[m.name for m in pkgutil.iter_modules(weir_sample.__path__, 'x.')]",
            json!(["x.inner", "x.late", "x.space"]),
        ),
        ("import weir_sample\nweir_sample.__file__", json!("/packages/weir_sample/__init__.py")),
    ] {
        let outcome = PACKED.run(&key(&fresh()), code, &Map::new(), &grant, &desk);
        assert_eq!((outcome.status, &outcome.output), (Status::Done, &value), "{code}: {:?}", outcome.error);
    }
    assert!(desk.asked().is_empty(), "a granted package asks for nothing: {:?}", desk.asked());
}

#[test]
fn an_error_in_a_package_is_told_by_the_agents_lines() {
    let outcome = run("x = 1\nimport weir_sample.late", &with_sample());
    assert_eq!((outcome.status, kind(&outcome)), (Status::Failed, "ZeroDivisionError"));
    let told = &outcome.error.as_ref().unwrap().traceback;
    assert!(told.contains("line 2") && !told.contains("late.py"), "{told}");
}

#[test]
fn what_one_session_does_to_a_package_no_other_sees() {
    let grant = with_sample();
    assert_eq!(
        run("import weir_sample\nweir_sample.COUNT.append(1)\nweir_sample.double = None", &grant).status,
        Status::Done
    );
    assert_eq!(run("import weir_sample\n[weir_sample.COUNT, weir_sample.double(1)]", &grant).output, json!([[], 2]));
}

#[test]
fn a_package_of_another_agent_is_not_there() {
    let _ = run("import weir_sample", &with_sample());
    let desk = Desk::default();
    let other = Key { seat: weir::model::Seat { agent: name("other"), ..key(&fresh()).seat }, ..key(&fresh()) };
    let code = "import weir_sample";
    let outcome = PACKED.run(&other, code, &Map::new(), &grant(), &desk);
    assert_eq!((outcome.status, outcome.stopped), (Status::Denied, Some(ReasonCode::ImportDenied)));
    assert_eq!(desk.asked(), ["code.import weir_sample {}"]);
    // Past the list, which is a convenience, there is nothing to find either.
    let mut all = grant();
    all.imports.extend(["importlib", "weir_sample"].map(str::to_owned));
    let outcome =
        PACKED.run(&other, "import importlib.util\nimportlib.util.find_spec('weir_sample')", &Map::new(), &all, &desk);
    assert_eq!((outcome.status, outcome.output.is_null()), (Status::Done, true), "{:?}", outcome.error);
    let outcome = PACKED.run(&other, code, &Map::new(), &all, &desk);
    assert_eq!((outcome.status, kind(&outcome)), (Status::Failed, "ModuleNotFoundError"));
}

#[test]
fn a_module_that_is_nowhere_is_told_with_those_that_are() {
    let outcome = run("import pandas", &with_sample());
    assert_eq!((outcome.status, outcome.stopped), (Status::Denied, Some(ReasonCode::ImportDenied)));
    let told = message(&outcome);
    assert!(told.contains("pandas is not in this sandbox; available: weir_sample, weir_single, asyncio"), "{told}");
    assert!(told.contains("Import of pandas is not allowed") && told.len() < 400, "{told}");

    let code = "try:\n    import pandas\nexcept ModuleNotFoundError as e:\n    seen = [e.name, isinstance(e, PermissionDenied)]\nseen";
    assert_eq!(run(code, &with_sample()).output, json!(["pandas", true]));
    let long = run(&format!("import {}", "p".repeat(120)), &with_sample());
    assert!(message(&long).len() < 400 && message(&long).contains("is not in this sandbox"), "{}", message(&long));
    // Of the standard library, and not granted: that is a matter of the policy alone.
    assert!(!message(&run("import socket", &with_sample())).contains("is not in this sandbox"));
}

#[test]
fn another_set_of_packages_is_another_interpreter() {
    let (session, desk) = (fresh(), Desk::default());
    let go = |code: &str, grant: &CodeGrant| PACKED.run(&key(&session), code, &Map::new(), grant, &desk);
    assert_eq!(go("x = 1", &grant()).status, Status::Done);
    let told = go("import weir_sample\n'x' in globals()", &with_sample());
    assert_eq!((told.status, &told.output), (Status::Done, &json!(false)), "{:?}", told.error);
    assert!(told.notices.iter().any(|notice| notice.contains("its policy changed")), "{:?}", told.notices);
}

#[test]
fn packages_that_nobody_prepared_stop_a_start_and_a_run_with_what_to_do() {
    let absent = pin("weir-absent", Digest::of(b"nowhere"));
    let config = SandboxConfig { packages: vec![vec![absent.clone()]], ..SandboxConfig::new(wall()) };
    let fault = Sandbox::open(config).err().unwrap().to_string();
    assert!(fault.contains("weir-absent 1.0") && fault.contains("weir guest packages"), "{fault}");

    let mut grant = grant();
    grant.packages = vec![absent];
    let outcome = run_in(&fresh(), "1", &grant, &Desk::default());
    assert_eq!(outcome.status, Status::Broken);
    assert!(
        message(&outcome).contains("weir guest packages") && message(&outcome).len() < 400,
        "{}",
        message(&outcome)
    );
    assert_eq!(run_in(&fresh(), "1", &super::desk::grant(), &Desk::default()).status, Status::Done);
}

/// A policy of the house with the one package.
fn policy(folder: &Path, package: &Package) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("policies/derived/smolagents.toml")).unwrap();
    let Package { name, version, digest, .. } = package;
    let pin = format!("[[registry.pin]]\nname = \"{name}\"\nrevision = \"{version}\"\ndigest = \"{digest}\"\n");
    let text = text.replacen("[code]\n", &format!("[code]\npackages = [\"{name}\"]\n"), 1);
    let (head, tail) = text.split_once("[[registry]]\nname = \"python\"\n").unwrap();
    let (answers, tail) = tail.split_once('\n').unwrap();
    let path = folder.join("policy.toml");
    fs::write(&path, format!("{head}[[registry]]\nname = \"python\"\n{answers}\n{pin}{tail}")).unwrap();
    path
}

#[test]
fn the_command_prepares_what_a_policy_grants_and_a_start_without_it_names_the_command() {
    let folder = tempfile::tempdir().unwrap();
    let weir = |arguments: &[&str]| {
        let mut weir = Command::new(env!("CARGO_BIN_EXE_weir"));
        weir.args(arguments).env("WEIR_HOME", folder.path().join("home")).env_remove("WEIR_WHEELS");
        let ended = weir.output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (ended.status.code(), text(ended.stdout), text(ended.stderr))
    };
    let program = folder.path().join("program.py");
    fs::write(&program, "import weir_sample\nprint(weir_sample.double(21))\n").unwrap();
    let program = program.to_str().unwrap();

    let absent = policy(folder.path(), &pin("weir-absent", Digest::of(b"nowhere")));
    let absent = absent.to_str().unwrap();
    let (code, _, told) = weir(&["run", "--policy", absent, program]);
    assert_eq!(code, Some(2), "{told}");
    assert!(told.contains("weir-absent 1.0") && told.contains(&format!("weir guest packages {absent}")), "{told}");
    let here = folder.path().to_str().unwrap();
    let (code, _, told) = weir(&["guest", "packages", absent, "--wheels", here]);
    assert!(code == Some(2) && told.contains("weir-absent 1.0: no wheel there has sha256:"), "{told}");

    let (package, bytes) = sample();
    fs::write(folder.path().join("sample.whl"), bytes).unwrap();
    let present = policy(folder.path(), &package);
    let present = present.to_str().unwrap();
    let (code, listed, told) = weir(&["guest", "packages", present, "--wheels", here]);
    assert_eq!(code, Some(0), "{told}");
    assert!(listed.contains("weir-sample 1.0 sha256:") && listed.contains("weir_sample, weir_single"), "{listed}");
    let (code, printed, told) = weir(&["run", "--policy", present, program]);
    assert_eq!((code, printed.as_str()), (Some(0), "42\n"), "{told}");
}

#[test]
fn wheels_that_do_not_fit_their_pins_are_all_told_at_once() {
    let (good, bytes) = wheel("weir-one", &[("weir_one.py", "")]);
    let other = pin("weir-two", Digest::of(b"other"));
    let native = wheel("weir-three", &[("weir_three.py", ""), ("weir_three.so", "")]);
    let misnamed = Package { name: "weir-four".into(), ..good.clone() };
    let fault = prepared(&[(misnamed, bytes.clone()), (other, bytes), native]).unwrap_err().to_string();
    for part in [
        "weir-four 1.0: it says that it is weir-one 1.0",
        "weir-two 1.0: no wheel there has",
        "weir-three 1.0: it is not pure",
    ] {
        assert!(fault.contains(part), "{part}: {fault}");
    }
}

#[test]
fn a_package_cannot_take_the_place_of_another_or_of_the_standard_library() {
    let fault = prepared(&[wheel("weir-json", &[("json/__init__.py", "dumps = None\n")])]).unwrap_err().to_string();
    assert!(fault.contains("`json`, which the sandbox has already"), "{fault}");
    let fault = prepared(&[wheel("weir-tools", &[("tools.py", "ask = None\n")])]).unwrap_err().to_string();
    assert!(fault.contains("`tools`, which the sandbox has already"), "{fault}");
    let (a, b) = (wheel("weir-a", &[("weir_same.py", "1\n")]), wheel("weir-b", &[("weir_same.py", "2\n")]));
    let fault = prepared(&[a, b]).unwrap_err().to_string();
    assert!(fault.contains("weir-a and weir-b both bring `weir_same.py`"), "{fault}");
}

#[test]
fn what_a_package_does_when_it_is_imported_reaches_nothing() {
    let reaching = "import tools\ntools.ask('tool', 'delete_everything')\n";
    let reading = "open('/etc/hostname').read()\n";
    let wheel =
        wheel("weir-reach", &[("weir_ask.py", reaching), ("weir_read.py", reading), ("weir_syntax.py", "a b\n")]);
    let prepared = prepared(std::slice::from_ref(&wheel)).unwrap();
    let failed: Vec<&str> = prepared.failed.iter().map(|(module, _)| module.as_str()).collect();
    assert_eq!(failed, ["weir_ask", "weir_read", "weir_syntax"], "{:?}", prepared.failed);
    assert!(prepared.failed[0].1.contains("PermissionDenied"), "{:?}", prepared.failed);
    assert!(prepared.failed[2].1.contains("SyntaxError"), "{:?}", prepared.failed);
    // The program that imports it sees the same error, and what it asks goes through the gate.
    let mut grant = grant();
    grant.packages = vec![wheel.0];
    let desk = Desk::default();
    let outcome = SANDBOX.run(&key(&fresh()), "import weir_ask", &Map::new(), &grant, &desk);
    assert_eq!(outcome.status, Status::Denied, "{:?}", outcome.error);
    assert_eq!(desk.asked().len(), 1, "{:?}", desk.asked());
    let outcome = run_in(&fresh(), "import weir_syntax", &grant, &desk);
    assert_eq!(kind(&outcome), "SyntaxError", "{:?}", outcome.error);
}

#[test]
fn a_package_that_only_asks_for_the_size_of_an_integer_is_told_and_nobody_else_finds_ctypes() {
    let asks = "from ctypes import c_long, sizeof\nBITS = 8 * sizeof(c_long)\n";
    let wheel = wheel("weir-sizes", &[("weir_sizes.py", asks), ("weir_native.py", "from ctypes import CDLL\n")]);
    let prepared = prepared(std::slice::from_ref(&wheel)).unwrap();
    let failed: Vec<&str> = prepared.failed.iter().map(|(module, _)| module.as_str()).collect();
    assert_eq!(failed, ["weir_native"], "{:?}", prepared.failed);
    let mut grant = grant();
    grant.imports.push("ctypes".into());
    grant.packages = vec![wheel.0];
    let run = |code: &str| run_in(&fresh(), code, &grant, &Desk::default());
    assert_eq!(run("import weir_sizes\nweir_sizes.BITS").output, json!(32));
    assert!(message(&run("import ctypes")).starts_with("ctypes is not in this sandbox"));
}
