//! What clients have told since the gate's start: bounded numbers per session, and prints of the records that were counted.
//!
//! Kept in memory only and forgotten at the end of the process: what is forgotten lowers what a client has reported and
//! so can hide an excess, never make one up.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::{Excess, Usage};
use crate::model::{Digest, Name};
use crate::surface::hook::Client;
use crate::surface::lock;

/// Sessions at the same time.
const SESSIONS: usize = 256;
/// Records of a session that are remembered, so that one that comes again does not count twice.
const PRINTS: usize = 1_024;
/// Uses that a client approved, remembered per session.
const APPROVED: usize = 512;
/// Tools per session whose results came without an id.
const TOOLS: usize = 64;

/// What clients have told.
#[derive(Default)]
pub(crate) struct Telemetry(Mutex<HashMap<Name, Session>>);

struct Session {
    told: Told,
    prints: HashSet<[u8; 16]>,
    order: VecDeque<[u8; 16]>,
    approved: VecDeque<String>,
    nameless: BTreeMap<Name, u64>,
    used: Instant,
}

/// What one session's client has told.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    /// Who told.
    pub client: Client,
    /// Generations by its logs.
    pub logged: Usage,
    /// The same by its metrics, which say nothing of requests.
    pub measured: Usage,
    /// Results of tools.
    pub results: u64,
    /// Of them, those of tools for which the client has no hook.
    pub unhooked: u64,
    /// Of them, those that the gate can tell from no run at all.
    pub unproven: u64,
    /// Tools that ran past the gate.
    pub bypasses: u64,
    /// The excess of generations for which there was an alarm.
    pub alarmed: Excess,
}

impl Told {
    /// What it reports of generations: the larger of its two reports.
    pub fn usage(&self) -> Usage {
        self.logged.most(self.measured)
    }
}

/// What became of a record that was shown to the tally.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entered {
    /// It counts.
    New,
    /// It was told before.
    Again,
    /// Too many sessions are being told of.
    Full,
}

impl Telemetry {
    /// Notes the record `print` of `session`, whose client is `client`; sessions of which nothing came for `idle` make room.
    pub fn enter(&self, session: &Name, client: Client, print: Digest, idle: Duration) -> Entered {
        let mut table = lock(&self.0);
        if !table.contains_key(session) {
            if table.len() >= SESSIONS {
                table.retain(|_, session| session.used.elapsed() < idle);
            }
            if table.len() >= SESSIONS {
                return Entered::Full;
            }
            table.insert(session.clone(), Session::new(client));
        }
        let Some(session) = table.get_mut(session) else { return Entered::Full };
        session.used = Instant::now();
        if session.remember(short(print)) { Entered::New } else { Entered::Again }
    }

    /// Forgets that a record was told: it could not be acted on, and will come again.
    pub fn withdraw(&self, session: &Name, print: Digest) {
        self.change(session, |session| {
            session.prints.remove(&short(print));
            session.order.retain(|known| *known != short(print));
        });
    }

    /// Changes what `session` has told; `None` when it is not known.
    pub fn note<T>(&self, session: &Name, change: impl FnOnce(&mut Told) -> T) -> Option<T> {
        self.change(session, |session| change(&mut session.told))
    }

    /// Notes that the client let the use `id` run.
    pub fn approve(&self, session: &Name, id: String) {
        self.change(session, |session| {
            if session.approved.len() == APPROVED {
                session.approved.pop_front();
            }
            session.approved.push_back(id);
        });
    }

    /// Whether the client let the use `id` run.
    pub fn is_approved(&self, session: &Name, id: &str) -> bool {
        self.change(session, |session| session.approved.iter().any(|known| known == id)).unwrap_or(false)
    }

    /// Counts a result of `tool` without an id; how many there are now.
    pub fn nameless(&self, session: &Name, tool: &Name) -> u64 {
        let count = |session: &mut Session| {
            if session.nameless.len() >= TOOLS && !session.nameless.contains_key(tool) {
                return 0;
            }
            let count = session.nameless.entry(tool.clone()).or_default();
            *count = count.saturating_add(1);
            *count
        };
        self.change(session, count).unwrap_or(0)
    }

    /// What every session has told, in order of name.
    pub fn all(&self) -> BTreeMap<Name, Told> {
        lock(&self.0).iter().map(|(name, session)| (name.clone(), session.told.clone())).collect()
    }

    fn change<T>(&self, session: &Name, change: impl FnOnce(&mut Session) -> T) -> Option<T> {
        lock(&self.0).get_mut(session).map(change)
    }
}

impl Session {
    fn new(client: Client) -> Self {
        let told = Told {
            client,
            logged: Usage::default(),
            measured: Usage::default(),
            results: 0,
            unhooked: 0,
            unproven: 0,
            bypasses: 0,
            alarmed: Excess::default(),
        };
        let (prints, order, approved) = (HashSet::new(), VecDeque::new(), VecDeque::new());
        Self { told, prints, order, approved, nameless: BTreeMap::new(), used: Instant::now() }
    }

    /// False when the record is known.
    fn remember(&mut self, print: [u8; 16]) -> bool {
        if !self.prints.insert(print) {
            return false;
        }
        self.order.push_back(print);
        if self.order.len() > PRINTS
            && let Some(oldest) = self.order.pop_front()
        {
            self.prints.remove(&oldest);
        }
        true
    }
}

/// Half of a digest is enough to tell records of one session apart.
fn short(print: Digest) -> [u8; 16] {
    let mut half = [0; 16];
    half.iter_mut().zip(print.0).for_each(|(to, from)| *to = from);
    half
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    #[test]
    fn memory_is_bounded_and_a_record_counts_once() {
        let (telemetry, hour) = (Telemetry::default(), Duration::from_secs(3_600));
        let enter = |session: &str, n: u64| {
            telemetry.enter(&name(session), Client::ClaudeCode, Digest::of(&n.to_le_bytes()), hour)
        };
        assert_eq!((enter("s", 0), enter("s", 0), enter("s", 1)), (Entered::New, Entered::Again, Entered::New));
        telemetry.withdraw(&name("s"), Digest::of(&0_u64.to_le_bytes()));
        assert_eq!(enter("s", 0), Entered::New);
        for n in 0..3 * PRINTS as u64 {
            enter("s", n);
        }
        let held = telemetry.change(&name("s"), |session| (session.prints.len(), session.order.len()));
        assert_eq!(held, Some((PRINTS, PRINTS)));
        (0..2 * APPROVED).for_each(|n| telemetry.approve(&name("s"), n.to_string()));
        assert!(!telemetry.is_approved(&name("s"), "0") && telemetry.is_approved(&name("s"), &APPROVED.to_string()));
        for n in 0..2 * TOOLS {
            telemetry.nameless(&name("s"), &name(&format!("t{n}")));
        }
        assert_eq!(telemetry.change(&name("s"), |session| session.nameless.len()), Some(TOOLS));
        for n in 0..SESSIONS {
            enter(&format!("s{n}"), 0);
        }
        assert_eq!((enter("late", 0), telemetry.all().len()), (Entered::Full, SESSIONS));
        assert_eq!(telemetry.enter(&name("late"), Client::Codex, Digest::ZERO, Duration::ZERO), Entered::New);
    }
}
