//! What lies in the vault, and what has to go so that something new fits.
//!
//! The index is sealed like everything else and counts its own changes. Each kept file has an id that is
//! never used again and stands in no other list: an older file, another session's or another agent's does
//! not open in its place.

use serde::{Deserialize, Serialize};

use super::Caps;
use crate::model::{Digest, Name, Seat, Timestamp};
use crate::pep::port::{KeepFault, Point};

/// Files that are listed at most.
const MOST: usize = 65_536;

/// What a kept file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Class {
    /// A checkpoint that somebody asked for.
    Point,
    /// A session that rests on disk, exactly as it was left: one per seat, and no checkpoint to go back to.
    Rest,
    /// A state to go on from that is not where the session was last, of which the agent is told; instead of a rest.
    Aside,
}

/// One kept file, as far as it is known before it is written. All of it is bound to every chunk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sheet {
    pub(super) class: Class,
    /// 32 hexadecimal digits; the file's name as well.
    pub(super) id: String,
    /// The interpreter's seat.
    pub(super) seat: Seat,
    /// The session to which that belongs, by its own name.
    pub(super) session: Name,
    pub(super) guest: Name,
    pub(super) build: Digest,
    pub(super) at: Timestamp,
    pub(super) steps: u64,
    pub(super) memory_bytes: u64,
    pub(super) after: Option<String>,
}

/// One kept file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) sheet: Sheet,
    pub(super) bytes: u64,
}

/// Every kept file, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Index {
    /// Changes so far.
    pub(super) counter: u64,
    pub(super) entries: Vec<Entry>,
}

impl Sheet {
    /// What a file of this sheet is bound to.
    pub(super) fn bound(&self) -> std::io::Result<Vec<u8>> {
        postcard::to_stdvec(&("kept", self)).map_err(std::io::Error::other)
    }
}

impl Entry {
    /// As the owner sees it.
    pub(super) fn point(&self) -> Point {
        let Sheet { id, at, steps, after, .. } = &self.sheet;
        Point { id: id.clone(), at: *at, steps: *steps, bytes: self.bytes, after: after.clone() }
    }

    /// True for everything of `session`, whichever guest's.
    pub(super) fn is_of_session(&self, session: &Seat) -> bool {
        let Sheet { seat, session: name, .. } = &self.sheet;
        (&seat.org, &seat.agent, name) == (&session.org, &session.agent, &session.name)
    }

    fn is_point_of(&self, seat: &Seat) -> bool {
        self.sheet.class == Class::Point && self.sheet.seat == *seat
    }
}

impl Index {
    /// What is kept of `seat`, oldest first.
    pub(super) fn of<'i>(&'i self, seat: &'i Seat) -> impl DoubleEndedIterator<Item = &'i Entry> {
        self.entries.iter().filter(move |entry| entry.sheet.seat == *seat)
    }

    /// The checkpoints of `seat`, oldest first.
    pub(super) fn points<'i>(&'i self, seat: &'i Seat) -> impl DoubleEndedIterator<Item = &'i Entry> {
        self.entries.iter().filter(move |entry| entry.is_point_of(seat))
    }

    /// This index with `entry`, and without what `caps` then have no room for.
    ///
    /// The seat's own oldest checkpoints go first. For the total, the oldest checkpoint of any seat goes that
    /// is not the newest that its seat has: no session loses its only state to another one.
    pub(super) fn with(&self, entry: Entry, caps: &Caps) -> Result<Self, KeepFault> {
        let mut next = Self { counter: self.counter + 1, entries: self.entries.clone() };
        let seat = entry.sheet.seat.clone();
        let points = match entry.sheet.class {
            Class::Point => caps.points_per_seat.saturating_sub(1),
            Class::Rest | Class::Aside => {
                next.entries.retain(|old| old.sheet.class == Class::Point || old.sheet.seat != seat);
                caps.points_per_seat
            }
        };
        if entry.sheet.class == Class::Point && caps.points_per_seat == 0 {
            return Err(KeepFault::Full("no checkpoints are kept here: their limit is 0".into()));
        }
        while next.points(&seat).count() > points {
            next.drop_oldest(|old| old.is_point_of(&seat));
        }
        while sum(next.of(&seat)).saturating_add(entry.bytes) > caps.bytes_per_seat {
            if !next.drop_oldest(|old| old.is_point_of(&seat)) {
                return Err(full("a session", caps.bytes_per_seat));
            }
        }
        while sum(next.entries.iter()).saturating_add(entry.bytes) > caps.bytes_total || next.entries.len() >= MOST {
            if !next.drop_spare(&seat) {
                return Err(full("all sessions together", caps.bytes_total));
            }
        }
        next.entries.push(entry);
        Ok(next)
    }

    /// This index without what `gone` says.
    pub(super) fn without(&self, gone: impl Fn(&Entry) -> bool) -> Self {
        let entries = self.entries.iter().filter(|entry| !gone(entry)).cloned().collect();
        Self { counter: self.counter + 1, entries }
    }

    fn drop_oldest(&mut self, of: impl Fn(&Entry) -> bool) -> bool {
        let found = self.entries.iter().position(of);
        found.map(|at| self.entries.remove(at)).is_some()
    }

    /// Drops the oldest checkpoint after which its seat still has something; `seat` is about to get it.
    fn drop_spare(&mut self, seat: &Seat) -> bool {
        let spare = self.entries.iter().enumerate().find(|(at, entry)| {
            let later = self.entries.iter().skip(at + 1);
            let has_later = entry.sheet.seat == *seat || later.into_iter().any(|e| e.sheet.seat == entry.sheet.seat);
            entry.sheet.class == Class::Point && has_later
        });
        let spare = spare.map(|(at, _)| at);
        spare.map(|at| self.entries.remove(at)).is_some()
    }
}

fn sum<'i>(entries: impl Iterator<Item = &'i Entry>) -> u64 {
    entries.fold(0, |sum, entry| sum.saturating_add(entry.bytes))
}

fn full(whose: &str, most: u64) -> KeepFault {
    KeepFault::Full(format!(
        "what is kept of {whose} would take more than the limit of {most} bytes; remove checkpoints or sessions \
         that are not needed (`weir session rm`)"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(seat: &str, class: Class, id: &str, bytes: u64) -> Entry {
        let name = |text: &str| Name::new(text).unwrap();
        let seat = Seat { org: name("o"), agent: name("a"), name: name(seat) };
        let sheet = Sheet {
            class,
            id: id.into(),
            session: seat.name.clone(),
            seat,
            guest: name("python"),
            build: Digest::ZERO,
            at: Timestamp(1),
            steps: 0,
            memory_bytes: 0,
            after: None,
        };
        Entry { sheet, bytes }
    }

    fn ids(index: &Index) -> Vec<&str> {
        index.entries.iter().map(|entry| entry.sheet.id.as_str()).collect()
    }

    fn filled(caps: &Caps, entries: &[(&str, Class, &str, u64)]) -> Index {
        entries.iter().fold(Index::default(), |index, (seat, class, id, bytes)| {
            index.with(entry(seat, *class, id, *bytes), caps).unwrap()
        })
    }

    #[test]
    fn a_seat_keeps_its_newest_checkpoints_and_one_rest() {
        use Class::{Point, Rest};
        let caps = Caps { bytes_total: 1000, bytes_per_seat: 100, points_per_seat: 2, tape_bytes: 0 };
        let index = filled(&caps, &[("s", Point, "1", 10), ("s", Rest, "2", 10), ("s", Point, "3", 10)]);
        assert_eq!(ids(&index), ["1", "2", "3"]);
        let index = index.with(entry("s", Point, "4", 10), &caps).unwrap();
        assert_eq!(ids(&index), ["2", "3", "4"]);
        let index = index.with(entry("s", Rest, "5", 60), &caps).unwrap();
        assert_eq!((ids(&index), index.counter), (vec!["3", "4", "5"], 5));
        let index = index.with(entry("s", Point, "6", 40), &caps).unwrap();
        assert_eq!(ids(&index), ["5", "6"], "by bytes as well");
        assert!(matches!(index.with(entry("s", Point, "7", 41), &caps), Err(KeepFault::Full(_))));
        let none = Caps { points_per_seat: 0, ..caps };
        assert!(index.with(entry("s", Point, "8", 1), &none).is_err());
        assert!(index.with(entry("t", Rest, "8", 1), &none).is_ok());
    }

    #[test]
    fn no_session_loses_its_only_state_to_another() {
        use Class::{Point, Rest};
        let caps = Caps { bytes_total: 100, bytes_per_seat: 100, points_per_seat: 9, tape_bytes: 0 };
        let index = filled(&caps, &[("s", Point, "1", 25), ("t", Point, "2", 25), ("t", Rest, "3", 25)]);
        let index = index.with(entry("u", Point, "4", 50), &caps).unwrap();
        assert_eq!(ids(&index), ["1", "3", "4"], "t has its rest, s has nothing else");
        assert!(matches!(index.with(entry("v", Point, "5", 50), &caps), Err(KeepFault::Full(_))));
        let index = index.with(entry("u", Point, "5", 50), &caps).unwrap();
        assert_eq!(ids(&index), ["1", "3", "5"], "its own older one makes room");
    }
}
