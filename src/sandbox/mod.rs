//! The executor of generated code: CPython in a WebAssembly component, with nothing ambient.
//!
//! `grant.rs` is the only file that gives a guest anything; `host.rs` is all that a guest can call;
//! `drive.rs` is the only loop in which a guest runs. What a guest says is hostile input and is parsed
//! strictly (`reply.rs`, `tagged.rs`). Nothing here decides: every nested call goes back through
//! [`Inner`], and this module must not know a policy, a ledger or a journal.

mod builder;
mod cache;
mod clock;
mod drive;
mod engine;
mod exchange;
mod fault;
mod grant;
mod host;
mod load;
mod meter;
mod output;
mod reply;
mod session;
mod spare;
mod tagged;
#[allow(dead_code, reason = "until executions are recorded")]
mod tape;
#[allow(dead_code, reason = "until sessions are kept")]
mod vault;
#[allow(dead_code, reason = "until guests run in workers")]
mod wire;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Map, Value};

pub use builder::{Guest, Progress, Silent};
pub use fault::SandboxFault;
pub use vault::{Caps, Vault, VaultKey};

use crate::model::{CodeGrant, GuestError, Keep, Limits, Name, Outcome, ReasonCode, Seat, Status};
use crate::pep::port::{Executor, Inner};
use crate::pep::{Durable, Reserved};
use engine::Engines;
use session::{Key, Live, Sessions};

/// How a sandbox is opened.
pub struct SandboxConfig {
    /// Where the built guest lies; `None` is `$WEIR_CACHE`, `$XDG_CACHE_HOME/weir` or `~/.cache/weir`.
    pub cache: Option<PathBuf>,
    /// Sessions whose variables are kept at most; the least recently used one goes first.
    pub sessions: usize,
    /// Told of the first build, which takes about half a minute.
    pub progress: Arc<dyn Progress>,
}

impl Default for SandboxConfig {
    fn default() -> Self {
        Self { cache: None, sessions: Limits::SESSIONS, progress: Arc::new(Silent) }
    }
}

/// Runs generated Python; see the module's page.
pub struct Sandbox {
    engines: Engines,
    sessions: Sessions,
}

impl Sandbox {
    /// Opens the sandbox; builds and compiles the guest when the cache holds none.
    ///
    /// # Errors
    /// [`SandboxFault`] with what to do about it.
    pub fn open(config: SandboxConfig) -> Result<Self, SandboxFault> {
        let cache = cache::Cache::open(config.cache)?;
        let engines = Engines::open(cache, config.progress)?;
        Ok(Self { engines, sessions: Sessions::new(config.sessions) })
    }

    /// Runs one program in `session` under `grant`; nested calls go through `inner`.
    pub fn run(
        &self,
        session: &Name,
        run: &Name,
        code: &str,
        variables: &Map<String, Value>,
        grant: &CodeGrant,
        inner: &dyn Inner,
    ) -> Outcome {
        let work = Work { code, variables, grant, inner };
        if let Some(refusal) = work.refusal() {
            return refusal;
        }
        let key = Key { session: session.clone(), run: run.clone() };
        let ran = catch_unwind(AssertUnwindSafe(|| self.stay(&key, &work)));
        ran.unwrap_or_else(|_| {
            self.sessions.forget(session, "a step of it broke");
            broken("the sandbox failed inside and was reset; variables of earlier steps are gone")
        })
    }

    /// One program in the session's interpreter, a fresh one where none is kept.
    fn stay(&self, key: &Key, work: &Work<'_>) -> Outcome {
        let mut taken = match self.sessions.take(key, work.grant) {
            Ok(taken) => taken,
            Err(busy) => return broken(busy),
        };
        let live = match taken.live.take() {
            Some(live) => live,
            None => match Live::start(&self.engines, key, work.grant) {
                Ok(live) => live,
                Err(fault) => {
                    self.sessions.put_back(taken, None);
                    return fault.outcome();
                }
            },
        };
        let (mut outcome, survivor) = drive::run(live, work);
        if survivor.is_none() && work.grant.keep != Keep::Nothing {
            outcome.notices.push(session::LOST.to_owned());
        }
        outcome.replaced = survivor.is_none() || work.grant.keep == Keep::Nothing;
        outcome.notices.extend(taken.notice.take());
        self.sessions.put_back(taken, survivor.filter(|_| work.grant.keep != Keep::Nothing));
        outcome
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
        self.run(&call.subject.seat().name, &call.subject.run, code, variables, grant, inner)
    }

    fn close(&self, seat: &Seat) {
        self.sessions.close(&seat.name);
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
