//! Callers of a running gate's service that are hostile, slow or somebody else: each is turned away, and nothing runs.

use std::fs::{self, File};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    SocketAddrUnix, SocketFlags, SocketType, connect, recvmsg, sendmsg, socket_with,
};
use serde_json::{Value, json};
use weir::model::{Amounts, Kind};
use weir::native::Terms;

use crate::rig::{Place, marked, marker};
use crate::service::{Site, TOKEN, budget, lines, null, until};

/// A caller that says what it likes.
struct Raw(OwnedFd);

impl Raw {
    fn to(socket: &Path) -> Self {
        Self::try_to(socket).unwrap()
    }

    fn try_to(socket: &Path) -> rustix::io::Result<Self> {
        let near = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        connect(&near, &SocketAddrUnix::new(socket)?)?;
        Ok(Self(near))
    }

    fn say(&self, text: &[u8], files: &[OwnedFd]) -> rustix::io::Result<usize> {
        let files: Vec<BorrowedFd<'_>> = files.iter().map(|file| file.as_fd()).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !files.is_empty() {
            assert!(ancillary.push(SendAncillaryMessage::ScmRights(&files)));
        }
        sendmsg(&self.0, &[IoSlice::new(text)], &mut ancillary, SendFlags::NOSIGNAL)
    }

    /// The next event; `None` once the gate has closed.
    fn hear(&self) -> Option<Value> {
        let patience = Timespec { tv_sec: 20, tv_nsec: 0 };
        let ready = poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&patience)).unwrap();
        assert_eq!(ready, 1, "the gate says nothing");
        let mut text = vec![0; 200_000];
        // Twice: the first may only say that not everything was heard.
        let heard = (0..2).find_map(|_| {
            let mut none = RecvAncillaryBuffer::default();
            recvmsg(&self.0, &mut [IoSliceMut::new(&mut text)], &mut none, RecvFlags::empty()).ok()
        });
        let bytes = heard.map_or(0, |heard| heard.bytes);
        (bytes > 0).then(|| serde_json::from_slice(&text[..bytes]).unwrap())
    }

    /// The denial, after which the gate has closed.
    fn denied(&self) -> String {
        let heard = self.hear().expect("a denial");
        assert_eq!(heard["event"], "refused", "{heard}");
        assert_eq!(self.hear(), None, "closed");
        let denial = heard["denial"].as_str().unwrap().to_owned();
        assert!(denial.len() < 400 && !denial.contains(TOKEN), "{denial}");
        denial
    }
}

fn streams() -> [OwnedFd; 3] {
    [null(), null(), null()]
}

fn request(place: &Place, line: &str) -> Value {
    json!({ "token": TOKEN, "argv": ["sh", "-c", line], "cwd": place.out, "gpus": 0 })
}

fn asked(site: &Site, request: &Value, files: &[OwnedFd]) -> Raw {
    let raw = Raw::to(&site.socket);
    match raw.say(request.to_string().as_bytes(), files) {
        // A gate without a place for one more says so and closes before it reads anything.
        Err(rustix::io::Errno::PIPE) => {}
        said => drop(said.unwrap()),
    }
    raw
}

/// Nothing was begun, and nothing is held or on record.
fn untouched(site: &Site) {
    assert!(!site.place.out.join("began").exists());
    assert!(site.gate.balances().is_empty(), "{:?}", site.gate.balances());
}

pub fn whoever_has_no_token_gets_nothing_and_nothing_is_on_record() {
    let site = Site::make("");
    for token in ["", "agent-token-012345678", "agent-token-01234567890", "Bearer agent-token-0123456789"] {
        let mut request = request(&site.place, "echo > began");
        request["token"] = json!(token);
        let denial = asked(&site, &request, &streams()).denied();
        assert!(denial.contains("token"), "{denial}");
    }
    untouched(&site);
}

pub fn a_request_that_is_not_one_is_refused_and_closed() {
    let site = Site::make("");
    let good = request(&site.place, "echo > began").to_string();
    let more = |text: &str| good.replacen('{', &format!("{{{text},"), 1);
    for bad in [
        more(r#""policy":"other.toml""#),
        more(r#""store":"elsewhere""#),
        more(r#""without":["network"]"#),
        more(r#""cgroup":"elsewhere""#),
        more(r#""agent":"other""#),
        more(r#""org":"other""#),
        more(r#""gpus":0"#),
        more(r#""doors":["8181=unix:/run/other.sock"]"#),
        good.replace(r#""gpus":0"#, r#""gpus":1e400"#),
        good.replace(r#""gpus":0"#, r#""gpus":-1"#),
        good.replace(&format!("\"{}\"", site.place.out.display()), "\"out\""),
        good.replace(r#"["sh","#, r#"["","#),
        good.replace(r#"["sh","#, r#"["a b","#),
        more(r#""session":"a b""#),
        format!("{}1{}", "[".repeat(5_000), "]".repeat(5_000)),
        "not JSON".to_owned(),
    ] {
        let raw = Raw::to(&site.socket);
        raw.say(bad.as_bytes(), &streams()).unwrap();
        raw.denied();
    }
    let raw = Raw::to(&site.socket);
    raw.say(&[good.as_bytes(), b"\xff"].concat(), &streams()).unwrap();
    raw.denied();
    // More than one message may hold: what does not fit the kernel's own bound never arrives.
    let long = request(&site.place, &"x".repeat(170_000)).to_string();
    let raw = Raw::to(&site.socket);
    if raw.say(long.as_bytes(), &streams()).is_ok() {
        assert!(raw.denied().contains("more than one message"));
    }
    untouched(&site);
    assert_eq!(asked(&site, &request(&site.place, "exit 0"), &streams()).hear().unwrap()["event"], "granted");
}

pub fn only_streams_that_carry_bytes_are_handed_on() {
    let site = Site::make("");
    let wanted = request(&site.place, "echo > began");
    for count in [0, 1, 2, 4, 40, 60] {
        let files: Vec<OwnedFd> = (0..count).map(|_| null()).collect();
        asked(&site, &wanted, &files).denied();
    }
    let path_only = fs::OpenOptions::new().read(true).custom_flags(0o10_000_000).open("/dev/null").unwrap();
    let odd: [OwnedFd; 4] = [
        File::open("/").unwrap().into(),
        UnixStream::pair().unwrap().0.into(),
        std::net::TcpListener::bind("127.0.0.1:0").unwrap().into(),
        path_only.into(),
    ];
    for file in odd {
        let denial = asked(&site, &wanted, &[null(), null(), file]).denied();
        assert!(denial.contains("streams"), "{denial}");
    }
    untouched(&site);
}

/// Neither one that connects and is silent, nor one that is granted a program and never hands over its environment.
pub fn a_caller_who_says_nothing_holds_nothing_up() {
    let site = Site::make(&budget("jobs", 1));
    let silent = Raw::to(&site.socket);
    let granted = asked(&site, &request(&site.place, "echo > began"), &streams());
    assert_eq!(granted.hear().unwrap(), json!({ "event": "granted", "env": ["WEIR_ABSENT", "WEIR_GRANTED"] }));
    // It holds the one place meanwhile, for seconds.
    let denial = asked(&site, &request(&site.place, "echo > began"), &streams()).denied();
    assert!(denial.contains("jobs"), "{denial}");
    assert!(silent.denied().contains("in time"));
    let ended = granted.hear().unwrap();
    assert_eq!((&ended["event"], &ended["exit"]), (&json!("ended"), &json!(125)), "{ended}");
    assert!(!site.place.out.join("began").exists() && site.pending() == Amounts::ZERO);
    // A variable that was not granted is not taken.
    let greedy = asked(&site, &request(&site.place, "echo > began"), &streams());
    assert_eq!(greedy.hear().unwrap()["event"], "granted");
    greedy.say(br#"{"env":{"LD_PRELOAD":"x"}}"#, &[]).unwrap();
    assert_eq!(greedy.hear().unwrap()["exit"], 125);
    assert!(!site.place.out.join("began").exists());
}

pub fn a_word_that_is_not_understood_ends_the_program() {
    let site = Site::make(&budget("gpu_ms", 200_000));
    for word in [r#"{"signal":9}"#, r#"{"signal":2,"signal":2}"#, r#"{"env":{}}"#, "x"] {
        let mark = marker();
        let mut wanted = request(&site.place, "echo >> began; while :; do sleep 0.05; done");
        wanted["argv"].as_array_mut().unwrap().push(json!(mark));
        wanted["gpus"] = json!(1);
        let raw = asked(&site, &wanted, &streams());
        assert_eq!(raw.hear().unwrap()["event"], "granted");
        raw.say(br#"{"env":{}}"#, &[]).unwrap();
        assert_eq!(raw.hear().unwrap()["event"], "started");
        assert!(until(|| lines(&site.place.out.join("began")) == 1));
        raw.say(word.as_bytes(), &[]).unwrap();
        let ended = std::iter::from_fn(|| raw.hear()).find(|event| event["event"] == "ended").unwrap();
        assert_eq!((ended["exit"].as_u64(), marked(&mark)), (Some(124), 0), "{word} {ended}");
        fs::remove_file(site.place.out.join("began")).unwrap();
    }
    assert!(site.pending() == Amounts::ZERO && site.gate.doubts().is_empty());
    assert!(crate::gate::posted(&site.gate, Kind::GpuMs) > 0);
}

pub fn callers_beyond_the_places_are_refused() {
    let site = Site::on("", |terms: &mut Terms| terms.callers = 2);
    let held = [Raw::to(&site.socket), Raw::to(&site.socket)];
    let denial = asked(&site, &request(&site.place, "echo > began"), &streams()).denied();
    assert!(denial.contains("2 callers"), "{denial}");
    drop(held);
    // A place is free again once its caller has gone.
    let free = until(|| {
        let raw = asked(&site, &request(&site.place, "exit 0"), &streams());
        raw.hear().unwrap()["event"] == "granted"
    });
    assert!(free);
}

/// This program as another user, who was let near the socket.
pub fn play(words: &[String]) -> ExitCode {
    let [socket, cwd] = words else { return ExitCode::FAILURE };
    let Ok(raw) = Raw::try_to(Path::new(socket)) else { return ExitCode::from(3) };
    let request = json!({ "token": TOKEN, "argv": ["sh", "-c", "echo > began"], "cwd": cwd, "gpus": 0 });
    let _ = raw.say(request.to_string().as_bytes(), &streams());
    if raw.hear().is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Even one who has the token and can open the socket: the program would have the gate's user and not the caller's.
pub fn another_user_is_turned_away() {
    let (site, own) = (Site::make(""), std::env::current_exe().unwrap());
    let mut stranger = Command::new(own);
    stranger.args(["role:stranger", &site.socket.display().to_string(), &site.place.out.display().to_string()]);
    let stranger = stranger.uid(65_534).stdin(Stdio::null());
    let closed = rustix::process::geteuid().is_root().then(|| stranger.status().ok()).flatten();
    let Some(closed) = closed else {
        println!("skipped: only root can be another user, who must be able to run this program");
        return;
    };
    assert_eq!(closed.code(), Some(3), "the socket is closed to others");
    for (path, mode) in [(site.home.path(), 0o755), (site.socket.parent().unwrap(), 0o755), (&site.socket, 0o666)] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let status = stranger.status().unwrap();
    assert!(status.success(), "turned away without a word: {status}");
    untouched(&site);
}
