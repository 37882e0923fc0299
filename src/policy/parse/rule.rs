//! `[[rule]]` and `[[rule.expect]]`.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::super::reader::{At, Fields};
use super::super::{Expect, Rule};
use super::tool::EFFECTS;
use super::{REASON_BYTES, Unique, check_known, when};
use crate::model::{Action, Effect, Limits};

/// Words of [`Action`].
const ACTIONS: [(&str, Action); 9] = [
    (Action::ToolCall.word(), Action::ToolCall),
    (Action::CodeRun.word(), Action::CodeRun),
    (Action::CodeImport.word(), Action::CodeImport),
    (Action::AgentInvoke.word(), Action::AgentInvoke),
    (Action::ModelGenerate.word(), Action::ModelGenerate),
    (Action::PackageFetch.word(), Action::PackageFetch),
    (Action::PackagePublish.word(), Action::PackagePublish),
    (Action::JobLaunch.word(), Action::JobLaunch),
    (Action::ProcessRun.word(), Action::ProcessRun),
];

/// Words of [`Effect`].
const DECISIONS: [(&str, Effect); 3] = [("allow", Effect::Allow), ("ask", Effect::Ask), ("deny", Effect::Deny)];

pub(super) fn read(root: &Fields<'_, '_>, labels: &BTreeSet<String>) -> Vec<Rule> {
    let tables = root.tables("rule", "[[rule]]");
    if tables.len() > Limits::RULES {
        root.fault(1, format!("{} rules are over the limit of {}", tables.len(), Limits::RULES));
    }
    let mut unique = Unique::new("the rule");
    tables.iter().take(Limits::RULES).filter_map(|fields| read_rule(fields, labels, &mut unique)).collect()
}

fn read_rule(fields: &Fields<'_, '_>, labels: &BTreeSet<String>, unique: &mut Unique) -> Option<Rule> {
    let id = fields.need_name("id");
    if let Some(id) = &id {
        unique.check(fields, id.value.as_str(), id.line);
    }
    let effect = fields.need_word("effect", &DECISIONS);
    let actions = fields.words("actions", &ACTIONS);
    if actions.is_empty() && !fields.has("actions") {
        fields.missing("actions");
    } else if actions.is_empty() {
        fields.fault(fields.line, "`actions` of [[rule]] names no action");
    }
    let resources = plain(fields.names("resources"));
    let effects = fields.words("effects", &EFFECTS);
    if !effects.is_empty() && actions.iter().any(|action| *action != Action::ToolCall) {
        fields.fault(fields.line, "`effects` are classes of tools; the only action beside them is `tool.call`");
    }
    let except = plain(fields.names("except"));
    let when = read_when(fields, &actions);
    let answers = fields.threats("answers");
    let assumed = fields.flag("assumed").unwrap_or(false);
    let reason = fields.line_text("reason", REASON_BYTES).map(|text| text.value).unwrap_or_default();
    let expect = read_expects(fields, &actions, &resources, labels);
    fields.end();
    Some(Rule {
        id: id?.value.as_str().to_owned(),
        effect: effect?,
        actions,
        resources,
        effects,
        except,
        when,
        answers,
        assumed,
        reason,
        expect,
        line: fields.line,
    })
}

fn plain(names: Vec<At<String>>) -> Vec<String> {
    names.into_iter().map(|name| name.value).collect()
}

fn read_when(fields: &Fields<'_, '_>, actions: &[Action]) -> Option<String> {
    let text = fields.text("when")?;
    for fault in when::check(&text.value, actions) {
        fields.fault(text.line, fault);
    }
    Some(text.value)
}

fn read_expects(
    rule: &Fields<'_, '_>,
    actions: &[Action],
    resources: &[String],
    labels: &BTreeSet<String>,
) -> Vec<Expect> {
    let mut expects = Vec::new();
    for fields in rule.tables("expect", "[[rule.expect]]") {
        let action = fields.word("action", &ACTIONS).or_else(|| actions.first().copied());
        let resource = fields.name("resource").map(|name| name.value.as_str().to_owned());
        let resource = if fields.has("resource") { resource } else { resources.first().cloned() };
        if resource.is_none() && !fields.has("resource") {
            fields.missing("resource");
        }
        let args = read_args(&fields);
        let given = fields.names("labels");
        check_known(&fields, &given, labels, "label");
        let decision = fields.need_word("decision", &DECISIONS);
        fields.end();
        if let (Some(action), Some(resource), Some(decision)) = (action, resource, decision) {
            expects.push(Expect { action, resource, args, labels: plain(given), decision, line: fields.line });
        }
    }
    expects
}

fn read_args(fields: &Fields<'_, '_>) -> Map<String, Value> {
    match fields.json("args") {
        Some(At { value: Value::Object(args), .. }) => args,
        Some(At { line, .. }) => {
            fields.fault(line, "`args` in [[rule.expect]] is a table");
            Map::new()
        }
        None => Map::new(),
    }
}
