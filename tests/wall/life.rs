//! What must go on working under the lock: the engine with its traps, timers, files, sockets.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use cap_primitives::fs as cap;
use rustix::fs::{AtFlags, CWD, unlinkat};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage};
use rustix::net::{SendFlags, recvmsg, sendmsg};
use wasmtime::{Config, Engine, Instance, Module, Store, Trap};

use crate::jail::{Cell, Locked, mapped};
use crate::model::Access;
use crate::place::{FILE, OPEN_FILES, Place, myself, worked};
use crate::worker::locked;

/// Ends well, gives way, traps in three ways, and grows.
const GUEST: &str = r#"(module
    (memory (export "memory") 2 1024)
    (data (i32.const 0) "image")
    (func $deep (export "deep") (call $deep))
    (func (export "sum") (result i32) (local $i i32) (local $sum i32)
        (loop $next
            (local.set $sum (i32.add (local.get $sum) (local.get $i)))
            (local.set $i (i32.add (local.get $i) (i32.const 1)))
            (br_if $next (i32.lt_u (local.get $i) (i32.const 100000))))
        (local.get $sum))
    (func (export "unreachable") unreachable)
    (func (export "beyond") (drop (i32.load (i32.const 0x7fff0000))))
    (func (export "grow") (result i32) (drop (memory.grow (i32.const 64))) (i32.store (i32.const 4000000) (i32.const 7))
        (i32.add (i32.load (i32.const 4000000)) (memory.size))))"#;

pub fn play(role: &str, words: &[String]) {
    match role {
        "engine" => engine(&words[0], words[1].parse().unwrap()),
        "folder" => folder(&words[0], Path::new(&words[1])),
        "files" => files(&words[0], Path::new(&words[1])),
        "sockets" => sockets(&words[0]),
        other => panic!("no role {other}"),
    }
}

fn cell(memory_bytes: u64) -> Cell {
    Cell { folders: Vec::new(), memory_bytes, open_files: OPEN_FILES, file_bytes: FILE }
}

pub fn webassembly_runs_and_traps_under_the_lock() {
    println!("    {}", worked("engine", &cell(256 << 20), &["1000"]).trim());
}

/// Compiles, locks, and then runs everything `rounds` times on a thread made after the lock.
fn engine(cell: &str, rounds: u32) {
    let mut config = Config::new();
    config.parallel_compilation(false).consume_fuel(true).memory_init_cow(true);
    config.max_wasm_stack(1 << 20).async_stack_size(2 << 20).concurrency_support(false);
    let engine = Engine::new(&config).unwrap();
    let module = Module::new(&engine, wat::parse_str(GUEST).unwrap()).unwrap();
    let before = mapped().unwrap() >> 10;
    // The image of the memory lies in an anonymous file, which nobody can make later.
    module.initialize_copy_on_write_image().unwrap();
    locked(cell);
    let worked = thread::spawn(move || {
        let clock = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let started = Instant::now();
        for _ in 0..rounds {
            clock.block_on(round(&engine, &module));
        }
        clock.block_on(async { tokio::time::sleep(Duration::from_millis(2)).await });
        let panicked = thread::spawn(|| panic!("on purpose")).join();
        assert!(panicked.is_err(), "a panic unwinds");
        started.elapsed() / rounds
    });
    println!("{rounds} rounds of 5 instances, {:?} each; {before} KiB mapped before", worked.join().unwrap());
}

async fn round(engine: &Engine, module: &Module) {
    for (name, expected) in [
        ("sum", Ok(704_982_704)),
        ("grow", Ok(73)),
        ("unreachable", Err(Trap::UnreachableCodeReached)),
        ("beyond", Err(Trap::MemoryOutOfBounds)),
        ("deep", Err(Trap::StackOverflow)),
    ] {
        let mut store = Store::new(engine, ());
        store.set_fuel(u64::MAX >> 1).unwrap();
        store.fuel_async_yield_interval(Some(10_000)).unwrap();
        let instance = Instance::new_async(&mut store, module, &[]).await.unwrap();
        let ended = match instance.get_typed_func::<(), i32>(&mut store, name) {
            Ok(function) => function.call_async(&mut store, ()).await,
            Err(_) => {
                let function = instance.get_typed_func::<(), ()>(&mut store, name).unwrap();
                function.call_async(&mut store, ()).await.map(|()| 0)
            }
        };
        assert_eq!(ended.map_err(|error| *error.downcast_ref::<Trap>().unwrap()), expected, "{name}");
    }
}

/// Says which of four uses of a folder are permitted.
fn folder(cell: &str, folder: &Path) {
    locked(cell);
    let code =
        |done: io::Result<()>| done.map_or_else(|error| error.raw_os_error().unwrap().to_string(), |()| "ok".into());
    let read = code(fs::read(folder.join("granted")).map(drop));
    let list = code(fs::read_dir(folder).map(drop));
    let write = code(fs::write(folder.join("new"), "new"));
    let remove = code(unlinkat(CWD, folder.join("new"), AtFlags::empty()).map_err(io::Error::from));
    println!("read: {read}, list: {list}, write: {write}, remove: {remove}");
}

pub fn files_are_served_from_other_threads_under_the_lock() {
    let place = Place::make();
    let folder = place.scene.folder.to_str().unwrap();
    assert_eq!(worked("files", &place.cell(Some(Access::Write)), &[folder]).trim(), "served");
}

/// The calls with which the engine's system interface serves files, on the pool of blocking threads.
fn files(cell: &str, folder: &Path) {
    let base = File::open(folder).unwrap();
    locked(cell);
    let clock = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    clock.block_on(async move {
        tokio::task::spawn_blocking(move || serve(&base)).await.unwrap();
    });
    println!("served");
}

fn serve(base: &File) {
    let at = Path::new;
    let mut options = cap::OpenOptions::new();
    let mut file = cap::open(base, at("made"), options.read(true).write(true).create(true)).unwrap();
    file.write_all(b"twelve bytes").unwrap();
    file.set_len(6).unwrap();
    file.sync_all().unwrap();
    file.sync_data().unwrap();
    assert_eq!(file.metadata().unwrap().len(), 6);
    let too_large = file.set_len(FILE + 1).unwrap_err();
    assert_eq!(too_large.raw_os_error(), Some(libc::EFBIG), "an error, and not the end of the process");
    cap::create_dir(base, at("folder"), &cap::DirOptions::new()).unwrap();
    cap::rename(base, at("made"), base, at("folder/moved")).unwrap();
    cap::hard_link(base, at("folder/moved"), base, at("again")).unwrap();
    cap::symlink("again".as_ref(), base, at("link")).unwrap();
    assert_eq!(cap::read_link(base, at("link")).unwrap(), at("again"));
    assert_eq!(cap::stat(base, at("link"), cap::FollowSymlinks::Yes).unwrap().len(), 6);
    let mut names: Vec<_> = cap::read_base_dir(base).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["again", "folder", "granted", "link", "out"]);
    assert!(cap::open(base, at("out/canary"), cap::OpenOptions::new().read(true)).is_err());
    for name in ["folder/moved", "again", "link"] {
        cap::remove_file(base, at(name)).unwrap();
    }
    cap::remove_dir(base, at("folder")).unwrap();
}

pub fn sockets_and_descriptors_pass_under_the_lock() {
    let (near, far) = UnixStream::pair().unwrap();
    let mut command = myself("sockets");
    command.arg(serde_json::to_string(&cell(256 << 20)).unwrap());
    let mut worker = command.stdin(OwnedFd::from(far)).stdout(Stdio::piped()).spawn().unwrap();
    drop(command);
    // A second socket goes through the first one, and the answer comes back through the second.
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let handed = [theirs.as_fd()];
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(&handed)));
    sendmsg(&near, &[io::IoSlice::new(b"take")], &mut ancillary, SendFlags::empty()).unwrap();
    let mut answer = [0; 4];
    ours.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    ours.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"TAKE");
    assert!(worker.wait().unwrap().success());
}

fn sockets(cell: &str) {
    let told: Locked = locked(cell);
    assert!(told.calls > 0);
    let served = thread::spawn(|| {
        let (mut space, mut text) = ([std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))], [0; 4]);
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC;
        recvmsg(io::stdin(), &mut [io::IoSliceMut::new(&mut text)], &mut ancillary, flags).unwrap();
        for message in ancillary.drain() {
            let RecvAncillaryMessage::ScmRights(handed) = message else { continue };
            for descriptor in handed {
                let mut stream = UnixStream::from(descriptor);
                stream.set_nonblocking(true).unwrap();
                stream.set_nonblocking(false).unwrap();
                stream.write_all(&text.to_ascii_uppercase()).unwrap();
            }
        }
    });
    served.join().unwrap();
}

pub fn the_lock_is_quick() {
    let place = Place::make();
    for access in [None, Some(Access::Write)] {
        let (mut costs, mut told) = (Vec::new(), String::new());
        for _ in 0..21 {
            let said = worked("cost", &place.cell(access), &[]);
            let (cost, rest) = said.split_once('\n').unwrap();
            costs.push(cost.parse::<u64>().unwrap());
            rest.trim().clone_into(&mut told);
        }
        costs.sort_unstable();
        println!("    locked in {} us (median of {}; at most {}): {told}", costs[10], costs.len(), costs[20]);
        assert!(costs[10] < 50_000, "{costs:?}");
    }
}
