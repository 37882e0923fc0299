//! The thread that keeps a gate's standing: joins, renews, follows orders, gives back what lies idle.
//!
//! An order is followed, durably, before the standing that it came with counts; only then is it acknowledged, at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::treasury::{Circular, Postgres};
use crate::ledger::AccountId;
use crate::model::Millis;
use crate::pep::port::{Order, TreasuryFault};
use crate::pep::{Gate, GateFault};

/// Keeps the standing for as long as it lives. Dropping it gives back what is unused and ends the standing.
#[derive(Debug)]
pub struct Keeper {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Starts to keep the standing of `gate` at `treasury`, which must be the gate's own. `bell` is the other end of what
    /// `treasury` rings.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(gate: Arc<Gate>, treasury: Arc<Postgres>, bell: Receiver<()>) -> std::io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let round = Round { gate, treasury, stop: stop.clone(), joined: false, rested: Instant::now() };
        let thread = thread::Builder::new().name("weir-keeper".into()).spawn(move || round.run(&bell))?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

struct Round {
    gate: Arc<Gate>,
    treasury: Arc<Postgres>,
    stop: Arc<AtomicBool>,
    joined: bool,
    rested: Instant,
}

impl Round {
    /// The longest that a stop waits for the bell.
    const NAP: Duration = Duration::from_millis(100);

    fn run(mut self, bell: &Receiver<()>) {
        let mut said = String::new();
        while !self.stop.load(Ordering::SeqCst) {
            match self.turn() {
                Ok(()) => said.clear(),
                Err(fault) => {
                    // Once for each fault: a database that is away for an hour is one line.
                    if said != fault.to_string() {
                        said = fault.to_string();
                        tracing::warn!(fault = %fault, "shared budgets");
                    }
                    if matches!(fault, TreasuryFault::Fenced(_)) {
                        self.treasury.fall();
                    }
                }
            }
            self.wait(bell);
        }
        if self.joined {
            let _ = self.gate.rest(Millis(0));
            self.treasury.leave();
        }
    }

    fn turn(&mut self) -> Result<(), TreasuryFault> {
        if !self.joined {
            self.gate.join()?;
            self.joined = true;
        }
        self.renew()?;
        let idle = self.treasury.terms().idle;
        if self.rested.elapsed() >= idle / 2 {
            self.rested = Instant::now();
            self.gate.rest(Millis(u64::try_from(idle.as_millis()).unwrap_or(u64::MAX)))?;
        }
        Ok(())
    }

    /// Renews until there is no order that the gate has not followed.
    fn renew(&self) -> Result<(), TreasuryFault> {
        loop {
            let (asked, orders) = self.treasury.heartbeat(self.gate.position())?;
            for order in &orders {
                self.follow(order)?;
                self.treasury.followed(order.number);
            }
            self.treasury.stand(asked);
            if orders.is_empty() {
                return Ok(());
            }
        }
    }

    fn follow(&self, order: &Circular) -> Result<(), TreasuryFault> {
        let Circular { number, what, account, by, from } = order;
        let unclear =
            || TreasuryFault::Unreachable(format!("order {number} (`{what}` of `{account}`) is not understood"));
        let account = AccountId::parse(account).map_err(|_| unclear())?;
        let order = Order::from_word(what).ok_or_else(unclear)?;
        match self.gate.heed(order, &account, by, from) {
            // It is so already, or is stronger already; or stays stopped because the gate has stopped it for itself.
            Ok(()) | Err(GateFault::Refused(_)) => Ok(()),
            Err(fault) => Err(TreasuryFault::Unreachable(fault.to_string())),
        }
    }

    fn wait(&self, bell: &Receiver<()>) {
        let until = Instant::now() + self.treasury.terms().ttl / 4;
        while !self.stop.load(Ordering::SeqCst) && Instant::now() < until {
            match bell.recv_timeout(Self::NAP.min(self.treasury.terms().ttl / 4)) {
                Ok(()) => {
                    while bell.try_recv().is_ok() {}
                    return;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => thread::park_timeout(Self::NAP),
            }
        }
    }
}
