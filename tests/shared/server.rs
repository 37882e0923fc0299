//! A PostgreSQL of the test's own: in a folder that goes with it, on loopback, as a user that is not root; and a proxy in
//! front of it that cuts and holds.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::{Duration, Instant};

use weir::shared::{Address, Office, Terms};

/// Who runs the server where the test runs as root, which PostgreSQL refuses: `nobody` of every Unix.
pub const NOBODY: u32 = 65534;

/// Short times, so that tests do not wait.
pub const TERMS: Terms = Terms {
    ttl: Duration::from_millis(3000),
    margin: Duration::from_millis(500),
    idle: Duration::from_millis(400),
    patience: Duration::from_millis(1500),
    lanes: 2,
};

pub struct Server {
    home: tempfile::TempDir,
    bin: PathBuf,
    pub port: u16,
    /// Whether it listens beyond loopback from its next start on: only in a network namespace of the test's own.
    pub everywhere: bool,
    child: Option<Child>,
}

/// Where PostgreSQL's programs are; `None`, with a line that says so, where there are none.
pub fn binaries() -> Option<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .chain(std::env::var_os("PATH").iter().flat_map(std::env::split_paths))
        .filter(|path| ["initdb", "postgres", "psql"].iter().all(|program| path.join(program).exists()))
        .collect();
    found.sort();
    if found.is_empty() {
        println!("skipped: PostgreSQL's programs (initdb, postgres) are not on this machine");
    }
    found.pop()
}

pub fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// `program`, as a user that is not root.
fn unprivileged(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.arg(format!("--reuid={NOBODY}")).arg(format!("--regid={NOBODY}")).arg("--clear-groups").arg(program);
    command
}

impl Server {
    /// A server with an empty database; `None` where PostgreSQL is not installed.
    pub fn start() -> Option<Self> {
        Self::with(&[])
    }

    /// The same with further settings.
    pub fn with(settings: &[&str]) -> Option<Self> {
        let bin = binaries()?;
        let home = tempfile::tempdir().unwrap();
        if is_root() {
            chown(home.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let data = home.path().join("data");
        let output = unprivileged(&bin.join("initdb"))
            .args(["-U", "admin", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync", "-D"])
            .arg(&data)
            .current_dir("/")
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let conf = data.join("postgresql.conf");
        let text = std::fs::read_to_string(&conf).unwrap() + &settings.join("\n") + "\n";
        std::fs::write(&conf, text).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut server = Self { home, bin, port, everywhere: false, child: None };
        server.up();
        Some(server)
    }

    pub fn folder(&self) -> PathBuf {
        self.home.path().join("data")
    }

    /// Starts it, again after it was stopped or killed, and waits until it answers.
    pub fn up(&mut self) {
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            let mut child = self.spawn();
            while Instant::now() < end {
                if self.answers() {
                    self.child = Some(child);
                    return;
                }
                // What a killed server left behind may keep the next one out for a moment.
                if child.try_wait().unwrap().is_some() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(30));
            }
            let _ = child.kill();
            let _ = child.wait();
            assert!(Instant::now() < end, "the server does not start: {}", self.log());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn spawn(&self) -> Child {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.home.path().join("log")).unwrap();
        unprivileged(&self.bin.join("postgres"))
            .arg("-D")
            .arg(self.folder())
            .args(["-h", if self.everywhere { "*" } else { "127.0.0.1" }, "-p", &self.port.to_string(), "-k"])
            .arg(self.home.path())
            .args(["-c", "max_connections=60", "-c", "shared_buffers=16MB"])
            .current_dir("/")
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.home.path().join("log")).unwrap_or_default()
    }

    fn answers(&self) -> bool {
        let address = Address::parse(&self.url("admin"), None).unwrap();
        let terms = Terms { patience: Duration::from_millis(200), ..TERMS };
        Office::open(address, &terms).unwrap().format().is_ok()
    }

    fn signal(&self, name: &str) {
        let pid = self.child.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([format!("-{name}"), pid]).status().unwrap().success());
    }

    /// Stops it in order: connections are closed, everything is on disk.
    pub fn stop(&mut self) {
        self.signal("INT");
        self.child.take().unwrap().wait().unwrap();
    }

    /// The power goes.
    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    pub fn url(&self, user: &str) -> String {
        format!("postgres://{user}@127.0.0.1:{}/postgres", self.port)
    }

    pub fn address(&self, user: &str) -> Address {
        Address::parse(&self.url(user), None).unwrap()
    }

    /// The database, prepared, with a login for gates and one for operators.
    pub fn prepared(&self) -> Office {
        let office = Office::open(self.address("admin"), &TERMS).unwrap();
        assert_eq!(office.migrate(), Ok((0, 3)));
        self.sql("admin", "CREATE ROLE gate LOGIN IN ROLE weir_gate; CREATE ROLE boss LOGIN IN ROLE weir_operator");
        Office::open(self.address("boss"), &TERMS).unwrap()
    }

    /// The same as an earlier version has prepared it: the database has seen `format` migrations.
    pub fn of_format(&self, format: usize) -> Office {
        let schema = ["0001", "0002"].iter().take(format).enumerate().map(|(at, file)| {
            let path = format!("{}/src/shared/schema/{file}.sql", env!("CARGO_MANIFEST_DIR"));
            let text = std::fs::read_to_string(path).unwrap();
            format!("{text}\nINSERT INTO weir.format VALUES ({});\n", at + 1)
        });
        let begin = "CREATE SCHEMA weir; CREATE TABLE weir.format (version int PRIMARY KEY);\n".to_owned();
        let grants = include_str!("../../src/shared/schema/grants.sql");
        // Orders of gates came with the second format.
        let known = |line: &&str| format > 1 || !line.contains("weir.order_from");
        let grants: String = grants.lines().filter(known).flat_map(|line| [line, "\n"]).collect();
        self.sql("admin", &(begin + &schema.collect::<String>() + &grants));
        self.sql("admin", "CREATE ROLE gate LOGIN IN ROLE weir_gate; CREATE ROLE boss LOGIN IN ROLE weir_operator");
        Office::open(self.address("boss"), &TERMS).unwrap()
    }

    /// Runs SQL as `user` with PostgreSQL's own client.
    pub fn try_sql(&self, user: &str, sql: &str) -> Result<String, String> {
        let output = Command::new(self.bin.join("psql"))
            .args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", user])
            .args(["-c", sql, "postgres"])
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    pub fn sql(&self, user: &str, sql: &str) -> String {
        self.try_sql(user, sql).unwrap_or_else(|fault| panic!("{sql}: {fault}"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // Immediate: nothing of it is kept.
            let _ = Command::new("kill").args(["-QUIT", &child.id().to_string()]).status();
            let _ = child.wait();
        }
    }
}

const PASS: u8 = 0;
const HOLD: u8 = 1;
const MUTE: u8 = 2;
const CUT: u8 = 3;

/// A wire to the server that a test cuts.
pub struct Proxy {
    pub port: u16,
    mode: Arc<AtomicU8>,
    stop: Arc<AtomicBool>,
}

impl Proxy {
    pub fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let own = listener.local_addr().unwrap().port();
        let (mode, stop) = (Arc::new(AtomicU8::new(PASS)), Arc::new(AtomicBool::new(false)));
        let (told, ended) = (mode.clone(), stop.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if ended.load(Ordering::SeqCst) {
                    return;
                }
                if told.load(Ordering::SeqCst) == CUT {
                    continue;
                }
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                let (there, back) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                carry(there, server, told.clone(), ended.clone(), false);
                carry(back, client, told.clone(), ended.clone(), true);
            }
        });
        Self { port: own, mode, stop }
    }

    pub fn url(&self, user: &str) -> String {
        format!("postgres://{user}@127.0.0.1:{}/postgres", self.port)
    }

    /// Everything goes through.
    pub fn pass(&self) {
        self.mode.store(PASS, Ordering::SeqCst);
    }

    /// Nothing goes through and nobody is told.
    pub fn hold(&self) {
        self.mode.store(HOLD, Ordering::SeqCst);
    }

    /// Statements arrive and are done; answers are lost.
    pub fn mute(&self) {
        self.mode.store(MUTE, Ordering::SeqCst);
    }

    /// Connections are closed, and new ones too.
    pub fn cut(&self) {
        self.mode.store(CUT, Ordering::SeqCst);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, mode: Arc<AtomicU8>, stop: Arc<AtomicBool>, answers: bool) {
    from.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    std::thread::spawn(move || {
        let mut bytes = [0; 16 << 10];
        while !stop.load(Ordering::SeqCst) {
            let now = mode.load(Ordering::SeqCst);
            if now == CUT {
                break;
            }
            if now == HOLD {
                std::thread::sleep(Duration::from_millis(5));
                continue;
            }
            match from.read(&mut bytes) {
                Ok(0) => break,
                Ok(count) => {
                    let lost = answers && mode.load(Ordering::SeqCst) == MUTE;
                    if !lost && to.write_all(&bytes[..count]).is_err() {
                        break;
                    }
                }
                Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                }
                Err(_) => break,
            }
        }
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    });
}
