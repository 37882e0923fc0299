//! What this program does when it is started again: one role each, locked first.

use std::io::{self, Read as _};
use std::os::unix::process::parent_id;
use std::process::{Command, ExitCode};
use std::thread;
use std::time::{Duration, Instant};

use crate::drill::{ATTEMPTS, Scene, Verdict};
use crate::jail::{Cell, fence, lock, shed};
use crate::life;

pub fn play(role: &str, words: &[String]) -> ExitCode {
    shed(&[]).unwrap();
    match role {
        "neighbour" => {
            let _ = io::stdin().read(&mut [0]);
        }
        "attempt" => attempt(words),
        "faulty" => faulty(&words[0]),
        "bare" => bare(),
        "gate" => gate(&words[0]),
        "waiting" => {
            let told = locked(&words[0]);
            println!("{}", std::process::id());
            thread::spawn(move || thread::sleep(Duration::from_secs(told.open_files))).join().unwrap();
        }
        "cost" => {
            let started = Instant::now();
            let told = locked(&words[0]);
            println!("{}", started.elapsed().as_micros());
            println!("{}", serde_json::to_string(&told).unwrap());
        }
        other => life::play(other, words),
    }
    ExitCode::SUCCESS
}

/// Locks this process in the cell that `text` describes.
pub fn locked(text: &str) -> crate::jail::Locked {
    let cell: Cell = serde_json::from_str(text).unwrap();
    lock(&cell).unwrap_or_else(|fault| panic!("{fault}"))
}

/// Words: name, gate, neighbour, folder, limit (these five for the C payload), cell or "open", scene.
fn attempt(words: &[String]) {
    let [name, _, _, _, _, cell, scene] = words else { panic!("seven words") };
    let scene: Scene = serde_json::from_str(scene).unwrap();
    match cell.strip_prefix("fence:") {
        Some(cell) => {
            fence(&serde_json::from_str(cell).unwrap()).unwrap_or_else(|fault| panic!("{fault}"));
        }
        None if cell == "open" => {}
        None => drop(locked(cell)),
    }
    let name = name.clone();
    // A thread made after the lock, as a guest's are.
    let verdict = thread::spawn(move || match ATTEMPTS.iter().find(|attempt| attempt.name == name) {
        Some(attempt) => attempt.run(&scene),
        // The payload stands in for this function; see payload.c.
        None => match i32::try_from(parent_id()) {
            Ok(0) => Verdict::Escaped("done".into()),
            Ok(error) => Verdict::Contained(error),
            Err(error) => Verdict::Escaped(error.to_string()),
        },
    });
    println!("{}", serde_json::to_string(&verdict.join().unwrap()).unwrap());
}

/// A worker whose spawner did something wrong.
fn faulty(how: &str) {
    let cell = Cell { folders: Vec::new(), memory_bytes: 64 << 20, open_files: 32, file_bytes: 0 };
    let cell = match how {
        "memory" => Cell { memory_bytes: 4_096, ..cell },
        "folder" => Cell { folders: vec![("/nonexistent/weir".into(), crate::model::Access::Read)], ..cell },
        _ => cell,
    };
    if how == "threads" {
        thread::spawn(thread::park);
    }
    println!("{}", lock(&cell).map_or_else(|fault| fault.to_string(), |_| "locked".into()));
}

/// Says which descriptors are left.
fn bare() {
    let open = std::fs::read_dir("/proc/self/fd").unwrap().map(|entry| entry.unwrap().file_name());
    let open: Vec<String> = open.map(|name| name.to_str().unwrap().to_owned()).collect();
    println!("{}", open.join(" "));
}

/// Starts a worker and dies without a word to it.
#[expect(clippy::zombie_processes, reason = "the worker is to be left behind")]
fn gate(cell: &str) {
    let (near, far) = std::os::unix::net::UnixStream::pair().unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["role:waiting", cell]).env_clear().stdin(std::os::fd::OwnedFd::from(far));
    let mut worker = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut said = [0; 32];
    let read = worker.stdout.take().unwrap().read(&mut said).unwrap();
    println!("{}", String::from_utf8_lossy(&said[..read]).trim());
    // Held to the end, so that it is not the closed socket that ends the worker.
    std::mem::forget(near);
}
