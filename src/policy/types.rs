//! What a checked policy holds. Every field is enforced somewhere; none is decoration.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::compute::{Exec, Jobs};
use super::parties::{Peers, Registry};
use super::price::Price;
use super::program::Program;
use crate::model::{
    Action, Amounts, Checkpoint, Clock, CodeLimits, Digest, Effect, EffectClass, Factors, Keep, Kind, Millis, Name,
    Package, Preopen, Randomness, Record, Scratch, ThreatId, Window,
};

/// A checked policy.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Its name.
    pub id: Name,
    /// SHA-256 of the file's bytes.
    pub digest: Digest,
    /// The file's name, for messages.
    pub file: String,
    /// The profile that it was derived from.
    pub provenance: Option<Provenance>,
    /// Tools by exact name.
    pub tools: BTreeMap<String, Tool>,
    /// Programs that a command line may run, by name.
    pub programs: BTreeMap<String, Program>,
    /// Generated code; `None` means that none may run.
    pub code: Option<Code>,
    /// Models by exact name: what a call of one costs. Without any, models cost nothing but tokens.
    pub models: BTreeMap<String, Model>,
    /// Registries by name.
    pub registries: BTreeMap<String, Registry>,
    /// Jobs on rented machines; `None` means that none may be started.
    pub jobs: Option<Jobs>,
    /// Programs of this machine; `None` means that none may run.
    pub exec: Option<Exec>,
    /// Other agents.
    pub peers: Peers,
    /// Budgets.
    pub budgets: Vec<Budget>,
    /// When a person is asked.
    pub approvals: Approvals,
    /// Labels that tools may put on a session.
    pub labels: BTreeSet<String>,
    /// What survives a session.
    pub memory: Memory,
    /// Host paths that no argument may point into.
    pub protected: Vec<String>,
    /// The threats that answer for `protected`.
    pub protected_answers: Vec<ThreatId>,
    /// Rules in file order; order never matters to a decision.
    pub rules: Vec<Rule>,
    /// Threats that the gate answers under any policy (`[policy] answers`); a closed list, see
    /// [`super::answered_by_gate`].
    pub answers: Vec<ThreatId>,
    /// Threats that nothing here answers and that the operator accepts, each with the reason.
    pub accepted: BTreeMap<ThreatId, String>,
}

/// The profile behind a derived policy, carried so that scores have a declared value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provenance {
    /// The profile's id.
    pub profile: Name,
    /// SHA-256 of the profile's bytes.
    pub digest: Digest,
    /// The factors as declared.
    pub declared: Factors,
    /// Threats that the profile names, present or assumed; `check` wants a rule for each.
    pub threats: Vec<ThreatId>,
    /// Those of `threats` that are taken as present without the profile being sure of them.
    pub assumed: Vec<ThreatId>,
    /// CVSS v4.0 base vector, when the profile has one.
    pub cvss: Option<String>,
    /// AIVSS threat multiplier in hundredths, when the profile has one.
    pub threat_multiplier: Option<u16>,
    /// AIVSS mitigation factor in hundredths, when the profile has one.
    pub mitigation: Option<u16>,
    /// CVSS base score in tenths, when the listing gives the number without its vector.
    pub cvss_base: Option<u8>,
}

/// A tool of the host.
#[derive(Clone, Debug, PartialEq)]
pub struct Tool {
    /// Exact name.
    pub name: String,
    /// Its effect on the world; with `shell`, the strictest that a command line may have.
    pub effect: EffectClass,
    /// The argument that is a command line, judged by the programs that it runs.
    pub shell: Option<String>,
    /// Constraints by argument; an argument without a row is denied unless `extra_args`.
    pub args: BTreeMap<String, ArgRule>,
    /// True when arguments without a row pass unchecked.
    pub extra_args: bool,
    /// What one call reserves besides itself.
    pub cost: Cost,
    /// Labels that its results put on the session.
    pub labels: Vec<String>,
    /// Threats that the constraints answer.
    pub answers: Vec<ThreatId>,
    /// Line of the `[[tool]]` header.
    pub line: usize,
}

impl Tool {
    /// The classes that a call of it can have, mildest first: one, unless it takes command lines.
    pub fn classes(&self) -> impl Iterator<Item = EffectClass> + use<> {
        let (most, open) = (self.effect, self.shell.is_some());
        let mild = move |class: &EffectClass| open && class.strictness() < most.strictness();
        EffectClass::ALL.into_iter().filter(move |class| *class == most || mild(class))
    }
}

/// What one call of a tool reserves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost(pub Amounts);

/// A model, as far as it costs something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    /// Exact name.
    pub name: String,
    /// The most tokens, read and written together, that a call may use which does not say so itself.
    pub max_tokens: Option<u64>,
    /// What its tokens cost; `None` is a price that nobody knows.
    pub price: Option<Price>,
    /// Line of the `[[model]]` header.
    pub line: usize,
}

/// Constraint on one argument.
#[derive(Clone, Debug, PartialEq)]
pub struct ArgRule {
    /// Its type.
    pub kind: ArgType,
    /// True when the call must have it.
    pub required: bool,
    /// Lowest value of a number.
    pub min: Option<f64>,
    /// Highest value of a number.
    pub max: Option<f64>,
    /// Most bytes of a string, or elements of an array or object.
    pub max_len: Option<u64>,
    /// The only values, as JSON.
    pub one_of: Vec<serde_json::Value>,
    /// Absolute, normalised folders of which one must contain the path.
    pub path_within: Vec<String>,
    /// Hosts of which one must be the URL's host; `*.x.y` covers subdomains.
    pub host_in: Vec<String>,
}

/// The type of an argument, in the tagged form of `docs/protocol.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArgType {
    /// A string.
    String,
    /// An integer.
    Integer,
    /// An integer or a float.
    Number,
    /// True or false.
    Boolean,
    /// A list.
    Array,
    /// A mapping.
    Object,
    /// A handle on a host object.
    Handle,
    /// Anything.
    Any,
}

/// What generated code may use.
#[derive(Clone, Debug, PartialEq)]
pub struct Code {
    /// Modules that may be imported.
    pub imports: Vec<String>,
    /// Folders.
    pub files: Vec<Preopen>,
    /// The session's own folder.
    pub scratch: Option<Scratch>,
    /// Packages: each is pinned with its digest in a registry of this policy.
    pub packages: Vec<Package>,
    /// The clock.
    pub clock: Clock,
    /// The randomness.
    pub randomness: Randomness,
    /// When a session's state is put aside.
    pub checkpoint: Checkpoint,
    /// What is kept for a replay.
    pub record: Record,
    /// Bounds of one execution.
    pub limits: CodeLimits,
    /// Threats answered.
    pub answers: Vec<ThreatId>,
}

/// The tier whose accounts a budget limits: each account of that tier by itself.
pub use crate::model::Tier as Scope;

/// What a gate draws of a shared budget beyond what it needs, and what may lie unused there; 0 draws what is needed and
/// gives back what was not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease(pub u64);

/// A limit on one kind in one scope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    /// A name, for messages.
    pub id: String,
    /// Whose account.
    pub scope: Scope,
    /// What is counted.
    pub kind: Kind,
    /// The most that posted and pending amounts may reach, or what may be reserved in the window.
    pub limit: u64,
    /// Over which time it counts.
    pub window: Window,
    /// Several gates share it, with this lease; `None` when it is this gate's alone.
    pub shared: Option<Lease>,
    /// At the cap: deny, or ask a person for one more call.
    pub at_cap: Effect,
    /// Threats answered.
    pub answers: Vec<ThreatId>,
    /// True when the profile did not state the threat.
    pub assumed: bool,
    /// Line of the `[[budget]]` header.
    pub line: usize,
}

/// When a person is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Approvals {
    /// How long an answer is awaited before the call is denied.
    pub timeout: Millis,
}

/// What survives a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memory {
    /// How long the variables of generated code live.
    pub survive: Keep,
    /// Threats answered.
    pub answers: Vec<ThreatId>,
}

/// One rule.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Its id, unique in the policy.
    pub id: String,
    /// Allow, ask or deny.
    pub effect: Effect,
    /// Actions that it speaks of; never empty.
    pub actions: Vec<Action>,
    /// Exact resource names; empty means all.
    pub resources: Vec<String>,
    /// Effect classes of tools; empty means all.
    pub effects: Vec<EffectClass>,
    /// Resource names that it does not speak of.
    pub except: Vec<String>,
    /// Cedar condition, parsed; `None` means always.
    pub when: Option<String>,
    /// Threats answered.
    pub answers: Vec<ThreatId>,
    /// True when the profile did not state the threat and it is taken as present.
    pub assumed: bool,
    /// Why, for the text of a denial.
    pub reason: String,
    /// Examples that must hold at load.
    pub expect: Vec<Expect>,
    /// Line of the `[[rule]]` header.
    pub line: usize,
}

/// An example inside a rule: a call and the decision of the whole policy on it.
#[derive(Clone, Debug, PartialEq)]
pub struct Expect {
    /// The action; the rule's first action when absent from the file.
    pub action: Action,
    /// The resource's name.
    pub resource: String,
    /// The arguments.
    pub args: serde_json::Map<String, serde_json::Value>,
    /// Labels on the session.
    pub labels: Vec<String>,
    /// The decision expected.
    pub decision: Effect,
    /// Line of the example.
    pub line: usize,
}

/// One fault of a policy, profile or listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultAt {
    /// File name as given by the user.
    pub file: String,
    /// Line, from 1; 0 when the fault is of the whole file.
    pub line: usize,
    /// What is wrong and what would be right.
    pub text: String,
}

/// Every fault found, in file order; never empty as an error.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults(pub Vec<FaultAt>);

impl Faults {
    /// Notes one fault.
    pub fn push(&mut self, file: &str, line: usize, text: impl Into<String>) {
        self.0.push(FaultAt { file: file.to_owned(), line, text: text.into() });
    }

    /// `value` when nothing is wrong, all faults otherwise.
    ///
    /// # Errors
    /// Itself, sorted by line.
    pub fn or<T>(mut self, value: T) -> Result<T, Self> {
        if self.0.is_empty() {
            return Ok(value);
        }
        self.0.sort_by_key(|fault| fault.line);
        Err(self)
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.0.iter().enumerate() {
            let end = if index + 1 == self.0.len() { "" } else { "\n" };
            if fault.line == 0 {
                write!(f, "{}: {}{end}", fault.file, fault.text)?;
            } else {
                write!(f, "{}:{}: {}{end}", fault.file, fault.line, fault.text)?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}
