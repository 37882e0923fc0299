//! Statements and questions as text: aligned, harmless on any terminal, and nothing that the JSON does not say.

use serde_json::{Value, json};

use crate::cli::table::{aligned, span, word};
use crate::model::Kind;

/// Keeps the account `account` and those below it.
pub(super) fn keep_below(statement: &mut Value, account: &str) {
    if let Some(lines) = statement["accounts"].as_array_mut() {
        lines.retain(|line| line["account"].as_str().is_some_and(|id| id == account || is_below(id, account)));
    }
}

fn is_below(id: &str, account: &str) -> bool {
    id.strip_prefix(account).is_some_and(|rest| rest.starts_with('/'))
}

/// Every budget of every account, what is closed, and what waits.
pub(super) fn list(statement: &Value, waiting: &[Value]) -> String {
    let mut rows = vec![["ACCOUNT", "BUDGET", "LEFT", "LIMIT", "HELD", "COUNTS", "GONE IN"].map(str::to_owned)];
    for line in items(&statement["accounts"]) {
        for limit in items(&line["limits"]) {
            let kind = word(&limit["kind"]);
            let held = line["pending"].get(&kind).map_or_else(|| "0".to_owned(), word);
            let left = format!("{} {}", word(&limit["remaining"]), unit(&kind));
            let gone = limit["forecast_ms"].as_u64().map_or_else(|| "-".to_owned(), |ms| span(ms / 1000));
            rows.push([
                word(&line["account"]),
                word(&limit["budget"]),
                left,
                word(&limit["limit"]),
                held,
                word(&limit["window"]),
                gone,
            ]);
        }
    }
    let mut text = if rows.len() == 1 { "no account is limited by a budget yet\n".to_owned() } else { aligned(&rows) };
    for line in items(&statement["accounts"]) {
        if let Some(closed) = closed(line) {
            text.push_str(&format!("{} is {closed}\n", word(&line["account"])));
        }
    }
    if !waiting.is_empty() {
        text.push_str(&format!("waiting for an answer: {} (`weir budget approve` lists them)\n", waiting.len()));
    }
    let doubts = items(&statement["doubts"]).len();
    if doubts > 0 {
        text.push_str(&format!("with an unknown outcome: {doubts} (`weir budget reconcile` lists them)\n"));
    }
    text
}

/// One account with what is directly below it; `None` when it has not been used.
pub(super) fn account(statement: &Value, account: &str) -> Option<(Value, String)> {
    let line = items(&statement["accounts"]).iter().find(|line| line["account"] == account)?;
    let tier = word(&line["tier"]);
    let mut text = format!("{account} ({tier})\n");
    if let Some(closed) = closed(line) {
        text.push_str(&format!("  {closed}\n"));
    }
    text.push_str(&format!("  spent  {}\n", amounts(&line["posted"])));
    text.push_str(&format!("  held   {}\n", amounts(&line["pending"])));
    for limit in items(&line["limits"]) {
        let unit = unit(&word(&limit["kind"]));
        let (left, most) = (word(&limit["remaining"]), word(&limit["limit"]));
        let (budget, window) = (word(&limit["budget"]), word(&limit["window"]));
        text.push_str(&format!("  budget {budget}: {left} of {most} {unit} left, counted {window}\n"));
        let rate = match limit["forecast_ms"].as_u64() {
            Some(0) => format!("the {tier}'s cap is reached"),
            Some(ms) => format!("at this rate the {tier}'s cap is reached in {}", span(ms / 1000)),
            None => "nothing was spent in the last minutes".to_owned(),
        };
        text.push_str(&format!("         {rate}\n"));
    }
    let below: Vec<&Value> = items(&statement["accounts"]).iter().filter(|line| is_child(line, account)).collect();
    if !below.is_empty() {
        let mut rows = vec![["  BELOW", "TIER", "SPENT", "HELD"].map(str::to_owned)];
        rows.extend(below.iter().map(|line| {
            let own = word(&line["account"]).chars().skip(account.chars().count() + 1).collect::<String>();
            [format!("  {own}"), word(&line["tier"]), amounts(&line["posted"]), amounts(&line["pending"])]
        }));
        text.push_str(&aligned(&rows));
    }
    let children: Vec<Value> = below.into_iter().cloned().collect();
    Some((json!({"account": line, "below": children}), text))
}

/// Directly below: one name further.
fn is_child(line: &Value, account: &str) -> bool {
    let rest = line["account"].as_str().and_then(|id| id.strip_prefix(account)?.strip_prefix('/'));
    rest.is_some_and(|rest| !rest.contains('/'))
}

/// What waits for a person.
pub(super) fn questions(waiting: &[Value]) -> String {
    if waiting.is_empty() {
        return "nothing waits for an answer\n".to_owned();
    }
    let mut text = String::new();
    for card in waiting {
        let left = span(card["expires_in_ms"].as_u64().unwrap_or_default() / 1000);
        let waits = if card["attended"] == true { "a call waits" } else { "waits for the call to be tried again" };
        text.push_str(&format!("{}  {} {}\n", word(&card["id"]), word(&card["action"]), word(&card["resource"])));
        text.push_str(&format!("  of     {} in session {}\n", word(&card["agent"]), word(&card["session"])));
        // Escaped by the gate already, line by line; a client shows it so that it cannot pass for a field.
        for line in card["args"].as_str().unwrap_or_default().lines() {
            text.push_str(&format!("  |      {}\n", crate::surface::visible(line, 16 << 10)));
        }
        text.push_str(&format!(
            "  why    {}\n",
            crate::surface::visible(card["why"].as_str().unwrap_or_default(), 400)
        ));
        if !card["raise"].is_null() {
            let raise = &card["raise"];
            let (by, budget) = (amounts(&raise["by"]), word(&raise["budget"]));
            text.push_str(&format!("  yes    adds {by} to {budget} of {}\n", word(&raise["account"])));
        }
        for note in items(&card["notes"]) {
            text.push_str(&format!("  note   {}\n", word(note)));
        }
        if let Some(link) = card["link"].as_str() {
            text.push_str(&format!("  link   {}\n", crate::surface::visible(link, 300)));
        }
        text.push_str(&format!("  until  {left} from now; {waits}\n"));
    }
    text
}

/// What an answer did.
pub(super) fn answered(card: &Value, approved: bool, add: Option<u64>) -> String {
    let what = format!("{} {}", word(&card["action"]), word(&card["resource"]));
    let raise = &card["raise"];
    match (approved, raise.is_null()) {
        (false, _) => format!("refused: {what}\n"),
        (true, true) => format!("approved: {what}, once\n"),
        (true, false) => {
            let by = add.map_or_else(|| amounts(&raise["by"]), |add| add.to_string());
            format!("approved: {} of {} has {by} more\n", word(&raise["budget"]), word(&raise["account"]))
        }
    }
}

/// Calls with an unknown outcome.
pub(super) fn doubts(statement: &Value) -> String {
    let doubts = items(&statement["doubts"]);
    if doubts.is_empty() {
        return "the outcome of every call is known\n".to_owned();
    }
    let rows = doubts.iter().map(|doubt| [word(&doubt["call"]), amounts(&doubt["posted"])]);
    let head = ["CALL", "COUNTS AS"].map(str::to_owned);
    aligned(&std::iter::once(head).chain(rows).collect::<Vec<_>>())
}

/// Amounts in words.
pub(super) fn amounts(amounts: &Value) -> String {
    let shown: Vec<String> =
        amounts.as_object().into_iter().flatten().map(|(kind, amount)| format!("{kind} {}", word(amount))).collect();
    if shown.is_empty() { "nothing".to_owned() } else { shown.join(", ") }
}

fn closed(line: &Value) -> Option<String> {
    let bar = line["closed"].as_object()?;
    let how = if bar.get("revoked") == Some(&Value::Bool(true)) { "revoked for good" } else { "frozen" };
    Some(format!("{how} (by {})", bar.get("by").map(word).unwrap_or_default()))
}

fn unit(kind: &str) -> &'static str {
    Kind::from_name(kind).map_or("", |kind| kind.row().unit)
}

fn items(list: &Value) -> &[Value] {
    list.as_array().map(Vec::as_slice).unwrap_or_default()
}
