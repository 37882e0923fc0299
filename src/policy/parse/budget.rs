//! `[[budget]]`: what is counted, for whom, over which time, and what happens at the cap.

use super::super::reader::Fields;
use super::super::{Budget, Lease, Scope};
use super::Unique;
use crate::model::{Effect, KINDS, Kind, Nature, Window};

/// Words of [`Scope`].
const SCOPES: [(&str, Scope); 6] = [
    ("org", Scope::Org),
    ("project", Scope::Project),
    ("agent", Scope::Agent),
    ("session", Scope::Session),
    ("subagent", Scope::Subagent),
    ("run", Scope::Run),
];
/// The shortest and the longest window.
const PERIODS: std::ops::RangeInclusive<u64> = 1_000..=366 * 86_400_000;

pub(super) fn read(root: &Fields<'_, '_>) -> Vec<Budget> {
    let mut ids = Unique::new("the budget");
    let mut accounts = Unique::new("a budget for");
    root.tables("budget", "[[budget]]").iter().filter_map(|fields| read_one(fields, &mut ids, &mut accounts)).collect()
}

fn read_one(fields: &Fields<'_, '_>, ids: &mut Unique, accounts: &mut Unique) -> Option<Budget> {
    let kinds: Vec<(&'static str, Kind)> = KINDS.iter().map(|row| (row.name, row.kind)).collect();
    let id = fields.need_name("id");
    let scope = fields.need_word("scope", &SCOPES);
    let kind = fields.need_word("kind", &kinds);
    if !fields.has("limit") {
        fields.missing("limit");
    }
    let limit = fields.whole("limit", 0..=i64::MAX as u64);
    let window = if fields.has("window") { read_window(fields) } else { Some(Window::Total) };
    let shared = read_shared(fields, kind, window);
    let at_cap = fields.word("at_cap", &[("deny", Effect::Deny), ("ask", Effect::Ask)]).unwrap_or(Effect::Deny);
    let answers = fields.threats("answers");
    let assumed = fields.flag("assumed").unwrap_or(false);
    fields.end();
    if let Some(id) = &id {
        ids.check(fields, id.value.as_str(), id.line);
    }
    let (id, scope, kind, limit, window) = (id?, scope?, kind?, limit?, window?);
    if !window.is_total() && kind.row().nature != Nature::Flow {
        let text = format!("`{}` does not add up over time, so its budget takes no `window`", kind.row().name);
        fields.fault(fields.line, text);
    }
    let over = if window.is_total() { String::new() } else { format!(" {window}") };
    accounts.check(fields, &format!("{} per {}{over}", kind.row().name, scope.word()), fields.line);
    let id = id.value.as_str().to_owned();
    Some(Budget { id, scope, kind, limit, window, shared, at_cap, answers, assumed, line: fields.line })
}

/// `shared` and `lease`.
fn read_shared(fields: &Fields<'_, '_>, kind: Option<Kind>, window: Option<Window>) -> Option<Lease> {
    let shared = fields.flag("shared").unwrap_or(false);
    let lease = fields.whole("lease", 0..=i64::MAX as u64);
    if lease.is_some() && !shared {
        fields.fault(fields.line, "`lease` says how a shared budget is drawn; it needs `shared = true`");
    }
    if shared && kind.is_some_and(|kind| kind.row().nature == Nature::Peak) {
        fields.fault(fields.line, "amounts of this kind do not add up, so gates cannot share a budget of it");
    }
    if shared && matches!(window, Some(Window::Rolling(_) | Window::Refill(_))) {
        fields.fault(fields.line, "gates share budgets that count in total or over `every` span, not this window");
    }
    shared.then_some(Lease(lease.unwrap_or(0)))
}

/// `"total"`, or a table with one of the kinds of window and its length.
fn read_window(fields: &Fields<'_, '_>) -> Option<Window> {
    if fields.is_text("window") {
        return fields.word("window", &[("total", Window::Total)]);
    }
    let table = fields.table("window", "`window` in [[budget]]")?;
    let words = ["every", "rolling", "refill"];
    let given = words.iter().filter(|word| table.has(word)).count();
    let [every, rolling, refill] = words.map(|word| table.span(word, PERIODS));
    if given != 1 {
        table.fault(table.line, "`window` is \"total\" or has one of `every`, `rolling` and `refill`".to_owned());
        table.end();
        return None;
    }
    table.end();
    every.map(Window::Every).or(rolling.map(Window::Rolling)).or(refill.map(Window::Refill))
}
