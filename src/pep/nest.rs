//! Calls made inside an execution: each walks the whole line again, under the same subject.
//!
//! This is the way by which a nested tool call cannot escape the policy: an executor has no other
//! road to a tool than [`Inner::call`].

use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Map, Value};

use super::port::{Executor, Inner, ToolHost, ToolSpec};
use super::stage::Ruled;
use super::{Answer, Durable, Gate, Reserved};
use crate::model::{Action, Call, Millis, Name, Outcome, Reason, ReasonCode, Resource, Status};

/// The line as seen from inside one execution.
pub(super) struct Nest<'a> {
    gate: &'a Gate,
    parent: &'a Call,
    host: &'a dyn ToolHost,
    count: AtomicU64,
}

impl<'a> Nest<'a> {
    pub fn new(gate: &'a Gate, parent: &'a Call, host: &'a dyn ToolHost) -> Self {
        Self { gate, parent, host, count: AtomicU64::new(0) }
    }

    /// The call that was asked for, and what is wrong with it as a call.
    fn call_of(&self, action: Action, resource: &str, args: Map<String, Value>) -> (Call, Option<Reason>) {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let id = Name::new(format!("{}.{number}", self.parent.id));
        let id = id.unwrap_or_else(|_| self.gate.fresh_id(&self.parent.id));
        let (name, fault) = match Name::new(resource) {
            Ok(name) => (name, None),
            Err(fault) => (self.legible(resource), Some(Reason::new(ReasonCode::Malformed, fault.to_string()))),
        };
        let surface = Name::new("sandbox").unwrap_or_else(|_| self.parent.surface.clone());
        let subject = self.parent.subject.clone();
        let parent = Some(self.parent.id.clone());
        (Call { id, subject, action, resource: Resource::named(name), args, parent, surface }, fault)
    }

    /// The nearest name to `text`, so that an attempt on a thing that cannot exist is on record.
    fn legible(&self, text: &str) -> Name {
        let plain = |c: char| if c.is_ascii_alphanumeric() || "._-:/@".contains(c) { c } else { '_' };
        let name: String = text.chars().take(64).map(plain).collect();
        Name::new(format!("_{name}")).unwrap_or_else(|_| self.parent.surface.clone())
    }
}

impl Inner for Nest<'_> {
    fn call(&self, action: Action, resource: &str, args: Map<String, Value>) -> Answer {
        match self.call_of(action, resource, args) {
            (call, None) => {
                self.gate.handle(call, &HostTool { host: self.host, deadline: self.gate.tool_deadline() }, self.host)
            }
            (call, Some(reason)) => *self.gate.refuse(&call, &Ruled::deny(reason, self.gate.force()), None),
        }
    }

    fn tools(&self) -> Vec<ToolSpec> {
        self.host.tools()
    }

    fn cancelled(&self) -> bool {
        self.host.cancelled() || self.gate.is_revoked(&self.parent.subject)
    }
}

/// Runs one tool on its host.
struct HostTool<'a> {
    host: &'a dyn ToolHost,
    deadline: Millis,
}

impl Executor for HostTool<'_> {
    fn execute(&self, work: &Durable<Reserved>, _: &dyn Inner) -> Outcome {
        let call = work.call();
        match call.action {
            Action::ToolCall | Action::AgentInvoke => {
                self.host.call(&call.id, call.resource.name.as_str(), &call.args, self.deadline)
            }
            // An import that is allowed needs nothing done; the other actions do not nest.
            Action::CodeImport => Outcome::of(Status::Done),
            Action::CodeRun
            | Action::ModelGenerate
            | Action::PackageFetch
            | Action::PackagePublish
            | Action::JobLaunch
            | Action::ProcessRun => Outcome::of(Status::Broken),
        }
    }
}
