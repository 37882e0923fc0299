//! What a person sees: the binary's commands, their exit codes and their texts.
#![cfg(feature = "cli")]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

const POLICY: &str = "policies/derived/smolagents.toml";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A store of its own; the guest's cache is the user's, so that it is built once.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn store(&self) -> PathBuf {
        self.0.path().join("store")
    }

    fn weir(&self, args: &[&str]) -> Output {
        self.weir_with(args, "")
    }

    fn weir_with(&self, args: &[&str], input: &str) -> Output {
        let mut child = Command::new(env!("CARGO_BIN_EXE_weir"))
            .args(args)
            .current_dir(root())
            .env("WEIR_HOME", self.store())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A program that has read enough, or failed before, closes its end: that is no fault.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    }

    fn run(&self, code: &str) -> Output {
        self.weir_with(&["run", "--policy", POLICY, "-"], code)
    }
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[track_caller]
fn exits(output: &Output, code: i32) {
    assert_eq!(output.status.code(), Some(code), "out: {}\nerr: {}", out(output), err(output));
}

#[test]
fn run_prints_the_output_and_exits_zero() {
    let home = Home::new();
    let output = home.weir(&["run", "--policy", POLICY, "examples/scripts/hello.py"]);
    exits(&output, 0);
    assert!(out(&output).to_lowercase().contains("hello"), "{}", out(&output));
}

#[test]
fn run_takes_a_language_and_the_policy_decides_whether_it_may_be_used() {
    let home = Home::new();
    let run =
        |language: &str| home.weir(&["run", "--policy", POLICY, "--language", language, "examples/scripts/hello.py"]);
    exits(&run("python"), 0);
    let denied = run("javascript");
    exits(&denied, 3);
    assert!(
        err(&denied).contains("code.run in javascript") && err(&denied).contains("languages python"),
        "{}",
        err(&denied)
    );
    let unknown = run("perl");
    exits(&unknown, 2);
    assert!(err(&unknown).contains("python, javascript, python-numpy"), "{}", err(&unknown));
    exits(&home.weir(&["policy", "check", "examples/javascript/policy.toml"]), 0);
}

#[test]
fn run_exits_by_what_happened() {
    let home = Home::new();
    let denied = home.run("import socket\n");
    exits(&denied, 3);
    assert!(err(&denied).contains("Import of socket is not allowed"), "{}", err(&denied));
    assert!(err(&denied).contains("Do not retry"), "{}", err(&denied));

    let failed = home.run("x = 1\n\nraise ValueError('no')\n");
    exits(&failed, 1);
    assert!(err(&failed).contains("line 3") && err(&failed).contains("ValueError: no"), "{}", err(&failed));

    let stopped = home.run("while True:\n    pass\n");
    exits(&stopped, 4);
    assert!(err(&stopped).contains("[weir] denied code"), "{}", err(&stopped));
}

#[test]
fn every_run_is_on_record_and_a_changed_record_is_found() {
    let home = Home::new();
    exits(&home.run("print(1)\n"), 0);
    exits(&home.run("import socket\n"), 3);
    let sound = home.weir(&["audit", "verify"]);
    exits(&sound, 0);
    let shown = home.weir(&["audit", "show"]);
    exits(&shown, 0);
    assert!(out(&shown).contains("code.run") && out(&shown).contains("code.import"), "{}", out(&shown));

    // Change one digit inside an entry's text, in the pages of the database file.
    let path = home.store().join("journal.db");
    let mut bytes = std::fs::read(&path).unwrap();
    let needle = b"code.import";
    let at = bytes.windows(needle.len()).position(|window| window == needle).expect("the entry is in the main file");
    bytes[at] = b'C';
    std::fs::write(&path, bytes).unwrap();
    let tampered = home.weir(&["audit", "verify"]);
    exits(&tampered, 1);
    assert!(
        out(&tampered).contains("entry") || err(&tampered).contains("entry"),
        "{}{}",
        out(&tampered),
        err(&tampered)
    );
    // And no gate opens on it.
    exits(&home.run("print(1)\n"), 2);
}

#[test]
fn score_says_what_was_declared_and_seen() {
    let home = Home::new();
    exits(&home.run("print(1)\n"), 0);
    let output = home.weir(&["score", "--policy", POLICY, "--json"]);
    exits(&output, 0);
    let report: Value = serde_json::from_str(&out(&output)).unwrap();
    assert!(report["aivss"].is_null(), "no CVSS base, no AIVSS number: {report}");
    let table = home.weir(&["score", "--policy", POLICY]);
    exits(&table, 0);
    assert!(out(&table).contains("prior-only"), "{}", out(&table));
}

#[test]
fn a_policy_with_faults_lists_them_all_with_their_lines() {
    let home = Home::new();
    let path = home.0.path().join("bad.toml");
    std::fs::write(
        &path,
        "[policy]\nid = \"x\"\nextra = 1\n\n[[budget]]\nid = \"b\"\nscope = \"galaxy\"\nkind = \"calls\"\nlimit = -1\n",
    )
    .unwrap();
    for args in [["policy", "check"].as_slice(), &["run", "--policy"]] {
        let mut args = args.to_vec();
        let text = path.display().to_string();
        args.push(&text);
        if args[0] == "run" {
            args.push("examples/scripts/hello.py");
        }
        let output = home.weir(&args);
        exits(&output, 2);
        for line in [":3:", ":7:", ":9:"] {
            assert!(err(&output).contains(line), "no {line} in\n{}", err(&output));
        }
    }
    exits(&home.weir(&["run", "--policy", "nowhere.toml", "x.py"]), 2);
    exits(&home.weir(&["run"]), 2);
    exits(&home.weir(&["fly"]), 2);
}

#[test]
fn a_listing_becomes_a_policy_in_one_pipe() {
    let home = Home::new();
    let imported = home.weir(&["profile", "import", "examples/demo/listing.txt"]);
    exits(&imported, 0);
    let derived = home.weir_with(&["policy", "derive", "-"], &out(&imported));
    exits(&derived, 0);
    let path = home.0.path().join("derived.toml");
    std::fs::write(&path, out(&derived)).unwrap();
    exits(&home.weir(&["policy", "check", path.to_str().unwrap()]), 0);
    exits(&home.weir(&["profile", "import", "examples/scripts/hello.py"]), 2);
}

#[test]
fn a_policy_for_a_coding_agent_is_derived_checked_and_explained() {
    let home = Home::new();
    let profile = "policies/profiles/ml-research.toml";
    let with = ["--client", "claude-code", "--program", "make data=exec", "--allow", "make", "--allow", "job.launch"];
    let derived = home.weir(&[&["policy", "derive", profile], &with[..]].concat());
    exits(&derived, 0);
    let path = home.0.path().join("derived.toml");
    std::fs::write(&path, out(&derived)).unwrap();
    exits(&home.weir(&["policy", "check", path.to_str().unwrap()]), 0);
    let explain = |line: &str| {
        let call = json!({"action": "tool.call", "resource": "Bash", "args": {"command": line}});
        out(&home.weir_with(&["explain", "--policy", path.to_str().unwrap(), "-"], &call.to_string()))
    };
    assert!(explain("make data && git status").contains("programs-granted"));
    assert!(explain("python train.py").contains("weir exec"));
    let refused = home.weir(&["policy", "derive", profile, "--client", "claude-code", "--allow", "Bash"]);
    exits(&refused, 2);
    assert!(err(&refused).contains("allow programs by name"), "{}", err(&refused));
}

#[test]
fn explain_names_the_rule_and_what_would_be_allowed() {
    let home = Home::new();
    let call = r#"{"action":"code.import","resource":"socket"}"#;
    let output = home.weir_with(&["explain", "--policy", POLICY, "-"], call);
    exits(&output, 3);
    assert!(out(&output).contains("deny") && out(&output).contains("math"), "{}", out(&output));
    let twice = home.weir_with(
        &["explain", "--policy", POLICY, "-"],
        r#"{"action":"code.import","action":"code.run","resource":"x"}"#,
    );
    exits(&twice, 2);
    assert!(err(&twice).contains("duplicate key"), "{}", err(&twice));
}

#[test]
fn the_demo_ends_as_recorded() {
    let home = Home::new();
    let output = home.weir(&["demo", "--json"]);
    exits(&output, 0);
    let report: Value = serde_json::from_str(&out(&output)).unwrap();
    for step in report["steps"].as_array().unwrap() {
        assert_eq!(step["status"], step["expected"], "{step}");
    }
    assert!(report["audit"]["found"].as_str().unwrap().contains("entry"));
    let plain = home.weir(&["demo"]);
    exits(&plain, 0);
    assert!(!out(&plain).contains('\u{1b}'), "plain when piped");
}

#[test]
fn two_gates_cannot_share_a_store() {
    let home = Home::new();
    let slow = "while True:\n    pass\n";
    let mut first = Command::new(env!("CARGO_BIN_EXE_weir"))
        .args(["run", "--policy", POLICY, "-"])
        .current_dir(root())
        .env("WEIR_HOME", home.store())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    first.stdin.take().unwrap().write_all(slow.as_bytes()).unwrap();
    let lock = home.store().join("journal.db");
    let started = std::time::Instant::now();
    while !lock.exists() {
        assert!(started.elapsed().as_secs() < 60, "the first run never opened its store");
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    // The store is held from before its file exists until the first process ends.
    let second = home.run("print(1)\n");
    assert!(first.try_wait().unwrap().is_none(), "the first run ended too early to show anything");
    first.kill().unwrap();
    first.wait().unwrap();
    exits(&second, 2);
    assert!(err(&second).contains("another gate"), "{}", err(&second));
    // Killed in mid-run: the next gate ends the open reservation and goes on.
    exits(&home.run("print(1)\n"), 0);
    exits(&home.weir(&["audit", "verify"]), 0);
}

#[test]
fn hostile_programs_are_refused_without_harm() {
    let home = Home::new();
    let nul = home.run("print('a\0b')\n");
    exits(&nul, 1);
    let large = home.run(&"#".repeat(2 << 20));
    exits(&large, 2);
    let loud = home.run("print('x' * 100_000_000)\n");
    exits(&loud, 0);
    assert!(out(&loud).contains("output cut"), "{}", err(&loud));
    assert!(loud.stdout.len() < 2 << 20, "{} bytes got out", loud.stdout.len());
    let escape = home.run("print('\\x1b]52;c;aGk=\\x07\\u202e')\n");
    exits(&escape, 0);
    assert!(!escape.stdout.contains(&0x1b), "{}", out(&escape));
}

#[test]
fn a_receipt_is_replayed_beside_a_gate_and_without_its_tape_nothing_is_said() {
    let home = Home::new();
    let derived = std::fs::read_to_string(root().join(POLICY)).unwrap();
    let real = "clock = \"real\"\nrandomness = \"real\"\nrecord = \"tape\"";
    let text = derived.replace("clock = \"frozen\"\nrandomness = \"seeded\"", real);
    assert_ne!(text, derived);
    let path = home.0.path().join("taped.toml");
    std::fs::write(&path, text).unwrap();
    let policy = path.to_str().unwrap();
    let code = "import random, time\nprint(random.random(), time.time())\n{'a': [1, 2]}\n";
    let ran = home.weir_with(&["run", "--policy", policy, "--json", "-"], code);
    exits(&ran, 0);
    let ran: Value = serde_json::from_str(&out(&ran)).unwrap();
    let id = ran["receipt"]["receipt_id"].as_str().unwrap();
    assert!(ran["receipt"]["execution"]["tape"].as_str().unwrap().starts_with("sha256:"), "{ran}");

    let replayed = home.weir(&["replay", id]);
    exits(&replayed, 0);
    assert!(out(&replayed).starts_with("identical: output, 0 calls"), "{}", out(&replayed));
    let told = home.weir(&["replay", id, "--json"]);
    exits(&told, 0);
    let told: Value = serde_json::from_str(&out(&told)).unwrap();
    assert_eq!((&told["verdict"], &told["steps"]), (&"identical".into(), &1.into()));
    assert_eq!(told["fuel"], ran["usage"]["fuel"], "{told}");

    // A gate that holds the store is no hindrance, and nothing is written.
    let mut gate = Command::new(env!("CARGO_BIN_EXE_weir"))
        .args(["run", "--policy", policy, "-"])
        .current_dir(root())
        .env("WEIR_HOME", home.store())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    gate.stdin.take().unwrap().write_all(b"while True:\n    pass\n").unwrap();
    std::thread::sleep(std::time::Duration::from_millis(300));
    exits(&home.weir(&["replay", id]), 0);
    gate.kill().unwrap();
    gate.wait().unwrap();
    exits(&home.weir(&["audit", "verify"]), 0);

    let plain = home.weir_with(&["run", "--policy", POLICY, "--json", "-"], "print(1)\n");
    let plain: Value = serde_json::from_str(&out(&plain)).unwrap();
    let untaped = home.weir(&["replay", plain["receipt"]["receipt_id"].as_str().unwrap()]);
    exits(&untaped, 2);
    assert!(
        err(&untaped).contains("names no tape") && err(&untaped).contains("record = \"tape\""),
        "{}",
        err(&untaped)
    );
    let unknown = home.weir(&["replay", "nothing"]);
    exits(&unknown, 2);
    assert!(err(&unknown).contains("no receipt has the id `nothing`"), "{}", err(&unknown));

    std::fs::remove_dir_all(home.store().join("sessions/tapes")).unwrap();
    let gone = home.weir(&["replay", id, "--json"]);
    exits(&gone, 2);
    assert!(out(&gone).contains("\"cannot\"") && out(&gone).contains("no tape of this execution"), "{}", out(&gone));
    let journal = home.store().join("journal.db");
    let mut bytes = std::fs::read(&journal).unwrap();
    // Pages that are not used any more may hold old copies: every one is changed.
    let found: Vec<_> = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(b"code.run")).collect();
    assert!(!found.is_empty());
    found.into_iter().for_each(|at| bytes[at] = b'C');
    std::fs::write(&journal, bytes).unwrap();
    let tampered = home.weir(&["replay", id]);
    exits(&tampered, 2);
    assert!(err(&tampered).contains("no receipt of it counts"), "{}", err(&tampered));
}

const TRAINING: &str = r#"
[policy]
id = "training"
[exec]
programs = ["sh"]
read = ["."]
write = []
[exec.limits]
wall_ms = 60_000
cpu_ms = 60_000
memory_bytes = 268_435_456
processes = 32
disk_bytes = 1_000_000
[[rule]]
id = "train"
effect = "allow"
actions = ["process.run"]
"#;

/// A gate that serves, until it is dropped.
struct Served(std::process::Child);

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn exec_runs_a_program_through_a_gate_that_serves() {
    use std::io::BufRead as _;
    let home = Home::new();
    let at = |name: &str| home.0.path().join(name).display().to_string();
    std::fs::create_dir(at("work")).unwrap();
    std::fs::write(at("work/train.toml"), TRAINING).unwrap();
    let (policy, token, socket) = (at("work/train.toml"), at("token"), format!("unix:{}", at("run/exec.sock")));
    let without = "network,landlock,seccomp,memory,processes,cpu";
    let mut gate = Command::new(env!("CARGO_BIN_EXE_weir"));
    gate.args(["serve", "--policy", &policy, "--tcp", "127.0.0.1:0", "--token-file", &token, "--exec", &socket]);
    gate.args(["--exec-without", without, "--store", &at("store")]).stdin(Stdio::null()).stderr(Stdio::piped());
    let mut gate = Served(gate.spawn().unwrap());
    let told = std::io::BufReader::new(gate.0.stderr.take().unwrap());
    let mut told = told.lines().map_while(Result::ok);
    assert!(told.any(|line| line.contains("runs programs for unix:")), "it serves");
    let exec = |more: &[&str]| {
        let words = ["exec", "--gate", &socket, "--token-file", &token].into_iter().chain(more.iter().copied());
        Command::new(env!("CARGO_BIN_EXE_weir")).args(words).current_dir(at("work")).output().unwrap()
    };
    exits(&exec(&["--policy", &policy, "--", "sh"]), 2);
    exits(&exec(&["--without", "cpu", "--", "sh"]), 2);
    let denied = exec(&["--", "perl", "-e", "1"]);
    exits(&denied, 125);
    assert!(err(&denied).contains("perl"), "{}", err(&denied));
    let ran = exec(&["--", "sh", "-c", "echo out; exit 7"]);
    if err(&ran).contains("namespaces") {
        println!("skipped: this machine gives no namespaces");
        return;
    }
    exits(&ran, 7);
    assert_eq!(out(&ran), "out\n");
    drop(gate);
    let alone = exec(&["--", "sh", "-c", "exit 0"]);
    exits(&alone, 125);
    assert!(err(&alone).contains("weir serve --exec"), "{}", err(&alone));
}
