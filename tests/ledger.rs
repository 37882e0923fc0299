//! The ledger's properties, each checked against a slow, obvious twin. `docs/budgets.md` names them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;
use weir::ledger::{AccountId, Ledger, Limit, PartFault, ReconcileFault, ReplayFault, Settled, Shortfall, Tier};
use weir::model::{
    Amounts, CallId, Excess, Giver, KINDS, Kind, Lifts, Millis, Name, Nature, OnCrash, Subject, Timestamp, Window,
};

const KINDS_TRIED: [Kind; 5] = [Kind::Calls, Kind::MemoryBytes, Kind::MicroUsd, Kind::Fuel, Kind::Jobs];

/// The time of everything here: no limit of these tests has a window.
const T: Timestamp = Timestamp(1_700_000_000_000);

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn call(number: u8) -> CallId {
    name(&format!("c{number}"))
}

/// One of 32 subjects: with and without a project, and with a subagent and one below it.
fn subject(number: u8) -> Subject {
    let bit = |at: u8| (number >> at) & 1;
    let delegation: &[&str] = match number >> 3 & 3 {
        0 | 1 => &[],
        2 => &["helper"],
        _ => &["helper", "scout"],
    };
    Subject {
        org: name("acme"),
        project: (number >> 3 == 1).then(|| name("p")),
        agent: name(&format!("a{}", bit(0))),
        session: name(&format!("s{}", bit(1))),
        run: name(&format!("r{}", bit(2))),
        delegation: delegation.iter().map(|text| name(text)).collect(),
    }
}

fn amounts(values: [u64; 5]) -> Amounts {
    KINDS_TRIED.iter().zip(values).fold(Amounts::ZERO, |all, (kind, value)| all.with(*kind, value))
}

fn limit(tier: Tier, kind: Kind, limit: u64) -> Limit {
    Limit { id: format!("{tier:?}-{kind:?}"), tier, kind, limit, window: Window::Total, shared: false }
}

/// One step of a random history.
#[derive(Clone, Debug)]
enum Step {
    Reserve(u8, u8, [u64; 5]),
    Part(u8, bool, [u64; 5]),
    Settle(u8, [u64; 5]),
    Unknown(u8, [u64; 5]),
    Void(u8),
    Expire(u8),
    Reconcile(u8, [u64; 5]),
    Refuse(u8),
    /// Freezes or revokes the account of a subject that stands there in its path, at this gate or from the office.
    Bar(u8, u8, bool, Giver),
    Thaw(u8, u8, Lifts),
    Raise(u8, u8, u64),
}

fn amount() -> impl Strategy<Value = u64> {
    prop_oneof![8 => 0..20u64, 1 => Just(u64::MAX), 1 => Just(u64::MAX - 3), 1 => any::<u64>()]
}

fn step() -> impl Strategy<Value = Step> {
    let five = || [amount(), amount(), amount(), amount(), amount()];
    prop_oneof![
        12 => (0..24u8, 0..32u8, five()).prop_map(|(id, who, want)| Step::Reserve(id, who, want)),
        3 => (0..24u8, any::<bool>(), five()).prop_map(|(id, again, used)| Step::Part(id, again, used)),
        5 => (0..24u8, five()).prop_map(|(id, used)| Step::Settle(id, used)),
        1 => (0..24u8, five()).prop_map(|(id, used)| Step::Unknown(id, used)),
        2 => (0..24u8).prop_map(Step::Void),
        2 => (0..24u8).prop_map(Step::Expire),
        2 => (0..24u8, five()).prop_map(|(id, used)| Step::Reconcile(id, used)),
        2 => (0..24u8).prop_map(Step::Refuse),
        1 => (0..32u8, 1..8u8, 0..4u8, giver()).prop_map(|(who, at, dice, from)| Step::Bar(who, at, dice == 0, from)),
        1 => (0..32u8, 1..8u8, lifts()).prop_map(|(who, at, lifts)| Step::Thaw(who, at, lifts)),
        1 => (0..32u8, 0..8u8, 0..30u64).prop_map(|(who, at, by)| Step::Raise(who, at, by)),
    ]
}

fn giver() -> impl Strategy<Value = Giver> {
    prop_oneof![Just(Giver::Here), Just(Giver::Office)]
}

fn lifts() -> impl Strategy<Value = Lifts> {
    prop_oneof![Just(Lifts::All), Just(Lifts::Own), Just(Lifts::Round)]
}

fn limits() -> impl Strategy<Value = Vec<Limit>> {
    let one = (0..Tier::ALL.len(), 0..KINDS_TRIED.len(), prop_oneof![4 => 0..60u64, 1 => Just(u64::MAX)]);
    prop::collection::vec(one, 0..7).prop_map(|rows| {
        let mut limits: Vec<Limit> =
            rows.into_iter().map(|(t, k, most)| limit(Tier::ALL[t], KINDS_TRIED[k], most)).collect();
        limits.sort_by(|a, b| a.id.cmp(&b.id));
        limits.dedup_by(|a, b| a.id == b.id);
        limits
    })
}

/// The account of a subject at a place of its path, counted around its end.
fn account(who: u8, at: u8) -> AccountId {
    let path = AccountId::path(&subject(who));
    path[usize::from(at) % path.len()].clone()
}

/// What was posted, or taken back.
#[derive(Clone, Copy, Debug)]
enum Change {
    Plus(Amounts),
    Minus(Amounts),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Side {
    Own,
    Round,
    Revoked,
}

/// The twin: a list of everything that ever happened, summed anew at every question.
#[derive(Default)]
struct Twin {
    used: BTreeSet<u8>,
    /// Who holds how much still, and how many parts of how much in all were posted.
    open: BTreeMap<u8, (u8, Amounts, u64, Amounts)>,
    changes: Vec<(u8, Change)>,
    doubts: BTreeMap<u8, (u8, Amounts)>,
    /// What stops accounts, by the side that did it.
    bars: BTreeSet<(AccountId, Side)>,
    raised: Vec<(String, AccountId, u64)>,
}

impl Twin {
    fn counts_on(id: &AccountId, who: u8) -> bool {
        AccountId::path(&subject(who)).contains(id)
    }

    fn pending(&self, id: &AccountId, kind: Kind) -> u128 {
        let mine = self.open.values().filter(|(who, ..)| Self::counts_on(id, *who));
        let values = mine.map(|(_, held, ..)| u128::from(held.of(kind)));
        match kind.row().nature {
            Nature::Flow | Nature::Level => values.sum(),
            Nature::Peak => values.max().unwrap_or(0),
        }
    }

    fn posted(&self, id: &AccountId, kind: Kind) -> u128 {
        let mine = self.changes.iter().filter(|(who, _)| Self::counts_on(id, *who)).map(|(_, change)| change);
        let sum = mine.fold(0_u64, |sum, change| match (kind.row().nature, change) {
            (Nature::Flow, Change::Plus(amounts)) => sum.saturating_add(amounts.of(kind)),
            (Nature::Flow, Change::Minus(amounts)) => sum.saturating_sub(amounts.of(kind)),
            (Nature::Peak, Change::Plus(amounts)) => sum.max(amounts.of(kind)),
            (Nature::Peak, Change::Minus(_)) | (Nature::Level, _) => sum,
        });
        u128::from(sum)
    }

    fn left(&self, id: &AccountId, kind: Kind, limit: u64) -> u64 {
        let taken = match kind.row().nature {
            Nature::Flow => self.posted(id, kind) + self.pending(id, kind),
            Nature::Level => self.pending(id, kind),
            Nature::Peak => 0,
        };
        u64::try_from(u128::from(limit).saturating_sub(taken)).unwrap()
    }

    fn left_of(&self, id: &AccountId, limit: &Limit) -> u64 {
        let raised = self.raised.iter().filter(|(budget, whose, _)| *budget == limit.id && whose == id);
        let cap = raised.fold(limit.limit, |cap, (.., by)| cap.saturating_add(*by));
        self.left(id, limit.kind, cap)
    }

    fn grants(&self, id: u8, who: u8, want: Amounts, limits: &[Limit]) -> bool {
        let path = AccountId::path(&subject(who));
        let within =
            |l: &Limit| path.iter().filter(|id| id.tier() == l.tier).all(|id| want.of(l.kind) <= self.left_of(id, l));
        let counts =
            |kind: &Kind| kind.row().nature == Nature::Peak || want.of(*kind) <= self.left(&path[0], *kind, u64::MAX);
        let open = !path.iter().any(|id| self.bars.iter().any(|(barred, _)| barred == id));
        open && !self.used.contains(&id) && limits.iter().all(within) && KINDS_TRIED.iter().all(counts)
    }
}

/// What a journal would have kept of a history.
#[derive(Clone, Debug)]
enum Line {
    Intent(u8, u8, Amounts),
    Part(u8, u64, Amounts),
    Outcome(u8, Amounts),
    Unknown(u8, Amounts),
    Reconcile(u8, Amounts),
    Bar(AccountId, bool, Giver),
    Thaw(AccountId, Lifts),
    Raise(String, AccountId, Amounts),
}

/// Ledger, twin and journal after the same steps; every answer is compared on the way.
#[derive(Default)]
struct Walk {
    ledger: Ledger,
    twin: Twin,
    lines: Vec<Line>,
}

impl Walk {
    fn of(steps: &[Step], limits: &[Limit]) -> Self {
        let mut walk = Self::default();
        steps.iter().for_each(|step| walk.step(step, limits));
        walk
    }

    fn step(&mut self, step: &Step, limits: &[Limit]) {
        match *step {
            Step::Reserve(id, who, want) => self.reserve(id, who, amounts(want), limits),
            Step::Part(id, again, used) => self.part(id, again, amounts(used)),
            Step::Settle(id, used) => {
                let end = self.ledger.settle(&call(id), amounts(used), T);
                self.end(id, Some(amounts(used)), end, false);
            }
            Step::Unknown(id, used) => {
                let end = self.ledger.settle_unknown(&call(id), amounts(used), T);
                self.end(id, Some(amounts(used)), end, true);
            }
            Step::Void(id) => {
                let end = self.ledger.void(&call(id), T);
                self.end(id, Some(Amounts::ZERO), end, false);
            }
            Step::Expire(id) => {
                let end = self.ledger.expire(&call(id), T);
                self.end(id, None, end, true);
            }
            Step::Reconcile(id, used) => self.reconcile(id, amounts(used)),
            Step::Refuse(id) => {
                if !self.ledger.is_used(&call(id)) {
                    self.lines.push(Line::Outcome(id, Amounts::ZERO));
                }
                self.ledger.refuse(&call(id));
                self.twin.used.insert(id);
            }
            Step::Bar(who, at, revoked, ref from) => {
                let account = account(who, at);
                let side = if from.is_here() { Side::Own } else { Side::Round };
                let for_good = self.twin.bars.contains(&(account.clone(), Side::Revoked));
                let side = if revoked { Side::Revoked } else { side };
                let new = !for_good && self.twin.bars.insert((account.clone(), side));
                assert_eq!(self.ledger.bar(&account, revoked, "test", from, T), new);
                if new {
                    self.lines.push(Line::Bar(account, revoked, from.clone()));
                }
            }
            Step::Thaw(who, at, lifts) => {
                let account = account(who, at);
                let sides = match lifts {
                    Lifts::All => vec![Side::Own, Side::Round],
                    Lifts::Own => vec![Side::Own],
                    Lifts::Round => vec![Side::Round],
                };
                let before = self.twin.bars.len();
                if !self.twin.bars.contains(&(account.clone(), Side::Revoked)) {
                    self.twin.bars.retain(|(barred, side)| *barred != account || !sides.contains(side));
                }
                let lifted = self.twin.bars.len() < before;
                assert_eq!(self.ledger.thaw(&account, lifts), lifted);
                if lifted {
                    self.lines.push(Line::Thaw(account, lifts));
                }
            }
            Step::Raise(who, at, by) => {
                let account = account(who, at);
                for limit in limits.iter().filter(|limit| limit.tier == account.tier()) {
                    let amount = Amounts::ZERO.with(limit.kind, by);
                    self.ledger.raise(&limit.id, &account, amount, Window::Total, T);
                    self.twin.raised.push((limit.id.clone(), account.clone(), by));
                    self.lines.push(Line::Raise(limit.id.clone(), account.clone(), amount));
                }
            }
        }
    }

    fn reserve(&mut self, id: u8, who: u8, want: Amounts, limits: &[Limit]) {
        let expected = self.twin.grants(id, who, want, limits);
        let got = self.ledger.reserve(&call(id), &subject(who), want, limits, T);
        assert_eq!(got.is_ok(), expected, "{id} {who} {want:?}: {got:?}");
        match &got {
            Err(Shortfall::Limit { kind, left, wanted, .. }) => {
                assert!(wanted > left && *wanted == want.of(*kind), "{got:?}");
            }
            Err(Shortfall::Closed { account, revoked }) => {
                assert!(AccountId::path(&subject(who)).contains(account));
                assert!(self.twin.bars.iter().any(|(barred, _)| barred == account));
                assert_eq!(self.twin.bars.contains(&(account.clone(), Side::Revoked)), *revoked);
            }
            Err(Shortfall::Duplicate) => assert!(self.twin.used.contains(&id)),
            Ok(_) => {
                self.twin.used.insert(id);
                self.twin.open.insert(id, (who, want, 0, Amounts::ZERO));
                self.lines.push(Line::Intent(id, who, want));
            }
        }
    }

    fn part(&mut self, id: u8, again: bool, used: Amounts) {
        let Some((who, held, parts, before)) = self.twin.open.get_mut(&id) else {
            assert_eq!(self.ledger.post_part(&call(id), 1, used, T), Err(PartFault::NotHeld));
            return;
        };
        let next = *parts + 1;
        assert_eq!(self.ledger.post_part(&call(id), next + 1, used, T), Err(PartFault::Order { next }));
        if again && *parts > 0 {
            assert_eq!(self.ledger.post_part(&call(id), *parts, used, T), Ok(None), "it counts once");
            return;
        }
        let posted = self.ledger.post_part(&call(id), next, used, T).unwrap().unwrap().posted;
        for kind in KINDS_TRIED.into_iter().filter(|kind| kind.row().nature == Nature::Flow) {
            let (most, wanted) = (held.of(kind), used.of(kind));
            let expected = if kind.row().excess == Excess::Posted { wanted } else { wanted.min(most) };
            assert_eq!(posted.of(kind), expected, "{kind:?}");
            held.set(kind, most.saturating_sub(expected));
            before.set(kind, before.of(kind).saturating_add(expected));
        }
        *parts = next;
        self.twin.changes.push((*who, Change::Plus(posted)));
        self.lines.push(Line::Part(id, next, posted));
    }

    /// Compares how `id` ended: `used` in all, or nobody knows.
    fn end(&mut self, id: u8, used: Option<Amounts>, end: Option<Settled>, doubtful: bool) {
        let open = self.twin.open.remove(&id);
        assert_eq!(open.is_some(), end.is_some());
        let (Some((who, held, _, before)), Some(end)) = (open, end) else { return };
        for kind in KINDS_TRIED {
            let [most, posted, released, over] =
                [held, end.posted, end.released, end.overrun].map(|all| u128::from(all.of(kind)));
            assert_eq!(most + over, posted + released, "{kind:?}");
            let row = kind.row();
            let rest = match used {
                Some(used) => u128::from(used.of(kind).saturating_sub(before.of(kind))),
                None if row.on_crash == OnCrash::Spent => most,
                None => 0,
            };
            let expected = match (row.nature, row.excess) {
                (Nature::Level, _) => 0,
                (_, Excess::Posted) => rest,
                (_, Excess::Clamped) => rest.min(most),
            };
            assert_eq!(posted, expected, "{kind:?}");
        }
        self.twin.changes.push((who, Change::Plus(end.posted)));
        if doubtful {
            let all = KINDS_TRIED
                .into_iter()
                .fold(end.posted, |all, kind| all.with(kind, all.of(kind).saturating_add(before.of(kind))));
            self.twin.doubts.insert(id, (who, all));
        }
        self.lines.push(if doubtful { Line::Unknown(id, end.posted) } else { Line::Outcome(id, end.posted) });
    }

    fn reconcile(&mut self, id: u8, used: Amounts) {
        let posted = self.ledger.reconciled(&call(id), used);
        if self.twin.open.contains_key(&id) {
            assert_eq!(posted, Err(ReconcileFault::Running));
            return;
        }
        let Some((who, before)) = self.twin.doubts.remove(&id) else {
            assert_eq!(posted, Err(ReconcileFault::NotInDoubt));
            assert!(self.ledger.reconcile(&call(id), used, T).is_err());
            return;
        };
        let posted = posted.unwrap();
        let (mut less, mut more) = (Amounts::ZERO, Amounts::ZERO);
        for kind in KINDS_TRIED {
            let corrected = kind.row().nature == Nature::Flow && kind.row().excess == Excess::Posted;
            let now = if corrected { used.of(kind) } else { before.of(kind) };
            assert_eq!(posted.of(kind), now, "{kind:?}");
            less.set(kind, before.of(kind).saturating_sub(now));
            more.set(kind, now.saturating_sub(before.of(kind)));
        }
        self.ledger.reconcile(&call(id), posted, T).unwrap();
        self.twin.changes.extend([(who, Change::Minus(less)), (who, Change::Plus(more))]);
        self.lines.push(Line::Reconcile(id, posted));
    }

    /// Every balance, and what is left of every limit.
    fn compare(&self, limits: &[Limit]) {
        let (ledger, twin) = (&self.ledger, &self.twin);
        let balances = ledger.balances();
        let mut seen = BTreeSet::new();
        for who in 0..32 {
            for id in AccountId::path(&subject(who)) {
                let Some(balance) = balances.iter().find(|b| b.account == id) else {
                    assert!(KINDS_TRIED.iter().all(|k| twin.posted(&id, *k) + twin.pending(&id, *k) == 0));
                    continue;
                };
                assert_eq!(balance.tier, id.tier());
                for kind in KINDS_TRIED {
                    assert_eq!(u128::from(balance.posted.of(kind)), twin.posted(&id, kind), "{id} {kind:?}");
                    assert_eq!(u128::from(balance.pending.of(kind)), twin.pending(&id, kind), "{id} {kind:?}");
                }
                seen.insert(id);
            }
            let (path, remaining) = (AccountId::path(&subject(who)), ledger.remaining(&subject(who), limits, T));
            for kind in KINDS_TRIED {
                let of_kind = limits.iter().filter(|l| l.kind == kind);
                let lefts =
                    of_kind.flat_map(|l| path.iter().filter(|id| id.tier() == l.tier).map(|id| twin.left_of(id, l)));
                assert_eq!(remaining.of(kind), lefts.min().unwrap_or(u64::MAX));
            }
        }
        assert_eq!(seen.len(), balances.len());
        let open: BTreeSet<_> = twin.open.keys().map(|id| call(*id)).collect();
        assert!(ledger.open().eq(open.iter()));
        let doubts: BTreeSet<_> = twin.doubts.keys().map(|id| call(*id)).collect();
        assert!(ledger.doubts().map(|(id, _)| id).eq(doubts.iter()));
    }
}

/// The books that the journal's lines give.
fn folded(lines: &[Line]) -> Ledger {
    let mut ledger = Ledger::default();
    for line in lines {
        match line.clone() {
            Line::Intent(id, who, held) => ledger.replay_intent(&call(id), &subject(who), held, T).unwrap(),
            Line::Part(id, part, posted) => ledger.replay_part(&call(id), part, posted, T).unwrap(),
            Line::Outcome(id, posted) => ledger.replay_outcome(&call(id), posted, T).unwrap(),
            Line::Unknown(id, posted) => ledger.replay_unknown(&call(id), posted, T).unwrap(),
            Line::Reconcile(id, posted) => ledger.reconcile(&call(id), posted, T).unwrap(),
            Line::Bar(account, revoked, from) => assert!(ledger.bar(&account, revoked, "test", &from, T)),
            Line::Thaw(account, lifts) => assert!(ledger.thaw(&account, lifts)),
            Line::Raise(budget, account, by) => ledger.raise(&budget, &account, by, Window::Total, T),
        }
    }
    ledger
}

/// A ledger written down and read back, with its used ids.
fn stored(ledger: &Ledger) -> Ledger {
    let mut read: Ledger = serde_json::from_str(&serde_json::to_string(ledger).unwrap()).unwrap();
    ledger.prints().for_each(|print| read.mark(print));
    read
}

proptest! {
    #[test]
    fn the_ledger_equals_its_slow_twin(steps in prop::collection::vec(step(), 0..100), limits in limits()) {
        Walk::of(&steps, &limits).compare(&limits);
    }

    #[test]
    fn posted_and_pending_never_pass_a_limit(steps in prop::collection::vec(step(), 0..100), limits in limits()) {
        // Only an over-run may, so uses beyond the hold are left out here for kinds that can over-run, and
        // reconciliations, which state one after the fact.
        let (mut ledger, mut held, mut parts) = (Ledger::default(), BTreeMap::new(), BTreeMap::new());
        let mut raised: BTreeMap<(String, AccountId), u64> = BTreeMap::new();
        for step in steps {
            let within = |used: Amounts, most: Amounts| {
                KINDS_TRIED.iter().fold(used, |all, kind| match kind.row().excess {
                    Excess::Posted => all.with(*kind, all.of(*kind).min(most.of(*kind))),
                    Excess::Clamped => all,
                })
            };
            match step {
                Step::Reserve(id, who, want) => {
                    if ledger.reserve(&call(id), &subject(who), amounts(want), &limits, T).is_ok() {
                        held.insert(id, amounts(want));
                    }
                }
                // A part of nothing but what is still held; what is used in all is never above the hold.
                Step::Part(id, _, used) => {
                    let part = parts.entry(id).or_insert(0_u64);
                    let most = held.get(&id).copied().unwrap_or_default();
                    let used = if *part == 0 { within(amounts(used), most) } else { Amounts::ZERO };
                    if ledger.post_part(&call(id), *part + 1, used, T).is_ok() {
                        *part += 1;
                    }
                }
                Step::Settle(id, used) | Step::Unknown(id, used) => {
                    let most = held.get(&id).copied().unwrap_or_default();
                    ledger.settle(&call(id), within(amounts(used), most), T);
                }
                Step::Void(id) => _ = ledger.void(&call(id), T),
                Step::Expire(id) => _ = ledger.expire(&call(id), T),
                Step::Refuse(id) => ledger.refuse(&call(id)),
                Step::Raise(who, at, by) => {
                    let account = account(who, at);
                    for limit in limits.iter().filter(|limit| limit.tier == account.tier()) {
                        ledger.raise(&limit.id, &account, Amounts::ZERO.with(limit.kind, by), Window::Total, T);
                        *raised.entry((limit.id.clone(), account.clone())).or_default() += by;
                    }
                }
                Step::Reconcile(..) | Step::Bar(..) | Step::Thaw(..) => {}
            }
            for balance in ledger.balances() {
                for limit in limits.iter().filter(|l| l.tier == balance.tier) {
                    let [posted, pending] = [balance.posted, balance.pending].map(|all| u128::from(all.of(limit.kind)));
                    let total = match limit.kind.row().nature {
                        Nature::Flow => posted + pending,
                        Nature::Peak => posted.max(pending),
                        Nature::Level => pending,
                    };
                    let more = raised.get(&(limit.id.clone(), balance.account.clone())).copied().unwrap_or(0);
                    // A peak is one reservation's, so a tranche counts for each.
                    prop_assert!(
                        total <= u128::from(limit.limit) + u128::from(more),
                        "{balance:?} passes {limit:?} and {more}"
                    );
                }
            }
        }
    }

    #[test]
    fn replay_gives_the_same_books(steps in prop::collection::vec(step(), 0..100), limits in limits()) {
        let Walk { ledger, twin, lines } = Walk::of(&steps, &limits);
        let (again, read) = (folded(&lines), stored(&ledger));
        for other in [&again, &read] {
            prop_assert_eq!(ledger.balances(), other.balances());
            prop_assert!(ledger.open().eq(other.open()));
            for id in 0..24 {
                prop_assert_eq!(other.is_used(&call(id)), twin.used.contains(&id));
            }
            prop_assert_eq!(serde_json::to_string(&ledger).unwrap(), serde_json::to_string(other).unwrap());
        }
        // And all go on alike: what is needed to lower a peak again is part of the state.
        let close = |mut ledger: Ledger| {
            let open: Vec<_> = ledger.open().cloned().collect();
            let ends: Vec<_> = open.iter().map(|id| ledger.expire(id, T)).collect();
            (ends, ledger.balances())
        };
        let (live, folded) = (close(ledger), close(again));
        prop_assert!(live.1.iter().all(|balance| balance.pending.is_zero()));
        prop_assert_eq!(&live, &folded);
        prop_assert_eq!(live, close(read));
    }
}

#[test]
fn a_thousand_at_once_get_exactly_what_is_there() {
    let limits = [limit(Tier::Org, Kind::MicroUsd, 5_000), limit(Tier::Agent, Kind::Calls, 700)];
    let ledger = Mutex::new(Ledger::default());
    let granted = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for worker in 0..50 {
            let (ledger, granted, limits) = (&ledger, &granted, &limits);
            scope.spawn(move || {
                for turn in 0..20 {
                    let id = name(&format!("c{worker}-{turn}"));
                    let want = Amounts::ZERO.with(Kind::MicroUsd, 10).with(Kind::Calls, 1);
                    let held = ledger.lock().unwrap().reserve(&id, &subject(0), want, limits, T);
                    if held.is_ok() {
                        granted.fetch_add(1, Ordering::Relaxed);
                        std::thread::yield_now();
                        ledger.lock().unwrap().settle(&id, want, T).unwrap();
                    }
                }
            });
        }
    });
    assert_eq!(granted.into_inner(), 500);
    let org = &ledger.into_inner().unwrap().balances()[0];
    assert_eq!((org.posted.of(Kind::MicroUsd), org.pending.of(Kind::MicroUsd)), (5_000, 0));
}

#[test]
fn a_refusal_holds_nothing_anywhere_and_says_what_is_left() {
    let mut ledger = Ledger::default();
    let limits = [limit(Tier::Run, Kind::Calls, 9), limit(Tier::Org, Kind::MicroUsd, 10)];
    let want = |usd| Amounts::ZERO.with(Kind::Calls, 1).with(Kind::MicroUsd, usd);
    ledger.reserve(&call(1), &subject(0), want(7), &limits, T).unwrap();
    let before = ledger.balances();
    let refused = ledger.reserve(&call(2), &subject(7), want(4), &limits, T).unwrap_err();
    assert_eq!(refused.to_string(), "budget `Org-MicroUsd`: 4 micro-USD wanted, 3 left");
    assert_eq!(ledger.balances(), before, "a refusal opens no account");
    ledger.reserve(&call(2), &subject(7), want(3), &limits, T).expect("a refused reservation may be tried again");
}

#[test]
fn an_id_is_used_once_for_ever() {
    let mut ledger = Ledger::default();
    let one = Amounts::ZERO.with(Kind::Calls, 1);
    ledger.reserve(&call(1), &subject(0), one, &[], T).unwrap();
    assert_eq!(ledger.reserve(&call(1), &subject(0), one, &[], T), Err(Shortfall::Duplicate));
    assert!(ledger.settle(&call(1), one, T).is_some());
    assert_eq!(ledger.reserve(&call(1), &subject(0), one, &[], T), Err(Shortfall::Duplicate));
    assert_eq!(
        (ledger.settle(&call(1), one, T), ledger.expire(&call(1), T), ledger.void(&call(1), T)),
        (None, None, None)
    );
    ledger.refuse(&call(2));
    assert_eq!(ledger.reserve(&call(2), &subject(0), one, &[], T), Err(Shortfall::Duplicate));
    assert_eq!(ledger.replay_intent(&call(1), &subject(0), one, T), Err(ReplayFault::Duplicate));
    assert_eq!(ledger.replay_outcome(&call(1), one, T), Err(ReplayFault::Duplicate));
    assert_eq!(ledger.replay_outcome(&call(3), one, T), Err(ReplayFault::NotHeld));
    assert_eq!(ledger.balances()[0].posted, one);
}

#[test]
fn peaks_do_not_add_up_and_fall_again() {
    let mut ledger = Ledger::default();
    let limits = [limit(Tier::Org, Kind::MemoryBytes, 100)];
    let memory = |bytes| Amounts::ZERO.with(Kind::MemoryBytes, bytes);
    for (id, bytes) in [(1, 90), (2, 100), (3, 100), (4, 40)] {
        ledger.reserve(&call(id), &subject(id), memory(bytes), &limits, T).unwrap();
    }
    assert!(ledger.reserve(&call(5), &subject(0), memory(101), &limits, T).is_err());
    let falls = [2, 3, 1, 4].map(|id| {
        ledger.settle(&call(id), memory(u64::from(id) * 10), T).unwrap();
        ledger.balances()[0].pending.of(Kind::MemoryBytes)
    });
    assert_eq!(falls, [100, 90, 40, 0]);
    assert_eq!(ledger.balances()[0].posted.of(Kind::MemoryBytes), 40, "the highest use counts");
}

#[test]
fn a_crash_costs_what_may_have_been_spent() {
    let mut ledger = Ledger::default();
    let held = KINDS.iter().fold(Amounts::ZERO, |all, row| all.with(row.kind, 5));
    ledger.reserve(&call(1), &subject(0), held, &[], T).unwrap();
    let end = ledger.expire(&call(1), T).unwrap();
    for row in &KINDS {
        let spent = if row.on_crash == OnCrash::Spent { 5 } else { 0 };
        assert_eq!((end.posted.of(row.kind), end.released.of(row.kind)), (spent, 5 - spent), "{}", row.name);
    }
    assert_eq!(ledger.balances()[3].posted, end.posted);
}

#[test]
fn an_over_run_closes_the_account() {
    let mut ledger = Ledger::default();
    let limits = [limit(Tier::Session, Kind::MicroUsd, 100)];
    let usd = |amount| Amounts::ZERO.with(Kind::MicroUsd, amount);
    ledger.reserve(&call(1), &subject(0), usd(60), &limits, T).unwrap();
    let end = ledger.settle(&call(1), usd(140), T).unwrap();
    assert_eq!((end.posted, end.overrun), (usd(140), usd(80)));
    assert_eq!(ledger.remaining(&subject(0), &limits, T).of(Kind::MicroUsd), 0);
    assert!(ledger.reserve(&call(2), &subject(0), usd(1), &limits, T).is_err());
}

#[test]
fn counters_end_at_their_last_number_and_then_refuse() {
    let mut ledger = Ledger::default();
    let usd = |amount| Amounts::ZERO.with(Kind::MicroUsd, amount);
    ledger.reserve(&call(1), &subject(0), usd(u64::MAX), &[limit(Tier::Org, Kind::MicroUsd, u64::MAX)], T).unwrap();
    let refused = ledger.reserve(&call(2), &subject(1), usd(1), &[], T).unwrap_err();
    assert!(matches!(&refused, Shortfall::Limit { budget, left: 0, .. } if budget == Shortfall::COUNTER), "{refused}");
    assert_eq!(ledger.replay_intent(&call(2), &subject(1), usd(1), T), Err(ReplayFault::Overflow));
    ledger.settle(&call(1), usd(u64::MAX), T).unwrap();
    assert!(ledger.reserve(&call(3), &subject(1), usd(1), &[], T).is_err());
}

#[test]
fn a_level_counts_while_it_is_held_and_nothing_is_posted() {
    let mut ledger = Ledger::default();
    let limits = [limit(Tier::Agent, Kind::Jobs, 2)];
    let job = Amounts::ZERO.with(Kind::Jobs, 1);
    for id in [1, 2] {
        ledger.reserve(&call(id), &subject(0), job, &limits, T).unwrap();
    }
    assert!(ledger.reserve(&call(3), &subject(0), job, &limits, T).is_err());
    ledger.reserve(&call(4), &subject(1), job, &limits, T).expect("another agent's");
    let end = ledger.settle(&call(1), job, T).unwrap();
    assert_eq!((end.posted, end.released), (Amounts::ZERO, job));
    ledger.reserve(&call(3), &subject(0), job, &limits, T).unwrap();
    assert_eq!(ledger.expire(&call(2), T).unwrap().posted, Amounts::ZERO, "a job ends with the process");
    assert!(ledger.balances().iter().all(|balance| balance.posted.is_zero()));
}

#[test]
fn a_subagent_gets_no_fresh_budget() {
    let mut ledger = Ledger::default();
    let one = Amounts::ZERO.with(Kind::Calls, 1);
    let own = Subject { delegation: Vec::new(), ..subject(0) };
    let below = |names: &[&str]| Subject { delegation: names.iter().map(|text| name(text)).collect(), ..subject(0) };
    let limits = [limit(Tier::Run, Kind::Calls, 4), limit(Tier::Subagent, Kind::Calls, 2)];
    let mut take = |id: u8, who: &Subject| ledger.reserve(&call(id), who, one, &limits, T).map(drop);
    take(1, &own).unwrap();
    take(2, &below(&["helper"])).unwrap();
    // A subagent's subagent counts on both, and on the run that all of them share.
    take(3, &below(&["helper", "scout"])).unwrap();
    let helper = take(4, &below(&["helper"])).unwrap_err();
    assert!(
        matches!(&helper, Shortfall::Limit { account, left: 0, .. } if account.as_str().ends_with("/~helper")),
        "{helper}"
    );
    take(5, &below(&["other"])).unwrap();
    let run = take(6, &below(&["fresh"])).unwrap_err();
    assert!(matches!(&run, Shortfall::Limit { account, .. } if account.as_str().ends_with("/r0")), "{run}");
    assert!(take(7, &own).is_err());
}

#[test]
fn parts_are_posted_once_and_the_rest_stays_held() {
    let mut ledger = Ledger::default();
    let usd = |amount| Amounts::ZERO.with(Kind::MicroUsd, amount);
    let limits = [limit(Tier::Org, Kind::MicroUsd, 100)];
    ledger.reserve(&call(1), &subject(0), usd(80), &limits, T).unwrap();
    let sums = |ledger: &Ledger| {
        let org = &ledger.balances()[0];
        (org.posted.of(Kind::MicroUsd), org.pending.of(Kind::MicroUsd))
    };
    assert!(ledger.post_part(&call(1), 1, usd(30), T).unwrap().is_some());
    assert_eq!(ledger.post_part(&call(1), 1, usd(30), T), Ok(None), "tried again after a lost answer");
    assert_eq!((sums(&ledger), ledger.remaining(&subject(0), &limits, T).of(Kind::MicroUsd)), ((30, 50), 20));
    // What it used in all; the part is in it.
    ledger.settle(&call(1), usd(70), T).unwrap();
    assert_eq!(sums(&ledger), (70, 0));
    assert_eq!(ledger.post_part(&call(1), 2, usd(1), T), Err(PartFault::NotHeld));
    // A crash takes the rest as spent, not the whole once more.
    ledger.reserve(&call(2), &subject(0), usd(30), &limits, T).unwrap();
    ledger.post_part(&call(2), 1, usd(10), T).unwrap();
    ledger.expire(&call(2), T).unwrap();
    assert_eq!(sums(&ledger), (100, 0));
}

#[test]
fn what_was_spent_in_doubt_is_reconciled_once() {
    let mut ledger = Ledger::default();
    let held = |usd| Amounts::ZERO.with(Kind::MicroUsd, usd).with(Kind::Calls, 1);
    let limits = [limit(Tier::Org, Kind::MicroUsd, 100)];
    ledger.reserve(&call(1), &subject(0), held(90), &limits, T).unwrap();
    assert_eq!(ledger.reconciled(&call(1), held(0)), Err(ReconcileFault::Running));
    ledger.expire(&call(1), T).unwrap();
    assert!(ledger.reserve(&call(2), &subject(0), held(11), &limits, T).is_err(), "unknown is spent");
    let posted = ledger.reconciled(&call(1), Amounts::ZERO.with(Kind::MicroUsd, 40)).unwrap();
    assert_eq!(posted, held(40), "that it was called is not in doubt");
    ledger.reconcile(&call(1), posted, T).unwrap();
    assert_eq!(ledger.remaining(&subject(0), &limits, T).of(Kind::MicroUsd), 60);
    assert_eq!(ledger.reconcile(&call(1), posted, T), Err(ReplayFault::NotInDoubt));
    assert_eq!(ledger.reconciled(&call(1), posted), Err(ReconcileFault::NotInDoubt));
    // It may also have cost more than was held.
    ledger.reserve(&call(3), &subject(0), held(10), &limits, T).unwrap();
    ledger.expire(&call(3), T).unwrap();
    ledger.reconcile(&call(3), held(75), T).unwrap();
    assert_eq!(ledger.balances()[0].posted.of(Kind::MicroUsd), 115);
    assert!(ledger.reserve(&call(4), &subject(0), held(1), &limits, T).is_err());
}

#[test]
fn what_is_closed_takes_nothing_new_and_a_revocation_is_for_good() {
    let mut ledger = Ledger::default();
    let one = Amounts::ZERO.with(Kind::Calls, 1);
    let path = AccountId::path(&subject(0));
    ledger.reserve(&call(1), &subject(0), one, &[], T).unwrap();
    ledger.bar(&path[2], false, "ops", &Giver::Here, T);
    let closed = ledger.reserve(&call(2), &subject(0), one, &[], T).unwrap_err();
    assert_eq!(closed, Shortfall::Closed { account: path[2].clone(), revoked: false });
    ledger.reserve(&call(3), &subject(2), one, &[], T).expect("another session");
    assert!(ledger.settle(&call(1), one, T).is_some(), "what runs is settled");
    assert!(ledger.thaw(&path[2], Lifts::All));
    ledger.reserve(&call(2), &subject(0), one, &[], T).unwrap();
    assert!(ledger.bar(&path[1], true, "ops", &Giver::Here, T));
    assert!(!ledger.bar(&path[1], false, "ops", &Giver::Office, T));
    assert!(!ledger.thaw(&path[1], Lifts::All));
    let closed = ledger.reserve(&call(4), &subject(0), one, &[], T).unwrap_err();
    assert_eq!(closed, Shortfall::Closed { account: path[1].clone(), revoked: true });
}

#[test]
fn what_one_side_has_stopped_the_other_does_not_let_go_on() {
    let mut ledger = Ledger::default();
    let one = Amounts::ZERO.with(Kind::Calls, 1);
    let session = &AccountId::path(&subject(0))[2];
    let other = Giver::Gate("other".into());
    assert!(ledger.bar(session, false, "alarm", &Giver::Here, T));
    assert!(ledger.bar(session, false, "them", &other, T));
    assert!(!ledger.bar(session, false, "them again", &other, T));
    assert_eq!(ledger.bars().count(), 1, "one account");
    assert!(ledger.thaw(session, Lifts::Round));
    assert!(!ledger.thaw(session, Lifts::Round));
    assert_eq!(ledger.barred(session).map(|bar| bar.by.as_str()), Some("alarm"));
    assert!(ledger.reserve(&call(1), &subject(0), one, &[], T).is_err());
    assert!(ledger.bar(session, false, "them", &other, T));
    assert!(ledger.thaw(session, Lifts::Own));
    assert_eq!(ledger.barred(session).map(|bar| &bar.from), Some(&other));
    assert!(ledger.reserve(&call(1), &subject(0), one, &[], T).is_err());
    assert!(ledger.thaw(session, Lifts::All));
    ledger.reserve(&call(1), &subject(0), one, &[], T).unwrap();
}

#[test]
fn a_forecast_follows_the_rate_of_the_last_minutes() {
    let mut ledger = Ledger::default();
    let limits = [limit(Tier::Session, Kind::MicroUsd, 1_000)];
    let usd = Amounts::ZERO.with(Kind::MicroUsd, 10);
    let minute = |number: u64| Timestamp(T.0 / 300_000 * 300_000 + number * 60_000);
    for number in 0..10 {
        ledger.reserve(&call(number), &subject(0), usd, &limits, minute(u64::from(number))).unwrap();
        ledger.settle(&call(number), usd, minute(u64::from(number))).unwrap();
    }
    let forecast = |at| ledger.standings(&limits, at).first().map(|standing| (standing.left, standing.forecast));
    // Ten each minute, 900 left: an hour and a half.
    assert_eq!(forecast(minute(10)), Some((900, Some(Millis(90 * 60_000)))));
    assert_eq!(forecast(minute(30)), Some((900, None)), "idle");
}

#[test]
fn the_table_in_the_docs_is_the_table() {
    let lower = |word: &dyn std::fmt::Debug| format!("{word:?}").to_lowercase();
    let rows: Vec<String> = KINDS
        .iter()
        .map(|row| {
            let [nature, crash, excess] = [lower(&row.nature), lower(&row.on_crash), lower(&row.excess)];
            format!("| `{}` | {} | {nature} | {crash} | {excess} | {} |", row.name, row.unit, row.about)
        })
        .collect();
    let docs = include_str!("../docs/budgets.md");
    assert!(docs.contains(&rows.join("\n")), "docs/budgets.md should hold:\n{}", rows.join("\n"));
}

#[test]
fn every_property_in_the_docs_has_its_test() {
    let sources = [
        include_str!("ledger.rs"),
        include_str!("windows.rs"),
        include_str!("laws/budget.rs"),
        include_str!("laws/operator.rs"),
        include_str!("simulation.rs"),
        include_str!("policies.rs"),
        include_str!("tamper.rs"),
        include_str!("journal.rs"),
        include_str!("laws/deny.rs"),
        include_str!("../src/ledger/account.rs"),
        include_str!("../src/ledger/pace.rs"),
        include_str!("../src/pep/state.rs"),
    ];
    let docs = [include_str!("../docs/budgets.md"), include_str!("../docs/audit-format.md")].concat();
    let named: Vec<&str> = docs
        .split('`')
        .filter(|word| word.matches('_').count() > 2 && word.chars().all(|c| c.is_alphanumeric() || c == '_'))
        .filter(|word| Kind::from_name(word).is_none())
        .collect();
    assert!(named.len() > 15, "{named:?}");
    for test in named {
        let function = format!("fn {test}(");
        assert!(sources.iter().any(|source| source.contains(&function)), "no test is called `{test}`");
    }
}
