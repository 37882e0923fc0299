//! What a program uses is counted, whoever of it uses it, and kept within its limits.

use std::collections::BTreeSet;

use weir::model::{ExecGrant, ExecLimits, Kind, Millis, ReasonCode};
use weir::native::{Launcher, Wall};

use crate::rig::{Place, exit, lacking, marked, marker, python, used};

/// Children that burn 300 ms each, end, and are not waited for by anybody.
const BURN: &str = r#"
import os, signal, sys, time
if sys.argv[1] == "deaf":
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for _ in range(4):
    read, write = os.pipe()
    if os.fork() == 0:
        while time.process_time() < 0.3:
            pass
        os._exit(0)
    os.close(write)
    os.read(read, 1)
    os.close(read)
    if sys.argv[1] != "deaf":
        os.wait()
"#;

pub fn processor_time_of_every_child_counts() {
    let place = Place::make();
    let Some(python) = python() else { return };
    let script = place.script("burn.py", BURN);
    let deaf = if lacking().contains(&Wall::Cpu) { "waiting" } else { "deaf" };
    let (outcome, said) = place.run(place.launcher(), &place.grant(), &[python, &script, deaf]);
    assert!(exit(&outcome) == 0 && used(&outcome, Kind::CpuMs) >= 1_100, "{said} {outcome:?}");

    let mut grant = place.grant();
    grant.limits = ExecLimits { cpu_ms: Millis(600), ..grant.limits };
    let (outcome, _) = place.run(place.launcher(), &grant, &[python, &script, deaf]);
    assert_eq!((exit(&outcome), outcome.stopped), (124, Some(ReasonCode::LimitReached)), "{outcome:?}");
    assert!(outcome.error.as_ref().unwrap().message.contains("processor time"), "{outcome:?}");
    assert!(used(&outcome, Kind::CpuMs) >= 600, "{outcome:?}");
}

/// Many processes, each with some of it.
const HOLD: &str = r#"
import os, sys, time
for _ in range(4):
    if os.fork() == 0:
        held = bytearray(int(sys.argv[1]) << 20)
        for at in range(0, len(held), 4096):
            held[at] = 1
        time.sleep(30)
time.sleep(30)
"#;

fn hold(place: &Place, launcher: Launcher) {
    let Some(python) = python() else { return };
    let script = place.script("hold.py", HOLD);
    let (mut grant, mark) = (place.grant(), marker());
    grant.limits = ExecLimits { memory_bytes: 96 << 20, wall_ms: Millis(8_000), ..grant.limits };
    let (outcome, said) = place.run(launcher, &grant, &[python, &script, "40", &mark]);
    assert_eq!(marked(&mark), 0);
    assert!(exit(&outcome) == 124 && used(&outcome, Kind::MemoryBytes) > 80 << 20, "{said} {outcome:?}");
    assert!(outcome.error.as_ref().unwrap().message.contains("memory"), "{outcome:?}");
}

pub fn memory_is_kept_within_its_limit() {
    let place = Place::make();
    hold(&place, place.launcher());
    // One alone beyond the limit is ended as such, not as a program that failed.
    let Some(python) = python() else { return };
    let mut grant = place.grant();
    grant.limits = ExecLimits { memory_bytes: 96 << 20, ..grant.limits };
    let (outcome, said) = place.run(place.launcher(), &grant, &[python, "-c", "held = b'x' * (300 << 20)"]);
    let whose = outcome.error.as_ref().map(|error| error.message.clone()).unwrap_or_default();
    assert!(whose.contains("memory") || said.contains("MemoryError"), "{said} {outcome:?}");
}

const FORK: &str = r#"
import os, time
made = 0
try:
    for _ in range(60):
        if os.fork() == 0:
            time.sleep(30)
            os._exit(0)
        made += 1
except OSError:
    pass
print(made)
"#;

pub fn processes_are_kept_within_their_limit() {
    let place = Place::make();
    let Some(python) = python() else { return };
    let script = place.script("fork.py", FORK);
    let mut grant = place.grant();
    grant.limits = ExecLimits { processes: 20, ..grant.limits };
    let (outcome, said) = place.run(place.launcher(), &grant, &[python, &script]);
    if lacking().contains(&Wall::Processes) {
        assert_eq!(exit(&outcome), 124, "{said} {outcome:?}");
        return;
    }
    assert_eq!((exit(&outcome), said.trim()), (0, "19"), "{outcome:?}");
}

pub fn what_is_written_is_kept_within_its_limit() {
    let place = Place::make();
    let mut grant = place.grant();
    grant.limits = ExecLimits { disk_bytes: 4 << 20, wall_ms: Millis(20_000), ..grant.limits };
    let stopped = |grant: &ExecGrant, line: &str, why: &str| {
        let (outcome, said) = place.run(place.launcher(), grant, &["sh", "-c", line]);
        assert_eq!(exit(&outcome), 124, "{line}: {said} {outcome:?}");
        assert!(outcome.error.as_ref().unwrap().message.contains(why), "{outcome:?}");
        outcome
    };
    let many = "i=0; while [ $i -lt 20 ]; do head -c 1000000 /dev/zero > file$i; i=$((i+1)); done; sleep 60";
    let outcome = stopped(&grant, many, "disk");
    assert!(used(&outcome, Kind::DiskBytes) > 4 << 20, "{outcome:?}");
    // A file without a name still takes room.
    stopped(&grant, "exec 3> gone; rm gone; head -c 20000000 /dev/zero >&3; sleep 60", "disk");
    // What cannot be looked through is not nothing.
    let deep = "i=0; while [ $i -lt 200 ]; do mkdir d; cd d; i=$((i+1)); done; sleep 60";
    stopped(&grant, deep, "counted");
    // Within the limit nothing happens, and it is counted.
    let place = Place::make();
    let grant = ExecGrant { limits: grant.limits, ..place.grant() };
    let (outcome, _) = place.run(place.launcher(), &grant, &["sh", "-c", "head -c 1000000 /dev/zero > one; sleep 1"]);
    assert!(exit(&outcome) == 0 && used(&outcome, Kind::DiskBytes) >= 1_000_000, "{outcome:?}");
}

/// Under a name that is no text.
const NAMELESS: &str = "import ctypes; ctypes.CDLL(None).prctl(15, b'\\xff\\xfe) R 1'); [None for _ in iter(int, 1)]";

pub fn without_control_groups_the_limits_still_hold() {
    let place = Place::make();
    let groups = BTreeSet::from([Wall::Memory, Wall::Processes, Wall::Cpu]);
    let launcher = || Launcher { avoid: groups.clone(), without: groups.clone(), ..place.launcher() };
    let Some(python) = python() else { return };
    let burn = place.script("burn.py", BURN);
    let (outcome, _) = place.run(launcher(), &place.grant(), &[python, &burn, "waiting"]);
    assert!(exit(&outcome) == 0 && used(&outcome, Kind::CpuMs) >= 1_100, "{outcome:?}");
    assert_eq!(outcome.notices.len(), 3, "{:?}", outcome.notices);
    let mut grant = place.grant();
    grant.limits = ExecLimits { cpu_ms: Millis(600), ..grant.limits };
    let (outcome, _) = place.run(launcher(), &grant, &[python, "-c", NAMELESS]);
    assert!(exit(&outcome) == 124 && used(&outcome, Kind::CpuMs) >= 600, "{outcome:?}");
    hold(&place, launcher());
    let (fork, mark) = (place.script("fork.py", &format!("{FORK}\ntime.sleep(30)")), marker());
    grant.limits = ExecLimits { processes: 20, ..place.grant().limits };
    let (outcome, _) = place.run(launcher(), &grant, &[python, &fork, &mark]);
    assert_eq!((exit(&outcome), marked(&mark)), (124, 0), "{outcome:?}");
}
