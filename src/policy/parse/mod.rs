//! Policy TOML to a checked [`Policy`]: every fault of the file at once.
//!
//! One function per table of `docs/policy.md`. What is absent grants nothing. Whether the rules make
//! sense together is `check`'s question, not asked here.

mod budget;
pub(super) mod code;
mod exec;
mod folder;
mod jobs;
mod model;
mod parties;
mod profile;
mod program;
mod rule;
mod tool;
mod when;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::answers::answered_by_gate;
use super::reader::{At, Fields, Source, list, text_of};
use super::{Approvals, Faults, Memory, Policy};
use crate::model::{Digest, Keep, Limits, Millis, Name, ThreatId};

/// Longest reason of a rule or of an accepted threat, bytes.
const REASON_BYTES: usize = 240;
/// How long a person's answer is awaited when the policy does not say.
const APPROVAL_TIMEOUT: Millis = Millis(120_000);
/// Words of [`Keep`].
const KEEP: [(&str, Keep); 3] = [("nothing", Keep::Nothing), ("run", Keep::Run), ("session", Keep::Session)];

/// Reads a policy.
///
/// # Errors
/// Every fault at once, with its line.
pub fn parse(bytes: &[u8], file: &str) -> Result<Policy, Faults> {
    let text = text_of(bytes, file)?;
    let (source, root) = Source::parse(text, file);
    let policy = read(&Fields::root(&source, &root), Digest::of(bytes), source.file());
    source.finish(policy)
}

fn read(root: &Fields<'_, '_>, digest: Digest, file: &str) -> Option<Policy> {
    if !root.has("policy") {
        root.missing("[policy]");
    }
    let head = root.table("policy", "[policy]").map(|fields| read_head(&fields));
    let provenance = root.table("profile", "[profile]").map(|fields| profile::read(&fields));
    let labels = root.table("labels", "[labels]").map(|fields| read_labels(&fields)).unwrap_or_default();
    let tools = tool::read(root, &labels);
    let programs = program::read(root, &labels);
    let registries = parties::registries(root);
    let code = root.table("code", "[code]").map(|fields| code::read(&fields, &registries));
    let peers = root.table("peers", "[peers]").map(|fields| parties::peers(&fields)).unwrap_or_default();
    let budgets = budget::read(root);
    let models = model::read(root);
    let jobs = root.table("jobs", "[jobs]").map(|fields| jobs::read(&fields));
    let exec = root.table("exec", "[exec]").map(|fields| exec::read(&fields));
    let approvals = read_approvals(root);
    let memory = root.table("memory", "[memory]").map(|fields| read_memory(&fields));
    let (protected, protected_answers) =
        root.table("protected", "[protected]").map(|fields| parties::protected(&fields)).unwrap_or_default();
    let accepted = root.table("accepted", "[accepted]").map(|fields| read_accepted(&fields)).unwrap_or_default();
    let rules = rule::read(root, &labels);
    root.end();
    let (id, answers) = head?;
    Some(Policy {
        id: id?,
        digest,
        file: file.to_owned(),
        provenance: provenance.map_or(Some(None), |read| read.map(Some))?,
        tools,
        programs,
        code: code.map_or(Some(None), |read| read.map(Some))?,
        models,
        registries,
        jobs: jobs.map_or(Some(None), |read| read.map(Some))?,
        exec: exec.map_or(Some(None), |read| read.map(Some))?,
        peers,
        budgets,
        approvals,
        labels,
        memory: memory.unwrap_or(Memory { survive: Keep::Nothing, answers: Vec::new() }),
        protected,
        protected_answers,
        rules,
        answers,
        accepted,
    })
}

fn read_head(fields: &Fields<'_, '_>) -> (Option<Name>, Vec<ThreatId>) {
    let id = fields.need_name("id").map(|id| id.value);
    let answers = fields.threats("answers");
    for threat in answers.iter().filter(|threat| !answered_by_gate(**threat)) {
        let text = format!("the gate alone does not answer `{threat}`; name it in the rule or table that does");
        fields.fault(fields.line, text);
    }
    fields.end();
    (id, answers)
}

fn read_labels(fields: &Fields<'_, '_>) -> BTreeSet<String> {
    let names: BTreeSet<_> = fields.names("names").into_iter().map(|name| name.value).collect();
    if names.len() > Limits::LABELS {
        fields.fault(fields.line, format!("{} labels are over the limit of {}", names.len(), Limits::LABELS));
    }
    fields.end();
    names
}

fn read_approvals(root: &Fields<'_, '_>) -> Approvals {
    let timeout = root.table("approvals", "[approvals]").and_then(|fields| {
        let timeout = fields.whole("timeout_ms", 1_000..=86_400_000).map(Millis);
        fields.end();
        timeout
    });
    Approvals { timeout: timeout.unwrap_or(APPROVAL_TIMEOUT) }
}

fn read_memory(fields: &Fields<'_, '_>) -> Memory {
    let survive = fields.need_word("survive", &KEEP).unwrap_or(Keep::Nothing);
    let answers = fields.threats("answers");
    fields.end();
    Memory { survive, answers }
}

fn read_accepted(fields: &Fields<'_, '_>) -> BTreeMap<ThreatId, String> {
    let mut accepted = BTreeMap::new();
    for key in fields.keys() {
        let reason = fields.line_text(&key.value, REASON_BYTES);
        if let (Some(threat), Some(reason)) = (fields.threat(&key), reason) {
            accepted.insert(threat, reason.value);
        }
    }
    accepted
}

/// Reports each name of `names` that `known` lacks.
fn check_known(fields: &Fields<'_, '_>, names: &[At<String>], known: &BTreeSet<String>, kind: &str) {
    for name in names.iter().filter(|name| !known.contains(&name.value)) {
        let hint = if known.is_empty() {
            format!("; declare it in [{kind}s]")
        } else {
            format!("; [{kind}s] has {}", list(known.iter().map(String::as_str)))
        };
        fields.fault(name.line, format!("unknown {kind} `{}` in {}{hint}", name.value, fields.what));
    }
}

/// Notes ids as they come and reports the second of two that are equal.
struct Unique {
    what: &'static str,
    seen: HashMap<String, usize>,
}

impl Unique {
    fn new(what: &'static str) -> Self {
        Self { what, seen: HashMap::new() }
    }

    fn check(&mut self, fields: &Fields<'_, '_>, id: &str, line: usize) {
        if let Some(first) = self.seen.insert(id.to_owned(), line) {
            fields.fault(line, format!("{} `{id}` stands twice, first on line {first}", self.what));
        }
    }
}
