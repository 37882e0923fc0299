//! `[exec]` and `[exec.limits]`: programs of this machine that `weir exec` may run, and with what.

use std::collections::BTreeSet;

use super::super::Exec;
use super::super::reader::{Fields, shown};
use super::Unique;
use crate::model::{ExecLimits, Limits, Millis, Network};

/// Most folders of one sort.
const FOLDERS: usize = 64;
/// Most GPUs of one program.
const GPUS: u64 = 64;
/// The longest program: thirty days.
const LONGEST_MS: u64 = 30 * 86_400_000;

pub(super) fn read(fields: &Fields<'_, '_>) -> Option<Exec> {
    let programs: BTreeSet<String> = fields.names("programs").into_iter().map(|name| name.value).collect();
    if programs.is_empty() {
        fields.fault(fields.line, "`programs` of [exec] names no program, such as `python3`");
    }
    if let Some(path) = programs.iter().find(|program| program.contains('/')) {
        fields.fault(fields.line, format!("`programs` of [exec] are base names; `{}` is a path", shown(path)));
    }
    let (read, write) = (folders(fields, "read"), folders(fields, "write"));
    let env = variables(fields);
    let network = fields.word("network", &[("none", Network::None), ("gate", Network::Gate)]).unwrap_or(Network::None);
    let gpus = fields.whole("gpus", 0..=GPUS).unwrap_or(0);
    let limits = fields.table("limits", "[exec.limits]").and_then(|limits| read_limits(&limits));
    if !fields.has("limits") {
        fields.missing("[exec.limits]");
    }
    let answers = fields.threats("answers");
    fields.end();
    let gpus = u32::try_from(gpus).unwrap_or(0);
    Some(Exec { programs, read, write, env, network, gpus, limits: limits?, answers })
}

fn folders(fields: &Fields<'_, '_>, key: &str) -> Vec<String> {
    let mut unique = Unique::new("the folder");
    let mut folders = Vec::new();
    let named = fields.texts(key);
    if named.len() > FOLDERS {
        fields.fault(fields.line, format!("{} folders in `{key}` are over the limit of {FOLDERS}", named.len()));
    }
    for folder in named {
        unique.check(fields, &folder.value, folder.line);
        if is_folder(&folder.value) {
            folders.push(folder.value);
        } else {
            let wanted = "paths without `..`, `//` and a final `/`, such as `data` or `/srv/data`";
            let text = format!("`{key}` in [exec] holds {wanted}, not `{}`", shown(&folder.value));
            fields.fault(folder.line, text);
        }
    }
    folders
}

/// True for `.`, `data`, `data/train` and `/srv/data`; the whole file system is not a folder to grant.
fn is_folder(path: &str) -> bool {
    let parts = path.strip_prefix('/').unwrap_or(path);
    let sound = |part: &str| !part.is_empty() && part != "." && part != "..";
    path == "." || (path.len() <= 4_096 && !path.chars().any(char::is_control) && parts.split('/').all(sound))
}

fn variables(fields: &Fields<'_, '_>) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for name in fields.texts("env") {
        let plain = name.value.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if name.value.is_empty() || name.value.len() > Limits::NAME_BYTES || !plain {
            let text = format!("`env` in [exec] holds names of variables, not `{}`", shown(&name.value));
            fields.fault(name.line, text);
        } else if !names.insert(name.value.clone()) {
            fields.fault(name.line, format!("`{}` stands twice in `env` of [exec]", name.value));
        }
    }
    names
}

fn read_limits(fields: &Fields<'_, '_>) -> Option<ExecLimits> {
    let need = |key: &str, range| {
        if !fields.has(key) {
            fields.missing(key);
        }
        fields.whole(key, range)
    };
    let wall = need("wall_ms", 1_000..=LONGEST_MS);
    let cpu = need("cpu_ms", 1_000..=LONGEST_MS * 1_024);
    let memory_bytes = need("memory_bytes", 16 << 20..=1 << 50);
    let processes = need("processes", 1..=1_000_000);
    let disk_bytes = need("disk_bytes", 0..=1 << 50);
    let grace = fields.whole("grace_ms", 0..=3_600_000).unwrap_or(10_000);
    fields.end();
    Some(ExecLimits {
        wall_ms: Millis(wall?),
        cpu_ms: Millis(cpu?),
        memory_bytes: memory_bytes?,
        processes: processes?,
        disk_bytes: disk_bytes?,
        grace_ms: Millis(grace),
    })
}
