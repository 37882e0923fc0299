//! The gate dies at every call that it makes on a port, one after the other: at each append before, in and
//! after the writer's transaction, at each look at the clock, around each run and each question.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use weir::model::{Call, Digest, Millis, Outcome, Timestamp};
use weir::pep::port::{Approval, Approver, Clock, Executor, Head, Inner, Journal, JournalFault, Sealed, Ticket};
use weir::pep::{Durable, Reserved};

use crate::rig::{self, Now, Told, Tools, Yes};

/// Counts the calls on ports and ends the process at one of them.
#[derive(Clone)]
struct Points {
    count: Arc<AtomicU64>,
    last: u64,
}

impl Points {
    fn at(last: u64) -> Self {
        Self { count: Arc::default(), last }
    }

    fn pass(&self, name: &str) {
        if self.count.fetch_add(1, Ordering::SeqCst) + 1 == self.last {
            println!("\ndied {name}");
            std::process::abort();
        }
    }
}

impl Clock for Points {
    fn now(&self) -> Timestamp {
        self.pass("at the clock");
        Now.now()
    }
}

impl Approver for Points {
    fn ask(&self, call: &Call, why: &str, bound: Digest, timeout: Millis) -> Approval {
        self.pass("before a question");
        let said = Yes.ask(call, why, bound, timeout);
        self.pass("after an answer");
        said
    }
}

struct Store<J>(J, Points);

impl<J: Journal> Journal for Store<J> {
    fn append(&self, entry: Sealed) -> Ticket {
        self.1.pass("before an append");
        let ticket = self.0.append(entry);
        self.1.pass("with an entry handed over");
        let result = ticket.wait();
        self.1.pass("with an entry durable and nobody told");
        Ticket::Ready(result)
    }

    fn replay(&self, each: &mut dyn FnMut(String)) -> Result<Option<Head>, JournalFault> {
        self.1.pass("before the replay");
        self.0.replay(each)
    }
}

struct Runs(Tools, Points);

impl Executor for Runs {
    fn execute(&self, work: &Durable<Reserved>, inner: &dyn Inner) -> Outcome {
        self.1.pass("before a run");
        let outcome = self.0.execute(work, inner);
        self.1.pass("after a run");
        outcome
    }
}

fn live(dir: &Path, points: &Points) {
    let sealing = points.clone();
    let seal = Box::new(move |count, hash| {
        sealing.pass("in the writer, before its transaction");
        Head::sign(count, hash, &crate::support::key())
    });
    let (clock, person) = (Box::new(points.clone()), Box::new(points.clone()));
    let gate = rig::open_with(dir, clock, person, |store| Box::new(Store(store, points.clone())), seal).unwrap();
    let (runs, host) = (Runs(Tools::of(dir), points.clone()), Tools::of(dir));
    for call in rig::day() {
        Told::of(&gate.handle(call, &runs, &host)).print();
        points.pass("with an answer given");
    }
}

/// Not a test of its own: the process that dies.
#[test]
#[ignore = "run by another test in a process of its own"]
fn dies_at_its_point() {
    let Some(dir) = rig::store_of_child() else { return };
    let last = std::env::var("WEIR_TEST_POINT").unwrap().parse().unwrap();
    let points = Points::at(last);
    live(&dir, &points);
    println!("\nlived {}", points.count.load(Ordering::SeqCst));
}

/// One death at `point`, and what the next gate finds and does. `Some` with the point's name, `None` when
/// the day ended before it.
fn die_at(point: u64) -> Option<String> {
    let dir = tempfile::tempdir().unwrap();
    let mut child = rig::child("points::dies_at_its_point", dir.path(), &[("WEIR_TEST_POINT", point.to_string())]);
    let (told, rest) = rig::read(&mut child);
    let status = child.wait().unwrap();
    let died = rest.iter().find_map(|line| line.strip_prefix("died "));
    let what = format!("point {point} ({})", died.unwrap_or("none"));
    assert_eq!(died.is_none(), status.success(), "{what}: {rest:?}");
    assert!(died.is_some() || rest.iter().any(|line| line.starts_with("lived ")), "{what}: {rest:?}");
    // The callers come back with everything that they wanted that day.
    let gate = rig::judge(dir.path(), &told, &what);
    let (tools, ids) = (Tools::of(dir.path()), rig::Story::of(dir.path()).ends);
    let mut again = Vec::new();
    for call in rig::day() {
        let (id, known) = (call.id.clone(), ids.contains_key(&call.id));
        let answer = gate.handle(call, &tools, &tools);
        assert!(!(known && answer.ran()), "{what}: {id} was on record and ran again");
        again.push(Told::of(&answer));
    }
    drop(gate);
    rig::judge(dir.path(), &[told, again].concat(), &what);
    died.map(str::to_owned)
}

#[test]
fn a_death_at_any_call_on_a_port_loses_nothing_and_repeats_nothing() {
    let next = AtomicU64::new(1);
    let names = std::sync::Mutex::new(std::collections::BTreeMap::<String, u32>::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(name) = die_at(next.fetch_add(1, Ordering::SeqCst)) {
                    *names.lock().unwrap().entry(name).or_default() += 1;
                }
            });
        }
    });
    let names = names.into_inner().unwrap();
    println!("{} deaths: {names:?}", names.values().sum::<u32>());
    assert_eq!(names.len(), 11, "every kind of point was died at: {names:?}");
}
