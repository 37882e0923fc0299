//! What is closed by default, tried from the inside with every import granted: the list of modules is not
//! what holds.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::{Value, json};
use weir::model::{Access, CodeGrant, Keep, Preopen, Quota, Status};

use super::desk::{Desk, fresh, grant, message, run_in};

const ALL: [&str; 22] = [
    "os",
    "sys",
    "socket",
    "_socket",
    "io",
    "builtins",
    "posix",
    "pathlib",
    "subprocess",
    "urllib",
    "asyncio",
    "gc",
    "shutil",
    "importlib",
    "platform",
    "tempfile",
    "signal",
    "glob",
    "http",
    "ctypes",
    "_ctypes",
    "_io",
];

/// A grant with every module that could reach out.
fn open() -> CodeGrant {
    let mut grant = grant();
    grant.imports = ALL.map(str::to_owned).to_vec();
    grant
}

/// The type and text of the exception that `code` raises.
fn raised(code: &str, grant: &CodeGrant) -> String {
    let outcome = run_in(&fresh(), code, grant, &Desk::default());
    assert_ne!(outcome.status, Status::Done, "{code}: {:?}", outcome.output);
    let error = outcome.error.unwrap();
    format!("{}: {}", error.kind, error.message)
}

#[test]
fn there_are_no_files() {
    for (code, expected) in [
        ("import io\nio.open('/etc/passwd').read()", "FileNotFoundError"),
        ("import os\nos.open('/etc/passwd', 0)", "FileNotFoundError"),
        ("import os\nos.listdir('/')", "FileNotFoundError"),
        ("import builtins\nbuiltins.open('/proc/self/maps')", "FileNotFoundError"),
        ("import pathlib\npathlib.Path('/etc/hosts').read_text()", "FileNotFoundError"),
        ("import tempfile\ntempfile.mkdtemp()", "FileNotFoundError"),
        ("import io\nio.open('x', 'w')", "FileNotFoundError"),
    ] {
        let told = raised(code, &open());
        assert!(told.starts_with(expected), "{code}: {told}");
    }
}

#[test]
fn there_is_no_environment_no_argument_and_no_input() {
    let code = "import os, sys\n(dict(os.environ), sys.argv, sys.stdin, os.getcwd())";
    let outcome = run_in(&fresh(), code, &open(), &Desk::default());
    assert_eq!(outcome.output, json!({"$": ["tuple", [{}, [], null, "/"]]}), "{:?}", outcome.error);
}

#[test]
fn there_is_no_network() {
    for code in [
        "import socket\nsocket.socket()",
        "import socket\nsocket.create_connection(('127.0.0.1', 80))",
        "import socket\nsocket.getaddrinfo('localhost', 80)",
        "import urllib.request\nurllib.request.urlopen('http://127.0.0.1/')",
        "import http.client\nhttp.client.HTTPConnection('127.0.0.1').request('GET', '/')",
        "import _socket\n_socket.socket()",
    ] {
        let told = raised(code, &open());
        assert!(told.contains("no network"), "{code}: {told}");
    }
    // The original class is still there for one who looks for it, and the component has nothing behind it.
    let code = "import socket\nsocket.socket.__mro__[2](2, 1)";
    let outcome = run_in(&fresh(), code, &open(), &Desk::default());
    assert_ne!(outcome.status, Status::Done, "{:?}", outcome.output);
}

#[test]
fn there_are_no_processes_and_no_native_code() {
    for (code, expected) in [
        ("import subprocess\nsubprocess.run(['id'])", ""),
        ("import os\nos.system('id')", "AttributeError"),
        ("import os\nos.fork()", "AttributeError"),
        ("import ctypes", "ModuleNotFoundError"),
        ("import _ctypes", "ModuleNotFoundError"),
        (
            "[c for c in ().__class__.__mro__[1].__subclasses__() if c.__name__ == '_wrap_close'][0]\
          .__init__.__globals__['system']('id')",
            "KeyError",
        ),
        ("import subprocess\n[c for c in object.__subclasses__() if c.__name__ == 'Popen'][0](['id'])", ""),
    ] {
        let told = raised(code, &open());
        assert!(told.starts_with(expected), "{code}: {told}");
    }
}

fn folder(access: Access, at: &std::path::Path) -> CodeGrant {
    let mut grant = open();
    let quota = (access == Access::Write).then_some(Quota { bytes: 1 << 20, files: 100 });
    grant.files = vec![Preopen { guest: "/data".into(), host: at.to_string_lossy().into_owned(), access, quota }];
    grant.keep = Keep::Nothing;
    grant
}

#[test]
fn a_read_only_folder_gives_its_files_and_nothing_more() {
    let place = tempfile::tempdir().unwrap();
    let data = place.path().join("data");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("a.txt"), "inside").unwrap();
    fs::write(place.path().join("secret"), "outside").unwrap();
    symlink(place.path().join("secret"), data.join("absolute")).unwrap();
    symlink("../secret", data.join("relative")).unwrap();
    symlink("/", data.join("root")).unwrap();
    let grant = folder(Access::Read, &data);

    let outcome = run_in(&fresh(), "open('/data/a.txt').read()", &grant, &Desk::default());
    assert_eq!(outcome.output, json!("inside"), "{:?}", outcome.error);
    for code in [
        "open('/data/absolute').read()",
        "open('/data/relative').read()",
        "open('/data/root/etc/passwd').read()",
        "open('/data/../secret').read()",
        "open('/data/x/../../secret').read()",
        "open('/etc/passwd').read()",
        "open('/data/a.txt', 'w')",
        "open('/data/a.txt', 'a')",
        "open('/data/a.txt', 'r+')",
        "open('/data/new', 'x')",
        "import os\nos.open('/data/a.txt', os.O_RDONLY | os.O_TRUNC)",
        "import os\nos.remove('/data/a.txt')",
        "import os\nos.mkdir('/data/d')",
        "import os\nos.rename('/data/a.txt', '/data/b.txt')",
        "import os\nos.symlink('/etc/passwd', '/data/l')",
        "import os\nos.link('/data/a.txt', '/data/l')",
        "import os\nos.link('/data/../secret', '/data/l')",
        "import os\nos.utime('/data/a.txt', (0, 0))",
        "import os\nos.truncate('/data/a.txt', 0)",
    ] {
        let told = raised(code, &grant);
        assert!(!told.contains("outside"), "{code}: {told}");
    }
    assert_eq!(fs::read_to_string(data.join("a.txt")).unwrap(), "inside");
    assert_eq!(fs::read_dir(&data).unwrap().count(), 4);
}

#[test]
fn a_writable_folder_is_written_inside_and_only_there() {
    let place = tempfile::tempdir().unwrap();
    let data = place.path().join("data");
    fs::create_dir(&data).unwrap();
    fs::write(place.path().join("secret"), "outside").unwrap();
    let grant = folder(Access::Write, &data);
    let code = "open('/data/out.txt', 'w').write('made')\nimport os\nos.mkdir('/data/d')\nos.listdir('/data')";
    let outcome = run_in(&fresh(), code, &grant, &Desk::default());
    assert_eq!(outcome.status, Status::Done, "{:?}", outcome.error);
    assert_eq!(fs::read_to_string(data.join("out.txt")).unwrap(), "made");
    for code in [
        "open('/data/../secret', 'w')",
        "open('/secret', 'w')",
        "import os\nos.rename('/data/out.txt', '/data/../out.txt')",
        "import os\nos.symlink('/etc', '/data/etc')\nos.listdir('/data/etc')",
        "import os\nos.symlink('../secret', '/data/s')\nopen('/data/s', 'w')",
    ] {
        raised(code, &grant);
    }
    assert_eq!(fs::read_to_string(place.path().join("secret")).unwrap(), "outside");
}

#[test]
fn nothing_moves_from_one_folder_to_a_stricter_one() {
    let place = tempfile::tempdir().unwrap();
    let (written, read) = (place.path().join("w"), place.path().join("r"));
    fs::create_dir(&written).unwrap();
    fs::create_dir(&read).unwrap();
    fs::write(read.join("a"), "kept").unwrap();
    let mut grant = folder(Access::Write, &written);
    let host = read.to_string_lossy().into_owned();
    grant.files.push(Preopen { guest: "/read".into(), host, access: Access::Read, quota: None });
    for code in [
        "import os\nopen('/data/x', 'w').close()\nos.rename('/data/x', '/read/x')",
        "import os\nopen('/data/x', 'w').close()\nos.link('/data/x', '/read/x')",
        "import os\nos.rename('/read/a', '/data/a')",
        "import os\nos.link('/read/a', '/data/a')\nopen('/data/a', 'w')",
        "import os\nos.replace('/data/../r/a', '/data/b')",
    ] {
        raised(code, &grant);
        assert_eq!(fs::read_to_string(read.join("a")).unwrap(), "kept", "{code}");
        assert_eq!(fs::read_dir(&read).unwrap().count(), 1, "{code}");
    }
}

#[test]
fn a_pipe_that_nobody_writes_to_does_not_hold_a_program() {
    let place = tempfile::tempdir().unwrap();
    let made = std::process::Command::new("mkfifo").arg(place.path().join("pipe")).status().unwrap();
    assert!(made.success());
    let mut grant = folder(Access::Read, place.path());
    grant.limits.wall_ms.0 = 500;
    let started = std::time::Instant::now();
    let outcome = run_in(&fresh(), "open('/data/pipe').read()", &grant, &Desk::default());
    assert_ne!(outcome.status, Status::Broken, "{outcome:?}");
    assert!(started.elapsed() < std::time::Duration::from_millis(900), "{:?}", started.elapsed());
}

#[test]
fn a_missing_folder_is_told_without_its_host_path() {
    let grant = folder(Access::Read, std::path::Path::new("/nonexistent/weir-secret-place"));
    let outcome = run_in(&fresh(), "1", &grant, &Desk::default());
    assert_eq!(outcome.status, Status::Broken);
    assert!(message(&outcome).contains("/data") && !message(&outcome).contains("weir-secret-place"));
    assert_eq!(outcome.output, Value::Null);
}

#[test]
fn timers_without_end_do_not_fill_the_host() {
    let mut grant = open();
    grant.limits.wall_ms.0 = 1_500;
    let code = "import asyncio\nasync def m():\n    await asyncio.gather(*(asyncio.sleep(0.001 * (i % 7)) for i in range(10**5)))\nasyncio.run(m())";
    let outcome = run_in(&fresh(), code, &grant, &Desk::default());
    assert!(matches!(outcome.status, Status::Done | Status::Exhausted | Status::Failed), "{outcome:?}");
}
