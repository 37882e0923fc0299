//! The gate dies at every call that it makes on a port, one after the other: at each append before, in and
//! after the writer's transaction, at each look at the clock, around each run and each question.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use weir::model::{Call, Millis, Outcome, Timestamp};
use weir::pep::port::{
    Approval, Approver, Clock, Executor, Head, Inner, Journal, JournalFault, Moment, Question, Sealed, Snapshot, Ticket,
};
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
    fn ask(&self, call: &Call, why: &str, question: &Question, timeout: Millis) -> Approval {
        self.pass("before a question");
        let said = Yes.ask(call, why, question, timeout);
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
        self.0.replay(each)
    }

    fn replay_from(&self, from: u64, each: &mut dyn FnMut(String)) -> Result<Option<Head>, JournalFault> {
        self.1.pass("before the replay");
        self.0.replay_from(from, each)
    }

    fn wants_snapshot(&self, since: u64, moment: Moment) -> bool {
        self.0.wants_snapshot(since, moment)
    }

    fn keep(&self, snapshot: Snapshot) {
        self.1.pass("before a snapshot");
        self.0.keep(snapshot);
        self.1.pass("with a snapshot handed over");
    }

    fn snapshot(&self, back: usize) -> Result<Option<Snapshot>, JournalFault> {
        self.1.pass("before a snapshot is read");
        self.0.snapshot(back)
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

/// The day in a process that dies at `point`; what it told, and the name of the point unless the day ended
/// before it.
fn die(dir: &Path, point: u64) -> (Vec<Told>, Option<String>) {
    let mut child = rig::child("points::dies_at_its_point", dir, &[("WEIR_TEST_POINT", point.to_string())]);
    let (told, rest) = rig::read(&mut child);
    let status = child.wait().unwrap();
    let died = rest.iter().find_map(|line| line.strip_prefix("died ")).map(str::to_owned);
    assert_eq!(died.is_none(), status.success(), "point {point}: {rest:?}");
    assert!(died.is_some() || rest.iter().any(|line| line.starts_with("lived ")), "point {point}: {rest:?}");
    (told, died)
}

/// What the next gate finds, and what it does when the callers come back with everything that they wanted.
fn go_on(dir: &Path, told: &[Told], what: &str) {
    let gate = rig::judge(dir, told, what);
    let (tools, ids) = (Tools::of(dir), rig::Story::of(dir).ends);
    let mut told = told.to_vec();
    for call in rig::day() {
        let (id, known) = (call.id.clone(), ids.contains_key(&call.id));
        let answer = gate.handle(call, &tools, &tools);
        assert!(!(known && answer.ran()), "{what}: {id} was on record and ran again");
        told.push(Told::of(&answer));
    }
    drop(gate);
    rig::judge(dir, &told, what);
}

#[test]
fn a_death_at_any_call_on_a_port_loses_nothing_and_repeats_nothing() {
    let (next, names) = (AtomicU64::new(1), Mutex::new(BTreeMap::<String, u32>::new()));
    let deaths = || loop {
        let (dir, point) = (tempfile::tempdir().unwrap(), next.fetch_add(1, Ordering::SeqCst));
        let (told, died) = die(dir.path(), point);
        go_on(dir.path(), &told, &format!("point {point} ({died:?})"));
        let Some(name) = died else { return };
        *names.lock().unwrap().entry(name).or_default() += 1;
    };
    std::thread::scope(|scope| (0..2).for_each(|_| drop(scope.spawn(deaths))));
    let names = names.into_inner().unwrap();
    println!("{} deaths: {names:?}", names.values().sum::<u32>());
    assert_eq!(names.len(), 14, "every kind of point was died at: {names:?}");
}

#[test]
fn a_second_death_while_it_starts_again_loses_nothing_either() {
    let dir = tempfile::tempdir().unwrap();
    // A program is running and a call of its own is, too: two intents without an end.
    let running = (1..).find_map(|point| {
        let dir = dir.path().join(point.to_string());
        let told = die(&dir, point).0;
        (rig::Story::of(&dir).open() == 2).then_some((dir, told))
    });
    let (first, told) = running.unwrap();
    for point in 1..=12 {
        let again = dir.path().join("again");
        let _ = std::fs::remove_dir_all(&again);
        std::fs::create_dir(&again).unwrap();
        for file in std::fs::read_dir(&first).unwrap().map(|file| file.unwrap()) {
            std::fs::copy(file.path(), again.join(file.file_name())).unwrap();
        }
        let (more, died) = die(&again, point);
        assert!(died.is_some(), "the start alone has more than {point} points");
        go_on(&again, &[told.clone(), more].concat(), &format!("point {point} of the second start ({died:?})"));
    }
}
