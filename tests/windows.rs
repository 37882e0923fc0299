//! Windows against a twin that keeps every reservation and adds up anew, and against the law itself: in
//! whatever interval, what was reserved stays within the limit. `docs/budgets.md` names these tests.

use std::collections::BTreeMap;

use proptest::prelude::*;
use weir::ledger::{AccountId, Ledger, Limit, Shortfall, Tier};
use weir::model::{Amounts, CallId, Kind, Millis, Name, Subject, Timestamp, Watch, Window};

/// Milliseconds of every window here; a slot of the rolling one has two.
const PERIOD: u64 = 100;
const START: u64 = 1_700_000_000_050;
const TIERS: [Tier; 2] = [Tier::Org, Tier::Session];

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn call(number: u8) -> CallId {
    name(&format!("c{number}"))
}

fn subject(who: u8) -> Subject {
    let session = name(&format!("s{who}"));
    Subject { org: name("acme"), agent: name("a"), session, run: name("r"), delegation: Vec::new(), project: None }
}

fn usd(amount: u64) -> Amounts {
    Amounts::ZERO.with(Kind::MicroUsd, amount)
}

fn windows() -> [Window; 3] {
    [Window::Every(Millis(PERIOD)), Window::Rolling(Millis(PERIOD)), Window::Refill(Millis(PERIOD))]
}

fn limit(tier: Tier, window: Window, limit: u64) -> Limit {
    Limit { id: format!("{tier:?} {window}"), tier, kind: Kind::MicroUsd, limit, window, shared: false }
}

fn watches(limits: &[Limit]) -> Vec<Watch> {
    limits.iter().filter_map(Limit::watch).collect()
}

#[derive(Clone, Debug)]
enum Step {
    /// Time goes on, or back.
    Wait(i64),
    Reserve(u8, u8, u64),
    Part(u8, u64),
    Settle(u8, u64),
    Expire(u8),
    Reconcile(u8, u64),
    /// Written down and read back.
    Store,
}

fn step() -> impl Strategy<Value = Step> {
    let wait = prop_oneof![6 => 0..30_i64, 2 => 30..120_i64, 1 => 150..400_i64, 1 => -60..0_i64];
    prop_oneof![
        4 => wait.prop_map(Step::Wait),
        6 => (0..40u8, 0..2u8, 0..25u64).prop_map(|(id, who, amount)| Step::Reserve(id, who, amount)),
        2 => (0..40u8, 0..20u64).prop_map(|(id, used)| Step::Part(id, used)),
        4 => (0..40u8, 0..30u64).prop_map(|(id, used)| Step::Settle(id, used)),
        1 => (0..40u8).prop_map(Step::Expire),
        1 => (0..40u8, 0..30u64).prop_map(|(id, used)| Step::Reconcile(id, used)),
        1 => Just(Step::Store),
    ]
}

/// One reservation as the twin remembers it.
#[derive(Clone, Debug)]
struct Made {
    who: u8,
    at: u64,
    /// What of it counts: held, or posted out of what was held.
    counted: u64,
    held: Option<u64>,
    posted: u64,
    doubtful: bool,
}

#[derive(Default)]
struct Twin {
    made: BTreeMap<u8, Made>,
    /// Used beyond a hold: who, when, how much.
    over: Vec<(u8, u64, u64)>,
}

impl Twin {
    /// Everything that counts on the account of `who` in `tier`, with its time.
    fn counts(&self, tier: Tier, who: u8, over: bool) -> Vec<(u64, u64)> {
        let mine = |other: u8| tier == Tier::Org || other == who;
        let made = self.made.values().filter(|made| mine(made.who)).map(|made| (made.at, made.counted));
        let over = self.over.iter().filter(|(other, ..)| over && mine(*other)).map(|(_, at, amount)| (*at, *amount));
        made.chain(over).collect()
    }

    /// What is left in a fixed or rolling window at `now`; a bucket has no such sum.
    fn left(&self, limit: &Limit, who: u8, now: u64) -> Option<u64> {
        let within = |at: u64| match limit.window {
            Window::Every(_) => at / PERIOD == now / PERIOD,
            // The slot in which it was made ends less than a period before now.
            _ => (at / 2 + 1) * 2 + PERIOD > now + 1,
        };
        if matches!(limit.window, Window::Refill(_)) {
            return None;
        }
        let counts = self.counts(limit.tier, who, true);
        let used: u64 = counts.iter().filter(|(at, _)| within(*at)).map(|(_, amount)| amount).sum();
        Some(limit.limit.saturating_sub(used))
    }

    /// The law, for every interval that begins and ends with a reservation.
    fn holds(&self, limit: &Limit, who: u8) {
        let counts = self.counts(limit.tier, who, false);
        for (from, _) in &counts {
            for (to, _) in counts.iter().filter(|(to, _)| to >= from) {
                let most = match limit.window {
                    Window::Every(_) if from / PERIOD == to / PERIOD => limit.limit,
                    Window::Rolling(_) if to - from < PERIOD => limit.limit,
                    // In each millisecond a hundredth of the limit comes back.
                    Window::Refill(_) => limit.limit + limit.limit * (to - from) / PERIOD,
                    _ => continue,
                };
                let sum: u64 = counts.iter().filter(|(at, _)| from <= at && at <= to).map(|(_, amount)| amount).sum();
                assert!(sum <= most, "{sum} reserved from {from} to {to}, and {} allows {most}", limit.id);
            }
        }
    }
}

struct Walk {
    ledger: Ledger,
    twin: Twin,
    limits: Vec<Limit>,
    clock: u64,
    last: u64,
}

impl Walk {
    fn new(limits: Vec<Limit>) -> Self {
        let mut ledger = Ledger::default();
        ledger.watch(&watches(&limits), Timestamp(START));
        Self { ledger, twin: Twin::default(), limits, clock: START, last: START }
    }

    /// What the ledger takes for now: never earlier than what it has seen.
    fn now(&mut self) -> (Timestamp, u64) {
        (Timestamp(self.clock), self.clock.max(self.last))
    }

    fn step(&mut self, step: &Step) {
        let (at, now) = self.now();
        match *step {
            Step::Wait(ms) => self.clock = self.clock.saturating_add_signed(ms),
            Step::Reserve(id, who, amount) => self.reserve(id, who, amount, at, now),
            Step::Part(id, used) => {
                let part = self.twin.made.get(&id).filter(|made| made.held.is_some());
                let number = self.parts(id) + 1;
                let posted = self.ledger.post_part(&call(id), number, usd(used), at);
                assert_eq!(posted.is_ok(), part.is_some(), "{posted:?}");
                if posted.is_ok() {
                    self.last = now;
                    self.part(id, used, now);
                }
            }
            Step::Settle(id, used) => {
                let end = self.ledger.settle(&call(id), usd(used), at);
                let Some(made) = self.twin.made.get_mut(&id) else { return assert!(end.is_none()) };
                let Some(held) = made.held.take() else { return assert!(end.is_none()) };
                let rest = used.saturating_sub(made.posted);
                made.counted -= held.saturating_sub(rest);
                made.posted += rest;
                self.twin.over.push((made.who, now, rest.saturating_sub(held)));
                self.last = now;
            }
            Step::Expire(id) => {
                let end = self.ledger.expire(&call(id), at);
                let Some(made) = self.twin.made.get_mut(&id) else { return assert!(end.is_none()) };
                let Some(held) = made.held.take() else { return assert!(end.is_none()) };
                made.posted += held;
                made.doubtful = true;
                self.last = now;
            }
            Step::Reconcile(id, used) => {
                let posted = self.ledger.reconciled(&call(id), usd(used));
                let Some(made) = self.twin.made.get_mut(&id).filter(|made| made.doubtful) else {
                    return assert!(posted.is_err());
                };
                self.ledger.reconcile(&call(id), posted.unwrap(), at).unwrap();
                made.doubtful = false;
                made.counted = made.counted.min(used);
                self.twin.over.push((made.who, now, used.saturating_sub(made.posted)));
                made.posted = used;
                self.last = now;
            }
            Step::Store => {
                let text = serde_json::to_string(&self.ledger).unwrap();
                let mut read: Ledger = serde_json::from_str(&text).unwrap();
                assert_eq!(serde_json::to_string(&read).unwrap(), text);
                self.ledger.prints().for_each(|print| read.mark(print));
                self.ledger = read;
            }
        }
    }

    fn parts(&self, id: u8) -> u64 {
        // Numbers are found by asking: one that was posted before changes nothing.
        let mut ledger = self.ledger.clone();
        (1..).find(|part| !matches!(ledger.post_part(&call(id), *part, Amounts::ZERO, Timestamp(0)), Ok(None))).unwrap()
            - 1
    }

    fn part(&mut self, id: u8, used: u64, now: u64) {
        let made = self.twin.made.get_mut(&id).unwrap();
        let held = made.held.as_mut().unwrap();
        let within = used.min(*held);
        *held -= within;
        made.posted += used;
        self.twin.over.push((made.who, now, used - within));
    }

    fn reserve(&mut self, id: u8, who: u8, amount: u64, at: Timestamp, now: u64) {
        let got = self.ledger.reserve(&call(id), &subject(who), usd(amount), &self.limits, at);
        let lefts = self.limits.iter().map(|limit| self.twin.left(limit, who, now));
        let fits = lefts.map(|left| left.map(|left| amount <= left));
        let known: Vec<Option<bool>> = fits.collect();
        match &got {
            Ok(_) => assert!(!known.contains(&Some(false)) && !self.twin.made.contains_key(&id), "{known:?}"),
            Err(Shortfall::Duplicate) => assert!(self.twin.made.contains_key(&id)),
            Err(Shortfall::Limit { budget, wanted, left, .. }) => {
                assert!(wanted > left, "{got:?}");
                let at = self.limits.iter().position(|limit| limit.id == *budget).unwrap();
                let twin = self.twin.left(&self.limits[at], who, now);
                assert!(twin.is_none_or(|twin| twin == *left), "{got:?}, the twin has {twin:?}");
            }
            Err(other) => panic!("{other}"),
        }
        if got.is_ok() {
            let made = Made { who, at: now, counted: amount, held: Some(amount), posted: 0, doubtful: false };
            self.twin.made.insert(id, made);
            self.last = now;
        }
    }

    fn check(&mut self) {
        let (at, now) = self.now();
        for who in 0..2 {
            for limit in &self.limits {
                self.twin.holds(limit, who);
                let left = self.ledger.remaining(&subject(who), std::slice::from_ref(limit), at).of(Kind::MicroUsd);
                if let Some(twin) = self.twin.left(limit, who, now) {
                    assert_eq!(left, twin, "{} at {now}", limit.id);
                }
                assert!(left <= limit.limit);
            }
        }
    }
}

fn some_limits() -> impl Strategy<Value = Vec<Limit>> {
    prop::collection::vec((0..2usize, 0..3usize, 0..60u64), 1..4).prop_map(|rows| {
        let mut limits: Vec<Limit> =
            rows.into_iter().map(|(tier, window, most)| limit(TIERS[tier], windows()[window], most)).collect();
        limits.sort_by(|a, b| a.id.cmp(&b.id));
        limits.dedup_by(|a, b| a.id == b.id);
        limits
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn what_is_reserved_in_any_window_never_passes_its_limit(
        steps in prop::collection::vec(step(), 0..70),
        limits in some_limits(),
    ) {
        let mut walk = Walk::new(limits);
        for step in &steps {
            walk.step(step);
            walk.check();
        }
    }

    /// A bucket loses nothing either: without anything given back it holds exactly what an exact one holds.
    #[test]
    fn a_bucket_holds_what_an_exact_one_holds(
        takes in prop::collection::vec((0..150u64, 0..40u64), 0..60),
        most in 1..60u64,
    ) {
        let limits = [limit(Tier::Org, Window::Refill(Millis(PERIOD)), most)];
        let mut walk = Walk::new(limits.to_vec());
        // In hundredths, of which `most` come back in each millisecond.
        let (mut there, mut now) = (most * PERIOD, START);
        for (number, (wait, amount)) in takes.into_iter().enumerate() {
            now += wait;
            there = (there + most * wait).min(most * PERIOD);
            let id = name(&format!("c{number}"));
            let got = walk.ledger.reserve(&id, &subject(0), usd(amount), &limits, Timestamp(now));
            prop_assert_eq!(got.is_ok(), amount * PERIOD <= there);
            if got.is_ok() {
                there -= amount * PERIOD;
                walk.ledger.settle(&id, usd(amount), Timestamp(now)).unwrap();
            }
        }
    }
}

fn spend(ledger: &mut Ledger, limits: &[Limit], id: &str, amount: u64, at: u64) -> Result<(), Shortfall> {
    ledger.reserve(&name(id), &subject(0), usd(amount), limits, Timestamp(at))?;
    ledger.settle(&name(id), usd(amount), Timestamp(at)).unwrap();
    Ok(())
}

#[test]
fn a_window_ends_where_it_says() {
    for window in windows() {
        let limits = [limit(Tier::Session, window, 10)];
        let mut ledger = Ledger::default();
        let start = START / PERIOD * PERIOD;
        ledger.watch(&watches(&limits), Timestamp(start));
        spend(&mut ledger, &limits, "a", 10, start + 90).unwrap();
        assert!(spend(&mut ledger, &limits, "b", 1, start + 99).is_err(), "{window}");
        let (early, late) = match window {
            // At the border of the span, which is aligned to the epoch.
            Window::Every(_) => (start + 99, start + 100),
            // A whole period later, and not before.
            Window::Rolling(_) => (start + 189, start + 191),
            // All of it comes back in a whole period, evenly.
            _ => (start + 189, start + 190),
        };
        assert!(spend(&mut ledger, &limits, "c", 10, early).is_err(), "{window}");
        assert_eq!(spend(&mut ledger, &limits, "d", 10, late), Ok(()), "{window}");
    }
}

#[test]
fn amounts_belong_to_the_time_of_their_reservation() {
    let limits = [limit(Tier::Session, Window::Every(Millis(PERIOD)), 10)];
    let mut ledger = Ledger::default();
    let start = START / PERIOD * PERIOD;
    ledger.watch(&watches(&limits), Timestamp(start));
    let at = |ms: u64| Timestamp(start + ms);
    ledger.reserve(&name("a"), &subject(0), usd(10), &limits, at(90)).unwrap();
    // The span after it is new, and what the first gives back does not come into it.
    ledger.reserve(&name("b"), &subject(0), usd(10), &limits, at(110)).unwrap();
    ledger.settle(&name("a"), usd(1), at(120)).unwrap();
    assert!(spend(&mut ledger, &limits, "c", 1, start + 130).is_err());
    // What it uses beyond its hold counts where it ends.
    ledger.settle(&name("b"), usd(14), at(205)).unwrap();
    assert_eq!(ledger.remaining(&subject(0), &limits, at(210)).of(Kind::MicroUsd), 6);
}

#[test]
fn a_clock_that_goes_back_opens_no_window() {
    for window in windows() {
        let limits = [limit(Tier::Session, window, 10)];
        let mut ledger = Ledger::default();
        ledger.watch(&watches(&limits), Timestamp(START));
        spend(&mut ledger, &limits, "a", 10, START).unwrap();
        assert!(spend(&mut ledger, &limits, "b", 1, START - 10 * PERIOD).is_err(), "{window}");
        spend(&mut ledger, &limits, "c", 10, START + 10 * PERIOD).unwrap();
        assert!(spend(&mut ledger, &limits, "d", 1, START).is_err(), "{window}");
    }
}

#[test]
fn a_window_counts_from_its_policy_on_and_survives_a_policy_without_it() {
    for window in windows() {
        let limits = [limit(Tier::Session, window, 10)];
        let mut ledger = Ledger::default();
        let start = START / PERIOD * PERIOD;
        let at = |ms: u64| Timestamp(start + ms);
        assert!(
            spend(&mut ledger, &limits, "unwatched", 1, start).is_err(),
            "{window}: what nobody counts has nothing left"
        );
        ledger.reserve(&name("before"), &subject(0), usd(50), &[], at(0)).unwrap();
        ledger.watch(&watches(&limits), at(1));
        spend(&mut ledger, &limits, "a", 8, start + 2).unwrap();
        // What was held before it began was not counted, so nothing of it is given back.
        ledger.settle(&name("before"), usd(0), at(2)).unwrap();
        assert!(spend(&mut ledger, &limits, "b", 3, start + 2).is_err(), "{window}");
        // A policy without the window for a moment does not begin it anew; one for a whole period does.
        ledger.watch(&[], at(3));
        ledger.watch(&watches(&limits), at(4));
        assert!(spend(&mut ledger, &limits, "c", 3, start + 4).is_err(), "{window}");
        ledger.watch(&[], at(5));
        ledger.watch(&[], at(5 + PERIOD));
        ledger.watch(&watches(&limits), at(6 + PERIOD));
        assert_eq!(spend(&mut ledger, &limits, "d", 10, start + 6 + PERIOD), Ok(()), "{window}");
    }
}

#[test]
fn a_tranche_counts_in_the_window_in_which_it_was_granted() {
    let account = AccountId::session(&subject(0));
    for window in windows() {
        let limits = [limit(Tier::Session, window, 10)];
        let mut ledger = Ledger::default();
        let start = START / PERIOD * PERIOD;
        ledger.watch(&watches(&limits), Timestamp(start));
        spend(&mut ledger, &limits, "a", 10, start).unwrap();
        ledger.raise(&limits[0].id, &account, usd(5), window, Timestamp(start));
        assert!(spend(&mut ledger, &limits, "b", 6, start).is_err(), "{window}");
        spend(&mut ledger, &limits, "c", 5, start).unwrap();
        let later = start + 3 * PERIOD;
        assert_eq!(ledger.remaining(&subject(0), &limits, Timestamp(later)).of(Kind::MicroUsd), 10, "{window}");
    }
    // A bucket keeps a tranche until it is used.
    let limits = [limit(Tier::Session, windows()[2], 10)];
    let mut ledger = Ledger::default();
    ledger.watch(&watches(&limits), Timestamp(START));
    ledger.raise(&limits[0].id, &account, usd(5), windows()[2], Timestamp(START));
    assert_eq!(ledger.remaining(&subject(0), &limits, Timestamp(START + 9 * PERIOD)).of(Kind::MicroUsd), 15);
}

#[test]
fn a_raised_limit_of_a_bucket_refills_faster_only_from_then_on() {
    let bucket = |most| [limit(Tier::Session, Window::Refill(Millis(PERIOD)), most)];
    let mut ledger = Ledger::default();
    ledger.watch(&watches(&bucket(100)), Timestamp(START));
    spend(&mut ledger, &bucket(100), "a", 100, START).unwrap();
    ledger.watch(&watches(&bucket(200)), Timestamp(START + 50));
    // Half of 100 is back; the other 100 are the new limit's.
    let left = |ledger: &Ledger, at| ledger.remaining(&subject(0), &bucket(200), Timestamp(at)).of(Kind::MicroUsd);
    assert_eq!((left(&ledger, START + 50), left(&ledger, START + 60)), (150, 170));
}

#[test]
fn a_reconciliation_gives_back_no_more_than_was_reserved() {
    for window in windows() {
        let limits = [limit(Tier::Session, window, 50)];
        let mut ledger = Ledger::default();
        ledger.watch(&watches(&limits), Timestamp(START));
        let at = Timestamp(START);
        ledger.reserve(&name("a"), &subject(0), usd(10), &limits, at).unwrap();
        spend(&mut ledger, &limits, "b", 20, START).unwrap();
        // Fifteen more than it holds, which count on their own.
        ledger.post_part(&name("a"), 1, usd(25), at).unwrap();
        ledger.expire(&name("a"), at).unwrap();
        let left = |ledger: &Ledger| ledger.remaining(&subject(0), &limits, at).of(Kind::MicroUsd);
        assert_eq!(left(&ledger), 5, "{window}");
        let posted = ledger.reconciled(&name("a"), usd(4)).unwrap();
        ledger.reconcile(&name("a"), posted, at).unwrap();
        assert_eq!(left(&ledger), 11, "{window}: six of the ten that it held");
        assert_eq!(ledger.balances()[0].posted, usd(24), "{window}: and all of it in total");
    }
}
