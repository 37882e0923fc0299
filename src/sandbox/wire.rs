//! What the gate and a worker say to each other: frames on a stream socket, one lane per execution at a time.
//!
//! A worker runs guests, so that what it says may be what a guest that broke out says: every frame is bounded
//! before it is read and parsed strictly after, and nothing in it is believed that costs or proves anything
//! (`exchange.rs`, `reply.rs`). This file knows the shapes and the framing, and neither side's business.

use std::io::{self, Read, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::model::{Access, Limits, Quota};

/// The longest frame: a message of the guest with room for its frame.
const FRAME: usize = Limits::JSON_BYTES + (2 << 20);
/// The longest state of an interpreter, bytes.
pub(crate) const STATE: usize = 5 << 30;
/// Bytes of memory in one [`Report::Part`] or [`Order::Part`].
pub(crate) const PART: usize = 1 << 20;

/// The first frame to a worker: what it will ever be able to reach. Nothing widens it afterwards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Terms {
    /// The compiled guest, whose seal the gate has checked.
    pub(crate) code: String,
    /// The memory with which an interpreter starts, mapped copy-on-write; empty where the component has its own.
    pub(crate) image: String,
    /// Native stack of a guest, bytes: a class of `engine.rs`.
    pub(crate) stack: u64,
    /// Folders that stay within reach behind the lock.
    pub(crate) folders: Vec<(String, Access)>,
    /// Private memory of the whole worker, bytes.
    pub(crate) memory_bytes: u64,
    /// The longest file that it may write, bytes.
    pub(crate) file_bytes: u64,
    /// False in a process that is also the gate's.
    pub(crate) locked: bool,
}

/// What an interpreter gets when it starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct System {
    /// From what its randomness follows; `None` is the operating system's.
    pub(crate) seed: Option<String>,
    /// Where its clocks stand still, milliseconds since the Unix epoch; `None` is the machine's clocks.
    pub(crate) clock: Option<u64>,
    /// Nanoseconds by which the standing monotonic clock has moved.
    pub(crate) moved: u64,
    /// Words drawn from its two seeded dice.
    pub(crate) drawn: (u64, u64),
    /// Its folders.
    pub(crate) folders: Vec<Folder>,
}

impl System {
    /// What an interpreter has before it is given anything.
    pub(crate) const fn nothing() -> Self {
        Self { seed: Some(String::new()), clock: Some(0), moved: 0, drawn: (0, 0), folders: Vec::new() }
    }
}

/// One folder of a guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Folder {
    /// Where it lies on the host, within the worker's terms.
    pub(crate) host: String,
    /// Its path in the guest.
    pub(crate) guest: String,
    /// Read or write.
    pub(crate) access: Access,
    /// How much it may hold; every one to write has it.
    pub(crate) quota: Option<Quota>,
}

/// One program and its limits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Program {
    /// Its text.
    pub(crate) code: String,
    /// What it may use, as JSON for the guest.
    pub(crate) request: String,
    /// Linear memory, bytes.
    pub(crate) memory_bytes: u64,
    /// Wall time without what calls take, milliseconds.
    pub(crate) wall_ms: u64,
    /// Fuel.
    pub(crate) fuel: u64,
    /// Printed bytes.
    pub(crate) output_bytes: u64,
    /// Put the state aside first, within the worker, so that a stop loses this program alone.
    pub(crate) hold: bool,
    /// What the real clocks and dice gave is to be told.
    pub(crate) tell: bool,
    /// What the real clocks and dice gave the last time, to be given again.
    pub(crate) noise: Option<Vec<u8>>,
}

/// From the gate.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Runs a program. `start` makes a new interpreter at the seat first; `keep` leaves it there.
    Run { seat: u64, start: Option<System>, keep: bool, program: Program },
    /// The reply to the last [`Report::Call`].
    Answer(String),
    /// Ends the program that runs.
    Stop,
    /// Asks for the memory of the seat: parts, then [`Report::Saved`].
    Save { seat: u64 },
    /// Makes an interpreter with the memory that follows in parts: `bytes` of them, then [`Report::Loaded`].
    Load { seat: u64, start: System, bytes: u64 },
    /// The next bytes of a memory.
    Part(Vec<u8>),
    /// Forgets a seat.
    Drop { seat: u64 },
}

/// From a worker.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Report {
    /// The worker is behind its lock; the text says what holds it.
    Ready(String),
    /// It cannot work; the text says why.
    Unfit(String),
    /// The program asks for something and waits.
    Call(Request),
    /// The program printed.
    Printed(String),
    /// The program is over.
    Ended(Ended),
    /// The next bytes of a memory.
    Part(Vec<u8>),
    /// All of them: how many, how far the standing clock has moved, how far the dice were drawn. Or why there are none.
    Saved(Result<(u64, u64, (u64, u64)), String>),
    /// The interpreter is there; or why not.
    Loaded(Result<(), String>),
}

/// One nested call as the guest asked for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Request {
    pub(crate) kind: String,
    pub(crate) name: String,
    /// The arguments' JSON text, or its length in bytes when that is over [`Limits::JSON_BYTES`].
    pub(crate) args: Result<String, u64>,
}

/// How a program ended, as the worker saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ended {
    pub(crate) end: End,
    /// Fuel that was not used.
    pub(crate) fuel_left: u64,
    /// Linear memory now, bytes.
    pub(crate) memory_bytes: u64,
    /// Memory was asked for and refused.
    pub(crate) refused: bool,
    /// True when the interpreter is still at its seat.
    pub(crate) alive: bool,
    /// True when it is, as it was before this program.
    pub(crate) held: bool,
    /// What the real clocks and dice gave, where that was asked for; `None` when it was too much to tell.
    pub(crate) noise: Option<Vec<u8>>,
}

/// The end itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum End {
    /// An answer, unparsed; or its length in bytes when that is over the bound.
    Answer(Result<String, u64>),
    /// A trap.
    Trap(Trap),
    /// Stopped at its wall limit.
    Wall,
    /// Stopped because the gate said so.
    Told,
    /// It could not be started; the text says why.
    Unstarted(String),
}

/// Why a guest could not go on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Trap {
    /// The fuel was used.
    Fuel,
    /// The stack was used.
    Stack,
    /// It ended its interpreter itself.
    Exit,
    /// Anything else.
    Other(String),
}

/// Writes one frame.
///
/// # Errors
/// The stream's, and `InvalidInput` for a frame over the bound.
pub(crate) fn send<F: Serialize>(stream: &mut impl Write, frame: &F) -> io::Result<()> {
    let mut bytes = Vec::new();
    pack(&mut bytes, frame)?;
    stream.write_all(&bytes)
}

/// Adds one frame to `bytes`, so that several go out at once.
///
/// # Errors
/// The frame is too long.
pub(crate) fn pack<F: Serialize>(bytes: &mut Vec<u8>, frame: &F) -> io::Result<()> {
    let start = bytes.len();
    bytes.extend([0; 4]);
    postcard::to_io(frame, &mut *bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    let length = bytes.len() - start - 4;
    if length > FRAME {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("a frame of {length} bytes is too long")));
    }
    let prefix = u32::try_from(length).map_err(io::Error::other)?.to_le_bytes();
    bytes.iter_mut().skip(start).zip(prefix).for_each(|(byte, new)| *byte = new);
    Ok(())
}

/// Reads one frame.
///
/// # Errors
/// The stream's, `UnexpectedEof` at its end, and `InvalidData` for a frame that is too long or not of this shape.
pub(crate) fn receive<F: DeserializeOwned>(stream: &mut impl Read) -> io::Result<F> {
    let mut prefix = [0; 4];
    stream.read_exact(&mut prefix)?;
    let length = u32::from_le_bytes(prefix) as usize;
    if length > FRAME {
        return Err(invalid(&format!("a frame of {length} bytes is too long")));
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes)?;
    parse(&bytes)
}

/// One frame's content, all of it.
///
/// # Errors
/// `InvalidData`.
pub(crate) fn parse<F: DeserializeOwned>(bytes: &[u8]) -> io::Result<F> {
    match postcard::take_from_bytes(bytes) {
        Ok((frame, [])) => Ok(frame),
        Ok((_, rest)) => Err(invalid(&format!("{} bytes follow the frame", rest.len()))),
        Err(error) => Err(invalid(&error.to_string())),
    }
}

fn invalid(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame() -> Report {
        Report::Call(Request { kind: "tool".into(), name: "read".into(), args: Ok("{}".into()) })
    }

    #[test]
    fn what_is_sent_is_what_is_received() {
        let saved = Report::Saved(Ok((7, 8, (9, 10))));
        let mut bytes = Vec::new();
        send(&mut bytes, &frame()).unwrap();
        send(&mut bytes, &saved).unwrap();
        let mut stream = bytes.as_slice();
        assert_eq!(receive::<Report>(&mut stream).unwrap(), frame());
        assert_eq!(receive::<Report>(&mut stream).unwrap(), saved);
        assert_eq!(receive::<Report>(&mut stream).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_frame_with_a_rest_a_lie_about_its_length_or_another_shape_is_refused() {
        let mut bytes = Vec::new();
        send(&mut bytes, &frame()).unwrap();
        let content = bytes.split_off(4);
        for wrong in [&content[..content.len() - 1], &[&content[..], &[0]].concat(), &[0xff; 20], &[]] {
            assert!(parse::<Report>(wrong).is_err(), "{wrong:?}");
        }
        let long = u32::MAX.to_le_bytes();
        assert_eq!(receive::<Report>(&mut long.as_slice()).unwrap_err().kind(), io::ErrorKind::InvalidData);
        // A text that is not UTF-8, and a list that says it is longer than the frame.
        for wrong in [vec![3, 2, 0xc3, 0x28], vec![5, 0xff, 0xff, 0xff, 0xff, 0x0f, 1]] {
            assert!(parse::<Report>(&wrong).is_err(), "{wrong:?}");
        }
    }
}
