//! What surrounds a worker in these tests: files, listeners, a neighbour; and how a worker is started and ends.

use std::env;
use std::fs;
use std::io::Read as _;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::symlink;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, ExitStatus, Stdio};

use tempfile::TempDir;

use crate::drill::Scene;
use crate::jail::Cell;
use crate::model::Access;

pub const MEMORY: u64 = 512 << 20;
pub const OPEN_FILES: u64 = 64;
pub const FILE: u64 = 1 << 20;

/// Everything that a worker could reach, and must not.
pub struct Place {
    pub scene: Scene,
    pub payload: PathBuf,
    neighbour: Child,
    _listeners: (TcpListener, UdpSocket, UnixListener, UnixListener),
    _files: TempDir,
}

impl Place {
    pub fn make() -> Self {
        let files = tempfile::tempdir().unwrap();
        let (outside, folder) = (files.path().join("outside"), files.path().join("folder"));
        fs::create_dir(&outside).unwrap();
        fs::create_dir(&folder).unwrap();
        fs::write(outside.join("canary"), "sings").unwrap();
        fs::write(folder.join("granted"), "inside").unwrap();
        symlink("../outside", folder.join("out")).unwrap();
        let (tcp, udp) = (TcpListener::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        let (socket, abstract_socket) = (outside.join("socket"), format!("weir-wall-{}", process::id()));
        let by_path = UnixListener::bind(&socket).unwrap();
        let name = SocketAddr::from_abstract_name(&abstract_socket).unwrap();
        let by_name = UnixListener::bind_addr(&name).unwrap();
        let mut neighbour = myself("neighbour");
        let neighbour = neighbour.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let scene = Scene {
            gate: i32::try_from(process::id()).unwrap(),
            neighbour: i32::try_from(neighbour.id()).unwrap(),
            canary: outside.join("canary"),
            folder,
            tcp: tcp.local_addr().unwrap(),
            udp: udp.local_addr().unwrap(),
            socket,
            abstract_socket,
            memory_bytes: MEMORY,
            open_files: OPEN_FILES,
            file_bytes: FILE,
        };
        let payload = compiled(files.path());
        Self { scene, payload, neighbour, _listeners: (tcp, udp, by_path, by_name), _files: files }
    }

    /// The cell with this folder, or without one.
    pub fn cell(&self, access: Option<Access>) -> Cell {
        let folders = access.map(|access| (self.scene.folder.clone(), access)).into_iter().collect();
        Cell { folders, memory_bytes: MEMORY, open_files: OPEN_FILES, file_bytes: FILE }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = self.neighbour.kill();
        let _ = self.neighbour.wait();
    }
}

/// The native payload as a library that can be loaded before a program.
fn compiled(folder: &Path) -> PathBuf {
    let library = folder.join("payload.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wall/payload.c");
    let mut compiler = Command::new("cc");
    let compiler = compiler.args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"]).arg(&library).arg(source);
    assert!(compiler.status().expect("a C compiler (`cc`)").success());
    library
}

/// This program in another role, with nothing of this one's environment.
pub fn myself(role: &str) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command.arg(format!("role:{role}")).env_clear().stderr(Stdio::null());
    command
}

/// How a worker ended.
#[derive(Debug)]
pub struct End {
    pub said: String,
    pub status: ExitStatus,
}

impl End {
    pub fn signal(&self) -> Option<i32> {
        self.status.signal()
    }
}

/// Starts `command` as a gate does, with a socket for standard input, and waits for its end.
pub fn ended(mut command: Command) -> End {
    let (near, far) = UnixStream::pair().unwrap();
    let mut child = command.stdin(OwnedFd::from(far)).stdout(Stdio::piped()).spawn().unwrap();
    // The command holds a copy of the worker's end: with it gone, the end of either side is told to the other.
    drop(command);
    let mut said = String::new();
    child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    let status = child.wait().unwrap();
    drop(near);
    End { said, status }
}

/// A worker in `role`, locked in `cell`, with further words; ended well, and what it said.
pub fn worked(role: &str, cell: &Cell, words: &[&str]) -> String {
    let mut command = myself(role);
    command.arg(serde_json::to_string(cell).unwrap()).args(words).stderr(Stdio::inherit());
    if std::io::IsTerminal::is_terminal(&std::io::stderr()) {
        command.stderr(Stdio::null());
    }
    let end = ended(command);
    assert!(end.status.success(), "{role}: {end:?}");
    end.said
}
