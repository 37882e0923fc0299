//! Calls made inside an execution: each walks the whole line again, under the same subject.
//!
//! This is the way by which a nested tool call cannot escape the policy: an executor has no other
//! road to a tool than [`Inner::call`].

use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Map, Value};

use super::port::{Executor, Inner, ToolHost, ToolSpec};
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

    fn call_of(&self, action: Action, resource: &str, args: Map<String, Value>) -> Result<Call, Reason> {
        let malformed = |detail: &str| Reason::new(ReasonCode::Malformed, detail);
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let id = Name::new(format!("{}.{number}", self.parent.id)).map_err(|_| malformed("calls nest too deeply"))?;
        let name = Name::new(resource).map_err(|fault| malformed(&fault.to_string()))?;
        let surface = Name::new("sandbox").map_err(|fault| malformed(&fault.to_string()))?;
        let subject = self.parent.subject.clone();
        let parent = Some(self.parent.id.clone());
        Ok(Call { id, subject, action, resource: Resource::named(name), args, parent, surface })
    }
}

impl Inner for Nest<'_> {
    fn call(&self, action: Action, resource: &str, args: Map<String, Value>) -> Answer {
        match self.call_of(action, resource, args) {
            Ok(call) => {
                self.gate.handle(call, &HostTool { host: self.host, deadline: self.gate.tool_deadline() }, self.host)
            }
            Err(reason) => *self.gate.unrecorded(self.parent, reason),
        }
    }

    fn tools(&self) -> Vec<ToolSpec> {
        self.host.tools()
    }

    fn cancelled(&self) -> bool {
        self.host.cancelled()
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
            Action::CodeRun | Action::ModelGenerate | Action::PackageFetch => Outcome::of(Status::Broken),
        }
    }
}
