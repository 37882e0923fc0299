//! All that a guest can call: two functions of the gate, and the few WASI interfaces that `system.rs` fills.
//!
//! A nested call goes out on the lane and the guest's thread waits for the reply. Text is looked at where it lies in
//! the guest's memory and copied only within its bound. Sockets are not linked at all.

use std::sync::Arc;

use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, Linker, ResourceTable, ResourceType, WasmStr};
use wasmtime::{Engine, StoreContextMut};
use wasmtime_wasi::cli::{WasiCli, WasiCliView as _};
use wasmtime_wasi::clocks::WasiClocksCtxView;
use wasmtime_wasi::filesystem::WasiFilesystemCtxView;
use wasmtime_wasi::p2::bindings::{cli, clocks, filesystem, random};
use wasmtime_wasi::random::WasiRandom;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use super::clock::{Clocks, Monotonic};
use super::files::{Filed, Files, Volumes};
use super::lane::Lane;
use super::meter::Memory;
use super::system::Sources;
use crate::model::Limits;
use crate::sandbox::output::Output;
use crate::sandbox::wire::Request;

/// What stands beside one guest on the host's side.
pub(crate) struct Inside {
    pub(crate) wasi: WasiCtx,
    pub(crate) table: ResourceTable,
    pub(crate) volumes: Volumes,
    /// The standing monotonic clock, nanoseconds; `None` where the machine's is given.
    pub(crate) still: Option<u64>,
    pub(crate) sources: Sources,
    pub(crate) memory: Memory,
    /// Counts what is printed, so that a guest learns when no more is wanted.
    pub(crate) output: Output,
    /// To the gate, while a program runs.
    pub(crate) lane: Option<Arc<Lane>>,
}

impl WasiView for Inside {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl Inside {
    fn files(&mut self) -> Files<'_> {
        let real = WasiFilesystemCtxView { ctx: self.wasi.filesystem(), table: &mut self.table };
        Files { real, volumes: &mut self.volumes }
    }
}

/// Defines everything that a guest can reach.
pub(crate) fn link(linker: &mut Linker<Inside>) -> wasmtime::Result<()> {
    link_gate(linker)?;
    // Streams and polling, clocks, randomness, and standard streams that lead nowhere.
    wasmtime_wasi::p2::add_to_linker_proxy_interfaces_async(linker)?;
    linker.allow_shadowing(true);
    clocks::monotonic_clock::add_to_linker::<_, Clocks>(linker, |inside: &mut Inside| Monotonic {
        real: WasiClocksCtxView { ctx: inside.wasi.clocks(), table: &mut inside.table },
        noise: &inside.sources.noise,
        frozen: inside.still.as_mut(),
    })?;
    linker.allow_shadowing(false);
    random::insecure::add_to_linker::<_, WasiRandom>(linker, |inside: &mut Inside| inside.wasi.random())?;
    random::insecure_seed::add_to_linker::<_, WasiRandom>(linker, |inside: &mut Inside| inside.wasi.random())?;
    filesystem::preopens::add_to_linker::<_, Filed>(linker, Inside::files)?;
    filesystem::types::add_to_linker::<_, Filed>(linker, Inside::files)?;
    // The interpreter's frame: no environment, no arguments, and an exit that ends this guest alone.
    cli::environment::add_to_linker::<_, WasiCli>(linker, Inside::cli)?;
    cli::exit::add_to_linker::<_, WasiCli>(linker, Inside::cli)?;
    cli::terminal_input::add_to_linker::<_, WasiCli>(linker, Inside::cli)?;
    cli::terminal_output::add_to_linker::<_, WasiCli>(linker, Inside::cli)?;
    cli::terminal_stdin::add_to_linker::<_, WasiCli>(linker, Inside::cli)?;
    cli::terminal_stdout::add_to_linker::<_, WasiCli>(linker, Inside::cli)?;
    cli::terminal_stderr::add_to_linker::<_, WasiCli>(linker, Inside::cli)
}

fn link_gate(linker: &mut Linker<Inside>) -> wasmtime::Result<()> {
    let mut gate = linker.instance("weir:guest/host")?;
    gate.func_wrap("write", |mut store: StoreContextMut<'_, Inside>, (text,): (WasmStr,)| {
        let text = text.to_str(&store)?;
        // More than the limit and what shows that it was exceeded is wanted by nobody.
        let most = usize::try_from(store.data().output.limit()).unwrap_or(usize::MAX).saturating_add(4);
        let end = (0..=most.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        let text = text.get(..end).unwrap_or_default().to_owned();
        let inside = store.data_mut();
        if inside.output.is_cut() {
            return Ok((false,));
        }
        let room = inside.output.take(&text);
        lane(inside)?.print(&text)?;
        Ok((room,))
    })?;
    gate.func_wrap("call", |mut store: StoreContextMut<'_, Inside>, asked: (WasmStr, WasmStr, WasmStr)| {
        let request = read(&store, &asked)?;
        Ok((lane(store.data_mut())?.call(request)?,))
    })
}

/// The lane of the program that runs.
fn lane(inside: &Inside) -> wasmtime::Result<&Lane> {
    inside.lane.as_deref().ok_or_else(|| wasmtime::format_err!("no program runs"))
}

/// Copies a request out of the guest's memory, within bounds.
fn read(
    store: &StoreContextMut<'_, Inside>,
    (kind, name, args): &(WasmStr, WasmStr, WasmStr),
) -> wasmtime::Result<Request> {
    let short = |text: &WasmStr| -> wasmtime::Result<String> {
        let text = text.to_str(store)?;
        Ok(text.chars().take(Limits::NAME_BYTES + 1).collect())
    };
    let args = args.to_str(store)?;
    let args = if args.len() > Limits::JSON_BYTES { Err(args.len() as u64) } else { Ok(args.into_owned()) };
    Ok(Request { kind: short(kind)?, name: short(name)?, args })
}

/// Interfaces of which a guest gets traps instead of functions.
const ABSENT: &str = "wasi:sockets/";
/// Resources that the absent interfaces only mention; they belong to `wasi:io`.
const MENTIONED: [&str; 4] = ["pollable", "input-stream", "output-stream", "error"];

/// The owner of resources that cannot come to be.
struct Never;

/// Defines every import of [`ABSENT`] as a trap: the interpreter names them, and none must work.
pub(crate) fn link_absent(linker: &mut Linker<Inside>, engine: &Engine, component: &Component) -> wasmtime::Result<()> {
    let imports = component.component_type();
    for (name, item) in imports.imports(engine).filter(|(name, _)| name.starts_with(ABSENT)) {
        let ComponentItem::ComponentInstance(interface) = item.ty else { continue };
        let mut instance = linker.instance(name)?;
        for (export, item) in interface.exports(engine) {
            match item.ty {
                ComponentItem::ComponentFunc(_) => {
                    instance.func_new(export, |_, _, _, _| Err(wasmtime::format_err!("the sandbox has no network")))?
                }
                ComponentItem::Resource(_) if !MENTIONED.contains(&export) => {
                    instance.resource(export, ResourceType::host::<Never>(), |_, _| Ok(()))?;
                }
                _ => {}
            }
        }
    }
    Ok(())
}
