//! Which part of a policy answers which threat, by layer.

use serde::Serialize;

use super::super::Policy;
use crate::model::{Layer, ThreatId};

/// The threats of one layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LayerCoverage {
    /// The layer.
    pub layer: Layer,
    /// Its threats that the profile names or assumes.
    pub threats: Vec<ThreatCoverage>,
}

/// One threat and what answers it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ThreatCoverage {
    /// The threat.
    pub threat: ThreatId,
    /// True when the profile is not sure of it.
    pub assumed: bool,
    /// Why it is accepted, when it is.
    pub accepted: Option<String>,
    /// The parts of the policy that name it: `rule tools-allowed`, `budget calls`, `[code]`.
    pub answered_by: Vec<String>,
}

/// The threats of the policy's profile by layer, L1 to L7, each with what answers it.
#[must_use]
pub fn coverage(policy: &Policy) -> Vec<LayerCoverage> {
    let profile = policy.provenance.as_ref();
    let threats = profile.map(|profile| profile.threats.as_slice()).unwrap_or_default();
    let assumed = profile.map(|profile| profile.assumed.as_slice()).unwrap_or_default();
    let of_layer = |layer| {
        let mut threats: Vec<_> = threats.iter().copied().filter(|threat| threat.row().layer == layer).collect();
        threats.sort_unstable();
        let cover = |threat: ThreatId| ThreatCoverage {
            threat,
            assumed: assumed.contains(&threat),
            accepted: policy.accepted.get(&threat).cloned(),
            answered_by: answerers(policy, threat),
        };
        LayerCoverage { layer, threats: threats.into_iter().map(cover).collect() }
    };
    Layer::ALL.into_iter().map(of_layer).collect()
}

/// Every part of `policy` that names `threat` as answered, in the order of the file.
pub(super) fn answerers(policy: &Policy, threat: ThreatId) -> Vec<String> {
    let mut parts: Vec<(String, &[ThreatId])> = vec![("the gate itself".into(), &policy.answers)];
    parts.extend(policy.tools.values().map(|tool| (format!("tool {}", tool.name), tool.answers.as_slice())));
    let programs = policy.programs.values();
    parts.extend(programs.map(|program| (format!("program {}", program.name), program.answers.as_slice())));
    parts.extend(policy.code.iter().map(|code| ("[code]".into(), code.answers.as_slice())));
    parts.extend(policy.registries.values().map(|r| (format!("registry {}", r.name), r.answers.as_slice())));
    parts.push(("[peers]".into(), &policy.peers.answers));
    parts.extend(policy.budgets.iter().map(|budget| (format!("budget {}", budget.id), budget.answers.as_slice())));
    parts.push(("[memory]".into(), &policy.memory.answers));
    parts.push(("[protected]".into(), &policy.protected_answers));
    parts.extend(policy.rules.iter().map(|rule| (format!("rule {}", rule.id), rule.answers.as_slice())));
    parts.into_iter().filter(|(_, answers)| answers.contains(&threat)).map(|(part, _)| part).collect()
}
