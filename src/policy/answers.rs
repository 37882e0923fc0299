//! What answers which threat: one closed table, read by derivation and by the check of `[policy] answers`.
//!
//! An answer is claimed only where the control truly bears on the threat. A threat that no control
//! of the gate bears on is accepted, with the reason written into the policy.

use super::default_threat;
use crate::model::{Layer, ThreatId};

/// A part of a derived policy that can answer a threat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Control {
    /// The gate's own line under any policy: default deny, identity from the connection, a durable
    /// and chained record before anything runs.
    Gate,
    /// Exact tools with effect classes, and the rule that allows the mild ones.
    Tools,
    /// A person is asked before the other classes.
    Outward,
    /// Tools that execute are denied.
    Exec,
    /// Generated code: sandbox, imports, limits.
    Code,
    /// Budgets of calls.
    Calls,
    /// Budgets of time, fuel, memory, output, GPUs.
    Compute,
    /// The budget of tokens.
    Tokens,
    /// Budgets of money.
    Money,
    /// Registries with pins.
    Registry,
    /// Peers and depth.
    Peers,
    /// How long variables live.
    Memory,
    /// Protected paths.
    Protected,
    /// A person is asked once the session has read untrusted data.
    Untrusted,
    /// A person is asked after so many calls.
    Person,
}

/// How one threat is answered.
pub(super) struct Answer {
    /// The threat.
    pub threat: &'static str,
    /// Controls that bear on it; empty when none does.
    pub controls: &'static [Control],
    /// Why it is accepted; empty when `controls` is not.
    pub accepted: &'static str,
}

const fn by(threat: &'static str, controls: &'static [Control]) -> Answer {
    Answer { threat, controls, accepted: "" }
}

const fn accept(threat: &'static str, accepted: &'static str) -> Answer {
    Answer { threat, controls: &[], accepted }
}

use Control::{
    Calls, Code, Compute, Exec, Gate, Memory, Money, Outward, Peers, Person, Protected, Registry, Tokens, Tools,
    Untrusted,
};

/// Every threat of the table in `model`, in its order.
pub(super) const ANSWERS: &[Answer] = &[
    by("L1/prompt-injection", &[Untrusted]),
    by("L1/misaligned-outputs", &[Person]),
    by("L1/adversarial-examples", &[Untrusted]),
    accept(
        "L1/model-stealing",
        "the model's own interface is its provider's; the gate sees only this agent's use of it",
    ),
    accept(
        "L1/backdoor-attacks",
        "a backdoor in a model cannot be seen from its calls; what it does passes the same rules as anything else",
    ),
    accept("L1/membership-inference-attacks", "what a model reveals of its training data is not visible in calls"),
    accept(
        "L1/data-poisoning",
        "a model's training is outside the gate; what a poisoned model does passes the same rules as anything else",
    ),
    by("L1/reprogramming-attacks", &[Untrusted, Person]),
    by("L1/denial-of-service", &[Tokens]),
    by("L2/data-poisoning", &[Untrusted, Memory]),
    by("L2/data-exfiltration", &[Outward]),
    by("L2/denial-of-service", &[Calls]),
    by("L2/data-tampering", &[Outward, Protected]),
    by("L2/compromised-rag-pipelines", &[Untrusted, Memory]),
    by("L3/tool-misuse", &[Tools, Outward]),
    by("L3/insecure-tool-integration", &[Tools]),
    by("L3/arbitrary-code-execution", &[Code, Exec]),
    by("L3/loop-hijacking", &[Calls, Person]),
    by("L3/compromised-framework-components", &[Registry]),
    by("L3/backdoor-attacks", &[Registry]),
    by("L3/input-validation-attacks", &[Tools, Untrusted]),
    by("L3/supply-chain-attacks", &[Registry]),
    by("L3/denial-of-service", &[Calls]),
    by("L3/framework-evasion", &[Code]),
    by("L4/sandbox-escape", &[Code, Exec]),
    by("L4/credential-theft", &[Protected, Code]),
    by("L4/compromised-container-images", &[Registry]),
    by("L4/orchestration-attacks", &[Outward, Peers]),
    by("L4/iac-manipulation", &[Outward]),
    by("L4/denial-of-service", &[Compute]),
    by("L4/resource-hijacking", &[Compute, Money]),
    by("L4/lateral-movement", &[Outward, Peers]),
    by("L5/missing-audit-trail", &[Gate]),
    by("L5/manipulation-of-evaluation-metrics", &[Gate]),
    by("L5/compromised-observability-tools", &[Gate]),
    by("L5/denial-of-service", &[Calls]),
    by("L5/evasion-of-detection", &[Gate]),
    by("L5/data-leakage-through-observability", &[Gate]),
    by("L5/poisoning-observability-data", &[Gate]),
    by("L6/missing-access-control", &[Gate, Outward]),
    accept("L6/regulatory-non-compliance", "the gate keeps the evidence; whether a law is met is for people to judge"),
    by("L6/privilege-escalation", &[Gate, Peers]),
    by("L6/security-agent-data-poisoning", &[Gate]),
    by("L6/evasion-of-security-agents", &[Gate]),
    by("L6/compromised-security-agents", &[Protected]),
    accept("L6/bias", "the gate judges by rules alone; bias of other security agents is outside it"),
    by("L6/lack-of-explainability", &[Gate]),
    accept("L6/model-extraction", "the gate holds no model; those of other security agents are outside it"),
    by("L7/supply-chain", &[Registry]),
    by("L7/cascading-failures", &[Calls, Peers]),
    by("L7/agent-trust-abuse", &[Peers]),
    by("L7/rogue-agents", &[Person, Calls]),
    by("L7/compromised-agents", &[Peers, Outward]),
    by("L7/agent-impersonation", &[Gate]),
    by("L7/agent-identity-attack", &[Gate]),
    by("L7/agent-tool-misuse", &[Tools]),
    by("L7/agent-goal-manipulation", &[Untrusted, Person]),
    by("L7/marketplace-manipulation", &[Registry]),
    by("L7/integration-risks", &[Tools]),
    accept("L7/solution-vulnerabilities", "flaws of the solution around the agent are outside the gate"),
    by("L7/repudiation", &[Gate]),
    by("L7/compromised-agent-registry", &[Registry]),
    by("L7/malicious-agent-discovery", &[Peers]),
    by("L7/pricing-model-manipulation", &[Money]),
    by("L7/inaccurate-capability-description", &[Tools]),
];

/// The row of `threat`.
fn row(threat: ThreatId) -> Option<&'static Answer> {
    ANSWERS.iter().find(|answer| answer.threat == threat.as_str())
}

/// Controls that answer `threat`.
pub(super) fn controls(threat: ThreatId) -> &'static [Control] {
    row(threat).map_or(&[], |answer| answer.controls)
}

/// Why `threat` is accepted, when nothing answers it.
pub(super) fn acceptance(threat: ThreatId) -> Option<&'static str> {
    row(threat).map(|answer| answer.accepted).filter(|reason| !reason.is_empty())
}

/// True when the gate answers `threat` under any policy, so that `[policy] answers` may name it.
#[must_use]
pub fn answered_by_gate(threat: ThreatId) -> bool {
    controls(threat).contains(&Gate)
}

impl Control {
    /// The threat that the control answers as an assumption when the profile calls for none of its own.
    pub(super) fn fallback(self) -> Option<ThreatId> {
        let id = match self {
            Gate => return default_threat(Layer::L5),
            Tools => return default_threat(Layer::L3),
            Registry => return default_threat(Layer::L7),
            Untrusted => return default_threat(Layer::L1),
            Memory => return default_threat(Layer::L2),
            Compute | Money => return default_threat(Layer::L4),
            Outward => "L2/data-exfiltration",
            Exec | Code => "L3/arbitrary-code-execution",
            Calls => "L3/loop-hijacking",
            Tokens => "L1/denial-of-service",
            Peers => "L7/agent-trust-abuse",
            Protected => "L4/credential-theft",
            Person => "L1/misaligned-outputs",
        };
        ThreatId::parse(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::THREATS;

    #[test]
    fn every_threat_is_answered_or_accepted_never_both() {
        let ids: Vec<_> = ANSWERS.iter().map(|answer| answer.threat).collect();
        let wanted: Vec<_> = THREATS.iter().map(|row| row.id).collect();
        assert_eq!(ids, wanted);
        for answer in ANSWERS {
            assert_ne!(answer.controls.is_empty(), answer.accepted.is_empty(), "{}", answer.threat);
        }
    }

    #[test]
    fn a_fallback_is_answered_by_its_control() {
        let all = [
            Gate, Tools, Outward, Exec, Code, Calls, Compute, Tokens, Money, Registry, Peers, Memory, Protected,
            Untrusted, Person,
        ];
        for control in all {
            let threat = control.fallback().unwrap();
            assert!(controls(threat).contains(&control), "{control:?} and {threat}");
        }
    }
}
