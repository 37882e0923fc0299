//! The books once more, summed from the entries with nothing but sums: what every account has posted and
//! holds, for comparison with the ledger's own fold.
//!
//! It grants, refuses and releases nothing, and names accounts by itself: two programs that agree here are
//! not wrong in the same way.

use std::collections::BTreeMap;

use crate::audit::{Body, Entry};
use crate::model::{Amounts, CallId, Excess, KINDS, Kind, Name, Nature, Subject};

/// A call that holds, or whose end nobody knows.
struct Item {
    accounts: Vec<String>,
    held: Amounts,
    posted: Amounts,
}

/// Sums of a journal, entry by entry.
#[derive(Default)]
pub(super) struct Books {
    posted: BTreeMap<String, Amounts>,
    open: BTreeMap<CallId, Item>,
    unknown: BTreeMap<CallId, Item>,
}

impl Books {
    /// Adds an entry that was verified.
    pub(super) fn add(&mut self, entry: &Entry) {
        match &entry.body {
            Body::Intent { call, held, .. } => {
                let accounts = accounts(&call.subject);
                for account in &accounts {
                    self.posted.entry(account.clone()).or_insert(Amounts::ZERO);
                }
                self.open.insert(call.id.clone(), Item { accounts, held: *held, posted: Amounts::ZERO });
            }
            Body::Part { call, posted, .. } => {
                if let Some(item) = self.open.get_mut(call) {
                    post(&mut self.posted, item, *posted);
                    for (kind, amount) in posted.iter() {
                        item.held.set(kind, item.held.of(kind).saturating_sub(amount));
                    }
                }
            }
            Body::Outcome(outcome) => self.end(&outcome.call, outcome.posted, outcome.receipt.is_unknown()),
            Body::Expire { call, posted, .. } => self.end(call, *posted, true),
            Body::Reconcile { call, posted, .. } => self.reconcile(call, *posted),
            _ => {}
        }
    }

    /// What differs from `balance`: the account's posted and pending amounts in the ledger.
    pub(super) fn differs(&self, account: &str, posted: Amounts, pending: Amounts) -> Option<String> {
        let holders = self.open.values().filter(|item| item.accounts.iter().any(|name| name == account));
        let held = holders.fold(Amounts::ZERO, |sum, item| add(sum, item.held));
        let spent = self.posted.get(account).copied();
        let (sums, books) = ([spent.unwrap_or(Amounts::ZERO), held], [posted, pending]);
        for (row, what) in KINDS.iter().flat_map(|row| [(row, 0), (row, 1)]) {
            let (sum, book) = (sums[what].of(row.kind), books[what].of(row.kind));
            if sum != book {
                let word = ["posted", "pending"][what];
                return Some(format!("`{account}` has {book} {} {word}, and the entries give {sum}", row.name));
            }
        }
        spent.is_none().then(|| format!("`{account}` is in no entry"))
    }

    /// How many accounts the entries speak of.
    pub(super) fn accounts(&self) -> usize {
        self.posted.len()
    }

    fn end(&mut self, call: &CallId, posted: Amounts, unknown: bool) {
        // A refusal ends a call that never held.
        let Some(mut item) = self.open.remove(call) else { return };
        post(&mut self.posted, &mut item, posted);
        if unknown {
            self.unknown.insert(call.clone(), item);
        }
    }

    /// What really was used, in place of what was taken to be: for kinds that nobody can take back.
    fn reconcile(&mut self, call: &CallId, really: Amounts) {
        let Some(item) = self.unknown.remove(call) else { return };
        for row in KINDS.iter().filter(|row| row.nature == Nature::Flow && row.excess == Excess::Posted) {
            let (before, now) = (item.posted.of(row.kind), really.of(row.kind));
            for account in &item.accounts {
                let sum = self.posted.entry(account.clone()).or_insert(Amounts::ZERO);
                sum.set(row.kind, sum.of(row.kind).saturating_sub(before).saturating_add(now));
            }
        }
    }
}

fn post(sums: &mut BTreeMap<String, Amounts>, item: &mut Item, posted: Amounts) {
    // A level is held and never spent.
    let lasting = posted.iter().filter(|(kind, _)| kind.row().nature != Nature::Level);
    let posted = lasting.fold(Amounts::ZERO, |all, (kind, amount)| all.with(kind, amount));
    item.posted = add(item.posted, posted);
    for account in &item.accounts {
        let sum = sums.entry(account.clone()).or_insert(Amounts::ZERO);
        *sum = add(*sum, posted);
    }
}

fn add(sum: Amounts, more: Amounts) -> Amounts {
    let combine = |kind: Kind, before: u64, amount: u64| match kind.row().nature {
        Nature::Flow | Nature::Level => before.saturating_add(amount),
        Nature::Peak => before.max(amount),
    };
    more.iter().fold(sum, |sum, (kind, amount)| sum.with(kind, combine(kind, sum.of(kind), amount)))
}

/// The names of a subject's accounts, as docs/budgets.md gives them.
fn accounts(subject: &Subject) -> Vec<String> {
    let plain = |name: &Name| name.as_str().replace('/', "%2F");
    let org = plain(&subject.org);
    let mut names = vec![org.clone()];
    let above = match &subject.project {
        Some(project) => {
            names.push(format!("{org}/+{}", plain(project)));
            format!("{org}/+{}", plain(project))
        }
        None => org,
    };
    let agent = format!("{above}/{}", plain(&subject.agent));
    let session = format!("{agent}/{}", plain(&subject.session));
    let mut below = session.clone();
    names.extend([agent, session.clone()]);
    for subagent in &subject.delegation {
        below = format!("{below}/~{}", plain(subagent));
        names.push(below.clone());
    }
    names.push(format!("{session}/{}", plain(&subject.run)));
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::Chain;
    use crate::model::{Action, Call, Digest, Resource, Timestamp};

    fn name(text: &str) -> Name {
        Name::new(text).expect("a name")
    }

    #[test]
    fn a_book_that_differs_from_the_entries_is_told() {
        let subject = Subject {
            org: name("a"),
            project: Some(name("p")),
            agent: name("b/c"),
            session: name("s"),
            run: name("r"),
            delegation: vec![name("d"), name("e")],
        };
        let call = Call {
            id: name("c1"),
            subject,
            action: Action::ToolCall,
            resource: Resource::named(name("look")),
            args: serde_json::Map::new(),
            parent: None,
            surface: name("test"),
        };
        let usd = |amount| Amounts::ZERO.with(Kind::MicroUsd, amount);
        let mut chain = Chain::default();
        let mut entry =
            |body: Body| -> Entry { serde_json::from_str(&chain.append(Timestamp(1), body).text).expect("an entry") };
        let mut books = Books::default();
        books.add(&entry(Body::intent(&call, Digest::ZERO, usd(10), None)));
        books.add(&entry(Body::Part { call: name("c1"), part: 1, posted: usd(4) }));
        let session = "a/+p/b%2Fc/s";
        for account in ["a", "a/+p", "a/+p/b%2Fc", session, "a/+p/b%2Fc/s/~d/~e", "a/+p/b%2Fc/s/r"] {
            assert_eq!(books.differs(account, usd(4), usd(6)), None, "{account}");
        }
        assert_eq!(books.accounts(), 7);
        let told = books.differs(session, usd(5), usd(6)).expect("one too many is posted");
        assert_eq!(told, "`a/+p/b%2Fc/s` has 5 micro_usd posted, and the entries give 4");
        assert!(books.differs(session, usd(4), usd(10)).is_some_and(|told| told.contains("pending")));
        assert!(books.differs("a/b", Amounts::ZERO, Amounts::ZERO).is_some_and(|told| told.contains("no entry")));
    }
}
