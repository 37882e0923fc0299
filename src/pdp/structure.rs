//! What a policy says about a call before any rule: known tools with their arguments, granted
//! modules, pinned packages, known peers, protected paths.
//!
//! Each refusal says what would have been allowed. Nothing here allows: rules do.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use serde_json::{Map, Value};

use super::tokens::token_bound;
use super::{argument, compute, within_bounds};
use crate::model::{Action, Amounts, Call, Effect, EffectClass, Kind, Limits, Reason, ReasonCode};
use crate::policy::Policy;

/// The reason to refuse `call` whatever the rules say.
pub(super) fn refusal(policy: &Policy, call: &Call) -> Option<Reason> {
    unbounded(call).or_else(|| delegation(policy, call)).or_else(|| protected(policy, call)).or_else(|| {
        match call.action {
            Action::ToolCall => tool(policy, call),
            Action::CodeRun => code(policy, call),
            Action::CodeImport => import(policy, call),
            Action::AgentInvoke => peer(policy, call),
            Action::ModelGenerate => model(policy, call),
            Action::PackageFetch => package(policy, call),
            Action::PackagePublish => publication(policy, call),
            Action::JobLaunch => compute::job(policy, call),
            Action::ProcessRun => compute::process(policy, call),
        }
    })
}

fn unbounded(call: &Call) -> Option<Reason> {
    (!within_bounds(&call.args)).then(|| {
        let (depth, bytes) = (Limits::JSON_DEPTH, Limits::JSON_BYTES);
        let detail = "the arguments are deeper or larger than the gate takes";
        Reason::new(ReasonCode::Malformed, detail)
            .instead(format!("{depth} levels, {} elements and {bytes} bytes", Limits::JSON_NODES))
    })
}

fn delegation(policy: &Policy, call: &Call) -> Option<Reason> {
    let depth = call.subject.delegation.len() + usize::from(call.action == Action::AgentInvoke);
    let max = usize::from(policy.peers.max_depth);
    (depth > max).then(|| {
        let detail = format!("delegation of depth {depth} is deeper than {max}");
        Reason::new(ReasonCode::DelegationDepth, detail).by("peers", &policy.peers.answers)
    })
}

fn protected(policy: &Policy, call: &Call) -> Option<Reason> {
    // Programs are strings too, but what they touch is bounded by the sandbox, not by their text.
    if call.action == Action::CodeRun {
        return None;
    }
    let shown = touching(policy, &call.args)?;
    let reason = Reason::new(ReasonCode::ProtectedPath, format!("`{shown}` is a protected path"));
    Some(reason.by("protected", &policy.protected_answers))
}

/// The first text anywhere in `args`, keys and tagged values included, that points into a protected
/// path; cut for the message.
fn touching(policy: &Policy, args: &Map<String, Value>) -> Option<String> {
    if policy.protected.is_empty() {
        return None;
    }
    let shown = |text: &str| policy.touches_protected(text).then(|| text.chars().take(60).collect::<String>());
    let of_keys = |map: &Map<String, Value>| map.keys().find_map(|key| shown(key));
    let mut stack: Vec<&Value> = args.values().collect();
    if let Some(found) = of_keys(args) {
        return Some(found);
    }
    while let Some(value) = stack.pop() {
        let found = match value {
            Value::String(text) => shown(text),
            Value::Array(items) => {
                stack.extend(items);
                untagged(items).and_then(|text| shown(&text))
            }
            Value::Object(map) => {
                stack.extend(map.values());
                of_keys(map)
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => None,
        };
        if found.is_some() {
            return found;
        }
    }
    None
}

/// The text that the host will see for tagged `str`, `bytes` and `bytearray` values, which travel in
/// base64: a path must not pass because it is written that way. Taken by their look wherever they
/// stand, for a false find only denies.
fn untagged(parts: &[Value]) -> Option<String> {
    let [Value::String(tag), Value::String(text)] = parts else { return None };
    if !matches!(tag.as_str(), "str" | "bytes" | "bytearray") {
        return None;
    }
    let bytes = STANDARD.decode(text).or_else(|_| STANDARD_NO_PAD.decode(text)).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn tool(policy: &Policy, call: &Call) -> Option<Reason> {
    let name = call.resource.name.as_str();
    let Some(tool) = policy.tools.get(name) else {
        let detail = format!("the policy has no tool `{name}`");
        return Some(Reason::new(ReasonCode::UnknownTool, detail).instead(instead(policy, call)));
    };
    if tool.effect == EffectClass::Spend && !priced(&tool.cost.0) {
        let detail = format!("the policy gives no price for `{name}`, which spends");
        return Some(Reason::new(ReasonCode::UnknownPrice, detail).by(format!("tool {name}"), &tool.answers));
    }
    if tool.effect == EffectClass::Network
        && limits(policy, Kind::EgressBytes)
        && tool.cost.0.of(Kind::EgressBytes) == 0
    {
        let detail =
            format!("a budget limits the bytes sent, and the policy does not say how many `{name}` sends at most");
        return Some(Reason::new(ReasonCode::UnknownPrice, detail).by(format!("tool {name}"), &tool.answers));
    }
    let (detail, allowed) = argument::fault(tool, &call.args)?;
    Some(Reason::new(ReasonCode::BadArgument, detail).instead(allowed).by(format!("tool {name}"), &tool.answers))
}

/// Whether a cost states money, or what money is paid for.
pub(super) fn priced(cost: &Amounts) -> bool {
    [Kind::MicroUsd, Kind::Tokens, Kind::GpuMs].iter().any(|kind| cost.of(*kind) > 0)
}

fn code(policy: &Policy, call: &Call) -> Option<Reason> {
    if policy.code.is_none() {
        return Some(Reason::new(ReasonCode::NoCode, "the policy grants no execution of generated code"));
    }
    let known = |key: &str| matches!(key, "code" | "variables");
    let sound = call.args.get("code").is_some_and(Value::is_string)
        && call.args.get("variables").is_none_or(Value::is_object)
        && call.args.keys().all(|key| known(key));
    (!sound).then(|| Reason::new(ReasonCode::Malformed, "a program is a string `code` and an object `variables`"))
}

fn import(policy: &Policy, call: &Call) -> Option<Reason> {
    let name = call.resource.name.as_str();
    let imports = policy.code.as_ref().map(|code| code.imports.as_slice()).unwrap_or_default();
    if granted(imports, name) {
        return None;
    }
    let answers = policy.code.as_ref().map(|code| code.answers.as_slice()).unwrap_or_default();
    let detail = format!("Import of {name} is not allowed");
    Some(Reason::new(ReasonCode::ImportDenied, detail).instead(instead(policy, call)).by("code.imports", answers))
}

/// Whether `imports` grants `module`: itself or a package above it.
fn granted(imports: &[String], module: &str) -> bool {
    imports
        .iter()
        .any(|grant| module == grant || module.strip_prefix(grant.as_str()).is_some_and(|rest| rest.starts_with('.')))
}

fn peer(policy: &Policy, call: &Call) -> Option<Reason> {
    let name = call.resource.name.as_str();
    if policy.peers.names.contains(name) {
        return None;
    }
    let reason = Reason::new(ReasonCode::UnknownPeer, format!("`{name}` is not a known agent"));
    Some(reason.instead(instead(policy, call)).by("peers", &policy.peers.answers))
}

/// Whether a budget of the policy limits `kind`.
pub(super) fn limits(policy: &Policy, kind: Kind) -> bool {
    policy.budgets.iter().any(|budget| budget.kind == kind)
}

fn model(policy: &Policy, call: &Call) -> Option<Reason> {
    if token_bound(policy, call).is_none() {
        let detail = "the call names no upper bound of tokens, so its cost is unknown";
        let instead = "max_tokens as an integer, or max_input_tokens and max_output_tokens";
        return Some(Reason::new(ReasonCode::BadArgument, detail).instead(instead));
    }
    let name = call.resource.name.as_str();
    let priced = policy.models.get(name).is_some_and(|model| model.price.is_some());
    // Where models have prices, one without is a price that nobody knows, and not a free one.
    (!policy.models.is_empty() && limits(policy, Kind::MicroUsd) && !priced).then(|| {
        let known = policy.models.values().filter(|model| model.price.is_some()).map(|model| model.name.as_str());
        let known: Vec<&str> = known.take(12).collect();
        let allowed = if known.is_empty() { String::new() } else { format!("models {}", known.join(", ")) };
        let detail = format!("a budget limits money, and the policy gives no price for the model `{name}`");
        Reason::new(ReasonCode::UnknownPrice, detail).instead(allowed)
    })
}

fn package(policy: &Policy, call: &Call) -> Option<Reason> {
    let name = call.resource.name.as_str();
    let registry = call.resource.registry.as_ref().map_or("", |registry| registry.as_str());
    let Some(known) = policy.registries.get(registry) else {
        let detail = format!("no registry `{registry}` is allowed");
        return Some(Reason::new(ReasonCode::UnpinnedPackage, detail).instead(instead(policy, call)));
    };
    let revision = call.resource.revision.as_ref().map_or("", |revision| revision.as_str());
    let pin = known.pins.iter().find(|pin| {
        pin.name == name && pin.revision == revision && (pin.digest.is_none() || pin.digest == call.resource.digest)
    });
    let reason = match pin {
        None => {
            let detail = format!("`{name}` at `{revision}` is not pinned in registry `{registry}`");
            Reason::new(ReasonCode::UnpinnedPackage, detail).instead(instead(policy, call))
        }
        // What does not say that it is no code is taken for some only where the surface looked.
        Some(pin) if !pin.code && call.args.get("code").is_some_and(|code| *code != Value::Bool(false)) => {
            let path = call.args.get("path").and_then(Value::as_str).unwrap_or("this file");
            let detail = format!("`{}` of `{name}` runs as code when it is loaded", visible(path));
            let allowed = "safetensors, gguf and JSON files, or a pin with `code = true`";
            Reason::new(ReasonCode::UnpinnedPackage, detail).instead(allowed)
        }
        Some(_) => return None,
    };
    Some(reason.by(format!("registry {registry}"), &known.answers))
}

/// The beginning of a text of the caller's, for a message.
pub(super) fn visible(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(60).collect()
}

fn publication(policy: &Policy, call: &Call) -> Option<Reason> {
    let name = call.resource.name.as_str();
    let registry = call.resource.registry.as_ref().map_or("", |registry| registry.as_str());
    let Some(known) = policy.registries.get(registry) else {
        return Some(Reason::new(ReasonCode::NotWritable, format!("no registry `{registry}` is allowed")));
    };
    if known.writable.contains(name) {
        // What is sent counts before it is sent.
        let stated = call.args.get("bytes").is_some_and(Value::is_u64);
        let detail = "a publication states how many bytes it sends, in `bytes`";
        return (!stated).then(|| Reason::new(ReasonCode::BadArgument, detail).instead("bytes as a whole number"));
    }
    let reason = Reason::new(ReasonCode::NotWritable, format!("`{name}` may not be changed in registry `{registry}`"));
    Some(reason.instead(instead(policy, call)).by(format!("registry {registry}"), &known.answers))
}

/// Names of what is allowed in place of `call`.
pub(super) fn instead(policy: &Policy, call: &Call) -> String {
    let list = |kind: &str, names: Vec<&str>| match names.len() {
        0 => String::new(),
        n if n > 12 => format!("{kind} {}, … ({n} in all)", names.get(..12).unwrap_or_default().join(", ")),
        _ => format!("{kind} {}", names.join(", ")),
    };
    match call.action {
        Action::ToolCall => {
            let open = policy.tools.keys().filter(|name| name.as_str() != call.resource.name.as_str());
            list("tools", open.map(String::as_str).collect())
        }
        Action::CodeImport => {
            let imports = policy.code.as_ref().map(|code| code.imports.as_slice()).unwrap_or_default();
            let packages = policy.code.iter().flat_map(|code| &code.packages).map(|package| package.name.as_str());
            // What a package holds is known where it is prepared: its own modules are imported there without a call.
            let packages = list("the modules of the packages", packages.collect());
            let modules = list("modules", imports.iter().map(String::as_str).collect());
            [modules, packages].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("; ")
        }
        Action::AgentInvoke => list("agents", policy.peers.names.iter().map(String::as_str).collect()),
        Action::PackageFetch => {
            let pins = policy.registries.values().flat_map(|registry| &registry.pins);
            list("packages", pins.map(|pin| pin.name.as_str()).collect())
        }
        Action::CodeRun => {
            let open =
                policy.rules.iter().filter(|rule| rule.effect != Effect::Deny && rule.actions.contains(&call.action));
            let names: BTreeSet<&str> = open.flat_map(|rule| &rule.resources).map(String::as_str).collect();
            list("languages", names.into_iter().filter(|name| *name != call.resource.name.as_str()).collect())
        }
        Action::PackagePublish => {
            let open = policy.registries.values().flat_map(|registry| &registry.writable);
            list("names", open.map(String::as_str).collect())
        }
        Action::JobLaunch => {
            let flavors = policy.jobs.iter().flat_map(|jobs| jobs.flavors.keys());
            list("flavors", flavors.map(String::as_str).collect())
        }
        Action::ProcessRun => {
            let programs = policy.exec.iter().flat_map(|exec| &exec.programs);
            list("programs", programs.map(String::as_str).collect())
        }
        Action::ModelGenerate => String::new(),
    }
}
