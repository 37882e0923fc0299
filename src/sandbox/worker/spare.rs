//! Interpreters instantiated ahead: linking takes longer than running a small program, so it is done by a
//! thread of its own while nobody waits.
//!
//! A spare one has nothing of any session: no system interface, no clock, no randomness, and no code has run
//! in it. It gets all that when it is taken.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use wasmtime::component::{InstancePre, TypedFunc};
use wasmtime::{Engine, Store};
use wasmtime_wasi::WasiCtx;

use super::files::{Shared, Volumes};
use super::host::Inside;
use super::memories::Memories;
use super::meter::Memory;
use super::noise::Noise;
use super::raw::Grip;
use super::system::Sources;
use super::tank::Tank;
use super::turn::wait;
use crate::sandbox::output::Output;
use crate::sandbox::wire::System;

/// Spare interpreters of one engine; each costs about half a MiB.
const SPARE: usize = 2;
/// How long the thread waits before it makes the next one.
const ASIDE: Duration = Duration::from_millis(3);
/// Fuel for instantiating, which is not any program's doing.
const START_FUEL: u64 = 2_000_000_000;

/// An interpreter in which nothing has run.
pub(crate) struct Started {
    pub(crate) store: Store<Inside>,
    pub(crate) run: TypedFunc<(String, String), (String,)>,
    pub(crate) grip: Option<Grip>,
    pub(crate) tank: Option<Tank>,
}

/// The spare interpreters of one engine.
pub(crate) struct Spares {
    engine: Engine,
    guest: InstancePre<Inside>,
    kept: Arc<Mutex<Vec<Started>>>,
    refill: SyncSender<()>,
    /// What folders of all guests hold.
    pub(crate) shared: Arc<Shared>,
}

impl Spares {
    /// Starts the thread that keeps them; it ends with this value.
    pub(crate) fn open(engine: Engine, guest: InstancePre<Inside>) -> Self {
        let kept = Arc::default();
        let (refill, asked) = sync_channel(1);
        let filler = Filler { engine: engine.clone(), guest: guest.clone(), kept: Arc::clone(&kept), asked };
        // Without the thread everything works, only slower.
        let _ = thread::Builder::new().name("weir-spare".into()).spawn(move || filler.keep());
        let spares = Self { engine, guest, kept, refill, shared: Arc::default() };
        spares.ask();
        spares
    }

    /// One interpreter, spare or made now.
    pub(crate) fn take(&self) -> wasmtime::Result<Started> {
        let spare = self.kept.lock().unwrap_or_else(PoisonError::into_inner).pop();
        self.ask();
        spare.map_or_else(|| start(&self.engine, &self.guest, None), Ok)
    }

    /// One interpreter with a memory of `size` bytes.
    pub(crate) fn sized(&self, size: usize) -> wasmtime::Result<Started> {
        start(&self.engine, &self.guest, Some(size))
    }

    fn ask(&self) {
        // Full means that it has been asked already.
        let _ = self.refill.try_send(());
    }
}

struct Filler {
    engine: Engine,
    guest: InstancePre<Inside>,
    kept: Arc<Mutex<Vec<Started>>>,
    asked: Receiver<()>,
}

impl Filler {
    fn keep(self) {
        while self.asked.recv().is_ok() {
            // Out of the way of the program that starts now: both would fight for the process's page tables.
            thread::sleep(ASIDE);
            while self.kept.lock().unwrap_or_else(PoisonError::into_inner).len() < SPARE {
                let Ok(started) = start(&self.engine, &self.guest, None) else { break };
                self.kept.lock().unwrap_or_else(PoisonError::into_inner).push(started);
            }
        }
    }
}

/// Starts one interpreter, with a memory of `size` bytes where it is not the usual one.
pub(crate) fn start(engine: &Engine, guest: &InstancePre<Inside>, size: Option<usize>) -> wasmtime::Result<Started> {
    let inside = Inside {
        wasi: WasiCtx::default(),
        table: Default::default(),
        volumes: Volumes::default(),
        still: None,
        sources: Sources::of(&System::nothing(), Noise::default()),
        memory: Memory { limit: usize::MAX, bytes: 0, refused: false },
        output: Output::default(),
        lane: None,
    };
    let mut store = Store::new(engine, inside);
    store.limiter(|inside| &mut inside.memory);
    // Where its own code counts, it begins with fuel.
    if store.get_fuel().is_ok() {
        store.set_fuel(START_FUEL)?;
    }
    let (instance, grip, tank) = Memories::with_size(size, || wait(guest.instantiate_async(&mut store)));
    let run = instance??.get_typed_func(&mut store, "run")?;
    Ok(Started { store, run, grip, tank })
}
