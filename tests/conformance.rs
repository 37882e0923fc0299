//! Cases as data: every call of `policies/cases/*.toml` and the decision that the derived policy must
//! give on it, with its reason code. One runner; a skip states its reason.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Map, Value};
use support::{World, call};
use weir::model::{Action, Call, Digest, Effect, ReasonCode};
use weir::pdp::{Compiled, Facts, decide};
use weir::policy;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    case: Vec<Case>,
}

/// One call and what must be decided; the fields are explained at the top of each file of cases.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    policy: String,
    action: Action,
    resource: String,
    #[serde(default)]
    args: Map<String, Value>,
    #[serde(default)]
    labels: Vec<String>,
    #[serde(default)]
    since_person: u64,
    #[serde(default)]
    delegation: usize,
    registry: Option<String>,
    revision: Option<String>,
    digest: Option<Digest>,
    decision: Effect,
    code: ReasonCode,
    why: String,
    /// Why the case is not run; it is then counted apart.
    skip: Option<String>,
}

impl Case {
    fn call(&self, number: usize) -> Call {
        let mut made = call(&format!("case{number}"), self.action, &self.resource, Value::Object(self.args.clone()));
        made.resource.registry = self.registry.as_deref().map(support::name);
        made.resource.revision = self.revision.as_deref().map(support::name);
        made.resource.digest = self.digest;
        made.subject.delegation = (0..self.delegation).map(|depth| support::name(&format!("outer{depth}"))).collect();
        made
    }

    fn facts(&self) -> Facts {
        let labels = self.labels.iter().cloned().collect();
        Facts { labels, since_person: self.since_person, ..Facts::fresh() }
    }

    /// Whether a gate in which nothing has happened yet is in the situation of this case.
    fn is_fresh(&self) -> bool {
        self.labels.is_empty() && self.since_person == 0
    }
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("policies").join(name)
}

fn files(name: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(folder(name))
        .unwrap_or_else(|fault| panic!("policies/{name}: {fault}"))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "toml"))
        .collect();
    found.sort();
    found
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap().to_string_lossy().into_owned()
}

/// A derived policy, as a gate loads it.
fn derived(path: &Path) -> policy::Policy {
    let bytes = fs::read(path).unwrap_or_else(|fault| panic!("{}: {fault}", stem(path)));
    policy::parse(&bytes, &stem(path)).unwrap_or_else(|faults| panic!("{faults}"))
}

/// Runs `case` and says what is wrong.
fn run(case: &Case, number: usize, compiled: &Arc<Compiled>) -> Option<String> {
    let call = case.call(number);
    let decision = decide(compiled, &case.facts(), &call);
    let (effect, code) = (decision.effect, decision.reason.code);
    let wrong = |said: &str, effect: Effect, code: ReasonCode| {
        let row = |code: ReasonCode| code.row().name;
        format!(
            "case {number} ({}): wanted {} {}, {said} says {} {}: {}",
            case.why,
            case.decision.word(),
            row(case.code),
            effect.word(),
            row(code),
            decision.reason
        )
    };
    if (effect, code) != (case.decision, case.code) {
        return Some(wrong("the policy", effect, code));
    }
    if case.is_fresh() {
        // The whole gate, with its budgets, must say the same as the decision alone.
        let traced = World::default().open(compiled.policy().clone()).evaluate(&call).decision;
        if (traced.effect, traced.reason.code) != (effect, code) {
            return Some(wrong("the gate", traced.effect, traced.reason.code));
        }
    }
    if effect == Effect::Deny && !(decision.reserve.is_zero() && decision.grant.is_none()) {
        return Some(format!("case {number}: a denial reserves or grants"));
    }
    None
}

#[test]
fn every_case_of_every_derived_policy_is_decided_as_written() {
    let compiled: BTreeMap<String, Arc<Compiled>> = files("derived")
        .iter()
        .map(|path| (stem(path), Compiled::new(derived(path)).unwrap_or_else(|faults| panic!("{faults}"))))
        .collect();
    let (mut faults, mut ran, mut skipped) = (Vec::new(), BTreeMap::<String, BTreeMap<&str, usize>>::new(), 0);
    for path in files("cases") {
        let text = fs::read_to_string(&path).unwrap();
        let file: File = toml::from_str(&text).unwrap_or_else(|fault| panic!("{}: {fault}", stem(&path)));
        for (number, case) in file.case.iter().enumerate() {
            let at = format!("{}: case {number}", stem(&path));
            assert!(!case.why.is_empty(), "{at} does not say why");
            if let Some(reason) = &case.skip {
                assert!(reason.len() >= 20, "{at} is skipped without a reason");
                println!("skipped {at}: {reason}");
                skipped += 1;
                continue;
            }
            let Some(policy) = compiled.get(&case.policy) else {
                faults.push(format!("{at}: there is no derived policy `{}`", case.policy));
                continue;
            };
            faults.extend(run(case, number, policy).map(|fault| format!("{}: {fault}", stem(&path))));
            *ran.entry(case.policy.clone()).or_default().entry(case.decision.word()).or_default() += 1;
        }
    }
    println!("{ran:?}, {skipped} skipped");
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
    for name in compiled.keys() {
        let decisions = ran.get(name).unwrap_or_else(|| panic!("no case of `{name}`"));
        for word in ["allow", "deny"] {
            assert!(decisions.contains_key(word), "no case of `{name}` expects {word}");
        }
    }
}

#[test]
fn a_wrong_case_is_found() {
    let path = &files("derived")[0];
    let compiled = Compiled::new(derived(path)).unwrap();
    let case = |decision: &str, code: &str| -> Case {
        toml::from_str(&format!(
            "policy = \"p\"\naction = \"tool.call\"\nresource = \"no-such-tool\"\ndecision = \"{decision}\"\ncode = \"{code}\"\nwhy = \"w\""
        ))
        .unwrap()
    };
    assert_eq!(run(&case("deny", "unknown_tool"), 0, &compiled), None);
    for (decision, code) in [("allow", "unknown_tool"), ("deny", "no_rule"), ("ask", "rule")] {
        assert!(run(&case(decision, code), 0, &compiled).is_some_and(|fault| fault.contains("wanted")), "{decision}");
    }
    assert!(toml::from_str::<Case>("policy = \"p\"\nunknown = 1").is_err());
}
