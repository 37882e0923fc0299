//! A worker that lies: what the gate takes from the other side of the second wall is a guest's word.
//!
//! This program, started again as a worker, says what `tests/attacks/frames.toml` has it say: forged, cut and endless
//! frames, claims of denials, answers and usage. The gate's outcome must be as required, and the gate go on.

use std::env;
use std::io::{self, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde::Deserialize;
use serde_json::{Map, Value};
use weir::model::{CodeGrant, Kind, Outcome, ReasonCode, Status};
use weir::sandbox::{Sandbox, SandboxConfig, Wall};

use super::desk::{self, Desk, Does, fresh, grant, key, message};
use super::wire::{self, Order, Report, Terms};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Forgeries {
    forgery: Vec<Forgery>,
}

/// What a worker says when it is given a program, and what must come of it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Forgery {
    id: String,
    why: String,
    /// Reports as JSON, or words of [`Said`].
    says: Vec<String>,
    status: Vec<Status>,
    kind: Option<String>,
    #[serde(default)]
    message: Vec<String>,
    logs: Option<String>,
    /// The result's JSON text.
    output: Option<String>,
    /// How many calls reached the gate.
    calls: u64,
    /// True where only the end of the patience with a frame ends it.
    #[serde(default)]
    slow: bool,
}

/// One thing that the worker does.
enum Said {
    /// A report.
    Frame(Box<Report>),
    /// A report so often.
    Flood(u32, Box<Report>),
    /// Bytes.
    Raw(Vec<u8>),
    /// The beginning of a frame, and then a byte now and then, for ever.
    Trickle,
    /// Nothing more, for ever.
    Silence,
    /// Nothing before so many answers of the gate have come: what still lies in a socket when its writer dies is lost.
    Await(u32),
    /// The end of its process.
    End,
}

impl Said {
    fn of(text: &str) -> Self {
        let report = |text: &str| serde_json::from_str(text).unwrap_or_else(|fault| panic!("{text}: {fault}"));
        match text.split_once(' ') {
            _ if text == "trickle" => Self::Trickle,
            _ if text == "silence" => Self::Silence,
            _ if text == "end" => Self::End,
            Some(("await", count)) => Self::Await(count.parse().unwrap()),
            Some(("raw", bytes)) => Self::Raw(hex::decode(bytes).unwrap()),
            Some(("flood", rest)) => {
                let (count, rest) = rest.split_once(' ').unwrap();
                Self::Flood(count.parse().unwrap(), report(rest))
            }
            _ => Self::Frame(report(text)),
        }
    }

    fn say(&self, lane: &mut UnixStream, answers: &Receiver<()>) -> io::Result<()> {
        match self {
            Self::Frame(report) => wire::send(lane, report),
            Self::Flood(count, report) => (0..*count).try_for_each(|_| wire::send(lane, report)),
            Self::Raw(bytes) => lane.write_all(bytes),
            Self::Trickle => {
                lane.write_all(&1_000_u32.to_le_bytes())?;
                loop {
                    lane.write_all(&[3])?;
                    thread::sleep(Duration::from_millis(200));
                }
            }
            Self::Silence => loop {
                thread::park();
            },
            Self::Await(count) => {
                (0..*count).try_for_each(|_| answers.recv()).map_err(|_| io::ErrorKind::BrokenPipe.into())
            }
            Self::End => std::process::exit(3),
        }
    }
}

/// The forged worker's whole life; started by the gate of [`forged`].
#[test]
#[ignore = "a role of this program, not a test: the worker that lies"]
fn worker() {
    let Some(says) = env::args().next_back().filter(|last| last.starts_with("[\"")) else { return };
    let says: Vec<Said> = serde_json::from_str::<Vec<String>>(&says).unwrap().iter().map(|t| Said::of(t)).collect();
    let mut gate = UnixStream::from(io::stdin().as_fd().try_clone_to_owned().unwrap());
    let _: Terms = wire::receive(&mut gate).unwrap();
    wire::send(&mut gate, &Report::Ready("so it says".into())).unwrap();
    thread::scope(|scope| {
        while let Some(lane) = next_lane(&gate) {
            let says = &says;
            scope.spawn(move || serve(lane, says));
        }
        // The gate has gone: what still waits somewhere is not waited for.
        std::process::exit(0)
    });
}

/// Answers every program in the same way; whatever else the gate says is thrown away.
fn serve(mut lane: UnixStream, says: &[Said]) {
    let mut heard = lane.try_clone().unwrap();
    while let Ok(order) = wire::receive::<Order>(&mut heard) {
        if matches!(order, Order::Run { .. }) {
            let mut drain = heard.try_clone().unwrap();
            let (heard, answers) = mpsc::channel();
            let reader = thread::spawn(move || {
                while wire::receive::<Order>(&mut drain).is_ok() {
                    let _ = heard.send(());
                }
                while drain.read(&mut [0; 4096]).is_ok_and(|bytes| bytes > 0) {}
            });
            let _ = says.iter().try_for_each(|said| said.say(&mut lane, &answers));
            let _ = reader.join();
            return;
        }
    }
}

fn next_lane(gate: &UnixStream) -> Option<UnixStream> {
    let mut word = [0; 9];
    loop {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut word)];
        let heard = recvmsg(gate, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC).ok()?;
        let lane = ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut files) => files.next(),
            _ => None,
        });
        match lane {
            Some(lane) => return Some(UnixStream::from(lane)),
            None if heard.bytes == 0 => return None,
            None => {}
        }
    }
}

/// A sandbox whose workers say `says`.
fn forged(says: &[String]) -> Sandbox {
    let role = ["--exact", "forger::worker", "--ignored", "--nocapture", "--test-threads=1"];
    let mut arguments: Vec<String> = role.map(str::to_owned).to_vec();
    arguments.push(serde_json::to_string(says).unwrap());
    let program = env::current_exe().unwrap();
    Sandbox::open(SandboxConfig::new(Wall::Process { program, arguments })).unwrap()
}

fn limited() -> CodeGrant {
    let mut grant = grant();
    grant.limits.wall_ms.0 = 2_000;
    grant.limits.output_bytes = 1_000;
    grant.limits.result_bytes = 1_000;
    grant.limits.callbacks = 20;
    grant
}

fn tools() -> Desk {
    Desk::default().with("echo", &[("value", true)], Does::Echo).with("secret", &[], Does::Deny(ReasonCode::Rule)).with(
        "final_answer",
        &[("answer", true)],
        Does::Give(serde_json::json!("from the host")),
    )
}

impl Forgery {
    /// What is wrong with what came of it.
    fn complaint(&self) -> Option<String> {
        let (sandbox, desk, grant) = (forged(&self.says), tools(), limited());
        let key = key(&fresh());
        let started = Instant::now();
        let outcome = sandbox.run(&key, "1", &Map::new(), &grant, &desk);
        let took = started.elapsed();
        let expected = self.output.as_deref().map(|text| serde_json::from_str::<Value>(text).unwrap());
        let rows = [
            ("status", !self.status.contains(&outcome.status)),
            ("kind", self.kind.as_deref().is_some_and(|kind| kind != desk::kind(&outcome))),
            ("message", self.message.iter().any(|part| !message(&outcome).contains(part))),
            ("logs", self.logs.as_ref().is_some_and(|logs| *logs != outcome.logs)),
            ("output", expected.is_some_and(|expected| expected != outcome.output)),
            ("calls", self.calls != desk.count.load(std::sync::atomic::Ordering::SeqCst)),
            ("usage", !bounded(&outcome, &grant)),
            ("time", took > Duration::from_secs(if self.slow { 25 } else { 12 })),
        ];
        let wrong: Vec<&str> = rows.iter().filter(|(_, wrong)| *wrong).map(|(what, _)| *what).collect();
        (!wrong.is_empty()).then(|| format!("{}: {} after {took:?}\n    {outcome:?}", self.id, wrong.join(", ")))
    }
}

/// No more is charged, printed or returned than a program may use, whatever its worker says.
fn bounded(outcome: &Outcome, grant: &CodeGrant) -> bool {
    let most = grant.limits.worst_case();
    let kinds = [Kind::WallMs, Kind::Fuel, Kind::MemoryBytes, Kind::OutputBytes];
    kinds.into_iter().all(|kind| outcome.usage.of(kind) <= most.of(kind))
        && outcome.logs.len() < 1_100
        && !outcome.logs.contains('\u{1b}')
        && !message(outcome).contains('\u{1b}')
        && outcome.output.to_string().len() <= 1_000
}

fn contained(slow: bool) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/attacks/frames.toml");
    let all: Forgeries = toml::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let chosen: Vec<&Forgery> = all.forgery.iter().filter(|forgery| forgery.slow == slow).collect();
    assert!(
        chosen.iter().all(|one| !one.status.is_empty() && one.why.len() >= 10),
        "all say what is required, and why"
    );
    let faults: Vec<String> = chosen.iter().filter_map(|forgery| forgery.complaint()).collect();
    println!("    {} forgeries of a worker, all contained: {}", chosen.len(), faults.is_empty());
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn what_a_worker_forges_is_not_believed() {
    contained(false);
}

#[test]
fn a_frame_that_never_ends_ends_the_worker() {
    contained(true);
}
