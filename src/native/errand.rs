//! A program that a running gate is asked to run: the asking side of [`super::Service`], which `weir exec --gate` is.
//!
//! It hands over its standard streams, tells signals, shows what the gate says, and knows how it ended. It meters nothing
//! and is believed about nothing: with its end, however that comes, the program ends.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::channel::Channel;
use super::clock::Watch;
use super::report::{Progress, REFUSED, SIGNALLED, STOPPED};
use super::socket::connect;
use super::talk::{Ended, Event, Wanted, Word, read};
use crate::model::{Secret, Status};

/// How often signals are looked at.
const BEAT_MS: u64 = 25;
/// How long a gate whose program runs may say nothing: it tells what is spent five times a second, and where it stands
/// still the program is gone before this.
const SILENCE_MS: u64 = 30_000;
/// How long what the program wrote may take to be carried on once it has ended.
const REST: Duration = Duration::from_millis(10);
const RESTS: u32 = 500;
/// Signals from which on the program is not waited for: the gate has ended it at the second.
const ENOUGH: u32 = 3;

/// What is asked of a running gate.
pub struct Errand {
    /// The gate's socket for programs.
    pub socket: PathBuf,
    /// The agent's token.
    pub token: Secret,
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// The folder in which it runs, from the root.
    pub cwd: String,
    /// GPUs that it holds.
    pub gpus: u32,
    /// The session whose budgets go on; a fresh one where none is named.
    pub session: Option<String>,
    /// Ports inside that are to lead to the gate.
    pub doors: Vec<u16>,
    /// The environment from which the gate asks for what the policy grants, and for nothing else.
    pub environment: BTreeMap<String, String>,
    /// Standard input, output and error of the program.
    pub streams: [OwnedFd; 3],
    /// The number of a signal that came for the program, put there by a handler.
    pub signal: Arc<AtomicUsize>,
    /// Told what is spent.
    pub watch: Box<dyn Fn(&Progress) + Send>,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// Nothing ran, and why.
    Refused(String),
    /// It ran, and is settled.
    Ended(Ended),
    /// No gate could be asked.
    Unheard(String),
    /// The gate has gone or stands still; with it the program ends, or never began.
    Lost {
        /// Whether the program may have begun.
        begun: bool,
    },
    /// A signal called it off before it began, or for good.
    Left(i32),
}

impl Told {
    /// The exit code: the program's own, 124 where it was stopped, 125 where it was refused or nobody could be asked.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Ended(ended) => ended.exit,
            Self::Lost { begun: true } => STOPPED,
            Self::Refused(_) | Self::Unheard(_) | Self::Lost { begun: false } => REFUSED,
            Self::Left(number) => u8::try_from(SIGNALLED.saturating_add(*number)).unwrap_or(u8::MAX),
        }
    }

    /// What a person is told; of an end that needs no words only where they are `wanted`.
    #[must_use]
    pub fn lines(&self, wanted: bool) -> Vec<String> {
        match self {
            Self::Refused(why) | Self::Unheard(why) => vec![why.clone()],
            Self::Lost { begun: true } => vec![
                "the gate has gone or stands still, and the program ends with it; what was held counts as spent once the \
                 gate is started again"
                    .to_owned(),
            ],
            Self::Lost { begun: false } => vec![
                "the gate closed the connection before the program began: it stopped, or you are neither its user nor root"
                    .to_owned(),
            ],
            Self::Left(_) => vec!["called off; what had begun of the program ends".to_owned()],
            Self::Ended(ended) => {
                let loud = wanted || matches!(ended.status, Status::Broken | Status::Exhausted | Status::Unknown);
                ended.notices.iter().chain(loud.then_some(&ended.summary)).cloned().collect()
            }
        }
    }
}

impl Errand {
    /// Asks the gate, and stays until the program has ended.
    #[must_use]
    pub fn run(self) -> Told {
        let (streams, relays) = match lent(self.streams) {
            Ok(lent) => lent,
            Err(error) => return Told::Unheard(format!("the standard streams cannot be handed on: {error}")),
        };
        let at = self.socket.display();
        let channel = match connect(&self.socket) {
            Ok(channel) => channel,
            Err(error) => {
                return Told::Unheard(format!(
                    "no gate runs programs at unix:{at} ({error}): start one with `weir serve --exec`, or give --policy"
                ));
            }
        };
        let wanted = Wanted {
            token: self.token.expose().to_owned(),
            argv: self.argv,
            cwd: self.cwd,
            gpus: self.gpus,
            session: self.session,
            doors: self.doors,
        };
        let files: Vec<BorrowedFd<'_>> = streams.iter().map(|file| file.as_fd()).collect();
        match channel.send(&wanted, &files) {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                return Told::Unheard("the arguments are over 150 KiB, more than a gate takes".into());
            }
            // A gate that has no place says so and leaves; that is heard all the same.
            _ => {}
        }
        // From here on they are the program's alone, so that its end can be seen in them.
        drop(streams);
        let talk = Talk { channel, environment: self.environment, signal: self.signal, watch: self.watch };
        let told = talk.listen();
        relays.finish();
        told
    }
}

/// The rest of the conversation.
struct Talk {
    channel: Channel,
    environment: BTreeMap<String, String>,
    signal: Arc<AtomicUsize>,
    watch: Box<dyn Fn(&Progress) + Send>,
}

impl Talk {
    fn listen(self) -> Told {
        let (mut begun, mut started, mut signals, mut heard) = (false, false, 0_u32, Watch::start());
        loop {
            if let Some(number) = self.signalled() {
                signals += 1;
                if !started || signals >= ENOUGH {
                    return Told::Left(number);
                }
                // A gate that has gone is noticed below.
                let _ = self.channel.offer(&Word::Signal(number));
            }
            match self.channel.ready(BEAT_MS) {
                Ok(true) => heard = Watch::start(),
                Ok(false) if begun && heard.millis() >= SILENCE_MS => return Told::Lost { begun },
                Ok(false) => continue,
                Err(_) => return Told::Lost { begun },
            }
            let Ok(Some((text, _))) = self.channel.receive_text() else { return Told::Lost { begun } };
            match read(&text) {
                Ok(Event::Refused { denial }) => return Told::Refused(denial),
                Ok(Event::Ended(ended)) => return Told::Ended(ended),
                Ok(Event::Granted { env }) => {
                    // What is on its way from here on may run before anything more is heard of it.
                    begun = true;
                    self.answer(&env);
                }
                Ok(Event::Started) => started = true,
                Ok(Event::Progress(progress)) => (self.watch)(&progress),
                Err(_) if begun => return Told::Lost { begun },
                Err(_) => return Told::Unheard("what answered is not a gate of this version".into()),
            }
        }
    }

    fn signalled(&self) -> Option<i32> {
        i32::try_from(self.signal.swap(0, Ordering::AcqRel)).ok().filter(|number| *number != 0)
    }

    /// What the policy grants of the environment, and nothing else of it.
    fn answer(&self, names: &[String]) {
        let granted = |name: &String| Some((name.clone(), self.environment.get(name)?.clone()));
        let _ = self.channel.send(&Word::Env(names.iter().filter_map(granted).collect()), &[]);
    }
}

/// Threads that carry bytes between sockets and the pipes that are handed on in their place.
#[derive(Default)]
struct Relays(Vec<JoinHandle<()>>);

impl Relays {
    /// Waits until what the program wrote has been carried on, within bounds.
    fn finish(self) {
        for _ in 0..RESTS {
            if self.0.iter().all(JoinHandle::is_finished) {
                return;
            }
            thread::sleep(REST);
        }
    }
}

/// The streams as a gate takes them: a socket, which some programs have in place of a pipe, becomes a pipe.
fn lent(streams: [OwnedFd; 3]) -> io::Result<([OwnedFd; 3], Relays)> {
    let mut relays = Relays::default();
    let [input, output, error] = streams;
    let input = if is_socket(&input)? {
        let (near, far) = io::pipe()?;
        // It ends with the input or with the program; nobody waits for it.
        drop(relay(File::from(input), File::from(OwnedFd::from(far)))?);
        near.into()
    } else {
        input
    };
    let mut outward = |stream: OwnedFd| -> io::Result<OwnedFd> {
        if !is_socket(&stream)? {
            return Ok(stream);
        }
        let (far, near) = io::pipe()?;
        relays.0.push(relay(File::from(OwnedFd::from(far)), File::from(stream))?);
        Ok(near.into())
    };
    let streams = [input, outward(output)?, outward(error)?];
    Ok((streams, relays))
}

fn is_socket(stream: &OwnedFd) -> io::Result<bool> {
    Ok(File::from(stream.try_clone()?).metadata()?.file_type().is_socket())
}

fn relay(mut from: File, mut to: File) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name("weir-relay".into()).spawn(move || {
        let _ = io::copy(&mut from, &mut to);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_has_a_code_and_few_words() {
        let ended = |status| {
            let (summary, notices) = ("the program ended well".to_owned(), vec!["without a wall".to_owned()]);
            Told::Ended(Ended { exit: 7, status, summary, notices, call: "call".into() })
        };
        assert_eq!((ended(Status::Done).exit_code(), ended(Status::Done).lines(false).len()), (7, 1));
        assert_eq!((ended(Status::Done).lines(true).len(), ended(Status::Exhausted).lines(false).len()), (2, 2));
        let others = [
            (Told::Refused("no".into()), 125),
            (Told::Unheard("no".into()), 125),
            (Told::Lost { begun: false }, 125),
            (Told::Lost { begun: true }, 124),
            (Told::Left(2), 130),
        ];
        for (told, code) in others {
            assert_eq!(told.exit_code(), code, "{told:?}");
            let lines = told.lines(false);
            assert!(lines.len() == 1 && lines[0].len() < 400, "{lines:?}");
        }
    }

    #[test]
    fn nobody_at_the_socket_is_said() {
        let file = || OwnedFd::from(File::open("/dev/null").unwrap());
        let errand = Errand {
            socket: "/nowhere/exec.sock".into(),
            token: Secret::new("0123456789abcdef").unwrap(),
            argv: vec!["sh".into()],
            cwd: "/".into(),
            gpus: 0,
            session: None,
            doors: Vec::new(),
            environment: BTreeMap::new(),
            streams: [file(), file(), file()],
            signal: Arc::default(),
            watch: Box::new(|_| {}),
        };
        let told = errand.run();
        assert!(matches!(&told, Told::Unheard(why) if why.contains("weir serve --exec")), "{told:?}");
        assert_eq!(told.exit_code(), 125);
    }
}
