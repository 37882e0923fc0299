//! The ports: what the edges implement for the gate, and nothing else of the gate that they see.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use crate::audit::{About, Head, Question, Sealed};
pub use crate::ledger::AccountId;
use crate::model::{Action, Call, CallId, CodeGrant, Millis, Name, Outcome, OutputFile, Quota, Seat, Timestamp};

pub use super::treasury::{Claim, Holding, Opening, Order, Pot, Round, Treasury, TreasuryFault};
use super::{Answer, Durable, Reserved};

/// Tells the time. The only clock of the core.
pub trait Clock: Send + Sync {
    /// Now, in milliseconds since the Unix epoch.
    fn now(&self) -> Timestamp;
}

/// Why the journal could not take or give entries.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct JournalFault(pub String);

/// A write that is under way; the entry is durable once [`Ticket::wait`] has returned `Ok`.
#[derive(Debug)]
pub enum Ticket {
    /// Already decided.
    Ready(Result<(), JournalFault>),
    /// Decided by another thread.
    Awaited(std::sync::mpsc::Receiver<Result<(), JournalFault>>),
}

impl Ticket {
    /// Waits until the entry is durable.
    ///
    /// # Errors
    /// The fault that kept it from becoming durable; a lost writer is a fault.
    pub fn wait(self) -> Result<(), JournalFault> {
        match self {
            Self::Ready(result) => result,
            Self::Awaited(receiver) => {
                receiver.recv().unwrap_or_else(|_| Err(JournalFault("the journal's writer is gone".into())))
            }
        }
    }
}

/// The gate's state after some entries, signed by it: what a start reads instead of those entries. The
/// store keeps it and does not look into it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// How many entries it stands for.
    pub count: u64,
    /// The entries for which the snapshot before it stood; `prints` are of those in between.
    pub since: u64,
    /// The state, as the gate wrote it.
    pub text: String,
    /// What is remembered of the calls' ids, 16 bytes each, in the order of their use.
    pub prints: Vec<u8>,
    /// The gate's signature over all of it, hexadecimal.
    pub signature: String,
}

/// Why a snapshot is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The gate is running.
    Running,
    /// It ends.
    Closing,
}

/// Keeps entries durably, in order. Once an append has failed, every later one must fail too.
pub trait Journal: Send + Sync {
    /// Takes the next entry. Called in order of `seq`, never concurrently.
    fn append(&self, entry: Sealed) -> Ticket;

    /// Gives every entry's text to `each`, in order, and returns the signed head if one is kept.
    ///
    /// # Errors
    /// A store that cannot be read.
    fn replay(&self, each: &mut dyn FnMut(String)) -> Result<Option<Head>, JournalFault>;

    /// The same for the entries from number `from` on.
    ///
    /// # Errors
    /// A store that cannot be read.
    fn replay_from(&self, from: u64, each: &mut dyn FnMut(String)) -> Result<Option<Head>, JournalFault> {
        let mut seq = 0;
        self.replay(&mut |text| {
            if seq >= from {
                each(text);
            }
            seq += 1;
        })
    }

    /// Whether the store wants a snapshot, `since` entries after the newest one that it has.
    fn wants_snapshot(&self, since: u64, moment: Moment) -> bool {
        let _ = (since, moment);
        false
    }

    /// Takes a snapshot of the entries appended so far; it is kept once they are durable. Its `prints`
    /// follow those that the store keeps of the first `since` entries, and replace any later ones.
    fn keep(&self, snapshot: Snapshot) {
        let _ = snapshot;
    }

    /// The newest snapshot but `back`, with the prints of all entries that it stands for.
    ///
    /// # Errors
    /// A store that cannot be read.
    fn snapshot(&self, back: usize) -> Result<Option<Snapshot>, JournalFault> {
        let _ = back;
        Ok(None)
    }
}

/// Runs what was allowed, reserved and recorded. It cannot be called without proof of all three.
pub trait Executor: Send + Sync {
    /// Runs `work`; nested calls go back through `inner`. Never panics on purpose: a fault is an
    /// [`Outcome`] with status `Broken`.
    fn execute(&self, work: &Durable<Reserved>, inner: &dyn Inner) -> Outcome;

    /// The names of its guests, the languages of programs; the first is that of a program that names none.
    fn guests(&self) -> Vec<&'static str> {
        vec!["python"]
    }

    /// Forgets whatever is kept for a seat.
    fn close(&self, seat: &Seat) {
        let _ = seat;
    }

    /// Leaves a seat for a while: what is kept of it may come back. One that can keep nothing forgets it.
    fn rest(&self, seat: &Seat) {
        self.close(seat);
    }

    /// What it keeps between executions, for whoever owns the session; `None` where it keeps nothing.
    fn keeper(&self) -> Option<&dyn Keeper> {
        None
    }
}

/// A session's interpreter as its owner sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Kept {
    /// Whose it is.
    pub seat: Seat,
    /// The guest: `python`, `javascript`.
    pub guest: Name,
    /// True while an interpreter is in memory; false when it rests on disk and comes back at its next step.
    pub live: bool,
    /// Steps that it has run.
    pub steps: u64,
    /// Linear memory, bytes.
    pub memory_bytes: u64,
    /// Its checkpoints, oldest first.
    pub checkpoints: Vec<Point>,
}

/// One checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Point {
    /// Its id: 32 hexadecimal digits.
    pub id: String,
    /// When it was made.
    pub at: Timestamp,
    /// Steps that the session had run.
    pub steps: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// The checkpoint that it follows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

/// Why a keeper did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeepFault {
    /// There is no such session, checkpoint or file.
    #[error("there is no {0}")]
    Absent(&'static str),
    /// The session is running a program.
    #[error("the session is running a program; try again when it has ended")]
    Busy,
    /// A limit is reached.
    #[error("{0}")]
    Full(String),
    /// It is not what it should be: changed on disk, of another agent, of another guest.
    #[error("{0}")]
    Refused(String),
    /// The machine did not do it.
    #[error("{0}")]
    Failed(String),
}

/// Keeps sessions between executions: checkpoints, forks, files.
///
/// Who may ask is the surface's question: an agent for its own seats, an operator for all.
pub trait Keeper: Send + Sync {
    /// Every session that is kept.
    fn list(&self) -> Vec<Kept>;

    /// Puts the session's state aside.
    ///
    /// # Errors
    /// [`KeepFault`].
    fn checkpoint(&self, seat: &Seat) -> Result<Point, KeepFault>;

    /// Makes the session what it was at `point`, the newest one where none is named.
    ///
    /// # Errors
    /// [`KeepFault`].
    fn roll_back(&self, seat: &Seat, point: Option<&str>) -> Result<Point, KeepFault>;

    /// Makes `to`, a session of the same agent that has nothing yet, a copy of `seat` at `point`, or as it is now.
    ///
    /// # Errors
    /// [`KeepFault`].
    fn fork(&self, seat: &Seat, point: Option<&str>, to: &Seat) -> Result<Point, KeepFault>;

    /// Forgets the session: interpreter, checkpoints and files.
    ///
    /// # Errors
    /// [`KeepFault`].
    fn remove(&self, seat: &Seat) -> Result<(), KeepFault>;

    /// Makes the session's scratch folder where there is none yet, so that files can be put there before its first step.
    ///
    /// # Errors
    /// [`KeepFault`]: all folders together would hold too much.
    fn furnish(&self, seat: &Seat, quota: &Quota) -> Result<(), KeepFault>;

    /// The files in the session's scratch folder.
    ///
    /// # Errors
    /// [`KeepFault`].
    fn files(&self, seat: &Seat) -> Result<Vec<OutputFile>, KeepFault>;

    /// The content of one of them.
    ///
    /// # Errors
    /// [`KeepFault`].
    fn read(&self, seat: &Seat, path: &str) -> Result<Vec<u8>, KeepFault>;

    /// Puts a file into the session's scratch folder, within its quota.
    ///
    /// # Errors
    /// [`KeepFault`].
    fn write(&self, seat: &Seat, path: &str, content: &[u8]) -> Result<OutputFile, KeepFault>;
}

/// The line as seen from inside an execution: every nested call walks all of it.
pub trait Inner: Sync {
    /// Decides, reserves, records, runs and settles a call made by generated code.
    fn call(&self, action: Action, resource: &str, args: Map<String, Value>) -> Answer;

    /// The tools for which generated code gets stubs.
    fn tools(&self) -> Vec<ToolSpec>;

    /// True once the caller has gone or cancelled: stop at the next chance.
    fn cancelled(&self) -> bool;
}

/// The host of the tools: closures, clients and files stay there.
pub trait ToolHost: Send + Sync {
    /// The tools that the host offers.
    fn tools(&self) -> Vec<ToolSpec>;

    /// Runs one tool; must return within `deadline`, with status `Unknown` when the host did not
    /// answer in time.
    fn call(&self, id: &CallId, tool: &str, args: &Map<String, Value>, deadline: Millis) -> Outcome;

    /// True once the caller has gone or cancelled.
    fn cancelled(&self) -> bool {
        false
    }
}

/// What generated code needs to know of a tool to call it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToolSpec {
    /// The name: a Python identifier.
    pub name: Name,
    /// What it does, for `help()`.
    #[serde(default)]
    pub description: String,
    /// Parameters in positional order.
    #[serde(default)]
    pub params: Vec<Param>,
    /// True for the tool whose call ends the program with an answer.
    #[serde(default)]
    pub is_final: bool,
    /// True when the host says that this tool is another agent: its calls are `agent.invoke`.
    #[serde(default)]
    pub is_agent: bool,
}

/// One parameter of a tool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Param {
    /// Its name.
    pub name: Name,
    /// False when it may be left out.
    #[serde(default)]
    pub required: bool,
}

/// What a person said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Approval {
    /// Yes; the text says who and how, for the record.
    Granted(String),
    /// No.
    Refused,
    /// What [`super::Gate::answer`] has taken already.
    Recorded,
    /// No answer in time.
    Expired,
    /// Whoever asked has gone.
    Withdrawn,
    /// The gate stops; the question waits on, and with it the call when it is tried again.
    Deferred,
    /// Nobody can be asked.
    Unavailable,
}

/// Asks a person, on a channel that the agent cannot reach.
pub trait Approver: Send + Sync {
    /// Whether somebody could be asked about `call` now; where not, no question is put on record.
    fn can_ask(&self, call: &Call) -> bool {
        let _ = call;
        true
    }

    /// Asks about exactly this call, in `question`, which is on record; `why` is the policy's reason.
    fn ask(&self, call: &Call, why: &str, question: &Question, timeout: Millis) -> Approval;
}

/// An approver where there is nobody to ask.
#[derive(Clone, Copy, Debug, Default)]
pub struct Nobody;

impl Approver for Nobody {
    fn can_ask(&self, _: &Call) -> bool {
        false
    }

    fn ask(&self, _: &Call, _: &str, _: &Question, _: Millis) -> Approval {
        Approval::Unavailable
    }
}

/// Keeps what a person must see of a question and the journal must not hold: arguments and reasons.
pub trait Drawer: Send + Sync {
    /// Keeps `text` for the question `id`, durably.
    ///
    /// # Errors
    /// It could not be kept; then nobody can be asked.
    fn put(&self, id: &Name, text: &str) -> Result<(), JournalFault>;

    /// What is kept for the question `id`.
    fn get(&self, id: &Name) -> Option<String>;

    /// Forgets everything but what is kept for the questions `these`.
    fn keep_only(&self, these: &[Name]);

    /// Forgets what is kept for the question `id`.
    fn remove(&self, id: &Name);
}

/// What an executor of generated code reads out of its work.
#[derive(Clone, Copy, Debug)]
pub struct CodeWork<'a> {
    /// The call; `args.code` is the program and `args.variables` what to set before it runs.
    pub call: &'a Call,
    /// What it is granted.
    pub grant: &'a CodeGrant,
}
