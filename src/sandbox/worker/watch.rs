//! The watchman of a worker: one thread that looks at every running program some hundred times a second.
//!
//! A program whose guest counts its fuel itself never gives way while it computes. This thread holds its wall limit,
//! hears the gate end it and sends what it printed. It never looks at a lane while its program waits for the gate,
//! and it touches nothing of a program that has been signed off.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use super::lane::{Lane, Look};
use super::tank::Tank;
use crate::sandbox::wire::End;

/// How often programs are looked at.
const ROUND: Duration = Duration::from_millis(5);
/// Rounds without a program after which the thread sleeps until there is one.
const IDLE: u32 = 200;

/// The clock of one running program.
pub(crate) struct Watch {
    lane: Arc<Lane>,
    started: Instant,
    limit: Duration,
    ended: OnceLock<End>,
}

impl Watch {
    /// Of a program that begins now on `lane`, with `limit` of time that it does not spend waiting for the gate.
    pub(crate) fn new(lane: &Arc<Lane>, limit: Duration) -> Self {
        Self { lane: Arc::clone(lane), started: Instant::now(), limit, ended: OnceLock::new() }
    }

    /// Why the program must not go on. `None` too while it waits for the gate.
    pub(crate) fn over(&self) -> Option<End> {
        let end = match self.lane.look() {
            Look::Waits => return None,
            Look::Runs { waited } => {
                let spent = self.started.elapsed().saturating_sub(waited);
                (spent >= self.limit).then_some(End::Wall)
            }
            Look::Ended => Some(End::Told),
        };
        let end = end.or_else(|| self.lane.flush_some().is_err().then_some(End::Told))?;
        // It may be about to ask the gate for something.
        self.lane.halt();
        Some(self.ended.get_or_init(|| end).clone())
    }

    /// Why it was ended, if it was.
    pub(crate) fn ended(&self) -> Option<End> {
        self.ended.get().cloned()
    }
}

/// The programs that are looked at.
#[derive(Default)]
struct Rounds {
    running: Mutex<Running>,
    more: Condvar,
}

#[derive(Default)]
struct Running {
    programs: Vec<(Arc<Watch>, Tank)>,
    asleep: bool,
}

/// The thread and its list; the thread ends with this value.
pub(crate) struct Watchman(Arc<Rounds>);

impl Watchman {
    /// Starts the thread.
    ///
    /// # Errors
    /// The operating system has none; without it nothing would end a program.
    pub(crate) fn start() -> std::io::Result<Self> {
        let rounds = Arc::<Rounds>::default();
        let seen = Arc::downgrade(&rounds);
        thread::Builder::new().name("weir-watch".into()).spawn(move || walk(&seen))?;
        Ok(Self(rounds))
    }

    /// Looks at the program of `watch` until what is returned is dropped; one that is over is ended by its `tank`.
    pub(crate) fn watch(&self, watch: &Arc<Watch>, tank: &Tank) -> Signed<'_> {
        let mut running = self.0.lock();
        running.programs.push((Arc::clone(watch), tank.clone()));
        if std::mem::take(&mut running.asleep) {
            self.0.more.notify_one();
        }
        Signed { rounds: &self.0, watch: Arc::clone(watch) }
    }
}

impl Drop for Watchman {
    fn drop(&mut self) {
        self.0.lock().asleep = false;
        self.0.more.notify_one();
    }
}

/// A program that is looked at.
pub(crate) struct Signed<'r> {
    rounds: &'r Rounds,
    watch: Arc<Watch>,
}

impl Drop for Signed<'_> {
    fn drop(&mut self) {
        self.rounds.lock().programs.retain(|(watch, _)| !Arc::ptr_eq(watch, &self.watch));
    }
}

impl Rounds {
    fn lock(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn walk(seen: &Weak<Rounds>) {
    let mut idle = 0;
    while let Some(rounds) = seen.upgrade() {
        let mut running = rounds.lock();
        idle = if running.programs.is_empty() { idle + 1 } else { 0 };
        for (watch, tank) in &running.programs {
            // Closed again in the next round, if the kernel refuses now.
            if watch.over().is_some() {
                let _ = tank.close();
            }
        }
        if idle >= IDLE {
            running.asleep = true;
            drop(rounds.more.wait_while(running, |running| running.asleep));
            idle = 0;
        } else {
            drop(running);
        }
        drop(rounds);
        thread::sleep(ROUND);
    }
}
