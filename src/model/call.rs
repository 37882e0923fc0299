//! One intercepted request in normal form: subject, action, resource, arguments.
//!
//! The shape follows the OpenID AuthZEN Authorization API 1.0 (subject, action, resource, context).
//! What arrives from an agent is only ever the action, the resource and the arguments; the subject
//! is set by the surface from the authenticated connection.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Digest, Name, canonical};

/// The identity of one call; also the idempotency key of its reservation.
pub type CallId = Name;

/// Who asks: set by the gate from the connection, never by the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subject {
    /// The organisation that pays.
    pub org: Name,
    /// The project of the organisation for which the agent works, where there are projects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<Name>,
    /// The agent.
    pub agent: Name,
    /// The session: one conversation or one program's life.
    pub session: Name,
    /// The run inside the session: one task given to the agent.
    pub run: Name,
    /// The agents below the session's own, from the outermost to the one that asks; empty for the
    /// session's own agent. They share its accounts and labels, and each has an account below its session.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub delegation: Vec<Name>,
}

/// Whose interpreter it is: variables, checkpoints and files of a seat are never shown to another agent.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seat {
    /// The organisation.
    pub org: Name,
    /// The session's agent.
    pub agent: Name,
    /// The session, or a name of its own for an agent below the session's.
    pub name: Name,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Action {
    /// Call a tool of the host.
    #[serde(rename = "tool.call")]
    ToolCall,
    /// Run generated code in the sandbox.
    #[serde(rename = "code.run")]
    CodeRun,
    /// Import a module inside generated code.
    #[serde(rename = "code.import")]
    CodeImport,
    /// Hand a task to another agent.
    #[serde(rename = "agent.invoke")]
    AgentInvoke,
    /// Ask a model to generate.
    #[serde(rename = "model.generate")]
    ModelGenerate,
    /// Fetch a package, model, dataset or tool from a registry.
    #[serde(rename = "package.fetch")]
    PackageFetch,
    /// Change something in a registry: files, or the repository itself.
    #[serde(rename = "package.publish")]
    PackagePublish,
    /// Start a job on rented machines.
    #[serde(rename = "job.launch")]
    JobLaunch,
    /// Run a program of this machine under a budget.
    #[serde(rename = "process.run")]
    ProcessRun,
}

impl Action {
    /// Every action.
    pub const ALL: [Self; 9] = [
        Self::ToolCall,
        Self::CodeRun,
        Self::CodeImport,
        Self::AgentInvoke,
        Self::ModelGenerate,
        Self::PackageFetch,
        Self::PackagePublish,
        Self::JobLaunch,
        Self::ProcessRun,
    ];

    /// The word used in policies, logs and receipts.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::ToolCall => "tool.call",
            Self::CodeRun => "code.run",
            Self::CodeImport => "code.import",
            Self::AgentInvoke => "agent.invoke",
            Self::ModelGenerate => "model.generate",
            Self::PackageFetch => "package.fetch",
            Self::PackagePublish => "package.publish",
            Self::JobLaunch => "job.launch",
            Self::ProcessRun => "process.run",
        }
    }

    /// True for what goes on elsewhere when the gate stops: its hold stays until it has an outcome.
    #[must_use]
    pub const fn outlives(self) -> bool {
        matches!(self, Self::JobLaunch)
    }

    /// The action named by `word`, if there is one.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.word() == word)
    }
}

/// What the action is done to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resource {
    /// The tool, module, peer, model or package; for code the guest (`python`), for a job the flavor of the machine,
    /// for a process the base name of its program.
    pub name: Name,
    /// The registry of a package.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registry: Option<Name>,
    /// The exact revision of a package (a version or a commit).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<Name>,
    /// The digest of a package's bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
}

impl Resource {
    /// A resource that is only a name.
    #[must_use]
    pub const fn named(name: Name) -> Self {
        Self { name, registry: None, revision: None, digest: None }
    }
}

/// One intercepted request in normal form.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Call {
    /// Identity and idempotency key.
    pub id: CallId,
    /// Who asks.
    pub subject: Subject,
    /// What is asked for.
    pub action: Action,
    /// What it is done to.
    pub resource: Resource,
    /// The arguments, exactly as they will be forwarded.
    #[serde(default)]
    pub args: Map<String, Value>,
    /// The call in whose execution this one was made (a tool call inside generated code).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<CallId>,
    /// The surface that intercepted it.
    pub surface: Name,
}

impl Subject {
    /// The interpreter that this subject's programs use: one for the session's own agent and one for
    /// each agent below it.
    #[must_use]
    pub fn seat(&self) -> Seat {
        let derived = |chain: String| Name::derived(&Digest::of(chain.as_bytes()).hex());
        let name = match &self.project {
            None if self.delegation.is_empty() => self.session.clone(),
            None => derived(canonical(&(&self.session, &self.delegation))),
            // Two projects that use one name for a session share no interpreter.
            Some(project) => derived(canonical(&(project, &self.session, &self.delegation))),
        };
        Seat { org: self.org.clone(), agent: self.agent.clone(), name }
    }
}

impl Call {
    /// The digest that binds an approval or a receipt to what will run: action, resource, arguments
    /// and subject, without the id.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let bound = (self.action, &self.resource, self.args_text(), &self.subject);
        Digest::of(canonical(&bound).as_bytes())
    }

    /// The same call without its arguments.
    #[must_use]
    pub fn bare(&self) -> Self {
        let Self { id, subject, action, resource, args: _, parent, surface } = self;
        Self {
            id: id.clone(),
            subject: subject.clone(),
            action: *action,
            resource: resource.clone(),
            args: Map::new(),
            parent: parent.clone(),
            surface: surface.clone(),
        }
    }

    /// The digest of what is done, whoever does it: action, resource and arguments. Equal in two
    /// sessions that do the same, in whatever order they name the arguments.
    #[must_use]
    pub fn deed(&self) -> Digest {
        let mut args = Value::Object(self.args.clone());
        args.sort_all_objects();
        let done = (self.action, &self.resource, serde_json::to_string(&args).unwrap_or_default());
        Digest::of(canonical(&done).as_bytes())
    }

    /// The arguments as the JSON text that is forwarded; integers keep all their digits.
    #[must_use]
    pub fn args_text(&self) -> String {
        serde_json::to_string(&self.args).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deed_is_the_same_in_any_order_of_arguments_and_for_anyone() {
        let name = |text: &str| Name::new(text).unwrap();
        let call = |agent: &str, args: &str| Call {
            id: name(agent),
            subject: Subject {
                org: name("o"),
                agent: name(agent),
                session: name("s"),
                run: name("r"),
                delegation: Vec::new(),
                project: None,
            },
            action: Action::ToolCall,
            resource: Resource::named(name("look")),
            args: serde_json::from_str(args).unwrap(),
            parent: None,
            surface: name("test"),
        };
        let first = call("a", r#"{"x": {"p": 1, "q": 18446744073709551615}, "y": 2}"#);
        let again = call("b", r#"{"y": 2, "x": {"q": 18446744073709551615, "p": 1}}"#);
        assert_eq!(first.deed(), again.deed());
        assert_ne!(first.digest(), again.digest(), "an approval is for one subject");
        for other in [r#"{"x": {"p": 1, "q": 18446744073709551614}, "y": 2}"#, r#"{"y": 2}"#] {
            assert_ne!(first.deed(), call("a", other).deed(), "{other}");
        }
    }
}
