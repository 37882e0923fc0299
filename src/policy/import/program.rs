//! The "Budget envelope" of a research program (`program.md`), and a policy narrowed to it.
//!
//! The envelope is a file in the agent's reach, so it can only take away: what it names and the policy does not grant
//! stays ungranted, and a bound that is wider than the policy's changes nothing.

use std::collections::BTreeSet;

use toml::{Table, Value};

use super::super::reader::{list, nearest, shown, text_of};
use super::super::{Faults, parse};
use crate::model::Digest;

/// The heading of the block.
const HEADING: &str = "budget envelope";
/// What it may hold.
const KEYS: [&str; 6] = ["max_jobs", "max_walltime", "allowed_flavors", "max_timeout", "allow_deletes", "output_repos"];
/// The longest time that an envelope may state, seconds: a year.
const LONGEST: u64 = 366 * 86_400;
/// Most entries of one list.
const ENTRIES: usize = 256;

/// What a program says that it needs at most.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Envelope {
    /// Jobs in all.
    pub max_jobs: Option<u64>,
    /// Time of all jobs together, seconds.
    pub max_walltime_s: Option<u64>,
    /// Machines.
    pub allowed_flavors: Option<BTreeSet<String>>,
    /// Time of one job, seconds.
    pub max_timeout_s: Option<u64>,
    /// Whether files may be deleted on the Hub; the gate deletes none either way.
    pub allow_deletes: Option<bool>,
    /// Repositories that may be written, `team/name`.
    pub output_repos: Option<BTreeSet<String>>,
}

/// A policy narrowed to an envelope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Narrowed {
    /// The policy's text; it reads as a policy.
    pub text: String,
    /// What the envelope says and the policy does not grant, one sentence each.
    pub notes: Vec<String>,
}

/// Reads the envelope of `bytes`, which are Markdown.
///
/// # Errors
/// Every fault, with its line: no block or two, a key that is unknown or stands twice, a value of another form.
pub fn envelope(bytes: &[u8], file: &str) -> Result<Envelope, Faults> {
    let text = text_of(bytes, file)?;
    let mut reader = Reader { file, faults: Faults::default(), envelope: Envelope::default(), seen: Vec::new() };
    let rows = rows(text, &mut reader);
    let mut rows = rows.into_iter().peekable();
    while let Some((line, row)) = rows.next() {
        let Some((key, value)) = row.split_once(':') else {
            reader.fault(line, format!("`{}` is no `key: value`", shown(row)));
            continue;
        };
        let mut items = Vec::new();
        while let Some((at, item)) = rows.next_if(|(_, row)| row.trim_start().starts_with("- ")) {
            items.push((at, item.trim_start().trim_start_matches("- ").trim()));
        }
        reader.read(line, key.trim(), value.trim(), &items);
    }
    reader.faults.or(reader.envelope)
}

/// The rows of the block: from its heading to the next, without fences, comments and empty lines.
fn rows<'t>(text: &'t str, reader: &mut Reader<'_>) -> Vec<(usize, &'t str)> {
    let heading =
        |line: &str| line.trim_start().starts_with('#').then(|| line.trim_matches([' ', '#', '\t']).to_lowercase());
    let lines = || text.lines().enumerate().map(|(index, line)| (index + 1, line));
    let starts: Vec<usize> =
        lines().filter(|(_, line)| heading(line).as_deref() == Some(HEADING)).map(|(number, _)| number).collect();
    let [start] = starts.as_slice() else {
        let text = format!("one heading `## Budget envelope` is needed, and there are {}", starts.len());
        reader.fault(starts.get(1).copied().unwrap_or(0), text);
        return Vec::new();
    };
    let (mut rows, mut fenced) = (Vec::new(), false);
    for (number, line) in lines().skip(*start) {
        let bare = line.trim();
        if bare.starts_with("```") {
            if fenced {
                break;
            }
            fenced = true;
            continue;
        }
        if !fenced && heading(line).is_some() {
            break;
        }
        let row = line.split_once(" #").map_or(line, |(row, _)| row).trim_end();
        if !bare.is_empty() && !bare.starts_with('#') {
            rows.push((number, row));
        }
    }
    rows
}

struct Reader<'f> {
    file: &'f str,
    faults: Faults,
    envelope: Envelope,
    seen: Vec<String>,
}

impl Reader<'_> {
    fn fault(&mut self, line: usize, text: impl Into<String>) {
        self.faults.push(self.file, line, text);
    }

    fn read(&mut self, line: usize, key: &str, value: &str, items: &[(usize, &str)]) {
        if !KEYS.contains(&key) {
            let hint = nearest(key, KEYS.into_iter());
            let hint = if hint.is_empty() { format!("; known: {}", list(KEYS.into_iter())) } else { hint };
            return self.fault(line, format!("the envelope has no `{}`{hint}", shown(key)));
        }
        if self.seen.iter().any(|seen| seen == key) {
            return self.fault(line, format!("`{key}` stands twice"));
        }
        self.seen.push(key.to_owned());
        let is_list = matches!(key, "allowed_flavors" | "output_repos");
        if !is_list && !items.is_empty() {
            return self.fault(line, format!("`{key}` is one value and no list"));
        }
        match key {
            "max_jobs" => self.envelope.max_jobs = self.whole(line, key, value),
            "max_walltime" => self.envelope.max_walltime_s = self.span(line, key, value),
            "max_timeout" => self.envelope.max_timeout_s = self.span(line, key, value),
            "allow_deletes" => self.envelope.allow_deletes = self.flag(line, key, value),
            "allowed_flavors" => self.envelope.allowed_flavors = self.list(line, key, value, items),
            _ => self.envelope.output_repos = self.list(line, key, value, items),
        }
    }

    fn whole(&mut self, line: usize, key: &str, value: &str) -> Option<u64> {
        let plain = !value.is_empty() && value.len() <= 9 && value.bytes().all(|byte| byte.is_ascii_digit());
        let number = value.parse().ok().filter(|_| plain);
        if number.is_none() {
            self.fault(line, format!("`{key}` is a whole number in digits, not `{}`", shown(value)));
        }
        number
    }

    fn span(&mut self, line: usize, key: &str, value: &str) -> Option<u64> {
        let units = [("s", 1), ("m", 60), ("h", 3_600), ("d", 86_400)];
        let seconds = units.into_iter().find_map(|(unit, seconds)| {
            let number = value.strip_suffix(unit)?;
            let plain = !number.is_empty() && number.len() <= 9 && number.bytes().all(|byte| byte.is_ascii_digit());
            number.parse::<u64>().ok().filter(|_| plain)?.checked_mul(seconds)
        });
        let seconds = seconds.filter(|seconds| (1..=LONGEST).contains(seconds));
        if seconds.is_none() {
            let wanted = "digits and one unit: `90s`, `30m`, `4h`, `2d`; a number alone could be seconds or minutes";
            self.fault(line, format!("`{key}` is {wanted}; not `{}`", shown(value)));
        }
        seconds
    }

    fn flag(&mut self, line: usize, key: &str, value: &str) -> Option<bool> {
        match value {
            "true" => Some(true),
            "false" => Some(false),
            _ => {
                self.fault(line, format!("`{key}` is `true` or `false`, not `{}`", shown(value)));
                None
            }
        }
    }

    fn list(&mut self, line: usize, key: &str, value: &str, items: &[(usize, &str)]) -> Option<BTreeSet<String>> {
        let inline = value.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let entries: Vec<(usize, &str)> = match (inline, items) {
            (Some(inner), []) if inner.trim().is_empty() => Vec::new(),
            (Some(inner), []) => inner.split(',').map(|entry| (line, entry.trim())).collect(),
            (None, items) if value.is_empty() && !items.is_empty() => items.to_vec(),
            _ => {
                self.fault(line, format!("`{key}` is a list: `[a, b]`, or `- a` on lines of their own"));
                return None;
            }
        };
        let mut found = BTreeSet::new();
        for (at, entry) in entries.iter().take(ENTRIES + 1) {
            let bare = ['"', '\'']
                .into_iter()
                .find_map(|quote| entry.strip_prefix(quote)?.strip_suffix(quote))
                .unwrap_or(entry);
            let plain = !bare.is_empty()
                && bare.len() <= 128
                && bare.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/".contains(&b));
            if !plain || !found.insert(bare.to_owned()) {
                self.fault(*at, format!("`{key}` holds plain names, each once; not `{}`", shown(entry)));
            }
        }
        if entries.len() > ENTRIES {
            self.fault(line, format!("`{key}` has more than {ENTRIES} entries"));
        }
        Some(found)
    }
}

/// The policy in `bytes`, narrowed to `envelope`. Comments of its file are not kept.
///
/// # Errors
/// The policy's own faults, and an envelope that the policy's budgets cannot hold exactly.
pub fn narrow(envelope: &Envelope, bytes: &[u8], file: &str) -> Result<Narrowed, Faults> {
    let policy = parse(bytes, file)?;
    let whole = |text: String| {
        let mut faults = Faults::default();
        faults.push(file, 0, text);
        faults
    };
    let text = text_of(bytes, file)?;
    let mut table: Table = text.parse().map_err(|error: toml::de::Error| whole(error.message().to_owned()))?;
    let mut notes = Vec::new();
    if let Some(repos) = &envelope.output_repos {
        narrow_repos(&mut table, repos, &mut notes);
    }
    let gpus = narrow_jobs(&mut table, envelope, &mut notes);
    if let Some(jobs) = envelope.max_jobs {
        budget(&mut table, "program-jobs", "jobs", jobs);
    }
    if let Some(wall) = envelope.max_walltime_s.filter(|_| policy.jobs.is_some()) {
        match (gpus, envelope.max_jobs) {
            (Some(gpus), _) => {
                budget(&mut table, "program-gpu-time", "gpu_ms", wall.saturating_mul(1_000).saturating_mul(gpus))
            }
            (None, Some(jobs)) if jobs > 0 => {
                shorten(&mut table, wall / jobs);
                notes.push(format!("max_walltime is held by {} s for each of {jobs} jobs", wall / jobs));
            }
            (None, Some(_)) => {}
            (None, None) => {
                let text = "max_walltime needs max_jobs, or machines of one number of GPUs, to be held";
                return Err(whole(text.to_owned()));
            }
        }
    }
    if envelope.allow_deletes == Some(true) {
        notes.push("allow_deletes grants nothing: the gate deletes no files of the Hub".to_owned());
    }
    let body = toml::to_string(&table).map_err(|error| whole(error.to_string()))?;
    let digest = Digest::of(bytes);
    let text = format!("# Narrowed from {digest} by the budget envelope of a program.\n\n{body}");
    parse(text.as_bytes(), file)?;
    Ok(Narrowed { text, notes })
}

fn tables<'t>(table: &'t mut Table, key: &str) -> impl Iterator<Item = &'t mut Table> {
    let rows = table.get_mut(key).and_then(Value::as_array_mut);
    rows.into_iter().flatten().filter_map(Value::as_table_mut)
}

/// Takes the repositories out of every registry that the envelope does not name.
fn narrow_repos(table: &mut Table, repos: &BTreeSet<String>, notes: &mut Vec<String>) {
    let name = |entry: &str| entry.split_once(':').map_or(entry, |(_, name)| name).to_owned();
    let mut granted = BTreeSet::new();
    for registry in tables(table, "registry") {
        if let Some(writable) = registry.get_mut("writable").and_then(Value::as_array_mut) {
            writable.retain(|entry| entry.as_str().is_some_and(|entry| repos.contains(&name(entry))));
            granted.extend(writable.iter().filter_map(Value::as_str).map(name));
        }
    }
    notes.extend(repos.difference(&granted).map(|repo| format!("the policy does not let `{repo}` be written")));
}

/// Takes machines and time out of `[jobs]`; the number of GPUs, where all that are left have the same, above zero.
fn narrow_jobs(table: &mut Table, envelope: &Envelope, notes: &mut Vec<String>) -> Option<u64> {
    if let Some(seconds) = envelope.max_timeout_s {
        shorten(table, seconds);
    }
    let jobs = table.get_mut("jobs").and_then(Value::as_table_mut)?;
    let name = |flavor: &Value| flavor.get("name").and_then(Value::as_str).map(str::to_owned);
    if let (Some(allowed), Some(flavors)) =
        (&envelope.allowed_flavors, jobs.get_mut("flavor").and_then(Value::as_array_mut))
    {
        let known: BTreeSet<String> = flavors.iter().filter_map(name).collect();
        flavors.retain(|flavor| name(flavor).is_some_and(|name| allowed.contains(&name)));
        notes.extend(allowed.difference(&known).map(|flavor| format!("the policy has no machine `{flavor}`")));
    }
    let flavors = jobs.get("flavor").and_then(Value::as_array)?;
    let gpus: BTreeSet<i64> =
        flavors.iter().map(|flavor| flavor.get("gpus").and_then(Value::as_integer).unwrap_or(0)).collect();
    let only = gpus.first().copied().filter(|gpus_of_all| gpus.len() == 1 && *gpus_of_all > 0)?;
    u64::try_from(only).ok()
}

/// Lowers `[jobs] max_timeout`, and the time of a job that states none with it.
fn shorten(table: &mut Table, seconds: u64) {
    let Some(jobs) = table.get_mut("jobs").and_then(Value::as_table_mut) else { return };
    for key in ["max_timeout", "default_timeout"] {
        let now = jobs.get(key).and_then(Value::as_str).and_then(read_span);
        if now.is_some_and(|now| now > seconds) {
            jobs.insert(key.to_owned(), Value::String(format!("{}s", seconds.max(1))));
        }
    }
}

fn read_span(text: &str) -> Option<u64> {
    let units = [("s", 1), ("m", 60), ("h", 3_600), ("d", 86_400)];
    units.into_iter().find_map(|(unit, seconds)| text.strip_suffix(unit)?.parse::<u64>().ok()?.checked_mul(seconds))
}

/// A budget of the agent, for good; one that is there already is lowered.
fn budget(table: &mut Table, id: &str, kind: &str, limit: u64) {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let is = |row: &Table, key: &str, value: &str| row.get(key).and_then(Value::as_str) == Some(value);
    let total = |row: &Table| row.get("window").is_none_or(|window| window.as_str() == Some("total"));
    if let Some(row) =
        tables(table, "budget").find(|row| is(row, "scope", "agent") && is(row, "kind", kind) && total(row))
    {
        let known = row.get("limit").and_then(Value::as_integer).unwrap_or(limit);
        row.insert("limit".to_owned(), Value::Integer(known.min(limit)));
        row.insert("at_cap".to_owned(), Value::String("deny".to_owned()));
        return;
    }
    let mut row = Table::new();
    for (key, value) in [("id", id), ("scope", "agent"), ("kind", kind)] {
        row.insert(key.to_owned(), Value::String(value.to_owned()));
    }
    row.insert("limit".to_owned(), Value::Integer(limit));
    let budgets = table.entry("budget").or_insert_with(|| Value::Array(Vec::new()));
    if let Some(budgets) = budgets.as_array_mut() {
        budgets.push(Value::Table(row));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROGRAM: &str = "# Program\n\nFind a better optimiser.\n\n## Budget envelope\n\n```yaml\n# ours\nmax_jobs: 10\n\
        max_walltime: 24h   # all together\nallowed_flavors: [t4-small, \"a100x8\"]\nmax_timeout: 90m\nallow_deletes: false\n\
        output_repos:\n  - team/out\n  - team/else\n```\n\n## Notes\nmax_jobs: 99\n";

    const POLICY: &str = "[policy]\nid = \"p\"\n\n[[registry]]\nname = \"hub\"\nwritable = [\"model:team/out\", \"dataset:team/raw\"]\n\n\
        [jobs]\nnamespaces = [\"team\"]\nimages = [\"python:3.12\"]\nmax_timeout = \"4h\"\ndefault_timeout = \"2h\"\n\n\
        [[jobs.flavor]]\nname = \"t4-small\"\nmicro_usd_per_hour = 400000\ngpus = 1\nsource = \"list\"\nas_of = \"2026-11-01\"\n\n\
        [[jobs.flavor]]\nname = \"cpu-basic\"\nmicro_usd_per_hour = 10000\ngpus = 0\nsource = \"list\"\nas_of = \"2026-11-01\"\n\n\
        [[budget]]\nid = \"jobs\"\nscope = \"agent\"\nkind = \"jobs\"\nlimit = 5\nat_cap = \"ask\"\n";

    fn faults(block: &str) -> String {
        envelope(format!("## Budget envelope\n{block}\n").as_bytes(), "program.md").unwrap_err().to_string()
    }

    #[test]
    fn an_envelope_is_read_strictly() {
        let read = envelope(PROGRAM.as_bytes(), "program.md").unwrap();
        assert_eq!((read.max_jobs, read.max_walltime_s, read.max_timeout_s), (Some(10), Some(86_400), Some(5_400)));
        assert_eq!(read.allowed_flavors.unwrap().into_iter().collect::<Vec<_>>(), ["a100x8", "t4-small"]);
        assert_eq!(read.output_repos.unwrap().len(), 2);
        assert_eq!(read.allow_deletes, Some(false));
        for (block, says) in [
            ("max_timeout: 90000.0s", "one unit"),
            ("max_timeout: 1e6s", "one unit"),
            ("max_timeout: +99999", "one unit"),
            ("max_timeout: 9_9999s", "one unit"),
            ("max_timeout: 3600", "could be seconds or minutes"),
            ("max_timeout: 0s", "one unit"),
            ("max_timeout: 1d12h", "one unit"),
            ("max_jobs: -1", "whole number"),
            ("max_jobs: 1\nmax_jobs: 2", "program.md:3: `max_jobs` stands twice"),
            ("max_job: 1", "did you mean `max_jobs`?"),
            ("max_jobs:\n  - 1", "no list"),
            ("allowed_flavors: any", "is a list"),
            ("allowed_flavors: [a, a]", "each once"),
            ("allowed_flavors: [a b]", "plain names"),
            ("allow_deletes: yes", "`true` or `false`"),
            ("just text", "no `key: value`"),
            ("max_jobs: 1\n## Budget envelope\n", "there are 2"),
        ] {
            assert!(faults(block).contains(says), "{block}: {}", faults(block));
        }
        assert!(envelope(b"# nothing", "program.md").unwrap_err().to_string().contains("there are 0"));
    }

    #[test]
    fn a_policy_only_ever_gets_narrower() {
        let read = envelope(PROGRAM.as_bytes(), "program.md").unwrap();
        let narrowed = narrow(&read, POLICY.as_bytes(), "p.toml").unwrap();
        let policy = parse(narrowed.text.as_bytes(), "p.toml").unwrap();
        let jobs = policy.jobs.unwrap();
        assert_eq!(
            jobs.flavors.keys().collect::<Vec<_>>(),
            ["t4-small"],
            "a machine that the policy lacks is not added"
        );
        assert_eq!((jobs.max_timeout_s, jobs.default_timeout_s), (5_400, 5_400));
        let writable = &policy.registries["hub"].writable;
        assert_eq!(writable.iter().collect::<Vec<_>>(), ["model:team/out"]);
        let limit =
            |kind: &str| policy.budgets.iter().find(|budget| budget.kind.row().name == kind).map(|budget| budget.limit);
        assert_eq!(limit("jobs"), Some(5), "the policy's own bound is the lower one");
        assert_eq!(limit("gpu_ms"), Some(86_400_000), "one GPU for a day");
        assert_eq!(narrowed.notes.len(), 2, "{:?}", narrowed.notes);
        assert!(policy.budgets.iter().all(|budget| budget.at_cap == crate::model::Effect::Deny));
    }

    #[test]
    fn time_of_all_jobs_is_held_or_refused() {
        let of = |block: &str| {
            let read = envelope(format!("## Budget envelope\n{block}").as_bytes(), "p.md").unwrap();
            narrow(&read, POLICY.as_bytes(), "p.toml")
        };
        assert!(of("max_walltime: 2h").unwrap_err().to_string().contains("needs max_jobs"));
        let shared = of("max_walltime: 2h\nmax_jobs: 4").unwrap();
        assert_eq!(parse(shared.text.as_bytes(), "p").unwrap().jobs.unwrap().max_timeout_s, 1_800);
        assert!(of("max_timeout: 7d").unwrap().text.contains("max_timeout = \"4h\""), "wider changes nothing");
        assert!(of("allow_deletes: true").unwrap().notes[0].contains("grants nothing"));
    }
}
