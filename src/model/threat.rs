//! The closed table of threats that profiles may name and policies must answer.
//!
//! Layers are those of MAESTRO (Cloud Security Alliance, 2025-02-06). A threat is written
//! `L<layer>/<slug>`.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// A MAESTRO layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Layer {
    /// Foundation models.
    L1,
    /// Data operations.
    L2,
    /// Agent frameworks.
    L3,
    /// Deployment and infrastructure.
    L4,
    /// Evaluation and observability.
    L5,
    /// Security and compliance.
    L6,
    /// Agent ecosystem.
    L7,
}

impl Layer {
    /// Every layer, in order.
    pub const ALL: [Self; 7] = [Self::L1, Self::L2, Self::L3, Self::L4, Self::L5, Self::L6, Self::L7];

    /// `L1` to `L7`.
    #[must_use]
    pub const fn word(self) -> &'static str {
        ["L1", "L2", "L3", "L4", "L5", "L6", "L7"][self as usize]
    }

    /// The layer's name in MAESTRO.
    #[must_use]
    pub const fn title(self) -> &'static str {
        [
            "Foundation Models",
            "Data Operations",
            "Agent Frameworks",
            "Deployment and Infrastructure",
            "Evaluation and Observability",
            "Security and Compliance",
            "Agent Ecosystem",
        ][self as usize]
    }
}

/// One row of [`THREATS`].
#[derive(Clone, Copy, Debug)]
pub struct ThreatRow {
    /// The id, `L3/tool-misuse`.
    pub id: &'static str,
    /// The layer.
    pub layer: Layer,
    /// The name in the catalogue.
    pub title: &'static str,
    /// Words in a listing's paragraph that name this threat, in lower case.
    pub words: &'static [&'static str],
}

macro_rules! threat {
    ($layer:ident, $id:literal, $title:literal, [$($word:literal),+]) => {
        ThreatRow { id: $id, layer: Layer::$layer, title: $title, words: &[$($word),+] }
    };
}

/// Every known threat, by layer. CSA's names, and those that listings use where CSA has none.
pub const THREATS: &[ThreatRow] = &[
    threat!(L1, "L1/prompt-injection", "Prompt Injection", ["prompt injection"]),
    threat!(
        L1,
        "L1/misaligned-outputs",
        "Misaligned Outputs",
        ["misaligned output", "mis-aligned output", "misalignment"]
    ),
    threat!(L1, "L1/adversarial-examples", "Adversarial Examples", ["adversarial example"]),
    threat!(L1, "L1/model-stealing", "Model Stealing", ["model stealing", "model theft"]),
    threat!(L1, "L1/backdoor-attacks", "Backdoor Attacks", ["backdoor"]),
    threat!(L1, "L1/membership-inference-attacks", "Membership Inference Attacks", ["membership inference"]),
    threat!(L1, "L1/data-poisoning", "Data Poisoning (Training Phase)", ["data poisoning", "poisoned training"]),
    threat!(L1, "L1/reprogramming-attacks", "Reprogramming Attacks", ["reprogramming"]),
    threat!(L1, "L1/denial-of-service", "Denial of Service (DoS) Attacks", ["denial of service", "denial-of-service"]),
    threat!(L2, "L2/data-poisoning", "Data Poisoning", ["data poisoning", "poisoned data"]),
    threat!(L2, "L2/data-exfiltration", "Data Exfiltration", ["exfiltration", "exfiltrate"]),
    threat!(
        L2,
        "L2/denial-of-service",
        "Denial of Service on Data Infrastructure",
        ["denial of service", "denial-of-service"]
    ),
    threat!(L2, "L2/data-tampering", "Data Tampering", ["tampering"]),
    threat!(
        L2,
        "L2/compromised-rag-pipelines",
        "Compromised RAG Pipelines",
        ["compromised rag", "rag poisoning", "poisoned retrieval"]
    ),
    threat!(L3, "L3/tool-misuse", "Tool Misuse", ["tool misuse", "misuse of tools"]),
    threat!(L3, "L3/insecure-tool-integration", "Insecure Tool Integration", ["insecure tool integration"]),
    threat!(
        L3,
        "L3/arbitrary-code-execution",
        "Arbitrary Code Execution",
        ["arbitrary code execution", "remote code execution", "code generation", "code execution"]
    ),
    threat!(L3, "L3/loop-hijacking", "Hijacked Autonomous Loop", ["hijack", "runaway loop"]),
    threat!(
        L3,
        "L3/compromised-framework-components",
        "Compromised Framework Components",
        ["compromised framework", "compromised component"]
    ),
    threat!(L3, "L3/backdoor-attacks", "Backdoor Attacks", ["backdoor"]),
    threat!(L3, "L3/input-validation-attacks", "Input Validation Attacks", ["input validation", "prompt injection"]),
    threat!(L3, "L3/supply-chain-attacks", "Supply Chain Attacks", ["supply chain", "supply-chain"]),
    threat!(
        L3,
        "L3/denial-of-service",
        "Denial of Service on Framework APIs",
        ["denial of service", "denial-of-service"]
    ),
    threat!(L3, "L3/framework-evasion", "Framework Evasion", ["framework evasion"]),
    threat!(L4, "L4/sandbox-escape", "Sandbox Escape", ["sandbox escape", "container escape", "sandboxing"]),
    threat!(
        L4,
        "L4/credential-theft",
        "Credential Theft",
        ["credential theft", "stolen credential", "secrets management", "leaked secret"]
    ),
    threat!(L4, "L4/compromised-container-images", "Compromised Container Images", ["container image"]),
    threat!(L4, "L4/orchestration-attacks", "Orchestration Attacks", ["orchestration attack"]),
    threat!(
        L4,
        "L4/iac-manipulation",
        "Infrastructure-as-Code (IaC) Manipulation",
        ["infrastructure-as-code", "infrastructure as code"]
    ),
    threat!(L4, "L4/denial-of-service", "Denial of Service (DoS) Attacks", ["denial of service", "denial-of-service"]),
    threat!(
        L4,
        "L4/resource-hijacking",
        "Resource Hijacking",
        ["resource hijacking", "resource consumption", "resource abuse", "cryptomining"]
    ),
    threat!(L4, "L4/lateral-movement", "Lateral Movement", ["lateral movement"]),
    threat!(L5, "L5/missing-audit-trail", "Missing Audit Trail", ["logging", "audit trail", "monitoring"]),
    threat!(
        L5,
        "L5/manipulation-of-evaluation-metrics",
        "Manipulation of Evaluation Metrics",
        ["evaluation gaming", "evaluation metrics", "metric manipulation"]
    ),
    threat!(L5, "L5/compromised-observability-tools", "Compromised Observability Tools", ["compromised observability"]),
    threat!(
        L5,
        "L5/denial-of-service",
        "Denial of Service on Evaluation Infrastructure",
        ["denial of service", "denial-of-service"]
    ),
    threat!(
        L5,
        "L5/evasion-of-detection",
        "Evasion of Detection",
        ["evasion of detection", "blind spot", "undetected"]
    ),
    threat!(
        L5,
        "L5/data-leakage-through-observability",
        "Data Leakage through Observability",
        ["data leakage", "leak into logs"]
    ),
    threat!(
        L5,
        "L5/poisoning-observability-data",
        "Poisoning Observability Data",
        ["log poisoning", "poisoning observability", "log tampering"]
    ),
    threat!(
        L6,
        "L6/missing-access-control",
        "Missing Access Control",
        ["access control", "access management", "identity management"]
    ),
    threat!(L6, "L6/regulatory-non-compliance", "Regulatory Non-Compliance by AI Security Agents", ["compliance"]),
    threat!(L6, "L6/privilege-escalation", "Privilege Escalation", ["privilege escalation"]),
    threat!(L6, "L6/security-agent-data-poisoning", "Security Agent Data Poisoning", ["security agent data poisoning"]),
    threat!(L6, "L6/evasion-of-security-agents", "Evasion of Security AI Agents", ["evasion of security"]),
    threat!(L6, "L6/compromised-security-agents", "Compromised Security AI Agents", ["compromised security"]),
    threat!(L6, "L6/bias", "Bias in Security AI Agents", ["bias"]),
    threat!(L6, "L6/lack-of-explainability", "Lack of Explainability in Security AI Agents", ["explainability"]),
    threat!(L6, "L6/model-extraction", "Model Extraction of AI Security Agents", ["model extraction"]),
    threat!(L7, "L7/supply-chain", "Supply Chain", ["supply chain", "supply-chain"]),
    threat!(L7, "L7/cascading-failures", "Cascading Failures", ["cascading failure"]),
    threat!(L7, "L7/agent-trust-abuse", "Agent-to-Agent Trust Abuse", ["trust abuse"]),
    threat!(L7, "L7/rogue-agents", "Rogue Agents", ["rogue"]),
    threat!(L7, "L7/compromised-agents", "Compromised Agents", ["compromised agent"]),
    threat!(L7, "L7/agent-impersonation", "Agent Impersonation", ["impersonat"]),
    threat!(L7, "L7/agent-identity-attack", "Agent Identity Attack", ["identity attack", "identity spoofing"]),
    threat!(L7, "L7/agent-tool-misuse", "Agent Tool Misuse", ["tool misuse"]),
    threat!(L7, "L7/agent-goal-manipulation", "Agent Goal Manipulation", ["goal manipulation"]),
    threat!(L7, "L7/marketplace-manipulation", "Marketplace Manipulation", ["marketplace"]),
    threat!(L7, "L7/integration-risks", "Integration Risks", ["integration risk"]),
    threat!(L7, "L7/solution-vulnerabilities", "Horizontal/Vertical Solution Vulnerabilities", ["vertical solution"]),
    threat!(L7, "L7/repudiation", "Repudiation", ["repudiat"]),
    threat!(
        L7,
        "L7/compromised-agent-registry",
        "Compromised Agent Registry",
        ["public registry", "compromised registry", "agent registry"]
    ),
    threat!(L7, "L7/malicious-agent-discovery", "Malicious Agent Discovery", ["agent discovery"]),
    threat!(L7, "L7/pricing-model-manipulation", "Agent Pricing Model Manipulation", ["pricing model"]),
    threat!(
        L7,
        "L7/inaccurate-capability-description",
        "Inaccurate Agent Capability Description",
        ["capability description"]
    ),
];

/// A threat out of [`THREATS`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ThreatId(u16);

impl ThreatId {
    /// The threat written `text`, if the table has it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let index = THREATS.iter().position(|row| row.id == text)?;
        u16::try_from(index).ok().map(Self)
    }

    /// Its row.
    #[must_use]
    pub fn row(self) -> &'static ThreatRow {
        &THREATS[usize::from(self.0)]
    }

    /// Its id.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.row().id
    }

    /// Every threat of the table.
    pub fn all() -> impl Iterator<Item = Self> {
        THREATS.iter().filter_map(|row| Self::parse(row.id))
    }
}

impl fmt::Display for ThreatId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for ThreatId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for ThreatId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for ThreatId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| D::Error::custom(format!("unknown threat `{text}`")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_unique_and_begin_with_their_layer() {
        for (index, row) in THREATS.iter().enumerate() {
            assert!(row.id.starts_with(&format!("{}/", row.layer.word())), "{}", row.id);
            assert_eq!(ThreatId::parse(row.id).map(|id| usize::from(id.0)), Some(index), "{}", row.id);
        }
    }

    #[test]
    fn words_are_lower_case_and_lead_to_one_threat_of_their_layer() {
        for row in THREATS {
            for word in row.words {
                assert_eq!(*word, word.to_lowercase(), "{}", row.id);
                let owners = THREATS.iter().filter(|other| other.layer == row.layer && other.words.contains(word));
                assert_eq!(owners.count(), 1, "{word} in {}", row.layer.word());
            }
        }
    }

    #[test]
    fn every_layer_has_threats_in_layer_order() {
        assert!(THREATS.windows(2).all(|pair| pair[0].layer <= pair[1].layer));
        assert!(Layer::ALL.iter().all(|layer| THREATS.iter().any(|row| row.layer == *layer)));
    }
}
