//! The names of accounts: which ones a subject counts on, and how one is written.

use std::borrow::Borrow;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, de::Error};

use crate::model::{Amounts, Kind, Name, Nature, Subject, Tier};

/// The name of an account: `org/agent/session/run`, with `/+project` after the organisation where there is
/// one, and `org/agent/session/~subagent/~its-subagent` for agents below the session's own.
///
/// A `/` inside a name is written `%2F`; no name may hold `%`, `+` or `~`, so two accounts never share a name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct AccountId(String);

/// Why a text names no account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "an account is `org`, `org/agent`, `org/agent/session`, `org/agent/session/run` or `org/agent/session/~subagent`, with `/+project` after the organisation where there is one"
)]
pub struct NoAccount;

impl AccountId {
    /// The accounts on which a call of `subject` counts, root first.
    #[must_use]
    pub fn path(subject: &Subject) -> Vec<Self> {
        let path = Path::of(subject);
        path.steps().map(|(_, text)| Self(text.to_owned())).collect()
    }

    /// The account of the session of `subject`, whoever works in it.
    #[must_use]
    pub fn session(subject: &Subject) -> Self {
        let path = Path::of(subject);
        let session = path.steps().find(|(tier, _)| *tier == Tier::Session);
        Self(session.map_or_else(String::new, |(_, text)| text.to_owned()))
    }

    /// Reads the name of an account.
    ///
    /// # Errors
    /// The text is not what [`AccountId::path`] would write for any subject.
    pub fn parse(text: &str) -> Result<Self, NoAccount> {
        tier_of(text).map(|_| Self(text.to_owned())).ok_or(NoAccount)
    }

    /// Its place in the hierarchy.
    #[must_use]
    pub fn tier(&self) -> Tier {
        tier_of(&self.0).unwrap_or(Tier::Org)
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn of(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl<'de> Deserialize<'de> for AccountId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

impl Borrow<str> for AccountId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The tier of the account named `text`; `None` when it names none.
fn tier_of(text: &str) -> Option<Tier> {
    let mut parts = text.split('/').peekable();
    let plain = |part: Option<&str>| part.filter(|part| is_name(part)).map(drop);
    let marked = |part: &str, mark| part.strip_prefix(mark).is_some_and(is_name);
    plain(parts.next())?;
    let mut tier = Tier::Org;
    if parts.next_if(|part| marked(part, '+')).is_some() {
        tier = Tier::Project;
    }
    for next in [Tier::Agent, Tier::Session] {
        if parts.peek().is_none() {
            return Some(tier);
        }
        plain(parts.next())?;
        tier = next;
    }
    match parts.peek() {
        None => Some(tier),
        Some(part) if part.starts_with('~') => parts.all(|part| marked(part, '~')).then_some(Tier::Subagent),
        Some(_) => {
            plain(parts.next())?;
            parts.next().is_none().then_some(Tier::Run)
        }
    }
}

/// Whether `part` is one name with each `/` in it written as `%2F`.
fn is_name(part: &str) -> bool {
    let name = part.replace("%2F", "/");
    Name::new(name).is_ok()
}

/// The names of a subject's accounts in one text, so that looking them up allocates little.
pub(super) struct Path {
    text: String,
    /// Tier, and where its name begins and ends in the text.
    steps: Vec<(Tier, usize, usize)>,
}

impl Path {
    pub(super) fn of(subject: &Subject) -> Self {
        let Subject { org, project, agent, session, run, delegation } = subject;
        let mut path = Self { text: String::with_capacity(96), steps: Vec::with_capacity(5 + delegation.len()) };
        path.step(Tier::Org, "", org, 0);
        if let Some(project) = project {
            path.step(Tier::Project, "/+", project, 0);
        }
        path.step(Tier::Agent, "/", agent, 0);
        path.step(Tier::Session, "/", session, 0);
        let session = path.text.len();
        for subagent in delegation {
            path.step(Tier::Subagent, "/~", subagent, 0);
        }
        // A run stands beside the subagents, so that all who work in it share what is left of it.
        let start = if delegation.is_empty() { 0 } else { path.again(session) };
        path.step(Tier::Run, "/", run, start);
        path
    }

    /// Every account, root first.
    pub(super) fn steps(&self) -> impl Iterator<Item = (Tier, &str)> {
        self.steps.iter().map(|(tier, start, end)| (*tier, self.text.get(*start..*end).unwrap_or_default()))
    }

    fn step(&mut self, tier: Tier, mark: &str, name: &Name, start: usize) {
        self.text.push_str(mark);
        push_escaped(&mut self.text, name);
        self.steps.push((tier, start, self.text.len()));
    }

    /// Writes the first `end` bytes once more and says where.
    fn again(&mut self, end: usize) -> usize {
        let start = self.text.len();
        self.text.extend_from_within(..end);
        start
    }
}

fn push_escaped(text: &mut String, name: &Name) {
    for (index, part) in name.as_str().split('/').enumerate() {
        if index > 0 {
            text.push_str("%2F");
        }
        text.push_str(part);
    }
}

/// What one account has posted and holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Spent; for a peak kind the highest amount ever used.
    pub posted: Amounts,
    /// Held by reservations without an outcome; for a peak kind the highest hold.
    pub pending: Amounts,
}

impl Account {
    /// What a new reservation of `kind` may still hold under `limit`.
    #[must_use]
    pub fn left(&self, kind: Kind, limit: u64) -> u64 {
        match kind.row().nature {
            Nature::Flow => limit.saturating_sub(self.posted.of(kind)).saturating_sub(self.pending.of(kind)),
            Nature::Level => limit.saturating_sub(self.pending.of(kind)),
            Nature::Peak => limit,
        }
    }
}

/// One account, for people and JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Balance {
    /// Which account.
    pub account: AccountId,
    /// Its place in the hierarchy.
    pub tier: Tier,
    /// Spent.
    pub posted: Amounts,
    /// Held.
    pub pending: Amounts,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(names: [&str; 4]) -> Subject {
        let [org, agent, session, run] = names.map(|name| Name::new(name).unwrap());
        Subject { org, agent, session, run, delegation: Vec::new(), project: None }
    }

    fn texts(subject: &Subject) -> Vec<String> {
        AccountId::path(subject).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_account_is_named_by_its_path() {
        let mut who = subject(["acme", "coder", "s1", "r1"]);
        assert_eq!(texts(&who), ["acme", "acme/coder", "acme/coder/s1", "acme/coder/s1/r1"]);
        who.project = Name::new("p").ok();
        who.delegation = ["x", "y"].map(|name| Name::new(name).unwrap()).to_vec();
        let coder = "acme/+p/coder";
        let below = [format!("{coder}/s1"), format!("{coder}/s1/~x"), format!("{coder}/s1/~x/~y")];
        let all = [vec!["acme".into(), "acme/+p".into(), coder.into()], below.to_vec(), vec![format!("{coder}/s1/r1")]];
        assert_eq!(texts(&who), all.concat());
        assert_eq!(AccountId::session(&who).as_str(), "acme/+p/coder/s1");
    }

    #[test]
    fn what_is_written_is_read_back_with_its_tier_and_nothing_else_is() {
        let mut who = subject(["acme", "a/b", "s:1", "r.1"]);
        who.project = Name::new("p").ok();
        who.delegation = vec![Name::new("x/y").unwrap()];
        let tiers: Vec<Tier> = AccountId::path(&who)
            .into_iter()
            .map(|id| {
                assert_eq!(AccountId::parse(id.as_str()), Ok(id.clone()));
                id.tier()
            })
            .collect();
        assert_eq!(tiers, Tier::ALL);
        for text in ["", "/", "acme/", "+p", "acme/+p/+q", "acme/a/s/r/x", "acme/a/~x", "acme/a/s/~x/r", "a%2fb", "a b"]
        {
            assert_eq!(AccountId::parse(text), Err(NoAccount), "{text}");
        }
    }

    #[test]
    fn no_agent_reaches_another_account_through_its_name() {
        let honest = AccountId::path(&subject(["acme", "coder", "s1", "r1"]));
        let forgers =
            [["acme", "coder/s1", "r1", "x"], ["acme/coder", "s1", "r1", "x"], ["acme", "coder", "s1/r1", "x"]];
        for forger in forgers {
            let forged = AccountId::path(&subject(forger));
            let shared: Vec<_> = forged.iter().filter(|id| honest.contains(id)).collect();
            let same_names = forger.iter().zip(["acme", "coder", "s1", "r1"]).take_while(|(a, b)| **a == *b).count();
            assert_eq!(shared.len(), same_names, "{forger:?} shares {shared:?}");
        }
        // Neither a project nor a subagent can be called so that it is taken for an agent or a run.
        let with = |project: Option<&str>, delegation: &[&str], run: &str| Subject {
            project: project.map(|name| Name::new(name).unwrap()),
            delegation: delegation.iter().map(|name| Name::new(*name).unwrap()).collect(),
            ..subject(["acme", "coder", "s1", run])
        };
        let [plain, project, subagent] = [with(None, &[], "x"), with(Some("coder"), &[], "x"), with(None, &["x"], "r")]
            .map(|who| AccountId::path(&who));
        assert_eq!(plain.iter().filter(|id| project.contains(id)).count(), 1, "only the organisation");
        assert_eq!(plain.iter().filter(|id| subagent.contains(id)).count(), 3, "down to the session");
    }
}
