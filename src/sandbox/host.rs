//! All that a guest can call: two functions of the gate, and the few WASI interfaces that `grant.rs` fills.
//!
//! A nested call leaves the guest's stack: the request is put into a mailbox, the guest is suspended, and the
//! driver handles it on its own stack. Text is looked at where it lies in the guest's memory and copied only
//! within its bound. Sockets are not linked at all.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;

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
use super::meter::Memory;
use super::output::Output;
use super::worker::files::{Filed, Files, Volumes};
use crate::model::Limits;

/// What stands beside one guest on the host's side.
pub(crate) struct Inside {
    pub(crate) wasi: WasiCtx,
    pub(crate) table: ResourceTable,
    pub(crate) volumes: Volumes,
    /// The frozen monotonic clock, nanoseconds.
    pub(crate) frozen: Option<u64>,
    pub(crate) memory: Memory,
    pub(crate) output: Output,
    pub(crate) mail: Arc<Mailbox>,
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

/// One nested call as the guest asked for it.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) kind: String,
    pub(crate) name: String,
    /// The arguments' JSON text, or its length in bytes when that is over [`Limits::JSON_BYTES`].
    pub(crate) args: Result<String, usize>,
}

/// Where a request leaves the guest and its reply comes back; one at a time.
#[derive(Debug, Default)]
pub(crate) struct Mailbox(Mutex<(Option<Request>, Option<String>)>);

impl Mailbox {
    /// Takes the request that waits.
    pub(crate) fn request(&self) -> Option<Request> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0.take()
    }

    /// Puts the reply.
    pub(crate) fn reply(&self, text: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1 = Some(text);
    }

    fn ask(&self, request: Request) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (Some(request), None);
    }

    fn answered(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1.take()
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
        frozen: inside.frozen.as_mut(),
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
        let text = text.to_str(&store)?.into_owned();
        Ok((store.data_mut().output.take(&text),))
    })?;
    gate.func_wrap_async("call", |store: StoreContextMut<'_, Inside>, asked: (WasmStr, WasmStr, WasmStr)| {
        Box::new(async move {
            let request = read(&store, &asked)?;
            let mail = Arc::clone(&store.data().mail);
            mail.ask(request);
            // Woken by the driver, which polls again once it has put the reply.
            let reply = poll_fn(|_| mail.answered().map_or(Poll::Pending, Poll::Ready)).await;
            Ok((reply,))
        })
    })
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
    let args = if args.len() > Limits::JSON_BYTES { Err(args.len()) } else { Ok(args.into_owned()) };
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
