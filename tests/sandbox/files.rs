//! Folders of a policy: what may be read, and how much may be written, whatever a program tries.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, Instant};

use weir::model::{Access, CodeGrant, Keep, Outcome, Preopen, Quota, Status};

use crate::desk::{Desk, fresh, grant, message, run_in};

const BYTES: u64 = 200_000;
const FILES: u64 = 20;

fn folder(guest: &str, host: &Path, quota: Option<Quota>) -> Preopen {
    let access = if quota.is_some() { Access::Write } else { Access::Read };
    Preopen { guest: guest.into(), host: host.to_string_lossy().into_owned(), access, quota }
}

fn granted(files: Vec<Preopen>) -> CodeGrant {
    let mut grant = grant();
    grant.imports.extend(["shutil", "tempfile", "io", "errno", "pathlib"].map(str::to_owned));
    grant.files = files;
    grant.keep = Keep::Nothing;
    grant
}

/// A program that ends well under a quota of [`BYTES`] and [`FILES`]; the folder holds no more afterwards.
#[track_caller]
fn within(host: &Path, code: &str) -> Outcome {
    let grant = granted(vec![folder("/w", host, Some(Quota { bytes: BYTES, files: FILES }))]);
    let outcome = run_in(&fresh(), &format!("{HEAD}{code}"), &grant, &Desk::default());
    assert_eq!(outcome.status, Status::Done, "{code}: {:?}\n{}", outcome.error, outcome.logs);
    let (bytes, files) = size(host);
    assert!(bytes <= BYTES && files <= FILES, "{code}: {bytes} bytes in {files} files");
    outcome
}

/// What every program here can use: `full(f, ...)` is true when `f` says that there is no space left.
const HEAD: &str = "
import os, errno, shutil
Q, F = 200_000, 20
def full(f, *args, **more):
    try:
        f(*args, **more)
    except OSError as e:
        # The guest's C library knows no other word for a stream that failed than an I/O error.
        assert e.errno in (errno.ENOSPC, errno.EIO), repr(e)
        return True
    return False
def put(name, n, mode='wb'):
    with open('/w/' + name, mode, buffering=0) as f:
        while n:
            n -= f.write(b'x' * n)
def size():
    return sum(os.stat(os.path.join(d, f)).st_size for d, _, fs in os.walk('/w') for f in fs)
";

fn size(host: &Path) -> (u64, u64) {
    fs::read_dir(host).unwrap().map(Result::unwrap).fold((0, 0), |(bytes, files), entry| {
        let metadata = entry.metadata().unwrap();
        let (inner, more) = if metadata.is_dir() { size(&entry.path()) } else { (metadata.len(), 0) };
        (bytes + inner, files + more + 1)
    })
}

#[test]
fn a_folder_is_filled_to_its_last_byte_and_not_beyond() {
    for code in [
        "put('a', Q)\nassert full(put, 'b', 1)\nassert size() == Q",
        "assert full(put, 'a', Q + 1)\nassert size() == Q",
        "put('a', Q - 1)\nput('b', 1)\nassert full(put, 'a', 1, 'ab')",
        "for i in range(10): put(f'{i}', Q // 10)\nassert full(put, '3', 1, 'ab')",
        // Through a buffer, in text, line by line.
        "f = open('/w/a', 'w')\nassert full(lambda: [f.write('line %d\\n' % i) and f.flush() for i in range(10**6)])",
        // Overwriting costs nothing.
        "put('a', Q)\nfor _ in range(5): put('a', Q, 'rb+')\nassert size() == Q",
        // What is removed or cut can be used again, at once.
        "for _ in range(30):\n    put('a', Q)\n    os.remove('/w/a')",
        "for _ in range(30):\n    put('a', Q)\n    os.truncate('/w/a', 0)",
        "for _ in range(30): put('a', Q, 'wb')",
        "for _ in range(30):\n    put('t', Q // 2)\n    os.replace('/w/t', '/w/a')\nput('b', Q - Q // 2)\nassert full(put, 'c', 1)",
    ] {
        let place = tempfile::tempdir().unwrap();
        within(place.path(), code);
    }
}

#[test]
fn a_hole_costs_what_it_pretends_to_be() {
    for code in [
        "fd = os.open('/w/a', os.O_CREAT | os.O_RDWR)\nassert full(os.ftruncate, fd, Q + 1)\nos.ftruncate(fd, Q)\nassert full(put, 'b', 1)",
        "fd = os.open('/w/a', os.O_CREAT | os.O_RDWR)\nos.lseek(fd, 10**15, 0)\nassert full(os.write, fd, b'x')\nassert size() == 0",
        "fd = os.open('/w/a', os.O_CREAT | os.O_RDWR)\nos.lseek(fd, Q - 1, 0)\nos.write(fd, b'x')\nassert full(os.write, fd, b'x')\nassert size() == Q",
        "fd = os.open('/w/a', os.O_CREAT | os.O_RDWR)\nos.pwrite(fd, b'x', Q // 2)\nassert full(os.pwrite, fd, b'xy', Q - 1) or size() == Q",
        "open('/w/a', 'w').close()\nassert full(os.truncate, '/w/a', Q + 1)\nassert full(os.truncate, '/w/a', 2**62)",
        "fd = os.open('/w/a', os.O_CREAT | os.O_RDWR)\ntry: os.pwrite(fd, b'x', 2**63 - 1)\nexcept (OSError, OverflowError) as e: assert getattr(e, 'errno', errno.EFBIG) in (errno.EFBIG, errno.EINVAL, errno.ENOSPC), e\nassert size() == 0",
    ] {
        let place = tempfile::tempdir().unwrap();
        within(place.path(), code);
    }
}

#[test]
fn a_file_without_a_name_takes_its_space_while_it_is_open() {
    let place = tempfile::tempdir().unwrap();
    let code = "
f = open('/w/a', 'wb', buffering=0)
f.write(b'x' * 65536); f.write(b'x' * 65536)
os.remove('/w/a')
assert full(put, 'b', Q - 65536), 'the nameless file still counts'
os.remove('/w/b')
while not full(f.write, b'x' * 4096): pass
assert full(put, 'c', 1)
held = os.fstat(f.fileno()).st_size
assert held == Q, held
f.close()
import time
for _ in range(200):
    if not full(put, 'c', Q): break
    os.remove('/w/c'); time.sleep(0.01)
else: raise AssertionError('its space never came back')
";
    within(place.path(), code);
}

#[test]
fn many_descriptors_of_one_file_are_one_file() {
    let place = tempfile::tempdir().unwrap();
    let code = "
fs = [open('/w/a', 'ab', buffering=0) for _ in range(50)]
n = 0
try:
    while True:
        for f in fs: n += f.write(b'x' * 1000)
except OSError as e:
    assert e.errno in (errno.ENOSPC, errno.EIO)
assert Q - 1000 <= n <= Q == size(), (n, size())
gs = [open('/w/a', 'rb+', buffering=0) for _ in range(50)]
for g in gs: g.truncate(10)
for g in gs: g.seek(0); g.write(b'y' * 10)
assert size() == 10
for i, g in enumerate(gs):
    g.seek(0, 2); full(g.write, b'z' * 9999)
assert size() <= Q
";
    within(place.path(), code);
}

#[test]
fn files_and_folders_are_counted() {
    for code in [
        "for i in range(F): put(str(i), 0)\nassert full(put, 'x', 0)\nassert full(os.mkdir, '/w/x')",
        "for i in range(F): os.mkdir(f'/w/{i}')\nassert full(os.mkdir, '/w/x')\nassert full(put, '0/x', 0)",
        "for i in range(F): put(str(i), 0)\nfor i in range(F): put(str(i), 1)\nos.remove('/w/3')\nput('x', 0)\nassert full(put, 'y', 0)",
        "for i in range(1000):\n    put('a', 1)\n    os.remove('/w/a')\n    os.mkdir('/w/d')\n    os.rmdir('/w/d')",
        "for i in range(F): put(str(i), 0)\nfor _ in range(100):\n    try: open('/w/0', 'x')\n    except FileExistsError: pass\n    try: os.mkdir('/w/1')\n    except FileExistsError: pass\nos.remove('/w/0')\nput('x', 0)",
        "for i in range(F): put(str(i), 0)\nos.replace('/w/0', '/w/1')\nput('x', 0)\nassert full(put, 'y', 0)",
    ] {
        let place = tempfile::tempdir().unwrap();
        within(place.path(), code);
    }
}

#[test]
fn what_was_there_counts_and_what_the_host_removes_does_not() {
    let place = tempfile::tempdir().unwrap();
    fs::create_dir(place.path().join("d")).unwrap();
    fs::write(place.path().join("d/old"), vec![0; BYTES as usize - 10]).unwrap();
    within(place.path(), "put('a', 10)\nassert full(put, 'b', 1)");
    fs::remove_dir_all(place.path().join("d")).unwrap();
    within(place.path(), "put('b', Q - 10)\nassert full(put, 'c', 1)");
    // More than fits lies there: nothing grows until enough of it is gone.
    fs::write(place.path().join("big"), vec![0; BYTES as usize * 2]).unwrap();
    let grant = granted(vec![folder("/w", place.path(), Some(Quota { bytes: BYTES, files: FILES }))]);
    let code = "assert full(put, 'n', 1)\nos.truncate('/w/a', 0)\nassert full(put, 'n', 1)\nos.remove('/w/b')\nassert full(put, 'n', 1)\nos.remove('/w/big')\nput('n', Q)";
    let outcome = run_in(&fresh(), &format!("{HEAD}{code}"), &grant, &Desk::default());
    assert_eq!(outcome.status, Status::Done, "{:?}", outcome.error);
}

#[test]
fn two_sessions_share_one_allowance() {
    let place = tempfile::tempdir().unwrap();
    let mut grant = granted(vec![folder("/w", place.path(), Some(Quota { bytes: BYTES, files: FILES }))]);
    grant.keep = Keep::Session;
    let (one, two) = (fresh(), fresh());
    let step = |session, code: &str| {
        let outcome = run_in(session, code, &grant, &Desk::default());
        assert_eq!(outcome.status, Status::Done, "{code}: {:?}", outcome.error);
        outcome.output
    };
    step(&one, &format!("{HEAD}f = open('/w/1', 'wb', buffering=0)"));
    step(&two, &format!("{HEAD}f = open('/w/2', 'wb', buffering=0)"));
    let write = "n = 0\nwhile not full(f.write, b'x' * 3000): n += 1\nos.fstat(f.fileno()).st_size";
    step(&one, "f.write(b'x' * 60000)");
    step(&two, "f.write(b'x' * 60000)");
    step(&one, write);
    step(&two, write);
    assert_eq!(size(place.path()).0, BYTES);
    for session in [&one, &two] {
        crate::desk::close(session);
    }
}

#[test]
fn links_are_never_made_and_names_are_plain() {
    let place = tempfile::tempdir().unwrap();
    let code = "
put('a', 3)
for f in (lambda: os.symlink('a', '/w/l'), lambda: os.symlink('/etc', '/w/l'), lambda: os.link('/w/a', '/w/l')):
    try: f()
    except OSError as e: assert e.errno == errno.EPERM, repr(e)
    else: raise AssertionError('a link was made')
for name in ('a\\nb', 'a\\x1b[31m', '\\x7f', 'a\\u009bb'):
    for f in (lambda: put(name, 1), lambda: os.mkdir('/w/' + name), lambda: os.rename('/w/a', '/w/' + name)):
        try: f()
        except OSError as e: assert e.errno == errno.EILSEQ, repr(e)
        else: raise AssertionError(repr(name))
assert os.listdir('/w') == ['a']
os.remove('/w/a')
for make in (lambda p: os.mkdir(p), lambda p: open(p, 'w').close()):
    try: make('/w/' + '/'.join('d' * 33))
    except OSError as e: assert e.errno == errno.ENAMETOOLONG, repr(e)
os.makedirs('/w/' + '/'.join('d' * 10))
os.makedirs('/w/e')
# A folder moves sideways or up, so that no tree grows deeper than one that is made.
try: os.rename('/w/e', '/w/d/d/e')
except OSError as e: assert e.errno == errno.EXDEV, repr(e)
else: raise AssertionError('moved down')
shutil.move('/w/e', '/w/d/d/e')
os.rename('/w/d/d/e', '/w/f')
assert sorted(os.listdir('/w')) == ['d', 'f']
";
    within(place.path(), code);
}

#[test]
fn nothing_is_moved_or_linked_from_folder_to_folder() {
    let place = tempfile::tempdir().unwrap();
    let hosts: Vec<_> = ["v", "w", "r"].iter().map(|name| place.path().join(name)).collect();
    hosts.iter().for_each(|host| fs::create_dir(host).unwrap());
    fs::write(hosts[2].join("kept"), "kept").unwrap();
    let quota = Some(Quota { bytes: BYTES, files: FILES });
    let all = vec![folder("/v", &hosts[0], quota), folder("/w", &hosts[1], quota), folder("/r", &hosts[2], None)];
    let code = "
put('a', Q)
try: os.rename('/w/a', '/v/a')
except OSError as e: assert e.errno == errno.EXDEV, repr(e)
else: raise AssertionError('renamed')
for f in (lambda: os.link('/w/a', '/v/a'), lambda: os.rename('/r/kept', '/w/k'), lambda: os.rename('/w/a', '/r/a'), lambda: os.link('/r/kept', '/w/k')):
    try: f()
    except OSError as e: assert e.errno in (errno.EPERM, errno.EACCES, errno.EROFS), repr(e)
    else: raise AssertionError('done')
shutil.move('/w/a', '/v/a')
assert os.listdir('/w') == [] and os.stat('/v/a').st_size == Q
";
    let outcome = run_in(&fresh(), &format!("{HEAD}{code}"), &granted(all), &Desk::default());
    assert_eq!(outcome.status, Status::Done, "{:?}", outcome.error);
    assert_eq!(fs::read_to_string(hosts[2].join("kept")).unwrap(), "kept");
}

#[test]
fn only_ordinary_files_are_opened() {
    let place = tempfile::tempdir().unwrap();
    let (read, written) = (place.path().join("r"), place.path().join("w"));
    fs::write(place.path().join("outside"), "outside").unwrap();
    for host in [&read, &written] {
        fs::create_dir(host).unwrap();
        fs::write(host.join("plain"), "plain").unwrap();
        let made = std::process::Command::new("mkfifo").arg(host.join("pipe")).status().unwrap();
        assert!(made.success());
        drop(UnixListener::bind(host.join("socket")).unwrap());
        symlink("pipe", host.join("to-pipe")).unwrap();
        symlink("/dev/zero", host.join("to-device")).unwrap();
        symlink("plain", host.join("to-plain")).unwrap();
        symlink("to-self", host.join("to-self")).unwrap();
        fs::hard_link(place.path().join("outside"), host.join("hard")).unwrap();
    }
    let mut grant =
        granted(vec![folder("/r", &read, None), folder("/w", &written, Some(Quota { bytes: BYTES, files: FILES }))]);
    grant.limits.wall_ms.0 = 2_000;
    let code = "
for d in '/r/', '/w/':
    assert open(d + 'plain').read() == 'plain' == open(d + 'to-plain').read()
    for name in 'pipe', 'socket', 'to-pipe', 'to-device', 'to-self':
        for flags in os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_NONBLOCK, os.O_WRONLY | os.O_TRUNC, os.O_RDWR | os.O_CREAT:
            try: os.open(d + name, flags)
            except OSError: pass
            else: raise AssertionError((d, name, flags))
    for mode in 'w', 'a', 'r+':
        try: open(d + 'hard', mode)
        except OSError as e: assert e.errno in (errno.EPERM, errno.EACCES, errno.EROFS), repr(e)
        else: raise AssertionError((d, mode))
for name in 'hard', 'pipe':
    try: os.utime('/w/' + name, (1, 2))
    except OSError as e: assert e.errno in (errno.EPERM, errno.EACCES), repr(e)
    else: raise AssertionError(name)
os.utime('/w/plain', (1, 2)); os.utime('/w', (3, 4))
assert (os.stat('/w/plain').st_mtime, os.stat('/w').st_mtime) == (2, 4)
assert not os.path.isfile('/w/pipe') and 'pipe' in os.listdir('/w')
os.remove('/w/pipe')
";
    let started = Instant::now();
    let outcome = run_in(&fresh(), &format!("{HEAD}{code}"), &grant, &Desk::default());
    assert_eq!(outcome.status, Status::Done, "{:?}", outcome.error);
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    assert_eq!(fs::read_to_string(place.path().join("outside")).unwrap(), "outside");
}

#[test]
fn folders_to_write_do_not_lie_in_one_another_and_have_quotas() {
    let place = tempfile::tempdir().unwrap();
    fs::create_dir(place.path().join("in")).unwrap();
    symlink("in", place.path().join("alias")).unwrap();
    let quota = Some(Quota { bytes: BYTES, files: FILES });
    for other in ["in", "alias", "."] {
        let all = vec![folder("/a", place.path(), quota), folder("/b", &place.path().join(other), quota)];
        let outcome = run_in(&fresh(), "1", &granted(all), &Desk::default());
        assert_eq!(outcome.status, Status::Broken, "{other}");
        assert!(message(&outcome).contains("/a") && !message(&outcome).contains("tmp"), "{}", message(&outcome));
    }
    let mut bare = folder("/a", place.path(), quota);
    bare.quota = None;
    let outcome = run_in(&fresh(), "1", &granted(vec![bare]), &Desk::default());
    assert!(message(&outcome).contains("no quota"), "{outcome:?}");
}

#[test]
fn a_loop_that_fills_and_empties_stays_within_its_time() {
    let place = tempfile::tempdir().unwrap();
    for i in 0..2_000 {
        fs::write(place.path().join(format!("f{i}")), "x").unwrap();
    }
    let mut grant = granted(vec![folder("/w", place.path(), Some(Quota { bytes: 4_000, files: 2_001 }))]);
    grant.limits.wall_ms.0 = 1_000;
    let started = Instant::now();
    let code = "while True:\n    full(put, 'a', 10**6)\n    full(put, 'b', 1)\n    os.remove('/w/a')";
    let outcome = run_in(&fresh(), &format!("{HEAD}{code}"), &grant, &Desk::default());
    assert_eq!(outcome.status, Status::Exhausted, "{outcome:?}");
    assert!(started.elapsed() < Duration::from_millis(1_400), "{:?}", started.elapsed());
}

#[test]
fn listings_that_are_kept_open_have_a_bound() {
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("a"), "x").unwrap();
    let grant = granted(vec![folder("/r", place.path(), None)]);
    let code = "
open_ = []
try:
    for _ in range(5000): open_.append(os.scandir('/r')); next(open_[-1])
except OSError as e:
    assert e.errno == errno.ENOMEM, repr(e)
else: raise AssertionError('no bound')
for listing in open_: listing.close()
os.listdir('/r')
len(open_)
";
    let outcome = run_in(&fresh(), &format!("{HEAD}{code}"), &grant, &Desk::default());
    assert_eq!(outcome.status, Status::Done, "{:?}", outcome.error);
    assert!(outcome.output.as_u64().unwrap() <= 64, "{:?}", outcome.output);
}
