//! How programs end: by themselves, at their budget, with their launcher; and that nothing stays.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use weir::model::{ExecLimits, Kind, Millis, ReasonCode, Status};

use crate::rig::{Nobody, Place, exit, marked, marker, python, used};

/// Forks, leaves its session, is orphaned, ignores every signal that can be, stops itself.
const STUBBORN: &str = r#"
import os, signal, sys, time
def deaf():
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGUSR1, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
def stay():
    while True:
        time.sleep(0.05)
deaf()
for kind in range(5):
    if os.fork() == 0:
        if kind >= 1:
            os.setsid()
        if kind >= 2 and os.fork():
            os._exit(0)
        if kind == 3:
            os.kill(os.getpid(), signal.SIGSTOP)
        if kind == 4:
            while True:
                pass
        stay()
stay()
"#;

/// The same for a shell, without sessions.
const STUBBORN_SHELL: &str = "trap '' TERM HUP INT USR1; (sh -c 'trap \"\" TERM; while :; do sleep 0.1; done' \"$1\" &) ; \
                              while :; do sleep 0.1; done";

/// What training programs are made of works behind the walls.
const ORDINARY: &str = r#"
import asyncio, ctypes, getpass, multiprocessing, os, socket, sqlite3, ssl, subprocess, tempfile, threading
from multiprocessing import shared_memory
def square(number):
    return number * number
if __name__ == "__main__":
    with multiprocessing.Pool(3) as pool:
        print(pool.map(square, range(4)))
    shared = shared_memory.SharedMemory(create=True, size=1 << 20)
    shared.buf[0] = 1; shared.close(); shared.unlink()
    ssl.create_default_context(); getpass.getuser(); socket.gethostname(); os.cpu_count()
    print(subprocess.run(["sh", "-c", "echo child"], capture_output=True, text=True).stdout.strip())
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"x")
    books = sqlite3.connect("books"); books.execute("create table one (a)"); books.commit()
    async def talk():
        server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        print(await reader.read()); server.close()
    asyncio.run(talk())
    threads = [threading.Thread(target=os.getpid) for _ in range(8)]
    [one.start() for one in threads]; [one.join() for one in threads]
    print(open("/proc/meminfo").readline().split()[0])
"#;

pub fn an_ordinary_training_program_works() {
    let place = Place::make();
    let Some(python) = python() else { return };
    let script = place.script("ordinary.py", ORDINARY);
    let (outcome, said) = place.run(place.launcher(), &place.grant(), &[python, &script]);
    assert_eq!(exit(&outcome), 0, "{said} {outcome:?}");
    assert_eq!(said, "[0, 1, 4, 9]\nchild\nb''\nMemTotal:\n");
    assert_eq!(outcome.notices.len(), crate::rig::lacking().len(), "{:?}", outcome.notices);
}

pub fn a_program_runs_and_its_code_is_told() {
    let place = Place::make();
    let grant = place.grant();
    let (outcome, said) = place.run(place.launcher(), &grant, &["sh", "-c", "echo out; echo err >&2; cat; exit 7"]);
    assert_eq!((exit(&outcome), outcome.status, said.as_str()), (7, Status::Failed, "out\nerr\n"), "{outcome:?}");
    let (outcome, _) = place.run(place.launcher(), &grant, &["sh", "-c", "kill -9 $$"]);
    assert_eq!(exit(&outcome), 137, "{outcome:?}");
    let (outcome, _) = place.run(place.launcher(), &grant, &["sh", "-c", "echo kept > kept; exit 0"]);
    assert_eq!((exit(&outcome), outcome.status), (0, Status::Done), "{outcome:?}");
    assert_eq!(fs::read_to_string(place.out.join("kept")).unwrap(), "kept\n");
    assert_eq!(used(&outcome, Kind::GpuMs), 0);
}

fn limits(grant: &ExecLimits, wall: u64, grace: u64) -> ExecLimits {
    ExecLimits { wall_ms: Millis(wall), grace_ms: Millis(grace), ..*grant }
}

pub fn a_tree_that_will_not_go_is_gone_at_its_budget() {
    let (place, mark) = (Place::make(), marker());
    let mut grant = place.grant();
    grant.limits = limits(&grant.limits, 1_500, 300);
    let mut launcher = place.launcher();
    let (most, seen) = (Arc::new(AtomicUsize::new(0)), mark.clone());
    let highest = Arc::clone(&most);
    launcher.watch = Box::new(move |_| {
        highest.fetch_max(marked(&seen), Ordering::Relaxed);
    });
    let script = place.script("stubborn.py", STUBBORN);
    let (argv, wanted) = match python() {
        Some(python) => (vec![python, &script, &mark], 6),
        None => (vec!["sh", "-c", STUBBORN_SHELL, &mark, &mark], 2),
    };
    let (outcome, said) = place.run(launcher, &grant, &argv);
    assert!(
        most.load(Ordering::Relaxed) >= wanted,
        "{} of {wanted} ran: {said} {outcome:?}",
        most.load(Ordering::Relaxed)
    );
    assert_eq!(marked(&mark), 0, "somebody is left");
    assert_eq!(
        (exit(&outcome), outcome.status, outcome.stopped),
        (124, Status::Exhausted, Some(ReasonCode::LimitReached))
    );
    assert!(outcome.error.unwrap().message.contains("wall time"));
}

pub fn a_fork_bomb_is_gone_at_its_budget() {
    let (place, mark) = (Place::make(), marker());
    let mut grant = place.grant();
    grant.limits = ExecLimits { processes: 40, ..limits(&grant.limits, 1_500, 0) };
    let Some(python) = python() else { return };
    let bomb = place
        .script("bomb.py", "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass\n");
    let (outcome, _) = place.run(place.launcher(), &grant, &[python, &bomb, &mark]);
    assert_eq!(exit(&outcome), 124, "{outcome:?}");
    assert_eq!(marked(&mark), 0);
}

pub fn what_a_program_leaves_behind_ends_with_it() {
    let (place, mark) = (Place::make(), marker());
    let line = "(trap '' HUP; sh -c 'while :; do sleep 0.1; done' \"$0\" &) ; exit 3";
    let (outcome, _) = place.run(place.launcher(), &place.grant(), &["sh", "-c", line, &mark]);
    assert_eq!((exit(&outcome), marked(&mark)), (3, 0), "{outcome:?}");
}

/// This program as a launcher of a stubborn program; it says when the program runs, and is killed.
pub fn a_launcher_that_is_killed_leaves_nothing() {
    let mark = marker();
    let mut launcher = Command::new(std::env::current_exe().unwrap());
    let launcher =
        launcher.args(["role:launch", &mark]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut launcher = launcher.spawn().unwrap();
    let mut lines = BufReader::new(launcher.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "running"));
    // The launcher itself has the mark too.
    assert!(marked(&mark) > 2);
    launcher.kill().unwrap();
    launcher.wait().unwrap();
    let gone = (0..400).any(|_| {
        thread::sleep(Duration::from_millis(10));
        marked(&mark) == 0
    });
    assert!(gone, "{} are left", marked(&mark));
}

/// One that stands still keeps no limit, so that the tree does not outlast its silence.
pub fn a_launcher_that_is_stopped_keeps_nothing_alive() {
    let mark = marker();
    let mut launcher = Command::new(std::env::current_exe().unwrap());
    let launcher = launcher.args(["role:launch", &mark]).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut launcher = launcher.stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(launcher.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "running"));
    let process = rustix::process::Pid::from_child(&launcher);
    rustix::process::kill_process(process, rustix::process::Signal::STOP).unwrap();
    // Its own line of arguments has the mark, too.
    let gone = (0..600).any(|_| {
        thread::sleep(Duration::from_millis(100));
        marked(&mark) == 1
    });
    assert!(gone, "{} are left", marked(&mark));
    launcher.kill().unwrap();
    launcher.wait().unwrap();
}

pub fn play(words: &[String]) -> ExitCode {
    let (place, mark) = (Place::make(), words[0].clone());
    let mut launcher = place.launcher();
    let (said, seen) = (AtomicBool::new(false), mark.clone());
    launcher.watch = Box::new(move |_| {
        if marked(&seen) > 3 && !said.swap(true, Ordering::Relaxed) {
            println!("running");
        }
    });
    let script = place.script("stubborn.py", STUBBORN);
    let argv = match python() {
        Some(python) => vec![python, &script, &mark],
        None => vec!["sh", "-c", STUBBORN_SHELL, &mark, &mark],
    };
    let _ = place.run(launcher, &place.grant(), &argv);
    ExitCode::SUCCESS
}

pub fn a_program_is_told_before_it_is_ended() {
    let place = Place::make();
    let mut grant = place.grant();
    grant.limits = limits(&grant.limits, 700, 4_000);
    // Saves at SIGUSR1 and goes on; ends by itself at SIGTERM.
    let line = "trap 'echo saved >> told' USR1; trap 'echo ended >> told; exit 5' TERM; while :; do sleep 0.1; done";
    let (outcome, said) = place.run(place.launcher(), &grant, &["sh", "-c", line]);
    assert_eq!(fs::read_to_string(place.out.join("told")).unwrap(), "saved\nended\n", "{said}");
    assert_eq!((exit(&outcome), outcome.status), (124, Status::Exhausted), "{outcome:?}");
    assert!(outcome.error.as_ref().unwrap().message.contains("within its grace, with code 5"), "{outcome:?}");
    // One that does not wait for SIGUSR1 is not ended by it: SIGTERM comes at once.
    let line = "trap 'echo only >> term; exit 6' TERM; while :; do sleep 0.1; done";
    let (outcome, _) = place.run(place.launcher(), &grant, &["sh", "-c", line]);
    assert_eq!((exit(&outcome), fs::read_to_string(place.out.join("term")).unwrap().as_str()), (124, "only\n"));
}

pub fn a_signal_is_handed_on_once_and_a_second_ends_everything() {
    let (place, mark) = (Place::make(), marker());
    let mut launcher = place.launcher();
    let (signal, count, out) = (Arc::clone(&launcher.signal), AtomicUsize::new(0), place.out.clone());
    launcher.watch = Box::new(move |_| {
        let ready = out.join("ready").exists() && count.load(Ordering::Relaxed) == 0;
        let again = out.join("heard").exists() && count.load(Ordering::Relaxed) == 1;
        if ready || again {
            count.fetch_add(1, Ordering::Relaxed);
            signal.store(2, Ordering::Relaxed);
        }
    });
    let line = "trap 'echo heard >> heard' INT; echo > ready; while :; do sleep 0.1; done";
    let (outcome, _) = place.run(launcher, &place.grant(), &["sh", "-c", line, &mark]);
    assert_eq!(fs::read_to_string(place.out.join("heard")).unwrap(), "heard\n");
    assert_eq!((exit(&outcome), outcome.status, marked(&mark)), (130, Status::Failed, 0), "{outcome:?}");
}

/// A gate that a script starts in the background ignores what comes from the terminal; its programs do not.
pub fn a_program_hears_its_signals_whatever_the_gate_ignores() {
    let line = "trap '' HUP INT QUIT USR1 USR2 TERM; exec \"$@\"";
    let tests = ["a_signal_is_handed_on_once", "a_program_is_told_before_it_is_ended"];
    let own = std::env::current_exe().unwrap();
    let ran = Command::new("sh").args(["-c", line, "sh"]).arg(own).args(tests).output().unwrap();
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success() && said.contains("2 passed"), "{said}");
}

pub fn a_revocation_ends_everything() {
    let (place, mark, asks) = (Place::make(), marker(), Arc::new(Nobody::default()));
    let mut launcher = place.launcher();
    let (revoked, out) = (Arc::clone(&asks), place.out.clone());
    launcher.watch = Box::new(move |_| revoked.cancelled.store(out.join("ready").exists(), Ordering::Relaxed));
    let line = "trap '' TERM; echo > ready; while :; do sleep 0.1; done";
    let (outcome, _) = place.run_asking(launcher, &place.grant(), &["sh", "-c", line, &mark], &*asks);
    assert_eq!(
        (exit(&outcome), outcome.stopped, marked(&mark)),
        (124, Some(ReasonCode::AccountRevoked), 0),
        "{outcome:?}"
    );
}
