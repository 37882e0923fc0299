//! Offline verification: finds the first bad entry after any flip, drop, swap or truncation.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use super::story::{Signatures, Story};
use super::{Chain, Entry, Key, PublicKey, Question};
use crate::model::{CallId, Digest, Limits, Timestamp, canonical};

/// The signed head that a store keeps beside its entries, so that a cut tail is noticed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// Number of entries.
    pub count: u64,
    /// Hash of the last.
    pub hash: Digest,
    /// Ed25519 over the canonical JSON of the two fields above, hexadecimal.
    pub signature: String,
}

/// What a head signs.
#[derive(Serialize)]
struct Reached {
    count: u64,
    hash: Digest,
}

impl Head {
    /// Signs that the journal has `count` entries of which the last has this `hash`.
    #[must_use]
    pub fn sign(count: u64, hash: Digest, key: &Key) -> Self {
        let signature = key.sign(canonical(&Reached { count, hash }).as_bytes());
        Self { count, hash, signature }
    }

    /// True when `key` signed it.
    #[must_use]
    pub fn verifies(&self, key: &PublicKey) -> bool {
        let Self { count, hash, signature } = self;
        key.verifies(canonical(&Reached { count: *count, hash: *hash }).as_bytes(), signature)
    }
}

/// What a sound journal holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Entries.
    pub entries: u64,
    /// Receipts read; [`verify`] has checked the signature of each.
    pub receipts: u64,
    /// Refusals among them.
    pub denials: u64,
    /// Intents that have no outcome (a gate is running, or was killed).
    pub open: u64,
    /// Where the chain goes on.
    #[serde(skip)]
    pub chain: Chain,
}

/// The first bad entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("entry {seq}: {text}")]
pub struct Bad {
    /// Its number, counted from 0 in the order read; the number of entries when the end is missing.
    pub seq: u64,
    /// What is wrong with it.
    pub text: String,
}

/// Checks every entry, each receipt and the head. `each` sees the entries in order as they pass; what
/// it has gathered holds only once the whole is `Ok`, for an entry's successor may unmask it.
///
/// Without a head a cut tail cannot be noticed; whoever reads a store that keeps one must insist.
///
/// # Errors
/// [`Bad`] names the first entry that does not hold.
pub fn verify(
    entries: impl Iterator<Item = String>,
    head: Option<&Head>,
    key: &PublicKey,
    mut each: impl FnMut(&Entry),
) -> Result<Verified, Bad> {
    let mut reading = Reading::auditing(key);
    for text in entries {
        if let Some(entry) = reading.add(text) {
            each(&entry);
        }
    }
    reading.finish(head)
}

/// A journal that is being read, entry by entry.
pub struct Reading<'k> {
    story: Story<'k>,
    links: Links,
    fault: Option<Found>,
    /// Whether receipts are vouched for by the head alone.
    by_head: bool,
}

/// A fault found while reading.
enum Found {
    /// It is settled where.
    At(Bad),
    /// This text does not follow; whether it or the one before is bad, its successor says.
    Torn { text: String, what: String },
}

impl<'k> Reading<'k> {
    /// Checks everything, the signature of each receipt included.
    #[must_use]
    pub fn auditing(key: &'k PublicKey) -> Self {
        Self { story: Story::new(key, Signatures::Each), links: Links::default(), fault: None, by_head: false }
    }

    /// Leaves the receipts' own signatures to the signed head, which covers them through the chain
    /// and must be there at the end. For a gate that folds its own journal at start.
    #[must_use]
    pub fn replaying(key: &'k PublicKey) -> Self {
        Self { story: Story::new(key, Signatures::ByHead), links: Links::default(), fault: None, by_head: true }
    }

    /// Goes on after `chain`, whose entries were verified before, with the calls that are `open` there and
    /// those whose end is `unknown`, and the `questions` that wait or whose yes does: as [`Reading::replaying`] otherwise. What it tells counts entries from
    /// the first, calls from here.
    #[must_use]
    pub fn resuming<'c>(
        key: &'k PublicKey,
        chain: &Chain,
        open: impl Iterator<Item = &'c CallId>,
        unknown: impl Iterator<Item = &'c CallId>,
        questions: impl Iterator<Item = (&'c Question, bool)>,
    ) -> Self {
        let story = Story::resuming(key, chain.count(), open, unknown, questions);
        Self { story, links: Links::after(chain), fault: None, by_head: true }
    }

    /// Where the chain stands after what was read so far.
    #[must_use]
    pub fn chain(&self) -> Chain {
        self.links.chain()
    }

    /// Reads the next entry; `None` once a fault is found. What is folded from the entries holds only
    /// if [`Reading::finish`] says so.
    pub fn add(&mut self, text: String) -> Option<Entry> {
        match self.fault.take() {
            None => {}
            Some(Found::Torn { text: torn, what }) => {
                self.fault = Some(Found::At(self.links.blame(&torn, Some(&text), None, what)));
                return None;
            }
            at => {
                self.fault = at;
                return None;
            }
        }
        let seq = self.links.count;
        let (entry, hash) = match self.links.add(&text) {
            Ok(linked) => linked,
            Err(Unlinked::Unreadable(text)) => return self.stop(seq, text),
            Err(Unlinked::OutOfOrder(what)) => {
                self.fault = Some(Found::Torn { text, what });
                return None;
            }
        };
        match self.story.add(&entry, hash) {
            Ok(()) => Some(entry),
            Err(text) => self.stop(seq, text),
        }
    }

    /// Compares what was read with the signed head.
    ///
    /// # Errors
    /// [`Bad`] names the first entry that does not hold.
    pub fn finish(self, head: Option<&Head>) -> Result<Verified, Bad> {
        match self.fault {
            Some(Found::At(bad)) => return Err(bad),
            Some(Found::Torn { text, what }) => return Err(self.links.blame(&text, None, head, what)),
            None => {}
        }
        let count = self.links.count;
        match head {
            Some(head) => self.links.reaches(head, self.story.key)?,
            None if self.by_head && count > 0 => {
                return Err(Bad { seq: count, text: "the signed head is missing".into() });
            }
            None => {}
        }
        let mut told = self.story.told;
        told.chain = self.links.chain();
        Ok(told)
    }

    fn stop(&mut self, seq: u64, text: String) -> Option<Entry> {
        self.fault = Some(Found::At(Bad { seq, text }));
        None
    }
}

/// The chain as it is read back.
#[derive(Default)]
struct Links {
    count: u64,
    prev: Option<(Digest, Timestamp)>,
}

impl Links {
    fn after(chain: &Chain) -> Self {
        let prev = (chain.count() > 0).then(|| (chain.head(), chain.last()));
        Self { count: chain.count(), prev }
    }

    fn add(&mut self, text: &str) -> Result<(Entry, Digest), Unlinked> {
        let entry = parse(text).map_err(Unlinked::Unreadable)?;
        let (prev, last) = self.prev.unwrap_or((Digest::ZERO, Timestamp(0)));
        if entry.seq != self.count {
            return Err(Unlinked::OutOfOrder(format!("it says that it is entry {}", entry.seq)));
        }
        if entry.prev != prev {
            return Err(Unlinked::OutOfOrder("it does not follow from the entry before".into()));
        }
        if entry.at < last {
            return Err(Unlinked::Unreadable("it is earlier than the entry before".into()));
        }
        let hash = Digest::of(text.as_bytes());
        self.count += 1;
        self.prev = Some((hash, entry.at));
        Ok((entry, hash))
    }

    /// Whose fault it is that `text` does not follow from the entry before. When its own successor,
    /// or the head, vouches for `text`, then the entry before was changed or put in.
    fn blame(&self, text: &str, next: Option<&str>, head: Option<&Head>, what: String) -> Bad {
        let hash = Digest::of(text.as_bytes());
        let vouched = match next {
            Some(next) => parse(next).is_ok_and(|next| next.prev == hash),
            None => head.is_some_and(|head| head.hash == hash),
        };
        let twice = self.prev.is_some_and(|(before, _)| before == hash);
        let seq = parse(text).map_or(self.count, |entry| entry.seq);
        let in_place = seq == self.count || seq.checked_add(1) == Some(self.count);
        match self.count.checked_sub(1) {
            _ if twice => Bad { seq: self.count, text: "it stands here twice".into() },
            Some(before) if vouched && in_place => {
                Bad { seq: before, text: "the entry after it, which is sound, does not follow from it".into() }
            }
            _ => Bad { seq: self.count, text: what },
        }
    }

    /// Checks that the journal ends where the head says.
    fn reaches(&self, head: &Head, key: &PublicKey) -> Result<(), Bad> {
        let last = self.prev.map_or(Digest::ZERO, |(hash, _)| hash);
        let bad = |seq, text: &str| Err(Bad { seq, text: text.into() });
        if !head.verifies(key) {
            return bad(head.count.min(self.count), "the signature of the journal's head does not hold");
        }
        match head.count.cmp(&self.count) {
            Ordering::Less => bad(head.count, "it comes after the signed head"),
            Ordering::Equal if head.hash == last => Ok(()),
            Ordering::Equal => bad(self.count.saturating_sub(1), "it is not the entry that the signed head names"),
            Ordering::Greater => bad(self.count, "it is missing: the signed head counts more entries"),
        }
    }

    fn chain(&self) -> Chain {
        match (self.count.checked_sub(1), self.prev) {
            (Some(seq), Some((hash, at))) => Chain::after(seq, hash, at),
            _ => Chain::default(),
        }
    }
}

/// Why an entry is not the next link.
enum Unlinked {
    /// It is no sound entry in itself.
    Unreadable(String),
    /// It is an entry, but not the next one.
    OutOfOrder(String),
}

fn parse(text: &str) -> Result<Entry, String> {
    if text.len() > Limits::JSON_BYTES {
        return Err(format!("an entry of {} bytes is over the limit", text.len()));
    }
    let entry: Entry = serde_json::from_str(text).map_err(|error| format!("not an entry: {error}"))?;
    // Refuses duplicate keys, left-out fields and every other second way to write an entry.
    if canonical(&entry) == text { Ok(entry) } else { Err("it is not in canonical form".into()) }
}
