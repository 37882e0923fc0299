//! The docket: what people were asked, and what they said that no call has used yet.
//!
//! A fold over the journal like everything in the state, so that a question survives a restart and its answer finds the
//! call when it is tried again. A yes is used up by one intent; everything here ends with its time.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::audit::{About, Question, Verdict};
use crate::model::{Digest, Name, Subject, Timestamp};

/// Every question that is not over.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Docket {
    matters: BTreeMap<Name, Matter>,
}

/// One question and its answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Matter {
    question: Question,
    answer: Option<Said>,
}

/// What a person said.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Said {
    pub granted: bool,
    pub by: String,
    until: Timestamp,
}

impl Matter {
    fn is_over(&self, now: Timestamp) -> bool {
        now >= self.answer.as_ref().map_or(self.question.until, |said| said.until)
    }
}

impl Docket {
    /// Enters a question that was put at `at`; what is over by then goes.
    pub fn ask(&mut self, at: Timestamp, question: Question) {
        self.matters.retain(|_, matter| !matter.is_over(at));
        self.matters.insert(question.id.clone(), Matter { question, answer: None });
    }

    /// Enters what became of a question.
    pub fn answer(&mut self, id: &Name, verdict: Verdict, by: &str, until: Timestamp) {
        match verdict {
            Verdict::Granted => self.enter(id, true, by, until),
            Verdict::Refused => self.enter(id, false, by, until),
            Verdict::Expired | Verdict::Withdrawn => self.close(id),
        }
    }

    /// Enters that a budget was raised as the question `id` asked: nothing is left to be used.
    pub fn raised(&mut self, id: &Name, by: &str) {
        let until = self.matters.get(id).map_or(Timestamp(0), |matter| matter.question.until);
        self.enter(id, true, by, until);
    }

    fn enter(&mut self, id: &Name, granted: bool, by: &str, until: Timestamp) {
        if let Some(matter) = self.matters.get_mut(id) {
            matter.answer = Some(Said { granted, by: by.to_owned(), until });
        }
    }

    /// Takes a question away: its yes is used up, or it was taken back.
    pub fn close(&mut self, id: &Name) {
        self.matters.remove(id);
    }

    /// True when the question `id` has no answer, in time or not.
    pub fn is_open(&self, id: &Name) -> bool {
        self.matters.get(id).is_some_and(|matter| matter.answer.is_none())
    }

    /// What was said to the question `id`.
    pub fn said(&self, id: &Name) -> Option<&Said> {
        self.matters.get(id)?.answer.as_ref()
    }

    /// True when nothing was asked lately.
    pub fn is_empty(&self) -> bool {
        self.matters.is_empty()
    }

    /// The question `id`, as long as it waits.
    pub fn waiting(&self, id: &Name, now: Timestamp) -> Option<&Question> {
        self.matters.get(id).filter(|matter| matter.answer.is_none() && !matter.is_over(now)).map(|m| &m.question)
    }

    /// Everything that waits.
    pub fn all_waiting(&self, now: Timestamp) -> impl Iterator<Item = &Question> {
        let open = move |matter: &&Matter| matter.answer.is_none() && !matter.is_over(now);
        self.matters.values().filter(open).map(|matter| &matter.question)
    }

    /// An answer that still counts to the question `about` a call bound by `bound`, among those that `usable` lets this
    /// call have. A no is for everybody.
    pub fn standing(
        &self,
        bound: Digest,
        about: &About,
        now: Timestamp,
        usable: impl Fn(&Name) -> bool,
    ) -> Option<(&Name, &Said)> {
        let matters = self.matters.iter().filter(|(_, matter)| !matter.is_over(now));
        let said = matters.filter(|(_, matter)| matter.question.is_about(bound, about));
        said.filter_map(|(id, matter)| matter.answer.as_ref().map(|said| (id, said)))
            .find(|(id, said)| !said.granted || usable(id))
    }

    /// A question that waits, is the same, and that `usable` lets this call take over: whoever put it is gone.
    pub fn adoptable(
        &self,
        bound: Digest,
        about: &About,
        now: Timestamp,
        usable: impl Fn(&Name) -> bool,
    ) -> Option<&Question> {
        self.all_waiting(now).find(|question| question.is_about(bound, about) && usable(&question.id))
    }

    /// Every question that waits (false) or whose yes no call has used yet (true), over or not.
    pub fn pending(&self) -> impl Iterator<Item = (&Question, bool)> {
        let open = |matter: &Matter| match &matter.answer {
            None => Some(false),
            Some(said) => (said.granted && matches!(matter.question.about, About::Rule { .. })).then_some(true),
        };
        self.matters.values().filter_map(move |matter| open(matter).map(|granted| (&matter.question, granted)))
    }

    /// True when something on the docket is the session's of `subject`.
    pub fn concerns(&self, subject: &Subject, now: Timestamp) -> bool {
        let of =
            |who: &Subject| (&who.org, &who.agent, &who.session) == (&subject.org, &subject.agent, &subject.session);
        self.matters.values().any(|matter| !matter.is_over(now) && of(&matter.question.call.subject))
    }
}
