//! The same input, met again in another session: did the agent do the same thing?
//!
//! A bounded table of inputs, oldest forgotten first, each with what the first session did after it.
//! Sessions are only compared with earlier ones. An input that the table has forgotten, or nothing
//! to compare with, gives no vote: silence says nothing about variance.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

use crate::model::{Digest, Level};

/// Inputs remembered.
const INPUTS: usize = 4096;
/// Different actions remembered per input; a session with more is not compared.
const ACTIONS: usize = 4;

/// How an action compares with an earlier session's after the same input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Repeat {
    /// One of the same actions.
    Same,
    /// Another action.
    Different,
}

impl Repeat {
    /// The level: none when the same, full when the other action has a full grade, partial between.
    pub(super) fn level(self, graded: Option<Level>) -> Level {
        match self {
            Self::Same => Level::NONE,
            Self::Different if graded == Some(Level::FULL) => Level::FULL,
            Self::Different => Level::PARTIAL,
        }
    }
}

/// Inputs and what followed them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Repeats {
    followed: BTreeMap<Digest, Followed>,
    order: VecDeque<Digest>,
}

/// What the first session with an input did after it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Followed {
    session: u64,
    actions: BTreeSet<Digest>,
}

impl Repeats {
    /// Notes that session number `session` did `action` after `input`, and compares. An input of all
    /// zero means that the agent had seen nothing yet: tasks differ, so nothing is compared.
    pub(super) fn note(&mut self, session: u64, input: Digest, action: Digest) -> Option<Repeat> {
        if input == Digest::ZERO {
            return None;
        }
        let Some(followed) = self.followed.get_mut(&input) else {
            self.remember(session, input, action);
            return None;
        };
        if followed.session == session {
            // One more than the limit marks the set as too large to compare with.
            followed.actions.insert(action);
            if followed.actions.len() > ACTIONS + 1 {
                followed.actions.pop_last();
            }
            return None;
        }
        match followed.actions.len() {
            0..=ACTIONS if followed.actions.contains(&action) => Some(Repeat::Same),
            0..=ACTIONS => Some(Repeat::Different),
            _ => None,
        }
    }

    fn remember(&mut self, session: u64, input: Digest, action: Digest) {
        if self.order.len() >= INPUTS
            && let Some(oldest) = self.order.pop_front()
        {
            self.followed.remove(&oldest);
        }
        self.order.push_back(input);
        self.followed.insert(input, Followed { session, actions: BTreeSet::from([action]) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(n: usize) -> Digest {
        Digest::of(&n.to_le_bytes())
    }

    #[test]
    fn only_another_session_after_the_same_input_is_compared() {
        let mut repeats = Repeats::default();
        assert_eq!(repeats.note(1, digest(0), digest(1)), None, "first sight");
        assert_eq!(repeats.note(1, digest(0), digest(2)), None, "the same session");
        assert_eq!(repeats.note(2, digest(0), digest(2)), Some(Repeat::Same));
        assert_eq!(repeats.note(3, digest(0), digest(3)), Some(Repeat::Different));
        assert_eq!(repeats.note(3, digest(9), digest(3)), None, "another input");
        assert_eq!(repeats.note(4, Digest::ZERO, digest(1)), None);
        assert_eq!(repeats.note(5, Digest::ZERO, digest(2)), None, "nothing seen yet is not an input");
    }

    #[test]
    fn the_table_is_bounded_and_a_set_too_large_is_not_compared() {
        let mut repeats = Repeats::default();
        for action in 0..100 {
            repeats.note(1, digest(0), digest(action));
        }
        assert_eq!(repeats.note(2, digest(0), digest(1000)), None);
        for input in 0..2 * INPUTS {
            repeats.note(3, digest(input), digest(0));
        }
        assert_eq!((repeats.order.len(), repeats.followed.len()), (INPUTS, INPUTS));
        assert_eq!(repeats.note(4, digest(0), digest(5)), None, "forgotten");
    }

    #[test]
    fn what_differs_counts_by_what_it_could_change() {
        assert_eq!(Repeat::Same.level(Some(Level::FULL)), Level::NONE);
        assert_eq!(Repeat::Different.level(Some(Level::NONE)), Level::PARTIAL);
        assert_eq!(Repeat::Different.level(None), Level::PARTIAL);
        assert_eq!(Repeat::Different.level(Some(Level::FULL)), Level::FULL);
    }
}
