//! The fold: evidence in, ten posteriors out.
//!
//! One session has one vote per factor, its highest level, so that calls cannot be stuffed into a
//! session to thin out a bad one. A session takes its place with its first call that happened;
//! refused calls are counted as attempts and take no place. A vote's weight halves with every
//! [`super::HALF_LIFE_SESSIONS`] later votes on the same factor; the prior's never does.
//!
//! Bounded: the last [`RING_SESSIONS`] sessions are kept with their facts, in order of their first
//! call; older ones have been added up, with the same weights as if they were still there.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::{FACTOR_SIGNALS, FactorScore, SessionFacts, beta::RETENTION, repeats::Repeats, score::Tally};
use crate::model::{Action, Evidence, Factor, Factors, Happened, Level, Name};

/// Sessions whose facts are kept. Evidence of a session that left the ring starts a new one.
pub const RING_SESSIONS: usize = 1000;

const FACTORS: usize = FACTOR_SIGNALS.len();

/// What evidence has shown so far; a fold over [`Evidence`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Posterior {
    ring: VecDeque<(Name, SessionFacts)>,
    /// Number of a session in the ring, counted from the first ever.
    numbers: BTreeMap<Name, u64>,
    /// Sessions that have left the ring.
    left: u64,
    /// Votes of sessions that have left, weighted as seen from the oldest one in the ring.
    past: [Past; FACTORS],
    attempted: [u64; FACTORS],
    high_water: [Option<Level>; FACTORS],
    repeats: Repeats,
    calls: u64,
}

/// Votes on one factor by sessions that have left the ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Past {
    #[serde(with = "bits")]
    present: f64,
    #[serde(with = "bits")]
    absent: f64,
    votes: u64,
}

impl Posterior {
    /// Adds what one call showed.
    pub fn observe(&mut self, evidence: &Evidence) {
        if evidence.happened != Happened::Reported {
            self.calls = self.calls.saturating_add(1);
        }
        match evidence.happened {
            Happened::Denied | Happened::Exhausted => self.count_attempts(evidence),
            Happened::Executed | Happened::Approved | Happened::Unknown => self.add(evidence),
            Happened::Reported => self.add_bypass(&evidence.session),
        }
    }

    /// The score of every factor, beside what was declared and what the policy permits.
    #[must_use]
    pub fn scores(&self, declared: Option<&Factors>, permitted: &[Option<Level>; 10]) -> Vec<FactorScore> {
        let rows = FACTOR_SIGNALS.iter().zip(permitted);
        rows.map(|(signal, permitted)| {
            let declared = declared.map(|factors| factors.of(signal.factor));
            FactorScore::of(signal.factor, self.tally(signal.factor), declared, *permitted)
        })
        .collect()
    }

    /// Sessions in which any call happened.
    #[must_use]
    pub fn sessions(&self) -> u64 {
        self.left.saturating_add(self.ring.len() as u64)
    }

    /// Calls seen, refused ones included.
    #[must_use]
    pub const fn calls(&self) -> u64 {
        self.calls
    }

    fn count_attempts(&mut self, evidence: &Evidence) {
        for (signal, count) in FACTOR_SIGNALS.iter().zip(&mut self.attempted) {
            if (signal.attempt)(evidence) {
                *count = count.saturating_add(1);
            }
        }
    }

    fn add(&mut self, evidence: &Evidence) {
        let number = self.number(&evidence.session);
        let compared = evidence.action != Action::CodeImport;
        let repeat =
            compared.then(|| self.repeats.note(number, evidence.input_digest, evidence.action_digest)).flatten();
        self.note(number, |facts| facts.add(evidence, repeat));
    }

    fn add_bypass(&mut self, session: &Name) {
        let number = self.number(session);
        self.note(number, SessionFacts::add_bypass);
    }

    /// Changes what the session of this number has shown, and the highest that was ever seen.
    fn note(&mut self, number: u64, change: impl FnOnce(&mut SessionFacts)) {
        let place = usize::try_from(number.saturating_sub(self.left)).unwrap_or(usize::MAX);
        let Some((_, facts)) = self.ring.get_mut(place) else {
            return;
        };
        change(facts);
        for (signal, highest) in FACTOR_SIGNALS.iter().zip(&mut self.high_water) {
            *highest = (*highest).max((signal.level)(facts));
        }
    }

    /// The number of a session; a new one takes the last place, and the oldest leaves a full ring.
    fn number(&mut self, session: &Name) -> u64 {
        if let Some(number) = self.numbers.get(session) {
            return *number;
        }
        if self.ring.len() >= RING_SESSIONS
            && let Some((name, facts)) = self.ring.pop_front()
        {
            self.numbers.remove(&name);
            self.left = self.left.saturating_add(1);
            for (signal, past) in FACTOR_SIGNALS.iter().zip(&mut self.past) {
                past.add((signal.level)(&facts));
            }
        }
        let number = self.sessions();
        self.ring.push_back((session.clone(), SessionFacts::default()));
        self.numbers.insert(session.clone(), number);
        number
    }

    /// Adds up the votes on `factor`, from the newest session back.
    fn tally(&self, factor: Factor) -> Tally {
        let (Some(signal), Some(past)) = (FACTOR_SIGNALS.get(factor as usize), self.past.get(factor as usize)) else {
            return Tally::default();
        };
        let (mut present, mut absent, mut weight, mut votes) = (0.0, 0.0, 1.0, 0_u64);
        for level in self.ring.iter().rev().filter_map(|(_, facts)| (signal.level)(facts)) {
            present += weight * level.fraction();
            absent += weight * (1.0 - level.fraction());
            weight *= RETENTION;
            votes += 1;
        }
        Tally {
            present: present + weight * past.present,
            absent: absent + weight * past.absent,
            sessions: votes.saturating_add(past.votes),
            attempted: self.attempted.get(factor as usize).copied().unwrap_or_default(),
            high_water: self.high_water.get(factor as usize).copied().flatten(),
        }
    }
}

impl Past {
    /// Adds the vote of the session that just left: it weighs one, all older ones less by one step.
    fn add(&mut self, vote: Option<Level>) {
        if let Some(level) = vote {
            self.present = self.present * RETENTION + level.fraction();
            self.absent = self.absent * RETENTION + (1.0 - level.fraction());
            self.votes = self.votes.saturating_add(1);
        }
    }
}

/// A float by its bits: what is read back is what was written, bit for bit.
mod bits {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:016x}", value.to_bits()))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        let text = String::deserialize(deserializer)?;
        u64::from_str_radix(&text, 16).map(f64::from_bits).map_err(D::Error::custom)
    }
}
