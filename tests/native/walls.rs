//! What a program cannot reach: the network, files, devices, other processes, the kernel's side doors; and what is said
//! where a wall is missing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read as _;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode, Stdio};
use std::thread;

use weir::model::{ExecGrant, ExecLimits, Network, Status};
use weir::native::{Door, Driver, Launcher, Wall, Way};

use crate::rig::{Place, able, exit, lacking, marker, python};

fn run_python(place: &Place, launcher: Launcher, grant: &ExecGrant, text: &str, words: &[&str]) -> Option<String> {
    let python = python()?;
    let script = place.script("script.py", text);
    let argv: Vec<&str> = [python, &script].iter().chain(words).copied().collect();
    let (outcome, said) = place.run(launcher, grant, &argv);
    assert_eq!(exit(&outcome), 0, "{said} {outcome:?}");
    Some(said)
}

const REACH: &str = r#"
import socket, sys
def tried(what, act):
    try:
        act()
        print(what, "reached")
    except OSError as error:
        print(what, "kept")
tcp, udp = int(sys.argv[1]), int(sys.argv[2])
tried("tcp", lambda: socket.create_connection(("127.0.0.1", tcp), 2))
tried("v6", lambda: socket.create_connection(("::1", tcp), 2))
tried("far", lambda: socket.create_connection(("192.0.2.1", 80), 2))
tried("name", lambda: socket.getaddrinfo("example.com", 80))
def datagram():
    one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    one.connect(("127.0.0.1", udp)); one.send(b"x"); one.settimeout(1); one.send(b"x"); one.recv(1)
tried("udp", datagram)
tried("abstract", lambda: socket.socket(socket.AF_UNIX).connect("\0" + sys.argv[3]))
def own():
    here = socket.create_server(("127.0.0.1", 0))
    socket.create_connection(here.getsockname(), 2)
tried("own", own)
"#;

pub fn the_network_of_the_machine_is_out_of_reach() {
    let (tcp, udp) = (TcpListener::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
    tcp.set_nonblocking(true).unwrap();
    let (mark, place) = (marker(), Place::make());
    let name =
        <std::os::unix::net::SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(&mark).unwrap();
    let _abstract = UnixListener::bind_addr(&name).unwrap();
    let words = [tcp.local_addr().unwrap().port().to_string(), udp.local_addr().unwrap().port().to_string(), mark];
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let Some(said) = run_python(&place, place.launcher(), &place.grant(), REACH, &words) else { return };
    let wanted = "tcp kept\nv6 kept\nfar kept\nname kept\nudp kept\nabstract kept\nown reached\n";
    assert_eq!(said, wanted);
    assert!(tcp.accept().is_err(), "somebody came");
}

const KNOCK: &str = r#"
import socket, sys
for port in sys.argv[1:]:
    try:
        door = socket.create_connection(("127.0.0.1", int(port)), 5)
        door.sendall(b"hello"); door.shutdown(socket.SHUT_WR)
        print(port, door.makefile().read())
    except OSError:
        print(port, "shut")
"#;

/// Answers every connection with what it said, in capitals.
fn shout(mut stream: impl std::io::Read + std::io::Write) {
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    stream.write_all(said.to_uppercase().as_bytes()).unwrap();
}

pub fn a_door_leads_to_the_gate_and_nowhere_else() {
    let (place, gate, other) =
        (Place::make(), TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
    let (address, elsewhere) = (gate.local_addr().unwrap(), other.local_addr().unwrap().port().to_string());
    let path = place.secret.join("gate");
    let unix = UnixListener::bind(&path).unwrap();
    thread::spawn(move || gate.incoming().for_each(|stream| shout(stream.unwrap())));
    thread::spawn(move || unix.incoming().for_each(|stream| shout(stream.unwrap())));
    let doors = vec![Door { port: address.port(), way: Way::Tcp(address) }, Door { port: 4_711, way: Way::Unix(path) }];
    let words = [address.port().to_string(), "4711".to_owned(), elsewhere.clone()];
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let open = ExecGrant { network: Network::Gate, ..place.grant() };
    let launcher = || Launcher { doors: doors.clone(), ..place.launcher() };
    let Some(said) = run_python(&place, launcher(), &open, KNOCK, &words) else { return };
    assert_eq!(said, format!("{} HELLO\n4711 HELLO\n{elsewhere} shut\n", address.port()));
    let said = run_python(&place, launcher(), &place.grant(), KNOCK, &words).unwrap();
    assert_eq!(said, format!("{} shut\n4711 shut\n{elsewhere} shut\n", address.port()), "doors without a grant");
    assert!(TcpStream::connect(address).is_ok());
    let far = vec![Door { port: 80, way: Way::Tcp("192.0.2.1:80".parse().unwrap()) }];
    let (outcome, _) = place.run(Launcher { doors: far, ..place.launcher() }, &open, &["sh", "-c", "exit 0"]);
    assert_eq!(exit(&outcome), 125, "{outcome:?}");
}

pub fn files_outside_the_grant_do_not_exist_and_cannot_be_made() {
    let place = Place::make();
    let [data, out, secret] = [&place.data, &place.out, &place.secret].map(|path| path.display().to_string());
    assert_eq!(
        place.shell(&format!("cat {data}/given; cp {data}/given {out}/copy; mkdir {out}/deep; cat {out}/copy")),
        "givengiven"
    );
    for line in [
        format!("cat {secret}/canary"),
        format!("ls {secret}"),
        format!("echo no > {secret}/new"),
        format!("echo no > {data}/new"),
        format!("echo no >> {data}/given"),
        format!("chmod 777 {data}/given"),
        format!("touch {data}/given"),
        format!("ln -s {secret} {out}/way; cat {out}/way/canary"),
        format!("mv {out}/copy {data}/copy"),
        "echo no > /usr/new".into(),
        "echo no > /new".into(),
        "mkdir /etc/new".into(),
        "cat /etc/shadow".into(),
        "ls /root/. /home/.".into(),
        "cat /proc/1/environ /proc/1/maps".into(),
        "echo 1 > /proc/sys/kernel/core_pattern".into(),
        "echo 0 > /proc/self/oom_score_adj".into(),
        "cat /dev/kmsg".into(),
        "ls /sys/fs/cgroup/.".into(),
        format!("mknod {out}/disk b 254 0"),
        "test -S /run/docker.sock -o -e /run/systemd -o -e /var/run".into(),
    ] {
        let (outcome, said) = place.run(place.launcher(), &place.grant(), &["sh", "-c", &line]);
        assert!(!matches!(exit(&outcome), 0 | 124 | 125), "{line}: {said} {outcome:?}");
        assert!(!said.contains("sings"), "{line}: {said}");
    }
    assert_eq!(fs::read_to_string(place.data.join("given")).unwrap(), "given");
    assert!(!place.secret.join("new").exists() && !place.data.join("copy").exists());
    // Temporary files are private, and gone with the program.
    let mark = marker();
    assert_eq!(
        place.shell(&format!("echo x > /tmp/{mark}; echo y > /dev/shm/{mark}; cat /tmp/{mark} /dev/shm/{mark}")),
        "x\ny\n"
    );
    assert!(!fs::exists(format!("/tmp/{mark}")).unwrap() && !fs::exists(format!("/dev/shm/{mark}")).unwrap());
}

pub fn nothing_is_inherited() {
    let place = Place::make();
    let mut launcher = place.launcher();
    launcher.environment = BTreeMap::from([("TOKEN".into(), "secret".into()), ("MODE".into(), "train".into())]);
    let grant = ExecGrant { env: vec!["MODE".into(), "ABSENT".into()], ..place.grant() };
    // Left open on purpose: the program must not have it.
    let open = fs::File::open(place.secret.join("canary")).unwrap();
    rustix::io::fcntl_setfd(&open, rustix::io::FdFlags::empty()).unwrap();
    let (outcome, said) = place.run(
        launcher,
        &grant,
        &["sh", "-c", "env; for one in /proc/self/fd/*; do echo $one; done; ls -l /proc/self/fd"],
    );
    rustix::io::fcntl_setfd(&open, rustix::io::FdFlags::CLOEXEC).unwrap();
    assert_eq!(exit(&outcome), 0, "{said}");
    assert!(!said.contains("secret") && !said.contains("canary") && said.contains("MODE=train"), "{said}");
    let known = [
        "CUDA_VISIBLE_DEVICES",
        "HIP_VISIBLE_DEVICES",
        "HOME",
        "LANG",
        "MODE",
        "NVIDIA_VISIBLE_DEVICES",
        "PATH",
        "PWD",
        "ROCR_VISIBLE_DEVICES",
        "TMPDIR",
        "OLDPWD",
        "_",
        "SHLVL",
    ];
    let names: BTreeSet<&str> = said.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
    assert!(names.iter().all(|name| known.contains(name)), "{names:?}");
    let sockets = said.lines().filter(|line| line.contains("socket:")).count();
    assert_eq!(sockets, 0, "{said}");
}

/// Numbers of x86_64 and of aarch64 where they are not the same.
const CALLS: &str = r#"
import ctypes, os, platform, signal
libc = ctypes.CDLL(None, use_errno=True)
arm = platform.machine() == "aarch64"
calls = {
    "ptrace": (117 if arm else 101, 0, 0, 0, 0),
    "unshare": (97 if arm else 272, 0x10000000, 0, 0, 0),
    "setns": (268 if arm else 308, 0, 0, 0, 0),
    "mount": (40 if arm else 165, b"none", b"/tmp", b"tmpfs", 0),
    "open_tree": (428, -100, b"/", 1, 0),
    "bpf": (280 if arm else 321, 0, 0, 0, 0),
    "perf": (241 if arm else 298, 0, 0, -1, 0),
    "keyctl": (219 if arm else 250, 0, 0, 0, 0),
    "io_uring": (425, 1, 0, 0, 0),
    "userfaultfd": (282 if arm else 323, 0, 0, 0, 0),
    "vm_read": (270 if arm else 310, 1, 0, 0, 0),
    "packet": (198 if arm else 41, 17, 3, 0, 0),
    "netlink": (198 if arm else 41, 16, 3, 0, 0),
    "vsock": (198 if arm else 41, 40, 1, 0, 0),
    "typing": (29 if arm else 16, 0, 0x5412, b"x", 0),
    "typing high": (29 if arm else 16, 0, 0x100005412, b"x", 0),
    "clone user": (220 if arm else 56, 0x10000011, 0, 0, 0),
    "clone3": (435, 0, 0, 0, 0),
    "pidfd_getfd": (438, 0, 0, 0, 0),
    "openat2": (437, -100, b"/tmp", 0, 0),
    "personality": (92 if arm else 135, 0, 0, 0, 0),
}
if not arm:
    calls["foreign"] = (0x40000000 + 39, 0, 0, 0, 0)
for name, (number, *rest) in calls.items():
    rest = [ctypes.c_long(one) if isinstance(one, int) else ctypes.c_char_p(one) for one in rest]
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *rest)
    if result != -1 or ctypes.get_errno() not in (1, 38):
        print(name, "came through:", result, ctypes.get_errno())
for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP):
    try:
        os.kill(1, number)
    except OSError:
        pass
def made(what, act):
    try:
        act()
        print(what, "came through")
    except PermissionError:
        pass
open("plain", "w").close()
made("chmod", lambda: os.chmod("plain", 0o4755))
made("chmod group", lambda: os.chmod("plain", 0o2755))
made("open", lambda: os.open("power", os.O_CREAT | os.O_WRONLY, 0o4755))
made("tmpfile", lambda: os.open(".", os.O_TMPFILE | os.O_WRONLY, 0o4755))
os.chmod("plain", 0o755)
for line in open("/proc/self/status"):
    if line.split(":")[0] in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp"):
        print(*line.split())
"#;

pub fn no_call_leads_out() {
    if lacking().contains(&Wall::Seccomp) {
        return;
    }
    let place = Place::make();
    let Some(said) = run_python(&place, place.launcher(), &place.grant(), CALLS, &[]) else { return };
    let none = "0000000000000000";
    let wanted = format!(
        "CapInh: {none}\nCapPrm: {none}\nCapEff: {none}\nCapBnd: {none}\nCapAmb: {none}\nNoNewPrivs: 1\nSeccomp: 2\n"
    );
    assert_eq!(said, wanted);
}

pub fn no_gpu_is_seen_unless_granted() {
    let place = Place::make();
    assert_eq!(place.shell("echo \"[$CUDA_VISIBLE_DEVICES]\"; ls /dev | grep -c nvidia || true"), "[]\n0\n");
    if weir::native::Board::cards(&Driver::find()).is_ok_and(|cards| !cards.is_empty()) {
        println!("skipped: this machine has a GPU, so the refusal for want of one is not tested");
        return;
    }
    let grant = ExecGrant { gpus: 1, ..place.grant() };
    let (outcome, _) = place.run(place.launcher(), &grant, &["sh", "-c", "exit 0"]);
    let why = outcome.error.unwrap().message;
    assert_eq!((outcome.output["exit"].as_u64(), outcome.status), (Some(125), Status::Broken));
    assert!(why.contains("NVIDIA"), "{why}");
}

pub fn a_missing_wall_is_refused_and_said() {
    let place = Place::make();
    for wall in Wall::all() {
        let mut launcher = place.launcher();
        launcher.avoid.insert(wall);
        launcher.without.remove(&wall);
        let (outcome, _) = place.run(launcher, &place.grant(), &["sh", "-c", "echo ran > ran"]);
        let why = outcome.error.as_ref().unwrap().message.clone();
        assert_eq!((exit(&outcome), outcome.status), (125, Status::Broken), "{why}");
        assert!(why.len() < 400 && why.contains(&format!("--without {wall}")), "{why}");
        assert!(!place.out.join("ran").exists());

        let mut launcher = place.launcher();
        launcher.avoid.insert(wall);
        launcher.without.insert(wall);
        // The root itself is granted to nobody: to list it only Landlock forbids.
        let (outcome, said) = place.run(launcher, &place.grant(), &["sh", "-c", "ls / > list && echo listed; exit 0"]);
        assert_eq!(exit(&outcome), 0, "{wall}: {said} {outcome:?}");
        assert_eq!(
            said.contains("listed"),
            wall == Wall::Landlock || lacking().contains(&Wall::Landlock),
            "{wall}: {said}"
        );
        assert!(outcome.notices.iter().any(|notice| notice.contains(&format!("`{wall}`"))), "{:?}", outcome.notices);
    }
}

pub fn a_program_that_cannot_be_run_is_said_as_a_shell_does() {
    let place = Place::make();
    let script = |path: std::path::PathBuf, text: &str| {
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path.display().to_string()
    };
    let outside = script(place.secret.join("tool"), "#!/bin/sh\nexit 0\n");
    let written = script(place.out.join("tool"), "#!/bin/sh\nexit 0\n");
    let given = script(place.data.join("tool"), "#!/bin/sh\nexit 9\n");
    let orphan = script(place.data.join("orphan"), "#!/nowhere/interpreter\n");
    for (program, code) in [("weir-no-such", 127), (&outside, 126), (&written, 126), (&given, 9), (&orphan, 127)] {
        let (outcome, said) = place.run(place.launcher(), &place.grant(), &[program]);
        assert_eq!(exit(&outcome), code, "{program}: {said} {outcome:?}");
    }
    let mut launcher = place.launcher();
    launcher.cwd.clone_from(&place.secret);
    let (outcome, _) = place.run(launcher, &place.grant(), &["sh", "-c", "exit 0"]);
    assert_eq!((exit(&outcome), outcome.status), (126, Status::Broken), "{outcome:?}");
    for folder in ["/", "/proc", "/nonexistent/weir"] {
        let grant = ExecGrant { read: vec![folder.into()], ..place.grant() };
        let (outcome, _) = place.run(place.launcher(), &grant, &["sh", "-c", "exit 0"]);
        assert_eq!(exit(&outcome), 125, "{folder}: {outcome:?}");
        assert!(outcome.error.unwrap().message.contains("`read` of [exec]"));
    }
}

/// Behind the walls there are no further namespaces, as on a machine that gives none.
pub fn without_namespaces_nothing_is_started() {
    let (place, own) = (Place::make(), std::env::current_exe().unwrap());
    let mut grant = place.grant();
    grant.read.push(own.parent().unwrap().display().to_string());
    let (outcome, said) = place.run(place.launcher(), &grant, &[own.to_str().unwrap(), "role:plain"]);
    assert_eq!((exit(&outcome), said.trim()), (0, "no namespaces"), "{outcome:?}");
}

/// The same walls for a user who is nobody, in a user namespace; or a refusal where there is none.
pub fn without_privileges_the_walls_are_the_same() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: these tests are run by an ordinary user, so that all of them test this");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let own = folder.path().join("own");
    fs::copy(std::env::current_exe().unwrap(), &own).unwrap();
    let mut plain = Command::new(own);
    let plain = plain.arg("role:plain").env("TMPDIR", folder.path()).uid(65_534).gid(65_534).stdin(Stdio::null());
    let mut plain = plain.stdout(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    plain.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(plain.wait().unwrap().success(), "{said}");
    if said.contains("no namespaces") {
        println!("skipped: an ordinary user has no user namespaces here; the refusal is tested");
    }
}

pub fn play(_: &[String]) -> ExitCode {
    if !able() {
        println!("no namespaces");
        return ExitCode::SUCCESS;
    }
    let place = Place::make();
    // Without control groups: refused by name, unless they are waived.
    let mut strict = place.launcher();
    strict.without.clear();
    if !lacking().is_empty() {
        let (outcome, _) = place.run(strict, &place.grant(), &["sh", "-c", "exit 0"]);
        assert_eq!(exit(&outcome), 125, "{outcome:?}");
    }
    the_network_of_the_machine_is_out_of_reach();
    files_outside_the_grant_do_not_exist_and_cannot_be_made();
    no_call_leads_out();
    // The kernel counts this user's processes in the namespace even without a control group.
    let mut grant = place.grant();
    grant.limits = ExecLimits { processes: 12, ..grant.limits };
    let line = "i=0; while [ $i -lt 40 ]; do sleep 5 & i=$((i+1)); done 2>/dev/null; exit 0";
    let (outcome, said) = place.run(place.launcher(), &grant, &["sh", "-c", line]);
    assert_ne!(exit(&outcome), 0, "{said} {outcome:?}");
    ExitCode::SUCCESS
}
