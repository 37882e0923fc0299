//! The executor of generated code: CPython in a WebAssembly component, with nothing ambient.
//!
//! Two walls: WebAssembly, and a locked process for every agent (`worker/`). This side starts the workers
//! (`workers.rs`), sends them programs (`step.rs`) and takes their word as a guest's: hostile input, parsed strictly
//! (`wire.rs`, `reply.rs`, `tagged.rs`). Nothing here decides: every nested call goes back through [`Inner`], and
//! this module must not know a policy, a ledger or a journal.

mod builder;
mod cache;
mod compile;
mod eager;
mod exchange;
mod fault;
mod forge;
#[cfg(test)]
mod hostile;
mod image;
mod keep;
mod lane;
mod memory;
mod merge;
mod output;
mod packages;
mod record;
mod replay;
mod reply;
mod scratch;
mod session;
mod stay;
mod step;
mod tagged;
mod tape;
mod terms;
mod transfer;
mod vault;
mod walk;
mod weave;
mod wire;
mod worker;
mod workers;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Map, Value};

pub use builder::{Guest, Progress, Silent};
pub use fault::SandboxFault;
pub use packages::{Prepared, Wheels};
pub use replay::{ReplayFault, Replayed, Verdict};
pub use session::Key;
pub use vault::{Caps, TapeReader, Vault, VaultKey};
pub use workers::Wall;

use crate::model::{CodeGrant, Digest, GuestError, Limits, Outcome, Package, ReasonCode, Seat, Status};
use crate::pep::port::{Executor, Inner, Keeper};
use crate::pep::{Durable, Reserved};
use cache::{Cache, Verified};
use scratch::Scratches;
use session::Sessions;
use wire::Terms;
use workers::Workers;

/// How a sandbox is opened.
pub struct SandboxConfig {
    /// Where the built guest lies; `None` is `$WEIR_CACHE`, `$XDG_CACHE_HOME/weir` or `~/.cache/weir`.
    pub cache: Option<PathBuf>,
    /// Sessions whose variables are kept at most; the least recently used one goes first.
    pub sessions: usize,
    /// Memory that one agent's worker may map for writing, bytes.
    pub memory_bytes: u64,
    /// Private memory that all workers may have before sessions are taken out of it, bytes.
    pub live_bytes: u64,
    /// Where sessions have their own folders; `None` gives none.
    pub scratch: Option<PathBuf>,
    /// Where sessions that are not in memory, and tapes, are kept; `None` keeps neither.
    pub vault: Option<Arc<Vault>>,
    /// What stands around the guests.
    pub wall: Wall,
    /// The sets of packages that policies grant; each is prepared now unless it is.
    pub packages: Vec<Vec<Package>>,
    /// Told of the first build, which takes about half a minute.
    pub progress: Arc<dyn Progress>,
}

impl SandboxConfig {
    /// The usual one, with guests behind `wall`.
    #[must_use]
    pub fn new(wall: Wall) -> Self {
        let progress = Arc::new(Silent);
        Self {
            cache: None,
            sessions: Limits::SESSIONS,
            memory_bytes: Limits::WORKER_BYTES,
            live_bytes: memory::half(),
            scratch: None,
            vault: None,
            wall,
            packages: Vec::new(),
            progress,
        }
    }
}

/// Runs generated code; see the module's page.
pub struct Sandbox {
    cache: Cache,
    memory_bytes: u64,
    live_bytes: u64,
    memory_watch: memory::Watch,
    /// What workers have of each guest with each set of packages that has been asked for.
    guests: Mutex<BTreeMap<(&'static str, Option<Digest>), Base>>,
    workers: Arc<Workers>,
    sessions: Sessions,
    scratches: Option<Scratches>,
    vault: Option<Arc<Vault>>,
}

/// What every worker of a guest has.
#[derive(Clone)]
pub(crate) struct Base {
    pub(crate) terms: Terms,
    /// The compiled guest.
    code: Digest,
    /// That and the memory with which it starts: to both a stored interpreter and a tape are bound.
    pub(crate) build: Digest,
}

impl Base {
    /// The same with interpreters that start with another memory.
    fn with_image(self, image: &Verified) -> Self {
        let build = build(&self.code, Some(image));
        Self { terms: Terms { image: image.path().display().to_string(), ..self.terms }, build, ..self }
    }
}

fn build(code: &Digest, image: Option<&Verified>) -> Digest {
    let image = image.map_or(Digest::ZERO, |image| *image.digest());
    Digest::of(&[code.0, image.0].concat())
}

/// The guest of programs whose call names none.
const USUAL: &str = "python";

fn base(ready: &compile::Ready, memory_bytes: u64) -> Base {
    let terms = Terms {
        code: ready.code.path().display().to_string(),
        image: ready.image.as_ref().map(|image| image.path().display().to_string()).unwrap_or_default(),
        stack: worker::engine::stack_class(Limits::STACK_BYTES),
        folders: Vec::new(),
        memory_bytes,
        file_bytes: 0,
        locked: true,
    };
    let code = *ready.code.digest();
    Base { terms, code, build: build(&code, ready.image.as_ref()) }
}

/// Prepares one set of packages: fetches the wheels that the cache lacks, and makes the start image.
///
/// # Errors
/// [`SandboxFault`], with everything that is wrong at once.
pub fn prepare(config: &SandboxConfig, packages: &[Package], from: &Wheels) -> Result<Prepared, SandboxFault> {
    let cache = Cache::open(config.cache.clone())?;
    let row = builder::known(USUAL)?;
    let progress = config.progress.as_ref();
    let ready = compile::compiled(&cache, row, progress)?;
    let base = base(&ready, config.memory_bytes);
    let workers = Workers::new(config.wall.clone(), base.clone());
    let shop = packages::Shop { cache: &cache, row, ready: &ready, workers: &workers, base: &base, progress };
    shop.fetch(packages, from)?;
    Ok(shop.image(packages)?.1)
}

/// The whole life of a worker process; see [`Wall::Process`]. It reads what to do from standard input.
#[must_use]
pub fn worker_main() -> ExitCode {
    worker::main()
}

impl Sandbox {
    /// Opens the sandbox; builds and compiles the guest when the cache holds none.
    ///
    /// # Errors
    /// [`SandboxFault`] with what to do about it.
    pub fn open(config: SandboxConfig) -> Result<Self, SandboxFault> {
        let cache = Cache::open(config.cache)?;
        let row = builder::known(USUAL)?;
        let ready = compile::compiled(&cache, row, config.progress.as_ref())?;
        let base = base(&ready, config.memory_bytes);
        let workers = Workers::new(config.wall, base.clone());
        workers.prepare();
        let shop = packages::Shop {
            cache: &cache,
            row,
            ready: &ready,
            workers: &workers,
            base: &base,
            progress: config.progress.as_ref(),
        };
        let mut guests = BTreeMap::new();
        for (set, image) in shop.images(&config.packages)? {
            guests.insert((row.name, Some(set)), base.clone().with_image(&image));
        }
        guests.insert((row.name, None), base);
        let guests = Mutex::new(guests);
        let sessions = Sessions::new(config.sessions);
        let open = |root| Scratches::open(root, Limits::SCRATCH_BYTES);
        let scratches = config.scratch.map(open).transpose();
        let scratches = scratches.map_err(|fault| SandboxFault::Grant(fault.to_string()))?;
        let (memory_bytes, live_bytes, vault) = (config.memory_bytes, config.live_bytes, config.vault);
        if let Some(scratches) = &scratches {
            let kept = vault.iter().flat_map(|vault| vault.list()).map(|kept| kept.seat).collect::<Vec<_>>();
            scratches.clear_stale(&kept).map_err(|fault| SandboxFault::Grant(fault.to_string()))?;
        }
        let memory_watch = memory::Watch::default();
        Ok(Self { cache, memory_bytes, live_bytes, memory_watch, guests, workers, sessions, scratches, vault })
    }

    /// Ids of the processes in which agents' programs run, for whoever watches them; none behind
    /// [`Wall::DangerousNone`].
    #[must_use]
    pub fn processes(&self) -> Vec<u32> {
        self.workers.processes()
    }

    /// The guest `name` with `packages`, which the cache must have. Packages are Python's.
    fn guest(&self, name: &str, packages: &[Package]) -> Result<Base, SandboxFault> {
        let row = builder::known(name)?;
        let set = (row.name == USUAL && !packages.is_empty()).then(|| packages::set(packages));
        let mut guests = self.guests.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(base) = guests.get(&(row.name, set)) {
            return Ok(base.clone());
        }
        let ready = compile::cached(&self.cache, row)?.ok_or_else(|| builder::unbuilt(row))?;
        let mut base = base(&ready, self.memory_bytes);
        if set.is_some() {
            let image = packages::cached(&self.cache, row, packages)?;
            base = base.with_image(&image.ok_or_else(|| packages::unprepared(packages))?);
        }
        guests.insert((row.name, set), base.clone());
        Ok(base)
    }

    /// Runs one program in the interpreter of `key` under `grant`; nested calls go through `inner`.
    pub fn run(
        &self,
        key: &Key,
        code: &str,
        variables: &Map<String, Value>,
        grant: &CodeGrant,
        inner: &dyn Inner,
    ) -> Outcome {
        let work = Work { code, variables, grant, inner };
        if let Some(refusal) = work.refusal() {
            return refusal;
        }
        let ran = catch_unwind(AssertUnwindSafe(|| self.stay(key, &work)));
        ran.unwrap_or_else(|_| {
            self.sessions.forget(&key.place(), "a step of it broke");
            broken("the sandbox failed inside and was reset; variables of earlier steps are gone")
        })
    }
}

impl Executor for Sandbox {
    fn execute(&self, work: &Durable<Reserved>, inner: &dyn Inner) -> Outcome {
        let call = work.call();
        let (Some(grant), Some(code)) = (work.grant(), call.args.get("code").and_then(Value::as_str)) else {
            return broken("code.run needs a grant and the text `code`");
        };
        let none = Map::new();
        let variables = call.args.get("variables").and_then(Value::as_object).unwrap_or(&none);
        let guest = call.resource.name.as_str().to_owned();
        let key = Key { seat: call.subject.seat(), guest, run: call.subject.run.clone() };
        self.run(&key, code, variables, grant, inner)
    }

    fn guests(&self) -> Vec<&'static str> {
        Guest::names().collect()
    }

    fn close(&self, seat: &Seat) {
        Guest::names().for_each(|guest| self.sessions.close(&session::place(seat, guest)));
        if let Err(fault) = self.forget(seat) {
            tracing::warn!("something of a closed session stays on disk: {fault}");
        }
    }

    fn rest(&self, seat: &Seat) {
        self.rest_session(seat);
    }

    fn keeper(&self) -> Option<&dyn Keeper> {
        Some(self)
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // Without a vault they go as they are.
        if self.vault.is_some() {
            self.rest_all();
        }
    }
}

/// One program and what it may use.
pub(crate) struct Work<'a> {
    pub(crate) code: &'a str,
    pub(crate) variables: &'a Map<String, Value>,
    pub(crate) grant: &'a CodeGrant,
    pub(crate) inner: &'a dyn Inner,
}

impl Work<'_> {
    /// Why it cannot even be tried.
    fn refusal(&self) -> Option<Outcome> {
        if self.code.len() > Limits::CODE_BYTES {
            let said = format!("a program of {} bytes is over the limit of {}", self.code.len(), Limits::CODE_BYTES);
            return Some(failed("ValueError", said));
        }
        let wrong = self.variables.values().find_map(|value| tagged::check(value, &mut |_| true).err())?;
        Some(failed("ValueError", format!("a variable is not in the tagged form: {wrong}")))
    }
}

/// An outcome that says that the sandbox, not the program, is at fault.
pub(crate) fn broken(said: &str) -> Outcome {
    let mut outcome = with_error(Status::Broken, "SandboxError", said.to_owned());
    outcome.stopped = Some(ReasonCode::SandboxFailed);
    outcome
}

/// An outcome that says that the program is at fault.
pub(crate) fn failed(kind: &str, said: String) -> Outcome {
    with_error(Status::Failed, kind, said)
}

fn with_error(status: Status, kind: &str, message: String) -> Outcome {
    let mut outcome = Outcome::of(status);
    outcome.error = Some(GuestError { kind: kind.to_owned(), message, traceback: String::new() });
    outcome
}
