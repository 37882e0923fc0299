//! One account: what is posted and what is pending, per kind, and the name that it has.

use std::borrow::Borrow;
use std::fmt;

use serde::Serialize;

use crate::model::{Amounts, KINDS, Kind, Name, Nature, Subject};

/// Where an account stands in the hierarchy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// The organisation: the root.
    Org,
    /// An agent.
    Agent,
    /// A session.
    Session,
    /// A run.
    Run,
}

impl Tier {
    /// Every tier, root first.
    pub const ALL: [Self; 4] = [Self::Org, Self::Agent, Self::Session, Self::Run];
}

/// The name of an account, `org`, `org/agent`, `org/agent/session` or `org/agent/session/run`.
///
/// A `/` inside a name is written `%2F`; no name may hold `%`, so two accounts never share a name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct AccountId(String);

impl AccountId {
    /// The four accounts of `subject`, root first.
    #[must_use]
    pub fn path(subject: &Subject) -> [Self; 4] {
        let path = Path::of(subject);
        Tier::ALL.map(|tier| Self(path.to(tier).to_owned()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
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

/// The names of a subject's four accounts in one text, so that looking them up allocates once.
pub(super) struct Path {
    text: String,
    ends: [usize; 4],
}

impl Path {
    pub(super) fn of(subject: &Subject) -> Self {
        let names = [&subject.org, &subject.agent, &subject.session, &subject.run];
        let mut text = String::with_capacity(names.iter().map(|name| name.as_str().len() + 1).sum());
        let ends = names.map(|name| {
            if !text.is_empty() {
                text.push('/');
            }
            push_escaped(&mut text, name);
            text.len()
        });
        Self { text, ends }
    }

    pub(super) fn to(&self, tier: Tier) -> &str {
        self.text.get(..self.ends[tier as usize]).unwrap_or_default()
    }

    pub(super) fn id(&self, tier: Tier) -> AccountId {
        AccountId(self.to(tier).to_owned())
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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

/// An account with what it must remember to lower a peak again.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) tier: Tier,
    pub(super) account: Account,
    /// Amounts of peak kinds held now and by how many reservations; few distinct ones, so no map.
    peaks: Vec<(Kind, u64, u32)>,
}

impl Node {
    pub(super) const fn new(tier: Tier) -> Self {
        Self { tier, account: Account { posted: Amounts::ZERO, pending: Amounts::ZERO }, peaks: Vec::new() }
    }

    /// Holds `amounts`; the caller has checked that flows fit into an integer.
    pub(super) fn hold(&mut self, amounts: Amounts) {
        for (kind, amount) in amounts.iter() {
            match kind.row().nature {
                Nature::Flow => self.set_pending(kind, self.account.pending.of(kind).saturating_add(amount)),
                Nature::Peak => self.hold_peak(kind, amount),
            }
        }
    }

    /// Undoes [`Node::hold`] with the same amounts.
    pub(super) fn release(&mut self, amounts: Amounts) {
        for (kind, amount) in amounts.iter() {
            match kind.row().nature {
                Nature::Flow => self.set_pending(kind, self.account.pending.of(kind).saturating_sub(amount)),
                Nature::Peak => self.release_peak(kind, amount),
            }
        }
    }

    /// Counts `amounts` as spent. Ends at `u64::MAX`, from where on nothing more is granted.
    pub(super) fn post(&mut self, amounts: Amounts) {
        for (kind, amount) in amounts.iter() {
            let before = self.account.posted.of(kind);
            let after = match kind.row().nature {
                Nature::Flow => before.saturating_add(amount),
                Nature::Peak => before.max(amount),
            };
            self.account.posted.set(kind, after);
        }
    }

    const fn set_pending(&mut self, kind: Kind, amount: u64) {
        self.account.pending.set(kind, amount);
    }

    fn hold_peak(&mut self, kind: Kind, amount: u64) {
        match self.peaks.iter_mut().find(|(k, a, _)| *k == kind && *a == amount) {
            Some((_, _, count)) => *count += 1,
            None => self.peaks.push((kind, amount, 1)),
        }
        self.set_pending(kind, self.account.pending.of(kind).max(amount));
    }

    fn release_peak(&mut self, kind: Kind, amount: u64) {
        let Some(at) = self.peaks.iter().position(|(k, a, _)| *k == kind && *a == amount) else { return };
        if let Some((_, _, count)) = self.peaks.get_mut(at) {
            *count -= 1;
            if *count > 0 {
                return;
            }
        }
        self.peaks.swap_remove(at);
        let highest = self.peaks.iter().filter(|(k, ..)| *k == kind).map(|(_, a, _)| *a).max();
        self.set_pending(kind, highest.unwrap_or(0));
    }
}

/// Every amount above zero whose kind adds up.
pub(super) fn flows(amounts: &Amounts) -> impl Iterator<Item = (Kind, u64)> + '_ {
    KINDS
        .iter()
        .filter(|row| row.nature == Nature::Flow)
        .map(|row| (row.kind, amounts.of(row.kind)))
        .filter(|(_, amount)| *amount > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(names: [&str; 4]) -> Subject {
        let [org, agent, session, run] = names.map(|name| Name::new(name).unwrap());
        Subject { org, agent, session, run, delegation: Vec::new() }
    }

    #[test]
    fn an_account_is_named_by_its_path() {
        let path = AccountId::path(&subject(["acme", "coder", "s1", "r1"]));
        assert_eq!(path.map(|id| id.to_string()), ["acme", "acme/coder", "acme/coder/s1", "acme/coder/s1/r1"]);
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
    }
}
