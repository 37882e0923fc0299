//! What is said of a run: while it runs, and when it has ended.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::place::StartFault;
use super::plan::Wall;
use crate::model::{Amounts, ExecLimits, GuestError, Kind, Outcome, ReasonCode, Status};
use crate::pep::Answer;

/// From which share of a limit on one is warned, per cent.
const NEAR: u64 = 80;
/// Kinds with a limit, and what a person calls them.
const METERED: [(Kind, &str); 5] = [
    (Kind::WallMs, "wall time"),
    (Kind::CpuMs, "processor time"),
    (Kind::MemoryBytes, "memory"),
    (Kind::DiskBytes, "disk"),
    (Kind::GpuMs, "GPU time"),
];
/// Codes of a shell: stopped at a limit; refused; ended by a signal (added to its number).
pub(super) const STOPPED: u8 = 124;
pub(super) const REFUSED: u8 = 125;
pub(super) const SIGNALLED: i32 = 128;

/// What is spent at one moment, against what may be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// So far: milliseconds, bytes; memory is the highest so far.
    pub spent: Amounts,
    /// At most; of wall and GPU time without the grace.
    pub limits: Amounts,
    /// Processes and threads now.
    pub processes: u64,
    /// How busy the granted GPUs are, per cent of one each; `None` without a GPU or where the driver does not say.
    pub gpu_load: Option<u32>,
    /// The kind at whose limit it was told to save its state; the end follows after the grace.
    pub saving: Option<Kind>,
}

impl Progress {
    /// Every kind with a limit: its name for a person, what is spent, what may be.
    pub fn rows(&self) -> impl Iterator<Item = (Kind, &'static str, u64, u64)> + '_ {
        let row = |(kind, name): &(Kind, &'static str)| (*kind, *name, self.spent.of(*kind), self.limits.of(*kind));
        METERED.iter().map(row).filter(|(.., limit)| *limit > 0)
    }

    /// Kinds of which most is spent.
    pub fn near(&self) -> impl Iterator<Item = (Kind, &'static str)> + '_ {
        let is_near = |(.., spent, limit): &(Kind, &str, u64, u64)| {
            u128::from(*spent) * 100 >= u128::from(*limit) * u128::from(NEAR)
        };
        self.rows().filter(is_near).map(|(kind, name, ..)| (kind, name))
    }
}

impl fmt::Display for Progress {
    /// One line: what is spent of what may be, kind by kind.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (kind, name, spent, limit) in self.rows() {
            write!(f, "{name} {} of {} | ", shown(kind, spent), shown(kind, limit))?;
        }
        write!(f, "{} processes", self.processes)?;
        self.gpu_load.map_or(Ok(()), |load| write!(f, " | GPUs busy {load} %"))
    }
}

/// An amount as a person reads it: seconds with a tenth, mebibytes.
fn shown(kind: Kind, amount: u64) -> String {
    match kind {
        Kind::MemoryBytes | Kind::DiskBytes => format!("{} MiB", amount.div_ceil(1 << 20)),
        _ => format!("{}.{} s", amount / 1_000, amount % 1_000 / 100),
    }
}

fn name(kind: Kind) -> &'static str {
    METERED.iter().find(|(known, _)| *known == kind).map_or("", |(_, name)| *name)
}

/// What a run used in all and how it ended: one line.
#[must_use]
pub fn summary(outcome: &Outcome) -> String {
    let row = |(kind, name): &(Kind, &str)| format!("{name} {}", shown(*kind, outcome.usage.of(*kind)));
    let used = METERED.iter().filter(|(kind, _)| outcome.usage.of(*kind) > 0).map(row).collect::<Vec<_>>().join(", ");
    let how = outcome.error.as_ref().map_or("the program ended well", |error| error.message.as_str());
    if used.is_empty() { how.to_owned() } else { format!("{how}; used {used}") }
}

/// The limits as amounts.
pub(super) fn limits(limits: &ExecLimits, gpus: u32) -> Amounts {
    Amounts::ZERO
        .with(Kind::WallMs, limits.wall_ms.0)
        .with(Kind::CpuMs, limits.cpu_ms.0)
        .with(Kind::MemoryBytes, limits.memory_bytes)
        .with(Kind::DiskBytes, limits.disk_bytes)
        .with(Kind::GpuMs, limits.wall_ms.0.saturating_mul(u64::from(gpus)))
}

/// Why a run was ended from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// An amount reached its limit.
    Limit(Kind),
    /// There were too many processes.
    Processes,
    /// The folders to write could no longer be looked through.
    Blind,
    /// Its account was revoked, or its caller has gone.
    Cancelled,
    /// What it uses could not be recorded.
    Unrecorded,
    /// Its user asked twice.
    Interrupted(i32),
    /// A process that holds the walls is gone.
    Lost,
}

impl Stop {
    fn text(self) -> String {
        match self {
            Self::Limit(kind) => format!("its {} reached the limit, and every process of it was ended", name(kind)),
            Self::Processes => "it had more processes than it may have, and all were ended".into(),
            Self::Blind => "what it wrote could no longer be counted (folders without end or closed to the gate), and \
                            every process of it was ended"
                .into(),
            Self::Cancelled => {
                "its account was revoked or its caller has gone, and every process of it was ended".into()
            }
            Self::Unrecorded => "what it uses could not be recorded, and every process of it was ended".into(),
            Self::Interrupted(_) => "its user ended it".into(),
            Self::Lost => "the process that held its walls is gone, and with it every process of the program".into(),
        }
    }

    const fn code(self) -> Option<ReasonCode> {
        match self {
            Self::Limit(_) | Self::Processes | Self::Blind => Some(ReasonCode::LimitReached),
            Self::Cancelled => Some(ReasonCode::AccountRevoked),
            Self::Unrecorded => Some(ReasonCode::JournalFailed),
            Self::Interrupted(_) | Self::Lost => None,
        }
    }

    const fn status(self) -> Status {
        match self {
            Self::Limit(_) | Self::Processes | Self::Blind | Self::Cancelled | Self::Unrecorded => Status::Exhausted,
            Self::Interrupted(_) => Status::Failed,
            Self::Lost => Status::Unknown,
        }
    }

    fn exit(self) -> u8 {
        match self {
            Self::Interrupted(number) => u8::try_from(SIGNALLED.saturating_add(number)).unwrap_or(u8::MAX),
            Self::Lost => REFUSED,
            _ => STOPPED,
        }
    }
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// By itself: its code, or the signal that ended it.
    Own(Option<i32>, Option<i32>),
    /// By itself, within the grace that it had at this limit: its code.
    Saved(Kind, Option<i32>),
    /// From outside.
    Stopped(Stop),
}

/// What came of a run. `gone` says whether the end of every process was seen.
pub(super) fn outcome(end: End, usage: Amounts, lacking: &[(Wall, String)], starved: bool, gone: bool) -> Outcome {
    let end = match end {
        // The kernel ended a process of it for memory, perhaps that which held its walls, and it did not end well.
        End::Own(Some(0), _) => end,
        End::Own(..) | End::Stopped(Stop::Lost) if starved => End::Stopped(Stop::Limit(Kind::MemoryBytes)),
        end => end,
    };
    let (status, exit, error, stopped) = match end {
        End::Own(Some(0), _) => (Status::Done, 0, None, None),
        End::Own(Some(code), _) => {
            let exit = u8::try_from(code).unwrap_or(u8::MAX);
            (Status::Failed, exit, Some(("Exit", format!("the program ended with code {code}"))), None)
        }
        End::Own(None, signal) => {
            let number = signal.unwrap_or(9);
            let exit = u8::try_from(SIGNALLED.saturating_add(number)).unwrap_or(u8::MAX);
            (Status::Failed, exit, Some(("Signal", format!("the program was ended by signal {number}"))), None)
        }
        End::Saved(kind, code) => {
            let how = code.map_or_else(|| "by the signal".into(), |code| format!("with code {code}"));
            let text = format!("its {} reached the limit, and it ended within its grace, {how}", name(kind));
            (Status::Exhausted, STOPPED, Some(("Stopped", text)), Some(ReasonCode::LimitReached))
        }
        End::Stopped(stop) => (stop.status(), stop.exit(), Some(("Stopped", stop.text())), stop.code()),
    };
    let mut notices: Vec<String> =
        lacking.iter().map(|(wall, why)| format!("without the wall `{wall}` ({why}): {}", wall.loss())).collect();
    let mut status = status;
    if !gone {
        status = Status::Unknown;
        notices.push(
            "the kernel has not ended every process in ten seconds; they hold no budget that is not posted".into(),
        );
    }
    let error = error.map(|(kind, message)| GuestError { kind: kind.into(), message, traceback: String::new() });
    Outcome { output: json!({ "exit": exit }), usage, error, stopped, notices, ..Outcome::of(status) }
}

/// What is said where nothing was started.
pub(super) fn not_started(fault: &StartFault) -> Outcome {
    let exit = if let StartFault::Absent(code, _) = fault { *code } else { REFUSED };
    let error = GuestError { kind: "NotStarted".into(), message: fault.to_string(), traceback: String::new() };
    Outcome { output: json!({ "exit": exit }), error: Some(error), ..Outcome::of(Status::Broken) }
}

/// The exit code of whoever ran a program through the gate: the program's own; 124 when it was stopped at a limit;
/// 125 when it was refused or could not be started behind its walls; 126 and 127 as a shell has them.
#[must_use]
pub fn exit_code(answer: &Answer) -> u8 {
    let exit = answer.outcome.as_ref().and_then(|outcome| outcome.output.get("exit")?.as_u64());
    exit.and_then(|code| u8::try_from(code).ok()).unwrap_or(REFUSED)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(outcome: &Outcome) -> u64 {
        outcome.output["exit"].as_u64().unwrap()
    }

    #[test]
    fn codes_are_those_of_a_shell() {
        let ended = |end| outcome(end, Amounts::ZERO, &[], false, true);
        assert_eq!(ended(End::Own(Some(0), None)).status, Status::Done);
        assert_eq!(exit(&ended(End::Own(Some(7), None))), 7);
        assert_eq!(exit(&ended(End::Own(None, Some(9)))), 137);
        let stopped = ended(End::Stopped(Stop::Limit(Kind::CpuMs)));
        assert_eq!((exit(&stopped), stopped.status), (124, Status::Exhausted));
        assert_eq!(exit(&ended(End::Stopped(Stop::Interrupted(2)))), 130);
        assert_eq!(exit(&not_started(&StartFault::Absent(127, "x".into()))), 127);
        assert_eq!(exit(&not_started(&StartFault::Failed("x".into()))), 125);
    }

    #[test]
    fn an_end_that_nobody_saw_is_unknown_and_one_for_memory_is_a_limit() {
        assert_eq!(outcome(End::Own(Some(0), None), Amounts::ZERO, &[], false, false).status, Status::Unknown);
        let starved = outcome(End::Own(None, Some(9)), Amounts::ZERO, &[], true, true);
        assert_eq!(starved.stopped, Some(ReasonCode::LimitReached));
        assert_eq!(outcome(End::Own(Some(0), None), Amounts::ZERO, &[], true, true).status, Status::Done);
        let lacking = [(Wall::Cpu, "none here".to_owned())];
        assert!(outcome(End::Own(Some(0), None), Amounts::ZERO, &lacking, false, true).notices[0].contains("`cpu`"));
    }

    #[test]
    fn most_of_a_limit_is_four_fifths() {
        let limits = Amounts::ZERO.with(Kind::CpuMs, 1_000).with(Kind::WallMs, 1_000);
        let spent = Amounts::ZERO.with(Kind::CpuMs, 800).with(Kind::WallMs, 799);
        let progress = Progress { spent, limits, processes: 1, gpu_load: None, saving: None };
        assert_eq!(progress.near().collect::<Vec<_>>(), [(Kind::CpuMs, "processor time")]);
        assert_eq!(progress.rows().count(), 2);
        let line = "wall time 0.7 s of 1.0 s | processor time 0.8 s of 1.0 s | 1 processes";
        assert_eq!(progress.to_string(), line);
        let ended = outcome(End::Own(Some(0), None), spent, &[], false, true);
        assert_eq!(summary(&ended), "the program ended well; used wall time 0.7 s, processor time 0.8 s");
    }
}
