//! How budgets of other products fail, each as a test of this ledger. `docs/budgets-failures.md` says
//! where each was seen and what its test proves.

use std::sync::{Barrier, Mutex};

use weir::ledger::{Ledger, Limit, Settled, Shortfall};
use weir::model::{Amounts, CallId, Kind, Name, Subject, Tier, Timestamp, Window};

const NOW: Timestamp = Timestamp(1_772_366_400_000);

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn subject(agent: &str, session: &str, below: &[&str]) -> Subject {
    Subject {
        org: name("acme"),
        project: None,
        agent: name(agent),
        session: name(session),
        run: name("r1"),
        delegation: below.iter().map(|subagent| name(subagent)).collect(),
    }
}

fn someone() -> Subject {
    subject("coder", "s1", &[])
}

fn limit(id: &str, tier: Tier, kind: Kind, limit: u64) -> Limit {
    Limit { id: id.into(), tier, kind, limit, window: Window::Total, shared: false }
}

fn usd(amount: u64) -> Amounts {
    Amounts::ZERO.with(Kind::MicroUsd, amount)
}

/// A ledger under limits, with short names for what these tests do.
struct Books {
    ledger: Ledger,
    limits: Vec<Limit>,
}

impl Books {
    fn new(limits: impl Into<Vec<Limit>>) -> Self {
        Self { ledger: Ledger::default(), limits: limits.into() }
    }

    /// A session that may spend 5 US dollars.
    fn of_five_dollars() -> Self {
        Self::new([limit("session", Tier::Session, Kind::MicroUsd, 5_000_000)])
    }

    fn hold(&mut self, id: &str, who: &Subject, want: Amounts) -> Result<(), Shortfall> {
        self.ledger.reserve(&name(id), who, want, &self.limits, NOW).map(drop)
    }

    fn settle(&mut self, id: &str, used: Amounts) -> Settled {
        self.ledger.settle(&name(id), used, NOW).unwrap_or_else(|| panic!("{id} holds nothing"))
    }

    fn left(&self, who: &Subject, kind: Kind) -> u64 {
        self.ledger.remaining(who, &self.limits, NOW).of(kind)
    }

    /// Posted and pending of the account `id`.
    fn sums(&self, id: &str, kind: Kind) -> (u64, u64) {
        let balances = self.ledger.balances();
        let found = balances.iter().find(|balance| balance.account.as_str() == id);
        found.map_or((0, 0), |balance| (balance.posted.of(kind), balance.pending.of(kind)))
    }
}

#[test]
fn requests_in_parallel_do_not_pass_a_session_cap() {
    let books = Mutex::new(Books::of_five_dollars());
    let (barrier, granted) = (Barrier::new(1_000), Mutex::new(0));
    std::thread::scope(|scope| {
        for number in 0..1_000 {
            let (books, barrier, granted) = (&books, &barrier, &granted);
            let request = move || {
                barrier.wait();
                let held = books.lock().unwrap().hold(&format!("c{number}"), &someone(), usd(1_000_000));
                *granted.lock().unwrap() += u32::from(held.is_ok());
            };
            std::thread::Builder::new().stack_size(64 << 10).spawn_scoped(scope, request).unwrap();
        }
    });
    assert_eq!(*granted.lock().unwrap(), 5);
    assert_eq!(books.lock().unwrap().sums("acme", Kind::MicroUsd), (0, 5_000_000));
}

#[test]
fn the_amount_is_held_before_the_work_and_not_counted_after_it() {
    // A counter that is raised when the work is done lets everything in flight pass the cap.
    let mut books = Books::of_five_dollars();
    books.hold("long", &someone(), usd(5_000_000)).unwrap();
    assert!(books.hold("second", &someone(), usd(1)).is_err(), "the first has not ended and spent nothing yet");
    books.settle("long", usd(1_000_000));
    books.hold("second", &someone(), usd(4_000_000)).unwrap();
}

#[test]
fn a_refused_reservation_holds_nothing_and_lets_nothing_through() {
    let limits = [limit("org", Tier::Org, Kind::MicroUsd, 100), limit("calls", Tier::Run, Kind::Calls, 0)];
    let mut books = Books::new(limits);
    let refused = books.hold("a", &someone(), usd(50).with(Kind::Calls, 1)).unwrap_err();
    assert!(matches!(refused, Shortfall::Limit { budget, left: 0, .. } if budget == "calls"));
    assert!(books.ledger.balances().is_empty(), "not even the account of the limit that had room");
    assert_eq!(books.ledger.settle(&name("a"), usd(50), NOW), None, "what was refused cannot be settled");
}

#[test]
fn the_first_request_of_a_new_account_is_limited_like_any_other() {
    let mut books = Books::of_five_dollars();
    let fresh = subject("never-seen", "never-seen", &[]);
    assert!(books.hold("first", &fresh, usd(5_000_001)).is_err());
    books.hold("second", &fresh, usd(5_000_000)).unwrap();
}

#[test]
fn counters_do_not_leak_whatever_way_a_call_ends() {
    // Phantom refusals: holds of cancelled, failed and expired requests that nobody gave back.
    let mut books = Books::of_five_dollars();
    for round in 0..1_000 {
        let id = |what: &str| format!("{what}{round}");
        for what in ["done", "cancelled", "free", "unknown"] {
            books.hold(&id(what), &someone(), usd(1_000_000)).unwrap_or_else(|short| panic!("round {round}: {short}"));
        }
        books.settle(&id("done"), usd(0));
        books.ledger.void(&name(&id("cancelled")), NOW).unwrap();
        books.settle(&id("free"), Amounts::ZERO);
        books.settle(&id("unknown"), usd(1));
    }
    assert_eq!(books.sums("acme/coder/s1", Kind::MicroUsd), (1_000, 0));
    assert_eq!(books.left(&someone(), Kind::MicroUsd), 5_000_000 - 1_000);
}

#[test]
fn what_is_shown_is_what_is_enforced() {
    // A second counter, for display or in another store, drifts from the one that refuses.
    let mut books = Books::of_five_dollars();
    for number in 0..40 {
        let left = books.left(&someone(), Kind::MicroUsd);
        assert!(books.hold(&format!("over{number}"), &someone(), usd(left + 1)).is_err());
        books.hold(&format!("c{number}"), &someone(), usd(left.min(200_000))).unwrap();
        if number % 3 == 0 {
            books.settle(&format!("c{number}"), usd(70_000));
        }
    }
}

#[test]
fn a_subagent_spends_its_sessions_budget_and_has_no_fresh_one() {
    let mut books = Books::of_five_dollars();
    books.hold("parent", &someone(), usd(2_000_000)).unwrap();
    books.hold("child", &subject("coder", "s1", &["helper"]), usd(2_000_000)).unwrap();
    let grandchild = subject("coder", "s1", &["helper", "deeper"]);
    assert!(books.hold("grandchild", &grandchild, usd(1_000_001)).is_err());
    books.hold("rest", &grandchild, usd(1_000_000)).unwrap();
    assert_eq!(books.sums("acme/coder/s1", Kind::MicroUsd), (0, 5_000_000));
    // And what each of them took can be told apart.
    assert_eq!(books.sums("acme/coder/s1/~helper", Kind::MicroUsd), (0, 3_000_000));
    assert_eq!(books.sums("acme/coder/s1/~helper/~deeper", Kind::MicroUsd), (0, 1_000_000));
}

#[test]
fn a_renamed_or_resumed_subagent_gains_nothing_above_it() {
    let mut books = Books::new([
        limit("session", Tier::Session, Kind::Tokens, 1_000),
        limit("each", Tier::Subagent, Kind::Tokens, 600),
    ]);
    let tokens = |amount| Amounts::ZERO.with(Kind::Tokens, amount);
    books.hold("a", &subject("coder", "s1", &["helper"]), tokens(600)).unwrap();
    books.settle("a", tokens(600));
    // Resumed under its name: its own budget is as empty as it left it.
    assert!(books.hold("b", &subject("coder", "s1", &["helper"]), tokens(1)).is_err());
    // Started again under another name: the session's is not.
    books.hold("c", &subject("coder", "s1", &["helper-2"]), tokens(400)).unwrap();
    assert!(books.hold("d", &subject("coder", "s1", &["helper-3"]), tokens(1)).is_err());
}

#[test]
fn several_agents_share_one_budget() {
    let mut books = Books::new([limit("org", Tier::Org, Kind::MicroUsd, 300)]);
    for agent in ["coder", "tester", "writer"] {
        books.hold(agent, &subject(agent, "s", &[]), usd(100)).unwrap();
    }
    assert!(books.hold("late", &subject("late", "s", &[]), usd(1)).is_err());
}

#[test]
fn one_token_left_is_not_enough_for_a_thousand() {
    // A limiter that lets a request pass while anything is left, and counts when it has answered.
    let mut books = Books::new([limit("tokens", Tier::Session, Kind::Tokens, 1_000)]);
    let tokens = |amount| Amounts::ZERO.with(Kind::Tokens, amount);
    books.hold("a", &someone(), tokens(999)).unwrap();
    books.settle("a", tokens(999));
    let refused = books.hold("b", &someone(), tokens(1_000)).unwrap_err();
    assert!(matches!(refused, Shortfall::Limit { wanted: 1_000, left: 1, .. }), "{refused}");
}

#[test]
fn a_budget_counts_what_it_is_of_and_not_only_dollars() {
    let mut books = Books::new([
        limit("tokens", Tier::Session, Kind::Tokens, 10),
        limit("gpu", Tier::Session, Kind::GpuMs, 10),
        limit("calls", Tier::Session, Kind::Calls, 10),
    ]);
    for kind in [Kind::Tokens, Kind::GpuMs, Kind::Calls] {
        let (over, all) = (Amounts::ZERO.with(kind, 11), Amounts::ZERO.with(kind, 10));
        assert!(books.hold(&format!("{kind:?}-over"), &someone(), over).is_err());
        books.hold(&format!("{kind:?}"), &someone(), all).unwrap();
    }
}

#[test]
fn a_retry_and_a_fallback_under_one_id_are_counted_once() {
    let mut books = Books::of_five_dollars();
    books.hold("call", &someone(), usd(1_000_000)).unwrap();
    for _ in 0..10 {
        assert_eq!(books.hold("call", &someone(), usd(1_000_000)), Err(Shortfall::Duplicate));
    }
    books.settle("call", usd(400_000));
    for _ in 0..10 {
        assert_eq!(books.ledger.settle(&name("call"), usd(400_000), NOW), None, "a second commit");
        assert_eq!(books.ledger.void(&name("call"), NOW), None, "a refund after the commit");
        assert_eq!(books.ledger.expire(&name("call"), NOW), None, "a late expiry");
        assert_eq!(books.hold("call", &someone(), usd(1)), Err(Shortfall::Duplicate), "the id again");
    }
    assert_eq!(books.sums("acme", Kind::MicroUsd), (400_000, 0));
}

#[test]
fn a_usage_that_never_came_is_the_worst_case() {
    // A client that hangs up before the stream's last chunk, a reply that is lost, a gate that dies.
    let mut books = Books::of_five_dollars();
    books.hold("stream", &someone(), usd(3_000_000)).unwrap();
    let end = books.ledger.expire(&name("stream"), NOW).unwrap();
    assert_eq!((end.posted, end.released), (usd(3_000_000), Amounts::ZERO));
    assert!(books.hold("next", &someone(), usd(2_000_001)).is_err());
}

#[test]
fn an_unknown_outcome_is_corrected_once_and_never_below_zero() {
    let mut books = Books::of_five_dollars();
    books.hold("job", &someone(), usd(3_000_000)).unwrap();
    books.ledger.expire(&name("job"), NOW).unwrap();
    let really = books.ledger.reconciled(&name("job"), usd(200_000)).unwrap();
    books.ledger.reconcile(&name("job"), really, NOW).unwrap();
    assert_eq!(books.sums("acme", Kind::MicroUsd), (200_000, 0));
    assert!(books.ledger.reconciled(&name("job"), usd(0)).is_err(), "a second refund");
    assert!(books.ledger.reconciled(&name("never-held"), usd(0)).is_err());
    assert_eq!(books.sums("acme", Kind::MicroUsd), (200_000, 0));
}

#[test]
fn a_reservation_that_was_priced_too_low_is_posted_in_full_and_closes_the_account() {
    // Sixty cents against a cap of forty-five: what is spent is spent, and it is the last.
    let mut books = Books::new([limit("session", Tier::Session, Kind::MicroUsd, 450_000)]);
    books.hold("a", &someone(), usd(300_000)).unwrap();
    let end = books.settle("a", usd(600_000));
    assert_eq!((end.posted, end.overrun), (usd(600_000), usd(300_000)));
    assert_eq!(books.left(&someone(), Kind::MicroUsd), 0);
    assert!(books.hold("b", &someone(), usd(1)).is_err());
}

#[test]
fn amounts_are_whole_and_end_at_their_last_number() {
    // No rounding at 10^-9, no float that swallows a cent, no sum that wraps round to nothing.
    let mut books = Books::new([limit("session", Tier::Session, Kind::MicroUsd, u64::MAX)]);
    for number in 0..1_000 {
        books.hold(&format!("c{number}"), &someone(), usd(1)).unwrap();
        books.settle(&format!("c{number}"), usd(1));
    }
    assert_eq!(books.sums("acme", Kind::MicroUsd), (1_000, 0));
    let big = (1 << 53) + 1;
    books.hold("big", &someone(), usd(big)).unwrap();
    books.settle("big", usd(big));
    assert_eq!(books.sums("acme", Kind::MicroUsd), (1_000 + big, 0));
    assert!(books.hold("all", &someone(), usd(u64::MAX)).is_err());
    assert_eq!(books.hold("rest", &someone(), usd(u64::MAX - 1_000 - big)), Ok(()));
}

#[test]
fn a_negative_usage_does_not_exist() {
    for text in ["{\"micro_usd\":-1}", "{\"micro_usd\":0.5}", "{\"micro_usd\":1e3}", "{\"micro_usd\":\"-1\"}"] {
        assert!(serde_json::from_str::<Amounts>(text).is_err(), "{text}");
    }
}

#[test]
fn many_completions_of_one_request_are_one_hold_of_their_sum() {
    // `n = 100` with the price of one: whoever reserves gives the product, and the cap sees it.
    let mut books = Books::new([limit("tokens", Tier::Session, Kind::Tokens, 10_000)]);
    let (each, times) = (4_096_u64, 100);
    let want = Amounts::ZERO.with(Kind::Tokens, each.saturating_mul(times));
    assert!(books.hold("n100", &someone(), want).is_err());
}

#[test]
fn a_restart_forgets_nothing() {
    let mut books = Books::of_five_dollars();
    books.hold("done", &someone(), usd(1_000_000)).unwrap();
    books.settle("done", usd(900_000));
    books.hold("open", &someone(), usd(2_000_000)).unwrap();
    books.ledger.refuse(&name("refused"));
    let text = serde_json::to_string(&books.ledger).unwrap();
    let mut again: Ledger = serde_json::from_str(&text).unwrap();
    books.ledger.prints().for_each(|print| again.mark(print));
    assert_eq!(again.balances(), books.ledger.balances());
    let mut again = Books { ledger: again, limits: books.limits };
    for id in ["done", "open", "refused"] {
        assert_eq!(again.hold(id, &someone(), usd(1)), Err(Shortfall::Duplicate), "{id}");
    }
    assert_eq!(again.settle("open", usd(5)).posted, usd(5));
    assert_eq!(again.left(&someone(), Kind::MicroUsd), 5_000_000 - 900_005);
}

#[test]
fn a_clock_that_goes_back_opens_no_window_twice() {
    let day = weir::model::Millis(86_400_000);
    let mut books =
        Books::new([Limit { window: Window::Every(day), ..limit("daily", Tier::Org, Kind::MicroUsd, 100) }]);
    let watches: Vec<_> = books.limits.iter().filter_map(Limit::watch).collect();
    books.ledger.watch(&watches, NOW);
    let at = |books: &mut Books, id: &str, now: u64| {
        let want = usd(60);
        books.ledger.reserve(&CallId::new(id).unwrap(), &someone(), want, &books.limits, Timestamp(now)).is_ok()
    };
    assert!(at(&mut books, "today", NOW.0));
    assert!(!at(&mut books, "more", NOW.0 + 1));
    assert!(at(&mut books, "tomorrow", NOW.0 + day.0));
    assert!(!at(&mut books, "today-again", NOW.0 + 2), "yesterday's rest is not there any more");
    assert!(!at(&mut books, "tomorrow-again", NOW.0 + day.0 + 3));
}

#[test]
fn jobs_at_the_same_time_are_a_level_and_not_a_sum() {
    // Ninety-nine finished jobs do not keep the hundredth out, and two at once are two.
    let mut books = Books::new([limit("jobs", Tier::Org, Kind::Jobs, 1)]);
    let job = Amounts::ZERO.with(Kind::Jobs, 1);
    for number in 0..100 {
        books.hold(&format!("j{number}"), &someone(), job).unwrap();
        assert!(books.hold(&format!("second{number}"), &someone(), job).is_err());
        books.settle(&format!("j{number}"), job);
    }
}

#[test]
fn every_failure_is_in_the_docs_and_every_test_in_the_docs_is_there() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap();
    let (docs, here) = (read("docs/budgets-failures.md"), read("tests/failures.rs"));
    let names = here.split("#[test]\nfn ").skip(1).filter_map(|test| test.split('(').next());
    for name in names.filter(|name| !name.starts_with("every_failure")) {
        assert!(docs.contains(&format!("`{name}`")), "{name} is not in the docs");
    }
    let elsewhere = ["budget.rs", "deny.rs"].map(|file| read(&format!("tests/laws/{file}"))).concat();
    let crash = ["points.rs", "load.rs"].map(|file| read(&format!("tests/crash/{file}"))).concat();
    let all = [here, elsewhere, crash, read("tests/journal.rs")].concat();
    let rows = docs.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| what"));
    let named: Vec<&str> = rows.flat_map(|row| row.split('`').skip(1).step_by(2)).collect();
    assert!(named.len() > 25);
    for name in named.into_iter().filter(|name| name.contains('_')) {
        assert!(all.contains(&format!("fn {name}(")), "the docs name {name}, which is no test");
    }
}
