//! Interpreters at rest, by number: the gate gives the numbers and knows whose they are.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use tokio::runtime::Runtime;
use wasmtime::Store;
use wasmtime::component::TypedFunc;

use super::files::Volumes;
use super::host::Inside;
use super::noise::Noise;
use super::raw::Grip;
use super::spare::{Spares, Started};
use super::state::{self, StateFault};
use super::system::{Sources, interface};
use super::tank::Tank;
use crate::sandbox::output::Output;
use crate::sandbox::wire::System;

/// Resources (files, streams, timers) that one guest may hold at a time.
const RESOURCES: usize = 4_096;
/// Fuel for looking at its folders once, which is not any program's doing.
const LOOK_FUEL: u64 = 2_000_000_000;

/// The request of a program of ours.
pub(crate) const NOTHING: &str =
    "{\"tools\": [], \"imports\": [], \"files\": true, \"result_bytes\": 10, \"aside\": true}\n{}";

/// An interpreter.
pub(crate) struct Live {
    pub(crate) store: Store<Inside>,
    pub(crate) run: TypedFunc<(String, String), (String,)>,
    pub(crate) grip: Option<Grip>,
    /// Its fuel, where its own code counts it.
    pub(crate) tank: Option<Tank>,
    /// Resources that it holds from its start: its folders.
    pub(crate) own: usize,
    system: System,
}

impl Live {
    /// Starts an interpreter with what `system` gives; real noise is drawn as `noise` says.
    ///
    /// # Errors
    /// What it is given cannot be opened, or the machine has no room; in words for the operator.
    pub(crate) fn start(runtime: &Runtime, spares: &Spares, system: System, noise: Noise) -> Result<Self, String> {
        let started = spares.take().map_err(|error| format!("{error:#}"))?;
        Self::from(runtime, spares, started, system, noise)
    }

    /// Starts an interpreter in the state that `bytes` are.
    ///
    /// # Errors
    /// See [`Live::start`]; or the bytes are no state.
    pub(crate) fn restore(runtime: &Runtime, spares: &Spares, system: System, bytes: &[u8]) -> Result<Self, String> {
        let size = state::size(bytes).map_err(|fault| fault.to_string())?;
        let started = spares.sized(size).map_err(|error| format!("{error:#}"))?;
        let mut live = Self::from(runtime, spares, started, system, Noise::default())?;
        state::give(&mut live, bytes).map_err(|fault| fault.to_string())?;
        Ok(live)
    }

    fn from(
        runtime: &Runtime,
        spares: &Spares,
        started: Started,
        system: System,
        noise: Noise,
    ) -> Result<Self, String> {
        let Started { mut store, run, grip, tank } = started;
        let sources = Sources::of(&system, noise);
        let inside = store.data_mut();
        inside.wasi = interface(&system, &sources)?;
        inside.volumes = Volumes::new(&system.folders, &spares.shared)?;
        inside.sources = sources;
        inside.table.set_max_capacity(RESOURCES);
        inside.still = system.clock.map(|_| system.moved);
        if let Some(grip) = &grip {
            inside.memory.bytes = inside.memory.bytes.max(grip.size());
        }
        let mut live = Self { store, run, grip, tank, own: 0, system };
        if !live.system.folders.is_empty() {
            live.look(runtime).map_err(|error| format!("{error:#}"))?;
        }
        live.own = live.resources();
        Ok(live)
    }

    /// Has the guest find its folders now: an interpreter that is made again elsewhere then knows them by the same
    /// numbers as the one whose memory it gets.
    fn look(&mut self, runtime: &Runtime) -> wasmtime::Result<()> {
        self.aside(runtime, "open('/nothing')", NOTHING)
    }

    /// Runs a program of ours that counts as none; what it prints goes nowhere.
    ///
    /// # Errors
    /// It traps.
    pub(crate) fn aside(&mut self, runtime: &Runtime, code: &str, request: &str) -> wasmtime::Result<()> {
        self.store.data_mut().output = Output::shut();
        self.give(LOOK_FUEL, LOOK_FUEL / 2)?;
        let params = (code.to_owned(), request.to_owned());
        let (answer,) = runtime.block_on(self.run.call_async(&mut self.store, params))?;
        tracing::debug!("a program aside answered {answer}");
        Ok(())
    }

    /// Gives it `units` of fuel for what runs next. Where Wasmtime counts them it gives way every `slice` of them.
    ///
    /// # Errors
    /// The kernel does not let its fuel be written.
    pub(crate) fn give(&mut self, units: u64, slice: u64) -> wasmtime::Result<()> {
        if let Some(tank) = &self.tank {
            return Ok(tank.fill(units)?);
        }
        self.store.set_fuel(units)?;
        self.store.fuel_async_yield_interval(Some(slice))
    }

    /// The fuel that is left.
    pub(crate) fn fuel(&self) -> u64 {
        self.tank.as_ref().map_or_else(|| self.store.get_fuel().unwrap_or(0), Tank::left)
    }

    /// Resources that it holds.
    pub(crate) fn resources(&mut self) -> usize {
        self.store.data_mut().table.iter_mut().count()
    }

    /// Its state, and what it would be started with to go on.
    ///
    /// # Errors
    /// [`StateFault`].
    pub(crate) fn state(&mut self) -> Result<(Vec<u8>, System), StateFault> {
        let bytes = state::take(self)?;
        let inside = self.store.data();
        let (moved, drawn) = (inside.still.unwrap_or(0), inside.sources.drawn());
        Ok((bytes, System { moved, drawn, ..self.system.clone() }))
    }
}

/// Every interpreter of this worker that does not run.
#[derive(Default)]
pub(crate) struct Seats(Mutex<HashMap<u64, Live>>);

impl Seats {
    /// Takes the one at `seat`.
    pub(crate) fn take(&self, seat: u64) -> Option<Live> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&seat)
    }

    /// Puts one there.
    pub(crate) fn put(&self, seat: u64, live: Live) {
        let before = self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(seat, live);
        drop(before);
    }
}
