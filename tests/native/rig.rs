//! A place with folders to read, to write and to keep away from; a launcher; and a look at who is still there.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde_json::{Map, Value, json};
use tempfile::TempDir;
use weir::model::{
    Action, Amounts, Call, ExecGrant, ExecLimits, Kind, Millis, Name, Network, Outcome, Resource, Subject,
};
use weir::native::{Asks, Launcher, Wall};

/// The first argument by which this program puts up walls.
pub const AGAIN: &str = "put-up-walls";

/// Where programs run, and what they must not reach.
pub struct Place {
    pub _folder: TempDir,
    pub data: PathBuf,
    pub out: PathBuf,
    pub secret: PathBuf,
}

impl Place {
    pub fn make() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let [data, out, secret] = ["data", "out", "secret"].map(|name| folder.path().join(name));
        for path in [&data, &out, &secret] {
            fs::create_dir(path).unwrap();
        }
        fs::write(data.join("given"), "given").unwrap();
        fs::write(secret.join("canary"), "sings").unwrap();
        Self { _folder: folder, data, out, secret }
    }

    /// A script among what can be read.
    pub fn script(&self, name: &str, text: &str) -> String {
        let path = self.data.join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    pub fn grant(&self) -> ExecGrant {
        let text = |path: &PathBuf| path.display().to_string();
        ExecGrant {
            read: vec![text(&self.data)],
            write: vec![text(&self.out)],
            env: Vec::new(),
            network: Network::None,
            gpus: 0,
            limits: ExecLimits {
                wall_ms: Millis(60_000),
                cpu_ms: Millis(60_000),
                memory_bytes: 512 << 20,
                processes: 64,
                disk_bytes: 64 << 20,
                grace_ms: Millis(0),
            },
        }
    }

    pub fn launcher(&self) -> Launcher {
        let own = std::env::current_exe().unwrap();
        let mut launcher = Launcher::new(own, vec![AGAIN.to_owned()], self.out.clone());
        launcher.without = lacking();
        launcher
    }

    /// Runs `argv` and gives what came of it and what it said.
    pub fn run(&self, launcher: Launcher, grant: &ExecGrant, argv: &[&str]) -> (Outcome, String) {
        self.run_asking(launcher, grant, argv, &Nobody::default())
    }

    pub fn run_asking(
        &self,
        mut launcher: Launcher,
        grant: &ExecGrant,
        argv: &[&str],
        asks: &dyn Asks,
    ) -> (Outcome, String) {
        let mut said = tempfile::tempfile().unwrap();
        let streams = [File::open("/dev/null").unwrap(), said.try_clone().unwrap(), said.try_clone().unwrap()];
        launcher.streams = Some(streams.map(OwnedFd::from));
        let outcome = launcher.launch(&call(argv), grant, asks);
        said.rewind().unwrap();
        let mut text = String::new();
        let _ = said.read_to_string(&mut text);
        (outcome, text)
    }

    /// Runs a line of the shell that must end well, and gives what it said.
    pub fn shell(&self, line: &str) -> String {
        let (outcome, said) = self.run(self.launcher(), &self.grant(), &["sh", "-c", line]);
        assert_eq!(exit(&outcome), 0, "{said} {outcome:?}");
        said
    }
}

/// Whether this machine gives namespaces at all; where it does not, nothing is started and that is what is tested.
pub fn able() -> bool {
    let place = Place::make();
    let own = std::env::current_exe().unwrap();
    let mut launcher = Launcher::new(own, vec![AGAIN.to_owned()], place.out.clone());
    launcher.without = Wall::all();
    let outcome = launcher.launch(&call(&["sh", "-c", "exit 0"]), &place.grant(), &Nobody::default());
    let Some(error) = &outcome.error else { return true };
    assert!(exit(&outcome) == 125 && error.message.contains("run as root"), "{error:?}");
    assert!(error.message.len() < 400, "{error:?}");
    false
}

/// Walls that this machine does not have.
pub fn lacking() -> BTreeSet<Wall> {
    static FOUND: OnceLock<BTreeSet<Wall>> = OnceLock::new();
    FOUND.get_or_init(probed).clone()
}

fn probed() -> BTreeSet<Wall> {
    let place = Place::make();
    let mut without = BTreeSet::new();
    for wall in Wall::all() {
        let own = std::env::current_exe().unwrap();
        let mut launcher = Launcher::new(own, vec![AGAIN.to_owned()], place.out.clone());
        launcher.without = Wall::all().into_iter().filter(|other| *other != wall).collect();
        let outcome = launcher.launch(&call(&["sh", "-c", "exit 0"]), &place.grant(), &Nobody::default());
        if outcome.error.is_some_and(|error| error.message.contains(&format!("--without {wall}"))) {
            without.insert(wall);
        }
    }
    if !without.is_empty() {
        let names: Vec<String> = without.iter().map(Wall::to_string).collect();
        println!("skipped: this machine does not give the walls {}; that they are refused is tested", names.join(", "));
    }
    without
}

/// Nobody stops it, unless it says so.
#[derive(Default)]
pub struct Nobody {
    pub cancelled: AtomicBool,
}

impl Asks for Nobody {
    fn cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    fn post(&self, _: u64, _: Amounts) -> bool {
        true
    }
}

pub fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

pub fn call(argv: &[&str]) -> Call {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let args: Map<String, Value> = json!({ "argv": argv }).as_object().unwrap().clone();
    let program = argv[0].rsplit('/').next().unwrap();
    let subject = Subject {
        org: name("org"),
        agent: name("agent"),
        session: name("session"),
        run: name("run"),
        delegation: Vec::new(),
        project: None,
    };
    Call {
        id: name(&format!("call-{}-{number}", std::process::id())),
        subject,
        action: Action::ProcessRun,
        resource: Resource::named(name(program)),
        args,
        parent: None,
        surface: name("exec"),
    }
}

pub fn exit(outcome: &Outcome) -> u64 {
    outcome.output["exit"].as_u64().unwrap()
}

pub fn used(outcome: &Outcome, kind: Kind) -> u64 {
    outcome.usage.of(kind)
}

/// A word that no other process has in its arguments.
pub fn marker() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("weir-mark-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Processes of this machine, wherever they are, with `marker` in their arguments.
pub fn marked(marker: &str) -> usize {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let processes =
        entries.filter(|entry| entry.file_name().to_string_lossy().bytes().all(|byte| byte.is_ascii_digit()));
    let lines = processes.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    lines.filter(|line| String::from_utf8_lossy(line).contains(marker)).count()
}

/// A Python that lies among the system's files; tests that need it say so where there is none.
pub fn python() -> Option<&'static str> {
    let found =
        ["/usr/bin/python3", "/usr/local/bin/python3"].into_iter().find(|path| fs::exists(path).unwrap_or(false));
    if found.is_none() {
        println!("skipped: no python3 in /usr/bin or /usr/local/bin");
    }
    found
}
