//! Profile in, policy out: golden files, every threat answered, never wider for a higher factor.

use proptest::prelude::*;
use weir::model::{Effect, FACTORS, Keep, Level, Name};
use weir::pdp::Compiled;
use weir::policy::{Options, Policy, Profile, Severity, check, coverage, derive, parse};

const IDS: [&str; 3] = ["smolagents", "autogen", "ml-research"];

fn profile(id: &str) -> Profile {
    let path = format!("policies/profiles/{id}.toml");
    let bytes = std::fs::read(&path).unwrap();
    Profile::parse(&bytes, &path).unwrap_or_else(|faults| panic!("{faults}"))
}

/// What the committed policy of a profile is derived with: the agent of ml-research is Claude Code.
fn committed(id: &str) -> Options {
    let mut options = Options::default();
    if id == "ml-research" {
        options.client("claude-code").unwrap();
    }
    options
}

#[track_caller]
fn read(text: &str) -> Policy {
    parse(text.as_bytes(), "derived.toml").unwrap_or_else(|faults| panic!("{faults}"))
}

/// With `WEIR_BLESS` set the goldens are written anew.
#[test]
fn derived_policies_are_the_committed_ones() {
    for id in IDS {
        let (text, path) = (derive(&profile(id), &committed(id)), format!("policies/derived/{id}.toml"));
        if std::env::var_os("WEIR_BLESS").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text, "{path}");
    }
}

#[test]
fn derived_policies_check_without_a_remark() {
    for id in IDS {
        let policy = read(&derive(&profile(id), &committed(id)));
        assert_eq!(check(&policy), Vec::new(), "{id}");
    }
}

#[test]
fn every_threat_of_the_profile_is_answered_or_accepted_and_every_layer_has_one() {
    for id in IDS {
        let profile = profile(id);
        let policy = read(&derive(&profile, &committed(id)));
        let layers = coverage(&policy);
        let covered: Vec<_> = layers.iter().flat_map(|layer| &layer.threats).collect();
        assert_eq!(covered.iter().map(|threat| threat.threat).collect::<Vec<_>>(), profile.threats(), "{id}");
        assert!(layers.iter().all(|layer| !layer.threats.is_empty()), "{id}");
        for threat in covered {
            assert_ne!(threat.accepted.is_some(), !threat.answered_by.is_empty(), "{id}: {}", threat.threat);
            assert_eq!(threat.assumed, !profile.states(threat.threat), "{id}: {}", threat.threat);
        }
    }
}

#[test]
fn every_rule_and_budget_names_threats_and_marks_assumptions() {
    for id in IDS {
        let profile = profile(id);
        let policy = read(&derive(&profile, &committed(id)));
        let rules = policy.rules.iter().map(|rule| (&rule.id, &rule.answers, rule.assumed));
        let budgets = policy.budgets.iter().map(|budget| (&budget.id, &budget.answers, budget.assumed));
        for (part, answers, assumed) in rules.chain(budgets) {
            assert!(!answers.is_empty(), "{id}: {part}");
            assert_eq!(assumed, !answers.iter().any(|threat| profile.states(*threat)), "{id}: {part}");
        }
        assert!(policy.rules.iter().all(|rule| !rule.expect.is_empty()), "{id}: a rule without an example");
        assert!(policy.tools.values().all(|tool| !tool.answers.is_empty()), "{id}");
    }
}

#[test]
fn the_declared_factors_travel_with_the_policy() {
    for id in IDS {
        let profile = profile(id);
        let provenance = read(&derive(&profile, &committed(id))).provenance.unwrap();
        assert_eq!((provenance.declared, provenance.digest), (profile.factors, profile.digest()));
        assert_eq!((provenance.threats, provenance.assumed), (profile.threats(), profile.assumed()));
    }
}

#[test]
fn only_a_profile_that_states_resource_hijacking_gets_a_budget_of_gpu_time() {
    let gpu = |id: &str| derive(&profile(id), &committed(id)).contains("gpu_ms");
    assert_eq!(IDS.map(gpu), [false, false, true]);
}

fn options(tools: &[&str], allow: &[&str], peers: &[&str]) -> Options {
    let mut options = Options::default();
    tools.iter().for_each(|tool| options.tool(tool).unwrap());
    allow.iter().for_each(|tool| options.allow(tool).unwrap());
    peers.iter().for_each(|peer| options.peer(peer).unwrap());
    options
}

#[test]
fn declared_tools_fall_under_their_class_and_granted_ones_under_their_own_rule() {
    let options = options(
        &["search=network", "save=write", "shell=exec", "buy=spend", "look=read", "fetch=network"],
        &["search", "shell"],
        &["helper"],
    );
    let policy = read(&derive(&profile("smolagents"), &options));
    let remarks = check(&policy);
    assert!(
        matches!(&remarks[..], [remark] if remark.text.contains("`buy` spends")),
        "a price is the author's to give: {remarks:?}"
    );
    let rule = |id: &str| policy.rules.iter().find(|rule| rule.id == id).unwrap_or_else(|| panic!("{id}"));
    assert_eq!(
        (rule("tools-granted").effect, rule("tools-granted").resources.as_slice()),
        (Effect::Allow, &["search".to_owned(), "shell".to_owned()][..])
    );
    for id in ["tools-asked", "exec-denied", "untrusted-asks"] {
        assert_eq!(rule(id).except, ["search", "shell"], "{id}");
    }
    assert_eq!(rule("tools-asked").expect[0].resource, "buy");
    assert_eq!(rule("tools-asked").expect[0].decision, Effect::Ask);
    assert_eq!(policy.tools["fetch"].labels, ["untrusted"]);
    assert!(policy.tools["save"].labels.is_empty());
    assert!(policy.peers.names.contains("helper"));
}

#[test]
fn options_refuse_what_makes_no_sense() {
    let mut options = options(&["search=network"], &[], &[]);
    assert!(options.tool("search=read").unwrap_err().contains("two classes"));
    assert!(options.tool("search").unwrap_err().contains("NAME=CLASS"));
    assert!(options.tool("x=magic").unwrap_err().contains("`read`, `write`"));
    assert!(options.tool("a b=read").unwrap_err().contains("ASCII"));
    assert!(options.tool("final_answer=exec").unwrap_err().contains("already"));
    assert!(options.allow("serch").unwrap_err().contains("did you mean `search`?"));
    assert!(options.peer("").is_err());
}

fn with_levels(levels: [u8; 10]) -> Profile {
    let mut profile = profile("smolagents");
    for (row, level) in FACTORS.iter().zip(levels) {
        profile.factors.set(row.factor, Level::from_hundredths(level).unwrap());
    }
    profile
}

/// How much a policy permits: every number grows with what may happen without a person.
fn width(policy: &Policy) -> Vec<u64> {
    let limit = |id: &str| policy.budgets.iter().find(|budget| budget.id == id).unwrap().limit;
    let rule = |id: &str| policy.rules.iter().find(|rule| rule.id == id).unwrap();
    let steps = rule("person-after-steps").when.clone().unwrap();
    let steps = steps.rsplit(' ').next().unwrap().parse().unwrap();
    let unprotected = 100 - policy.protected.len() as u64;
    let classes = rule("tools-allowed").effects.len() as u64;
    vec![
        limit("calls-per-session"),
        limit("tool-calls-per-session"),
        limit("tokens-per-session"),
        steps,
        classes,
        unprotected,
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn a_higher_factor_never_widens_and_every_derivation_checks(
        low in proptest::array::uniform10(0..=100_u8),
        add in proptest::array::uniform10(0..=100_u8),
    ) {
        let mut high = low;
        for (level, add) in high.iter_mut().zip(add) { *level = (*level + add).min(100); }
        let mut client = Options::default();
        client.client("claude-code").unwrap();
        for levels in [low, high] {
            let text = derive(&with_levels(levels), &client);
            let compiled = Compiled::new(read(&text)).map(|compiled| check(compiled.policy()));
            prop_assert_eq!(compiled, Ok(Vec::new()), "what a client adds holds its own examples");
        }
        let [low, high] = [low, high].map(|levels| read(&derive(&with_levels(levels), &Options::default())));
        prop_assert_eq!(check(&low), Vec::new());
        prop_assert!(check(&high).iter().all(|remark| remark.severity != Severity::Error));
        for (wide, narrow) in width(&low).into_iter().zip(width(&high)) {
            prop_assert!(narrow <= wide, "{narrow} over {wide}");
        }
    }
}

#[test]
fn state_lives_no_longer_than_declared() {
    let keep = |level| {
        let mut levels = [50; 10];
        levels[4] = level;
        read(&derive(&with_levels(levels), &Options::default())).memory.survive
    };
    assert_eq!([0, 10, 25, 100].map(keep), [Keep::Nothing, Keep::Run, Keep::Session, Keep::Session]);
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Cases {
    case: Vec<Case>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only the shape is checked here; the decisions are checked where calls are decided")]
struct Case {
    policy: String,
    action: weir::model::Action,
    resource: Name,
    #[serde(default)]
    args: serde_json::Map<String, serde_json::Value>,
    #[serde(default)]
    labels: Vec<String>,
    #[serde(default)]
    since_person: u64,
    #[serde(default)]
    delegation: u8,
    registry: Option<Name>,
    revision: Option<Name>,
    decision: Effect,
    code: weir::model::ReasonCode,
    why: String,
}

#[test]
fn cases_are_well_formed_and_speak_of_derived_policies() {
    let mut all = Vec::new();
    for id in IDS {
        let text = std::fs::read_to_string(format!("policies/cases/{id}.toml")).unwrap();
        let cases: Cases = toml::from_str(&text).unwrap_or_else(|error| panic!("{id}: {error}"));
        assert!(cases.case.iter().all(|case| case.policy == id), "{id}");
        all.extend(cases.case);
    }
    assert!(all.len() >= 30);
    for effect in [Effect::Allow, Effect::Ask, Effect::Deny] {
        assert!(all.iter().any(|case| case.decision == effect), "{effect:?}");
    }
}
