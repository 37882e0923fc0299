//! How long one decision takes at 10, 100 and 1,000 rules, beside Cedar's own authorizer over the
//! same rules in one set (the named peer, same run).
//!
//! `cargo bench --no-default-features --bench decide`

use std::hint::black_box;
use std::time::Instant;

use cedar_policy::{Authorizer, Context, Entities, PolicyId, PolicySet, Request, RestrictedExpression};
use weir::model::{Action, Call, Name, Resource, Subject};
use weir::pdp::{Compiled, Facts, decide};
use weir::policy;

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// A policy of `rules` rules over a fifth as many tools: a class rule, and per tool an allow, an
/// argument condition, a label condition and a person's check.
fn text(rules: usize) -> String {
    let mut text = String::from("[policy]\nid = \"bench\"\n\n[labels]\nnames = [\"untrusted\"]\n");
    let tools = (rules / 4).max(1);
    for tool in 0..tools {
        text.push_str(&format!(
            "\n[[tool]]\nname = \"tool{tool}\"\neffect = \"write\"\nanswers = [\"L3/tool-misuse\"]\n[tool.args.n]\ntype = \"integer\"\nmax = 100\n[tool.args.q]\ntype = \"string\"\nmax_len = 100\n"
        ));
    }
    for tool in 0..tools {
        let rule = |id: &str, effect: &str, when: &str| {
            let when = if when.is_empty() { String::new() } else { format!("when = '''{when}'''\n") };
            format!(
                "\n[[rule]]\nid = \"{id}{tool}\"\neffect = \"{effect}\"\nactions = [\"tool.call\"]\nresources = [\"tool{tool}\"]\n{when}answers = [\"L3/tool-misuse\"]\nreason = \"bench\"\n"
            )
        };
        text.push_str(&rule("allow", "allow", ""));
        text.push_str(&rule("big", "deny", "context.args has n && context.args.n > 90"));
        text.push_str(&rule("tainted", "ask", "context.labels.contains(\"untrusted\")"));
        text.push_str(&rule("tired", "ask", "context.since_person >= 50"));
    }
    text
}

fn call(tool: usize) -> Call {
    let subject = Subject {
        org: name("o"),
        agent: name("a"),
        session: name("s"),
        run: name("r"),
        delegation: Vec::new(),
        project: None,
    };
    let args = serde_json::json!({"n": 7, "q": "weather in the north"});
    Call {
        id: name("c"),
        subject,
        action: Action::ToolCall,
        resource: Resource::named(name(&format!("tool{tool}"))),
        args: args.as_object().cloned().unwrap_or_default(),
        parent: None,
        surface: name("bench"),
    }
}

/// Nanoseconds of each of `rounds` runs, sorted.
fn times(rounds: usize, mut work: impl FnMut(usize)) -> Vec<u128> {
    for round in 0..rounds / 10 {
        work(round);
    }
    let mut times: Vec<u128> = (0..rounds)
        .map(|round| {
            let start = Instant::now();
            work(round);
            start.elapsed().as_nanos()
        })
        .collect();
    times.sort_unstable();
    times
}

fn at(times: &[u128], share: f64) -> f64 {
    times[((times.len() - 1) as f64 * share) as usize] as f64 / 1000.0
}

/// Cedar's authorizer over the whole set, with a context of the same size built from expressions.
fn whole(compiled: &Compiled, tools: usize, rounds: usize) -> Vec<u128> {
    let mut set = PolicySet::new();
    for (index, rule) in compiled.policy().rules.iter().enumerate() {
        let head = if rule.effect == weir::model::Effect::Deny { "forbid" } else { "permit" };
        let when = rule.when.as_deref().unwrap_or("true");
        let tool = &rule.resources[0];
        let text = format!(
            "{head}(principal, action == Action::\"tool.call\", resource == Resource::\"{tool}\") when {{ {when} }};"
        );
        set.add(cedar_policy::Policy::parse(Some(PolicyId::new(index.to_string())), text).unwrap()).unwrap();
    }
    let (authorizer, entities) = (Authorizer::new(), Entities::empty());
    times(rounds, |round| {
        let args = [
            ("n".to_owned(), RestrictedExpression::new_long(7)),
            ("q".to_owned(), RestrictedExpression::new_string("weather in the north".to_owned())),
        ];
        let context = Context::from_pairs([
            ("args".to_owned(), RestrictedExpression::new_record(args).unwrap()),
            ("labels".to_owned(), RestrictedExpression::new_set([])),
            ("since_person".to_owned(), RestrictedExpression::new_long(0)),
        ])
        .unwrap();
        let uid = |text: String| text.parse().unwrap();
        let request = Request::new(
            uid("Agent::\"a\"".to_owned()),
            uid("Action::\"tool.call\"".to_owned()),
            uid(format!("Resource::\"tool{}\"", round % tools)),
            context,
            None,
        )
        .unwrap();
        black_box(authorizer.is_authorized(&request, &set, &entities));
    })
}

fn main() {
    println!(
        "{:>6}  {:>12} {:>12}  {:>14} {:>12}  {:>8}",
        "rules", "weir p50 us", "p99 us", "cedar p50 us", "p99 us", "ratio"
    );
    for rules in [10, 100, 1000] {
        let policy = policy::parse(text(rules).as_bytes(), "bench.toml").unwrap_or_else(|faults| panic!("{faults}"));
        let compiled = Compiled::new(policy).unwrap_or_else(|faults| panic!("{faults}"));
        let tools = (rules / 4).max(1);
        let facts = Facts::fresh();
        let calls: Vec<Call> = (0..tools).map(call).collect();
        let own = times(20_000, |round| drop(black_box(decide(&compiled, &facts, &calls[round % tools]))));
        let peer = whole(&compiled, tools, 2_000);
        println!(
            "{rules:>6}  {:>12.2} {:>12.2}  {:>14.2} {:>12.2}  {:>7.1}x",
            at(&own, 0.5),
            at(&own, 0.99),
            at(&peer, 0.5),
            at(&peer, 0.99),
            at(&peer, 0.5) / at(&own, 0.5)
        );
    }
}
