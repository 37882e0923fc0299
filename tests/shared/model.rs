//! The protocol between gates and the database, explored in every order: what is drawn and returned under crashes, lost,
//! late and reordered messages; and who may still accept while an order to stop goes round.
//!
//! Two models, because money does not depend on time and standing does not depend on amounts. The database is `Book`,
//! which another test compares with the SQL; the amounts come from `weir::pep::share`, which the gate uses.

use std::collections::BTreeSet;

use stateright::{Checker, Model, Property};
use weir::pep::share::excess;

use super::book::{Book, Claim, GateNo};

const POT: u8 = 0;

// === Money ===

/// The bounds of one exploration.
#[derive(Clone, Copy, Debug)]
struct Money {
    limit: u64,
    lease: u64,
    calls: u64,
    crashes: u64,
    lost: u64,
    /// Most statements of one gate in one opening.
    statements: u64,
}

/// A gate as the model sees it. The first four fields are its journal's and survive a crash.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Till {
    held: u64,
    posted: u64,
    pending: u64,
    opens: u64,
    up: bool,
    joined: bool,
    seq: u64,
    /// The claim whose answer is awaited; one at a time for each pot.
    busy: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Letter {
    Register(GateNo, u64),
    Registered(GateNo, u64),
    Claim(Claim),
    Answer { gate: GateNo, epoch: u64, seq: u64, held: u64 },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Vault {
    book: Book,
    tills: Vec<Till>,
    letters: BTreeSet<Letter>,
    calls: u64,
    crashes: u64,
    lost: u64,
    overrun: u64,
    lease: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Open(GateNo),
    /// The connection broke: the gate no longer waits, what it sent may still arrive.
    GiveUp(GateNo),
    Draw(GateNo),
    Accept(GateNo),
    Settle(GateNo, u64),
    /// States what the journal says and wants nothing.
    Tell(GateNo),
    Crash(GateNo),
    Arrive(Letter),
}

impl Till {
    fn used(&self) -> u64 {
        self.posted + self.pending
    }

    fn unused(&self) -> u64 {
        self.held.saturating_sub(self.used())
    }

    fn claim(&mut self, gate: GateNo, model: &Money, least: u64, most: u64) -> Letter {
        self.seq += 1;
        self.busy = Some(self.seq);
        let known = self.held.max(self.used());
        let (epoch, seq) = (self.opens, self.seq);
        Letter::Claim(Claim { gate, epoch, seq, pot: POT, known, raised: 0, least, most, limit: model.limit })
    }
}

impl Vault {
    fn deliver(&mut self, letter: &Letter) {
        match letter {
            Letter::Register(gate, epoch) => {
                if self.book.register(*gate, *epoch, *epoch).is_ok() {
                    self.letters.insert(Letter::Registered(*gate, *epoch));
                }
            }
            Letter::Claim(claim) => {
                if let Ok((held, _)) = self.book.claim(claim) {
                    let Claim { gate, epoch, seq, .. } = *claim;
                    self.letters.insert(Letter::Answer { gate, epoch, seq, held });
                }
            }
            Letter::Registered(gate, epoch) => {
                let till = &mut self.tills[*gate as usize];
                till.joined |= till.up && till.opens == *epoch;
            }
            Letter::Answer { gate, epoch, seq, held } => {
                let till = &mut self.tills[*gate as usize];
                if till.up && till.opens == *epoch && till.busy == Some(*seq) {
                    till.held = *held;
                    till.busy = None;
                    // What ended meanwhile may cover the call that waits, which is one.
                    till.held -= excess(till.unused().saturating_sub(1), self.lease).min(till.held);
                }
            }
        }
    }

    fn open(&mut self, gate: GateNo) {
        let till = &mut self.tills[gate as usize];
        // What a crash left open is of a paid kind: it counts as spent.
        till.posted += std::mem::take(&mut till.pending);
        till.opens += 1;
        *till = Till { up: true, joined: false, seq: 0, busy: None, ..till.clone() };
        self.letters.insert(Letter::Register(gate, till.opens));
    }

    /// Both gates start once more and stop in order; letters that are still under way arrive before or after, or never.
    fn wound_up(&self, model: &Money, late: bool) -> u64 {
        let mut state = self.clone();
        let under_way = std::mem::take(&mut state.letters);
        for gate in 0..state.tills.len() as GateNo {
            state.open(gate);
            state.settle_down(model, gate);
        }
        if late {
            under_way.iter().for_each(|letter| state.deliver(letter));
        }
        state.book.held(POT)
    }

    fn settle_down(&mut self, model: &Money, gate: GateNo) {
        let opens = self.tills[gate as usize].opens;
        self.deliver(&Letter::Register(gate, opens));
        let till = &mut self.tills[gate as usize];
        till.held = till.posted;
        let claim = till.claim(gate, model, 0, 0);
        self.deliver(&claim);
    }

    fn spent(&self) -> u64 {
        self.tills.iter().map(Till::used).sum()
    }

    fn posted_at_last(&self) -> u64 {
        // A restart posts what is pending.
        self.spent()
    }
}

impl Model for Money {
    type State = Vault;
    type Action = Step;

    fn init_states(&self) -> Vec<Vault> {
        vec![Vault {
            book: Book::default(),
            tills: vec![Till::default(); 2],
            letters: BTreeSet::new(),
            calls: self.calls,
            crashes: self.crashes,
            lost: self.lost,
            overrun: 0,
            lease: self.lease,
        }]
    }

    fn actions(&self, state: &Vault, actions: &mut Vec<Step>) {
        actions.extend(state.letters.iter().cloned().map(Step::Arrive));
        for (gate, till) in (0..).zip(&state.tills) {
            if !till.up {
                actions.push(Step::Open(gate));
                continue;
            }
            // Each fault befalls one of the two gates: which one makes no difference.
            if state.crashes > 0 && gate == 0 {
                actions.push(Step::Crash(gate));
            }
            if till.pending > 0 {
                // Less than was held, or more.
                let used = if gate == 0 { [0, 1] } else { [1, 2] };
                actions.extend(used.map(|used| Step::Settle(gate, used)));
            }
            if state.lost > 0 && (till.busy.is_some() || !till.joined) {
                actions.push(Step::GiveUp(gate));
            }
            if !till.joined {
                continue;
            }
            if state.calls > 0 && till.unused() > 0 {
                actions.push(Step::Accept(gate));
            }
            if till.busy.is_none() {
                actions.push(Step::Tell(gate));
                if state.calls > 0 && till.unused() == 0 {
                    actions.push(Step::Draw(gate));
                }
            }
        }
    }

    fn next_state(&self, last: &Vault, step: Step) -> Option<Vault> {
        let mut state = last.clone();
        match step {
            Step::Open(gate) => state.open(gate),
            Step::Crash(gate) => {
                state.crashes -= 1;
                state.tills[gate as usize].up = false;
            }
            Step::GiveUp(gate) => {
                state.lost -= 1;
                let till = &mut state.tills[gate as usize];
                till.busy = None;
                if !till.joined {
                    state.letters.insert(Letter::Register(gate, till.opens));
                }
            }
            Step::Accept(gate) => {
                state.calls -= 1;
                state.tills[gate as usize].pending += 1;
            }
            Step::Settle(gate, used) => {
                let till = &mut state.tills[gate as usize];
                state.overrun += used.saturating_sub(1);
                till.pending -= 1;
                till.posted += used;
                // Only while nothing is asked: an answer on its way counts on what was stated.
                if till.busy.is_none() {
                    till.held -= excess(till.unused(), self.lease).min(till.held);
                }
            }
            Step::Draw(gate) => {
                let claim = state.tills[gate as usize].claim(gate, self, 1, self.lease.max(1));
                state.letters.insert(claim);
            }
            Step::Tell(gate) => {
                let till = &mut state.tills[gate as usize];
                let share =
                    state.book.pots.get(&POT).and_then(|pot| pot.shares.get(&gate)).copied().unwrap_or_default();
                if share.held == till.held.max(till.used()) {
                    return None;
                }
                let claim = till.claim(gate, self, 0, 0);
                state.letters.insert(claim);
            }
            Step::Arrive(letter) => {
                state.letters.remove(&letter);
                state.deliver(&letter);
            }
        }
        (state != *last).then_some(state)
    }

    /// A gate may ask an empty pot for ever; it need not be watched for so long.
    fn within_boundary(&self, state: &Vault) -> bool {
        state.tills.iter().all(|till| till.seq <= self.statements)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(
                "posted + pending never pass the limit but by an over-run",
                |model: &Self, state: &Vault| state.spent() <= model.limit + state.overrun,
            ),
            Property::always(
                "the database never gives out more than the limit and over-runs",
                |model: &Self, state: &Vault| state.book.held(POT) <= model.limit + state.overrun,
            ),
            Property::always(
                "a gate counts on nothing that the database does not hold for it",
                |_: &Self, state: &Vault| {
                    let held = |gate: &GateNo| state.book.pots.get(&POT).and_then(|pot| pot.shares.get(gate));
                    (0..).zip(&state.tills).all(|(gate, till)| till.held <= held(&gate).map_or(0, |share| share.held))
                },
            ),
            Property::always("at most a lease lies unused in a gate", |model: &Self, state: &Vault| {
                let bound = |till: &&Till| till.busy.is_none() && till.unused() > model.lease.max(1);
                state.tills.iter().find(bound).is_none()
            }),
            Property::always(
                "nothing is lost: at the end exactly what was spent is held",
                |model: &Self, state: &Vault| {
                    [false, true].into_iter().all(|late| state.wound_up(model, late) == state.posted_at_last())
                },
            ),
            Property::sometimes("the cap is reached", |model: &Self, state: &Vault| state.spent() == model.limit),
            Property::sometimes("an answer is lost and the draw repeated", |model: &Self, state: &Vault| {
                (state.lost < model.lost || model.lost == 0) && state.spent() == model.limit
            }),
            Property::sometimes("a gate dies with allowance that nobody knows of", |model: &Self, state: &Vault| {
                let held = |gate: GateNo| state.book.pots.get(&POT).and_then(|pot| pot.shares.get(&gate));
                let unknown = |gate, till: &Till| !till.up && held(gate).is_some_and(|share| share.held > till.held);
                model.crashes == 0 || (0..).zip(&state.tills).any(|(gate, till)| unknown(gate, till))
            }),
            Property::sometimes("both gates spend", |model: &Self, state: &Vault| {
                model.limit == 1 || state.tills.iter().all(|till| till.posted > 0)
            }),
        ]
    }
}

fn explore<M>(model: M) -> (usize, std::time::Duration)
where
    M: Model + Send + Sync + 'static,
    M::State: Send + Sync + std::fmt::Debug + std::hash::Hash + Clone + PartialEq,
    M::Action: std::fmt::Debug + Clone + PartialEq,
{
    let began = std::time::Instant::now();
    let checker = model.checker().threads(2).spawn_bfs().join();
    checker.assert_properties();
    (checker.unique_state_count(), began.elapsed())
}

#[test]
fn no_order_of_draws_returns_crashes_and_losses_passes_the_limit() {
    // What is not optimised explores less.
    let all = [(2, 0, 2, 0, 1), (1, 0, 1, 1, 0), (2, 2, 2, 0, 1), (2, 0, 2, 1, 1), (2, 2, 2, 1, 1), (2, 2, 3, 0, 1)];
    let bounds =
        if cfg!(debug_assertions) && std::env::var_os("WEIR_MODEL_ALL").is_none() { &all[..3] } else { &all[..] };
    for (limit, lease, calls, crashes, lost) in bounds.iter().copied() {
        let (states, took) = explore(Money { limit, lease, calls, crashes, lost, statements: 4 });
        println!(
            "limit {limit}, lease {lease}, {calls} calls, {crashes} crashes, {lost} lost: {states} states in {took:?}"
        );
        assert!(states > 1_000, "only {states} states were seen");
    }
}

// === Standing ===

/// The bounds of one exploration. Times are ticks of the true time.
#[derive(Clone, Copy, Debug)]
struct Watch {
    /// How long a standing lasts, by the database's clock, from when the database heard of it.
    ttl: u64,
    /// By how much less a gate trusts it, by its own clock, from before it asked.
    margin: u64,
    /// By how much a gate's clock may fall behind while a standing lasts.
    drift: u64,
    until: u64,
    crashes: u64,
    /// How many words of one gate may be under way, and overtake each other.
    words: usize,
}

/// A gate as the second model sees it. `stopped` is its journal's and survives a crash.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Sentry {
    stopped: bool,
    up: bool,
    /// Until when it may accept, by its own clock.
    deadline: u64,
    /// How far its clock is behind.
    lag: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Word {
    Renew { gate: GateNo, asked: u64, acked: u64 },
    Renewed { gate: GateNo, asked: u64, version: u64 },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Round {
    book: Book,
    sentries: Vec<Sentry>,
    words: BTreeSet<Word>,
    now: u64,
    crashes: u64,
    ordered: bool,
    /// The order has returned: from here on nobody may accept.
    returned: bool,
    retired: Option<GateNo>,
    late: bool,
    accepted_after_order: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Turn {
    Tick(Vec<bool>),
    Start(GateNo),
    Crash(GateNo),
    Renew(GateNo),
    Accept(GateNo),
    Order,
    Return,
    Retire(GateNo),
    Arrive(Word),
}

impl Model for Watch {
    type State = Round;
    type Action = Turn;

    fn init_states(&self) -> Vec<Round> {
        let mut book = Book::default();
        for gate in 0..2 {
            book.register(gate, 1, 1).unwrap();
        }
        let (sentries, words) = (vec![Sentry { up: true, ..Sentry::default() }; 2], BTreeSet::new());
        let (now, crashes, retired) = (1, self.crashes, None);
        let (ordered, returned, late, accepted_after_order) = (false, false, false, false);
        vec![Round { book, sentries, words, now, crashes, ordered, returned, retired, late, accepted_after_order }]
    }

    fn actions(&self, state: &Round, actions: &mut Vec<Turn>) {
        actions.extend(state.words.iter().cloned().map(Turn::Arrive));
        if state.now < self.until {
            let may = |at: usize| state.sentries[at].lag < self.drift;
            let choices = |at: usize| if may(at) { vec![false, true] } else { vec![false] };
            for first in choices(0) {
                actions.extend(choices(1).into_iter().map(|second| Turn::Tick(vec![first, second])));
            }
        }
        if !state.ordered {
            actions.push(Turn::Order);
        } else if !state.returned && state.book.quiet(1, state.now) {
            actions.push(Turn::Return);
        }
        for (gate, sentry) in (0..).zip(&state.sentries) {
            if !sentry.up {
                actions.push(Turn::Start(gate));
                continue;
            }
            if state.crashes > 0 && gate == 0 {
                actions.push(Turn::Crash(gate));
            }
            let clock = state.now - sentry.lag;
            let under_way = |word: &&Word| match word {
                Word::Renew { gate: of, .. } | Word::Renewed { gate: of, .. } => *of == gate,
            };
            if state.words.iter().filter(under_way).count() < if gate == 0 { self.words } else { 1 } {
                actions.push(Turn::Renew(gate));
            }
            if clock < sentry.deadline && !sentry.stopped {
                actions.push(Turn::Accept(gate));
            }
            if state.retired.is_none() {
                actions.push(Turn::Retire(gate));
            }
        }
    }

    fn next_state(&self, last: &Round, turn: Turn) -> Option<Round> {
        let mut state = last.clone();
        match turn {
            Turn::Tick(lags) => {
                state.now += 1;
                state.sentries.iter_mut().zip(lags).for_each(|(sentry, lags)| sentry.lag += u64::from(lags));
            }
            Turn::Start(gate) => state.sentries[gate as usize].up = true,
            Turn::Crash(gate) => {
                state.crashes -= 1;
                let sentry = &mut state.sentries[gate as usize];
                (sentry.up, sentry.deadline) = (false, 0);
            }
            Turn::Renew(gate) => {
                let sentry = &state.sentries[gate as usize];
                let (asked, acked) = (state.now - sentry.lag, u64::from(sentry.stopped));
                state.words.insert(Word::Renew { gate, asked, acked });
            }
            Turn::Accept(gate) => {
                state.late |= state.returned || state.retired == Some(gate);
                state.accepted_after_order |= state.ordered;
            }
            Turn::Order => {
                state.ordered = true;
                state.book.version = 1;
            }
            Turn::Return => state.returned = true,
            Turn::Retire(gate) => {
                state.book.retire(gate, state.now).ok()?;
                state.retired = Some(gate);
            }
            Turn::Arrive(word) => self.hear(&mut state, &word),
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(
                "nobody accepts once the order has returned, nor a gate that was retired",
                |_: &Self, state: &Round| !state.late,
            ),
            Property::sometimes("the order returns although a gate is cut off", |_: &Self, state: &Round| {
                state.returned && state.sentries.iter().any(|sentry| sentry.up && !sentry.stopped)
            }),
            Property::sometimes("the order returns because every gate has followed it", |_: &Self, state: &Round| {
                state.returned && state.book.gates.values().all(|row| row.acked == 1 && row.expires > state.now)
            }),
            Property::sometimes("a gate accepts while the order goes round", |_: &Self, state: &Round| {
                state.accepted_after_order
            }),
            Property::sometimes("a gate is retired", |_: &Self, state: &Round| state.retired.is_some()),
        ]
    }
}

impl Watch {
    fn hear(&self, state: &mut Round, word: &Word) {
        state.words.remove(word);
        match *word {
            Word::Renew { gate, asked, acked } => {
                if let Ok(version) = state.book.renew(gate, 1, acked, state.now + self.ttl) {
                    state.words.insert(Word::Renewed { gate, asked, version });
                }
            }
            Word::Renewed { gate, asked, version } => {
                let sentry = &mut state.sentries[gate as usize];
                if sentry.up {
                    // The order is followed, durably, before the standing that came with it counts.
                    sentry.stopped |= version > 0;
                    sentry.deadline = sentry.deadline.max(asked + self.ttl - self.margin);
                }
            }
        }
    }
}

#[test]
fn nobody_accepts_once_an_order_to_stop_has_returned() {
    let all = [(0, 1), (1, 1), (1, 2)];
    let bounds = if cfg!(debug_assertions) { &all[..1] } else { &all[..] };
    for (crashes, words) in bounds.iter().copied() {
        let (states, took) = explore(Watch { ttl: 2, margin: 1, drift: 1, until: 4, crashes, words });
        println!("{crashes} crashes: {states} states in {took:?}");
        assert!(states > 1_000, "only {states} states were seen");
    }
}

/// The margin is not decoration: a clock that falls behind further than the margin breaks the promise, and the model
/// says so.
#[test]
fn a_clock_behind_by_more_than_the_margin_is_found_by_the_model() {
    let checker =
        Watch { ttl: 2, margin: 0, drift: 1, until: 4, crashes: 0, words: 1 }.checker().threads(2).spawn_bfs().join();
    assert!(checker.discovery("nobody accepts once the order has returned, nor a gate that was retired").is_some());
}
